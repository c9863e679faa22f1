"""A policy asked about the versions in a store: what is gathered, what it costs, and what is not clear."""

import time

import pytest

from flow_parts import RUN, World
from mlsync.errors import PolicyRefused, VersionKept
from mlsync.repository import names
from mlsync.repository.history.decision import Forgotten, Pin
from mlsync.repository.history.decisions import By, decide, mark_gone
from mlsync.repository.history.seen_decision import half
from mlsync.repository.later_proof import LaterProof, ProvedFile
from mlsync.retention.grammar import parse_rules
from mlsync.retention.policy import KeepPolicy
from mlsync.upkeep.forget import forget, needs_of
from mlsync.upkeep.retained import retained
from mlsync.values import Finding, Proof, Severity
from safetensors_parts import saved


@pytest.fixture
def world(tmp_path):
    """A run without versions."""
    world = World(tmp_path)
    yield world
    world.close()


def make(world, count, **numbers):
    """Make versions of a checkpoint: one of each epoch."""
    for epoch in range(count):
        world.write("last.safetensors", saved(epoch=epoch, fill=bytes([epoch]), **numbers))
        world.backup()


def asked(world, *keep, with_all_reasons=False, **more):
    """What a policy says of the run, a day from now."""
    policy = KeepPolicy(parse_rules(keep), **({"floor": 2, "grace_s": 0} | more))
    now_ns = time.time_ns() + 86_400 * 10**9
    return retained(world.repository, RUN, policy, now_ns, with_all_reasons=with_all_reasons)


def removed(world, *keep, **more):
    """The versions that a policy would remove."""
    return asked(world, *keep, **more).evaluation.removed


def test_a_policy_is_asked_about_what_the_store_shows(world):
    """Numbers, dates, proofs, epochs and values come from the store; each version has its manifest's digest."""
    make(world, 6)
    assert removed(world, "last 2") == (1, 2, 3, 4)
    assert removed(world, "every 2 epochs") == (2, 4)
    assert removed(world, "best 1 by epoch min", "last 1") == (2, 3, 4, 5)
    found = asked(world, "last 2")
    assert {number: world.repository.stored(RUN, number).digest for number in range(1, 7)} == found.digests


def test_versions_without_a_checkpoint_are_below_any_floor(world):
    """What holds logs alone has no level, and displaces no proved version."""
    make(world, 2)
    (world.directory / "last.safetensors").unlink()
    for number in range(3):
        world.append("log.txt", b"line %d\n" % number)
        world.backup(accept_loss=True)
    assert removed(world, "last 1") == (1, 3, 4)


def test_the_newest_resumable_and_the_best_stay(world):
    """They are found in the lists of files, also if no rule asks for them."""
    world.write("last.safetensors", saved(epoch=1, best_fitness=0.9))
    world.backup()
    world.write("last.safetensors", saved(epoch=2, best_fitness=0.5, optimizer=True))
    world.backup()
    make(world, 3)
    found = asked(world, "last 1")
    assert {one.version.number: one.reasons for one in found.evaluation.judged if one.is_kept} == {
        1: ("best",),
        2: ("newest resumable",),
        5: ("newest", "newest proved", "last 1"),
    }


def test_pins_and_forgotten_versions_are_heeded(world):
    """A pinned version stays; a forgotten one neither counts nor is removed again."""
    make(world, 5)
    digest = world.repository.stored(RUN, 2).digest

    def pin(_decided, draft):
        draft.pins[2] = Pin(2, half(digest), "", "", 1)

    decide(world.repository, RUN, None, pin, By("host", 1))
    assert removed(world, "last 1") == (1, 3, 4)


def test_torn_files_keep_the_version_of_their_content(world):
    """The version whose content of a torn file stands in a kept one stays."""
    make(world, 2)
    whole = saved(epoch=9, fill=b"\x09")
    for length in (50, 60, 70):
        world.write("last.safetensors", whole[:length])
        world.append("log.txt", b"x")
        world.backup()
    newest = world.numbers()[-1]
    assert {trouble.kept for trouble in world.troubles().values()} == {2}
    kept = {one.version.number: one.reasons for one in asked(world, "last 1").evaluation.judged}
    assert kept[2][-1] == f"last good content of a file in version {newest}"


# ---------------------------------------------------------------- cost


def test_lists_of_files_are_read_only_where_something_may_go(world):
    """If nothing would be removed, manifests are read, and no pack; else the lists of files too, of each version."""
    with_many_files(world, 4)
    costs = {}
    for rule in ("last 4", "last 3"):
        world.counted.reset()
        asked(world, rule)
        costs[rule] = sum(world.counted.calls.values())
    assert costs["last 3"] - costs["last 4"] >= 4
    assert costs["last 4"] < 12


