"""The hostile neighbour: a user without rights who owns a tree that root works in, and swaps names while it does.

Tests start it with ``Neighbour`` around what root does. It runs as a process of its own, under another user, for as
long as the context is open. At the end it puts the tree back and tells what it did and what it got to read.

Its tricks:

``links``
    A file gives way to a symbolic link that leads to a file of somebody else, the moment root opens it, and comes back.
``directories``
    A directory and a symbolic link to somebody else's directory change places (``renameat2``, ``RENAME_EXCHANGE``),
    again and again, most of all when something below the directory was opened.
``temporaries``
    Names that root is about to use for a moment are there already, open to everybody. The neighbour keeps them open,
    reads what is written there, and writes into them.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import random
import select
import stat
import struct
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

NOBODY = 65534
TRICKS = ("links", "directories", "temporaries")
MARK = b"written by the neighbour"

_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
_IN_OPEN, _IN_CREATE, _IN_ISDIR, _IN_NONBLOCK = 0x20, 0x100, 0x40000000, 0o4000
_MOMENTS_S = (0, 0.0005, 0.002, 0.008, 0.03)
_SELDOM = 0.02
_EVENT = struct.Struct("iIII")


class Neighbour:
    """Plays *tricks* in *tree* while the context is open.

    *outside* is a directory that the neighbour wants root to work in by mistake, *victim* a file that it wants root to
    read or change. *stash* is a directory of the neighbour's own on the same file system; it is made. *temporary* are
    names, relative to the tree, that root is expected to use for a moment. Where there is a *bait*, directories are
    only swapped when one below them is opened whose path ends like that. After the context, ``rounds`` counts by trick
    what was done, and ``stolen`` holds what came to be read through names that root used for a moment.
    """

    def __init__(
        self,
        tree: Path,
        outside: Path,
        victim: Path,
        stash: Path,
        *,
        tricks: tuple[str, ...] = TRICKS,
        temporary: tuple[bytes, ...] = (),
        bait: bytes = b"",
        uid: int = NOBODY,
        seed: int = 0,
    ) -> None:
        self.rounds: dict[str, int] = {}
        self.stolen: list[bytes] = []
        stash.mkdir(exist_ok=True)
        os.chown(stash, uid, uid)
        self._wishes = {
            "tree": str(tree),
            "outside": str(outside),
            "victim": str(victim),
            "stash": str(stash),
            "tricks": tricks,
            "temporary": [os.fsdecode(name) for name in temporary],
            "bait": os.fsdecode(bait),
            "seed": seed,
            "uid": uid,
        }
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        """The neighbour is at it from here."""
        self._process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(self._wishes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The neighbour has put the tree back, is gone, and its report is here."""
        assert self._process is not None
        out, _ = self._process.communicate("stop\n", timeout=30)
        report = json.loads(out)
        self.rounds = report["rounds"]
        self.stolen = [bytes.fromhex(text) for text in report["stolen"]]


def world_of(directory: Path) -> dict[bytes, tuple[Any, ...]]:
    """All that root could have changed below *directory* by mistake, itself included: owners, modes, times, content."""
    root = os.fsencode(directory)
    found: dict[bytes, tuple[Any, ...]] = {}
    for folder, directories, files in os.walk(root):
        for path in (folder, *(os.path.join(folder, name) for name in directories + files)):
            is_file = stat.S_ISREG((status := os.lstat(path)).st_mode)
            content = Path(os.fsdecode(path)).read_bytes() if is_file else b""
            found[path] = (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, content)
    return found


# ---------------------------------------------------------------- the process


