"""Giving up what lies in the place of a version: what was planted or is lost for good, and nothing else."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from compacting import compacted, delete_buried
from flow_parts import FAST, PASSPHRASE, RUN, World, keys_of, noise
from mlsync.errors import (
    DecisionsHidden,
    DiscardRefused,
    KeyRetired,
    ObjectArchived,
    PolicyRefused,
    PruneBlocked,
    StoreUnavailable,
)
from mlsync.monitor import SilentMonitor
from mlsync.repository import names, sealed_object
from mlsync.repository.history.decision import Pin
from mlsync.repository.history.decisions import By, decide, find_decided
from mlsync.repository.history.move import Moves
from mlsync.repository.history.seen_decision import half
from mlsync.repository.manifest import Previous
from mlsync.repository.repository import Repository
from mlsync.retention.grammar import parse_rules
from mlsync.retention.policy import KeepPolicy
from mlsync.store.wrapping import WrappingStore
from mlsync.upkeep.discard import DISCARDED, discard, plan_discarding
from mlsync.upkeep.prune import PruneOptions, carry_out, plan
from mlsync.upkeep.retained import retained
from mlsync.upkeep.rotation import rotate

QUIET = SilentMonitor()
NOW_NS = 4 * 10**18
GRACE_NS = 8 * 86_400 * 10**9
BY = By("host", NOW_NS)


@pytest.fixture
def world(tmp_path):
    """A run with three versions."""
    world = World(tmp_path)
    for number in (1, 2, 3):
        world.write("same", noise(30_000, 99))
        world.write("last", noise(20_000, number))
        world.backup()
    yield world
    world.close()


def key_of(world, number):
    """The name of a version's manifest."""
    return world.repository.version_key(RUN, number)


def flipped(body, bit=1):
    """The bytes with one bit of the last one changed: writing a fixed byte there would change nothing now and then."""
    return body[:-1] + bytes([body[-1] ^ bit])


def damage(world, number, *, copy=True):
    """Have a manifest, and mostly its copy, changed so that it does not open."""
    key = key_of(world, number)
    for place in (key, names.copy_of(key))[: 1 + copy]:
        world.store.replace(place, flipped(world.store.get(place, limit_bytes=1 << 20)))
    return key


def fresh(world, store=None):
    """The repository as a new command opens it."""
    return Repository(store or world.store, world.repository.keys)


def pruned(world, now_ns=NOW_NS):
    """Plan a prune and carry it out."""
    repository, options = fresh(world), PruneOptions(now_ns, "host", young_s=-1e11)
    return carry_out(repository, plan(repository, QUIET, options), QUIET, options)


def policy_said(world):
    """What a policy that keeps the last version says."""
    return retained(fresh(world), RUN, KeepPolicy(parse_rules(["last 5"]), 0, 0.0), NOW_NS, with_all_reasons=False)


def discarded(world, *wanted, **options):
    """Plan and carry out."""
    repository = fresh(world)
    return discard(repository, plan_discarding(repository, wanted, **options), BY, **options)


def test_a_version_that_is_lost_for_good_lets_prune_and_policy_go_on(world):
    """Both refuse before; afterwards the number is gone by a decision and a fence, and its packs go, and no others."""
    trees = {number: world.restored(number) for number in (1, 3)}
    packs = len(keys_of(world.store, names.PACKS))
    key = damage(world, 2)
    with pytest.raises(PruneBlocked):
        pruned(world)
    with pytest.raises(PolicyRefused):
        policy_said(world)
    (done,) = discarded(world, f"{RUN}/2")
    assert (done.key, done.run, done.followed_by, done.is_done) == (key, RUN, 3, True)
    assert find_decided(fresh(world), RUN).gone_as(2).rule == DISCARDED
    policy_said(world)
    for turn in (0, 1, 2):
        pruned(world, NOW_NS + turn * GRACE_NS)
    assert names.copy_of(key) not in keys_of(world.store)
    assert len(keys_of(world.store, names.PACKS)) == packs - 1
    assert world.check(read_data=True).problems == []
    assert {number: world.restored(number) for number in trees} == trees
    assert world.backup().version > 3 or world.numbers() == [1, 3]


