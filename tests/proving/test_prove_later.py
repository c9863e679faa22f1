"""Proofs that are made after the version: beside it, by any machine, and taken over by the next one."""

from __future__ import annotations

import io
from contextlib import suppress

import msgspec
import pytest

from doubles.faulty_store import Fault, FaultyStore, ProcessDied
from flow_parts import RUN, World
from flow_parts import uniform_checkpoint as checkpoint
from mlsync.errors import DeviceMissing, ManifestDamaged, ObjectDamaged, PythonUnfit, Stopped
from mlsync.proof.options import ProofOptions
from mlsync.proof.prover import Prover
from mlsync.proving.prove_later import LaterProver
from mlsync.proving.shares import Share
from mlsync.repository import names
from mlsync.repository.encoding.tokens import TroubleKind
from mlsync.repository.later_proof import LaterProof, ProvedFile
from mlsync.repository.proof_links import seen_links
from mlsync.versions.proof_status import manifest_of, proof_statuses, status_from_summaries

ON_CPU = ProofOptions(device="cpu")
NO_TORCH = ProofOptions(device="cpu", python="/nowhere/python")


class Watched:
    """A prover that tells what it proved, and whether it is at it; *meanwhile* is called in the middle of the first."""

    def __init__(self, prover, meanwhile=lambda: None):
        self._prover = prover
        self._meanwhile = meanwhile
        self.paths = []
        self.is_idle = True

    def open(self):
        """Start the child."""
        return self._prover.open()

    def prove(self, source, path, metadata=None):
        """Prove a file."""
        self.paths.append(path)
        if len(self.paths) == 1:
            self._meanwhile()
        self.is_idle = False
        try:
            return self._prover.prove(source, path, metadata)
        finally:
            self.is_idle = True


@pytest.fixture
def world(tmp_path):
    """A run without versions."""
    world = World(tmp_path)
    yield world
    world.close()


@pytest.fixture(scope="module")
def prover():
    """A prover on the CPU; its child is started once."""
    with Prover(ON_CPU) as prover:
        yield prover


def save_pending(world, name="last.pt", value=1.0):
    """Make a version whose checkpoint still needs a device."""
    world.write(name, checkpoint(value))
    return world.backup(required_level=3, prover=Prover(NO_TORCH)).version


def stored(world, number):
    """A version's root."""
    return world.repository.stored(RUN, number)


def proved(world, prover, number, **options):
    """What a later proof of the version's pending checkpoints came to."""
    with LaterProver(world.repository, prover, world.monitor, **options) as later:
        return later.pending(stored(world, number))


def prove_all(later):
    """What came of all that a run lacks."""
    return [later.pending(found) for found in later.lacking(RUN)]


def levels(world, number):
    """How far each checkpoint of a version is proved today."""
    entries = manifest_of(world.repository, stored(world, number)).entries
    return {entry.path: entry.proof.level for entry in entries if entry.proof is not None}


def proof_keys(world):
    """The later proofs in the store."""
    return [info.key for info in world.store.list(names.LATER_PROOFS)]


def test_a_pending_version_is_proved_beside_its_manifest(world, prover):
    """What lacked a device is proved later, shows in the listing, and the manifest's bytes stay the same."""
    number = save_pending(world)
    before = {info.key: info.size_bytes for info in world.store.list("")}
    digest = stored(world, number).digest
    assert proof_statuses(world.repository, RUN)[0].is_pending
    result = proved(world, prover, number)
    assert (result.lowest_level, result.device, result.refused, result.unavailable) == (4, "cpu", {}, None)
    status = proof_statuses(world.repository, RUN)[0]
    assert (status.lowest_level, status.device, status.is_pending) == (4, "cpu", False)
    assert levels(world, number) == {b"last.pt": 4}
    assert stored(world, number).digest == digest
    assert {info.key for info in world.store.list("")} - before.keys() == set(proof_keys(world))


def test_what_is_proved_is_not_read_again(world, prover):
    """A second look for what is pending reads no chunk and writes nothing."""
    number = save_pending(world)
    proved(world, prover, number)
    keys, read_bytes = proof_keys(world), world.counted.read_bytes
    with LaterProver(world.repository, prover, world.monitor) as later:
        assert list(later.lacking(RUN)) == []
        assert later.pending(stored(world, number)).verdicts == {}
    assert proof_keys(world) == keys
    assert world.counted.read_bytes - read_bytes < 4000


