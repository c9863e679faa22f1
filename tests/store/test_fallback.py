"""A store that asks mirrors: what is away, in cold storage or lost comes from them, and nothing is written there."""

from __future__ import annotations

import pytest

from doubles.memory_store import MemoryStore
from mlsync.errors import NotFound, ObjectArchived, RepositoryMissing, StoreDenied, StoreUnavailable
from mlsync.store.fallback import AWAY_S, FallbackStore
from mlsync.store.wrapping import WrappingStore


class Failing(WrappingStore):
    """Raises *error* for each call, from the *after*-th object of a listing on, as long as there is one."""

    def __init__(self, store, error=None, after=0):
        super().__init__(store)
        self.error, self.after, self.count = error, after, 0

    def call(self, method, key, work):
        """Count, and raise."""
        self.count += 1
        if self.error is not None and method != "list":
            raise self.error
        return work()

    def list(self, prefix, *, after=""):
        """Raise after some objects."""
        for number, info in enumerate(super().list(prefix, after=after)):
            if self.error is not None and number >= self.after:
                raise self.error
            yield info


class Parts:
    """A store with a mirror of the same objects."""

    def __init__(self):
        self.told, self.now_s = [], 0.0
        self.first, self.mirror = Failing(MemoryStore()), MemoryStore()
        for store in (self.first, self.mirror):
            for key in "abcd":
                store.put(f"v/{key}", key.encode())
        self.store = FallbackStore(
            self.first,
            lambda: (self.mirror,),
            is_lost=lambda key, after: key.startswith("v/") and not after,
            told=lambda *told: self.told.append(told),
            clock=lambda: self.now_s,
        )


@pytest.fixture
def parts():
    return Parts()


@pytest.mark.parametrize("error", [StoreUnavailable, StoreDenied, RepositoryMissing, ObjectArchived])
def test_what_cannot_be_had_comes_from_the_mirror(parts, error):
    """Each way to read answers, and each object is told once."""
    parts.first.error = error("gone")
    into = bytearray(1)
    for _ in range(2):
        parts.store.read("v/a", 0, memoryview(into))
        assert (bytes(into), parts.store.get("v/a", limit_bytes=9)) == (b"a", b"a")
    assert parts.store.stat("v/b").size_bytes == 1
    assert parts.told == [("v/a", parts.mirror, "gone"), ("v/b", parts.mirror, "gone")]
    assert parts.store.count == 2


def test_a_store_that_is_away_is_not_asked_again_for_a_minute(parts):
    """Its patience would be spent for every object; after that time it is asked again."""
    parts.first.error = StoreUnavailable("gone")
    parts.store.get("v/a", limit_bytes=9)
    count = parts.first.count
    parts.store.get("v/b", limit_bytes=9)
    assert parts.first.count == count
    parts.now_s, parts.first.error = AWAY_S + 1, None
    parts.store.get("v/c", limit_bytes=9)
    assert (parts.first.count, parts.store.count) == (count + 1, 2)


def test_a_listing_that_breaks_goes_on_with_the_mirror(parts):
    """It has each key once, in order."""
    parts.first.error, parts.first.after = StoreUnavailable("gone"), 2
    assert [info.key for info in parts.store.list("v/")] == ["v/a", "v/b", "v/c", "v/d"]


def test_a_listing_without_an_object_is_a_loss_where_that_is_said(parts):
    """From then on each listing of the prefix is of both stores, with each key once."""
    for key in "abcd":
        parts.first.delete(f"v/{key}")
    assert list(parts.store.list("v/", after="v/d")) == []
    assert parts.told == []
    assert [info.key for info in parts.store.list("v/")] == ["v/a", "v/b", "v/c", "v/d"]
    parts.first.put("v/bb", b"b")
    parts.first.put("v/d", b"d")
    assert [info.key for info in parts.store.list("v/", after="v/a")] == ["v/b", "v/bb", "v/c", "v/d"]


def test_what_is_missing_and_no_loss_stays_missing(parts):
    """Most keys may be free: a mirror is not asked for them."""
    parts.mirror.put("moves/a", b"x")
    with pytest.raises(NotFound):
        parts.store.get("moves/a", limit_bytes=9)
    assert list(parts.store.list("moves/")) == []


def test_both_away_is_the_first_one_away(parts):
    """The mirror's own error would lead the wrong way."""
    parts.first.error = StoreUnavailable("first")
    parts.mirror.delete("v/a")
    with pytest.raises(StoreUnavailable, match="first"):
        parts.store.get("v/a", limit_bytes=9)


def test_nothing_is_written_in_the_mirror(parts):
    """Puts and deletions are for the first store alone, and fail where that fails."""
    parts.store.delete("v/a")
    parts.store.put("v/e", b"e")
    assert [info.key for info in parts.mirror.list("v/")] == ["v/a", "v/b", "v/c", "v/d"]
    parts.first.error = StoreUnavailable("gone")
    for call in (lambda: parts.store.put("v/f", b"f"), lambda: parts.store.delete("v/b")):
        with pytest.raises(StoreUnavailable):
            call()
