"""A store in a directory: each object is a file, written elsewhere, synced, and linked to its name."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlsync import errors
from mlsync.buffers import Buffer
from mlsync.courtesy.limit import DOWNLOAD
from mlsync.courtesy.pressure import PACE
from mlsync.direct_io import DIRECT_FROM_BYTES, bytes_before_aligned, read_cached, read_direct
from mlsync.store.base import ObjectInfo, Store, Upload, check_key, check_prefix, view_of
from mlsync.store.directory.directories import TMP
from mlsync.store.directory.listing import kind_in_words, objects_below, strays_below
from mlsync.store.directory.os_errors import is_transient, translating
from mlsync.store.directory.pending_file import STALE_AGE_S, PendingFile, remove_stale_files
from mlsync.store.directory.root import StoreRoot
from mlsync.store.directory.upload import DirectoryUpload

PART_BYTES = 8 << 20
# More than there are processors: while one waits for the disk, another codes, or opens what was read.
WRITES_AT_ONCE = 4
READS_AT_ONCE = min(6, (os.cpu_count() or 1) + 1)

# Opening a pipe must not wait for a writer; for files O_NONBLOCK has no effect.
_READING = os.O_RDONLY | os.O_NONBLOCK
# What opening a symbolic link and a socket says; the former is also said of a link on the way.
_NOT_OPENED = {errno.ELOOP, errno.ENXIO}


class DirectoryStore(Store):
    """Objects as files below *root*; other files there, and the ``tmp`` directory, are not objects and not listed.

    The root stays open, and the store reaches everything from its descriptor without following a symbolic link. If the
    disk is unmounted or the root replaced while the store is open, the store reads nothing from the other directory and
    writes nothing to it: it raises ``RepositoryMissing`` before it creates, looks up or lists an object.

    The store writes only to a repository: without the object ``repository`` the directory may be the bare mount point
    of a missing disk, and the store does not even make a directory in it. *create* is for whoever makes a repository.

    Files and directories are their user's alone, unless the root has the set-group-ID bit and all rights of its group:
    then every member of that group can read, add and delete objects, under any umask. *group* makes the root so.
    """

    def __init__(self, root: Path, *, create: bool = False, group: int | None = None) -> None:
        self._root = StoreRoot(root, create=create, group=group)
        self._remove_stale_files(time.time())

    @property
    def url(self) -> str:
        """The location as a URL."""
        return self._root.path.as_uri()

    @property
    def is_near(self) -> bool:
        """A disk of this machine, or a mount."""
        return True

    @property
    def part_bytes(self) -> int:
        """The length of an upload's parts."""
        return PART_BYTES

    @property
    def writes_at_once(self) -> int:
        """How many concurrent uploads keep the store busy."""
        return WRITES_AT_ONCE

    @property
    def reads_at_once(self) -> int:
        """How many concurrent reads keep the store busy."""
        return READS_AT_ONCE

    def put(self, key: str, body: Buffer) -> None:
        """Create the object *key*: write it, sync it, link it, and sync its directory."""
        self._write(key, body, replaces=False)

    def replace(self, key: str, body: Buffer) -> None:
        """Put *body* in the place of the object *key*: write it, sync it, rename it, and sync its directory."""
        self._write(key, body, replaces=True)

    def _write(self, key: str, body: Buffer, *, replaces: bool) -> None:
        check_key(key)
        file = self._pending_file()
        try:
            with self._root.creating(key):
                file.write(0, body)
                file.sync()
                self._root.publish(file, key, replaces=replaces)
        finally:
            file.discard()

    def upload(self, key: str) -> Upload:
        """Begin an object in parts, in a temporary file of its own."""
        check_key(key)
        file = self._pending_file()
        return DirectoryUpload(
            file,
            part_bytes=PART_BYTES,
            where=self._root.where(key),
            translating=lambda: self._root.creating(key),
            publish=lambda: self._root.publish(file, key),
        )

    def copies_from(self, source: Store) -> bool:
        """Return whether *source* is a directory too: the kernel copies between files."""
        return isinstance(source.innermost, DirectoryStore)

    def copy_from(self, source: Store, key: str, size_bytes: int) -> bool:
        """Have the kernel copy an object of another directory."""
        other = source.innermost
        if not isinstance(other, DirectoryStore):
            return False
        with other.opened(key) as fd:
            if os.fstat(fd).st_size != size_bytes:
                what = "the object has another size than it had"
                raise errors.StoreBroken(what, where=f"{other.url}/{key}", is_of_object=True)
            DOWNLOAD.admit_all(size_bytes)
            file = self._pending_file()
            try:
                with self._root.creating(key):
                    if not file.copy_from(fd, size_bytes):
                        return False
                    file.sync()
                    # Neither end is read again soon, and the trainer's files are worth more in memory.
                    for descriptor in (fd, file.fd):
                        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                    self._root.publish(file, key)
            finally:
                file.discard()
        return True

    def resume(self, key: str, token: str) -> Upload:  # noqa: ARG002 - the contract's signature
        """Raise ``NotFound``: a directory's uploads have no tokens, as sending their parts again crosses no network."""
        raise errors.NotFound("the uploaded parts are gone", where=self._root.where(key))

    def remove_stale_uploads(self, age_s: float) -> int:
        """Remove what crashed writers left; a file that someone still writes is locked, and stays."""
        return self._remove_stale_files(time.time() + STALE_AGE_S - age_s)

    def read(self, key: str, offset: int, into: memoryview) -> None:
        """Fill *into* with the object's bytes from *offset*."""
        rest = view_of(into)
        DOWNLOAD.admit_all(len(rest))
        with self.opened(key) as fd, PACE.moving(len(rest)):
            count = self._read_long(key, fd, offset, rest)
            while rest := rest[count:]:
                offset += count
                count = os.preadv(fd, [rest], offset)
                if count == 0:
                    raise self._broken("the object ends before what was to be read", key)

    def get(self, key: str, *, limit_bytes: int) -> bytes:
        """Return a small object."""
        self._root.check()
        with self.opened(key) as fd:
            size_bytes = os.fstat(fd).st_size
            if size_bytes > limit_bytes:
                raise self._broken(f"the object is longer than {limit_bytes} bytes", key)
            content = bytearray(size_bytes)
            got_bytes = os.preadv(fd, [content], 0)
            while 0 < got_bytes < size_bytes:
                more_bytes = os.preadv(fd, [memoryview(content)[got_bytes:]], got_bytes)
                if more_bytes == 0:
                    break
                got_bytes += more_bytes
        if got_bytes != size_bytes:
            raise self._broken("the object ends before its size", key)
        return bytes(content)

    def stat(self, key: str) -> ObjectInfo:
        """Return the object's size and time."""
        check_key(key)
        self._root.check()
        with self._root.reading(key):
            found = self._root.beneath.stat(key.encode())
        self._check_is_file(found, key)
        return ObjectInfo(key, found.st_size, found.st_mtime)

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """Yield every object under *prefix* after *after*."""
        check_prefix(prefix)
        self._root.check()
        yield from objects_below(self._root, prefix[: prefix.rfind("/") + 1], prefix, after)
        # A root that was removed during the listing looks like an empty one.
        self._root.check()

    def strays(self, prefix: str) -> Iterator[tuple[str, str]]:
        """Yield what lies under *prefix* and is not an object, without reading any of it."""
        return strays_below(self._root, prefix)

    def delete(self, key: str) -> None:
        """Delete the object; after a power cut it may be back, which prune expects of any store."""
        check_key(key)
        self._root.check()
        with (
            translating(self._root.where(key), self._root.path),
            contextlib.suppress(FileNotFoundError),
            self._root.beneath.beside(key.encode()) as (directory, name),
        ):
            os.unlink(name, dir_fd=directory)

    def is_transient(self, error: Exception) -> bool:
        """Return whether the operating system's error behind *error* may pass."""
        return is_transient(error)

    def close(self) -> None:
        """Close the root, so that its disk can be unmounted."""
        self._root.close()

    def _read_long(self, key: str, fd: int, offset: int, view: memoryview) -> int:
        """Fill the front of *view* if it is long; return how many bytes: all but a few if *view* is aligned.

        It takes what the page cache holds from there, and reads the rest past it, so that nothing else is evicted.
        """
        if len(view) < DIRECT_FROM_BYTES:
            return 0
        # The few bytes at the edges go through the cache; the kernel must not read ahead around them.
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        done = read_cached(fd, offset, view)
        head_bytes = min(bytes_before_aligned(offset + done), len(view) - done)
        if head_bytes and os.preadv(fd, [view[done : done + head_bytes]], offset + done) < head_bytes:
            return done
        done += head_bytes
        return done + read_direct(lambda flags: self._open(key, flags), offset + done, view[done:])

    def _pending_file(self) -> PendingFile:
        with self._root.creating(os.fsdecode(TMP)):
            self._root.check_writable()
            return PendingFile(self._root.beneath, self._root.access)

    def _remove_stale_files(self, now_s: float) -> int:
        """Remove what crashed writers left; a directory that is no repository has no files of ours."""
        return remove_stale_files(self._root.beneath, now_s=now_s) if self._root.is_repository() else 0

    def _open(self, key: str, flags: int) -> int:
        return self._root.beneath.open_file(key.encode(), flags | _READING)

    @contextmanager
    def opened(self, key: str) -> Iterator[int]:
        """Give the descriptor of an object's file."""
        check_key(key)
        with self._root.reading(key):
            try:
                fd = self._open(key, 0)
            except OSError as error:
                if error.errno in _NOT_OPENED:
                    self._check_is_file(self._root.beneath.stat(key.encode()), key)
                raise
            try:
                self._check_is_file(os.fstat(fd), key)
                yield fd
            finally:
                os.close(fd)

    def _check_is_file(self, found: os.stat_result, key: str) -> None:
        if not stat.S_ISREG(found.st_mode):
            raise self._broken(f"{kind_in_words(found.st_mode)} is where an object should be", key)

    def _broken(self, what: str, key: str) -> errors.StoreBroken:
        return errors.StoreBroken(what, where=self._root.where(key), is_of_object=True)