def test_the_same_content_in_many_versions_is_read_once(world, prover):
    """Three versions that hold one checkpoint are proved by one reading of it."""
    numbers = [save_pending(world)]
    for text in (b"a", b"b"):
        world.write("log.txt", text)
        numbers.append(world.backup(required_level=3).version)
    with LaterProver(world.repository, prover, world.monitor) as later:
        results = [later.pending(found) for found in later.lacking(RUN)]
    assert [result.version for result in results] == numbers[::-1]
    assert [result.read_bytes > 0 for result in results] == [True, False, False]
    assert not any(status.is_pending for status in proof_statuses(world.repository, RUN))


def test_without_a_device_nothing_is_read(world):
    """Where torch or a device is missing the error says so before a byte of the checkpoint is read."""
    number = save_pending(world)
    keys = [info.key for info in world.store.list("")]
    for options, error in ((NO_TORCH, PythonUnfit), (ProofOptions(device="none"), DeviceMissing)):
        read_bytes = world.counted.read_bytes
        with Prover(options) as absent, pytest.raises(error):
            proved(world, absent, number)
        assert world.counted.read_bytes - read_bytes < 4000
    assert [info.key for info in world.store.list("")] == keys


def test_a_level_can_be_asked_for(world, prover):
    """With a level of its own, what is proved as far as the version required is proved further."""
    world.write("last.pt", checkpoint())
    number = world.backup(required_level=2).version
    with LaterProver(world.repository, prover, world.monitor) as later:
        assert list(later.lacking(RUN)) == []
    with LaterProver(world.repository, prover, world.monitor, level=4) as later:
        results = [later.pending(found) for found in later.lacking(RUN)]
    assert [(result.version, result.lowest_level) for result in results] == [(number, 4)]


def test_a_version_can_be_proved_anew(world, prover):
    """What was proved to the same level before has the newer proof afterwards."""
    number = save_pending(world)
    proved(world, prover, number)
    before = manifest_of(world.repository, stored(world, number)).entries[0].proof.proved_ns
    with LaterProver(world.repository, prover, world.monitor) as later:
        result = later.anew(stored(world, number))
    assert result.read_bytes > 0
    assert manifest_of(world.repository, stored(world, number)).entries[0].proof.proved_ns > before


def test_the_next_version_takes_the_later_proof_over(world, prover):
    """A checkpoint that did not change is not pending in the next version, by whoever it was proved."""
    number = save_pending(world)
    proved(world, prover, number)
    world.write("log.txt", b"more")
    result = world.backup(required_level=3)
    assert (result.version, result.pending) == (number + 1, ())
    assert world.entry(b"last.pt").proof.level == 4
    assert not world.state.pending(RUN) or world.state.pending(RUN) == [number]


def test_the_next_version_takes_it_over_without_local_state(world, prover):
    """The same on a machine that lost its local state."""
    proved(world, prover, save_pending(world))
    world.lose_state()
    world.write("log.txt", b"more")
    assert world.backup(required_level=3).pending == ()
    assert world.entry(b"last.pt").proof.level == 4


def save_broken(world):
    """Make a pending version whose checkpoint is refused once it is looked at: its numbers are no numbers."""
    import torch

    file = io.BytesIO()
    torch.save({"model": {"weight": torch.full((500,), float("nan"))}}, file)
    world.write("last.pt", file.getvalue())
    return world.backup(required_level=3, prover=Prover(NO_TORCH)).version


def refusing():
    """A prover that refuses what holds a NaN."""
    return Prover(ProofOptions(device="cpu", refuse=("nan", "inf")))


def test_what_turns_out_to_be_broken_is_marked(world):
    """A checkpoint that does not hold is broken in the listing, with what is wrong, and pending no more."""
    number = save_broken(world)
    with refusing() as strict:
        result = proved(world, strict, number)
    assert "NaN" in result.refused[b"last.pt"]
    (status,) = proof_statuses(world.repository, RUN)
    assert (status.broken_count, status.is_pending) == (1, False)
    (entry,) = manifest_of(world.repository, stored(world, number)).entries
    assert entry.proof.is_broken
    assert "NaN" in entry.proof.refusal


def test_what_turned_out_to_be_broken_stays_broken(world, prover):
    """A later proof by a laxer policy does not call it whole."""
    number = save_broken(world)
    with refusing() as strict:
        proved(world, strict, number)
    with LaterProver(world.repository, prover, world.monitor) as later:
        later.anew(stored(world, number))
    assert proof_statuses(world.repository, RUN)[0].broken_count == 1


def test_what_turned_out_to_be_broken_is_not_in_the_next_version(world):
    """The next version leaves it out and names it, and so does the one after that, though nobody touches the file."""
    with refusing() as strict:
        proved(world, strict, save_broken(world))
    for text in (b"a", b"b"):
        world.write("log.txt", text)
        number = world.backup(required_level=3).version
        assert [entry.path for entry in world.manifest(number).entries] == [b"log.txt"]
        assert world.troubles(number)[b"last.pt"].kind is TroubleKind.BROKEN
    world.write("last.pt", checkpoint(2.0))
    assert world.backup().troubles == ()
    assert [entry.path for entry in world.manifest().entries] == [b"last.pt", b"log.txt"]


