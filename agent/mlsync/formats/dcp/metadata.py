"""The ``.metadata`` of a distributed checkpoint: its tensors and objects, and where each chunk is.

One rank writes it last, and no other file tells whether all of them belong together. It must be consistent: every chunk
has an item, and the chunks of a tensor cover the tensor.

If ranks save independently (``use_collectives=False``), each writes ``__R.metadata`` of its own part, and only all of
these together describe all chunks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple, NoReturn

from mlsync.formats.dcp.container import ITEMS_MAX, KEPT_METADATA_BYTES_MAX, Item, fields_of, item_of
from mlsync.formats.faults import NotChecked, read_bounded
from mlsync.formats.layout import ByteSource, ContainerBroken, Content, Layout
from mlsync.formats.pickles.machine import PICKLE_BYTES_MAX, read_pickle
from mlsync.formats.pickles.nodes import Call, Global, Pairs
from mlsync.formats.roles import is_optimizers
from mlsync.values import Fact

# Of chunks with one another, for all tensors together: some seconds' work, and what a grid of 8 by 10,000 needs
COMPARISONS_MAX = 2_000_000
# Of places and sizes in all: each chunk has three rows of them, as long as its tensor has dimensions
NUMBERS_MAX = 2_000_000
_DIMENSIONS_MAX = 64
_COUNT_MAX = 1 << 63
_NAME_CHARS_MAX = 1024
_RANK = re.compile(r"__(\d{1,9})_\d{1,9}\.distcp")
_CLASS = b"torch.distributed.checkpoint.metadata"
_CLASS_WITHIN_BYTES = 64
_RANK_METADATA = re.compile(rb"__(\d{1,9})\.metadata")
_RANK_SHARD = re.compile(rb"__(\d{1,9})_\d{1,9}\.distcp")


class TensorChunk(NamedTuple):
    """A part of a tensor: where it begins in each dimension, and how far it goes."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]


class DcpTensor(NamedTuple):
    """A whole tensor, whose chunks lie in one file or in many."""

    dtype: str
    shape: tuple[int, ...]
    chunks: tuple[TensorChunk, ...]


class DcpEntry(NamedTuple):
    """Where one chunk of a tensor lies, or (without a *chunk*) one object; *is_packed*: behind a transformation."""

    name: str
    chunk: TensorChunk | None
    item: Item
    is_packed: bool


@dataclass(frozen=True, slots=True)
class DcpMetadata:
    """A checkpoint as a whole: its tensors by name, and all places in the order of file and offset."""

    tensors: Mapping[str, DcpTensor]
    entries: tuple[DcpEntry, ...]
    facts: Mapping[str, Fact] = field(default_factory=dict)


def rank_of_metadata(name: bytes) -> int | None:
    """Return the rank whose own metadata a file is, by its name."""
    match = _RANK_METADATA.fullmatch(name)
    return None if match is None else int(match[1])


def rank_metadata_of(name: bytes) -> bytes | None:
    """Return the name of the metadata of the rank that wrote a shard, by the shard's."""
    match = _RANK_SHARD.fullmatch(name)
    return None if match is None else b"__%s.metadata" % match[1]


def is_metadata(data: bytes) -> bool:
    """Return whether a file called ``.metadata`` is torch's, by the class that its pickle names first."""
    return _CLASS in data[:_CLASS_WITHIN_BYTES]


def read_dcp_metadata(data: bytes, *, is_part: bool = False) -> DcpMetadata:
    """Return level 2 of the metadata by themselves: all that they name has a place, and the chunks cover their tensors.

    Of one rank's metadata (*is_part*) the chunks need only lie inside of their tensors, and apart.
    """
    metadata, _ = _known(data)
    _check_cover(metadata.tensors, is_part=is_part)
    return metadata


def _known(data: bytes) -> tuple[DcpMetadata, int]:
    """Return what the metadata say, and where their pickle ends.

    A directory's are looked at a dozen times: for the directory, for each of its shards, and again when they came back.
    """
    return _kept(data) if len(data) <= KEPT_METADATA_BYTES_MAX else _parse(data)


