"""Checkpoints of many files as one thing each: which files belong together, and whether the whole of it is there.

A directory may hold every file whole and still be no checkpoint: a shard is not there yet, the marker that comes last
is missing, a file was cut. What is looked at here is the listing and the small files that tell of the others; the files
themselves are for the other parsers. None of this is a file's fault, so nothing is raised: a unit says what it lacks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

from mlsync.formats.dcp.metadata import (
    DcpMetadata,
    check_against_files,
    check_union,
    is_metadata,
    rank_metadata_of,
    rank_of_metadata,
    read_dcp_metadata,
)
from mlsync.formats.faults import NotChecked
from mlsync.formats.groups.ranks import deepspeed, is_ranks_directory, megatron, pointers
from mlsync.formats.groups.trainer_saves import (
    ACCELERATE_MARK,
    NEMO_MARKS,
    TORCHTUNE_MARK,
    accelerate,
    is_accelerates,
    nemo,
    peft,
    torchtune,
)
from mlsync.formats.groups.tree import ReadSmall, Tree, Unit, join, missing_rank, shown, unit_of, upwards
from mlsync.formats.groups.zarr_arrays import torn_arrays
from mlsync.formats.layout import ContainerBroken
from mlsync.formats.libraries.ocdbt import NODE_BYTES_MAX, files_told_of, is_ocdbt
from mlsync.formats.libraries.onnx import read_external
from mlsync.formats.libraries.tensorflow_bundle import TABLE_MAGIC, check_against_shards, index_of, parse_index

# A graph whose tensors lie elsewhere has some MiB at most; one that holds them is of no interest here
_ONNX_BYTES_MAX = 8 << 20
# An index of TensorFlow's whose shards are not there: other programs have files of that ending, and large ones
_BARE_INDEX_BYTES_MAX = 8 << 20
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
_PART = re.compile(rb".*\.(safetensors|bin|pt|pth|ckpt|distcp|data-\d{5}-of-\d{5})|random_states_\d+\.pkl", re.DOTALL)
_WRITTEN_LAST = re.compile(
    rb".*\.index(\.json)?|trainer_state\.json|\.metadata|metadata\.json|adapter_config\.json|random_states_0\.pkl",
    re.DOTALL,
)
_ORBAX = b"_CHECKPOINT_METADATA"
_MARKS = (_ORBAX, ACCELERATE_MARK, *NEMO_MARKS, TORCHTUNE_MARK)
_SENTINEL = b"checkpoint-is-incomplete.txt"
_RANDOM_STATE = re.compile(rb"rng_state_(\d{1,9})\.pth")


def find_units(files: Mapping[bytes, int], read_small: ReadSmall) -> list[Unit]:
    """All checkpoints of several files in a listing of relative paths and sizes, by directory.

    A checkpoint that lies inside of another is a part of it, and lacks for it.
    """
    tree = Tree(files, read_small)
    inner: list[Unit] = []
    outer: list[Unit] = []
    for directory in tree.directories:
        inner += _distributed(tree, directory)
        inner += _indexed(tree, directory)
        inner += _split(tree, directory)
        inner += deepspeed(tree, directory)
        inner += pointers(tree, directory)
        inner += peft(tree, directory)
        inner += torn_arrays(tree, directory)
        inner += _onnx(tree, directory)
        inner += _tensorflow(tree, directory)
        outer += megatron(tree, directory)
        outer += accelerate(tree, directory)
        outer += torchtune(tree, directory)
        outer += nemo(tree, directory)
        outer += _trainer(tree, directory)
        outer += _orbax(tree, directory)
    return sorted(_absorbed(inner, outer), key=lambda unit: unit[:3])


def enclosing(directory: bytes) -> bytes:
    """The outermost directory whose files may be of one checkpoint with those in *directory*: it, or one above it."""
    above = [place for place in upwards(directory) if is_named_for_all(place)]
    return above[-1] if above else directory


def marked_around(directory: bytes, files: Container[bytes]) -> bytes | None:
    """The outermost directory that a directory is or lies in, and that a file in it tells to be one of many files."""
    marked = [place for place in upwards(directory) if any(join(place, mark) in files for mark in _MARKS)]
    return marked[-1] if marked else None


def is_named_for_all(directory: bytes) -> bool:
    """Whether all that lies below the directory is of one checkpoint, by the directory's name."""
    name = directory.rpartition(b"/")[2]
    return _TRAINER.fullmatch(name) is not None or is_ranks_directory(name)