def test_what_was_proved_before_a_stop_is_kept(world, prover):
    """A stop between two checkpoints leaves the first one's proof behind."""
    world.write("a.pt", checkpoint(1.0))
    number = save_pending(world, "b.pt", 2.0)
    watched = Watched(prover)
    with pytest.raises(Stopped):
        proved(world, watched, number, stop=lambda: len(watched.paths) == 1 and watched.is_idle)
    assert sorted(levels(world, number).values()) == [2, 4]
    assert proof_statuses(world.repository, RUN)[0].is_pending
    assert list(proved(world, prover, number).verdicts) == [b"b.pt"]
    assert not proof_statuses(world.repository, RUN)[0].is_pending


def test_what_was_made_without_a_device_by_wish_is_pending(world, prover):
    """Where device is "none" and more is required, the version says what is lacking, and another machine proves it."""
    world.write("last.pt", checkpoint(1.0))
    number = world.backup(required_level=3, prover=Prover(ProofOptions(device="none"))).version
    assert world.entry(b"last.pt").proof.shortfall == 'no device is wanted here: device = "none"'
    assert proof_statuses(world.repository, RUN)[0].is_pending
    assert proved(world, prover, number).lowest_level == 4
    assert not proof_statuses(world.repository, RUN)[0].is_pending


def test_a_stop_does_not_wait_for_the_end_of_a_file(world, prover):
    """A stop that comes while a checkpoint is read ends its proof; nothing is recorded of it."""
    number = save_pending(world)
    watched = Watched(prover)
    with pytest.raises(Stopped):
        proved(world, watched, number, stop=lambda: not watched.is_idle)
    assert (watched.paths, proof_keys(world)) == ([b"last.pt"], [])


def test_a_version_that_was_proved_in_parts_shows_as_a_whole(world, prover):
    """Where each later proof's sum lacks the others' files, the listing has the sum of all, and says when one lacks."""
    world.write("a.pt", checkpoint(1.0))
    number = save_pending(world, "b.pt", 2.0)
    found = stored(world, number)
    whole = proved(world, prover, number)
    (key,) = proof_keys(world)
    world.store.delete(key)
    for path, judged in sorted(whole.verdicts.items()):
        assert proof_statuses(world.repository, RUN)[0].is_pending
        part = LaterProof(RUN, number, found.digest, 7, "test", "host", 2, "", 0, [ProvedFile(path, judged.proof)])
        world.repository.add_later_proof(part)
    (status,) = proof_statuses(world.repository, RUN)
    assert (status.lowest_level, status.device, status.is_pending) == (4, "cpu", False)
    assert proved(world, prover, number).verdicts == {}


def test_who_comes_last_leaves_the_sum_of_all(world, prover):
    """A part that another machine proved meanwhile is in the sum that lies there once both have ended."""
    world.write("a.pt", checkpoint(1.0))
    number = save_pending(world, "b.pt", 2.0)
    second = LaterProver(world.repository, Watched(prover), world.monitor, share=Share(2, 2))
    meanwhile = Watched(prover, lambda: prove_all(second))
    first = LaterProver(world.repository, meanwhile, world.monitor, share=Share(1, 2))
    with first, second:
        prove_all(first)
    proofs = world.repository.later_proofs(stored(world, number)).proofs
    assert sorted(len(proof.files) for proof in proofs) == [0, 1, 1]
    assert status_from_summaries(stored(world, number), proofs).lowest_level == 4


def test_a_listing_reads_few_lists_of_files(world, prover, monkeypatch):
    """That of a version which looks pending by the sums, and none where all is proved."""
    world.write("a.pt", checkpoint(1.0))
    number = save_pending(world, "b.pt", 2.0)
    read = []
    entries = world.repository.entries
    monkeypatch.setattr(world.repository, "entries", lambda stored: read.append(stored) or entries(stored))
    for number_of_share, lists in ((1, 1), (2, 0)):
        with LaterProver(world.repository, prover, world.monitor, share=Share(number_of_share, 2)) as later:
            prove_all(later)
        read.clear()
        proof_statuses(world.repository, RUN)
        assert len(read) == lists
    part = world.repository.later_proofs(stored(world, number)).proofs[0]
    for key in proof_keys(world):
        world.store.delete(key)
    for path in (b"a.pt", b"b.pt"):
        moved = [ProvedFile(path, file.proof) for file in part.files]
        world.repository.add_later_proof(msgspec.structs.replace(part, files=moved))
    assert not proof_statuses(world.repository, RUN)[0].is_pending
    assert len(read) == 1


