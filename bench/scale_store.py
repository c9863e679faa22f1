"""A store in memory that keeps a virtual clock and an account: the time that S3 takes, and what it charges for.

It is the tests' store in memory, with its names in order so that a listing costs no sort, and with a wrapper that
knows what a call is at S3: a listing is a request for each 1,000 names, an upload one for each part and two more.

The clock: a call begins when everything that really ended before it has ended on the clock too, and takes its time
from there on. So calls that run beside each other share time, and calls that wait for each other do not. Each call also
really sleeps a share of its time, so that the threads of a flow meet as they would: longer than the processor works on
what a call brought, or threads would seem to wait for each other.
"""

from __future__ import annotations

import sys
import threading
import time
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

TESTS = Path(__file__).parent.parent / "tests"
if str(TESTS) not in sys.path:
    sys.path.insert(0, str(TESTS))

from doubles.memory_store import MemoryStore  # noqa: E402 - it lies there
from mlsync.buffers import Buffer  # noqa: E402
from mlsync.store.base import ObjectInfo, Store, Upload, check_prefix, view_of  # noqa: E402
from mlsync.store.wrapping import WrappingStore, WrappingUpload  # noqa: E402

PAGE_COUNT = 1000
# What S3Store begins with is less; this is what it finds by trying on a fast line.
WRITES_AT_ONCE, READS_AT_ONCE = 10, 16
SLEPT_OF_TIME = 1 / 20
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Line:
    """The way to the store: seconds until the first byte, those of a page of a listing, bytes a second a connection."""

    first_byte_s: float = 0.03
    page_s: float = 0.08
    bytes_per_s: float = 80e6


class OrderedStore(MemoryStore):
    """The tests' store, with its names kept in order."""

    def __init__(self) -> None:
        super().__init__()
        self._names: list[str] = []

    @property
    def writes_at_once(self) -> int:
        return WRITES_AT_ONCE

    @property
    def reads_at_once(self) -> int:
        return READS_AT_ONCE

    def put(self, key: str, body: Buffer) -> None:
        super().put(key, body)
        with self._lock:
            # Another thread may have deleted it by now; a name that is gone is skipped below.
            insort(self._names, key)

    def replace(self, key: str, body: Buffer) -> None:
        with self._lock:
            is_new = key not in self._objects
        super().replace(key, body)
        if is_new:
            with self._lock:
                insort(self._names, key)

    def delete(self, key: str) -> None:
        super().delete(key)
        with self._lock:
            at = bisect_left(self._names, key)
            if at < len(self._names) and self._names[at] == key:
                del self._names[at]

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        with self._lock:
            begin = max(bisect_left(self._names, prefix), bisect_right(self._names, after))
            # No key has a character above "~".
            keys = self._names[begin : bisect_left(self._names, prefix + "~")]
        for key in keys:
            found = self._objects.get(key)
            if found is not None:
                yield ObjectInfo(key, len(found[0]), found[1])

    def copy(self) -> OrderedStore:
        """Another store with the same objects."""
        other = OrderedStore()
        other._objects, other._names = dict(self._objects), self._names.copy()
        return other

    def bytes_under(self, prefix: str) -> int:
        """The sum of the objects under a prefix."""
        return sum(info.size_bytes for info in self.list(prefix))


class Account(WrappingStore):
    """Counts requests as S3 does, and bytes, and keeps the clock."""

    def __init__(self, store: Store, line: Line | None = None) -> None:
        super().__init__(store)
        self.line = line or Line()
        #: By what S3 charges: put, list, get, delete (a HEAD is a get).
        self.requests: Counter[str] = Counter()
        self.sent_bytes = self.received_bytes = 0
        self.elapsed_s = 0.0
        self._account_lock = threading.Lock()

    def charge(self, kind: str, work: Callable[[], _Result], *, sent: int = 0, received: int = 0) -> _Result:
        """Do *work*, which is one request of that kind."""
        with self._account_lock:
            began_s = self.elapsed_s
            self.requests[kind] += 1
        try:
            result = work()
            if isinstance(result, bytes):
                received = len(result)
            return result
        finally:
            first_s = self.line.page_s if kind == "list" else self.line.first_byte_s
            took_s = first_s + (sent + received) / self.line.bytes_per_s
            time.sleep(took_s * SLEPT_OF_TIME)
            with self._account_lock:
                self.sent_bytes += sent
                self.received_bytes += received
                self.elapsed_s = max(self.elapsed_s, began_s + took_s)

    def call(self, method: str, key: str, work: Callable[[], _Result]) -> _Result:
        kind = {"get": "get", "stat": "get", "delete": "delete", "copy_from": "put"}.get(method)
        return super().call(method, key, work) if kind is None else self.charge(kind, work)

    def put(self, key: str, body: Buffer) -> None:
        self.charge("put", lambda: self._store.put(key, body), sent=view_of(body).nbytes)

    def replace(self, key: str, body: Buffer) -> None:
        self.charge("put", lambda: self._store.replace(key, body), sent=view_of(body).nbytes)

    def read(self, key: str, offset: int, into: memoryview) -> None:
        self.charge("get", lambda: self._store.read(key, offset, into), received=into.nbytes)

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        infos = iter(self._store.list(prefix, after=after))
        while True:
            page = self.charge("list", lambda: list(islice(infos, PAGE_COUNT)))
            yield from page
            if len(page) < PAGE_COUNT:
                return

    def wrap_upload(self, key: str, upload: Upload) -> Upload:
        return _AccountUpload(self, key, upload)

    def facts(self) -> dict[str, float]:
        """What was counted so far."""
        counts = {kind: self.requests[kind] for kind in ("put", "list", "get", "delete")}
        return counts | {
            "sent_bytes": self.sent_bytes,
            "received_bytes": self.received_bytes,
            "store_s": self.elapsed_s,
        }


class _AccountUpload(WrappingUpload):
    """An object of less than a part is one request; a larger one is a request for each part, a first and a last one."""

    def __init__(self, account: Account, key: str, upload: Upload) -> None:
        super().__init__(account, key, upload)
        self._account = account
        self._begun = False
        self._held_bytes = 0

    def write(self, offset: int, part: Buffer) -> None:
        size_bytes = view_of(part).nbytes
        if offset == 0 and size_bytes < self._account.part_bytes:
            self._held_bytes = size_bytes
            self._upload.write(offset, part)
            return
        if not self._begun:
            self._begun = True
            self._account.charge("put", lambda: None)
        self._account.charge("put", lambda: self._upload.write(offset, part), sent=size_bytes)

    def finish(self, size_bytes: int) -> None:
        self._account.charge("put", lambda: self._upload.finish(size_bytes), sent=self._held_bytes)