@pytest.mark.parametrize("number", [4, 700, names.VERSION_MAX])
def test_what_was_planted_above_leaves_no_decision_and_the_run_goes_on(world, number):
    """A number that no version follows is fenced alone, and the next version has the next number."""
    key = key_of(world, number)
    world.store.put(key, noise(500, 1))
    with pytest.raises(PolicyRefused):
        policy_said(world)
    (done,) = discarded(world, key)
    assert done.followed_by is None
    assert find_decided(fresh(world), RUN).number == 0
    policy_said(world)
    pruned(world)
    world.write("last", noise(20_000, 4))
    assert world.backup().version < 10
    assert world.check().problems == []


def test_what_was_planted_under_an_unknown_run_can_be_given_up_by_its_name(world):
    """A run of which nothing opens has no name here."""
    key = names.version(b"\x07" * 16, 1)
    world.store.put(key, noise(500, 1))
    with pytest.raises(PruneBlocked):
        pruned(world)
    (done,) = discarded(world, key)
    assert (done.run, done.followed_by) == ("", None)
    pruned(world)


def test_a_version_by_a_retired_key_can_be_given_up(world):
    """It opens, and counts for nothing; until it is given up, it keeps the prune waiting."""
    old = world.repository.keys
    third = world.repository.stored(RUN, 3)
    rotate(world.repository, PASSPHRASE, QUIET, host="host", now_ns=1, stretching=FAST)
    world.reopen()
    key = key_of(world, 4)
    root = msgspec.structs.replace(third.root, number=4, previous=Previous(3, third.digest))
    world.store.put(key, sealed_object.seal(old, sealed_object.MANIFEST, key, msgspec.msgpack.encode(root)))
    with pytest.raises(PruneBlocked, match="retired key"):
        pruned(world)
    assert "retired key" in discarded(world, f"{RUN}/4")[0].fault
    pruned(world)


def test_a_missing_version_that_others_name_can_be_given_up(world):
    """A policy refuses while one is missing and nobody removed it."""
    key = key_of(world, 2)
    world.store.delete(key)
    world.store.delete(names.copy_of(key))
    with pytest.raises(PolicyRefused, match="version 2 is missing"):
        policy_said(world)
    assert discarded(world, f"{RUN}/2")[0].fault == "missing"
    policy_said(world)
    assert world.check().problems == []


# ---------------------------------------------------------------- what it refuses


def refused(world, wanted, match, store=None, error=DiscardRefused, **options):
    """Assert that a plan raises, and that nothing changed."""
    before = dict(world.store._objects)
    with pytest.raises(error, match=match):
        plan_discarding(fresh(world, store), [wanted], **options)
    assert dict(world.store._objects) == before


def test_what_opens_is_refused(world):
    """A sound version, and one whose copy alone opens."""
    refused(world, f"{RUN}/2", "is a version")
    damage(world, 2, copy=False)
    refused(world, f"{RUN}/2", "the version is not lost")


@pytest.mark.parametrize(
    "wanted", ["yolo", "yolo/", "/3", "yolo/x", "yolo/0", "yolo/10000000000", "packs/ab", "yolo/²"]
)
def test_what_names_no_version_is_refused(world, wanted):
    """An argument that means no number of a run."""
    refused(world, wanted, "neither")


def test_what_nobody_waits_for_is_refused(world):
    """A number without an object that no version follows, and one that was discarded before."""
    refused(world, f"{RUN}/9", "there is nothing")
    damage(world, 2)
    discarded(world, f"{RUN}/2")
    refused(world, f"{RUN}/2", "no version")


