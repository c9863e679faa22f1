"""The limit of concurrent requests: it grows while that is faster, and halves when the store is overloaded."""

from __future__ import annotations

import heapq
import itertools
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from fault_proxy import Fault
from mlsync import errors
from mlsync.store.location import StoreOptions, open_store
from mlsync.store.s3 import client
from mlsync.store.s3.concurrency import Concurrency

MB = 1_000_000
PART_BYTES = 8 * MB
FIRST, MOST = 4, 16


class SlowDown(errors.StoreUnavailable):
    """What the store of these tests says when it has too much to do."""


class Transfer:
    """Keeps as many requests under way as the limit allows, against a store of which each test says what it does.

    Time is the test's own. *seconds_of* gives what a request takes by how many there are; *refuses* whether it is
    refused for that.
    """

    def __init__(self, monkeypatch, seconds_of, refuses=lambda _count: False):
        monkeypatch.setattr("mlsync.store.s3.concurrency.asks_for_less", lambda error: isinstance(error, SlowDown))
        self.now_s = 0.0
        self.limit = Concurrency(FIRST, MOST, clock=lambda: self.now_s)
        self.seen = []
        self._seconds_of = seconds_of
        self._refuses = refuses
        self._under_way = []
        self._numbers = itertools.count()

    def go_on(self, seconds, at_most=1000):
        """Transfer for so long, with no more than *at_most* requests, as of a client that has no more to do."""
        ends_s = self.now_s + seconds
        while self.now_s < ends_s:
            while len(self._under_way) < min(self.limit.at_once, at_most):
                self._begin()
            self.now_s, _, request, error = heapq.heappop(self._under_way)
            if error is None:
                request.__exit__(None, None, None)
            else:
                request.__exit__(SlowDown, error, None)
            self.seen.append(self.limit.at_once)

    def _begin(self):
        count = len(self._under_way) + 1
        request = self.limit.request(PART_BYTES)
        request.__enter__()
        error = SlowDown("too much") if self._refuses(count) else None
        seconds = self._seconds_of(count) if error is None else 0.05
        heapq.heappush(self._under_way, (self.now_s + seconds, next(self._numbers), request, error))


def far(_count):
    """100 ms there and back, 10 MB/s for each connection, however many there are."""
    return 0.1 + PART_BYTES / (10 * MB)


def narrow(count):
    """As far, and 40 MB/s for all connections together, which four of them fill."""
    return 0.1 + PART_BYTES / min(10 * MB, 40 * MB / count)


def test_a_store_far_away_gets_as_many_as_there_may_be(monkeypatch):
    """If each connection is slow and they do not disturb each other, the limit reaches its maximum within seconds."""
    transfer = Transfer(monkeypatch, far)
    transfer.go_on(6)
    assert transfer.limit.at_once == MOST
    transfer.go_on(600)
    assert max(transfer.seen) == MOST


def test_a_line_that_is_full_gets_no_more(monkeypatch):
    """If the line is full, the limit goes back, and tries again now and then."""
    transfer = Transfer(monkeypatch, narrow)
    transfer.go_on(600)
    # The first step may seem to pay: those that were under way before it had the line for fewer.
    assert sum(count <= 2 * FIRST + 1 for count in transfer.seen) > 0.95 * len(transfer.seen)
    assert transfer.seen.count(2 * FIRST + 1) > 10


def test_a_client_that_is_slower_than_the_store_gets_no_more(monkeypatch):
    """While fewer requests run than the limit allows, the limit does not grow."""
    transfer = Transfer(monkeypatch, far)
    transfer.go_on(600, at_most=2)
    assert set(transfer.seen) == {FIRST}


def test_a_store_that_asks_for_less_gets_half_and_then_one_more_at_a_time(monkeypatch):
    """Requests refused together halve the limit once; it then grows slowly."""
    transfer = Transfer(monkeypatch, far, refuses=lambda count: count > 5)
    transfer.go_on(60)
    # Of eight at once three were refused, later one of six.
    steps = {(one, other) for one, other in itertools.pairwise(transfer.seen) if one != other}
    assert steps == {(4, 8), (8, 4), (4, 5), (5, 6), (6, 3), (3, 4)}


def test_it_never_comes_to_none(monkeypatch):
    """If a store refuses everything, the limit stays at one."""
    transfer = Transfer(monkeypatch, far, refuses=lambda _count: True)
    transfer.go_on(10)
    assert transfer.limit.at_once == 1


def test_requests_of_any_threads_are_counted(monkeypatch):
    """However requests begin and end, the count returns to zero and the limit stays within its bounds."""
    limit = Concurrency(FIRST, MOST)
    drawn = random.Random(5)

    def request(fails):
        try:
            with limit.request(PART_BYTES):
                if fails:
                    raise errors.StoreUnavailable("away")
        except errors.StoreUnavailable:
            return
        assert 1 <= limit.at_once <= MOST

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(request, [drawn.random() < 0.1 for _ in range(500)]))
    assert limit._under_way_count == 0


@pytest.mark.parametrize(("kind", "halves"), [("503", True), ("429", True), ("500", False), ("reset", False)])
def test_what_the_store_answers_says_whether_it_is_too_much(proxy, s3_server, s3_url, kind, halves):
    """503 and 429 lower the limit, of reads and writes separately; other errors do not."""
    proxy.reset(Fault(kind, "GetObject"))
    store = open_store(s3_url, StoreOptions(endpoint_url=proxy.url, region=s3_server.region))
    reads, writes = store.reads_at_once, store.writes_at_once
    with pytest.raises(errors.StoreUnavailable):
        store.read("a/object", 0, memoryview(bytearray(10)))
    assert store.reads_at_once == (reads // 2 if halves else reads)
    assert store.writes_at_once == writes
    store.close()


def test_a_store_that_does_not_answer_in_time_is_asked_for_less(proxy, s3_server, s3_url, monkeypatch):
    """A time-out lowers the limit, of uploads and of reads."""
    monkeypatch.setattr(client, "_READ_TIMEOUT_S", 0.3)
    proxy.reset(Fault("stall", "PutObject"))
    store = open_store(s3_url, StoreOptions(endpoint_url=proxy.url, region=s3_server.region))
    reads, writes = store.reads_at_once, store.writes_at_once
    with pytest.raises(errors.StoreUnavailable):
        store.put("a/object", b"body")
    assert (store.reads_at_once, store.writes_at_once) == (reads, writes // 2)
    proxy.cut_all()
    store.close()


def test_a_store_that_is_near_gets_no_more_than_at_first(monkeypatch):
    """If requests end in hundredths of a second, the limit does not grow."""
    near = Transfer(monkeypatch, lambda _count: 0.04)
    near.go_on(20)
    assert max(near.seen) == FIRST
    farther = Transfer(monkeypatch, lambda _count: 0.06)
    farther.go_on(20)
    assert max(farther.seen) == MOST
