"""Checkpoints of many files as one thing each: which files belong together, and whether the whole of it is there.

A directory may hold every file whole and still be no checkpoint: a shard is not there yet, the marker that comes last
is missing, a file was cut. What is looked at here is the listing and the small files that tell of the others; the files
themselves are for the other parsers. None of this is a file's fault, so nothing is raised: a unit says what it lacks.
"""

from __future__ import annotations

import json
import os
import re
from bisect import bisect_left
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from mlsync.formats.dcp_metadata import (
    DcpMetadata,
    check_against_files,
    check_union,
    rank_metadata_of,
    rank_of_metadata,
    read_dcp_metadata,
)
from mlsync.formats.faults import NotChecked
from mlsync.formats.layout import ContainerBroken
from mlsync.formats.ocdbt import NODE_BYTES_MAX, files_told_of, is_ocdbt
from mlsync.formats.onnx import read_external
from mlsync.formats.tensorflow_bundle import check_against_shards, index_of, parse_index

#: Reads a file of the listing whole if it has at most so many bytes; ``None`` if it cannot be read, or has more.
ReadSmall = Callable[[bytes, int], bytes | None]

SMALL_BYTES_MAX = 32 << 20
# What a JSON file may take when it is parsed: an index of 600,000 tensors, a trainer's log of 170,000 entries
PARSED_BYTES_MAX = 192 << 20
# What CPython makes of each of these at most: an object, a list, a place in one of them, a text
_PARSED_BYTES = {b"{": 240, b"[": 90, b",": 32, b":": 32, b'"': 20}
# Of all files together; what lies behind it was not looked at, and says so
READ_BYTES_MAX = 512 << 20
_TRACKER_BYTES_MAX = 1024
# A graph whose tensors lie elsewhere has some MiB at most; one that holds them is of no interest here
_ONNX_BYTES_MAX = 8 << 20
_COUNT_MAX = 1 << 63

_INDEX = re.compile(rb".*\.(safetensors|bin)\.index\.json", re.DOTALL)
_NUMBERED = re.compile(rb"(?P<stem>.+)-(\d{5})-of-(\d{5})\.(?P<suffix>safetensors|bin)", re.DOTALL)
_SPLIT = re.compile(rb"shard-\d{5}-(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.safetensors", re.DOTALL)
_TRAINER = re.compile(rb"checkpoint-(\d{1,18})")
_TRAINER_WEIGHTS = re.compile(
    rb"(model|adapter_model)\.safetensors|(pytorch_model|adapter_model|pytorch_model_fsdp)\.bin"
    rb"|(model.*\.safetensors|pytorch_model.*\.bin)\.index\.json",
    re.DOTALL,
)
_TRAINER_FILES = frozenset({b"trainer_state.json", b"training_args.bin", b"optimizer.pt", b"scheduler.pt"})
_PART = re.compile(rb".*\.(safetensors|bin|pt|pth|ckpt|distcp|data-\d{5}-of-\d{5})", re.DOTALL)
_WRITTEN_LAST = re.compile(rb".*\.index(\.json)?|trainer_state\.json|\.metadata|metadata\.json", re.DOTALL)
_ORBAX = b"_CHECKPOINT_METADATA"
_SENTINEL = b"checkpoint-is-incomplete.txt"
_RANDOM_STATE = re.compile(rb"rng_state_(\d{1,9})\.pth")
_DEEPSPEED = re.compile(
    rb"(?P<kind>(?:bf16_|fp16_)?(?:zero_pp_rank_(?P<data>\d{1,9})_)?)mp_rank_(?P<model>\d{1,9})_(?P<what>model|optim)_states\.pt"
)
_DEEPSPEED_TAG = re.compile(rb"global_step(\d{1,18})")
_MEGATRON = re.compile(rb"iter_(\d{7,18})")
_MEGATRON_RANK = re.compile(rb"mp_rank_(\d{2,9})(?:_(\d{3,9}))?(?:_(\d{3,9}))?")
_MEGATRON_TRACKER = b"latest_checkpointed_iteration.txt"


