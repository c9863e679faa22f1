"""Arrays of zarr, versions 2 and 3: a directory with a small JSON file, and a file for each chunk that was written.

A chunk without a file holds the fill value, so none is ever missing. An uncompressed chunk has exactly the bytes of its
shape and type; a compressed one or a shard has at least some.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from math import prod
from typing import Final, NamedTuple

from mlsync.formats.groups.tree import Tree, Unit, join, parsed_object, shown, unit_of, upwards

ABOUT_BYTES_MAX = 64 << 10
_DIMENSIONS_MAX: Final = 64
_SIZE_MAX: Final = 1 << 63
_OLD, _NEW = b".zarray", b"zarr.json"
_SUM_BYTES: Final = 4
_PLACE_BYTES: Final = 16  # of a chunk in a shard: where it begins, how long it is
_OLD_TYPE = re.compile(r"[<>|]([biufcSUVmM])([0-9]{1,6})(?:\[[^\]]{1,20}\])?")
_CHARACTER_BYTES: Final = 4
_NEW_TYPE = re.compile(r"(?:u?int|float|complex|r)([0-9]{1,4})|bfloat(16)|float(8)_[a-z0-9]+")


class _Array(NamedTuple):
    """What the JSON file says: how many chunks there are along each dimension, how they are called, how long they are.

    *chunk_bytes* is the length of each if *is_exact*, and else the least.
    """

    counts: tuple[int, ...]
    prefix: bytes
    separator: bytes
    chunk_bytes: int
    is_exact: bool


def array_around(directory: bytes, files: Container[bytes]) -> bytes | None:
    """Return the closest directory, *directory* or above it, that is an array or group of zarr."""
    told = (place for place in upwards(directory) if any(join(place, name) in files for name in (_NEW, _OLD)))
    return next(told, None)


def torn_arrays(tree: Tree, directory: bytes) -> Iterator[Unit]:
    """Yield the directory as an incomplete unit, if it is an array whose description or a chunk is torn.

    A complete array yields nothing: its files are stored like any others, even while something writes to it.
    """
    names = tree.directories[directory]
    name = next((name for name in (_NEW, _OLD) if name in names), None)
    if name is None:
        return
    content = tree.read(join(directory, name), ABOUT_BYTES_MAX)
    if content is None:
        return
    about = parsed_object(content)
    lacking = f"{shown(join(directory, name))} does not parse" if about is None else None
    array = _array(about, is_new=name == _NEW) if about is not None else None
    members = tree.below(directory) if lacking or array is not None else []
    if array is not None:
        lacking = next(filter(None, (_fault(tree, path, directory, array) for path in members)), None)
    if lacking is not None:
        yield unit_of("zarr", directory, members if array is not None else [join(directory, name)], lacking)


def _fault(tree: Tree, path: bytes, directory: bytes, array: _Array) -> str | None:
    """Return what is wrong with a file below an array, if it is a chunk."""
    name = path[len(join(directory, b"")) :]
    if not _is_chunk(name, array):
        return None
    size = tree.files[path]
    if size < array.chunk_bytes or (array.is_exact and size != array.chunk_bytes):
        least = "" if array.is_exact else " at least"
        return f"{shown(path)} has {size} bytes, and needs {array.chunk_bytes}{least}"
    return None


def _is_chunk(name: bytes, array: _Array) -> bool:
    """Return whether a chunk of the array has that name."""
    if not array.counts:
        return name == (array.prefix or b"0")
    start = array.prefix + array.separator if array.prefix else b""
    if not name.startswith(start):
        return False
    parts = name[len(start) :].split(array.separator)
    return len(parts) == len(array.counts) and all(
        part.isdigit() and len(part) < 20 and int(part) < count  # noqa: PLR2004 - digits of 64 bits
        for part, count in zip(parts, array.counts, strict=True)
    )


def _array(about: dict[str, object], *, is_new: bool) -> _Array | None:
    """Return what the description says, if it is one of an array and known here."""
    shape = _sizes(about.get("shape"))
    grid = about.get("chunk_grid") if is_new else None
    chunks = _sizes(_of(_of(grid, "configuration"), "chunk_shape") if is_new else about.get("chunks"))
    if shape is None or chunks is None or len(shape) != len(chunks) or 0 in chunks:
        return None
    counts = tuple(-(-size // chunk) for size, chunk in zip(shape, chunks, strict=True))
    if is_new:
        naming = about.get("chunk_key_encoding")
        way, told = _of(naming, "name"), _of(_of(naming, "configuration"), "separator")
        if way not in ("default", "v2"):
            return None
        separator = told if told in (".", "/") else "/" if way == "default" else "."
        prefix = b"c" if way == "default" else b""
        length, is_exact = _new_length(about, chunks)
    else:
        separator, prefix = "/" if about.get("dimension_separator") == "/" else ".", b""
        length, is_exact = _old_length(about, chunks)
    return _Array(counts, prefix, str(separator).encode(), length, is_exact)


def _old_length(about: dict[str, object], chunks: tuple[int, ...]) -> tuple[int, bool]:
    dtype = about.get("dtype")
    match = _OLD_TYPE.fullmatch(dtype) if isinstance(dtype, str) else None
    if match is None or about.get("compressor", 0) is not None or about.get("filters", 0) not in (None, []):
        return 1, False
    return prod(chunks) * int(match[2]) * (_CHARACTER_BYTES if match[1] == "U" else 1), True


def _new_length(about: dict[str, object], chunks: tuple[int, ...]) -> tuple[int, bool]:
    codecs = about.get("codecs")
    names = [_of(codec, "name") for codec in codecs] if isinstance(codecs, list) else []
    if names == ["sharding_indexed"] and isinstance(codecs, list):
        return _index_bytes(_of(codecs[0], "configuration"), chunks), False
    dtype = about.get("data_type")
    match = _NEW_TYPE.fullmatch(dtype) if isinstance(dtype, str) else None
    bits = 8 if dtype == "bool" else int(next(filter(None, match.groups()))) if match is not None else 0
    is_known = "bytes" in names and all(one in ("transpose", "bytes", "crc32c") for one in names)
    if bits % 8 or not bits or not is_known:
        return 1, False
    return prod(chunks) * bits // 8 + _SUM_BYTES * names.count("crc32c"), True


def _index_bytes(shard: object, chunks: tuple[int, ...]) -> int:
    """Return the length of a shard's index, which every shard has even if it is empty."""
    inner = _sizes(_of(shard, "chunk_shape"))
    codecs = _of(shard, "index_codecs")
    names = [_of(codec, "name") for codec in codecs] if isinstance(codecs, list) else []
    if inner is None or len(inner) != len(chunks) or 0 in inner:
        return 1
    if any(one not in ("bytes", "crc32c") for one in names):
        return 1
    count = prod(size // one for size, one in zip(chunks, inner, strict=True))
    return _PLACE_BYTES * count + _SUM_BYTES * names.count("crc32c")


def _of(value: object, key: str) -> object:
    return value.get(key) if isinstance(value, dict) else None


def _sizes(value: object) -> tuple[int, ...] | None:
    if not isinstance(value, list) or len(value) > _DIMENSIONS_MAX:
        return None
    return tuple(value) if all(type(size) is int and 0 <= size < _SIZE_MAX for size in value) else None
