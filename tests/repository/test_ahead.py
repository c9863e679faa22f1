"""Reads ahead of their use: in order, bounded, and never more at once than a process may have."""

from __future__ import annotations

import gc
import threading

import pytest

from mlsync.repository.ahead import AT_ONCE, ahead, each


class Meeting:
    """Work that waits until so many others do it too, and notes how many did at most."""

    def __init__(self, count: int) -> None:
        self._barrier = threading.Barrier(count)
        self._lock = threading.Lock()
        self._now_count = 0
        self.most = 0
        self.begun: list[int] = []

    def come(self, item: int) -> int:
        """Wait for the others."""
        self.enter(item)
        try:
            self._barrier.wait(timeout=30)
        finally:
            self.leave()
        return -item

    def pass_by(self, item: int) -> int:
        """Wait for nobody."""
        self.enter(item)
        self.leave()
        return -item

    def enter(self, item: int) -> None:
        """Be there."""
        with self._lock:
            self.begun.append(item)
            self._now_count += 1
            self.most = max(self.most, self._now_count)

    def leave(self) -> None:
        """Be gone."""
        with self._lock:
            self._now_count -= 1


def test_results_come_in_order_and_so_many_are_under_way_at_once():
    """As many as a process may have are under way together, and each result has its place."""
    meeting = Meeting(AT_ONCE)
    assert list(each(meeting.come, range(2 * AT_ONCE))) == [-item for item in range(2 * AT_ONCE)]
    assert meeting.most == AT_ONCE


def test_flows_inside_each_other_share_the_lanes():
    """Runs ahead and their versions ahead are together no more at once than one of them alone."""
    meeting = Meeting(1)

    def run(first: int) -> list[int]:
        return list(each(meeting.come, range(first, first + 10)))

    found = list(each(run, range(0, 400, 10)))
    assert [item for some in found for item in some] == [-item for item in range(400)]
    assert meeting.most <= AT_ONCE + 1


def test_a_long_run_has_the_lanes_that_short_ones_left():
    """Once the other runs are done, the versions of the last one are read several at once."""
    meeting = Meeting(AT_ONCE - 2)
    short = threading.Event()

    def run(count: int) -> int:
        if count == 1:
            short.set()
            return 1
        short.wait(30)
        return len(list(each(meeting.come, range(count))))

    assert list(each(run, [2 * (AT_ONCE - 2), 1])) == [2 * (AT_ONCE - 2), 1]


def test_no_more_is_begun_than_may_wait():
    """While the caller works with the first result, no more than the bound was begun."""
    meeting = Meeting(1)
    found = ahead(meeting.pass_by, range(1000))
    assert next(found)[1]() == 0
    found.close()
    assert max(meeting.begun) <= AT_ONCE


def test_what_weighs_too_much_is_worked_on_alone():
    """Items that weigh more together than the bound are not begun before the ones before them are done with."""
    meeting = Meeting(1)
    begun_when_used = []
    for item, result in ahead(meeting.pass_by, range(6), weight_of=lambda item: 10 if item < 4 else 100, weight_max=25):
        result()
        begun_when_used.append((item, max(meeting.begun)))
    assert all(begun <= item + 1 for item, begun in begun_when_used)
    assert dict(begun_when_used)[3] == 3
    assert dict(begun_when_used)[4] == 4


def test_an_error_waits_for_its_turn():
    """What is before a failing item comes, and what is behind it can still be had."""

    def read(item: int) -> int:
        if item == 3:
            raise LookupError(item)
        return item

    found = []
    for item, result in ahead(read, range(8)):
        try:
            found.append(result())
        except LookupError:
            found.append(f"error {item}")
    assert found == [0, 1, 2, "error 3", 4, 5, 6, 7]
    with pytest.raises(LookupError):
        list(each(read, range(8)))


def test_all_lanes_are_free_after_a_caller_that_went_away():
    """Closed early, or ended by an error, it leaves as many lanes as there were."""
    for _ in range(3):
        found = ahead(lambda item: item, range(100))
        next(found)
        found.close()
        with pytest.raises(ZeroDivisionError):
            list(each(lambda item: 1 // item, range(100)))
    meeting = Meeting(AT_ONCE)
    assert len(list(each(meeting.come, range(AT_ONCE)))) == AT_ONCE


def test_a_single_item_takes_no_thread():
    """What is alone is read in the caller's own thread."""
    here = threading.current_thread()
    assert [one is here for one in each(lambda _: threading.current_thread(), [1])] == [True]


def test_a_context_waits_for_what_is_under_way():
    """After an error in its body nothing works any more: deletions must not go on behind a command that failed."""
    held, ended = threading.Event(), []

    def work(item):
        held.wait(30)
        ended.append(item)

    def use():
        with ahead(work, range(AT_ONCE)) as found:
            next(found)
            threading.Timer(0.05, held.set).start()
            raise LookupError

    with pytest.raises(LookupError):
        use()
    assert 0 < len(ended) <= AT_ONCE
    seen = len(ended)
    assert not [one for one in threading.enumerate() if one.name.startswith("mlsync-ahead")]
    assert len(ended) == seen


def in_a_cycle(work, *, is_generator):
    """Begin, and leave what was begun to the search for cycles, as an error with its traceback does."""
    found = each(work, range(AT_ONCE)) if is_generator else ahead(work, range(AT_ONCE))
    first = next(found)
    cycle = [found, first]
    cycle.append(cycle)


@pytest.mark.parametrize("is_generator", [False, True])
def test_python_may_drop_it_while_what_it_does_cannot_end(is_generator):
    """Found by the search for cycles in the very thread that holds the lock for which the work waits, it lets go."""
    lock, begun, gave_up = threading.Lock(), threading.Semaphore(0), []

    def work(item):
        if not (is_generator and item == 0):
            begun.release()
            if lock.acquire(timeout=20):
                lock.release()
            else:
                gave_up.append(item)

    gc.collect()
    with lock:
        in_a_cycle(work, is_generator=is_generator)
        begun.acquire()
        gc.collect()
        assert not gave_up
    meeting = Meeting(1)
    assert len(list(each(meeting.come, range(3)))) == 3