class _Watch:
    """What was opened or made in the directories of the tree, by inotify."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.inotify_init1(_IN_NONBLOCK)
        self._places: dict[int, bytes] = {}

    def add(self, directory: bytes) -> None:
        number = self._libc.inotify_add_watch(self._descriptor, directory, _IN_OPEN | _IN_CREATE)
        if number >= 0:
            self._places[number] = directory

    def seen(self, wait_s: float) -> list[tuple[bytes, bool]]:
        """The paths in order, and which are directories; nothing if nothing happens for a while."""
        if not select.select([self._descriptor], [], [], wait_s)[0]:
            return []
        data, at, found = os.read(self._descriptor, 1 << 16), 0, []
        while at < len(data):
            number, mask, _, length = _EVENT.unpack_from(data, at)
            name = data[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0")
            place = self._places.get(number, b"")
            found.append((os.path.join(place, name) if name else place, bool(mask & _IN_ISDIR)))
            at += _EVENT.size + length
        return found


class _Link:
    """A symbolic link in the stash that changes places with something in the tree."""

    def __init__(self, path: bytes, leads_to: bytes) -> None:
        self.path = path
        self._leads_to = leads_to
        self.renew()

    def renew(self) -> None:
        """The link is there; what lay in its place lies aside."""
        with suppress(FileNotFoundError):
            os.rename(self.path, self.path + b"-%d" % time.monotonic_ns())
        os.symlink(self._leads_to, self.path)


class _Tricks:
    """The neighbour's hands."""

    def __init__(self, wishes: dict[str, Any]) -> None:
        self._tree = os.fsencode(wishes["tree"])
        self._tricks = wishes["tricks"]
        self._dice = random.Random(wishes["seed"])
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.rounds = dict.fromkeys(self._tricks, 0)
        self.stolen: set[bytes] = set()
        self._watch = _Watch()
        self._made: dict[bytes, int] = {}
        self._bait = os.fsencode(wishes["bait"])
        stash = os.fsencode(wishes["stash"])
        self._file_link = _Link(os.path.join(stash, b"file-link"), os.fsencode(wishes["victim"]))
        self._directory_link = _Link(os.path.join(stash, b"directory-link"), os.fsencode(wishes["outside"]))
        self._directories: list[bytes] = []
        self._files: list[bytes] = []
        self._watch.add(self._tree)
        for folder, directories, files in os.walk(self._tree):
            self._directories += [os.path.join(folder, name) for name in directories]
            self._files += [os.path.join(folder, name) for name in files]
        for directory in self._directories:
            self._watch.add(directory)
        if "temporaries" in self._tricks:
            for name in wishes["temporary"]:
                self._take(os.path.join(self._tree, os.fsencode(name)), os.O_CREAT)

    def play(self) -> None:
        """Look what root opened, and do what hurts most just then."""
        seen = self._watch.seen(0.002)
        files = [path for path, is_directory in seen if not is_directory]
        if "links" in self._tricks:
            opened = [path for path in files if path in self._files]
            self._swap("links", self._file_link, opened[-1:] or self._files)
        if "directories" in self._tricks:
            # What was listed last: what is below it is worked on now, and it is come back to by its name.
            inside = [path for path, is_directory in seen if is_directory and path.endswith(self._bait)]
            listed = [os.path.dirname(path) for path in inside]
            entered = [path for path in listed if path in self._directories]
            if entered or (not self._bait and self._dice.random() < _SELDOM):
                self._swap("directories", self._directory_link, entered[-1:] or self._directories)
        if "temporaries" in self._tricks:
            self._meddle(files)

    def _swap(self, trick: str, link: _Link, places: list[bytes]) -> None:
        """A link stands in one of *places* for some moments."""
        if not places or not self._exchange(link.path, path := self._dice.choice(places)):
            return
        self.rounds[trick] += 1
        time.sleep(self._dice.choice(_MOMENTS_S))
        # What root put over the link meanwhile stays; what was there before lies in the stash.
        if not os.path.islink(path) or not self._exchange(link.path, path):
            with suppress(OSError):
                os.link(link.path, path) if os.path.isfile(link.path) else os.rename(link.path, path)
            link.renew()

    def _exchange(self, one: bytes, other: bytes) -> bool:
        return self._libc.renameat2(_AT_FDCWD, one, _AT_FDCWD, other, _RENAME_EXCHANGE) == 0

    def _take(self, path: bytes, flags: int = 0) -> None:
        """Have a name open for reading and writing that root uses, or is about to use, for a moment."""
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | flags, 0o666)
            self._made[path] = descriptor
            self.rounds["temporaries"] += 1
            os.fchmod(descriptor, 0o666)

    def _meddle(self, seen: list[bytes]) -> None:
        """Read and write through names that were there before root used them, and through what root left open."""
        for path in seen:
            if os.path.basename(path).startswith(b".") and path not in self._made:
                self._take(path)
        for descriptor in self._made.values():
            with suppress(OSError):
                content = os.pread(descriptor, 64, 0)
                if content and not content.startswith(MARK):
                    self.stolen.add(content)
                os.pwrite(descriptor, MARK, 0)

    def put_back(self) -> None:
        """Nothing that was made for a trick is in the tree any longer."""
        for path, descriptor in self._made.items():
            with suppress(OSError):
                if os.path.samestat(os.lstat(path), os.fstat(descriptor)):
                    os.unlink(path)


def temporary_name(path: bytes, prefix: bytes) -> bytes:
    """The name that anybody can foretell for *path* while it is written."""
    folder, name = os.path.split(path)
    return os.path.join(folder, prefix + hashlib.sha256(name).hexdigest()[:24].encode())


def main() -> None:
    """Play, as a user without rights, until somebody writes to stdin or closes it."""
    wishes = json.loads(sys.argv[1])
    # Only here: that user may not be able to reach this program or its interpreter.
    os.setgroups([])
    os.setgid(wishes["uid"])
    os.setuid(wishes["uid"])
    tricks = _Tricks(wishes)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while not select.select([sys.stdin], [], [], 0)[0]:
        tricks.play()
    tricks.put_back()
    report = {"rounds": tricks.rounds, "stolen": [content.hex() for content in tricks.stolen]}
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    main()