def with_many_files(world, count, **options):
    """Make versions whose list of files is too long for the manifest, and is different in each."""
    for number in range(400):
        world.write(f"d/{number:0200d}", b"")
    for epoch in range(count):
        for number in range(0, 400, 5):
            world.write(f"d/{number:0200d}", b"%d" % epoch)
        world.write("last.safetensors", saved(epoch=epoch, fill=bytes([epoch])))
        world.backup(**options)
    root = world.repository.stored(RUN, 1).root
    assert all(segment.inline is None for segment in root.segments)


def calls_to_forget(world):
    """How many calls of the store it takes to ask a policy, and to forget what it does not keep."""
    world.counted.reset()
    found = asked(world, "last 1")
    assert found.evaluation.removed
    items = [(number, "last 1") for number in found.evaluation.removed]
    forget(world.repository, RUN, items, By("host", 1), known=found.known, dry_run=True)
    return sum(world.counted.calls.values())


@pytest.mark.parametrize("required_level", [2, 3], ids=["proved", "pending"])
def test_each_version_costs_its_manifest_and_its_list_of_files(world, required_level):
    """A policy and the forget after it read both once, where nothing tells a best or resumable version either."""
    with_many_files(world, 4, required_level=required_level)
    before = calls_to_forget(world)
    for epoch in range(4, 10):
        world.write(f"d/{epoch:0200d}", b"more")
        world.write("last.safetensors", saved(epoch=epoch, fill=bytes([epoch])))
        world.backup(required_level=required_level)
    assert calls_to_forget(world) - before == 2 * 6


def test_later_proofs_are_read_once(world):
    """A policy and the forget after it read each of them once, beside the manifest."""
    make(world, 10)

    def prove(numbers):
        for number in numbers:
            digest = world.repository.stored(RUN, number).digest
            world.repository.add_later_proof(LaterProof(RUN, number, digest, 1, "mlsync", "host", 2, "", 0, []))

    prove(range(1, 3))
    before = calls_to_forget(world)
    prove(range(3, 8))
    assert calls_to_forget(world) - before == 5


def test_a_later_proof_that_came_meanwhile_is_heeded(world):
    """Between the question and the forget somebody found the newest resumable version broken: the one before stays."""
    for epoch in (1, 2):
        world.write("last.safetensors", saved(epoch=epoch, optimizer=True))
        world.backup()
    world.write("last.safetensors", saved(epoch=3))
    world.backup()
    found = asked(world, "last 1")
    assert found.evaluation.removed == (1,)
    digest = world.repository.stored(RUN, 2).digest
    finding = Finding(2, Severity.REFUSE, "not the bytes that were written")
    files = [ProvedFile(b"last.safetensors", Proof(2, "safetensors", "cpu", "2", 1, 0.5, 1, 4, {}, [finding]))]
    world.repository.add_later_proof(LaterProof(RUN, 2, digest, 1, "mlsync", "host", 2, "cpu", 1, files))
    with pytest.raises(VersionKept, match="version 1: it is the newest from which training can resume"):
        forget(world.repository, RUN, [(1, "last 1")], By("host", 1), known=found.known)


def test_a_version_that_came_meanwhile_is_read(world):
    """What it kept of an older one stays, although the question was asked before."""
    make(world, 3)
    found = asked(world, "last 1")
    assert found.evaluation.removed == (1, 2)
    world.append("log.txt", b"x")
    world.backup()
    assert set(needs_of(world.repository, RUN, found.known).listed) == {1, 2, 3, 4}


def test_a_damaged_log_matters_only_if_it_would_have_told(world):
    """A checkpoint in an older version tells the best one, whatever becomes of the log in a newer one."""
    world.write("best.safetensors", saved(epoch=1, best_fitness=0.9))
    world.backup()
    (world.directory / "best.safetensors").unlink()
    world.write("args.yaml", b"task: detect\n")
    world.write("results.csv", b"epoch,metrics/mAP50(B),metrics/mAP50-95(B)\n1,0.5,0.4\n")
    world.write("last.safetensors", saved(epoch=2))
    world.backup(accept_loss=True)
    make(world, 1)
    entries = {entry.path: entry for entry in world.repository.entries(world.repository.stored(RUN, 2))}
    world.store.delete(names.pack(entries[b"results.csv"].chunks[0].pack))
    assert removed(world, "last 1") == (2,)


# ---------------------------------------------------------------- what is not clear


