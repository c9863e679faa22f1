"""The one layer that tries again: a store around a store that decides nothing itself about what is worth it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import tenacity

from mlsync import errors
from mlsync.buffers import Buffer
from mlsync.store.base import ObjectInfo, Store, Upload

TRIES_MAX = 12
# Whatever the time: one answer that never comes takes as long as many that come late, and must not end a backup.
TRIES_MIN = 3
BUDGET_S = 60.0
_WAIT_FIRST_S = 0.25
_WAIT_MAX_S = 20.0
_LIST_BATCH_COUNT = 1000

_Result = TypeVar("_Result")
OnWait = Callable[[str, errors.StoreError, float], None]


class RetryingStore:
    """Tries each call again while the inner store calls its error transient, within a number of tries and a time.

    Waits are exponential with full jitter, so that many agents do not come back at the same moment, and not shorter
    than the store asked for. The time ends no call before its *tries_min*-th try, unless the store asks for a wait that
    is longer than all of it. After the last try ``StoreUnavailable`` says how many there were. A create whose answer
    was lost and that is refused when it is tried again has succeeded if the object is ours.

    *on_wait* is told the call, the error and the seconds to wait, before each wait.
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
        self._store = store
        self._budget_s = budget_s
        self._tries_max = tries_max
        self._tries_min = tries_min
        self._sleep = sleep
        self._clock = clock
        self._on_wait = on_wait

    @property
    def url(self) -> str:
        """The inner store's place."""
        return self._store.url

    @property
    def part_bytes(self) -> int:
        """The inner store's part length."""
        return self._store.part_bytes

    @property
    def writes_at_once(self) -> int:
        """As many as of the inner store."""
        return self._store.writes_at_once

    @property
    def reads_at_once(self) -> int:
        """As many as of the inner store."""
        return self._store.reads_at_once

    def put(self, key: str, body: Buffer) -> None:
        """Create the object *key*; an object that an earlier try made is the same success."""

        def is_ours() -> bool:
            size_bytes = memoryview(body).nbytes
            if self.stat(key).size_bytes != size_bytes:
                return False
            return memoryview(self.get(key, limit_bytes=size_bytes)) == memoryview(body).cast("B")

        self.create("put", lambda: self._store.put(key, body), is_ours)

    def upload(self, key: str) -> Upload:
        """Begin an object whose parts are each tried again."""
        return _RetryingUpload(self, key, self.call("upload", lambda: self._store.upload(key)))

    def resume(self, key: str, ticket: str) -> Upload:
        """Go on with an upload, whose parts are each tried again."""
        return _RetryingUpload(self, key, self.call("resume", lambda: self._store.resume(key, ticket)))

    def sweep(self, age_s: float) -> int:
        """Old uploads that nobody finished are gone."""
        return self.call("sweep", lambda: self._store.sweep(age_s))

    def read(self, key: str, offset: int, into: memoryview) -> None:
        """Fill *into* with the object's bytes from *offset*."""
        self.call("read", lambda: self._store.read(key, offset, into))

    def get(self, key: str, *, limit_bytes: int) -> bytes:
        """The whole of a small object."""
        return self.call("get", lambda: self._store.get(key, limit_bytes=limit_bytes))

    def stat(self, key: str) -> ObjectInfo:
        """The object's size and time."""
        return self.call("stat", lambda: self._store.stat(key))

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """Every object under *prefix* after *after*; a listing that broke goes on after the last object it gave."""
        listing = _Listing(self._store, prefix, after)
        while batch := self.call("list", listing.next_batch):
            yield from batch

    def strays(self, prefix: str) -> Iterator[tuple[str, str]]:
        """What the inner store does not list."""
        yield from self.call("strays", lambda: tuple(self._store.strays(prefix)))

    def delete(self, key: str) -> None:
        """The object is gone."""
        self.call("delete", lambda: self._store.delete(key))

    def is_transient(self, error: Exception) -> bool:
        """Whether the inner store calls *error*, or the last of the tries that it ended, transient."""
        last = error.__cause__
        return self._store.is_transient(last if isinstance(last, errors.StoreError) else error)

    def close(self) -> None:
        """Close the inner store."""
        self._store.close()

    def create(self, what: str, make: Callable[[], None], is_ours: Callable[[], bool]) -> None:
        """*make* has succeeded, be it in a try that seemed to fail."""
        has_failed = False

        def attempt() -> None:
            nonlocal has_failed
            try:
                make()
            except errors.StoreError as error:
                has_failed = has_failed or self._store.is_transient(error)
                raise

        try:
            self.call(what, attempt)
        except (errors.AlreadyExists, errors.NotFound) as refusal:
            # NotFound: an upload that an earlier try completed is no longer there to be completed.
            if not has_failed or not self._is_there_and(is_ours):
                raise refusal from None

    def call(self, what: str, work: Callable[[], _Result]) -> _Result:
        """What *work* gives, after as many tries as it takes and may take."""
        began_s = self._clock()

        def is_over(state: tenacity.RetryCallState) -> bool:
            if state.attempt_number >= self._tries_max or state.upcoming_sleep > max(self._budget_s, _WAIT_MAX_S):
                return True
            ends_s = self._clock() - began_s + state.upcoming_sleep
            return state.attempt_number >= self._tries_min and ends_s > self._budget_s

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(self._is_worth_another_try),
            wait=_wait_s,
            stop=is_over,
            sleep=self._sleep,
            before_sleep=lambda state: self._tell(what, state),
            retry_error_callback=lambda state: _give_up(what, state),
        )
        return retrying(work)

    def _is_worth_another_try(self, error: BaseException) -> bool:
        return isinstance(error, errors.StoreError) and self._store.is_transient(error)

    def _is_there_and(self, is_ours: Callable[[], bool]) -> bool:
        try:
            return is_ours()
        except errors.NotFound:
            return False

    def _tell(self, what: str, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        if self._on_wait is not None and isinstance(error, errors.StoreError):
            self._on_wait(what, error, state.upcoming_sleep)


class _RetryingUpload:
    """Tries parts and the finish again; ``abort`` never raises and is not worth waiting for."""

    def __init__(self, store: RetryingStore, key: str, upload: Upload) -> None:
        self._store = store
        self._key = key
        self._upload = upload

    def write(self, offset: int, part: Buffer) -> None:
        self._store.call("upload.write", lambda: self._upload.write(offset, part))

    def finish(self, size_bytes: int) -> None:
        # An object of that size under that key is ours: keys of uploads are random and nobody else's.
        def is_ours() -> bool:
            return self._store.stat(self._key).size_bytes == size_bytes

        self._store.create("upload.finish", lambda: self._upload.finish(size_bytes), is_ours)

    def abort(self) -> None:
        self._upload.abort()

    def ticket(self) -> str | None:
        return self._upload.ticket()


class _Listing:
    """A listing in batches, which begins again after the last object when it breaks."""

    def __init__(self, store: Store, prefix: str, after: str) -> None:
        self._store = store
        self._prefix = prefix
        self._after = after
        self._objects: Iterator[ObjectInfo] | None = None

    def next_batch(self) -> list[ObjectInfo]:
        """The next objects; none at the end. What came before an error is given, and the error met again."""
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


_jitter_s = tenacity.wait_random_exponential(multiplier=_WAIT_FIRST_S, max=_WAIT_MAX_S)


def _wait_s(state: tenacity.RetryCallState) -> float:
    """Return a wait by chance, longer with each try, and no shorter than the store asked for."""
    error = state.outcome.exception() if state.outcome is not None else None
    asked_s = error.retry_after_s if isinstance(error, errors.StoreError) else 0.0
    return max(_jitter_s(state), asked_s)


def _give_up(what: str, state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome is not None else None
    if not isinstance(error, errors.StoreError):
        msg = "only errors of the store are tried again"
        raise TypeError(msg)
    tries = "1 try" if state.attempt_number == 1 else f"{state.attempt_number} tries"
    text = f"The store still fails after {tries} of {what}: {error.what}"
    raise errors.StoreUnavailable(text, where=error.where, advice=error.advice) from error


_CONFORMS: type[Store] = RetryingStore
