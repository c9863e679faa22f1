"""Decisions as objects: the newest that opens counts, a hidden one is noticed, and two writers make one order."""

from __future__ import annotations

from contextlib import suppress

import msgspec
import pytest
from format_examples import Examples, inputs, parse

from doubles.faulty_store import Fault, FaultyStore, ProcessDied
from doubles.memory_store import MemoryStore
from mlsync.codec.digest import object_digest, run_id
from mlsync.errors import DecisionsHidden, DecisionTaken, ManifestDamaged, VersionKept
from mlsync.repository import names, sealed_object
from mlsync.repository.encoding.canonical import decode_as
from mlsync.repository.history import decision
from mlsync.repository.history.decision import Decision, Forgotten, Gone, Pin, decision_key, open_decision
from mlsync.repository.history.decisions import By, decide, find_decided, joined, open_numbered
from mlsync.repository.history.seen_decision import SeenDecision
from mlsync.repository.keys.keyslot import Passphrase, Stretching
from mlsync.repository.repository import Repository
from mlsync.repository.sealed_object import DECISION
from mlsync.store.counting import CountingStore

EXAMPLES = Examples(inputs())
RUN = "yolo"
HALF = bytes(range(16))
BY = By("node-1", 1_795_435_200_000_000_000)
DAY_NS = 24 * 3600 * 10**9


@pytest.fixture
def repository():
    """A repository with nothing in it."""
    return Repository.create(MemoryStore(), Passphrase(b"open sesame"), stretching=Stretching(64, 1, 1))


def forget(repository, *numbers, seen=None, **more):
    """Forget versions by hand."""

    def change(_decided, draft):
        for number in numbers:
            draft.forgotten[number] = Forgotten(number, HALF, "by hand", BY.now_ns)

    return decide(repository, RUN, seen, change, BY, **more)


def pin(repository, number, name="", seen=None):
    """Pin a version."""

    def change(_decided, draft):
        draft.pins[number] = Pin(number, HALF, name, "", BY.now_ns)

    return decide(repository, RUN, seen, change, BY)


def key(repository, number):
    """Where a decision lies."""
    return decision_key(repository.keys, RUN, number)


def replace(repository, number, body):
    """Put something else in the place of a decision."""
    repository.store.delete(key(repository, number))
    repository.store.put(key(repository, number), body)


def test_the_documents_example_is_read():
    """The document's decision opens under its key, and says what the text says."""
    assert open_decision(EXAMPLES.keys, EXAMPLES.decision_key, parse("decision"))[0] == EXAMPLES.decision()
    assert decode_as(parse("decision-body"), Decision, "document") == EXAMPLES.decision()


def test_the_newest_decision_has_the_whole_state(repository):
    """Each decision takes over what was decided before, and names the digest of the one before it."""
    pin(repository, 3, "paper")
    forget(repository, 1, 2)
    found = find_decided(repository, RUN)
    assert (found.number, set(found.pins), set(found.forgotten), found.hidden) == (2, {3}, {1, 2}, None)
    body = repository.store.get(key(repository, 2), limit_bytes=1 << 20)
    made, digest = open_decision(repository.keys, key(repository, 2), body)
    first = repository.store.get(key(repository, 1), limit_bytes=1 << 20)
    assert made.previous is not None
    assert (made.previous.number, made.previous.digest) == (1, object_digest(first))
    assert found.seen == SeenDecision(2, digest[:16])


def test_nothing_is_written_if_nothing_changes(repository):
    """Who decides what is decided already leaves no object."""
    forget(repository, 1)
    forget(repository, 1)
    assert find_decided(repository, RUN).number == 1


def test_decisions_are_of_one_run(repository):
    """Another run has none of them, and one that is put into another run's place does not open."""
    forget(repository, 1)
    assert find_decided(repository, "other").number == 0
    body = repository.store.get(key(repository, 1), limit_bytes=1 << 20)
    repository.store.put(decision_key(repository.keys, "other", 1), body)
    found = find_decided(repository, "other")
    assert (found.number, found.forgotten) == (0, {})
    assert found.hidden is not None
    assert "does not authenticate" in found.hidden


def test_an_object_says_its_own_number(repository):
    """A decision that a holder of the key sealed for another number is damage."""
    forget(repository, 1)
    body = repository.store.get(key(repository, 1), limit_bytes=1 << 20)
    made, _ = open_decision(repository.keys, key(repository, 1), body)
    sealed = sealed_object.seal(repository.keys, DECISION, key(repository, 2), msgspec.msgpack.encode(made))
    with pytest.raises(ManifestDamaged, match="another one than its name says"):
        open_decision(repository.keys, key(repository, 2), sealed)


def test_planted_objects_cost_no_read(repository):
    """Thousands of objects under names that nobody with the key made are not read, and take no number."""
    forget(repository, 1)
    prefix = names.run_decisions_prefix(run_id(repository.keys.of("run id"), RUN))
    for number in range(1, 3000):
        repository.store.put(f"{prefix}{number:010d}-{number:032x}", b"planted")
    repository.store.put(f"{prefix}9999999999-{0:032x}", b"planted")
    counted = CountingStore(repository.store)
    found = find_decided(Repository(counted, repository.keys), RUN)
    assert (found.number, found.hidden, counted.calls) == (1, None, {"list": 1, "get": 1})
    assert forget(repository, 2).number == 2