def refused(world, *keep):
    """Why a policy is refused."""
    with pytest.raises(PolicyRefused) as caught:
        asked(world, *(keep or ["last 1"]))
    return caught.value.what


def test_a_version_that_does_not_open_is_not_clear(world):
    """It may be the best one, damaged, or nothing: nothing is removed."""
    make(world, 4)
    key = world.repository.version_key(RUN, 2)
    body = bytearray(world.store.get(key, limit_bytes=1 << 20))
    body[-1] ^= 1
    world.store.delete(key)
    world.store.put(key, bytes(body))
    assert f"{key} cannot be read" in refused(world)


def test_a_planted_version_is_not_clear(world):
    """Whoever may create objects can keep versions from being removed, and no more."""
    make(world, 3)
    world.store.put(world.repository.version_key(RUN, 99), b"planted")
    assert "/0000000099 cannot be read" in refused(world)


def test_a_version_that_is_missing_is_not_clear(world):
    """A listing that lacks what a later version names is short, whatever the reason."""
    make(world, 4)
    world.store.delete(world.repository.version_key(RUN, 2))
    assert "version 2 is missing, and nothing says that it was removed" in refused(world)


def test_hidden_later_proofs_are_not_clear(world):
    """One may say that a checkpoint is broken, so that another version is the newest proved one."""
    make(world, 3)
    version = world.repository.stored(RUN, 1)
    proof = LaterProof(RUN, 1, version.digest, 1, "mlsync", "host", 2, "", 0, [])
    key = world.repository.add_later_proof(proof).key
    world.append("log.txt", b"x")
    world.backup()
    assert removed(world, "last 1") == (1, 2, 3)
    world.store.delete(key)
    assert "later proofs are missing of version 1" in refused(world)


def test_a_broken_later_proof_puts_a_version_below_the_floor(world):
    """What another machine found broken displaces nothing, and the newest proved one is an older one."""
    make(world, 3)
    version = world.repository.stored(RUN, 3)
    finding = Finding(2, Severity.REFUSE, "not the bytes that were written")
    broken = Proof(2, "safetensors", "cpu", "2", 1, 0.5, 1, 4, {}, [finding])
    files = [ProvedFile(b"last.safetensors", broken)]
    world.repository.add_later_proof(LaterProof(RUN, 3, version.digest, 1, "mlsync", "host", 2, "cpu", 1, files))
    assert removed(world, "last 1") == (1,)


def test_versions_that_are_gone_are_no_gap(world):
    """What was removed by a decision is not missing, whether its manifest is deleted or not, and counts in no rule."""
    make(world, 5)
    by, now_ns = By("host", 1), 1
    digests = {number: world.repository.stored(RUN, number).digest for number in (2, 3)}

    def forget(_decided, draft):
        for number, digest in digests.items():
            draft.forgotten[number] = Forgotten(number, half(digest), "by hand", now_ns)

    decide(world.repository, RUN, None, forget, by)
    mark_gone(world.repository, RUN, None, digests, by)
    assert removed(world, "last 1") == (1, 4)
    world.store.delete(world.repository.version_key(RUN, 2))
    assert removed(world, "last 1") == (1, 4)


def test_hidden_decisions_are_not_clear(world):
    """A pin may be among them."""
    make(world, 2)
    digest = world.repository.stored(RUN, 1).digest

    def pin(_decided, draft):
        draft.pins[1] = Pin(1, half(digest), "", "", 1)

    decide(world.repository, RUN, None, pin, By("host", 1))
    world.append("log.txt", b"x")
    world.backup()
    for info in list(world.store.list(names.DECISIONS)):
        world.store.delete(info.key)
    assert "what was decided of its versions cannot be read" in refused(world)


def test_a_list_of_files_that_cannot_be_read_is_not_clear(world):
    """Without it nobody knows whether training can resume from the version."""
    make(world, 3)
    world.write("many.txt", b"x")
    for number in range(400):
        world.write(f"d/{number:0200d}", b"")
    world.backup()
    make(world, 2)
    packs = {ref for segment in world.repository.stored(RUN, 4).root.segments for ref in segment.chunks}
    assert packs
    for pack in world.repository.stored(RUN, 4).root.packs:
        world.store.delete(names.pack(pack[-16:]))
    assert "a list of files cannot be read" in refused(world)


def test_an_unknown_value_is_refused_with_the_names_that_there_are(world):
    """The names are those that proofs and logs have."""
    make(world, 2)
    with pytest.raises(PolicyRefused, match=r"did you mean epoch\?"):
        asked(world, "best 1 by epch")
