"""A store that hides later proofs is found out, once anything was written that names them."""

from __future__ import annotations

import os
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doubles.faulty_store import Fault, FaultyStore, ProcessDied
from doubles.memory_store import MemoryStore
from flow_parts import RUN, World, small_checkpoint
from mlsync.backup.parents import later_proofs
from mlsync.codec.digest import run_id
from mlsync.errors import ManifestDamaged, VersionMissing
from mlsync.repository import later_proof, names, proof_links, sealed_object
from mlsync.repository.later_proof import LaterProof, ProvedFile, StoredProof
from mlsync.repository.proof_links import (
    LINK_BYTES,
    SEEN_MAX,
    SeenProofs,
    heads_of,
    later_proofs_value,
    seen_links,
    seen_proofs,
    seen_room,
)
from mlsync.repository.readable import report_skipped
from mlsync.repository.sealed_object import LATER_PROOF
from mlsync.values import Finding, Proof, Severity
from mlsync.versions.proof_status import proof_statuses
from mlsync.versions.run_proofs import proofs_of
from mlsync.versions.select import find_version

REFUSAL = Finding(3, Severity.REFUSE, "not the bytes that were written")
CHANCE = 25
MISSING = "a later proof that was seen before is missing"
MAY_BE_BROKEN = f"{MISSING}, and it may say that a checkpoint is broken"
WAS_BROKEN = f"{MISSING}; it or another one said that a checkpoint is broken"
ADVICE = "mlsync check names what is missing"


@pytest.fixture
def world(tmp_path):
    """A run with version 1, which has a checkpoint."""
    world = World(tmp_path)
    world.write("last.pt", small_checkpoint(1))
    world.backup()
    yield world
    world.close()


def stored(world, number=1):
    """A version's root."""
    return world.repository.stored(RUN, number)


def later(world, number=1, *, refuses=False, made_ns=1, facts=None, **changes) -> LaterProof:
    """A later proof of the checkpoint of a version; what it has links to is in *changes*."""
    version = stored(world, number)
    findings = [REFUSAL] if refuses else []
    proof = Proof(3, "torch-zip", "cpu", "2", made_ns, 0.5, 1, 4, facts or {}, findings)
    files = [ProvedFile(b"last.pt", proof)]
    made = LaterProof(RUN, number, version.digest, made_ns, "mlsync", "host", 3, "cpu", int(refuses), files)
    return msgspec.structs.replace(made, **changes)


def add(world, number=1, **changes) -> StoredProof:
    """Add a later proof that names all that are there, as every writer does."""
    heads = world.repository.later_proofs(stored(world, number)).heads
    return world.repository.add_later_proof(later(world, number, room=seen_room(heads), **changes))


def next_version(world, text=b"more"):
    """Make a version that has the checkpoint too."""
    world.append("log.txt", text)
    return world.backup().version


def hidden(world, number=1):
    """The names of the later proofs that are hidden, by a listing; a look at the version alone says the same."""
    statuses = {status.root.number: status for status in proof_statuses(world.repository, RUN)}
    found = statuses[number].hidden
    assert proofs_of(world.repository, stored(world, number))[1] == found
    checked = {problem.key for problem in world.check().problems}
    assert checked >= set(() if found is None else found.keys)
    return () if found is None else found.keys


def swap(world, key, body):
    """Put another object in a key's place."""
    world.store.delete(key)
    world.store.put(key, body)


def read(world, key):
    """The bytes of an object."""
    return world.store.get(key, limit_bytes=1 << 20)


# ---------------------------------------------------------------- what is written


def test_the_second_proof_has_a_link_to_the_first(world):
    """And the third to the second alone, since that one has a link to the first."""
    first, second, third = (add(world, made_ns=at) for at in range(3))
    assert seen_links(first.proof.room) == ()
    assert seen_links(second.proof.room) == (first.link,)
    assert seen_links(third.proof.room) == (second.link,)
    assert world.repository.later_proofs(stored(world)).heads == (third.link,)


