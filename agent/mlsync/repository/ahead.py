"""Small reads ahead of their use: several at once, their results in order, and only some of them in memory.

Manifests and what is beside them are small and may be far away, so the time is in the round trips. Whatever reads many
of them, of one run or run by run, reads through here. All of it together is never more at once than a store is asked
for: what finds no lane free reads in its own thread. So a flow that goes through runs ahead may go through the
versions of each run ahead, and a long run that is left at the end has all lanes.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Final, Generic, Self, TypeVar

#: So many are under way at once in this process; it is what a store far away is asked for at most.
AT_ONCE: Final = 16

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class _Lanes:
    """Leave to read beside others."""

    def __init__(self) -> None:
        self.free_again()

    def free_again(self) -> None:
        """Begin with all lanes free."""
        self._free = threading.Semaphore(AT_ONCE)

    def take(self) -> bool:
        """Take a lane, and return whether one was free."""
        return self._free.acquire(blocking=False)

    def leave(self) -> None:
        """Give a lane back."""
        self._free.release()


_LANES: Final = _Lanes()
# The threads that would give them back stay in the parent.
os.register_at_fork(after_in_child=_LANES.free_again)


class Ahead(Generic[_Item, _Result]):
    """What ``ahead`` returns: an iterator, and a context whose end waits for the work that is under way.

    Use it as a context where work that goes on after an error would do harm: when it deletes or writes. Dropped without
    that, it begins nothing more, and waits for nothing: Python may drop it at any moment, in a thread that holds just
    the lock for which that work waits, and the process would stand still for ever.
    """

    def __init__(
        self, work: Callable[[_Item], _Result], items: Iterable[_Item], weight_of: Callable[[_Item], int], most: int
    ) -> None:
        # Each with its weight.
        self._waiting: deque[tuple[_Item, Future[_Result], int]] = deque()
        self._following: deque[_Item] | None = None
        self._executor: ThreadPoolExecutor | None = None
        self._work = work
        self._weight_of, self._weight_max = weight_of, most
        # Of those that wait for their turn, and of the one that the caller uses now.
        self._weight = self._used_weight = 0
        self._left = iter(items)

    def __iter__(self) -> Self:
        """Return itself."""
        return self

    def __next__(self) -> tuple[_Item, Callable[[], _Result]]:
        """Return the next item with its result; begin what may be under way by now."""
        self._weight, self._used_weight = self._weight - self._used_weight, 0
        try:
            self._begin()
        except BaseException:
            self.close()
            raise
        if not self._waiting:
            self.close()
            raise StopIteration
        # Its weight counts until the next one is asked for: the one whose result is used counts too.
        item, future, self._used_weight = self._waiting.popleft()
        return item, future.result

    def _begin(self) -> None:
        if self._following is None:
            self._following = deque(islice(self._left, 2))
        while self._following and len(self._waiting) < AT_ONCE:
            weight = self._weight_of(self._following[0]) if self._weight_max else 0
            if self._waiting and self._weight_max and self._weight + weight > self._weight_max:
                return
            # A thread for a single item would only cost time.
            is_beside = len(self._waiting) + len(self._following) > 1 and _LANES.take()
            if self._waiting and not is_beside:
                return
            item = self._following.popleft()
            future = self._begun_beside(item) if is_beside else _done(self._work, item)
            self._waiting.append((item, future, weight))
            self._weight += weight
            self._following.extend(islice(self._left, 1))
            if not is_beside:
                return

    def _begun_beside(self, item: _Item) -> Future[_Result]:
        if self._executor is None:
            self._executor = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="mlsync-ahead")
        work = self._work

        def do() -> _Result:
            try:
                return work(item)
            finally:
                _LANES.leave()

        return self._executor.submit(do)

    def close(self) -> None:
        """Begin nothing more, and wait for what is under way."""
        self._end(is_waiting=True)

    def _end(self, *, is_waiting: bool) -> None:
        self._left, self._following = iter(()), deque()
        while self._waiting:
            if self._waiting.popleft()[1].cancel():
                _LANES.leave()
        if self._executor is not None:
            self._executor.shutdown(wait=is_waiting)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_rest: object) -> None:
        """Wait for what is under way, unless a generator that uses this is dropped."""
        self._end(is_waiting=kind is not GeneratorExit)

    def __del__(self) -> None:
        """Begin nothing more."""
        self._end(is_waiting=False)


def ahead(
    work: Callable[[_Item], _Result],
    items: Iterable[_Item],
    *,
    weight_of: Callable[[_Item], int] = lambda _item: 0,
    weight_max: int = 0,
) -> Ahead[_Item, _Result]:
    """Return an iterator of each item, in order, with what returns the result of *work*, or raises what that raised.

    Results of at most ``AT_ONCE`` items wait for their turn. With a *weight_max* so do no more items than weigh that
    together; one that weighs more is worked on alone. Nothing more is begun once the caller is done with this.
    """
    return Ahead(work, items, weight_of, weight_max)


def each(work: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """Yield the result of *work* for each item, in order, read ahead; raise the first error at its turn."""
    with ahead(work, items) as found:
        for _, result in found:
            yield result()


def _done(work: Callable[[_Item], _Result], item: _Item) -> Future[_Result]:
    """Return the result of *work*, done in the caller's own thread."""
    future: Future[_Result] = Future()
    try:
        future.set_result(work(item))
    except BaseException as error:  # noqa: BLE001 - whoever asks for the result gets it
        future.set_exception(error)
    return future
