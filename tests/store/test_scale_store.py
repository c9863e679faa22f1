"""The store of bench/scale.py counts what S3 charges for, and its clock lets calls beside each other share time."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

BENCH = Path(__file__).parent.parent.parent / "bench"
sys.path.insert(0, str(BENCH))

from scale_store import Account, Line, OrderedStore  # noqa: E402 - it lies with the benchmarks


def test_a_listing_costs_a_request_for_each_thousand_names():
    """Of 2,500 names a whole listing is three requests, and one that begins behind 2,000 of them one."""
    store = OrderedStore()
    for number in range(2_500):
        store.put(f"a/{number:04}", b"x")
    account = Account(store)
    assert len(list(account.list("a/"))) == 2_500
    assert account.requests == {"list": 3}
    assert len(list(account.list("a/", after="a/1999"))) == 500
    assert account.requests == {"list": 4}


def test_an_upload_costs_its_parts_and_two_more_and_a_small_one_a_single_request():
    """What is shorter than a part is one request with its bytes; two parts are four."""
    account = Account(OrderedStore())
    small, large = account.upload("small"), account.upload("large")
    small.write(0, b"x")
    small.finish(1)
    assert (account.requests["put"], account.sent_bytes) == (1, 1)
    part = bytes(account.part_bytes)
    large.write(0, part)
    large.write(len(part), b"x")
    large.finish(len(part) + 1)
    assert (account.requests["put"], account.sent_bytes) == (5, len(part) + 2)


def test_the_clock_adds_calls_that_wait_and_not_those_beside_each_other():
    """Two calls one after the other take twice the time of one, and two at once, which meet in the store, once."""
    meet = threading.Barrier(2, timeout=10)

    class Meeting(OrderedStore):
        def get(self, key, *, limit_bytes):
            meet.wait()
            return super().get(key, limit_bytes=limit_bytes)

    store = Meeting()
    store.put("a", b"")
    account = Account(store, Line(first_byte_s=1.0))
    threads = [threading.Thread(target=account.get, args=("a",), kwargs={"limit_bytes": 9}) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert account.elapsed_s == pytest.approx(1.0)
    account.stat("a")
    assert account.elapsed_s == pytest.approx(2.0)
