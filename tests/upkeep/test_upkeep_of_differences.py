"""Differences and bases in check, scrub, repair, compaction and prune: the right things are named, and none lost."""

from __future__ import annotations

from random import Random

import msgspec
import pytest

from compacting import compacted, delete_buried, planned, versions_of
from difference_parts import History, put_differences, put_one, trained, weights
from mlsync.backup.storing.presence import new_places, placed
from mlsync.errors import ObjectMissing
from mlsync.monitor import SilentMonitor
from mlsync.repository import names
from mlsync.repository.history.move import Moves
from mlsync.repository.named_packs import NamedPacks
from mlsync.upkeep.check import check
from mlsync.upkeep.compaction import plan_all, releasable
from mlsync.upkeep.healing.heal import _packs_of
from mlsync.upkeep.live_chunks import LiveChunks
from mlsync.upkeep.moved_packs import led_to
from mlsync.upkeep.repair import _affected
from mlsync.upkeep.scrub import scrub

FIRST = weights()
WHEN_NS = 1_800_000_000_000_000_000


@pytest.fixture
def history():
    """A chunk, and two versions with differences from it."""
    return History()


def is_whole(history):
    """Every version that is there comes back, and no problem is found with a pack."""
    there = [stored.root.number for stored in versions_of(history.repository)]
    problems = check(history.repository, SilentMonitor(), read_data=True).problems
    packs = [one for one in problems if one.key.startswith(("packs/", "moves/"))]
    return packs == [] and all(history.content(number) == [history.plains[number]] for number in there)


def problems_of(history, **options):
    """What a check finds, by object, with the versions that it names."""
    found = check(history.repository, SilentMonitor(), **options).problems
    return {problem.key: [number for _, number in problem.versions] for problem in found}


@pytest.mark.parametrize("read_data", [False, True])
def test_a_check_of_differences_finds_nothing_wrong(history, read_data):
    """References with bases agree with footers, and the files' digests with what differences come to."""
    result = check(history.repository, SilentMonitor(), read_data=read_data)
    assert (result.problems, result.unused_packs) == ([], 0)


def test_damage_of_a_base_names_every_version_that_it_touches(history):
    """A flipped bit of the base is one problem of its pack, with the versions of all differences, and of no other."""
    history.flip(history.base)
    assert problems_of(history, read_data=True) == {names.pack(history.base.pack): [1, 2, 3]}
    history.drop(1)
    assert problems_of(history, read_data=True)[names.pack(history.base.pack)] == [2, 3]


@pytest.mark.parametrize("read_data", [False, True])
def test_a_missing_base_names_every_version_that_it_touches(history, read_data):
    """So does a base's pack that is gone, in a check that reads nothing too."""
    history.store.delete(names.pack(history.base.pack))
    assert problems_of(history, read_data=read_data) == {names.pack(history.base.pack): [1, 2, 3]}


def test_damage_of_a_difference_names_its_version(history):
    """A flipped bit of a difference says nothing against its base, nor against other differences from it."""
    history.flip(history.refs[3])
    assert problems_of(history, read_data=True) == {names.pack(history.refs[3].pack): [3]}


def test_a_lie_about_a_base_says_nothing_against_packs(history):
    """A version that says that the base lies elsewhere is the only one that is named, and its pack's chunk is sound."""
    other = put_one(history.store, history.repository.keys, trained(FIRST, 99))
    lie = msgspec.structs.replace(other, name=history.base.name)
    history.plains[4] = history.plains[2]
    history.commit(4, [msgspec.structs.replace(history.refs[2], base=lie)])
    found = problems_of(history, read_data=True)
    assert found[names.pack(other.pack)] == [4]
    assert names.pack(history.refs[2].pack) not in found
    assert names.pack(history.base.pack) not in found


def test_a_file_names_the_versions_that_need_a_lost_base(history):
    """What a repair says is lost has the files of differences whose base is."""
    history.store.delete(names.pack(history.base.pack))
    problems = check(history.repository, SilentMonitor()).problems
    (affected,) = _affected(history.repository, problems)
    assert (affected.path, affected.versions) == (b"a", (1, 2, 3))


