"""A store that fails on request, for tests: errors, lost answers, damaged bytes, and a process that dies."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar

from mlsync import errors
from mlsync.store.base import ObjectInfo, Store, Upload
from mlsync.store.wrapping import WrappingStore, WrappingUpload

_Result = TypeVar("_Result")


class ProcessDied(BaseException):
    """Raised by every call of a dead process; not an ``Exception``, so that the code under test cannot catch it."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong, and when.

    The store counts the calls of *method* (all calls, if None; an upload's are ``upload.write``, ``upload.finish``,
    ``upload.abort``) from 1. The fault hits call *nth*, and all later ones too if it *lasts*.

    ``before``: the call raises *error* and has no effect. ``after``: it has its effect and then raises *error*, as if
    its answer was lost; a listing breaks after half of its objects.
    ``die-before``, ``die-after``: the same with :class:`ProcessDied`, and no later call has any effect.
    ``flip``: one bit of what was read is wrong. ``truncate``: a read ends in the middle of the object.
    ``short``: a listing ends after half of its objects without an error.
    """

    kind: Literal["before", "after", "die-before", "die-after", "flip", "truncate", "short"]
    nth: int = 1
    method: str | None = None
    lasts: bool = False
    error: errors.StoreError | None = None
    is_transient: bool = True


class FaultyStore(WrappingStore):
    """Forwards every call, except those that one of *faults* hits; ``calls`` has all calls in order."""

    def __init__(self, store: Store, *faults: Fault) -> None:
        super().__init__(store)
        self._faults = list(faults)
        self._matched_count = [0] * len(faults)
        self._is_dead = False
        self._transient: list[errors.StoreError] = []
        self._lock = threading.Lock()
        self.calls: list[tuple[str, str]] = []

    @property
    def is_dead(self) -> bool:
        """Whether the process that this store stands for has died."""
        return self._is_dead

    def call(self, method: str, key: str, work: Callable[[], _Result]) -> _Result:
        """Make the call between the fault before it and the fault after it."""
        with self.calling(method, key):
            return work()

    def wrap_upload(self, key: str, upload: Upload) -> Upload:
        """Return an upload whose calls may fail."""
        return _FaultyUpload(self, key, upload)

    def read(self, key: str, offset: int, into: memoryview) -> None:
        """Fill *into* with the object's bytes from *offset*, or with wrong ones."""
        with self.calling("read", key) as fault:
            self._store.read(key, offset, into)
        plain = into.cast("B")
        if fault is not None and fault.kind == "flip" and plain:
            plain[len(plain) // 2] ^= 1
        if fault is not None and fault.kind == "truncate":
            plain[len(plain) // 2 :] = bytes(len(plain) - len(plain) // 2)
            what = "the object ends before what was to be read"
            raise errors.StoreBroken(what, where=f"{self.url}/{key}", is_of_object=True)

    def get(self, key: str, *, limit_bytes: int) -> bytes:
        """Return a small object, or half of it, or a wrong one."""
        with self.calling("get", key) as fault:
            content = bytearray(self._store.get(key, limit_bytes=limit_bytes))
        if fault is not None and fault.kind == "flip" and content:
            content[len(content) // 2] ^= 1
        if fault is not None and fault.kind == "truncate":
            del content[len(content) // 2 :]
        return bytes(content)

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """Yield every object under *prefix* after *after*, or the first half of them."""
        with self.calling("list", prefix) as fault:
            objects = self._store.list(prefix, after=after)
            if fault is None:
                yield from objects
            else:
                found = tuple(objects)
                yield from found[: len(found) // 2]

    def is_transient(self, error: Exception) -> bool:
        """Return whether the fault, or the wrapped store, calls *error* transient."""
        return any(error is known for known in self._transient) or self._store.is_transient(error)

    @contextmanager
    def calling(self, method: str, key: str) -> Iterator[Fault | None]:
        """Raise the fault before the call, or the one after it; give the fault that hits the call, if any."""
        fault = self._fault_of(method, key)
        kind = fault.kind if fault is not None else None
        if fault is not None and kind in ("before", "die-before"):
            self._fail(fault, key)
        yield fault
        if fault is not None and kind in ("after", "die-after"):
            self._fail(fault, key)

    def _fault_of(self, method: str, key: str) -> Fault | None:
        """Return the first fault that hits this call; every fault counts the calls that it matches."""
        with self._lock:
            if self._is_dead:
                raise ProcessDied(method)
            self.calls.append((method, key))
            hit = None
            for index, fault in enumerate(self._faults):
                if fault.method in (None, method):
                    self._matched_count[index] += 1
                    nth = self._matched_count[index]
                    if hit is None and (nth == fault.nth or (fault.lasts and nth > fault.nth)):
                        hit = fault
            if hit is not None and hit.kind == "die-before":
                self._is_dead = True
            return hit

    def _fail(self, fault: Fault, key: str) -> None:
        if fault.kind.startswith("die"):
            self._is_dead = True
            raise ProcessDied(key)
        error = fault.error or errors.StoreUnavailable("a fault was asked for", where=f"{self.url}/{key}")
        if fault.is_transient:
            self._transient.append(error)
        raise error


class _FaultyUpload(WrappingUpload):
    def abort(self) -> None:
        # It never raises; of a dead process, or where a fault stands before it, it has no effect.
        with contextlib.suppress(ProcessDied, errors.StoreError):
            super().abort()