def _parse(data: bytes) -> tuple[DcpMetadata, int]:
    root, end = read_pickle(data)
    fields = fields_of(root)
    described, stored = fields.get("state_dict_metadata"), fields.get("storage_data")
    if not isinstance(described, Pairs) or not isinstance(stored, Pairs):
        raise ContainerBroken("not the metadata of a distributed checkpoint")
    if max(len(described), len(stored)) > 2 * ITEMS_MAX or _number_count(described, stored) > NUMBERS_MAX:
        raise NotChecked(f"metadata of more than {ITEMS_MAX} items are larger than is checked")
    tensors, objects = _read_described(described)
    entries = tuple(_entries(tensors, objects, _read_stored(stored)))
    in_order = tuple(sorted(entries, key=lambda entry: entry.item))
    return DcpMetadata(tensors, in_order, _facts(tensors, entries)), end


# Two: the version before has its own.
_kept = lru_cache(maxsize=2)(_parse)


def check_union(parts: Sequence[DcpMetadata]) -> None:
    """The chunks of all ranks together cover each tensor; a chunk that several ranks wrote alike counts once.

    Tensors of one name and another shape or type are each rank's own: a rank reads no metadata but its own.
    """
    union: dict[tuple[str, str, tuple[int, ...]], dict[TensorChunk, None]] = {}
    for part in parts:
        for name, tensor in part.tensors.items():
            union.setdefault((name, tensor.dtype, tensor.shape), {}).update(dict.fromkeys(tensor.chunks))
    if sum(map(len, union.values())) > ITEMS_MAX:
        raise NotChecked(f"metadata of more than {ITEMS_MAX} chunks together are more than are checked")
    left = COMPARISONS_MAX
    for (name, dtype, shape), chunks in union.items():
        left = _check_tensor(name, DcpTensor(dtype, shape, tuple(chunks)), left)


def _number_count(described: Pairs, stored: Pairs) -> int:
    """Return how many numbers the rows hold, counted before any is copied: many rows may share one list."""
    count = 0
    for _, node in described.pairs():
        chunks = fields_of(node).get("chunks")
        for chunk in chunks if type(chunks) is list else ():
            parts = fields_of(chunk)
            count += _row_length(parts.get("offsets")) + _row_length(parts.get("sizes"))
            if count > NUMBERS_MAX:
                return count
    return count + sum(_row_length(fields_of(key).get("offset")) for key, _ in stored.pairs())


def _row_length(node: object) -> int:
    row = _row(node)
    return 0 if row is None else len(row)


def read_dcp_metadata_layout(source: ByteSource, container: str = "dcp-metadata") -> Layout:
    """Return level 1 of the file: one pickle, from its first byte to its last."""
    end = _pickle_end(_whole(source))
    if end != source.size_bytes:
        raise ContainerBroken(f"{source.size_bytes - end} bytes behind the pickle", offset=end)
    return Layout(container, source.size_bytes, ())


def _pickle_end(data: bytes) -> int:
    with suppress(ContainerBroken):  # what is wrong with the meaning is no matter of level 1
        return _known(data)[1]
    # Here and not while the error is handled: until it is dropped, its frames hold the whole graph.
    return read_pickle(data)[1]


def read_dcp_metadata_content(source: ByteSource, *, is_part: bool = False) -> Content:
    """Return level 2 of the file: nothing in it is a tensor, but all that it says fits together."""
    return Content((), (), dict(read_dcp_metadata(_whole(source), is_part=is_part).facts))


def _whole(source: ByteSource) -> bytes:
    if source.size_bytes > PICKLE_BYTES_MAX:
        raise NotChecked(f"metadata of {source.size_bytes} bytes are larger than is checked")
    return read_bounded(source, 0, source.size_bytes, "metadata")


def check_against_files(metadata: DcpMetadata, sizes: Mapping[str, int]) -> None:
    """Every chunk and object lies inside of a file that is there; *sizes* are those beside the metadata."""
    for entry in metadata.entries:
        path, offset, length = entry.item
        size_bytes = sizes.get(path)
        if size_bytes is None:
            raise ContainerBroken(f"file {path!r} is missing", record=entry.name[:_NAME_CHARS_MAX])
        if offset + length > size_bytes:
            what = f"file {path!r} has {size_bytes} bytes, {offset + length} are needed"
            raise ContainerBroken(what, record=entry.name[:_NAME_CHARS_MAX], offset=size_bytes)


