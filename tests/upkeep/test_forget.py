"""Forgetting, bringing back, pinning: what must stay is refused, and a race has one winner."""

from __future__ import annotations

import itertools
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from doubles.faulty_store import Fault, FaultyStore, ProcessDied
from flow_parts import RUN, World, small_checkpoint
from mlsync.errors import ConfigInvalid, DecisionsHidden, PinNameTaken, VersionKept, VersionMissing
from mlsync.repository.history.decision import PINS_MAX, decision_key
from mlsync.repository.history.decisions import By, find_decided, mark_gone
from mlsync.repository.repository import Repository
from mlsync.store.wrapping import WrappingStore
from mlsync.upkeep import pins
from mlsync.upkeep.forget import BY_HAND, forget, needs_of, unforget
from mlsync.upkeep.pins import pin, refuse_pin_name, refuse_reason, unpin
from mlsync.versions.proof_status import proof_statuses

MADE = Path(__file__).parents[1] / "formats/made"
BY = By("node-1", 1_795_435_200_000_000_000)


@pytest.fixture
def world(tmp_path):
    """A run with versions 1 to 5 of a log, which nobody proves."""
    world = World(tmp_path)
    for number in range(1, 6):
        world.append("log.txt", b"%d" % number)
        world.backup()
    yield world
    world.close()


def by_hand(world, *numbers, **more):
    """Forget by hand."""
    return forget(world.repository, RUN, [(number, BY_HAND) for number in numbers], BY, **more)


def pinned(world, number, **more):
    """Pin a version."""
    return pin(world.repository, world.repository.stored(RUN, number), BY, **more)


def listed(world):
    """The versions that are listed."""
    return [status.root.number for status in proof_statuses(world.repository, RUN)]


def objects(world):
    """All objects of the store."""
    return [info.key for info in world.store.list("")]


def test_forgotten_versions_come_back_as_they_were(world):
    """What was forgotten is not listed, nothing of it is deleted, and it comes back and restores."""
    before = set(objects(world))
    done = by_hand(world, 2, 3)
    assert [(stored.root.number, rule) for stored, rule in done.items] == [(2, "by hand"), (3, "by hand")]
    assert listed(world) == [1, 4, 5]
    assert before <= set(objects(world))
    assert unforget(world.repository, RUN, [2], BY) == (2,)
    assert listed(world) == [1, 2, 4, 5]
    assert world.restore(2).version == 2


def test_each_version_falls_to_its_own_rule(world):
    """A rule's text stands beside each version, and the first rule stays if another one forgets it again."""
    forget(world.repository, RUN, [(1, "last 2"), (2, "daily 3")], BY)
    assert forget(world.repository, RUN, [(1, "another"), (3, "last 2")], BY).already == (1,)
    found = find_decided(world.repository, RUN)
    assert {number: item.rule for number, item in found.forgotten.items()} == {1: "last 2", 2: "daily 3", 3: "last 2"}


def test_a_dry_run_writes_nothing(world):
    """It says what would be forgotten, refuses what would be refused, and leaves the store as it is."""
    before = objects(world)
    assert [stored.root.number for stored, _ in by_hand(world, 1, 2, dry_run=True).items] == [1, 2]
    with pytest.raises(VersionKept):
        by_hand(world, 5, dry_run=True)
    assert objects(world) == before


def test_the_newest_stays(world):
    """The newest version is refused, and with it all that was asked for in one go."""
    with pytest.raises(VersionKept, match=r"version 5: it is the newest: "):
        by_hand(world, 1, 5)
    assert listed(world) == [1, 2, 3, 4, 5]


def test_a_pinned_version_stays(world):
    """A pin protects from forgetting, until it is removed."""
    pinned(world, 2, name="paper")
    pinned(world, 3)
    with pytest.raises(VersionKept, match=r"version 2: it is pinned as paper; version 3: it is pinned: "):
        by_hand(world, 1, 2, 3)
    unpin(world.repository, RUN, "paper", BY)
    by_hand(world, 2)
    assert listed(world) == [1, 3, 4, 5]