def test_a_scrub_reads_packs_of_differences(history):
    """Each pack is checked by itself: a difference by its seal, whether its base is at hand or not."""
    day_ns = 24 * 3600 * 10**9
    assert scrub(history.repository, SilentMonitor(), since_ns=0, now_ns=day_ns, period_s=1.0).damaged == {}
    history.flip(history.refs[2])
    found = scrub(history.repository, SilentMonitor(), since_ns=0, now_ns=day_ns, period_s=1.0)
    assert found.damaged.keys() == {history.refs[2].pack}


def test_a_version_names_its_bases_packs(history):
    """A prune, a mirror and a lock see the base's pack among those that a version names."""
    with history.repository.reader() as reader:
        packs = NamedPacks().of(history.repository.stored("run", 2), reader)
    assert packs == {history.base.pack, history.refs[2].pack}


def test_a_version_that_comes_from_a_mirror_brings_its_bases(history):
    """Healing a version puts back the pack of a base too, even where the difference's own pack is lost as well."""
    mirror = history.repository
    lossy = type(mirror)(type(history.store)(), mirror.keys)
    stored = mirror.stored("run", 2)
    wanted = {names.pack(history.base.pack), names.pack(history.refs[2].pack)}
    assert set(_packs_of(lossy, mirror, stored)) == wanted


def test_bases_are_live_as_long_as_differences_are(history):
    """A base that no version has as its own chunk counts as needed, apart from what versions need for themselves."""
    history.drop(1)
    live = LiveChunks(history.repository, set())
    for stored in versions_of(history.repository):
        live.add_version(stored, history.repository.entries(stored))
    assert live.ordinals.keys() == {history.base.pack, history.refs[2].pack, history.refs[3].pack}
    assert live.sizes[history.base.pack] == history.base.stored_bytes
    assert live.own_sizes.get(history.base.pack, 0) == 0
    assert live.flattenings[history.base.pack].users == {history.refs[2].pack, history.refs[3].pack}
    assert live.idle == {}


def test_nothing_is_flattened_while_a_version_needs_the_base_for_itself(history):
    """With the first version there, bases cost nothing: there is nothing to win."""
    assert planned(history.repository).is_empty


def test_differences_are_flattened_where_their_base_takes_more_than_they_save(history):
    """Once only one difference needs a base, it stands by itself; then the base goes, and its version comes back."""
    history.drop(1, 3)
    plan = planned(history.repository)
    assert {use.pack_id for use in plan.packs} == {history.refs[2].pack}
    assert plan.freed_bytes > 0
    done = compacted(history.repository)
    assert done.left == {}
    assert is_whole(history)
    # The bases are held as long as the packs of differences are there.
    assert delete_buried(history.repository) == {history.refs[2].pack}
    assert is_whole(history)
    # Then nothing is needed of the base's pack, though manifests name it.
    assert [use.pack_id for use in planned(history.repository).packs] == [history.base.pack]
    assert compacted(history.repository).left == {}
    assert delete_buried(history.repository) == {history.base.pack}
    assert is_whole(history)
    assert planned(history.repository).is_empty


def test_many_differences_keep_their_base():
    """Where they save more together than the base takes, nothing is moved."""
    history = History(later_count=8)
    history.drop(1)
    assert planned(history.repository).is_empty
    assert is_whole(history)


def test_a_base_is_held_while_a_difference_may_be_read_with_it(history):
    """A listing that hides the difference's pack frees no base: the pack may be there, and then it needs the base."""
    history.drop(1, 3)
    compacted(history.repository)
    Moves(history.store, history.repository.keys).add(
        history.base.pack, [put_one(history.store, history.repository.keys, FIRST)], WHEN_NS, ""
    )
    sizes = {pack: info.size_bytes for pack, info in history.repository.packs()}
    stored = versions_of(history.repository)
    hidden = {pack: size for pack, size in sizes.items() if pack != history.refs[2].pack}
    # The base has another place, which counts; without that, its pack is held.
    assert releasable(history.repository, {history.base.pack}, stored, hidden, SilentMonitor()) == {history.base.pack}
    history.store.delete(names.move(history.base.pack))
    assert releasable(history.repository, {history.base.pack}, stored, hidden, SilentMonitor()) == set()