# ---------------------------------------------------------------- what there is


def _read_described(described: Pairs) -> tuple[dict[str, DcpTensor], set[str]]:
    """Return the tensors, and the names of all that are none."""
    tensors: dict[str, DcpTensor] = {}
    objects: set[str] = set()
    left = ITEMS_MAX
    for name, node in described.pairs():
        if type(name) is not str:
            raise ContainerBroken("a tensor or object whose name is no text")
        if len(name) > _NAME_CHARS_MAX:  # every record of a shard bears it
            raise NotChecked(f"name of {len(name)} characters is longer than is checked")
        fields = fields_of(node)
        if "chunks" not in fields:
            objects.add(name)
            continue
        chunks = fields["chunks"]
        if type(chunks) is not list:
            _refuse("tensor without chunks", name)
        left -= len(chunks)  # before they are looked at: many tensors may share one list
        if left < 0:
            raise NotChecked(f"more than {ITEMS_MAX} chunks are more than are checked")
        tensors[name] = _tensor(name, fields, chunks)
    return tensors, objects - tensors.keys()


def _tensor(name: str, fields: Mapping[str, object], chunks: list[object]) -> DcpTensor:
    shape = _counts(fields.get("size"))
    if shape is None:
        _refuse("tensor without a shape", name)
    found = []
    for node in chunks:
        parts = fields_of(node)
        offsets, sizes = _counts(parts.get("offsets")), _counts(parts.get("sizes"))
        if offsets is None or sizes is None or not len(offsets) == len(sizes) == len(shape):
            _refuse("chunk without a place in its tensor", name)
        found.append(TensorChunk(offsets, sizes))
    return DcpTensor(_dtype(name, fields.get("properties")), shape, tuple(found))


def _dtype(name: str, properties: object) -> str:
    """Return the dtype, the first item of the tuple that a tensor's properties are pickled as."""
    state = properties.then.state if isinstance(properties, Call) and properties.then is not None else None
    if type(state) is tuple and state and isinstance(state[0], Global) and state[0].module == "torch":
        return state[0].name
    raise NotChecked("tensor whose type is told in a way that is not known here", record=name[:_NAME_CHARS_MAX])


def _counts(node: object) -> tuple[int, ...] | None:
    """Return the numbers of a row, if all are counts."""
    row = _row(node)
    if row is None or not all(type(count) is int and 0 <= count < _COUNT_MAX for count in row):
        return None
    return tuple(row)


def _row(node: object) -> Sequence[Any] | None:
    """Return a ``torch.Size``, or the tuple or list in its place."""
    if isinstance(node, Call) and len(node.args) == 1:
        node = node.args[0]
    return node if isinstance(node, (tuple, list)) and len(node) <= _DIMENSIONS_MAX else None


# ---------------------------------------------------------------- where it lies


def _read_stored(stored: Pairs) -> dict[tuple[str, tuple[int, ...] | None], tuple[Item, bool]]:
    """Return the items by name and chunk offset; of a repeated key the last one, as when it is loaded."""
    places = {}
    for key, value in stored.pairs():
        index = fields_of(key)
        name, offsets = index.get("fqn"), index.get("offset")
        if type(name) is not str:
            raise ContainerBroken("a place that belongs to no name")
        place = _counts(offsets)
        if offsets is not None and place is None:
            _refuse("a place that belongs to no chunk", name)
        places[name, place] = item_of(value), bool(fields_of(value).get("transform_descriptors"))
    return places


