"""The base of stores that wrap a store: it forwards the whole protocol; a wrapper overrides only what it changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from mlsync.buffers import Buffer
from mlsync.store.base import ObjectInfo, Store, Upload
from mlsync.store.prices import PriceList, Tier

_Result = TypeVar("_Result")


class WrappingStore(Store):
    """Forwards every call to the wrapped store.

    Every call that works on objects goes through :meth:`call`: a wrapper that treats all of them alike overrides that.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def url(self) -> str:
        """The location of the wrapped store."""
        return self._store.url

    @property
    def part_bytes(self) -> int:
        """The part length of the wrapped store."""
        return self._store.part_bytes

    @property
    def writes_at_once(self) -> int:
        """As many as the wrapped store takes."""
        return self._store.writes_at_once

    @property
    def reads_at_once(self) -> int:
        """As many as the wrapped store takes."""
        return self._store.reads_at_once

    @property
    def conditional_create(self) -> bool:
        """Whether the wrapped store refuses to overwrite."""
        return self._store.conditional_create

    @property
    def is_near(self) -> bool:
        """Whether the wrapped store is near."""
        return self._store.is_near

    @property
    def may_freeze(self) -> bool:
        """Whether objects of the wrapped store can be in cold storage."""
        return self._store.may_freeze

    @property
    def price_list(self) -> PriceList | None:
        """The price list of the wrapped store."""
        return self._store.price_list

    def mirrors(self) -> tuple[Store, ...]:
        """Return the mirrors that the wrapped store knows."""
        return self._store.mirrors()

    def note_mirror(self, key: str, mirror: Store, why: str) -> None:
        """Have the wrapped store note it."""
        self._store.note_mirror(key, mirror, why)

    def configure(self, *, conditional_create: bool, warn: Callable[[str], None]) -> None:
        """Configure the wrapped store."""
        self._store.configure(conditional_create=conditional_create, warn=warn)

    def call(self, method: str, key: str, work: Callable[[], _Result]) -> _Result:  # noqa: ARG002 - for overrides
        """Return what *work*, a call of the wrapped store, returns; an upload's methods are ``upload.write`` and so on.

        *key* is what the call is about: a key, a prefix, or nothing.
        """
        return work()

    def wrap_upload(self, key: str, upload: Upload) -> Upload:
        """Return the upload that ``upload`` and ``resume`` return for the wrapped store's *upload*."""
        return WrappingUpload(self, key, upload)

    def probe(self) -> bool:
        """Find out by writing what the wrapped store can do."""
        return self.call("probe", "", self._store.probe)

    def put(self, key: str, body: Buffer) -> None:
        """Create the object *key*."""
        self.call("put", key, lambda: self._store.put(key, body))

    def replace(self, key: str, body: Buffer) -> None:
        """Put *body* in the place of the object *key*."""
        self.call("replace", key, lambda: self._store.replace(key, body))

    def upload(self, key: str) -> Upload:
        """Begin an object in parts."""
        return self.wrap_upload(key, self.call("upload", key, lambda: self._store.upload(key)))

    @property
    def innermost(self) -> Store:
        """The store that does the work."""
        return self._store.innermost

    def copies_from(self, source: Store) -> bool:
        """Return whether the wrapped store may copy from *source*."""
        return self._store.copies_from(source.innermost)

    def copy_from(self, source: Store, key: str, size_bytes: int) -> bool:
        """Have the wrapped store copy an object."""
        return self.call("copy_from", key, lambda: self._store.copy_from(source.innermost, key, size_bytes))

    def resume(self, key: str, token: str) -> Upload:
        """Continue an upload."""
        return self.wrap_upload(key, self.call("resume", key, lambda: self._store.resume(key, token)))

    def remove_stale_uploads(self, age_s: float) -> int:
        """Remove unfinished uploads that are older than *age_s*."""
        return self.call("remove_stale_uploads", "", lambda: self._store.remove_stale_uploads(age_s))

    def read(self, key: str, offset: int, into: memoryview) -> None:
        """Fill *into* with the object's bytes from *offset*."""
        self.call("read", key, lambda: self._store.read(key, offset, into))

    def get(self, key: str, *, limit_bytes: int) -> bytes:
        """Return a small object."""
        return self.call("get", key, lambda: self._store.get(key, limit_bytes=limit_bytes))

    def stat(self, key: str) -> ObjectInfo:
        """Return the object's size and time."""
        return self.call("stat", key, lambda: self._store.stat(key))

    def keep_for(self, key: str, period_s: float, left_s: float) -> bool:
        """Lock the object, if its lock ends within *left_s*."""
        return self.call("keep_for", key, lambda: self._store.keep_for(key, period_s, left_s))

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """Yield every object under *prefix* after *after*."""
        return self.call("list", prefix, lambda: self._store.list(prefix, after=after))

    def strays(self, prefix: str) -> Iterator[tuple[str, str]]:
        """Yield what the wrapped store does not list."""
        return iter(self.call("strays", prefix, lambda: tuple(self._store.strays(prefix))))

    def days_to_class(self, prefix: str) -> Mapping[str, int]:
        """Return when the wrapped store moves objects to which class."""
        return self.call("days_to_class", prefix, lambda: self._store.days_to_class(prefix))

    def thaw(self, key: str, *, days: int | None, tier: Tier) -> bool:
        """Have the object made readable."""
        return self.call("thaw", key, lambda: self._store.thaw(key, days=days, tier=tier))

    def delete(self, key: str) -> None:
        """Delete the object."""
        self.call("delete", key, lambda: self._store.delete(key))

    def is_transient(self, error: Exception) -> bool:
        """Return whether the wrapped store calls *error* transient."""
        return self._store.is_transient(error)

    def close(self) -> None:
        """Close the wrapped store."""
        self._store.close()


class WrappingUpload(Upload):
    """Forwards every call to the wrapped upload, through the wrapping store's ``call``."""

    def __init__(self, store: WrappingStore, key: str, upload: Upload) -> None:
        self._store = store
        self._key = key
        self._upload = upload

    def write(self, offset: int, part: Buffer) -> None:
        """Send a part."""
        self._store.call("upload.write", self._key, lambda: self._upload.write(offset, part))

    def finish(self, size_bytes: int) -> None:
        """Create the object."""
        self._store.call("upload.finish", self._key, lambda: self._upload.finish(size_bytes))

    def abort(self) -> None:
        """Discard the parts."""
        self._store.call("upload.abort", self._key, self._upload.abort)

    def resume_token(self) -> str | None:
        """Return the wrapped upload's token."""
        return self._upload.resume_token()
