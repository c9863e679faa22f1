"""A store that fails as it is told to, for tests: errors, lost answers, damaged bytes, and a process that dies."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from mlsync import errors
from mlsync.buffers import Buffer
from mlsync.store.base import ObjectInfo, Store, Upload


class ProcessDied(BaseException):
    """What a call after one's own death raises: no ``except Exception`` of the code under test may survive it."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong, and when.

    The calls that match *method* (any, if None; an upload's are ``upload.write``, ``upload.finish``,
    ``upload.abort``) are counted from 1; the fault meets call *nth*, and all later ones too if it *lasts*.

    ``before``: *error* is raised and nothing happens. ``after``: it happens, then *error* is raised: a lost answer; of
    a listing, one that breaks after half of its objects.
    ``die-before``, ``die-after``: the same with :class:`ProcessDied`, and from then on nothing of any method happens.
    ``flip``: one bit of what was read is another; ``truncate``: a read ends in the middle of the object;
    ``short``: a listing ends after half of its objects and says nothing.
    """

    kind: Literal["before", "after", "die-before", "die-after", "flip", "truncate", "short"]
    nth: int = 1
    method: str | None = None
    lasts: bool = False
    error: errors.StoreError | None = None
    is_transient: bool = True


class FaultyStore:
    """Passes every call on, except where one of *faults* says otherwise; ``calls`` are all that were made, in order."""

    def __init__(self, store: Store, *faults: Fault) -> None:
        self._store = store
        self._faults = list(faults)
        self._matched_count = [0] * len(faults)
        self._is_dead = False
        self._transient: list[errors.StoreError] = []
        self._lock = threading.Lock()
        self.calls: list[tuple[str, str]] = []

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

    @property
    def is_dead(self) -> bool:
        """Whether the process that this store stands for has died."""
        return self._is_dead

    def put(self, key: str, body: Buffer) -> None:
        """Create the object *key*."""
        with self.calling("put", key):
            self._store.put(key, body)

    def upload(self, key: str) -> Upload:
        """Begin an object whose parts may fail."""
        with self.calling("upload", key):
            return _FaultyUpload(self, key, self._store.upload(key))

    def resume(self, key: str, ticket: str) -> Upload:
        """Go on with an upload whose parts may fail."""
        with self.calling("resume", key):
            return _FaultyUpload(self, key, self._store.resume(key, ticket))

    def sweep(self, age_s: float) -> int:
        """Old uploads that nobody finished are gone."""
        with self.calling("sweep", ""):
            return self._store.sweep(age_s)

    def read(self, key: str, offset: int, into: memoryview) -> None:
        """Fill *into* with the object's bytes from *offset*, or with others."""
        with self.calling("read", key) as fault:
            self._store.read(key, offset, into)
        plain = into.cast("B")
        if fault is not None and fault.kind == "flip" and plain:
            plain[len(plain) // 2] ^= 1
        if fault is not None and fault.kind == "truncate":
            plain[len(plain) // 2 :] = bytes(len(plain) - len(plain) // 2)
            what = "The object ends before what was to be read"
            raise errors.StoreBroken(what, where=f"{self.url}/{key}", is_of_object=True)

    def get(self, key: str, *, limit_bytes: int) -> bytes:
        """The whole of a small object, or half of it, or another."""
        with self.calling("get", key) as fault:
            content = bytearray(self._store.get(key, limit_bytes=limit_bytes))
        if fault is not None and fault.kind == "flip" and content:
            content[len(content) // 2] ^= 1
        if fault is not None and fault.kind == "truncate":
            del content[len(content) // 2 :]
        return bytes(content)

    def stat(self, key: str) -> ObjectInfo:
        """The object's size and time."""
        with self.calling("stat", key):
            return self._store.stat(key)

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """Every object under *prefix* after *after*, or the first half of them."""
        with self.calling("list", prefix) as fault:
            objects = self._store.list(prefix, after=after)
            if fault is None:
                yield from objects
            else:
                found = tuple(objects)
                yield from found[: len(found) // 2]

    def strays(self, prefix: str) -> Iterator[tuple[str, str]]:
        """What the inner store does not list."""
        with self.calling("strays", prefix):
            return self._store.strays(prefix)

    def delete(self, key: str) -> None:
        """The object is gone."""
        with self.calling("delete", key):
            self._store.delete(key)

    def is_transient(self, error: Exception) -> bool:
        """Whether the fault, or the inner store, calls *error* transient."""
        return any(error is known for known in self._transient) or self._store.is_transient(error)

    def close(self) -> None:
        """Close the inner store."""
        self._store.close()

    @contextmanager
    def calling(self, method: str, key: str) -> Iterator[Fault | None]:
        """Let the call happen between the fault that comes before it and the one that comes after it."""
        fault = self._fault_of(method, key)
        kind = fault.kind if fault is not None else None
        if fault is not None and kind in ("before", "die-before"):
            self._fail(fault, key)
        yield fault
        if fault is not None and kind in ("after", "die-after"):
            self._fail(fault, key)

    def _fault_of(self, method: str, key: str) -> Fault | None:
        """The first fault that meets this call; every fault counts the calls that it matches."""
        with self._lock:
            if self._is_dead:
                raise ProcessDied(method)
            self.calls.append((method, key))
            met = None
            for place, fault in enumerate(self._faults):
                if fault.method in (None, method):
                    self._matched_count[place] += 1
                    nth = self._matched_count[place]
                    if met is None and (nth == fault.nth or (fault.lasts and nth > fault.nth)):
                        met = fault
            if met is not None and met.kind == "die-before":
                self._is_dead = True
            return met

    def _fail(self, fault: Fault, key: str) -> None:
        if fault.kind.startswith("die"):
            self._is_dead = True
            raise ProcessDied(key)
        error = fault.error or errors.StoreUnavailable("A fault was asked for", where=f"{self.url}/{key}")
        if fault.is_transient:
            self._transient.append(error)
        raise error


class _FaultyUpload:
    def __init__(self, faults: FaultyStore, key: str, upload: Upload) -> None:
        self._faults = faults
        self._key = key
        self._upload = upload

    def write(self, offset: int, part: Buffer) -> None:
        with self._faults.calling("upload.write", self._key):
            self._upload.write(offset, part)

    def finish(self, size_bytes: int) -> None:
        with self._faults.calling("upload.finish", self._key):
            self._upload.finish(size_bytes)

    def abort(self) -> None:
        # It never raises; of a dead process, or where a fault stands before it, it has no effect.
        with contextlib.suppress(ProcessDied, errors.StoreError), self._faults.calling("upload.abort", self._key):
            self._upload.abort()

    def ticket(self) -> str | None:
        return self._upload.ticket()


_CONFORMS: type[Store] = FaultyStore