def _entries(
    tensors: Mapping[str, DcpTensor],
    objects: set[str],
    places: dict[tuple[str, tuple[int, ...] | None], tuple[Item, bool]],
) -> Iterator[DcpEntry]:
    """Yield every chunk and object with its item; ``ContainerBroken`` if one has no item, or an item has neither."""
    wanted: dict[tuple[str, tuple[int, ...] | None], TensorChunk | None] = {
        (name, chunk.offsets): chunk for name, tensor in tensors.items() for chunk in tensor.chunks
    }
    wanted |= dict.fromkeys(((name, None) for name in objects), None)
    for key, chunk in wanted.items():
        if key not in places:
            _refuse("chunk without a place" if chunk else "object without a place", key[0])
        yield DcpEntry(key[0], chunk, *places[key])
    strange = places.keys() - wanted.keys()
    if strange:
        _refuse("a place of what is not in the checkpoint", min(name for name, _ in strange))


def _facts(tensors: Mapping[str, DcpTensor], entries: Iterable[DcpEntry]) -> dict[str, Fact]:
    files = {entry.item.relative_path for entry in entries}
    ranks = {match[1] for match in map(_RANK.fullmatch, files) if match}
    floats = [prod(t.shape) for name, t in tensors.items() if "float" in t.dtype and not _is_optimizers(name)]
    has_optimizer = any(_is_optimizers(name) for name in tensors)
    return {
        "framework": "dcp",
        "file_count": len(files),
        "rank_count": len(ranks),
        "tensor_count": len(tensors),
        "parameter_count": min(sum(floats), _COUNT_MAX),
        "dtypes": ",".join(sorted({tensor.dtype for tensor in tensors.values()})),
        "has_optimizer": has_optimizer,
        "resumable": has_optimizer and bool(sum(floats)),
    }


def _is_optimizers(name: str) -> bool:
    return is_optimizers(name.partition(".")[0])


# ---------------------------------------------------------------- do the chunks make up their tensors


def _check_cover(tensors: Mapping[str, DcpTensor], *, is_part: bool) -> None:
    """The chunks of each tensor lie inside of it and are disjoint, and (but for one rank's) they cover it."""
    left = COMPARISONS_MAX
    for name, tensor in tensors.items():
        left = _check_tensor(name, tensor, left, is_part=is_part)


def _check_tensor(name: str, tensor: DcpTensor, left: int, *, is_part: bool = False) -> int:
    """Hold one tensor's chunks against it; gives what is left of the bound."""
    for chunk in tensor.chunks:
        if any(at + size > whole for at, size, whole in zip(*chunk, tensor.shape, strict=True)):
            _refuse(f"chunk at {list(chunk.offsets)} reaches out of its tensor", name)
    if not tensor.shape and tensor.chunks:
        return left  # torch lets several ranks write one number, and reads any of them
    if not is_part and sum(prod(chunk.sizes) for chunk in tensor.chunks) != prod(tensor.shape):
        _refuse("chunks that do not make up their tensor", name)
    return _check_disjoint(name, [chunk for chunk in tensor.chunks if prod(chunk.sizes)], left)


def _check_disjoint(name: str, chunks: list[TensorChunk], left: int) -> int:
    """Sweep over the dimension in which most chunks begin apart; gives what is left of the bound."""
    if len(chunks) <= 1:
        return left
    starts = [len(set(begins)) for begins in zip(*(chunk.offsets for chunk in chunks), strict=True)]
    axis = starts.index(max(starts))
    reached: list[TensorChunk] = []  # those that the sweep is inside of
    for chunk in sorted(chunks, key=lambda chunk: chunk.offsets[axis]):
        left -= len(reached)
        if left < 0:
            raise NotChecked("chunks in more than is compared with one another", record=name[:_NAME_CHARS_MAX])
        begin = chunk.offsets[axis]
        reached = [other for other in reached if other.offsets[axis] + other.sizes[axis] > begin]
        if any(_overlap(chunk, other) for other in reached):
            _refuse(f"chunk at {list(chunk.offsets)} overlaps another", name)
        reached.append(chunk)
    return left


def _overlap(one: TensorChunk, other: TensorChunk) -> bool:
    return all(a < b + b_size and b < a + a_size for a, a_size, b, b_size in zip(*one, *other, strict=True))


def _refuse(reason: str, name: str) -> NoReturn:
    raise ContainerBroken(reason, record=name[:_NAME_CHARS_MAX])