def test_the_newest_proved_and_resumable_stay(tmp_path):
    """The newest version whose checkpoints are proved, and the newest to resume from, are refused."""
    world = World(tmp_path)
    for step in (2, 3):
        for path in sorted((MADE / f"huggingface-trainer/checkpoint-{step}").iterdir()):
            world.write(f"out/checkpoint-{step}/{path.name}", path.read_bytes())
        world.backup()
    shutil.rmtree(world.directory / "out")
    world.write("last.pt", small_checkpoint(3))
    world.backup(accept_loss=True)
    (world.directory / "last.pt").unlink()
    world.write("log.txt", b"1")
    world.backup(accept_loss=True)
    reasons = needs_of(world.repository, RUN).reasons
    assert reasons == {
        2: "it is the newest from which training can resume",
        3: "it is the newest that is proved",
        4: "it is the newest",
    }
    with pytest.raises(VersionKept, match=r"version 2: .* resume; version 3: it is the newest that is proved"):
        by_hand(world, 1, 2, 3)
    by_hand(world, 1)
    world.close()


def test_the_last_good_content_of_a_file_stays(tmp_path):
    """A version that a trouble of another one names stays, unless that one goes too."""
    world = World(tmp_path)
    world.write("best.pt", small_checkpoint(1))
    world.backup()
    world.write("best.pt", small_checkpoint(1)[:-100])
    world.append("log.txt", b"1")
    world.backup()
    (trouble,) = world.manifest(2).root.troubles
    assert trouble.kept == 1
    for number in (3, 4):
        world.write("best.pt", small_checkpoint(number))
        world.backup()
    with pytest.raises(VersionKept, match="version 1: it has the last good content of a file, as version 2 says"):
        by_hand(world, 1)
    by_hand(world, 1, 2)
    assert listed(world) == [3, 4]
    world.close()


def test_what_is_not_there_is_named(world):
    """A number that no version has, and one that was removed, are errors, and nothing is forgotten."""
    by_hand(world, 2)
    digest = world.repository.stored(RUN, 2).digest
    mark_gone(world.repository, RUN, None, {2: digest}, BY)
    with pytest.raises(VersionMissing, match="no version 9"):
        by_hand(world, 1, 9)
    for act in (lambda: by_hand(world, 1, 2), lambda: unforget(world.repository, RUN, [2], BY)):
        with pytest.raises(VersionMissing, match="version 2 of run 'yolo' was removed"):
            act()
    assert listed(world) == [1, 3, 4, 5]


def test_a_forgotten_version_that_was_replaced_does_not_come_back(world):
    """If another manifest has its place by now, bringing it back would list a version that nobody forgot."""
    by_hand(world, 2)
    key = world.repository.version_key(RUN, 2)
    world.store.delete(key)
    with pytest.raises(VersionMissing, match="no version 2"):
        unforget(world.repository, RUN, [2], BY)
    assert set(find_decided(world.repository, RUN).forgotten) == {2}


def test_unforgetting_what_is_listed_does_nothing(world):
    """It says that none was forgotten, and makes no decision."""
    assert unforget(world.repository, RUN, [1, 9], BY) == ()
    assert find_decided(world.repository, RUN).number == 0


class _Between(WrappingStore):
    """A store in which something else is decided right before the first decision is made."""

    def __init__(self, store, act):
        super().__init__(store)
        self.act = act

    def call(self, method, key, work):
        """Act once."""
        if method == "put" and key.startswith("decisions/") and self.act is not None:
            act, self.act = self.act, None
            act()
        return work()


def test_a_pin_in_the_same_moment_wins(world):
    """A version that is pinned while somebody forgets it stays, and nothing else is forgotten either."""
    other = Repository(world.store, world.repository.keys)
    world.use(_Between(world.store, lambda: pin(other, other.stored(RUN, 2), BY)))
    with pytest.raises(VersionKept, match="version 2: it was pinned meanwhile"):
        by_hand(world, 1, 2)
    found = find_decided(other, RUN)
    assert (set(found.pins), set(found.forgotten)) == ({2}, set())


def test_a_version_that_goes_while_it_is_brought_back_is_gone(world):
    """A pruner that is faster wins: the error says so."""
    by_hand(world, 2)
    other = Repository(world.store, world.repository.keys)
    digest = other.stored(RUN, 2).digest
    world.use(_Between(world.store, lambda: mark_gone(other, RUN, None, {2: digest}, BY)))
    with pytest.raises(VersionMissing, match="was removed"):
        unforget(world.repository, RUN, [2], BY)


def test_a_version_that_is_pinned_while_it_goes_stays(world):
    """A pruner that is slower than a pin marks nothing."""
    by_hand(world, 2)
    other = Repository(world.store, world.repository.keys)
    digest = other.stored(RUN, 2).digest
    world.use(_Between(world.store, lambda: pin(other, other.stored(RUN, 2), BY)))
    assert mark_gone(world.repository, RUN, None, {2: digest}, BY).gone == ()
    assert listed(world) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("kind", ["die-before", "die-after"])