class Answering(WrappingStore):
    """Answers the read of one object with an error, at most so many times."""

    def __init__(self, store, key, error, times=99):
        super().__init__(store)
        self._key, self._error, self._times = key, error, times

    def get(self, key, **limits):
        """Read, or fail."""
        if key == self._key and self._times:
            self._times -= 1
            raise self._error
        return super().get(key, **limits)


@pytest.mark.parametrize("is_copy", [False, True])
@pytest.mark.parametrize(
    ("error", "told"),
    [(ObjectArchived("cold"), DiscardRefused), (StoreUnavailable("no answer"), StoreUnavailable)],
    ids=["archived", "away"],
)
def test_what_the_store_does_not_give_now_is_refused(world, is_copy, error, told):
    """In cold storage, or behind a store that does not answer, there may be a version."""
    key = damage(world, 2)
    place = names.copy_of(key) if is_copy else key
    refused(world, f"{RUN}/2", "cold storage|no answer", Answering(world.store, place, error), told)


def test_a_read_that_flips_a_bit_now_and_then_is_no_damage(world):
    """What opens at a second look is a version."""

    class Flipping(WrappingStore):
        def __init__(self, store):
            super().__init__(store)
            self.reads = Counter()

        def get(self, key, **limits):
            body = super().get(key, **limits)
            self.reads[key] += 1
            return flipped(body) if key == key_of(world, 2) and self.reads[key] < 3 else body

    world.store.delete(names.copy_of(key_of(world, 2)))
    refused(world, f"{RUN}/2", "is a version", Flipping(world.store))


@pytest.mark.parametrize(("offset", "value"), [(8, 9), (10, 7), (18, 5)], ids=["format", "key kind", "epoch"])
def test_what_claims_to_be_newer_takes_a_word_more(world, offset, value):
    """It may be a newer mlsync's, or of a key that is not known here; with ``--even-newer`` it can be given up."""
    key = key_of(world, 4)
    body = bytearray(world.store.get(key_of(world, 3), limit_bytes=1 << 20))
    body[offset] = value
    world.store.put(key, bytes(body))
    refused(world, key, "newer")
    assert discarded(world, key, even_newer=True)[0].is_done


def test_nothing_is_given_up_while_an_epoch_is_damaged(world):
    """Without the object of an epoch, what is older than the rotation may look planted."""
    rotate(world.repository, PASSPHRASE, QUIET, host="host", now_ns=1, stretching=FAST)
    world.reopen()
    damage(world, 2)
    world.store.replace(names.epoch(1), b"x" * 300)
    refused(world, f"{RUN}/2", "does not authenticate|no epoch|cut short|epoch")


def test_who_has_a_retired_key_alone_gives_nothing_up(world):
    """What is of a newer epoch would look planted to it."""
    old = world.repository.keys
    rotate(world.repository, PASSPHRASE, QUIET, host="host", now_ns=1, stretching=FAST)
    with pytest.raises(KeyRetired):
        plan_discarding(Repository(world.store, old), [f"{RUN}/2"])


def test_a_pinned_version_stays_until_it_is_unpinned(world):
    """A pin is a person's word, and so takes one to be undone."""
    digest = half(world.repository.stored(RUN, 2).digest)

    def change(_decided, draft):
        draft.pins[2] = Pin(2, digest, "", "", 1)

    decide(world.repository, RUN, None, change, BY)
    key = damage(world, 2)
    with pytest.raises(DiscardRefused, match="pinned"):
        discarded(world, f"{RUN}/2")
    assert not fresh(world).is_fenced(key)


def test_hidden_decisions_keep_it_from_deciding(world):
    """A pin may be hidden."""
    key = damage(world, 2)
    world.store.delete(names.copy_of(key))
    (planned,) = plan_discarding(fresh(world), [key])

    def change(_decided, draft):
        draft.pins[1] = Pin(1, bytes(16), "", "", 1)

    decide(world.repository, RUN, None, change, BY)
    (decision,) = keys_of(world.store, names.DECISIONS)
    world.store.replace(decision, b"x" * 300)
    with pytest.raises(DecisionsHidden):
        discard(fresh(world), [planned], BY)
    assert not fresh(world).is_fenced(key)


