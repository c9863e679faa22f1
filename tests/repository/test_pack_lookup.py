"""Looking up packs and tombstones costs what is needed, whatever else the repository has."""

from __future__ import annotations

import hashlib

import pytest
from format_parts import new_repository

from doubles.memory_store import MemoryStore
from mlsync.repository import names
from mlsync.repository.pack_lookup import LOOKS_MAX, Tombstones, look_in_listing, look_up
from mlsync.repository.repository import Repository
from mlsync.store.counting import CountingStore

PAGE = 1000


def ids(count):
    """Ids as random as those of packs."""
    return [hashlib.blake2b(str(number).encode(), digest_size=16).digest() for number in range(count)]


class PagedStore(CountingStore):
    """Counts a page of a listing as a call, as S3 does."""

    pages = 0

    def list(self, prefix, *, after=""):
        """Yield what the wrapped store has."""
        for number, info in enumerate(super().list(prefix, after=after)):
            self.pages += number % PAGE == 0
            yield info


@pytest.fixture
def store():
    """A store that counts."""
    return PagedStore(MemoryStore())


def filled(store, count, name):
    """A repository with so many objects that are called after packs."""
    repository = new_repository(store)
    for pack_id in ids(count):
        store.put(name(pack_id), b"x")
    store.reset()
    return Repository(store, repository.keys)


def cost(store):
    """What was asked of the store: pages and looks."""
    return store.pages, store.calls.get("stat", 0)


def test_few_packs_are_looked_at_one_by_one(store):
    """Eight packs cost eight looks and no listing, and one that is not there is left out."""
    repository = filled(store, 50, names.pack)
    needed = {*ids(50)[: LOOKS_MAX - 1], bytes(16)}
    assert look_up(repository, needed).keys() == needed - {bytes(16)}
    assert cost(store) == (0, LOOKS_MAX)


def test_a_small_repository_is_listed(store):
    """Up to a page one listing tells all; only a pack that it does not show is looked at."""
    repository = filled(store, 900, names.pack)
    needed = {*ids(900)[:40], bytes(16)}
    assert look_up(repository, needed).keys() == needed - {bytes(16)}
    assert cost(store) == (1, 1)


def test_what_a_lookup_costs_does_not_grow_with_the_repository(store):
    """Of 3,000 packs and of 12,000 the same twenty are found with one page, and with a look at most for each."""
    repository = filled(store, 3_000, names.pack)
    needed = set(ids(20))
    assert look_up(repository, needed).keys() == needed
    few = cost(store)
    for pack_id in ids(12_000)[3_000:]:
        store.put(names.pack(pack_id), b"x")
    store.reset()
    store.pages = 0
    assert look_up(repository, needed).keys() == needed
    many = cost(store)
    assert few[0] == many[0] == 1
    assert few[1] <= many[1] <= 20


def test_many_packs_are_listed_where_that_is_cheaper(store):
    """For half of all packs all pages are listed, and none of them is looked at."""
    repository = filled(store, 2_500, names.pack)
    needed = set(ids(1_250))
    assert look_in_listing(repository, needed).keys() == needed
    assert cost(store) == (3, 0)


@pytest.mark.parametrize("count", [40, 5_000])
def test_tombstones_are_found_among_few_and_many(store, count):
    """A pack that will be deleted is known as such, needed or asked for later, and any other is not."""
    repository = filled(store, count, names.tombstone)
    marked, others = ids(count)[:10], ids(count + 10)[count:]
    found = Tombstones(repository, {*marked[:5], *others[:5]})
    assert [pack_id in found for pack_id in marked] == [True] * 10
    assert [pack_id in found for pack_id in others] == [False] * 10
    assert store.pages == 1


def test_a_tombstone_is_looked_for_once_and_when_it_is_said(store):
    """What was needed is as it was then, although it is marked afterwards; asking again costs nothing."""
    repository = filled(store, 5_000, names.tombstone)
    other = bytes([255]) * 16
    found = Tombstones(repository, {other})
    store.put(names.tombstone(other), b"x")
    asked = cost(store)
    assert other not in found
    assert cost(store) == asked
    assert other in Tombstones(repository, {other})


def test_few_tombstones_cost_one_listing(store):
    """Up to a page of tombstones all are known from one listing, without a look."""
    repository = filled(store, 999, names.tombstone)
    found = Tombstones(repository, set(ids(30)))
    assert all(pack_id in found for pack_id in ids(999))
    assert bytes(16) not in found
    assert cost(store) == (1, 0)
