"""Levels 1 and 2: a file's structure and meaning, by a few random reads and without a device."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache, partial

import msgspec

from mlsync.formats.containers import METADATA, NOT_UNDERSTOOD, read_content, read_layout
from mlsync.formats.dcp.metadata import read_dcp_metadata
from mlsync.formats.dcp.shard import read_dcp_shard
from mlsync.formats.faults import MeaningBroken, NotChecked, RecordDamaged
from mlsync.formats.layout import ByteSource, ContainerBroken, Content, Layout
from mlsync.formats.libraries.tensorflow_bundle import parse_index, read_shard, shard_of
from mlsync.formats.sniff import identify, is_checkpoint_name
from mlsync.values import Finding, Level, Severity

# Numbers compress to two thirds, zeros to a thousandth: a file that claims more than this is not unpacked
PLAIN_FACTOR_MAX = 20
PLAIN_BYTES_MIN = 4 << 30  # some seconds' work, whatever the file's size


@dataclass(frozen=True, slots=True)
class Inspection:
    """What could be read of a file; *finding* is what ended the inspection early, if anything."""

    container: str | None
    layout: Layout | None = None
    content: Content | None = None
    finding: Finding | None = None


def inspect(source: ByteSource, path: bytes, level: int, metadata: bytes | None = None) -> Inspection:
    """Inspect a file up to *level*, or as far as its kind is understood.

    *metadata* is the ``.metadata`` beside a shard of a distributed checkpoint, without which it cannot be checked.
    """
    try:
        return _inspect(source, path, level, metadata)
    except (MemoryError, RecursionError):
        return Inspection(None, finding=_note("memory ran out while it was looked into"))


def _inspect(source: ByteSource, path: bytes, level: int, metadata: bytes | None) -> Inspection:
    container = identify(source, path)
    if container is None or level < Level.CONTAINER:
        return Inspection(container)
    if container in _SHARDS and metadata is not None:
        return _SHARDS[container](source, path, level, metadata)
    if container in NOT_UNDERSTOOD:
        return Inspection(container, finding=_note(f"{container} is not looked into yet"))
    layout = None
    reached = Level.CONTAINER
    try:
        layout = _bounded(read_layout(source, container))
        if level < Level.MEANING:
            return Inspection(container, layout)
        reached = Level.MEANING
        if container == "pickle" and is_checkpoint_name(path):
            # It may be the rest of a torch file, whose first pickle was another one
            raise NotChecked("a bare pickle, which torch.load does not take, under a name that promises more")
        return Inspection(container, layout, read_content(source, layout))
    except ContainerBroken as fault:
        finding = _finding(fault, reached)
        if container in METADATA and layout is not None and finding.severity is Severity.REFUSE:
            # Shards load only with their metadata; whether the checkpoint is complete is checked for all its files.
            finding = msgspec.structs.replace(finding, severity=Severity.WARN)
        return Inspection(container, layout, finding=finding)


# The shards of a checkpoint are proved one after the other, and share metadata of up to tens of MiB. Errors in parts of
# other ranks do not concern a shard.
_parsed = lru_cache(maxsize=1)(partial(read_dcp_metadata, is_part=True))


def _inspect_shard(source: ByteSource, path: bytes, level: int, metadata: bytes) -> Inspection:
    """Inspect a shard; if it and the metadata disagree, either may be of another save."""
    name = os.fsdecode(path.rpartition(b"/")[2])
    try:
        layout, content = read_dcp_shard(source, _parsed(metadata), name)
    except ContainerBroken as fault:
        return Inspection("dcp", finding=_finding(fault, Level.CONTAINER))
    return Inspection("dcp", layout, content if level >= Level.MEANING else None)


_parsed_index = lru_cache(maxsize=1)(parse_index)


def _inspect_tensorflow(source: ByteSource, path: bytes, level: int, index: bytes) -> Inspection:
    """Inspect a shard of TensorFlow's by its index."""
    place = shard_of(path)
    assert place is not None
    try:
        layout, content = read_shard(source, _parsed_index(index), place[0])
    except ContainerBroken as fault:
        return Inspection("tensorflow-shard", finding=_finding(fault, Level.CONTAINER))
    return Inspection("tensorflow-shard", layout, content if level >= Level.MEANING else None)


_SHARDS = {"dcp": _inspect_shard, "tensorflow-shard": _inspect_tensorflow}


def _bounded(layout: Layout) -> Layout:
    """Return the layout; raises ``NotChecked`` if its checksums would need too much unpacking."""
    plain_bytes = sum(record.plain_bytes for record in layout.packed.values())
    if plain_bytes > max(PLAIN_BYTES_MIN, PLAIN_FACTOR_MAX * layout.size_bytes):
        raise NotChecked(f"compressed records of {plain_bytes} bytes are more than is unpacked")
    return layout


def _note(what: str) -> Finding:
    return Finding(Level.CONTAINER, Severity.NOTE, what)


def _finding(fault: ContainerBroken, level: int) -> Finding:
    if isinstance(fault, RecordDamaged):
        level = Level.CONTAINER
    elif isinstance(fault, MeaningBroken):
        level = Level.MEANING
    severity = Severity.NOTE if isinstance(fault, NotChecked) else Severity.REFUSE
    return Finding(level, severity, fault.reason, fault.record, fault.offset)
