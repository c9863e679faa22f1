"""Whether the headers of a checkpoint's shards agree: on tensors of the index, parts of tensors, steps."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from math import prod
from typing import Final, NamedTuple

from mlsync.formats.groups.tree import SMALL_BYTES_MAX, Unit, join, parsed_object
from mlsync.formats.layout import ContainerBroken
from mlsync.formats.libraries.safetensors_header import SafetensorsHeader, read_safetensors_header
from mlsync.repository.manifest import Entry
from mlsync.repository.reader import ChunkReader
from mlsync.source.paths import display
from mlsync.versions.stored_file import RestoredFile

_INDEX: Final = b".safetensors.index.json"
_ADAPTER: Final = b"adapter_config.json"
_LORA_A: Final = re.compile(r"\.lora_(embedding_)?A(\.|$)")
_SHARDS_MAX: Final = 4096
_TENSORS_MAX: Final = 400_000
# As trainers name them in a file's metadata
_STEPS: Final = ("step", "global_step", "iteration", "epoch")
# Where torch's writer for Hugging Face says where each part of a tensor begins
_OFFSETS: Final = "DCP_SHARDING_INFO"


class Disagreement(NamedTuple):
    """What does not fit together; if files are *of_two_saves*, the rest may still come."""

    what: str
    of_two_saves: bool = False


def disagreement(unit: Unit, entries: Mapping[bytes, Entry], reader: ChunkReader) -> Disagreement | None:
    """Return what contradicts in shards of safetensors that are all there; what cannot be read is skipped."""
    if unit.kind not in ("huggingface-weights", "huggingface-shards", "peft"):
        return None
    headers = _headers(unit, entries, reader)
    if headers is None:
        return None
    if unit.kind == "peft":
        return _of_another_rank(headers, _object(entries.get(join(unit.directory, _ADAPTER)), reader))
    if unit.kind == "huggingface-shards":
        return _of_two_steps(headers) or _not_covered(headers)
    index = next((path for path in unit.members if path.endswith(_INDEX)), None)
    return _of_two_steps(headers) or (None if index is None else _not_held(headers, entries[index], reader))


def _headers(unit: Unit, entries: Mapping[bytes, Entry], reader: ChunkReader) -> dict[bytes, SafetensorsHeader] | None:
    """Return the headers by path, or ``None`` if there are too many to compare."""
    paths = [path for path in unit.members if path.endswith(b".safetensors")]
    headers: dict[bytes, SafetensorsHeader] = {}
    left = _TENSORS_MAX
    for path in paths[: _SHARDS_MAX + 1]:
        try:
            headers[path] = read_safetensors_header(RestoredFile(reader, entries[path], lambda _: None))
        except ContainerBroken:
            return None
        left -= len(headers[path].shapes)
        if left < 0:
            return None
    return headers if len(headers) == len(paths) else None


def _of_two_steps(headers: Mapping[bytes, SafetensorsHeader]) -> Disagreement | None:
    for key in _STEPS:
        named = {header.about[key]: path for path, header in headers.items() if key in header.about}
        if len(named) > 1:
            (one, one_path), (other, other_path) = sorted(named.items())[:2]
            what = f"{display(one_path)} is of {key} {one[:40]}, {display(other_path)} of {key} {other[:40]}"
            return Disagreement(what, of_two_saves=True)
    return None


def _not_held(headers: Mapping[bytes, SafetensorsHeader], index: Entry, reader: ChunkReader) -> Disagreement | None:
    """Return a tensor that the index names and that is not in the file where it should be."""
    weights = _object(index, reader).get("weight_map")
    shapes = {os.fsdecode(path.rpartition(b"/")[2]): header.shapes for path, header in headers.items()}
    for tensor, file in weights.items() if isinstance(weights, dict) else ():
        if file in shapes and tensor not in shapes[file]:
            return Disagreement(f"the index names tensor {tensor[:200]!r} in {file!r}, which does not hold it")
    return None


def _object(entry: Entry | None, reader: ChunkReader) -> dict[str, object]:
    """Return the object that a small JSON file holds, or an empty one."""
    if entry is None or entry.size_bytes > SMALL_BYTES_MAX:
        return {}
    return parsed_object(RestoredFile(reader, entry, lambda _: None).read_at(0, entry.size_bytes)) or {}


def _of_another_rank(headers: Mapping[bytes, SafetensorsHeader], settings: Mapping[str, object]) -> Disagreement | None:
    """Return a tensor of a LoRA adapter that does not have the rank in the adapter's settings."""
    rank = settings.get("r")
    if settings.get("peft_type") != "LORA" or settings.get("rank_pattern") or type(rank) is not int or rank < 1:
        return None
    for path, header in headers.items():
        for tensor, shape in header.shapes.items():
            # A tensor of several experts holds several ranks one after the other.
            if _LORA_A.search(tensor) and shape and shape[0] % rank:
                what = f"{display(path)} holds {tensor[:200]!r} of {shape[0]} rows, its settings say rank {rank}"
                return Disagreement(what, of_two_saves=True)
    return None


def _not_covered(headers: Mapping[bytes, SafetensorsHeader]) -> Disagreement | None:
    """Return a tensor with a gap between its parts, which is in none of the files.

    Only the version before can show that the file of the last part is gone.
    """
    parts: dict[str, dict[tuple[int, ...], tuple[int, ...]]] = {}
    for header in headers.values():
        offsets = _offsets(header)
        for tensor, shape in header.shapes.items():
            at = offsets.get(tensor, (0,) * len(shape))
            if len(at) == len(shape):
                parts.setdefault(tensor, {})[at] = shape
    for tensor, found in parts.items():
        ends = [max(at[axis] + shape[axis] for at, shape in found.items()) for axis in range(len(next(iter(found))))]
        if sum(map(prod, found.values())) < prod(ends):
            return Disagreement(f"a part of tensor {tensor[:200]!r} is in none of the files")
    return None


def _offsets(header: SafetensorsHeader) -> dict[str, tuple[int, ...]]:
    try:
        named = json.loads(header.about.get(_OFFSETS, "{}"))
    except (ValueError, RecursionError):
        return {}
    offsets: dict[str, tuple[int, ...]] = {}
    for tensor, info in named.items() if isinstance(named, dict) else ():
        at = info.get("saved_offsets") if isinstance(info, dict) else None
        if isinstance(at, list) and all(type(number) is int and number >= 0 for number in at):
            offsets[tensor] = tuple(at)
    return offsets