def test_two_that_did_not_know_of_each_other_are_two_heads(world):
    """Whoever comes next has a link to both of them."""
    one, other = (world.repository.add_later_proof(later(world, made_ns=at)) for at in range(2))
    joined = add(world)
    assert seen_links(joined.proof.room) == tuple(sorted((one.link, other.link)))
    assert world.repository.later_proofs(stored(world)).heads == (joined.link,)


def test_a_version_names_the_later_proofs_of_those_before_it(world):
    """The next manifest has the heads, how many there are, and that one refuses; the one after keeps that."""
    assert stored(world).root.room is None
    add(world)
    head = add(world, refuses=True)
    for number in (2, 3):
        assert next_version(world, b"x" * number) == number
        assert seen_proofs(stored(world, number).root.room) == {1: SeenProofs(1, True, 2, (head.link,))}


def test_a_later_proof_that_came_since_replaces_what_it_names(world):
    """A new head takes the place of the one to which it has a link."""
    add(world)
    next_version(world)
    head = add(world)
    next_version(world, b"yet more")
    assert seen_proofs(stored(world, 3).root.room) == {1: SeenProofs(1, False, 2, (head.link,))}


def test_a_version_reads_no_proofs_that_the_last_one_names(world):
    """It lists them once and reads none, however many there are; a new one costs a read of each of its version's."""
    for _ in range(3):
        add(world)
    next_version(world)
    for text, reads in ((b"a", 0), (b"b", 4)):
        if reads:
            add(world)
        world.append("log.txt", text)
        store = FaultyStore(world.store)
        world.use(store)
        world.backup()
        calls = [(method, key.partition("/")[0]) for method, key in store.calls if key.startswith(names.LATER_PROOFS)]
        assert sorted(calls) == [("get", "proofs")] * reads + [("list", "proofs")]


def test_an_untouched_backup_does_not_ask_for_proofs(world):
    """Only a version that is made costs a listing of them."""
    add(world)
    store = FaultyStore(world.store)
    world.use(store)
    assert world.backup().version == 0
    assert not [key for _, key in store.calls if key.startswith(names.LATER_PROOFS)]


def test_a_planted_proof_is_reported_and_nobody_names_it(world):
    """Objects that do not open block neither a backup nor a listing, and are in no version."""
    head = add(world)
    prefix = names.version_proofs_prefix(run_id(world.repository.keys.of("run id"), RUN), 1)
    planted = [f"{prefix}{os.urandom(16).hex()}" for _ in range(3)]
    unknown = prefix.replace("0000000001", "0000000777") + "ab" * 16
    for key in (*planted, unknown):
        world.store.put(key, b"mlsyncV\0" + os.urandom(200))
    assert next_version(world) == 2
    assert seen_proofs(stored(world, 2).root.room) == {1: SeenProofs(1, False, 1, (head.link,))}
    assert set(planted) <= {text.partition(" ")[0] for _, text in world.monitor.notices}
    assert hidden(world) == ()
    assert proof_statuses(world.repository, RUN)[0].lowest_level == 3


def test_many_planted_proofs_cost_a_bounded_number_of_reads(world, monkeypatch):
    """Each is read twice. Their order is chosen by chance, so that no real one is overlooked for long."""
    monkeypatch.setattr(later_proofs, "_UNOPENED_MAX", 20)
    monkeypatch.setattr(later_proof, "_BATCH", 5)
    head = add(world)
    prefix = head.key[:-32]
    for _ in range(60):
        world.store.put(f"{prefix}{os.urandom(16).hex()}", b"junk")
    seen = set()
    for number in range(CHANCE):
        store = FaultyStore(world.store)
        world.use(store)
        next_version(world, b"%d" % number)
        assert sum(key.startswith(prefix) and method == "get" for method, key in store.calls) <= 2 * 25
        seen = set(seen_proofs(stored(world, number + 2).root.room))
        if seen:
            break
    assert seen == {1}


