"""How often, how long and after which errors the retrying store retries."""

from __future__ import annotations

import pytest

from doubles.faulty_store import Fault, FaultyStore
from doubles.memory_store import MemoryStore
from mlsync import errors
from mlsync.store.counting import CountingStore
from mlsync.store.retry import BUDGET_S, TRIES_MAX, TRIES_MIN, RetryingStore


class Sleeper:
    """A clock that only sleeping moves."""

    def __init__(self):
        self.waits_s = []

    def sleep(self, wait_s):
        """Move the clock."""
        self.waits_s.append(wait_s)

    def clock(self):
        """The time slept."""
        return sum(self.waits_s)


def retrying(*faults, inner=None, **options):
    """A retrying store over a faulty one, that one, and the sleeper between them."""
    sleeper = Sleeper()
    faulty = FaultyStore(inner or MemoryStore(part_bytes=4), *faults)
    return RetryingStore(faulty, sleep=sleeper.sleep, clock=sleeper.clock, **options), faulty, sleeper


def calls_of(faulty, method):
    """How often *method* reached the faulty store."""
    return [name for name, _ in faulty.calls].count(method)


CALLS = {
    "put": lambda store: store.put("new", b"body"),
    "get": lambda store: store.get("old", limit_bytes=9),
    "read": lambda store: store.read("old", 0, memoryview(bytearray(4))),
    "stat": lambda store: store.stat("old"),
    "list": lambda store: list(store.list("")),
    "delete": lambda store: store.delete("old"),
    "upload": lambda store: store.upload("new"),
    "upload.write": lambda store: store.upload("new").write(0, b"body"),
    "upload.finish": lambda store: store.upload("new").finish(0),
}


@pytest.mark.parametrize("method", CALLS)
def test_transient_error_is_tried_again_until_it_passes(method):
    """Two failures and a success are three calls of the wrapped store, and two waits."""
    inner = MemoryStore(part_bytes=4)
    inner.put("old", b"body")
    faults = [Fault("before", nth=1, method=method), Fault("before", nth=2, method=method)]
    store, faulty, sleeper = retrying(*faults, inner=inner)
    CALLS[method](store)
    assert calls_of(faulty, method) == 3
    assert len(sleeper.waits_s) == 2


@pytest.mark.parametrize("method", CALLS)
def test_error_that_stays_is_told_after_the_last_try(method):
    """After the last try StoreUnavailable says how many tries there were, of which call, and the last error."""
    inner = MemoryStore(part_bytes=4)
    inner.put("old", b"body")
    store, faulty, sleeper = retrying(Fault("before", method=method, lasts=True), inner=inner, budget_s=1e9)
    with pytest.raises(
        errors.StoreUnavailable, match=rf"a fault was asked for \({TRIES_MAX} tries of {method}\)"
    ) as caught:
        CALLS[method](store)
    assert calls_of(faulty, method) == TRIES_MAX
    assert len(sleeper.waits_s) == TRIES_MAX - 1
    assert store.is_transient(caught.value)


def test_budget_ends_the_tries():
    """The store begins no wait that would end after the time limit."""
    store, faulty, sleeper = retrying(Fault("before", lasts=True), budget_s=2.0, tries_max=10_000, tries_min=1)
    with pytest.raises(errors.StoreUnavailable):
        store.stat("a")
    assert sum(sleeper.waits_s) <= 2.0
    assert calls_of(faulty, "stat") == len(sleeper.waits_s) + 1


def test_a_call_that_took_all_the_time_is_tried_again():
    """A call whose answer never came takes all the time, and still gets the minimum number of tries."""
    store, faulty, sleeper = retrying(Fault("before", lasts=True))
    inner_stat = faulty.stat

    def slow_stat(key):
        sleeper.waits_s.append(BUDGET_S + 1)
        return inner_stat(key)

    faulty.stat = slow_stat
    with pytest.raises(errors.StoreUnavailable, match=f"{TRIES_MIN} tries"):
        store.stat("a")
    assert calls_of(faulty, "stat") == TRIES_MIN


def test_a_store_that_asks_for_a_pause_gets_it():
    """No wait is shorter than the store asked for."""
    busy = errors.StoreUnavailable("busy")
    busy.retry_after_s = 7.0
    store, _, sleeper = retrying(Fault("before", error=busy), Fault("before", 2, error=busy))
    store.put("a", b"")
    assert len(sleeper.waits_s) == 2
    assert min(sleeper.waits_s) >= 7.0


