"""What a store is: named objects that are created once, read in ranges, listed and deleted.

``tests/store/test_store_contract.py`` runs this contract over every store and every wrapper:

- A key consists of lower-case ASCII letters, digits, ``-``, ``.`` and ``/``. It has no empty part, no part ``.`` or
  ``..``, at most 512 bytes, and does not begin with the part ``tmp``, which a directory uses for temporary files. No
  key is a directory of another key, because a file system cannot hold both. Where keys continue a name with ``/``, no
  other key continues it with ``-`` or ``.``: some S3 servers do not list those in byte order, and mlsync rejects such
  a listing. mlsync makes all keys; they never contain a user's words.
- An object is created whole or not at all, and never changes, except that prune may ``replace`` it. ``put``,
  ``replace`` and ``Upload.finish`` return only when the object is durable: it survives a power cut. If the key exists,
  ``put`` and ``Upload.finish`` raise ``AlreadyExists`` and leave the object unchanged.
- ``list`` yields every object under the prefix in key order, or raises. It never ends early without an error.
- The next ``stat``, ``read`` and ``list`` see a created object (S3 since 2020, every file system).
- Every error is a ``mlsync.errors.StoreError``, except ``RepositoryMissing`` if the whole location is gone.
  ``is_transient`` says which of them are worth a retry. Only ``RetryingStore`` retries; no store retries by itself.
- Several threads call the methods at once.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import msgspec

from mlsync.buffers import Buffer
from mlsync.store.prices import PriceList, Tier

KEY_BYTES_MAX = 512
# What to do about an archived object.
ARCHIVED_ADVICE = (
    "mlsync restore --thaw standard has the store thaw what a version needs, and waits; docs/s3.md, Cold storage"
)
# The object that every repository has from its creation to its end.
MARKER = "repository"
_KEY = re.compile(r"[a-z0-9.-]+(?:/[a-z0-9.-]+)*")


class ObjectInfo(msgspec.Struct, frozen=True):
    """An object as ``list`` or ``stat`` reports it; *modified_s* is seconds since 1970 by the store's clock.

    *is_archived* says that the object is in cold storage and cannot be read now, *is_thawing* that somebody has asked
    for it already, and *thawed_until_s* when a thawed copy goes away again. *storage_class* is the store's own name for
    where the object lies, empty if the store did not say.
    """

    key: str
    size_bytes: int
    modified_s: float
    is_archived: bool = False
    storage_class: str = ""
    is_thawing: bool = False
    thawed_until_s: float | None = None


class Upload(Protocol):
    """The upload of a large object in parts; the object does not exist before ``finish``.

    Every part is ``Store.part_bytes`` long, except the last. Several threads may write parts in any order, and write
    the same bytes again after a failure.
    """

    @abstractmethod
    def write(self, offset: int, part: Buffer) -> None:
        """Send the part at *offset*, a multiple of ``part_bytes``; the caller may reuse *part* afterwards."""

    @abstractmethod
    def finish(self, size_bytes: int) -> None:
        """Create the object, whole and durable; raise ``AlreadyExists`` if the key exists by now."""

    @abstractmethod
    def abort(self) -> None:
        """Discard the parts; never raises, and does nothing after ``finish``."""

    def resume_token(self) -> str | None:
        """Return what ``Store.resume`` needs to continue with the parts written so far, even in another process.

        ``None`` if the store cannot continue this upload, or does not know of it yet. The token is not secret: it is
        useless without access to the store.
        """
        return None


class Store(Protocol):
    """Named objects in one location. Stores inherit from it: what they do not define is the default given here."""

    @property
    @abstractmethod
    def url(self) -> str:
        """The location, without any secret: it is shown to people."""

    @property
    @abstractmethod
    def part_bytes(self) -> int:
        """The length of an upload's parts."""

    @property
    @abstractmethod
    def writes_at_once(self) -> int:
        """How many concurrent uploads keep the store busy; each costs its caller the memory of a part and more.

        The store may change it after every call, as it measures its speed; callers ask again each time.
        """

    @property
    @abstractmethod
    def reads_at_once(self) -> int:
        """How many concurrent reads keep the store busy; it changes like ``writes_at_once``."""

    @property
    def conditional_create(self) -> bool:
        """Whether the store refuses to overwrite an object even when two writers create it at the same moment."""
        return True

    @property
    def is_near(self) -> bool:
        """Whether reading costs no egress and hardly any time: a directory."""
        return False

    def mirrors(self) -> tuple[Store, ...]:
        """Return other stores with the same objects, which readers ask for what is damaged or missing here.

        What comes from them is checked by the same seals. Whoever writes, deletes or commits has a store without any.
        """
        return ()

    def note_mirror(self, key: str, mirror: Store, why: str) -> None:
        """Note that *mirror* gave the object *key*, and *why* this store did not."""
        del key, mirror, why  # by default there are no mirrors

    def configure(self, *, conditional_create: bool, warn: Callable[[str], None]) -> None:
        """Set what `init` found out about the store, and call *warn* with what a person should know about it later."""
        del conditional_create, warn  # by default there is nothing to set, and nothing to warn of

    def probe(self) -> bool:
        """Find out by writing what the store can do, and return ``conditional_create``; what was written is gone then.

        For whoever makes a repository: it needs the right to write.
        """
        return self.conditional_create  # by default it is known without writing

    @abstractmethod
    def put(self, key: str, body: Buffer) -> None:
        """Create the object *key* with all of *body*, durable, or create nothing."""

    @abstractmethod
    def replace(self, key: str, body: Buffer) -> None:
        """Put *body* in the place of the object *key*, durably and in one step: at no moment is the key free.

        If there is no such object, this creates it. It needs the right to overwrite.
        """

    @abstractmethod
    def upload(self, key: str) -> Upload:
        """Begin an object that is too large to ``put``, or is not complete yet."""

    @property
    def innermost(self) -> Store:
        """The store itself, without what is wrapped around it."""
        return self

    def copies_from(self, source: Store) -> bool:  # noqa: ARG002 - stores that cannot do it have no use for it
        """Return whether ``copy_from`` of that *source* may work, without a request."""
        return False

    def copy_from(self, source: Store, key: str, size_bytes: int) -> bool:  # noqa: ARG002 - as above
        """Create the object *key* from *source*'s object of that key and size; no byte passes through this process.

        Return ``False``, with nothing created, if the store refuses to; the caller then reads and writes. Raise
        ``NotFound`` if *source* has no such object, and ``AlreadyExists`` if this store has one.
        """
        return False

    @abstractmethod
    def resume(self, key: str, token: str) -> Upload:
        """Continue the upload that returned *token*, with the parts that it had then.

        Raise ``NotFound`` if any of them is gone: the upload was finished, aborted, or removed as stale. The store then
        keeps none of its parts.
        """

    @abstractmethod
    def remove_stale_uploads(self, age_s: float) -> int:
        """Remove unfinished uploads that began more than *age_s* ago; return how many there were."""

    @abstractmethod
    def read(self, key: str, offset: int, into: memoryview) -> None:
        """Fill *into* with the object's bytes from *offset*.

        Raise ``StoreBroken``, of the object, if the object ends too early. If *into* is empty, the store may return
        without looking whether the object exists.
        """

    @abstractmethod
    def get(self, key: str, *, limit_bytes: int) -> bytes:
        """Return a small object; raise ``StoreBroken``, of the object, if it is longer than *limit_bytes*."""

    @abstractmethod
    def stat(self, key: str) -> ObjectInfo:
        """Return the object's size and time; raise ``NotFound`` if it does not exist."""

    def keep_for(self, key: str, period_s: float, left_s: float) -> bool:  # noqa: ARG002 - for stores that lock
        """Lock the object for *period_s* from now on if its lock ends within *left_s*; return whether that was done.

        Nobody may delete or overwrite a locked object's bytes. Raise ``NotFound`` if it does not exist. A store that
        does not lock its new objects does nothing.
        """
        return False

    @abstractmethod
    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """Yield every object whose key begins with *prefix* and sorts after *after*, in key order."""

    @property
    def may_freeze(self) -> bool:
        """Whether objects can be in cold storage here, so that it is worth a request to look."""
        return False

    @property
    def price_list(self) -> PriceList | None:
        """What the store charges by its public list; ``None`` if nobody knows."""
        return None

    def days_to_class(self, prefix: str) -> Mapping[str, int]:  # noqa: ARG002 - where nothing is moved
        """Return after how many days the store itself moves objects under *prefix* to which storage class.

        Empty if it moves none. Raise a ``StoreError`` if it does not say.
        """
        return {}

    def thaw(self, key: str, *, days: int | None, tier: Tier) -> bool:  # noqa: ARG002 - where nothing is cold
        """Have an archived object made readable for some *days* (``None``: for good), and return at once.

        ``stat`` tells when it is done. Return whether this call made the request: ``False`` if the object can be read,
        or the same was asked for before. Raise ``ThawRefused`` if the store does not do it this way.
        """
        return False

    def strays(self, prefix: str) -> Iterator[tuple[str, str]]:  # noqa: ARG002 - stores that hold only objects have none
        """Yield the name and kind of everything under *prefix*, which ends in ``/``, that ``list`` leaves out.

        In a file system that is everything except files, directories included, and files whose names are not keys.
        """
        return iter(())

    @abstractmethod
    def delete(self, key: str) -> None:
        """Delete the object; do nothing if it does not exist."""

    @abstractmethod
    def is_transient(self, error: Exception) -> bool:
        """Return whether the same call may succeed later."""

    @abstractmethod
    def close(self) -> None:
        """Release connections and files; the store is not used afterwards."""


def check_key(key: str) -> str:
    """Return *key*, or raise ``ValueError``: a wrong key is a bug in mlsync, never the user's mistake."""
    parts = key.split("/")
    if len(key) > KEY_BYTES_MAX or not _KEY.fullmatch(key) or parts[0] == "tmp" or not {".", ".."}.isdisjoint(parts):
        msg = f"not an object key: {key!r}"
        raise ValueError(msg)
    return key


def is_key(text: str) -> bool:
    """Return whether *text* could be the key of an object; anything else in the store is not mlsync's."""
    try:
        check_key(text)
    except ValueError:
        return False
    return True


def check_prefix(prefix: str) -> str:
    """Return *prefix*, or raise ``ValueError`` if no key can begin with it."""
    if prefix and not is_key(prefix + "x"):
        msg = f"not the beginning of an object key: {prefix!r}"
        raise ValueError(msg)
    return prefix


def view_of(body: Buffer) -> memoryview:
    """Return *body* as plain bytes without a copy, whatever its shape and item type."""
    return memoryview(body).cast("B")