def test_a_proof_of_a_version_that_is_not_there_yet_is_not_named(world):
    """A root names earlier versions alone; readers would refuse it else."""
    made = msgspec.structs.replace(later(world), number=2, manifest=bytes(32))
    world.repository.add_later_proof(made)
    assert next_version(world) == 2
    assert stored(world, 2).root.room is None


def test_a_root_names_as_much_as_it_has_room_for():
    """Refusals come first and then the newest, and the whole is within the bound of a room."""
    links = tuple(os.urandom(LINK_BYTES) for _ in range(3))
    seen = [SeenProofs(number, number % 100 == 0, 3, links) for number in range(1, 20_001)]
    value = later_proofs_value(seen)
    assert len(msgspec.msgpack.encode(value)) <= proof_links.LATER_PROOFS_BYTES_MAX + 8
    numbers = [record[0] for record in value]
    assert set(range(100, 20_001, 100)) <= set(numbers)
    rest = [number for number in numbers if number % 100]
    assert rest == [number for number in range(rest[0], 20_001) if number % 100]
    proof_links.check_later_proofs({"later-proofs": value}, 20_001, "here")


def test_a_proof_has_as_many_links_as_there_is_room_for(world):
    """The next one has the rest, and a link to it."""
    links = {os.urandom(LINK_BYTES): () for _ in range(SEEN_MAX + 5)}
    room = seen_room(heads_of(links))
    assert len(seen_links(room)) == SEEN_MAX
    own = os.urandom(LINK_BYTES)
    assert len(heads_of(links | {own: seen_links(room)})) == 6
    world.repository.add_later_proof(later(world, room=room))


# ---------------------------------------------------------------- what is hidden


def test_what_a_later_version_names_is_missed(world):
    """A store that drops the only proof, which says broken, is found out, and everything says so."""
    bad = add(world, refuses=True)
    assert proof_statuses(world.repository, RUN)[0].broken_count == 1
    next_version(world)
    world.store.delete(bad.key)
    assert hidden(world) == (bad.key,)
    (problem,) = world.check().problems
    assert (problem.key, problem.versions) == (bad.key, ((RUN, 1),))
    status = proof_statuses(world.repository, RUN)[0]
    assert str(status.hidden) == WAS_BROKEN


def test_what_nothing_named_is_not_missed(world):
    """The newest proof of the newest version can be dropped unseen: nothing was written since."""
    kept, newest = add(world), add(world, refuses=True)
    world.store.delete(newest.key)
    assert hidden(world) == ()
    world.store.delete(kept.key)
    assert hidden(world) == ()


def test_what_another_proof_names_is_missed(world):
    """No version was made since, and the proof that came after it names it."""
    bad, good = add(world, refuses=True), add(world)
    world.store.delete(bad.key)
    assert hidden(world) == (bad.key,)
    assert good.key not in hidden(world)


@pytest.mark.parametrize("change", ["other proof", "replay", "flip", "cut", "empty", "of another version"])
def test_a_swapped_proof_is_missed(world, change):
    """Whatever lies under its name, if it is not that very object, the version is not trusted."""
    good, bad = add(world), add(world, refuses=True)
    next_version(world)
    other = add(world, 2)
    body = read(world, bad.key)
    plain = msgspec.msgpack.encode(later(world))
    replaced = {
        "other proof": sealed_object.seal(world.repository.keys, LATER_PROOF, bad.key, plain),
        "replay": read(world, good.key),
        "flip": body[:-1] + bytes([body[-1] ^ 1]),
        "cut": body[:-1],
        "empty": b"",
        "of another version": read(world, other.key),
    }[change]
    swap(world, bad.key, replaced)
    assert bad.key in hidden(world)
    assert bad.key in {problem.key for problem in world.check().problems}