def test_a_listing_begins_at_what_was_seen(repository):
    """A reader that knows a decision from a manifest does not list those before it."""
    for number in range(1, 5):
        forget(repository, number)
    seen = find_decided(repository, RUN).seen
    counted = CountingStore(repository.store)
    found = find_decided(Repository(counted, repository.keys), RUN, seen)
    assert (found.number, found.hidden, counted.calls) == (4, None, {"list": 1, "get": 1})


@pytest.mark.parametrize("first", [1, 2])
def test_a_decision_that_is_gone_and_was_seen_is_hidden(repository, first):
    """A store that hides the newest decisions, from *first* on, is found out; what is left is believed."""
    forget(repository, 1)
    seen = forget(repository, 2).seen
    for number in range(first, 3):
        repository.store.delete(key(repository, number))
    found = find_decided(repository, RUN, seen)
    assert (found.number, set(found.forgotten)) == (first - 1, set(range(1, first)))
    assert found.hidden == "decision 2, which a version names, is missing"


def test_another_decision_under_a_seen_number_is_hidden(repository):
    """If a decision has another digest than was seen, that is said."""
    first = forget(repository, 1)
    repository.store.delete(key(repository, 1))
    pin(repository, 1)
    found = find_decided(repository, RUN, first.seen)
    assert found.hidden == "decision 1 is another one than was seen before"


@pytest.mark.parametrize(
    "damage", [lambda body: body[:-1] + bytes([body[-1] ^ 1]), lambda body: body[:40], lambda _: b""]
)
def test_a_damaged_decision_is_not_passed_over_in_silence(repository, damage):
    """If the newest does not open, the one before it is believed, and readers are told; so is who asks what skipped."""
    forget(repository, 1)
    forget(repository, 2)
    replace(repository, 2, damage(repository.store.get(key(repository, 2), limit_bytes=1 << 20)))
    found = find_decided(repository, RUN)
    assert (found.number, set(found.forgotten), found.next_number) == (1, {1}, 3)
    assert found.hidden is not None
    assert found.hidden.startswith("decision 2: ")
    assert key(repository, 2) in repository.skipped


def test_nobody_decides_on_less_than_there_was(repository):
    """While a decision is hidden, deciding is refused and nothing is written, unless that is accepted."""
    pin(repository, 7)
    seen = forget(repository, 2).seen
    repository.store.delete(key(repository, 2))
    before = [info.key for info in repository.store.list("")]
    with pytest.raises(DecisionsHidden, match="decision 2, which a version names, is missing"):
        forget(repository, 3, seen=seen)
    assert [info.key for info in repository.store.list("")] == before
    # The number after all that are known: what was hidden cannot come back as the newest.
    made = forget(repository, 3, seen=seen, accept_hidden=True)
    assert (made.number, set(made.pins), set(made.forgotten)) == (3, {7}, {3})
    assert find_decided(repository, RUN, seen).hidden is None


def test_the_highest_number_cannot_be_squatted(repository):
    """If something that does not open has the highest number, the lowest free one comes next."""
    forget(repository, 1)
    repository.store.put(key(repository, names.VERSION_MAX), b"squatted")
    repository.store.put(key(repository, 2), b"squatted")
    assert forget(repository, 2, accept_hidden=True).number == 3


def test_who_accepts_a_loss_ends_it(repository):
    """Accepting what is there makes a decision even if nothing else changes: later readers see no gap."""
    seen = forget(repository, 1).seen
    repository.store.delete(key(repository, 1))
    assert decide(repository, RUN, seen, lambda *_: None, BY, accept_hidden=True).number == 2
    assert find_decided(repository, RUN, seen).hidden is None


class Racing(MemoryStore):
    """A store in which another writer is faster, a few times."""

    def __init__(self, objects, times):
        super().__init__()
        self.__dict__.update(objects.__dict__)
        self.left = times
        self.race = lambda: None

    def put(self, key, body):
        """Let the other one go first."""
        if key.startswith(names.DECISIONS) and self.left:
            self.left, left = 0, self.left - 1
            self.race()
            self.left = left
        super().put(key, body)


def test_the_second_of_two_writers_sees_what_the_first_decided(repository):
    """A rule that wants to forget a version that is pinned in the same moment is asked again, and leaves it."""
    store = Racing(repository.store, 1)
    racing = Repository(store, repository.keys)
    store.race = lambda: pin(racing, 5)

    def change(decided, draft):
        if 5 not in decided.pins:
            draft.forgotten[5] = Forgotten(5, HALF, "by a rule", BY.now_ns)

    found = decide(racing, RUN, None, change, BY)
    assert (found.number, set(found.pins), set(found.forgotten)) == (1, {5}, set())


def test_a_writer_that_is_always_slower_gives_up(repository):
    """If others decide without end, an error says so; what they decided stays."""
    store = Racing(repository.store, 100)
    racing = Repository(store, repository.keys)
    others = iter(range(100, 200))
    store.race = lambda: pin(racing, next(others))
    with pytest.raises(DecisionTaken, match="at the same time"):
        forget(racing, 1)
    assert find_decided(racing, RUN).forgotten == {}