def is_part(path: bytes) -> bool:
    """Whether a file of a unit holds what was trained, so that each save writes it anew."""
    return _PART.fullmatch(path.rpartition(b"/")[2]) is not None


def is_written_last(path: bytes) -> bool:
    """Whether a file of a unit is one that writers write when all its parts are there."""
    return _WRITTEN_LAST.fullmatch(path.rpartition(b"/")[2]) is not None


def _absorbed(inner: Iterable[Unit], outer: Iterable[Unit]) -> Iterator[Unit]:
    """The units that no other one holds; a whole lacks what its parts lack."""
    by_directory: dict[bytes, Unit] = {unit.directory: unit for unit in outer}
    for unit in inner:
        holder = next((place for place in upwards(unit.directory) if place in by_directory), None)
        if holder is None:
            yield unit
        elif by_directory[holder].lacking is None:
            by_directory[holder] = by_directory[holder]._replace(lacking=unit.lacking)
    for directory, unit in by_directory.items():
        if not any(place in by_directory for place in upwards(directory) if place != directory):
            yield unit


# ---------------------------------------------------------------- torch.distributed.checkpoint


def _distributed(tree: Tree, directory: bytes) -> Iterator[Unit]:
    """A directory of ``.distcp`` files, with the metadata that are written last."""
    names = tree.directories[directory]
    shards = {name for name in names if name.endswith(b".distcp")}
    if not shards and not _tells_of_shards(tree, directory):
        return
    about = [b".metadata"] if b".metadata" in names else [name for name in names if rank_of_metadata(name) is not None]
    lacking = None if about else "'.metadata' is missing"
    sizes = {os.fsdecode(name): size for name, size in names.items()}
    members = shards | set(about)
    parts: list[DcpMetadata] = []
    for name in about:
        content = tree.read(join(directory, name))
        if content is None:
            lacking = lacking or f"{shown(name)} could not be read"
            continue
        try:
            metadata = read_dcp_metadata(content, is_part=name != b".metadata")
            members |= {os.fsencode(entry.item.relative_path) for entry in metadata.entries}
            check_against_files(metadata, sizes)
            parts.append(metadata)
        except ContainerBroken as fault:
            lacking = lacking or f"{shown(name)}: {fault}"
    if lacking is None and about != [b".metadata"]:
        lacking = _check_ranks_metadata(parts, shards, about)
    yield unit_of("dcp", directory, (join(directory, name) for name in members & names.keys()), lacking)


def _tells_of_shards(tree: Tree, directory: bytes) -> bool:
    """Whether metadata are there beside which no shard is; other programs have files of that name as well."""
    about = [name for name in tree.directories[directory] if name == b".metadata" or rank_of_metadata(name) is not None]
    content = tree.read(join(directory, about[0])) if about else None
    return content is not None and is_metadata(content) and b".distcp" in content


def _check_ranks_metadata(parts: Sequence[DcpMetadata], shards: Iterable[bytes], about: Iterable[bytes]) -> str | None:
    """Every rank that wrote has its metadata, ranks are counted from zero, and together they cover all tensors."""
    told = {os.fsencode(entry.item.relative_path) for part in parts for entry in part.entries}
    untold = {name for name in map(rank_metadata_of, set(shards) - told) if name is not None}
    missing = min(untold - set(about), default=None)
    if missing is not None:
        return f"{shown(missing)} is missing"
    try:
        check_union(parts)
    except ContainerBroken as fault:
        return f"metadata of {len(parts)} ranks: {fault}"
    ranks = {rank for name in about if (rank := rank_of_metadata(name)) is not None}
    return missing_rank(ranks, "__{}.metadata")


# ---------------------------------------------------------------- ONNX