def test_an_old_proof_that_is_put_again_under_a_new_name_says_nothing(world):
    """The seal is bound to the name: a replay is reported and neither helps nor harms the version."""
    good = add(world)
    next_version(world)
    again = good.key[:-32] + "00" * 16
    world.store.put(again, read(world, good.key))
    assert hidden(world) == ()
    assert again in world.repository.skipped


def test_the_order_of_a_listing_does_not_matter(world):
    """A store that lists proofs in another order hides nothing, and is believed."""
    for at in range(5):
        add(world, made_ns=9 - at)
    next_version(world)
    keys = world.repository.later_proof_keys(RUN)[1]
    version = stored(world)
    for order in (keys, keys[::-1], keys * 2):
        proofs = world.repository.read_later_proofs(RUN, 1, order, manifest=version.digest)
        assert (len(proofs.stored), proofs.missing) == (5, ())
        assert [proof.made_ns for proof in proofs.proofs] == [5, 6, 7, 8, 9]


def test_a_proof_that_a_listing_leaves_out_is_fetched_by_its_name(world):
    """What others name is looked for: it is not hidden, and it counts."""
    bad = add(world, refuses=True)
    next_version(world)
    proofs = world.repository.read_later_proofs(RUN, 1, [], named=[bad.link])
    assert [one.key for one in proofs.stored] == [bad.key]
    assert (proofs.refused, proofs.missing) == (True, ())


def test_a_version_stays_named_while_the_store_does_not_show_it(world):
    """A store cannot make a manifest forget a proof by hiding it, and its version, for the time of one backup."""
    bad = add(world, refuses=True)
    next_version(world)
    manifest = stored(world).key
    kept = {key: read(world, key) for key in (bad.key, manifest)}
    for key in kept:
        world.store.delete(key)
    assert next_version(world, b"meanwhile") == 3
    assert [status.root.number for status in proof_statuses(world.repository, RUN)] == [2, 3]
    world.store.put(manifest, kept[manifest])
    assert hidden(world) == (bad.key,)
    world.store.put(bad.key, kept[bad.key])
    assert hidden(world) == ()


def test_a_backup_says_what_is_hidden(world):
    """An agent that makes a version notices it, without anybody looking at a listing."""
    bad = add(world, refuses=True)
    next_version(world)
    world.store.delete(bad.key)
    next_version(world, b"more")
    assert [text for level, text in world.monitor.notices if level == "warning" and MISSING in text] == [
        f"{RUN}: version 1: {WAS_BROKEN}; {ADVICE}"
    ]
    assert hidden(world) == (bad.key,)


def test_proofs_of_versions_that_are_gone_are_not_missed(world):
    """A version that was deleted with its proofs is no problem of the versions that stay."""
    proof = add(world)
    next_version(world)
    for key in (proof.key, stored(world).key):
        world.store.delete(key)
    assert [status.hidden for status in proof_statuses(world.repository, RUN)] == [None]
    assert not [problem for problem in world.check().problems if "proof" in problem.text]


def test_two_proofs_that_name_each_other_end_nothing(world):
    """Who has the key can make a circle of names, but not of digests: it is read through, and both are missed."""
    first, second = ("11" * 16, "22" * 16)
    prefix = add(world).key[:-32]
    for own, other in ((first, second), (second, first)):
        plain = msgspec.msgpack.encode(later(world, room={"seen": [bytes.fromhex(other) + bytes(16)]}))
        key = prefix + own
        world.store.put(key, sealed_object.seal(world.repository.keys, LATER_PROOF, key, plain))
    assert hidden(world) == (prefix + first, prefix + second)


def test_a_proof_that_names_itself_is_damage(world):
    """No writer knows the digest of what it is about to write."""
    key = add(world).key[:-32] + "33" * 16
    plain = msgspec.msgpack.encode(later(world, room={"seen": [bytes.fromhex("33" * 16) + bytes(16)]}))
    world.store.put(key, sealed_object.seal(world.repository.keys, LATER_PROOF, key, plain))
    with pytest.raises(ManifestDamaged, match="links"):
        world.repository.open_later_proof(key, stored(world))


