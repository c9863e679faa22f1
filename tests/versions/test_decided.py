"""What reads versions heeds what is decided of them: forgotten ones are not chosen, gone ones are not missed."""

from __future__ import annotations

import pytest

from doubles.memory_store import MemoryStore
from flow_parts import RUN, World
from mlsync.errors import HistoryRolledBack, ObjectDamaged, VersionMissing
from mlsync.repository import names
from mlsync.repository.history.decision import Forgotten, Gone, Pin, decision_key
from mlsync.repository.history.decisions import By, decide, find_decided, mark_gone
from mlsync.repository.history.seen_decision import half
from mlsync.repository.readable import report_skipped
from mlsync.repository.repository import Repository
from mlsync.store.counting import CountingStore
from mlsync.upkeep.check import check
from mlsync.upkeep.repair import carry_out, plan
from mlsync.versions.decided import decided_of
from mlsync.versions.proof_status import proof_statuses, run_versions
from mlsync.versions.rollback import refuse_rolled_back
from mlsync.versions.run_proofs import RunProofs
from mlsync.versions.select import find_version, version_before

BY = By("node-1", 1_795_435_200_000_000_000)


@pytest.fixture
def world(tmp_path):
    """A run with versions 1 to 5, each with another log."""
    world = World(tmp_path)
    for number in range(1, 6):
        world.write("log.txt", b"%d" % number)
        world.backup()
    yield world
    world.close()


def digest(world, number):
    """The digest of a version's manifest."""
    return world.repository.stored(RUN, number).digest


def forget(world, *numbers, rule="by hand"):
    """Forget versions."""
    items = {number: Forgotten(number, half(digest(world, number)), rule, BY.now_ns) for number in numbers}
    return decide(world.repository, RUN, None, lambda _, draft: draft.forgotten.update(items), BY)


def remove(world, *numbers, fence=False):
    """Forget versions, mark them as gone, and delete what they are: with *fence* something else takes their place."""
    digests = {number: digest(world, number) for number in numbers}
    forget(world, *numbers)
    decided = mark_gone(world.repository, RUN, None, digests, BY)
    for number in numbers:
        assert decided.gone_as(number) is not None
        world.store.delete(world.repository.version_key(RUN, number))
        if fence:
            world.store.put(world.repository.version_key(RUN, number), bytes(96))


def pin(world, number, name=""):
    """Pin a version."""
    made = Pin(number, half(digest(world, number)), name, "", BY.now_ns)
    return decide(world.repository, RUN, None, lambda _, draft: draft.pins.update({number: made}), BY)


def number_of(world, word):
    """The version that a word means."""
    return find_version(world.repository, RUN, word).root.number


def listed(world):
    """The versions that a list shows."""
    return [status.root.number for status in proof_statuses(world.repository, RUN)]


def warnings(world):
    """What a command would warn of at its end."""
    report_skipped(world.repository, world.monitor)
    found = [text for level, text in world.monitor.notices if level == "warning"]
    world.monitor.notices.clear()
    return found


def test_a_forgotten_version_is_not_listed(world):
    """Lists leave it out, and have it if they are asked for all; what is gone is in none."""
    forget(world, 1, 3)
    remove(world, 2)
    assert listed(world) == [4, 5]
    whole = run_versions(world.repository, RUN, with_forgotten=True)
    assert [status.root.number for status in whole.statuses] == [1, 3, 4, 5]
    assert set(whole.decided.forgotten) == {1, 3}
    assert RunProofs(world.repository, RUN).numbers == [4, 5]


def test_a_gone_version_whose_manifest_is_still_there_is_not_listed(world):
    """A pruner that died between the decision and the deletion leaves a manifest that nobody believes."""
    decided = forget(world, 2)
    mark_gone(world.repository, RUN, decided.seen, {2: digest(world, 2)}, BY)
    assert listed(world) == [1, 3, 4, 5]
    with pytest.raises(VersionMissing, match="was removed, forgotten by hand on 2026-11-23"):
        number_of(world, "2")
    assert [
        one for one in run_versions(world.repository, RUN, with_forgotten=True).statuses if one.root.number == 2
    ] == []