def test_a_store_that_asks_for_too_long_a_pause_is_left_alone():
    """If the store asks for an hour, the error is raised at once, and the next backup is the next try."""
    busy = errors.StoreUnavailable("busy")
    busy.retry_after_s = 3600.0
    store, faulty, sleeper = retrying(Fault("before", error=busy, lasts=True))
    with pytest.raises(errors.StoreUnavailable, match=r"\(1 try of"):
        store.put("a", b"")
    assert (calls_of(faulty, "put"), sleeper.waits_s) == (1, [])


def test_lasting_error_is_not_tried_again():
    """An error that the wrapped store does not call transient is raised unchanged, at once."""
    denied = errors.StoreDenied("no")
    store, faulty, sleeper = retrying(Fault("before", error=denied, is_transient=False))
    with pytest.raises(errors.StoreDenied) as caught:
        store.put("a", b"")
    assert caught.value is denied
    assert (calls_of(faulty, "put"), sleeper.waits_s) == (1, [])


def test_bug_is_not_tried_again():
    """An exception that is not a store error is raised at once."""
    store, _, sleeper = retrying()
    with pytest.raises(ValueError, match="not an object key"):
        store.put("/", b"")
    assert sleeper.waits_s == []


def test_each_wait_is_told():
    """The callback gets call, error and seconds before each wait."""
    told = []
    store, _, sleeper = retrying(Fault("before"), on_wait=lambda *event: told.append(event))
    store.put("a", b"")
    ((what, error, wait_s),) = told
    assert what == "put"
    assert isinstance(error, errors.StoreUnavailable)
    assert [wait_s] == sleeper.waits_s


def test_put_whose_answer_was_lost_has_succeeded():
    """If the second try finds our own object, put succeeds."""
    store, faulty, _ = retrying(Fault("after", method="put"))
    store.put("a", b"body")
    assert calls_of(faulty, "put") == 2
    assert store.get("a", limit_bytes=4) == b"body"


@pytest.mark.parametrize("theirs", [b"else", b"longer than ours", b""])
def test_put_that_lost_a_race_after_a_failure_is_refused(theirs):
    """After a failure, an object with other content is still another writer's."""
    inner = MemoryStore()
    inner.put("a", theirs)
    store, _, _ = retrying(Fault("before", method="put"), inner=inner)
    with pytest.raises(errors.AlreadyExists):
        store.put("a", b"body")
    assert inner.get("a", limit_bytes=99) == theirs


def test_put_that_was_refused_at_once_is_refused_even_for_the_same_bytes():
    """Without an earlier failure a taken key is refused: its writer may be someone else."""
    store, faulty, _ = retrying()
    store.put("a", b"body")
    with pytest.raises(errors.AlreadyExists):
        store.put("a", b"body")
    assert calls_of(faulty, "get") == 0


def test_finish_whose_answer_was_lost_has_succeeded():
    """If the answer to finish was lost, the object exists once and finish succeeds."""
    store, faulty, _ = retrying(Fault("after", method="upload.finish"))
    upload = store.upload("a")
    upload.write(0, b"body")
    upload.finish(4)
    upload.abort()
    assert calls_of(faulty, "upload.finish") == 2
    assert store.get("a", limit_bytes=4) == b"body"


def test_finish_of_an_upload_that_is_gone_and_left_nothing_is_refused():
    """NotFound after a failure is no success if the object does not exist."""
    gone = errors.NotFound("No such upload")
    faults = [Fault("before", nth=1, method="upload.finish"),
              Fault("before", nth=2, method="upload.finish", error=gone, is_transient=False)]  # fmt: skip
    store, _, _ = retrying(*faults)
    upload = store.upload("a")
    with pytest.raises(errors.NotFound):
        upload.finish(0)


def test_listing_goes_on_where_it_broke():
    """A listing that breaks twice yields each object once, in order."""
    inner = MemoryStore()
    keys = [f"k{number:04}" for number in range(2500)]
    for key in keys:
        inner.put(key, b"")
    counting = CountingStore(inner)
    faults = [Fault("after", nth=1, method="list"), Fault("after", nth=2, method="list")]
    store, _, _ = retrying(*faults, inner=counting)
    assert [info.key for info in store.list("k")] == keys
    assert counting.calls["list"] == 3