def test_a_death_at_any_call_forgets_all_or_none(world, kind):
    """Whoever dies while he forgets two versions leaves both listed or both forgotten."""
    seen = set()
    is_dead = True
    for nth in itertools.count(1):
        if not is_dead:
            break
        store = FaultyStore(world.store, Fault(kind, nth))
        world.use(store)
        with suppress(ProcessDied):
            by_hand(world, 1, 2)
        is_dead = store.is_dead
        world.use(world.store)
        seen.add(tuple(listed(world)))
        unforget(world.repository, RUN, [1, 2], BY)
    assert seen == {(1, 2, 3, 4, 5), (3, 4, 5)}


# ---------------------------------------------------------------- pins


def test_a_pin_keeps_name_and_reason_until_others_are_given(world):
    """Pinning again changes what is given, and nothing else."""
    assert pinned(world, 2, name="paper", reason="table 2")[0].name == "paper"
    pinned(world, 2, reason="table 3")
    found = pinned(world, 2)[0]
    assert (found.name, found.reason) == ("paper", "table 3")
    assert find_decided(world.repository, RUN).number == 2


def test_a_pinned_version_is_no_longer_forgotten(world):
    """Who pins a forgotten version wants to keep it: it comes back."""
    by_hand(world, 2)
    assert pinned(world, 2)[1]
    assert listed(world) == [1, 2, 3, 4, 5]


def test_a_name_is_given_once(world):
    """A second version cannot have the name, not in capitals either; the same version can."""
    pinned(world, 2, name="paper")
    for name in ("paper", "Paper"):
        with pytest.raises(PinNameTaken, match="version 2 of run 'yolo' is pinned as paper"):
            pinned(world, 3, name=name)
    pinned(world, 2, name="Paper")
    assert unpin(world.repository, RUN, "Paper", BY).version == 2
    pinned(world, 3, name="paper")


def test_what_is_not_pinned_cannot_be_unpinned(world):
    """The error names what is pinned."""
    pinned(world, 2, name="paper")
    pinned(world, 3)
    for text in ("4", "papers", "5"):
        with pytest.raises(VersionMissing, match="is not pinned") as missing:
            unpin(world.repository, RUN, text, BY)
        assert missing.value.advice == "pinned: paper, 3"
    assert unpin(world.repository, RUN, "3", BY).version == 3


@pytest.mark.parametrize("name", ["", "latest", "Best", "resumable", "3", "2026-11-23", "a b", "a" * 64, "ä", "-x"])
def test_a_name_that_means_something_else_is_refused(name):
    """Words, numbers and times are no names, and neither is what a message could not show."""
    with pytest.raises(ConfigInvalid):
        refuse_pin_name(name)


@pytest.mark.parametrize("reason", ["x" * 1001, "a\nb", "a\x1b[31m"])
def test_a_reason_that_no_decision_holds_is_refused(reason):
    """It is refused before anybody is asked for a passphrase."""
    with pytest.raises(ConfigInvalid):
        refuse_reason(reason)


def test_more_pins_than_a_decision_holds_are_refused(world, monkeypatch):
    """The bound is told, and what is pinned stays."""
    from mlsync.repository.history import decisions

    assert PINS_MAX == 1000
    monkeypatch.setattr(decisions, "PINS_MAX", 2)
    pinned(world, 1)
    pinned(world, 2)
    with pytest.raises(VersionKept, match="more than 2 pins"):
        pinned(world, 3)


def test_a_hidden_decision_stops_all_of_it(world):
    """While a decision is missing, nothing is pinned, forgotten or brought back, unless that is accepted."""
    pinned(world, 1)
    pinned(world, 2)
    world.append("log.txt", b"more")
    world.backup()
    world.store.delete(decision_key(world.repository.keys, RUN, 2))
    before = objects(world)
    repository = world.repository
    for act in (
        lambda: pinned(world, 3),
        lambda: unpin(repository, RUN, "1", BY),
        lambda: by_hand(world, 4),
        lambda: unforget(repository, RUN, [1], BY),
    ):
        with pytest.raises(DecisionsHidden, match="decision 2, which a version names, is missing"):
            act()
    assert objects(world) == before
    by_hand(world, 4, accept_hidden=True)
    assert listed(world) == [1, 2, 3, 5, 6]
    assert pins.pin(repository, repository.stored(RUN, 3), BY)[0].version == 3
