"""What the rules for checkpoints of several files read: a listing of files, and the small files in it."""

from __future__ import annotations

import json
import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

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


class Unit(NamedTuple):
    """The files of one checkpoint; *lacking* says what is missing or too short, ``None`` if it is complete.

    *kind* is "dcp", "huggingface-weights", "huggingface-shards", "huggingface-trainer", "deepspeed", "tensorflow",
    "megatron", "orbax", "onnx", "zarr", "accelerate", "peft", "torchtune", "nemo", or "pointer": a file
    that names a directory which is not there. Paths are those of the listing; *members* are the files that are there,
    in order. *pointer* is the file beside it that names this checkpoint as the one to go on from.
    """

    kind: str
    directory: bytes
    members: tuple[bytes, ...]
    lacking: str | None
    pointer: bytes | None = None


class Tree:
    """The listing by directory; reads small files within the bounds."""

    def __init__(self, files: Mapping[bytes, int], read_small: ReadSmall) -> None:
        self.files = files
        self._read_small = read_small
        self._left_bytes = READ_BYTES_MAX
        self._paths = sorted(files)
        self._words: dict[bytes, bytes] = {}
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
        """Return all files in a directory and in those below it."""
        prefix = join(directory, b"")
        if not prefix:
            return self._paths
        return self._paths[bisect_left(self._paths, prefix) : bisect_left(self._paths, prefix[:-1] + b"0")]

    def folders(self, directory: bytes) -> set[bytes]:
        """Return the names of the directories in a directory."""
        skip = len(join(directory, b""))
        return {path[skip:].partition(b"/")[0] for path in self.below(directory) if b"/" in path[skip:]}

    def read(self, path: bytes, limit_bytes: int = SMALL_BYTES_MAX) -> bytes | None:
        """Return a file's content, or ``None`` if it exceeds *limit_bytes* or the rest of the bound for all files."""
        size_bytes = self.files[path]
        if size_bytes > min(limit_bytes, self._left_bytes):
            return None
        self._left_bytes -= size_bytes
        return self._read_small(path, limit_bytes)

    def read_json(self, path: bytes) -> dict[str, object] | None:
        """Return a small file's JSON object."""
        return parsed_object(self.read(path) or b"")

    def read_word(self, path: bytes) -> bytes:
        """Return the word in a small file; empty if the file is missing or holds more."""
        if path not in self._words:
            word = (self.read(path, _TRACKER_BYTES_MAX) or b"").strip() if path in self.files else b""
            self._words[path] = b"" if b"\n" in word or b"/" in word else word
        return self._words[path]


def parsed_object(content: bytes) -> dict[str, object] | None:
    """Return the object in a JSON text; ``None`` if it is no object, or too large once parsed."""
    # Before it is parsed: an empty list takes fifty times its bytes.
    text_bytes = len(content) * (1 if content.isascii() else 4)
    if text_bytes + sum(content.count(sign) * cost for sign, cost in _PARSED_BYTES.items()) > PARSED_BYTES_MAX:
        return None
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def join(directory: bytes, name: bytes) -> bytes:
    """Return the path of a name in a directory; the top directory's path is empty."""
    return directory + b"/" + name if directory else name


def shown(name: bytes) -> str:
    """Return a name as messages show it, shortened if it is long."""
    return repr(os.fsdecode(name[:200]))


def upwards(directory: bytes) -> Iterator[bytes]:
    """Yield a directory and those above it."""
    yield directory
    while directory:
        directory = directory.rpartition(b"/")[0]
        yield directory


def missing_rank(held: set[int], name: str, expected: set[int] | None = None) -> str | None:
    """Return the first missing rank of those that are expected, or else of all up to the highest."""
    if expected is not None:
        missing = min(expected - held, default=None)
    else:
        # As many as there are and no more are looked at: the highest may be any number
        missing = next((rank for rank in range(len(held)) if rank not in held), None)
    return None if missing is None else f"'{name.format(missing)}' is missing"


def unit_of(kind: str, directory: bytes, members: Iterable[bytes], lacking: str | None) -> Unit:
    """Return a unit with its members in order."""
    return Unit(kind, directory, tuple(sorted(members)), lacking)


def missing_save(tree: Tree, directory: bytes, tracker: bytes, named: bytes | None) -> Iterator[Unit]:
    """Yield the save that a tracker file names, if its directory is not there."""
    if named is not None and join(directory, named) not in tree.directories:
        lacking = f"{shown(tracker)} names {shown(named)}, which is not there"
        yield unit_of("pointer", join(directory, named), [join(directory, tracker)], lacking)