class Unit(NamedTuple):
    """The files of one checkpoint; *lacking* says what is missing or too short, ``None`` where all is there.

    *kind* is "dcp", "huggingface-weights", "huggingface-shards", "huggingface-trainer", "deepspeed", "tensorflow",
    "megatron", "orbax" or "onnx". Paths are those of the listing; *members* are the files that are there, in order.
    """

    kind: str
    directory: bytes
    members: tuple[bytes, ...]
    lacking: str | None


def find_units(files: Mapping[bytes, int], read_small: ReadSmall) -> list[Unit]:
    """All checkpoints of several files in a listing of relative paths and sizes, by directory.

    A checkpoint that lies inside of another is a part of it, and lacks for it.
    """
    tree = _Tree(files, read_small)
    inner: list[Unit] = []
    outer: list[Unit] = []
    for directory in tree.directories:
        inner += _distributed(tree, directory)
        inner += _indexed(tree, directory)
        inner += _split(tree, directory)
        inner += _deepspeed(tree, directory)
        inner += _onnx(tree, directory)
        inner += _tensorflow(tree, directory)
        outer += _megatron(tree, directory)
        outer += _trainer(tree, directory)
        outer += _orbax(tree, directory)
    return sorted(_absorbed(inner, outer))


def enclosing(directory: bytes) -> bytes:
    """The outermost directory whose files may be of one checkpoint with those in *directory*: it, or one above it."""
    above = [place for place in _upwards(directory) if is_named_for_all(place)]
    return above[-1] if above else directory


def orbax_around(directory: bytes, files: Container[bytes]) -> bytes | None:
    """The outermost directory with the mark of Orbax that a directory is or lies in."""
    marked = [place for place in _upwards(directory) if _join(place, _ORBAX) in files]
    return marked[-1] if marked else None


def is_named_for_all(directory: bytes) -> bool:
    """Whether all that lies below the directory is of one checkpoint, by the directory's name."""
    name = directory.rpartition(b"/")[2]
    return any(pattern.fullmatch(name) for pattern in (_TRAINER, _DEEPSPEED_TAG, _MEGATRON))


def is_tracker(path: bytes) -> bool:
    """Whether a file says of directories beside it which of them are whole."""
    return path.rpartition(b"/")[2] in (b"latest", _MEGATRON_TRACKER)


def is_part(path: bytes) -> bool:
    """Whether a file of a unit holds what was trained, so that each save writes it anew."""
    return _PART.fullmatch(path.rpartition(b"/")[2]) is not None


def is_written_last(path: bytes) -> bool:
    """Whether a file of a unit is one that writers write when all its parts are there."""
    return _WRITTEN_LAST.fullmatch(path.rpartition(b"/")[2]) is not None


class _Tree:
    """The listing by directory, and the small files in it, read within the bounds."""

    def __init__(self, files: Mapping[bytes, int], read_small: ReadSmall) -> None:
        self.files = files
        self._read_small = read_small
        self._left_bytes = READ_BYTES_MAX
        self._paths = sorted(files)
        self.directories: dict[bytes, dict[bytes, int]] = {}
        for path in self._paths:
            directory, _, name = path.rpartition(b"/")
            self.directories.setdefault(directory, {})[name] = files[path]
        # Those that hold only directories have something to say as well
        for directory in list(self.directories):
            parent = directory.rpartition(b"/")[0]
            while parent not in self.directories:
                self.directories[parent] = {}
                parent = parent.rpartition(b"/")[0]

    def below(self, directory: bytes) -> list[bytes]:
        """All files in a directory and in those below it."""
        prefix = _join(directory, b"")
        if not prefix:
            return self._paths
        return self._paths[bisect_left(self._paths, prefix) : bisect_left(self._paths, prefix[:-1] + b"0")]

    def folders(self, directory: bytes) -> set[bytes]:
        """The names of the directories in a directory."""
        skip = len(_join(directory, b""))
        return {path[skip:].partition(b"/")[0] for path in self.below(directory) if b"/" in path[skip:]}

    def read(self, path: bytes, limit_bytes: int = SMALL_BYTES_MAX) -> bytes | None:
        """A file of the listing, or ``None`` if it is too large, or beyond what is read in all."""
        size_bytes = self.files[path]
        if size_bytes > min(limit_bytes, self._left_bytes):
            return None
        self._left_bytes -= size_bytes
        return self._read_small(path, limit_bytes)

    def read_json(self, path: bytes) -> dict[str, object] | None:
        """A small file's JSON object."""
        return parsed_object(self.read(path) or b"")

    def read_number(self, path: bytes, pattern: re.Pattern[bytes]) -> int | None:
        """The number in a tracker file of one word."""
        match = pattern.fullmatch((self.read(path, _TRACKER_BYTES_MAX) or b"").strip())
        return int(match[1]) if match else None