def _onnx(tree: Tree, directory: bytes) -> Iterator[Unit]:
    """A graph whose tensors lie in files beside it, in its directory or below."""
    for name in tree.directories[directory]:
        path = join(directory, name)
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
            places = {join(directory, place): size for place, size in needed.items()}
            lacking = next(
                (
                    f"{shown(place)} is missing" if place not in tree.files else f"{shown(place)} is too short"
                    for place, size in sorted(places.items())
                    if tree.files.get(place, -1) < size
                ),
                None,
            )
            yield unit_of("onnx", directory, (place for place in (path, *places) if place in tree.files), lacking)


# ---------------------------------------------------------------- Hugging Face


def _indexed(tree: Tree, directory: bytes) -> Iterator[Unit]:
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
        members = (join(directory, name) for name in shards & names.keys())
        yield unit_of("huggingface-weights", directory, members, lacking)
    for (stem, suffix), shards in numbered.items():
        if shards != {stem + b"-00001-of-00001." + suffix}:
            lacking = f"{shown(stem + b'.' + suffix + b'.index.json')} is missing"
            yield unit_of("huggingface-weights", directory, (join(directory, name) for name in shards), lacking)


def _split(tree: Tree, directory: bytes) -> Iterator[Unit]:
    """What each rank wrote of weights, by torch's writer for Hugging Face; nothing beside the files tells of them."""
    found: dict[tuple[bytes, bytes], list[bytes]] = {}
    for name in tree.directories[directory]:
        match = _SPLIT.fullmatch(name)
        if match:
            found.setdefault((match["stem"], match["count"]), []).append(join(directory, name))
    for members in found.values():
        yield unit_of("huggingface-shards", directory, members, None)


def _check_index(tree: Tree, directory: bytes, index: bytes) -> tuple[str | None, set[bytes]]:
    """What is lacking by the word of an index, and which files it names."""
    about = tree.read_json(join(directory, index))
    weights = about.get("weight_map") if about is not None else None
    if not isinstance(weights, dict) or not weights:
        return f"{shown(index)} does not parse", set()
    names: set[bytes] = set()
    for value in weights.values():
        name = _encoded(value)
        if name is None:
            return f"{shown(index)} names files that are not beside it", names
        names.add(name)
    held = tree.directories[directory]
    missing = min(names - held.keys(), default=None)
    if missing is not None:
        return f"{shown(missing)} is missing", names
    total = about.get("metadata") if about is not None else None
    total_bytes = total.get("total_size") if isinstance(total, dict) else None
    held_bytes = sum(held[name] for name in names)
    if type(total_bytes) is int and held_bytes < total_bytes < _COUNT_MAX:
        return f"files of {shown(index)} have {held_bytes} bytes, {total_bytes} are needed", names
    return None, names


def _encoded(value: object) -> bytes | None:
    """The name of a file beside another one as the file system has it."""
    if not isinstance(value, str) or "/" in value:
        return None
    try:
        return os.fsencode(value)
    except UnicodeEncodeError:
        return None


def _trainer(tree: Tree, directory: bytes) -> Iterator[Unit]:
    """A ``checkpoint-N`` of Hugging Face's trainer."""
    match = _TRAINER.fullmatch(directory.rpartition(b"/")[2])
    names = tree.directories[directory]
    weights = {name for name in names if _TRAINER_WEIGHTS.fullmatch(name)}
    if is_accelerates(names):
        return  # as scripts of diffusers call these too
    if match and (weights or _SENTINEL in names or not _TRAINER_FILES.isdisjoint(names)):
        lacking = next(_trainer_lacks(tree, directory, int(match[1]), weights), None)
        yield unit_of("huggingface-trainer", directory, tree.below(directory), lacking)


