"""Packs in cold storage: backups go on, and whoever needs them is told of all of them at once."""

from __future__ import annotations

import random
import warnings

import pytest
import torch
from msgspec.structs import replace
from torch.distributed import checkpoint as distributed

from doubles.memory_store import MemoryStore
from fault_proxy import Fault
from flow_parts import World, checkpoint, keys_of, noise
from mlsync import errors
from mlsync.proof.options import ProofOptions
from mlsync.proof.prover import Prover
from mlsync.proving.prove_later import LaterProver
from mlsync.repository import names
from mlsync.store.base import ARCHIVED_ADVICE, ObjectInfo
from mlsync.store.location import StoreOptions, open_store
from mlsync.store.retry import RetryingStore
from mlsync.upkeep.scrub import scrub
from mlsync.versions.proof_status import manifest_of
from mlsync.versions.run_proofs import proofs_of

MIB = 1 << 20
ADVICE = "have it thawed"


class ColdStore(MemoryStore):
    """Objects of which those in *cold* are listed as such, and given if they are *thawed*, which no listing says."""

    may_freeze = True

    def __init__(self) -> None:
        super().__init__(MIB)
        self.cold: set[str] = set()
        self.thawed: set[str] = set()

    def read(self, key, offset, into):
        """Refuse what is cold."""
        if key in self.cold - self.thawed:
            raise errors.ObjectArchived("the store answered InvalidObjectState", where=key, advice=ADVICE)
        super().read(key, offset, into)

    def stat(self, key):
        """Say whether it is cold."""
        return replace(super().stat(key), is_archived=key in self.cold - self.thawed)

    def list(self, prefix, *, after=""):
        """Say what is cold."""
        for info in super().list(prefix, after=after):
            yield ObjectInfo(info.key, info.size_bytes, info.modified_s, info.key in self.cold)


@pytest.fixture
def world(tmp_path):
    """A run, and a store that can freeze."""
    world = World(tmp_path, ColdStore())
    yield world
    world.close()


def freeze(world):
    """Have all packs that there are in cold storage; return their names."""
    frozen = keys_of(world.store, "packs/")
    world.store.cold.update(frozen)
    return frozen


def tensor(seed, size_bytes=2 * MIB):
    """Numbers that do not compress."""
    return torch.frombuffer(bytearray(random.Random(seed).randbytes(size_bytes)), dtype=torch.int32)


def packs_of(world, name):
    """The packs that a file of the last version needs."""
    return {names.pack(ref.pack) for ref in world.entry(name).chunks}


def told(world):
    """What was said of cold storage."""
    return [text for _, text in world.monitor.notices if "cold storage" in text]


def test_unchanged_tensors_in_cold_packs_are_stored_anew_and_unchanged_files_stay(world):
    """A changed checkpoint relies on no cold pack; the files that nobody touched are not taken out of theirs."""
    for epoch in range(3):
        world.write(f"epoch{epoch}.pt", checkpoint(tensor(epoch), tensor(10 + epoch)))
        world.backup()
    world.write("last.pt", checkpoint(tensor(0), tensor(20)))
    world.backup()
    frozen = freeze(world)
    world.write("last.pt", checkpoint(tensor(0), tensor(21)))
    result = world.backup()
    assert result.version == 5
    assert packs_of(world, b"last.pt").isdisjoint(frozen)
    assert packs_of(world, b"epoch1.pt") < set(frozen)
    assert result.new_bytes < 5 * MIB
    assert told(world) == [
        f"{len(frozen)} packs lie in cold storage: what changed files need of it is stored anew, where it can be read"
    ]
    world.restore(None, "some", b"last.pt")
    assert (world.base / "some" / "last.pt").read_bytes() == (world.directory / "last.pt").read_bytes()
    # And from then on as ever.
    world.write("last.pt", checkpoint(tensor(0), tensor(22)))
    assert world.backup().new_bytes < 3 * MIB
    assert len(told(world)) == 1


def test_reading_all_back_passes_over_what_is_cold(world):
    """With read_back = all a version is made still: what is new is read back, and what is cold is not."""
    world.write("old.bin", noise(MIB))
    world.backup()
    freeze(world)
    world.write("new.bin", noise(MIB, 1))
    result = world.backup(read_back="all")
    assert result.version == 2
    assert 0 < result.read_back_bytes < 2 * MIB


def test_what_is_proved_together_with_a_changed_file_comes_out_of_a_cold_pack(world):
    """Metadata of a distributed checkpoint that did not change are stored anew where a shard is proved by them."""

    def save(seed, directory):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = {"weight": tensor(seed), "frozen": tensor(1)}
            distributed.save(state, checkpoint_id=str(directory), no_dist=True)

    save(2, world.directory / "step")
    world.backup()
    frozen = freeze(world)
    save(3, world.base / "other")
    world.write("step/__0_0.distcp", (world.base / "other" / "__0_0.distcp").read_bytes())
    assert world.backup().version == 2
    assert (packs_of(world, b"step/__0_0.distcp") | packs_of(world, b"step/.metadata")).isdisjoint(frozen)
    assert world.entry(b"step/__0_0.distcp").proof.level >= 2