def test_what_changed_after_the_plan_is_left_alone(world):
    """A repair, or the right bytes, may have come while a person thought about it."""
    key = key_of(world, 2)
    body = world.store.get(key, limit_bytes=1 << 20)
    damage(world, 2)
    (planned,) = plan_discarding(fresh(world), [key])
    world.store.replace(key, body)
    with pytest.raises(DiscardRefused, match="is a version"):
        discard(fresh(world), [planned], BY)
    world.store.replace(key, flipped(body, 2))
    with pytest.raises(DiscardRefused, match="changed since"):
        discard(fresh(world), [planned], BY)
    assert find_decided(fresh(world), RUN).number == 0


# ---------------------------------------------------------------- in the place of a move record


@pytest.fixture(params=["small", "too large"])
def planted(world, request):
    """The name of a pack's move record, under which somebody put something else."""
    key = names.move(world.entry(b"last").chunks[0].pack)
    world.store.put(key, b"planted" * (1 if request.param == "small" else 1_300_000))
    return key


def moved(world):
    """The packs that a compaction moves and leaves, which moves all that it can."""
    result = compacted(fresh(world), choose=lambda _: True)
    return {names.move(pack) for pack in result.moved}, {names.move(pack): why for pack, why in result.left.items()}


def test_what_was_planted_in_the_place_of_a_move_record_is_deleted(world, planted):
    """The compaction leaves its pack and says what to do; after that the pack is moved, and all restores."""
    tree = world.restored(3)
    done, left = moved(world)
    assert planted not in done
    assert left[planted].endswith(f"mlsync repair --discard {planted} helps")
    (one,) = discarded(world, planted)
    assert (one.key, one.number, one.copy_fault, one.is_done) == (planted, None, None, True)
    assert planted in moved(world)[0]
    delete_buried(fresh(world))
    assert world.restored(3) == tree
    assert world.check(read_data=True).problems == []


@pytest.mark.parametrize("what", ["nothing there", "opens", "pack is gone", "newer", "changed", "not given"])
def test_a_move_record_that_may_count_is_not_given_up(world, planted, what):
    """What opens, whose pack is gone, a newer mlsync's, and what cannot be read or changed between the looks."""
    pack, store, error = names.parse_move(planted), None, DiscardRefused
    if what in ("nothing there", "opens"):
        world.store.delete(planted)
    if what == "opens":
        moved(world)
    if what == "pack is gone":
        world.store.delete(names.pack(pack))
    if what == "newer":
        moves = Moves(world.store, world.repository.keys)
        world.store.delete(planted)
        moves.add(pack, [msgspec.structs.replace(world.entry(b"last").chunks[0], pack=bytes(16))], NOW_NS, "")
        body = bytearray(world.store.get(planted, limit_bytes=1 << 20))
        body[8] = 9
        world.store.replace(planted, bytes(body))
    if what == "not given":
        store, error = Withholding(world.store, planted), StoreUnavailable
    repository = fresh(world, store)
    if what == "changed":
        plan_ = plan_discarding(repository, [planted])
        world.store.replace(planted, b"other")
        with pytest.raises(DiscardRefused, match="changed"):
            discard(repository, plan_, BY)
    else:
        with pytest.raises(error):
            discard(repository, plan_discarding(repository, [planted]), BY)
    assert (planted in keys_of(world.store)) == (what != "nothing there")


class Withholding(WrappingStore):
    """A store that does not give one object at the moment."""

    def __init__(self, store, key):
        super().__init__(store)
        self._key = key

    def call(self, method, key, work):
        """Refuse to read it."""
        if key == self._key and method == "get":
            raise StoreUnavailable("busy", where=key)
        return super().call(method, key, work)