def parsed_object(content: bytes) -> dict[str, object] | None:
    """What a JSON text holds, if that is an object and not too large when it is parsed."""
    # Before it is parsed: an empty list takes fifty times its bytes.
    text_bytes = len(content) * (1 if content.isascii() else 4)
    if text_bytes + sum(content.count(sign) * cost for sign, cost in _PARSED_BYTES.items()) > PARSED_BYTES_MAX:
        return None
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _join(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name


def _shown(name: bytes) -> str:
    return repr(os.fsdecode(name[:200]))


def _absorbed(inner: Iterable[Unit], outer: Iterable[Unit]) -> Iterator[Unit]:
    """The units that no other one holds; a whole lacks what its parts lack."""
    by_directory: dict[bytes, Unit] = {unit.directory: unit for unit in outer}
    for unit in inner:
        holder = next((place for place in _upwards(unit.directory) if place in by_directory), None)
        if holder is None:
            yield unit
        elif by_directory[holder].lacking is None:
            by_directory[holder] = by_directory[holder]._replace(lacking=unit.lacking)
    for directory, unit in by_directory.items():
        if not any(place in by_directory for place in _upwards(directory) if place != directory):
            yield unit


def _upwards(directory: bytes) -> Iterator[bytes]:
    """A directory and those above it."""
    yield directory
    while directory:
        directory = directory.rpartition(b"/")[0]
        yield directory


# ---------------------------------------------------------------- torch.distributed.checkpoint


def _distributed(tree: _Tree, directory: bytes) -> Iterator[Unit]:
    """A directory of ``.distcp`` files, with the metadata that are written last."""
    names = tree.directories[directory]
    shards = {name for name in names if name.endswith(b".distcp")}
    if not shards:
        return
    about = [b".metadata"] if b".metadata" in names else [name for name in names if rank_of_metadata(name) is not None]
    lacking = None if about else "'.metadata' is missing"
    sizes = {os.fsdecode(name): size for name, size in names.items()}
    members = shards | set(about)
    parts: list[DcpMetadata] = []
    for name in about:
        content = tree.read(_join(directory, name))
        if content is None:
            lacking = lacking or f"{_shown(name)} could not be read"
            continue
        try:
            metadata = read_dcp_metadata(content, is_part=name != b".metadata")
            members |= {os.fsencode(entry.item.relative_path) for entry in metadata.entries}
            check_against_files(metadata, sizes)
            parts.append(metadata)
        except ContainerBroken as fault:
            lacking = lacking or f"{_shown(name)}: {fault}"
    if lacking is None and about != [b".metadata"]:
        lacking = _check_ranks_metadata(parts, shards, about)
    yield _unit("dcp", directory, (_join(directory, name) for name in members & names.keys()), lacking)


def _check_ranks_metadata(parts: Sequence[DcpMetadata], shards: Iterable[bytes], about: Iterable[bytes]) -> str | None:
    """Every rank that wrote has its metadata, ranks are counted from zero, and together they cover all tensors."""
    told = {os.fsencode(entry.item.relative_path) for part in parts for entry in part.entries}
    untold = {name for name in map(rank_metadata_of, set(shards) - told) if name is not None}
    missing = min(untold - set(about), default=None)
    if missing is not None:
        return f"{_shown(missing)} is missing"
    try:
        check_union(parts)
    except ContainerBroken as fault:
        return f"metadata of {len(parts)} ranks: {fault}"
    ranks = {rank for name in about if (rank := rank_of_metadata(name)) is not None}
    return _missing_rank(ranks, "__{}.metadata")


# ---------------------------------------------------------------- ONNX


def _onnx(tree: _Tree, directory: bytes) -> Iterator[Unit]:
    """A graph whose tensors lie in files beside it, in its directory or below."""
    for name in tree.directories[directory]:
        path = _join(directory, name)
        if not name.lower().endswith(b".onnx") or tree.files[path] > _ONNX_BYTES_MAX:
            continue
        try:
            needed = {
                os.fsencode(place.removeprefix("./")): size
                for place, size in read_external(tree.read(path) or b"").items()
            }
        except (ContainerBroken, UnicodeEncodeError):
            continue  # which is this file's own fault, and is told of it
        if needed:
            places = {_join(directory, place): size for place, size in needed.items()}
            lacking = next(
                (
                    f"{_shown(place)} is missing" if place not in tree.files else f"{_shown(place)} is too short"
                    for place, size in sorted(places.items())
                    if tree.files.get(place, -1) < size
                ),
                None,
            )
            yield _unit("onnx", directory, (place for place in (path, *places) if place in tree.files), lacking)


# ---------------------------------------------------------------- Hugging Face


def _indexed(tree: _Tree, directory: bytes) -> Iterator[Unit]:
    """Weights in numbered files, with the index that is written last."""
    names = tree.directories[directory]
    numbered: dict[tuple[bytes, bytes], set[bytes]] = {}
    for name in names:
        match = _NUMBERED.fullmatch(name)
        if match and not name.startswith(b"shard-"):  # parts of torch's writer, which have no index
            numbered.setdefault((match["stem"], match["suffix"]), set()).add(name)
    for index in [name for name in names if _INDEX.fullmatch(name)]:
        lacking, shards = _check_index(tree, directory, index)
        stem, suffix = index.removesuffix(b".index.json").rsplit(b".", 1)
        shards |= numbered.pop((stem, suffix), set()) | {index}
        members = (_join(directory, name) for name in shards & names.keys())
        yield _unit("huggingface-weights", directory, members, lacking)
    for (stem, suffix), shards in numbered.items():
        if shards != {stem + b"-00001-of-00001." + suffix}:
            lacking = f"{_shown(stem + b'.' + suffix + b'.index.json')} is missing"
            yield _unit("huggingface-weights", directory, (_join(directory, name) for name in shards), lacking)


def _split(tree: _Tree, directory: bytes) -> Iterator[Unit]:
    """What each rank wrote of weights, by torch's writer for Hugging Face; nothing beside the files tells of them."""
    found: dict[tuple[bytes, bytes], list[bytes]] = {}
    for name in tree.directories[directory]:
        match = _SPLIT.fullmatch(name)
        if match:
            found.setdefault((match["stem"], match["count"]), []).append(_join(directory, name))
    for members in found.values():
        yield _unit("huggingface-shards", directory, members, None)


def _check_index(tree: _Tree, directory: bytes, index: bytes) -> tuple[str | None, set[bytes]]:
    """What is lacking by the word of an index, and which files it names."""
    about = tree.read_json(_join(directory, index))
    weights = about.get("weight_map") if about is not None else None
    if not isinstance(weights, dict) or not weights:
        return f"{_shown(index)} does not parse", set()
    names: set[bytes] = set()
    for value in weights.values():
        name = _encoded(value)
        if name is None:
            return f"{_shown(index)} names files that are not beside it", names
        names.add(name)
    held = tree.directories[directory]
    missing = min(names - held.keys(), default=None)
    if missing is not None:
        return f"{_shown(missing)} is missing", names
    total = about.get("metadata") if about is not None else None
    total_bytes = total.get("total_size") if isinstance(total, dict) else None
    held_bytes = sum(held[name] for name in names)
    if type(total_bytes) is int and held_bytes < total_bytes < _COUNT_MAX:
        return f"files of {_shown(index)} have {held_bytes} bytes, {total_bytes} are needed", names
    return None, names


def _encoded(value: object) -> bytes | None:
    """The name of a file beside another one as the file system has it."""
    if not isinstance(value, str) or "/" in value:
        return None
    try:
        return os.fsencode(value)
    except UnicodeEncodeError:
        return None


def _trainer(tree: _Tree, directory: bytes) -> Iterator[Unit]:
    """A ``checkpoint-N`` of Hugging Face's trainer."""
    match = _TRAINER.fullmatch(directory.rpartition(b"/")[2])
    names = tree.directories[directory]
    weights = {name for name in names if _TRAINER_WEIGHTS.fullmatch(name)}
    if match and (weights or _SENTINEL in names or not _TRAINER_FILES.isdisjoint(names)):
        lacking = next(_trainer_lacks(tree, directory, int(match[1]), weights), None)
        yield _unit("huggingface-trainer", directory, tree.below(directory), lacking)


def _trainer_lacks(tree: _Tree, directory: bytes, step: int, weights: set[bytes]) -> Iterator[str]:
    names = tree.directories[directory]
    if _SENTINEL in names:
        yield f"{_shown(_SENTINEL)} says that it was not finished"
    if b"trainer_state.json" not in names:
        yield "'trainer_state.json' is missing"
    state = tree.read_json(_join(directory, b"trainer_state.json"))
    if state is None:
        yield "'trainer_state.json' does not parse"
    elif state.get("global_step") != step:
        yield f"'trainer_state.json' is of another step than {step}"
    yield from (f"{_shown(name)} is empty" for name in sorted(weights) if not names[name])
    folders = tree.folders(directory)
    if not weights and not any(name.startswith((b"global_step", b"pytorch_model_fsdp")) for name in folders):
        yield "there are no weights"
    missing = _missing_rank(
        {int(match[1]) for match in map(_RANDOM_STATE.fullmatch, names) if match}, "rng_state_{}.pth"
    )
    if missing is not None:
        yield missing


# ---------------------------------------------------------------- DeepSpeed


def _deepspeed(tree: _Tree, directory: bytes) -> Iterator[Unit]:
    """A tag of DeepSpeed: a file of each rank, and beside the directory the name of the newest."""
    found = [match for match in map(_DEEPSPEED.fullmatch, tree.directories[directory]) if match]
    if not found:
        return
    lacking = _check_ranks(found) or _check_latest(tree, directory)
    empty = min((match[0] for match in found if not tree.directories[directory][match[0]]), default=None)
    if lacking is None and empty is not None:
        lacking = f"{_shown(empty)} is empty"
    yield _unit("deepspeed", directory, tree.below(directory), lacking)


def _check_ranks(found: Iterable[re.Match[bytes]]) -> str | None:
    """Model and data ranks are counted from zero without a gap; all kinds of files are there for the same ranks."""
    groups: dict[tuple[bytes, bytes], dict[int, set[int]]] = {}
    for match in found:
        group = match["what"], re.sub(rb"\d+", b"N", match["kind"])
        groups.setdefault(group, {}).setdefault(int(match["model"]), set()).add(int(match["data"] or 0))
    if not any(what == b"model" for what, _ in groups):
        return "there are no model states"
    models = set().union(*groups.values())
    split = [data for (_, kind), by_model in groups.items() if kind for data in by_model.values()]
    datas = set().union(*split)
    for (what, kind), by_model in groups.items():
        missing = _missing_rank(models, "mp_rank_{:02}") or _missing_rank(set(by_model), "mp_rank_{:02}", models)
        for model, held in by_model.items():
            expected = datas if kind else {0}
            missing = missing or _missing_rank(held, f"zero_pp_rank_{{}} of mp_rank_{model:02}", expected)
        if missing is not None:
            return f"{what.decode()} states: {missing}"
    return _missing_rank(datas, "zero_pp_rank_{}")


def _check_latest(tree: _Tree, directory: bytes) -> str | None:
    """The file ``latest`` beside a tag is written when all ranks are done; it may name a newer one by now."""
    parent, _, tag = directory.rpartition(b"/")
    own = _DEEPSPEED_TAG.fullmatch(tag)
    path = _join(parent, b"latest")
    if path not in tree.files:
        return "'latest' is missing"
    newest = tree.read_number(path, _DEEPSPEED_TAG)
    if own is not None and newest is not None and newest < int(own[1]):
        return f"'latest' still names global_step{newest}"
    return None


def _missing_rank(held: set[int], name: str, expected: set[int] | None = None) -> str | None:
    """The first rank that is not there, of those that are expected or (else) of all up to the highest."""
    if expected is not None:
        missing = min(expected - held, default=None)
    else:
        # As many as there are and no more are looked at: the highest may be any number
        missing = next((rank for rank in range(len(held)) if rank not in held), None)
    return None if missing is None else f"'{name.format(missing)}' is missing"


# ---------------------------------------------------------------- TensorFlow


def _tensorflow(tree: _Tree, directory: bytes) -> Iterator[Unit]:
    """A checkpoint of TensorFlow: its shards, with the index that is written last; several may lie side by side."""
    shards: dict[bytes, set[bytes]] = {}
    for name in tree.directories[directory]:
        index = index_of(name)
        if index is not None:
            shards.setdefault(index, set()).add(name)
    for index, members in shards.items():
        path = _join(directory, index)
        if path not in tree.files:
            lacking: str | None = f"{_shown(index)} is missing"
        else:
            lacking = _check_shards(tree, directory, index)
            members.add(index)
        yield _unit("tensorflow", directory, (_join(directory, name) for name in members), lacking)


def _check_shards(tree: _Tree, directory: bytes, index: bytes) -> str | None:
    content = tree.read(_join(directory, index))
    if content is None:
        return f"{_shown(index)} could not be read"
    sizes = {os.fsdecode(name): size for name, size in tree.directories[directory].items()}
    try:
        check_against_shards(parse_index(content), os.fsdecode(index).removesuffix(".index"), sizes)
    except ContainerBroken as fault:
        return f"{_shown(index)}: {fault}"
    return None


# ---------------------------------------------------------------- Orbax


def _orbax(tree: _Tree, directory: bytes) -> Iterator[Unit]:
    """A checkpoint of Orbax: a directory that was renamed when it was whole, with databases or arrays of zarr in it."""
    if _ORBAX not in tree.directories[directory]:
        return
    members = tree.below(directory)
    databases = [path.rpartition(b"/")[0] for path in members if path.rpartition(b"/")[2] == b"manifest.ocdbt"]
    lacking = next(filter(None, (_check_database(tree, database) for database in databases)), None)
    if lacking is None:
        items = [path.rpartition(b"/")[0] for path in members if path.rpartition(b"/")[2] == b"_METADATA"]
        is_bare = (item for item in items if item not in databases and _uses_database(tree, item))
        lacking = next((f"{_shown(_join(item, b'manifest.ocdbt'))} is missing" for item in is_bare), None)
    yield _unit("orbax", directory, members, lacking)


def _uses_database(tree: _Tree, item: bytes) -> bool:
    about = tree.read_json(_join(item, b"_METADATA"))
    return about is not None and about.get("use_ocdbt") is True


def _check_database(tree: _Tree, database: bytes) -> str | None:
    """All data files that the manifest tells of are there, and all that the nodes in these tell of."""
    waiting, seen = [_join(database, b"manifest.ocdbt")], set[bytes]()
    while waiting:
        path = waiting.pop()
        content = tree.read(path, NODE_BYTES_MAX)
        if content is None or not is_ocdbt(content):
            continue  # values of arrays, or a large node
        try:
            named = {_join(database, os.fsencode(name)) for name in files_told_of(content)}
        except (ContainerBroken, UnicodeEncodeError) as fault:
            if isinstance(fault, NotChecked) or not path.endswith(b"/manifest.ocdbt"):
                continue  # a node with values behind it, or of another version
            return f"{_shown(path)}: {fault}"
        missing = min(named - tree.files.keys(), default=None)
        if missing is not None:
            return f"{_shown(missing)} is missing"
        waiting += named - seen
        seen |= named
    return None


# ---------------------------------------------------------------- Megatron


def _megatron(tree: _Tree, directory: bytes) -> Iterator[Unit]:
    """An ``iter_N`` of Megatron, with the tracker beside it that is written last."""
    parent, _, name = directory.rpartition(b"/")
    match = _MEGATRON.fullmatch(name)
    if match is None:
        return
    names, folders = tree.directories[directory], tree.folders(directory)
    ranks = [found for found in map(_MEGATRON_RANK.fullmatch, folders) if found]
    if not ranks and not names.keys() & {b"metadata.json", b".metadata"}:
        return
    lacking = _check_rank_folders(tree, directory, ranks) if ranks else _check_described(tree, directory)
    lacking = lacking or _check_tracker(tree, parent, int(match[1]))
    yield _unit("megatron", directory, tree.below(directory), lacking)


def _check_described(tree: _Tree, directory: bytes) -> str | None:
    names = tree.directories[directory]
    for name in (b"metadata.json", b".metadata"):
        if name not in names:
            return f"{_shown(name)} is missing"
    return None if tree.read_json(_join(directory, b"metadata.json")) is not None else "'metadata.json' does not parse"


def _check_rank_folders(tree: _Tree, directory: bytes, ranks: Iterable[re.Match[bytes]]) -> str | None:
    """Tensor, pipeline and expert ranks make a full grid, and each has the same files, none of them empty."""
    held = {tuple(int(part or 0) for part in match.groups()): match[0] for match in ranks}
    axes = [len({place[axis] for place in held}) for axis in range(3)]
    if any(place[axis] >= count for place in held for axis, count in enumerate(axes)):
        return "a rank's directory is missing"
    if len(held) != axes[0] * axes[1] * axes[2]:
        return f"{len(held)} directories of ranks are there, of {axes[0]} x {axes[1]} x {axes[2]}"
    files = {name: tree.directories[_join(directory, name)] for name in held.values()}
    wanted = set().union(*files.values())
    if b"model_optim_rng.pt" not in wanted:
        return "'model_optim_rng.pt' is missing"
    for name, sizes in sorted(files.items()):
        lost = min((file for file in wanted if not sizes.get(file)), default=None)
        if lost is not None:
            return f"{_shown(name + b'/' + lost)} is {'empty' if lost in sizes else 'missing'}"
    return None


def _check_tracker(tree: _Tree, parent: bytes, iteration: int) -> str | None:
    path = _join(parent, _MEGATRON_TRACKER)
    if path not in tree.files:
        return f"{_shown(_MEGATRON_TRACKER)} is missing"
    newest = tree.read_number(path, re.compile(rb"(\d{1,18})"))
    if newest is not None and newest < iteration:
        return f"{_shown(_MEGATRON_TRACKER)} still names {newest}"
    return None


def _unit(kind: str, directory: bytes, members: Iterable[bytes], lacking: str | None) -> Unit:
    return Unit(kind, directory, tuple(sorted(members)), lacking)