# ---------------------------------------------------------------- what is chosen


def test_words_pass_over_a_version_whose_proofs_are_hidden(world):
    """``best`` and ``resumable`` choose another one, or none; ``latest`` and a number are what they say."""
    next_version(world)
    facts = {"parameter_count": 4, "resumable": True, "framework": "plain"}
    for number in (1, 2):
        first = add(world, number, facts=facts | {"best_fitness": number / 10})
        add(world, number, facts=facts | {"best_fitness": number / 10}, made_ns=2)
    chosen = {word: find_version(world.repository, RUN, word).root.number for word in ("best", "resumable")}
    assert chosen == {"best": 2, "resumable": 2}
    world.store.delete(first.key)
    chosen = {word: find_version(world.repository, RUN, word).root.number for word in ("best", "resumable")}
    assert chosen == {"best": 1, "resumable": 1}
    text = f"version 2 is passed over: {MAY_BE_BROKEN}"
    assert [*world.repository.doubts.values()] == [f"{RUN}: {text}"]
    report_skipped(world.repository, world.monitor)
    assert ("warning", f"{RUN}: {text}") in world.monitor.notices
    for word in ("2", "latest"):
        assert find_version(world.repository, RUN, word).root.number == 2
    world.store.delete(world.repository.later_proof_key(RUN, 1, seen_links(newest(world, 1).room)[0]))
    for word in ("best", "resumable"):
        with pytest.raises(VersionMissing, match="; versions 1, 2 passed over: later proofs are missing"):
            find_version(world.repository, RUN, word)


def newest(world, number):
    """The later proof of a version that was made last."""
    return world.repository.later_proofs(stored(world, number)).proofs[-1]


def test_what_a_later_proof_says_counts_for_a_word(world):
    """A checkpoint that a later proof calls broken is neither the best nor one to resume from."""
    facts = {"parameter_count": 4, "resumable": True, "framework": "plain", "best_fitness": 0.9}
    add(world, facts=facts)
    assert find_version(world.repository, RUN, "best").root.number == 1
    add(world, facts=facts, refuses=True)
    for word in ("best", "resumable"):
        with pytest.raises(VersionMissing):
            find_version(world.repository, RUN, word)


# ---------------------------------------------------------------- any order of events


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_is_hidden_is_missed_unless_nothing_named_it(tmp_path_factory, data):
    """Of any history of proofs and versions, and any proofs that a store drops from it."""
    world = World(tmp_path_factory.mktemp("world"), MemoryStore())
    try:
        world.write("last.pt", small_checkpoint(1))
        world.backup()
        made: list[StoredProof] = []
        links: dict[bytes, tuple[bytes, ...]] = {}
        in_version: tuple[bytes, ...] = ()
        for step in data.draw(st.lists(st.sampled_from(["proof", "blind", "version"]), min_size=1, max_size=7)):
            if step == "version":
                number = next_version(world)
                in_version = seen_proofs(stored(world, number).root.room).get(1, SeenProofs(1, False, 0, ())).heads
                assert in_version == heads_of(links)
                continue
            known = data.draw(st.sets(st.sampled_from(sorted(links)))) if step == "blind" and links else set()
            new = (
                add(world) if step == "proof" else world.repository.add_later_proof(later(world, room=seen_room(known)))
            )
            made.append(new)
            links[new.link] = seen_links(new.proof.room)
        dropped = data.draw(st.sets(st.sampled_from(range(len(made))))) if made else set()
        for at in dropped:
            world.store.delete(made[at].key)
        left = [one for at, one in enumerate(made) if at not in dropped]
        named = {link for one in left for link in links[one.link]} | set(in_version)
        expected = {made[at].key for at in dropped if made[at].link in named}
        assert set(hidden(world)) == expected
    finally:
        world.close()


# ---------------------------------------------------------------- crashes