def test_a_bucket_that_freezes_what_it_takes_ends_the_backup(world, monkeypatch):
    """What was just stored and is cold cannot be proved: storing it again would not help, and is not tried."""

    def read(self, key, offset, into):
        assert len(self._objects) < 40, "without a bound it would go on for ever"
        raise errors.ObjectArchived("the store answered InvalidObjectState", where=key, advice=ADVICE)

    monkeypatch.setattr(ColdStore, "read", read)
    world.write("data.bin", noise(4 * MIB))
    with pytest.raises(errors.ObjectArchived, match="just stored"):
        world.backup()
    assert world.counted.written_bytes < 5 * MIB
    assert world.numbers() == []


def test_a_restore_and_a_verification_name_every_pack_that_must_be_thawed(world):
    """Thawing takes hours: nobody learns of the second pack after the first one was waited for."""
    for number in range(3):
        world.write(f"data{number}.bin", noise(MIB, number))
        world.backup()
    frozen = freeze(world)
    world.write("fresh.bin", noise(MIB, 9))
    world.backup()
    for step in (lambda: world.restore(4), lambda: world.verify(4)):
        with pytest.raises(errors.ObjectArchived) as caught:
            step()
        assert caught.value.exit_code == 77
        assert caught.value.where.split(", ") == frozen
        assert caught.value.what == "3 packs of version 4 of run 'yolo' must be thawed first"
        assert caught.value.advice == ADVICE


def test_a_check_names_every_cold_pack_once_and_reads_the_others(world):
    """Cold packs are no problem and are told, with what they touch; a check of all data goes on past them."""
    for number in range(3):
        world.write(f"data{number}.bin", noise(MIB, number))
        world.backup()
    frozen = freeze(world)
    world.write("fresh.bin", noise(MIB, 9))
    world.backup()
    (bad,) = packs_of(world, b"fresh.bin")
    for read_data in (False, True):
        result = world.check(read_data=read_data)
        assert [found.key for found in result.unchecked] == frozen
        assert all("cold storage" in found.text for found in result.unchecked)
        assert all((ADVICE if read_data else ARCHIVED_ADVICE) in found.text for found in result.unchecked)
        assert all(found.versions[-1] == ("yolo", 4) for found in result.unchecked)
        assert result.problems == []
        assert isinstance(result.left_open, errors.ObjectArchived) == read_data
    assert MIB < result.read_bytes < 2 * MIB
    body = bytearray(world.store._objects[bad][0])
    body[5000] ^= 1
    world.store._objects[bad] = (bytes(body), 0.0)
    assert [problem.key for problem in world.check().problems] == [bad]


def test_a_check_reads_what_is_thawed_whatever_the_listing_says(world):
    """Servers that do not tell in a listing what is thawed have it found out by reading."""
    world.write("data.bin", noise(MIB))
    world.backup()
    frozen = freeze(world)
    world.store.thawed.update(frozen)
    assert [found.key for found in world.check(read_data=False).unchecked] == frozen
    result = world.check(read_data=True)
    assert (result.unchecked, result.left_open) == ([], None)
    assert world.restored(1) == world.tree()


def test_a_check_goes_on_where_the_list_of_files_is_cold(world, monkeypatch):
    """A version whose own list lies in a cold pack is checked as far as that goes; the pack is named."""
    monkeypatch.setattr("mlsync.repository.encoding.segments.INLINE_BYTES_MAX", 0)
    for number in range(40):
        world.write(f"data{number}.bin", b"")
    world.backup()
    world.write("more.bin", noise(MIB))
    world.backup()
    frozen = freeze(world)
    result = world.check()
    assert {found.key for found in result.unchecked} >= set(frozen)
    assert result.problems == []


def test_scrubbing_passes_over_what_is_cold(world):
    """What cannot be read is not taken for damaged, and is not stored again."""
    world.write("data.bin", noise(MIB))
    world.backup()
    frozen = freeze(world)
    result = scrub(world.repository, world.monitor, since_ns=0, now_ns=2 * 10**18, period_s=1e9)
    assert result.damaged == {}
    assert (result.pack_count, result.archived_count) == (len(frozen), len(frozen))


