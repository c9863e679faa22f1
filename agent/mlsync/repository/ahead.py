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
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import Final, TypeVar

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


def ahead(
    work: Callable[[_Item], _Result],
    items: Iterable[_Item],
    *,
    weight_of: Callable[[_Item], int] = lambda _item: 0,
    weight_max: int = 0,
) -> Generator[tuple[_Item, Callable[[], _Result]], None, None]:
    """Yield each item, in order, with what returns the result of *work*, or raises what that raised.

    Results of at most ``AT_ONCE`` items wait for their turn. With a *weight_max* so do no more items than weigh that
    together; one that weighs more is worked on alone. Nothing is worked on any more once the caller is done with this.
    """
    waiting: deque[tuple[_Item, Future[_Result]]] = deque()
    left, weight = iter(items), 0
    following = deque(islice(left, 2))
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="mlsync-ahead") as executor:
        try:
            while waiting or following:
                while following and len(waiting) < AT_ONCE:
                    if waiting and weight_max and weight + weight_of(following[0]) > weight_max:
                        break
                    # A thread for a single item would only cost time.
                    is_beside = len(waiting) + len(following) > 1 and _LANES.take()
                    if waiting and not is_beside:
                        break
                    item = following.popleft()
                    following.extend(islice(left, 1))
                    waiting.append((item, _begun(executor, work, item) if is_beside else _done(work, item)))
                    weight += weight_of(item)
                    if not is_beside:
                        break
                item, future = waiting.popleft()
                # Before its turn is over: the one whose result is used counts too.
                yield item, future.result
                weight -= weight_of(item)
        finally:
            for _, future in waiting:
                if future.cancel():
                    _LANES.leave()


def each(work: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """Yield the result of *work* for each item, in order, read ahead; raise the first error at its turn."""
    with closing(ahead(work, items)) as found:
        for _, result in found:
            yield result()


def _begun(executor: ThreadPoolExecutor, work: Callable[[_Item], _Result], item: _Item) -> Future[_Result]:
    def do() -> _Result:
        try:
            return work(item)
        finally:
            _LANES.leave()

    return executor.submit(do)


def _done(work: Callable[[_Item], _Result], item: _Item) -> Future[_Result]:
    """Return the result of *work*, done in the caller's own thread."""
    future: Future[_Result] = Future()
    try:
        future.set_result(work(item))
    except BaseException as error:  # noqa: BLE001 - whoever asks for the result gets it
        future.set_exception(error)
    return future