def test_a_crash_while_a_version_is_made_leaves_no_proof_hidden(tmp_path):
    """At each call of a backup that names proofs: what is there afterwards names what is there."""
    world = World(tmp_path)
    world.write("last.pt", small_checkpoint(1))
    world.backup()
    head = [add(world) for _ in range(2)][-1]
    objects = dict(world.store._objects)
    world.append("log.txt", b"x")
    world.save_state("before")
    for kind in ("die-before", "die-after"):
        for nth in range(1, 100):
            world.store = MemoryStore()
            world.store._objects = dict(objects)
            world.load_state("before")
            faulty = FaultyStore(world.store, Fault(kind, nth))
            world.use(faulty)
            with suppress(ProcessDied):
                world.backup()
            is_dead = faulty.is_dead
            world.use(world.store)
            assert hidden(world) == ()
            world.backup()
            assert seen_proofs(stored(world, 2).root.room) == {1: SeenProofs(1, False, 2, (head.link,))}
            if not is_dead:
                break
        else:
            pytest.fail("the backup never got through")
    world.close()


@pytest.mark.parametrize("refuses", [False, True])
def test_a_root_names_a_bounded_number_of_proofs_of_a_version(world, refuses):
    """Of very many that do not know of each other, those that refuse come first, and what is named stays named."""
    made = [world.repository.add_later_proof(later(world, refuses=refuses and at % 20 == 0)) for at in range(300)]
    next_version(world)
    (seen,) = seen_proofs(stored(world, 2).root.room).values()
    assert (seen.refused, seen.proof_count, len(seen.heads)) == (refuses, 300, 100)
    assert {one.link for one in made if one.refused} <= set(seen.heads)
    world.repository.add_later_proof(later(world))
    next_version(world, b"again")
    assert seen_proofs(stored(world, 3).root.room)[1].heads == seen.heads


def test_a_manifest_does_not_take_a_swapped_proof_for_the_one_that_was_seen(world):
    """Who has the key may put another object in a proof's place: the next manifest keeps the link to the first."""
    bad = add(world, refuses=True)
    next_version(world)
    plain = msgspec.msgpack.encode(later(world))
    swap(world, bad.key, sealed_object.seal(world.repository.keys, LATER_PROOF, bad.key, plain))
    add(world, made_ns=2)
    next_version(world, b"again")
    assert bad.link in seen_proofs(stored(world, 3).root.room)[1].heads
    assert seen_proofs(stored(world, 3).root.room)[1].refused
    assert hidden(world) == (bad.key,)


def test_what_refused_stays_known_while_other_proofs_come(world):
    """A proof that is hidden is still one that refused, in the manifest after new proofs came too."""
    bad = add(world, refuses=True)
    next_version(world)
    world.store.delete(bad.key)
    good = add(world)
    next_version(world, b"again")
    heads = tuple(sorted((bad.link, good.link)))
    assert seen_proofs(stored(world, 3).root.room) == {1: SeenProofs(1, True, 2, heads)}


def test_a_proof_that_is_replaced_by_a_planted_one_is_missed_by_a_backup(world):
    """As many names as before are not enough: the linked ones have to be among them."""
    bad = add(world)
    next_version(world)
    world.store.delete(bad.key)
    world.store.put(bad.key[:-32] + "ab" * 16, b"junk")
    next_version(world, b"again")
    text = f"{RUN}: version 1: {MAY_BE_BROKEN}; {ADVICE}"
    assert ("warning", text) in world.monitor.notices


def test_words_pass_over_what_only_the_newest_manifest_misses(world):
    """The version has no later proof any more, and is not chosen all the same."""
    facts = {"parameter_count": 4, "resumable": True, "framework": "plain", "best_fitness": 0.9}
    only = add(world, facts=facts)
    next_version(world)
    add(world, 2, facts=facts | {"best_fitness": 0.1})
    assert find_version(world.repository, RUN, "best").root.number == 1
    world.store.delete(only.key)
    assert find_version(world.repository, RUN, "best").root.number == 2