def test_damage_is_damage(world, prover):
    """A pack that rotted ends the proof with that, and nothing is said of the checkpoint."""
    number = save_pending(world)
    pack_key = names.pack(world.entry(b"last.pt").chunks[0].pack)
    body = bytearray(world.store.get(pack_key, limit_bytes=1 << 20))
    body[100] ^= 1
    world.store.delete(pack_key)
    world.store.put(pack_key, bytes(body))
    with pytest.raises(ObjectDamaged):
        proved(world, prover, number)
    assert proof_keys(world) == []


def test_a_proof_of_no_checkpoint_is_damage(world, prover):
    """A later proof that names a file which the version does not hold is not believed."""
    number = save_pending(world)
    found = stored(world, number)
    proof = manifest_of(world.repository, found).entries[0].proof
    world.repository.add_later_proof(
        LaterProof(RUN, number, found.digest, 7, "test", "host", 4, "", 0, [ProvedFile(b"other.pt", proof)])
    )
    with pytest.raises(ManifestDamaged, match=r"other\.pt"):
        manifest_of(world.repository, found)


def test_check_names_a_damaged_proof(world, prover):
    """A later proof that does not open is a problem of a check, a sound one is none; what is no later proof is odd."""
    number = save_pending(world)
    proved(world, prover, number)
    assert world.check().problems == []
    (key,) = proof_keys(world)
    body = world.store.get(key, limit_bytes=1 << 20)
    world.store.delete(key)
    world.store.put(key, body[:-1] + bytes([body[-1] ^ 1]))
    world.store.put("proofs/readme", b"x")
    result = world.check()
    assert [(problem.key, problem.versions) for problem in result.problems] == [(key, ((RUN, number),))]
    assert [oddity.key for oddity in result.oddities] == ["proofs/readme"]


def test_each_proof_has_a_link_to_those_that_its_writer_had_seen(world, prover):
    """Two shares at once, and the sum of both: the last one leads to all, so that none can be hidden."""
    world.write("a.pt", checkpoint(1.0))
    number = save_pending(world, "b.pt", 2.0)
    second = LaterProver(world.repository, Watched(prover), world.monitor, share=Share(2, 2))
    first = LaterProver(world.repository, Watched(prover, lambda: prove_all(second)), world.monitor, share=Share(1, 2))
    with first, second:
        prove_all(first)
    proofs = world.repository.later_proofs(stored(world, number))
    links = {one.link: seen_links(one.proof.room) for one in proofs.stored}
    (head,) = proofs.heads
    assert set(links[head]) == links.keys() - {head}
    assert sorted(map(len, links.values())) == [0, 0, 2]
    for one in proofs.stored:
        body = world.store.get(one.key, limit_bytes=1 << 20)
        world.store.delete(one.key)
        found = proof_statuses(world.repository, RUN)[0].hidden
        assert (() if found is None else found.keys) == (() if one.link == head else (one.key,))
        world.store.put(one.key, body)


def test_a_crash_while_a_version_is_proved_hides_no_proof(world, prover):
    """Whichever call is the last, what is there names what is there, and the next one proves the rest."""
    number = save_pending(world)
    keys = set(world.store._objects)
    for kind in ("die-before", "die-after"):
        for nth in range(1, 100):
            for key in set(world.store._objects) - keys:
                world.store.delete(key)
            faulty = FaultyStore(world.store, Fault(kind, nth))
            world.use(faulty)
            with suppress(ProcessDied):
                proved(world, prover, number)
            world.use(world.store)
            assert proof_statuses(world.repository, RUN)[0].hidden is None
            proved(world, prover, number)
            (status,) = proof_statuses(world.repository, RUN)
            assert (status.hidden, status.is_pending) == (None, False)
            if not faulty.is_dead:
                break
        else:
            pytest.fail("the proof never got through")


def test_a_prover_says_what_is_hidden(world, prover):
    """It proves on, and warns: what it adds does not take the place of what is missing."""
    number = save_pending(world)
    proved(world, prover, number)
    (first,) = world.repository.later_proofs(stored(world, number)).stored
    with LaterProver(world.repository, prover, world.monitor) as later:
        later.anew(stored(world, number))
        world.store.delete(first.key)
        later.anew(stored(world, number))
    hidden = "a later proof that was seen before is missing, and it may say that a checkpoint is broken"
    text = f"{RUN}: version {number}: {hidden}; mlsync check names what is missing"
    assert ("warning", text) in world.monitor.notices
    assert proof_statuses(world.repository, RUN)[0].hidden.keys == (first.key,)
