"""The faulty store fails as requested, and the counting store counts every call."""

from __future__ import annotations

import pytest

from doubles.faulty_store import Fault, FaultyStore, ProcessDied
from doubles.memory_store import MemoryStore
from mlsync import errors
from mlsync.store.counting import CountingStore


@pytest.fixture
def inner():
    """A memory store with a few objects."""
    store = MemoryStore(part_bytes=4)
    for key in "abcd":
        store.put(key, b"0123456789")
    return store


def test_fault_before_leaves_no_effect_and_after_leaves_one(inner):
    """After a fault before the call the object does not exist; after one behind it, it does."""
    store = FaultyStore(inner, Fault("before", nth=1, method="put"), Fault("after", nth=2, method="put"))
    for key, is_there in (("new", False), ("newer", True)):
        with pytest.raises(errors.StoreUnavailable) as caught:
            store.put(key, b"")
        assert store.is_transient(caught.value)
        assert (key in [info.key for info in inner.list("")]) is is_there
    store.put("newest", b"")


def test_fault_meets_the_call_that_it_names_only(inner):
    """Only the third read fails, not the others, nor other methods."""
    store = FaultyStore(inner, Fault("before", nth=3, method="read", error=errors.StoreDenied("no")))
    into = memoryview(bytearray(4))
    store.stat("a")
    store.read("a", 0, into)
    store.read("a", 0, into)
    with pytest.raises(errors.StoreDenied):
        store.read("a", 0, into)
    store.read("a", 0, into)


def test_dead_process_has_no_effect_any_more(inner):
    """After its death no call reaches the store, and abort leaves the upload unchanged."""
    store = FaultyStore(inner, Fault("die-after", nth=2))
    upload = store.upload("packs/x")
    with pytest.raises(ProcessDied):
        store.put("last", b"")
    assert store.is_dead
    for call in (
        lambda: store.put("later", b""),
        lambda: list(store.list("")),
        lambda: store.stat("a"),
        lambda: upload.write(0, b"x"),
        lambda: upload.finish(0),
    ):
        with pytest.raises(ProcessDied):
            call()
    upload.abort()
    assert [info.key for info in inner.list("")] == ["a", "b", "c", "d", "last"]
    assert not isinstance(ProcessDied(), Exception)


def test_death_before_a_call_keeps_it_from_happening(inner):
    """The call in which the process dies has no effect."""
    store = FaultyStore(inner, Fault("die-before", method="put"))
    with pytest.raises(ProcessDied):
        store.put("never", b"")
    with pytest.raises(errors.NotFound):
        inner.stat("never")


def test_flipped_bit_is_one_bit(inner):
    """Read and get give bytes that differ in one bit, once."""
    store = FaultyStore(inner, Fault("flip", method="read"), Fault("flip", method="get"))
    into = bytearray(10)
    store.read("a", 0, memoryview(into))
    for content in (bytes(into), store.get("a", limit_bytes=10)):
        different = int.from_bytes(content, "big") ^ int.from_bytes(b"0123456789", "big")
        assert different.bit_count() == 1
    assert store.get("a", limit_bytes=10) == b"0123456789"


def test_truncated_read_is_told_and_truncated_get_is_short(inner):
    """A truncated read raises like a real store; a truncated get returns the first half."""
    store = FaultyStore(inner, Fault("truncate", method="read"), Fault("truncate", method="get"))
    with pytest.raises(errors.StoreBroken):
        store.read("a", 0, memoryview(bytearray(10)))
    assert store.get("a", limit_bytes=10) == b"01234"


def test_short_listing_says_nothing(inner):
    """A short listing ends early without an error."""
    store = FaultyStore(inner, Fault("short", method="list"))
    assert [info.key for info in store.list("")] == ["a", "b"]
    assert [info.key for info in store.list("")] == ["a", "b", "c", "d"]


def test_calls_and_bytes_are_counted(inner):
    """Calls are counted by method, failed ones too; bytes only if the call succeeded."""
    store = CountingStore(inner)
    store.put("e", b"12345")
    with pytest.raises(errors.AlreadyExists):
        store.put("e", b"12345")
    store.read("e", 1, memoryview(bytearray(3)))
    store.get("e", limit_bytes=5)
    store.stat("e")
    list(store.list(""))
    store.delete("e")
    upload = store.upload("f")
    upload.write(0, b"1234")
    upload.write(4, b"5")
    upload.finish(5)
    upload.abort()
    assert store.calls == {
        "put": 2, "read": 1, "get": 1, "stat": 1, "list": 1, "delete": 1,
        "upload": 1, "upload.write": 2, "upload.finish": 1, "upload.abort": 1,
    }  # fmt: skip
    assert (store.written_bytes, store.read_bytes) == (10, 8)
    store.reset()
    assert (store.calls, store.written_bytes, store.read_bytes) == ({}, 0, 0)
