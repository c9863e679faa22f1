"""What a store is: named objects, created once, read in ranges, listed, deleted. Nothing else is asked of one.

The contract, which ``tests/store/test_store_contract.py`` runs over every store and wrapper:

- A key is lower-case ASCII letters, digits, ``-``, ``.`` and ``/``; no empty part, no part ``.`` or ``..``; at most
  512 bytes; the first part is not ``tmp``, which a directory keeps for what is not finished. No key goes on with a
  ``/`` where another ends (a file system cannot hold both), and none with ``-`` or ``.`` where others go on with a
  ``/`` (some S3 servers then list in another order than that of the bytes, which is refused). Keys are our own and
  never hold a user's words.
- An object comes into being whole or not at all, and never changes. ``put`` and ``Upload.finish`` return only when it
  is durable: what they said is there after a power cut. If the key is taken they raise ``AlreadyExists`` and leave
  the object as it was.
- ``list`` gives every object under the prefix in key order or raises; it never gives a short answer as a whole one.
- An object that was made is seen by the next ``stat``, ``read`` and ``list`` (S3 since 2020, every file system).
- Every error is a ``mlsync.errors.StoreError``, but for ``RepositoryMissing`` where the whole place is gone. Which of
  them are worth another try is said by ``is_transient``, which is asked by ``RetryingStore`` alone; no store retries by
  itself.
- Methods are called from several threads at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from mlsync.buffers import Buffer

KEY_BYTES_MAX = 512
# What to do about an object in cold storage.
THAW = (
    "Have the store restore it for some days (aws s3api restore-object; docs/s3.md has the lines), wait until that is "
    "done, and run this again"
)
# The object that every repository has from its beginning to its end.
MARKER = "repository"
_KEY = re.compile(r"[a-z0-9.-]+(?:/[a-z0-9.-]+)*")


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object as a listing or a stat shows it; *modified_s* is the store's clock, seconds since 1970.

    *is_archived* says that it lies in cold storage and cannot be read now.
    """

    key: str
    size_bytes: int
    modified_s: float
    is_archived: bool = False


class Upload(Protocol):
    """A large object on its way, in parts; nothing is visible before ``finish``.

    Parts are ``Store.part_bytes`` long except the last, and may be written in any order, from several threads, and
    again (the same bytes) after a failure.
    """

    def write(self, offset: int, part: Buffer) -> None:
        """Send the part that begins at *offset*, a multiple of ``part_bytes``; *part* may be reused on return."""

    def finish(self, size_bytes: int) -> None:
        """Make the object appear, whole and durable; raise ``AlreadyExists`` if the key was taken meanwhile."""

    def abort(self) -> None:
        """Forget the parts; never raises, and is allowed after ``finish``, where it does nothing."""

    def ticket(self) -> str | None:
        """What ``Store.resume`` needs to go on with the parts that are written by now, in another process even.

        ``None`` where this store cannot go on with an upload, or has not heard of this one yet. It is no secret, and
        good for nothing to whom the store does not know.
        """


class Store(Protocol):
    """Named objects in one place."""

    @property
    def url(self) -> str:
        """The place in words that may be shown: never with a secret in it."""

    @property
    def part_bytes(self) -> int:
        """The length of an upload's parts."""

    @property
    def writes_at_once(self) -> int:
        """How many uploads at a time keep the store busy; each costs its caller the memory of a part and more.

        It may be another number after each call, as the store is learned to know; whoever goes by it asks again.
        """

    @property
    def reads_at_once(self) -> int:
        """How many reads at a time keep the store busy; as above."""

    def put(self, key: str, body: Buffer) -> None:
        """Create the object *key*; the whole of *body* is there, durable, or nothing is."""

    def upload(self, key: str) -> Upload:
        """Begin an object that is too large, or not ready, to be put at once."""

    def resume(self, key: str, ticket: str) -> Upload:
        """Go on with the upload that gave *ticket*, which has the parts that it had then.

        ``NotFound`` if they are not there, or not all of them: it was finished, aborted, or swept away. Nothing of it
        is left to be paid for then.
        """

    def sweep(self, age_s: float) -> int:
        """Uploads that began more than *age_s* ago and were not finished are gone; give how many there were."""

    def read(self, key: str, offset: int, into: memoryview) -> None:
        """Fill *into* with the object's bytes from *offset*; ``StoreBroken``, of the object, if it ends before that.

        An empty *into* is full already: the store may not even look whether the object is there.
        """

    def get(self, key: str, *, limit_bytes: int) -> bytes:
        """The whole of a small object; ``StoreBroken``, of the object, if it is longer than *limit_bytes*."""

    def stat(self, key: str) -> ObjectInfo:
        """The object's size and time; ``NotFound`` if it is not there."""

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """Every object whose key begins with *prefix* and sorts after *after*, in key order."""

    def strays(self, prefix: str) -> Iterator[tuple[str, str]]:
        """What lies under *prefix*, which ends in ``/``, and is not listed: its name, and what it is.

        Of a file system that is what is no file, directories too, and files whose names are no keys.
        """

    def delete(self, key: str) -> None:
        """The object is gone afterwards; one that was not there is no error."""

    def is_transient(self, error: Exception) -> bool:
        """Whether the same call may well succeed later."""

    def close(self) -> None:
        """Give back connections and files; the store is not used afterwards."""


def check_key(key: str) -> str:
    """Give *key* back, or raise ``ValueError``: a wrong key is a bug of ours, never a user's."""
    parts = key.split("/")
    if len(key) > KEY_BYTES_MAX or not _KEY.fullmatch(key) or parts[0] == "tmp" or not {".", ".."}.isdisjoint(parts):
        msg = f"not an object key: {key!r}"
        raise ValueError(msg)
    return key


def is_key(text: str) -> bool:
    """Whether *text* could be one of our objects; what else lies in the place is somebody else's and not shown."""
    try:
        check_key(text)
    except ValueError:
        return False
    return True


def check_prefix(prefix: str) -> str:
    """Give *prefix* back, or raise ``ValueError`` if no key can begin so."""
    if prefix and not is_key(prefix + "x"):
        msg = f"not the beginning of an object key: {prefix!r}"
        raise ValueError(msg)
    return prefix


def view_of(body: Buffer) -> memoryview:
    """*body* as plain bytes without a copy, whatever the shape and item type that it had."""
    return memoryview(body).cast("B")