def _trainer_lacks(tree: Tree, directory: bytes, step: int, weights: set[bytes]) -> Iterator[str]:
    names = tree.directories[directory]
    if _SENTINEL in names:
        yield f"{shown(_SENTINEL)} says that it was not finished"
    if b"trainer_state.json" not in names:
        yield "'trainer_state.json' is missing"
    state = tree.read_json(join(directory, b"trainer_state.json"))
    if state is None:
        yield "'trainer_state.json' does not parse"
    elif state.get("global_step") != step:
        yield f"'trainer_state.json' is of another step than {step}"
    yield from (f"{shown(name)} is empty" for name in sorted(weights) if not names[name])
    folders = tree.folders(directory)
    if not weights and not any(name.startswith((b"global_step", b"pytorch_model_fsdp")) for name in folders):
        yield "there are no weights"
    missing = missing_rank(
        {int(match[1]) for match in map(_RANDOM_STATE.fullmatch, names) if match}, "rng_state_{}.pth"
    )
    if missing is not None:
        yield missing


# ---------------------------------------------------------------- TensorFlow


def _tensorflow(tree: Tree, directory: bytes) -> Iterator[Unit]:
    """A checkpoint of TensorFlow: its shards, with the index that is written last; several may lie side by side."""
    shards: dict[bytes, set[bytes]] = {}
    for name in tree.directories[directory]:
        index = index_of(name)
        if index is not None:
            shards.setdefault(index, set()).add(name)
    for name in tree.directories[directory]:
        if name.endswith(b".index") and name not in shards and _is_table(tree, join(directory, name)):
            shards[name] = set()
    for index, members in shards.items():
        path = join(directory, index)
        if path not in tree.files:
            lacking: str | None = f"{shown(index)} is missing"
        else:
            lacking = _check_shards(tree, directory, index)
            members.add(index)
        yield unit_of("tensorflow", directory, (join(directory, name) for name in members), lacking)


def _is_table(tree: Tree, path: bytes) -> bool:
    return (tree.read(path, _BARE_INDEX_BYTES_MAX) or b"").endswith(TABLE_MAGIC)


def _check_shards(tree: Tree, directory: bytes, index: bytes) -> str | None:
    content = tree.read(join(directory, index))
    if content is None:
        return f"{shown(index)} could not be read"
    sizes = {os.fsdecode(name): size for name, size in tree.directories[directory].items()}
    try:
        check_against_shards(parse_index(content), os.fsdecode(index).removesuffix(".index"), sizes)
    except ContainerBroken as fault:
        return f"{shown(index)}: {fault}"
    return None


# ---------------------------------------------------------------- Orbax


def _orbax(tree: Tree, directory: bytes) -> Iterator[Unit]:
    """A checkpoint of Orbax: a directory that was renamed when it was whole, with databases or arrays of zarr in it."""
    if _ORBAX not in tree.directories[directory]:
        return
    members = tree.below(directory)
    databases = [path.rpartition(b"/")[0] for path in members if path.rpartition(b"/")[2] == b"manifest.ocdbt"]
    lacking = next(filter(None, (_check_database(tree, database) for database in databases)), None)
    if lacking is None:
        items = [path.rpartition(b"/")[0] for path in members if path.rpartition(b"/")[2] == b"_METADATA"]
        is_bare = (item for item in items if item not in databases and _uses_database(tree, item))
        lacking = next((f"{shown(join(item, b'manifest.ocdbt'))} is missing" for item in is_bare), None)
    yield unit_of("orbax", directory, members, lacking)


def _uses_database(tree: Tree, item: bytes) -> bool:
    about = tree.read_json(join(item, b"_METADATA"))
    return about is not None and about.get("use_ocdbt") is True


def _check_database(tree: Tree, database: bytes) -> str | None:
    """All data files that the manifest tells of are there, and all that the nodes in these tell of."""
    waiting, seen = [join(database, b"manifest.ocdbt")], set[bytes]()
    while waiting:
        path = waiting.pop()
        content = tree.read(path, NODE_BYTES_MAX)
        if content is None or not is_ocdbt(content):
            continue  # values of arrays, or a large node
        try:
            named = {join(database, os.fsencode(name)) for name in files_told_of(content)}
        except (ContainerBroken, UnicodeEncodeError) as fault:
            if isinstance(fault, NotChecked) or not path.endswith(b"/manifest.ocdbt"):
                continue  # a node with values behind it, or of another version
            return f"{shown(path)}: {fault}"
        missing = min(named - tree.files.keys(), default=None)
        if missing is not None:
            return f"{shown(missing)} is missing"
        waiting += named - seen
        seen |= named
    return None