def test_a_time_means_no_forgotten_version(world):
    """A date finds the version before the forgotten one."""
    stored = world.repository.stored(RUN, 3)
    forget(world, 3)
    moment = str(stored.root.created_ns // 10**9 + 1)
    from datetime import UTC, datetime

    text = datetime.fromtimestamp(int(moment), UTC).isoformat()
    assert number_of(world, text) != 3


def test_the_version_before_is_no_forgotten_one(world):
    """A diff with the version before takes the newest one below that is kept."""
    forget(world, 3)
    remove(world, 2)
    assert version_before(world.repository, RUN, 4).root.number == 1


def test_a_forgotten_version_comes_if_it_is_asked_for_by_number(world):
    """While it is there it restores, and the user is told that it is forgotten, and how to keep it."""
    forget(world, 3, rule="last 2")
    assert number_of(world, "3") == 3
    said = ["yolo: version 3 is forgotten by last 2 on 2026-11-23; mlsync unforget 3 brings it back"]
    assert warnings(world) == said
    assert world.restore(3).version == 3


def test_a_gone_version_is_named_with_its_rule(world):
    """Who asks for a version that was removed learns by what rule and when."""
    remove(world, 2)
    with pytest.raises(VersionMissing, match="version 2 of run 'yolo' was removed, forgotten by hand on 2026-11-23"):
        number_of(world, "2")
    with pytest.raises(VersionMissing, match="no version 9, only 1, 3, 4, 5"):
        number_of(world, "9")


@pytest.mark.parametrize("name", ["paper", "Paper.v2_final-1"])
def test_a_pins_name_stands_for_its_version(world, name):
    """Wherever a version is asked for, the name of a pin does."""
    pin(world, 2, name)
    assert number_of(world, name) == 2


def test_an_unknown_name_is_told_from_those_that_there_are(world):
    """A wrong name ends with the names that there are, and with the one that was probably meant, of words too."""
    pin(world, 2, "paper")
    with pytest.raises(VersionMissing, match="no version of run 'yolo' is pinned under that name") as missing:
        number_of(world, "papers")
    assert missing.value.advice == "did you mean paper? there are: paper"
    with pytest.raises(VersionMissing) as missing:
        number_of(world, "lastest")
    assert missing.value.advice is not None
    assert missing.value.advice.startswith("did you mean latest? ")


def test_a_pin_of_another_manifest_is_not_followed(world):
    """If another version has the number by now, the pin's name does not give it."""
    made = Pin(2, bytes(16), "paper", "", BY.now_ns)
    decide(world.repository, RUN, None, lambda _, draft: draft.pins.update({2: made}), BY)
    with pytest.raises(VersionMissing, match="another one than was pinned as paper"):
        number_of(world, "paper")
    assert any(
        "it is another version than was pinned" in one.text for one in check(world.repository, world.monitor).problems
    )


def test_a_hidden_decision_is_said_once_and_nothing_more_is_forgotten(world):
    """Readers say that a decision is missing, and show what they can see."""
    decided = forget(world, 1)
    world.write("log.txt", b"9")
    world.backup()
    world.monitor.notices.clear()
    world.store.delete(decision_key(world.repository.keys, RUN, decided.number))
    assert listed(world) == [1, 2, 3, 4, 5, 6]
    said = warnings(world)
    assert len(said) == 1
    assert said[0].endswith("decision 1, which a version names, is missing")
    keys = [problem.key for problem in check(world.repository, world.monitor).problems]
    assert keys == [decision_key(world.repository.keys, RUN, 1)]


def test_a_list_costs_one_call_more(world):
    """Where nothing was decided, a list of versions costs one listing for that; else one object more."""
    for reads in (5, 6):
        counted = CountingStore(world.store)
        world.use(counted)
        proof_statuses(world.repository, RUN)
        assert counted.calls == {"list": 3, "get": reads}
        forget(world, 1)


def test_gone_is_only_what_was_forgotten(world):
    """A version that is not forgotten, or of which another manifest was, is not marked; neighbours are one range."""
    world.write("log.txt", b"6")
    world.backup()
    forget(world, 1, 2, 3, 5)
    digests = {number: digest(world, number) for number in range(1, 6)} | {3: b"another manifest" + bytes(16)}
    found = mark_gone(world.repository, RUN, None, digests, BY)
    assert found.gone == (Gone(1, 2, "by hand", BY.now_ns), Gone(5, 5, "by hand", BY.now_ns))
    assert set(found.forgotten) == {3}
    assert [found.dropped(number) is not None for number in range(1, 6)] == [True, True, True, False, True]
    assert found.highest_dropped == 5


def test_nothing_goes_once_the_newest_that_opens_is_forgotten(world):
    """If all that was newer is damaged, a forgotten version is the last one that restores, and it stays."""
    forget(world, 3)
    for number in (4, 5):
        key = world.repository.version_key(RUN, number)
        world.store.delete(key)
        world.store.put(key, b"damaged")
    for digests in ({3: digest(world, 3)}, {3: digest(world, 3), 1: digest(world, 1)}):
        assert mark_gone(world.repository, RUN, None, digests, BY).gone == ()
    assert number_of(world, "latest") == 2
    assert number_of(world, "3") == 3


# ---------------------------------------------------------------- check and repair


@pytest.mark.parametrize("fence", [False, True])
def test_a_gap_that_was_decided_is_no_problem(world, fence):
    """A check misses no version that is gone, nor calls its copy, its proofs or what took its place a problem."""
    remove(world, 2, 3, fence=fence)
    for number in (None, 2, 3):
        if number is not None:  # the copies go after the manifests
            world.store.delete(names.copy_of(world.repository.version_key(RUN, number)))
        found = check(world.repository, world.monitor)
        assert (found.problems, found.unchecked) == ([], [])


def test_a_missing_version_that_is_not_gone_is_a_problem(world):
    """A manifest that is missing while its version is forgotten, pinned or neither is reported."""
    forget(world, 1)
    pin(world, 2)
    for number in (1, 2, 4):
        world.store.delete(world.repository.version_key(RUN, number))
        world.store.delete(names.copy_of(world.repository.version_key(RUN, number)))
    found = {(one.versions[0][1], one.text) for one in check(world.repository, world.monitor).problems}
    assert (1, "the manifest is missing, and the version is forgotten") in found
    assert (2, "the manifest is missing, and the version is pinned") in found
    assert (4, "the manifest is missing, and version 5 follows it") in found


def test_a_check_looks_at_every_decision(world):
    """A decision that is missing or swapped below the newest is reported too."""
    for number in (1, 2, 3):
        forget(world, number)
    world.store.delete(decision_key(world.repository.keys, RUN, 2))
    (problem,) = check(world.repository, world.monitor).problems
    assert problem.text == "decision 2, which it follows, is missing"
    world.store.put(decision_key(world.repository.keys, RUN, 2), b"nonsense")
    (problem,) = check(world.repository, world.monitor).problems
    assert "decision is cut short" in problem.text


def test_a_check_compares_each_decision_with_the_next(world):
    """A decision that somebody with the key replaced is found out by the one that follows it."""
    forget(world, 1)
    other = MemoryStore()
    other.put(names.HEADER, world.store.get(names.HEADER, limit_bytes=4096))
    replaced = Repository(other, world.repository.keys)
    decide(replaced, RUN, None, lambda _, draft: draft.pins.update({4: Pin(4, bytes(16), "", "", 0)}), BY)
    forget(world, 2)
    key = decision_key(world.repository.keys, RUN, 1)
    world.store.delete(key)
    world.store.put(key, other.get(key, limit_bytes=1 << 20))
    (problem,) = check(world.repository, world.monitor).problems
    assert problem.text == "decision 1 is not the one that it was made to follow"


def test_a_check_reports_what_is_planted_as_an_oddity(world):
    """An object that nobody with the key made is left alone, and is no problem."""
    forget(world, 1)
    key = decision_key(world.repository.keys, RUN, 1)
    world.store.put(key[:-1] + ("0" if key[-1] != "0" else "1"), b"planted")
    found = check(world.repository, world.monitor)
    assert found.problems == []
    assert [odd.key.partition("/")[0] for odd in found.oddities] == ["decisions"]


@pytest.mark.parametrize("fence", [False, True])
def test_a_repair_brings_no_version_back_that_is_gone(world, fence):
    """The copy of a gone version's manifest stays a copy, whatever took the manifest's place."""
    remove(world, 2, fence=fence)
    assert plan(world.repository, world.monitor, header_fault=None, rebuild=False) == []


def test_a_repair_heals_a_forgotten_version(world):
    """A forgotten version can still be brought back, so its manifest is healed."""
    forget(world, 2)
    world.store.delete(world.repository.version_key(RUN, 2))
    steps = plan(world.repository, world.monitor, header_fault=None, rebuild=False)
    assert [step.version for step in steps] == [(RUN, 2)]


def test_a_repair_waits_while_a_decision_is_hidden(world):
    """As long as a decision is missing, nobody knows whether a version was removed on purpose."""
    remove(world, 2)
    world.write("log.txt", b"9")
    world.backup()
    for number in (1, 2):
        world.store.delete(decision_key(world.repository.keys, RUN, number))
    assert plan(world.repository, world.monitor, header_fault=None, rebuild=False) == []


def test_a_version_that_went_while_a_repair_was_planned_stays_away(world):
    """A step looks at the decisions again before it is done."""
    taken = digest(world, 2)
    world.store.delete(world.repository.version_key(RUN, 2))
    steps = plan(world.repository, world.monitor, header_fault=None, rebuild=False)
    item = Forgotten(2, half(taken), "by hand", BY.now_ns)
    decide(world.repository, RUN, None, lambda _, draft: draft.forgotten.update({2: item}), BY)
    mark_gone(world.repository, RUN, None, {2: taken}, BY)
    repaired = carry_out(world.repository, steps, world.monitor, read_data=False)
    assert [type(error) for _, error in repaired.failed] == [ObjectDamaged]
    assert world.numbers() == [1, 3, 4, 5]


# ---------------------------------------------------------------- what a machine saw before


@pytest.mark.parametrize("fence", [False, True])
def test_a_machine_that_saw_what_is_gone_goes_on(world, fence):
    """A machine whose last version was removed meanwhile neither cries rollback nor loses its run."""
    world.save_state("old")
    other = World(world.base / "other", world.store, is_there=True)
    for number in (6, 7):
        world.write("log.txt", b"%d" % number)
        world.backup()
    remove(world, 5, 6, fence=fence)
    world.load_state("old")
    head = world.state.head(RUN)
    assert head is not None
    assert head.number == 5
    refuse_rolled_back(world.repository, RUN, head, by_number=False)
    world.write("log.txt", b"8")
    assert world.backup().version == 8
    other.close()


def test_a_gap_behind_what_was_seen_is_explained(world):
    """A machine that saw a version accepts the next ones although some between were removed."""
    world.save_state("old")
    for number in (6, 7):
        world.write("log.txt", b"%d" % number)
        world.backup()
    remove(world, 6)
    world.load_state("old")
    world.write("log.txt", b"8")
    assert world.backup().version == 8


def test_a_version_that_is_hidden_is_still_noticed(world):
    """A decision about other versions excuses no other loss."""
    world.save_state("old")
    world.write("log.txt", b"6")
    world.backup()
    remove(world, 2, 4)
    world.load_state("old")
    head = world.state.head(RUN)
    assert head is not None
    world.store.delete(world.repository.version_key(RUN, 5))
    with pytest.raises(HistoryRolledBack):
        refuse_rolled_back(world.repository, RUN, head, by_number=False)
    with pytest.raises(HistoryRolledBack):
        world.backup()


def test_what_is_decided_is_found_without_a_version(world):
    """A run whose manifests are all gone still has its decisions: a rebuild from copies heeds them."""
    remove(world, 2)
    for number in (1, 3, 4, 5):
        world.store.delete(world.repository.version_key(RUN, number))
    assert decided_of(world.repository, RUN).gone == (Gone(2, 2, "by hand", BY.now_ns),)
    steps = plan(world.repository, world.monitor, header_fault=None, rebuild=True)
    assert sorted(step.version[1] for step in steps if step.version) == [1, 3, 4, 5]
    assert find_decided(world.repository, RUN).number == 2
