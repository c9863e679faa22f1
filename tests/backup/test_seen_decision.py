"""A new version names the newest decision about its run, so that a store cannot hide it afterwards."""

from __future__ import annotations

import pytest

from flow_parts import RUN, World
from mlsync.repository.history.decision import Forgotten, Gone, Pin, decision_key
from mlsync.repository.history.decisions import By, decide, find_decided
from mlsync.repository.history.seen_decision import SeenDecision, half, seen_decision

BY = By("node-1", 1_795_435_200_000_000_000)


@pytest.fixture
def world(tmp_path):
    """A run with versions 1 and 2."""
    world = World(tmp_path)
    for content in (b"a", b"b"):
        world.write("log.txt", content)
        world.backup()
    yield world
    world.close()


def forget(world, number, *gone):
    """Forget a version, and say of others that they are gone."""
    digest = world.repository.stored(RUN, 1).digest

    def change(_decided, draft):
        draft.forgotten[number] = Forgotten(number, half(digest), "by hand", BY.now_ns)
        draft.gone = tuple(Gone(one, one, "by hand", BY.now_ns) for one in gone)

    return decide(world.repository, RUN, None, change, BY)


def next_version(world, content=b"more"):
    """Make a version, and return what it says of decisions."""
    world.append("log.txt", content)
    made = world.backup().version
    return made, seen_decision(world.repository.stored(RUN, made).root.room)


def test_a_version_names_no_decision_if_there_is_none(world):
    """A run about which nothing was decided has manifests without the name."""
    assert world.repository.stored(RUN, 2).root.room is None


def test_a_version_names_the_newest_decision(world):
    """The next version has number and digest of the newest decision; the version after it too, or a newer one's."""
    decided = forget(world, 1)
    assert next_version(world) == (3, decided.seen)
    assert next_version(world) == (4, decided.seen)
    newer = decide(world.repository, RUN, None, lambda _, draft: draft.pins.update({4: _pin(world, 4)}), BY)
    assert newer.seen != decided.seen
    assert next_version(world) == (5, newer.seen)


def _pin(world, number):
    return Pin(number, half(world.repository.stored(RUN, number).digest), "", "", BY.now_ns)


def test_a_hidden_decision_is_named_on_and_reported(world):
    """If the store no longer shows the decision, the next version says so and names it still."""
    decided = forget(world, 1)
    next_version(world)
    world.store.delete(decision_key(world.repository.keys, RUN, 1))
    assert next_version(world) == (4, decided.seen)
    text = "yolo: what was decided of its versions cannot be read: decision 1, which a version names, is missing"
    assert ("warning", text) in world.monitor.notices
    # And a reader finds it hidden by what that version says.
    assert find_decided(world.repository, RUN, decided.seen).hidden is not None


def test_an_older_decision_does_not_stand_for_a_hidden_one(world):
    """If only the newest decision is hidden, the next version still names that one, and not the one before it."""
    forget(world, 1)
    newer = decide(world.repository, RUN, None, lambda _, draft: draft.pins.update({2: _pin(world, 2)}), BY)
    next_version(world)
    world.store.delete(decision_key(world.repository.keys, RUN, 2))
    assert next_version(world) == (4, newer.seen)


def test_a_newer_decision_that_does_not_open_is_reported(world):
    """If the newest decision is damaged, the version names the one before it, which opens."""
    first = forget(world, 1)
    world.store.put(decision_key(world.repository.keys, RUN, 2), b"damaged")
    assert next_version(world) == (3, first.seen)
    assert any("decision 2: " in text for _, text in world.monitor.notices)
    assert isinstance(first.seen, SeenDecision)


def test_a_number_that_was_dropped_is_never_used_again(world):
    """If the store lost its newest versions and a decision still speaks of their numbers, the next ones are above."""
    forget(world, 4, 6)
    assert next_version(world)[0] == 7