class Overwriting(MemoryStore):
    """A store that overwrites, with another writer that is a moment later."""

    def __init__(self, objects):
        super().__init__()
        self.__dict__.update(objects.__dict__)
        self.later = b""

    def put(self, key, body):
        """Overwrite what is there."""
        self.delete(key)
        super().put(key, body)
        if self.later and key.startswith(names.DECISIONS):
            self.delete(key)
            super().put(key, self.later)
            self.later = b""


def test_a_decision_that_was_overwritten_is_made_again(repository):
    """Where a store overwrites, a decision counts only if it reads back: else it is made on top of the other's."""
    other = Repository(MemoryStore(), repository.keys)
    other.store.put(names.HEADER, repository.store.get(names.HEADER, limit_bytes=4096))
    pin(other, 9)
    store = Overwriting(repository.store)
    store.later = other.store.get(key(repository, 1), limit_bytes=1 << 20)
    found = forget(Repository(store, repository.keys), 1)
    assert (found.number, set(found.pins), set(found.forgotten)) == (2, {9}, {1})


@pytest.mark.parametrize("kind", ["die-before", "die-after"])
@pytest.mark.parametrize("nth", range(1, 6))
def test_a_death_at_any_call_leaves_one_state_or_the_other(repository, kind, nth):
    """Whoever dies while he decides leaves what was decided before, or all of the new decision."""
    forget(repository, 1)
    store = FaultyStore(repository.store, Fault(kind, nth))
    with suppress(ProcessDied):
        forget(Repository(store, repository.keys), 2)
    assert len(store.calls) == min(nth, 5)  # a listing, the newest, the header, the new one, and it is read back
    found = find_decided(repository, RUN)
    is_made = nth == 5 or (nth == 4 and kind == "die-after")
    assert (found.hidden, set(found.forgotten)) == (None, {1, 2} if is_made else {1})


def test_bits_that_flip_on_the_way_do_no_harm(repository):
    """A read that comes with a wrong bit is made again: no decision is called damaged, nor made twice."""
    forget(repository, 1)
    for nth in (1, 2, 3):
        store = FaultyStore(repository.store, Fault("flip", nth, "get"))
        assert forget(Repository(store, repository.keys), 1 + nth).number == 1 + nth


def test_another_version_under_a_forgotten_number_stays(repository):
    """A version whose manifest is not the one that was forgotten is not forgotten."""
    found = forget(repository, 1)
    assert found.dropped(1, HALF + bytes(16)) is not None
    assert found.dropped(1, bytes(32)) is None


def test_ranges_join_what_one_rule_dropped_on_one_day():
    """Only neighbours of one rule and one day become one range; the newest moment stays."""
    day = BY.now_ns // DAY_NS * DAY_NS
    ones = [Gone(3, 3, "a", day + 2), Gone(1, 2, "a", day + 1), Gone(4, 4, "b", day), Gone(5, 5, "b", day + DAY_NS)]
    assert joined([*ones, Gone(7, 7, "b", day + DAY_NS)]) == (
        Gone(1, 3, "a", day + 2),
        Gone(4, 4, "b", day),
        Gone(5, 5, "b", day + DAY_NS),
        Gone(7, 7, "b", day + DAY_NS),
    )


def test_more_than_readers_take_is_not_written(repository, monkeypatch):
    """A decision at its bound is refused before it is written, with what to do."""
    from mlsync.repository.history import decisions

    monkeypatch.setattr(decisions, "ITEMS_MAX", 3)
    forget(repository, 1, 2, 3)
    with pytest.raises(VersionKept, match="more than"):
        forget(repository, 4)
    assert find_decided(repository, RUN).number == 1


def test_a_decision_at_all_bounds_fits_an_object():
    """The largest decision that the rules let through is smaller than what a sealed object may hold."""
    largest = decision.PINS_MAX * (decision.REASON_BYTES_MAX + 200)
    largest += 2 * decision.ITEMS_MAX * (decision.RULE_BYTES_MAX + 60)
    assert largest < sealed_object.PLAIN_BYTES_MAX - (1 << 20)


def test_an_old_decision_can_be_read(repository):
    """Each decision stays, so that a person can see who decided what."""
    forget(repository, 1)
    pin(repository, 2)
    assert set(open_numbered(repository, RUN, 1).forgotten) == {1}
    assert open_numbered(repository, RUN, 1).pins == {}


def test_thousands_of_ranges_are_looked_up_at_once(repository):
    """Each number is found in its range, or in none, however many ranges there are."""
    ranges = tuple(Gone(3 * at + 1, 3 * at + 2, "x", at * DAY_NS) for at in range(5_000))

    def change(_decided, draft):
        draft.gone = ranges

    found = decide(repository, RUN, None, change, BY)
    gone = [number for number in range(20_000) if found.gone_as(number) is not None]
    assert gone == [number for number in range(15_000) if number % 3]
    assert find_decided(repository, RUN).gone_count == 10_000