def test_on_a_real_server_what_its_lifecycle_froze_is_stored_anew(tmp_path, s3_server, proxy):
    """The class that a real server lists, and the answer of AWS to reads of it, come to the same."""
    bucket = s3_server.make_bucket()
    proxy.reset()
    options = StoreOptions(endpoint_url=proxy.url, region=s3_server.region)
    world = World(tmp_path, RetryingStore(open_store(f"s3://{bucket}/runs", options), sleep=lambda _s: None))
    for seed in (20, 21):
        world.write("last.pt", checkpoint(tensor(0), tensor(seed)))
        world.backup()
    frozen = keys_of(world.store, "packs/")
    client = s3_server.client()
    for key in frozen:
        place = {"Bucket": bucket, "Key": f"runs/{key}"}
        client.copy_object(**place, CopySource=place, StorageClass="GLACIER", MetadataDirective="REPLACE")
    client.close()
    proxy.reset(Fault("403 cold", "GetObject", times=10**6, paths=tuple(frozen)))
    assert [found.key for found in world.check(read_data=True).unchecked] == sorted(frozen)
    with pytest.raises(errors.ObjectArchived, match="2 packs of version 2"):
        world.restore(2)
    world.write("last.pt", checkpoint(tensor(0), tensor(22)))
    assert world.backup().version == 3
    assert packs_of(world, b"last.pt").isdisjoint(frozen)
    assert world.restored(3) == world.tree()
    world.close()
    world.store.close()


# ---------------------------------------------------------------- a backup that relies on cold packs on purpose


def test_told_to_a_backup_relies_on_cold_packs_and_says_that_it_proved_nothing_of_them(world):
    """Frozen tensors stay where they are; the checkpoint is pending, and restores and proves once it is thawed."""
    world.write("last.pt", checkpoint(tensor(0), tensor(20)))
    world.write("same.pt", checkpoint(tensor(5)))
    world.backup()
    frozen = freeze(world)
    world.write("last.pt", checkpoint(tensor(0), tensor(21)))
    world.write("new.bin", noise(MIB, 3))
    world.write("copy.pt", checkpoint(tensor(5)))
    result = world.backup(reuse_cold=True)
    assert result.version == 2
    assert result.new_bytes < 4 * MIB
    assert packs_of(world, b"last.pt") & set(frozen)
    proof = world.entry(b"last.pt").proof
    assert (proof.level, proof.shortfall) == (0, "not read back yet: some of it lies in cold storage")
    # What was proved under another name is still proved, and what is not cold is read back as ever.
    assert world.entry(b"copy.pt").proof.level >= 2
    assert result.read_back_bytes >= MIB
    (text,) = told(world)
    assert "neither proved nor restored before it is thawed" in text
    with pytest.raises(errors.ObjectArchived):
        world.restore(2)
    world.store.thawed.update(frozen)
    assert world.restored(2) == world.tree()
    with LaterProver(world.repository, Prover(ProofOptions(device="none")), world.monitor) as later:
        later.pending(world.repository.stored("yolo", 2))
    stored = world.repository.stored("yolo", 2)
    proved = manifest_of(world.repository, stored, proofs_of(world.repository, stored)[0].proofs)
    assert {entry.path: entry.proof.level for entry in proved.entries if entry.proof is not None}[b"last.pt"] >= 2


def test_cold_packs_that_a_listing_shows_are_known_before_they_are_read(world):
    """The backup is not begun twice for them: what it reports as new is what it stored."""
    world.use(world.store)
    world.write("last.pt", checkpoint(tensor(0), tensor(20)))
    world.backup()
    freeze(world)
    world.write("last.pt", checkpoint(tensor(0), tensor(21)))
    result = world.backup(reuse_cold=True)
    assert 2 * MIB <= result.new_bytes < 3 * MIB
    assert world.entry(b"last.pt").proof.level == 0
    assert len(told(world)) == 1


def test_what_has_to_be_read_is_stored_again_even_so(world):
    """Metadata beside a new shard are needed to prove it: they alone come out of the cold pack, and the backup ends."""

    def save(seed, directory):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = {"weight": tensor(seed), "frozen": tensor(1)}
            distributed.save(state, checkpoint_id=str(directory), no_dist=True)

    save(2, world.directory / "step")
    world.backup()
    freeze(world)
    save(3, world.base / "other")
    world.write("step/__0_0.distcp", (world.base / "other" / "__0_0.distcp").read_bytes())
    assert world.backup(reuse_cold=True).version == 2
    world.store.thawed.update(keys_of(world.store, "packs/"))
    assert world.restored(2) == world.tree()


def test_told_to_rely_on_cold_packs_a_bucket_that_freezes_what_it_takes_still_ends_the_backup(world, monkeypatch):
    """What was just stored must come back, whatever is allowed of older packs."""

    def read(self, key, offset, into):
        raise errors.ObjectArchived("cold", where=key, advice=ADVICE)

    monkeypatch.setattr(ColdStore, "read", read)
    world.write("data.bin", noise(MIB))
    with pytest.raises(errors.ObjectArchived, match="just stored"):
        world.backup(reuse_cold=True)
    assert world.numbers() == []