def test_a_resealing_plan_moves_differences_and_bases(history):
    """When packs are chosen by their key, all are moved; what was a difference is none afterwards."""
    plan = plan_all(history.repository, SilentMonitor(), choose=lambda _use: True)
    assert {use.pack_id for use in plan.packs} == {ref.pack for ref in history.refs.values()}
    assert compacted(history.repository, only=plan).left == {}
    # A base with a place of its own is held by nothing; the packs of differences go with it.
    assert delete_buried(history.repository) == {ref.pack for ref in history.refs.values()}
    assert is_whole(history)


def test_a_new_version_names_the_new_place_of_a_base(history):
    """A difference whose base was moved is named with the base's new place; one that was moved itself with none."""
    repository, ref = history.repository, history.refs[2]
    new = put_one(history.store, repository.keys, FIRST)
    Moves(history.store, repository.keys).add(history.base.pack, [new], WHEN_NS, "")
    places = new_places(repository, [ref], {history.base.pack})
    assert places == {history.base: new}
    assert placed(ref, places) == msgspec.structs.replace(ref, base=new)
    plain = put_one(history.store, repository.keys, history.plains[2])
    Moves(history.store, repository.keys).add(ref.pack, [plain], WHEN_NS, "")
    for pack in (ref.pack, history.base.pack):
        history.store.delete(names.pack(pack))
    places = new_places(repository, [ref], set())
    assert placed(ref, places) == plain


def test_a_base_that_is_gone_keeps_a_difference_from_being_used(history):
    """What a new version would rely on is looked at with its base: without that it is not committed."""
    history.store.delete(names.pack(history.base.pack))
    with pytest.raises(ObjectMissing) as raised:
        new_places(history.repository, [history.refs[2]], set())
    assert raised.value.where == names.pack(history.base.pack)


@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_dropped_and_compacted_every_version_comes_back(seed):
    """Versions come, as differences or not, and go; packs are moved and deleted in any order; nothing is lost."""
    random, history = Random(seed), History(later_count=1)
    bases = {1: (history.base, FIRST)}
    number = 2
    for _ in range(24):
        there = [stored.root.number for stored in versions_of(history.repository)]
        step = random.choice(["plain", "difference", "difference", "drop", "drop", "compact", "delete", "delete"])
        if step in ("plain", "difference"):
            number += 1
            history.plains[number] = trained(FIRST, 100 * seed + number)
            keys, plains = history.repository.keys, [history.plains[number]]
            if step == "difference" and bases:
                refs = put_differences(history.store, keys, *random.choice(list(bases.values())), plains)
            else:
                # What is moved of a pack of which nothing is needed must not be the base by chance.
                refs = [put_one(history.store, keys, *plains, beside=b"%d" % number)]
            if refs[0].base is None:
                bases[number] = refs[0], history.plains[number]
            history.commit(number, refs)
        elif step == "drop" and len(there) > 1:
            history.drop(random.choice(there[:-1]))
        elif step == "compact":
            compacted(history.repository, choose=lambda use: use.share < 0.9 or random.random() < 0.3)
        elif step == "delete":
            delete_some(history, random)
            if random.random() < 0.5:
                delete_unnamed(history)
        bases = {at: one for at, one in bases.items() if history.store_has(one[0])}
        for stored in versions_of(history.repository):
            assert history.content(stored.root.number) == [history.plains[stored.root.number]]
    assert is_whole(history)


def delete_some(history, random):
    """Delete some of the packs whose grace is over, and that no version needs any more."""
    repository = history.repository
    sizes = {pack: info.size_bytes for pack, info in repository.packs()}
    over = {pack for pack in sorted(repository.tombstones() & sizes.keys()) if random.random() < 0.5}
    for pack in releasable(repository, over, versions_of(repository), sizes, SilentMonitor()):
        history.store.delete(names.pack(pack))
        history.store.delete(names.tombstone(pack))


def delete_unnamed(history):
    """Delete packs that no version names and no record of a named one leads to, as a prune does."""
    repository = history.repository
    with repository.reader() as reader:
        named = {pack for stored in versions_of(repository) for pack in NamedPacks().of(stored, reader)}
    moved = set(repository.moves.listed())
    needed = named | led_to(repository, named, moved)
    for pack, _ in list(repository.packs()):
        if pack not in needed:
            history.store.delete(names.pack(pack))
            history.store.delete(names.tombstone(pack))
