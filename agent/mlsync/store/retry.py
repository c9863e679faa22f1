"""The one layer that retries: a store around a store, which itself never decides what is worth a retry."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from mlsync import errors
from mlsync.buffers import Buffer
from mlsync.store.base import ObjectInfo, Store, Upload, view_of
from mlsync.store.wrapping import WrappingStore, WrappingUpload

TRIES_MAX = 12
# At least so many, however long they take: one answer that never comes takes as long as many that come late, and must
# not end a backup.
TRIES_MIN = 3
BUDGET_S = 60.0
_LIST_BATCH_COUNT = 1000

_Result = TypeVar("_Result")
OnWait = Callable[[str, errors.StoreError, float], None]


class RetryingStore(WrappingStore):
    """Retries each call while the wrapped store calls its error transient, up to a number of tries and a time.

    Waits grow exponentially with full jitter, so that many agents do not come back at the same moment, and are never
    shorter than the store asked for. The time limit ends no call before its *tries_min*-th try, unless the store asks
    for a wait that is longer than the whole limit. After the last try, ``StoreUnavailable`` says how many there were.
    A create whose answer was lost, and which the store refuses on the next try, has succeeded if the object is ours.

    *on_wait* gets the call, the error and the seconds to wait, before each wait.
    """

    def __init__(
        self,
        store: Store,
        *,
        budget_s: float = BUDGET_S,
        tries_max: int = TRIES_MAX,
        tries_min: int = TRIES_MIN,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        on_wait: OnWait | None = None,
    ) -> None:
        super().__init__(store)
        self._budget_s = budget_s
        self._tries_max = tries_max
        self._tries_min = tries_min
        self._sleep = sleep
        self._clock = clock
        self._on_wait = on_wait

    def wrap_upload(self, key: str, upload: Upload) -> Upload:
        """Return an upload that retries its parts."""
        return _RetryingUpload(self, key, upload)

    def put(self, key: str, body: Buffer) -> None:
        """Create the object *key*; if an earlier try created it, that is the same success."""

        def is_ours() -> bool:
            view = view_of(body)
            if self.stat(key).size_bytes != view.nbytes:
                return False
            return self.get(key, limit_bytes=view.nbytes) == view

        self.create("put", key, lambda: self._store.put(key, body), is_ours)

    def copy_from(self, source: Store, key: str, size_bytes: int) -> bool:
        """Copy an object; if an earlier try made it, that is the same success: its key is random."""
        was_copied = True

        def make() -> None:
            nonlocal was_copied
            was_copied = self._store.copy_from(source.innermost, key, size_bytes)

        self.create("copy_from", key, make, lambda: self.stat(key).size_bytes == size_bytes)
        return was_copied

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """Yield every object under *prefix* after *after*; a broken listing continues after its last object."""
        listing = _Listing(self._store, prefix, after)
        while batch := self.call("list", prefix, listing.next_batch):
            yield from batch

    def is_transient(self, error: Exception) -> bool:
        """Return whether the wrapped store calls *error*, or the last error of the tries behind it, transient."""
        last = error.__cause__
        return self._store.is_transient(last if isinstance(last, errors.StoreError) else error)

    def create(self, method: str, key: str, make: Callable[[], None], is_ours: Callable[[], bool]) -> None:
        """Return when *make* has succeeded, even if its try seemed to fail."""
        has_failed = False

        def attempt() -> None:
            nonlocal has_failed
            try:
                make()
            except errors.StoreError as error:
                has_failed = has_failed or self._store.is_transient(error)
                raise

        try:
            self.call(method, key, attempt)
        except (errors.AlreadyExists, errors.NotFound) as refusal:
            # NotFound: an upload that an earlier try completed is no longer there to be completed.
            if not has_failed or not self._is_there_and(is_ours):
                raise refusal from None

    def call(self, method: str, key: str, work: Callable[[], _Result]) -> _Result:  # noqa: ARG002 - the base's signature
        """Return what *work* returns, after as many tries as it needs and may have."""
        began_s = self._clock()
        try:
            return work()
        except errors.StoreError as error:
            if not self._store.is_transient(error):
                raise
            failed = error
        from mlsync.store.tries import Tries, TryLimits  # late, with tenacity: nearly every first try is the last one

        limits = TryLimits(self._tries_max, self._tries_min, self._budget_s)
        tries = Tries(limits, self._is_worth_a_retry, self._sleep, self._clock, self._on_wait)
        return tries.go_on(method, work, failed, began_s)

    def _is_worth_a_retry(self, error: BaseException) -> bool:
        return isinstance(error, errors.StoreError) and self._store.is_transient(error)

    def _is_there_and(self, is_ours: Callable[[], bool]) -> bool:
        try:
            return is_ours()
        except errors.NotFound:
            return False


class _RetryingUpload(WrappingUpload):
    """Retries parts through the base, and knows the object of a ``finish`` whose answer was lost."""

    def __init__(self, store: RetryingStore, key: str, upload: Upload) -> None:
        super().__init__(store, key, upload)
        self._retrying = store

    def finish(self, size_bytes: int) -> None:
        # An object of that size under that key is ours: an upload's key is random, and no one else has it.
        def is_ours() -> bool:
            return self._retrying.stat(self._key).size_bytes == size_bytes

        self._retrying.create("upload.finish", self._key, lambda: self._upload.finish(size_bytes), is_ours)


class _Listing:
    """A listing in batches; when it breaks, it begins again after the last object."""

    def __init__(self, store: Store, prefix: str, after: str) -> None:
        self._store = store
        self._prefix = prefix
        self._after = after
        self._objects: Iterator[ObjectInfo] | None = None

    def next_batch(self) -> list[ObjectInfo]:
        """Return the next objects, none at the end; an error comes after the objects before it, on the next call."""
        if self._objects is None:
            self._objects = self._store.list(self._prefix, after=self._after)
        batch: list[ObjectInfo] = []
        try:
            batch.extend(itertools.islice(self._objects, _LIST_BATCH_COUNT))
        except errors.StoreError:
            self._objects = None
            if not batch:
                raise
        if batch:
            self._after = batch[-1].key
        return batch
