"""What the steps cost, in calls of the store and bytes: numbers that do not depend on the machine."""

from __future__ import annotations

import os
import warnings

import pytest
import torch
from torch.distributed import checkpoint as distributed

from doubles.faulty_store import FaultyStore
from flow_parts import RUN, World, bytes_of, checkpoint, keys_of, noise, small_checkpoint
from mlsync.backup.backup import look
from mlsync.backup.request import Source
from mlsync.formats.dcp import container, metadata
from mlsync.formats.pickles.machine import read_pickle
from mlsync.proof.options import ProofOptions
from mlsync.proof.prover import Prover
from mlsync.versions.stored_file import SMALL_CHUNK_BYTES_MAX, RestoredFile

MIB = 1 << 20


def random_tensor(seed: int, size_bytes: int = 2 * MIB) -> torch.Tensor:
    return torch.frombuffer(bytearray(noise(size_bytes, seed)), dtype=torch.int32)


def new_bytes_of(world: World, name: bytes) -> int:
    """The bytes of a file's chunks that its version before did not have."""
    before = {ref.name for ref in world.entry(name, world.numbers()[-2]).chunks}
    return bytes_of(ref for ref in world.entry(name).chunks if ref.name not in before)


class CountingProver(Prover):
    """Counts the files that it was given."""

    def __init__(self) -> None:
        super().__init__(ProofOptions(device="none"))
        self.paths: list[bytes] = []

    def prove(self, source, path, metadata=None):
        """Count and prove."""
        self.paths.append(path)
        return super().prove(source, path, metadata)


def test_an_unchanged_tree_costs_one_listing(world):
    """A second backup of an untouched tree reads no byte of any file and asks the store for one listing."""
    world.write("last.pt", small_checkpoint())
    world.write("deep/er/log.csv", b"1\n")
    os.symlink("last.pt", world.path("latest"))
    os.link(world.path("last.pt"), world.path("deep/same.pt"))
    world.backup()
    world.counted.reset()
    result = world.backup()
    assert (result.version, result.previous, result.read_bytes) == (0, 1, 0)
    assert world.counted.calls == {"list": 1}
    assert world.counted.read_bytes == 0


def test_a_look_says_what_a_backup_of_an_untouched_tree_says_and_asks_the_store_nothing(world):
    """What is known without the store: that nothing changed, since which version, and what is still wrong."""
    source = Source(RUN, bytes(world.directory))
    world.write("last.pt", small_checkpoint())
    world.write("best.pt", small_checkpoint()[:-100])
    assert look(world.state, source) is None
    world.backup()
    result = world.backup()
    world.counted.reset()
    seen = look(world.state, source)
    assert (seen.previous, seen.version, seen.scanned_count) == (1, 0, 2)
    assert [trouble.path for trouble in seen.troubles] == [b"best.pt"]
    assert seen.troubles == result.troubles
    assert world.counted.calls == {}
    world.append("last.pt", b"more")
    assert look(world.state, source) is None
    world.backup()
    world.lose_state()
    assert look(world.state, source) is None


def test_a_touched_file_is_read_once_and_makes_no_version(world):
    """A file that only has another time is read, found equal, and not read a second time."""
    content = noise(3 * MIB)
    world.write("big.bin", content)
    world.backup()
    os.utime(world.path("big.bin"), ns=(1, 1_600_000_000_000_000_001))
    world.counted.reset()
    result = world.backup()
    assert (result.version, result.read_bytes, result.new_bytes, result.read_back_bytes) == (0, len(content), 0, 0)
    assert world.counted.calls == {"list": 2, "get": 1}
    assert world.counted.written_bytes == 0
    assert world.backup().read_bytes == 0
    assert world.numbers() == [1]


def test_a_small_change_costs_few_calls(world):
    """A version with one new chunk is a pack, a manifest and its second copy; all else are questions, and few."""
    world.write("last.pt", small_checkpoint())
    world.write("log.csv", b"1\n")
    world.backup()
    world.append("log.csv", b"2\n")
    store = FaultyStore(world.store)
    world.use(store)
    assert world.backup().version == 2
    kinds = [(method, key.partition("/")[0]) for method, key in store.calls]
    assert kinds == [
        ("list", "versions"),
        ("get", "versions"),
        ("list", "tombstones"),
        ("put", "packs"),
        ("read", "packs"),
        ("list", "decisions"),
        ("list", "proofs"),
        ("list", "tombstones"),
        ("stat", "packs"),
        ("get", "repository"),
        ("list", "tombstones"),
        ("stat", "packs"),
        ("stat", "packs"),
        ("put", "versions"),
        ("get", "versions"),
        ("stat", "epochs"),
        ("put", "copies"),
    ]


def test_of_a_changed_tensor_only_its_pieces_are_new(world):
    """One tensor of twenty changes in a file of 40 MiB: its two mebibytes are stored and come back, and small parts."""
    tensors = [random_tensor(number) for number in range(20)]
    world.write("last.pt", checkpoint(*tensors))
    world.backup()
    tensors[7] = random_tensor(99)
    world.write("last.pt", checkpoint(*tensors))
    result = world.backup()
    assert 2 * MIB <= new_bytes_of(world, b"last.pt") < 2 * MIB + 100_000
    assert result.new_bytes == new_bytes_of(world, b"last.pt")
    assert 2 * MIB <= result.read_back_bytes < 2 * MIB + 100_000


def test_a_checkpoint_comes_back_once(world):
    """Its structure is read without the tensors around it: a proof fetches hardly more than the file's own bytes."""
    data = checkpoint(*(random_tensor(number) for number in range(8)))
    world.write("last.pt", data)
    assert world.backup().read_back_bytes < 1.1 * len(data)


def test_a_pickle_that_grows_in_front_of_frozen_tensors_moves_no_chunk(world):
    """Tensors that lie elsewhere in the file because of what was written before them are not stored again."""
    tensors = {f"layer{number}": random_tensor(number) for number in range(6)}
    for count in (1, 20_000):
        path = os.fsdecode(world.path("last.pt"))
        torch.save({"results": [float(n) for n in range(count)], "model": tensors}, path)
        world.backup()
    assert new_bytes_of(world, b"last.pt") < 400_000


def test_last_best_and_epoch_are_stored_once_and_proved_once(world, tmp_path):
    """Three files of the same content cost one upload and one proof."""
    data = checkpoint(random_tensor(1))
    alone = World(tmp_path / "alone")
    alone.write("last.pt", data)
    for name in ("last.pt", "best.pt", "epoch7.pt"):
        world.write(name, data)
    prover = CountingProver()
    result = world.backup(prover=prover)
    assert result.read_bytes == 3 * len(data)
    assert result.new_bytes == len(data)
    assert result.read_back_bytes == alone.backup().read_back_bytes
    alone.close()
    assert len(prover.paths) == 1
    assert result.checkpoint_count == 3
    world.write("epoch8.pt", data)
    again = CountingProver()
    assert world.backup(prover=again).new_bytes == 0
    assert again.paths == []
    assert world.entry(b"epoch8.pt").proof.level == 2


def test_a_restore_costs_the_same_however_long_the_history_is(world):
    """The calls and bytes of a restore are those of the version, whether two came before it or thirty."""

    def cost():
        world.counted.reset()
        world.restored()
        return world.counted.calls, world.counted.read_bytes

    world.write("frozen.bin", noise(20_000, 500))
    world.write("weights.bin", noise(20_000, 0))
    world.backup()
    costs = []
    for number in range(1, 31):
        world.write("weights.bin", noise(20_000, number))
        assert world.backup().version == number + 1
        if number in (2, 30):
            costs.append(cost())
    (early, early_bytes), (late, late_bytes) = costs
    assert early.keys() == late.keys() == {"list", "get", "read"}
    assert early["list"] == late["list"] == 1
    assert late["read"] <= 4
    assert abs(early_bytes - late_bytes) < 1000


def test_many_small_files_come_back_in_few_calls(world):
    """Three hundred small files are one or two packs, and as few calls to prove and to restore."""
    for number in range(300):
        world.write(f"{number % 7}/{number}.txt", b"%d" % number * 20)
    result = world.backup()
    assert result.version == 1
    assert len(keys_of(world.store, "packs/")) <= 2
    assert world.counted.calls["read"] <= 6
    world.counted.reset()
    world.restore()
    assert world.counted.calls["read"] <= 6


@pytest.mark.parametrize("size_bytes", [0, 1, 16 << 10, (4 << 20) + 1])
def test_a_file_of_any_size_comes_back(world, size_bytes):
    """Files at the edges of pieces come back bit for bit."""
    world.write("file", noise(size_bytes))
    world.backup()
    assert world.restored() == world.tree()


class Starting(Prover):
    """Notes what the store was asked by the time that it is told to make ready."""

    def __init__(self, world) -> None:
        super().__init__(ProofOptions(device="none"))
        self._world = world
        self.asked = []

    def start(self) -> None:
        """Note it."""
        self.asked.append(dict(self._world.counted.calls))


def test_the_prover_makes_ready_while_files_are_stored(world):
    """A checkpoint that holds something new has the prover make ready before the store is sent any of it."""
    world.write("last.pt", small_checkpoint())
    prover = Starting(world)
    before = dict(world.counted.calls)
    world.backup(prover=prover)
    assert prover.asked
    assert all(prover.asked[0].get(name) == before.get(name) for name in ("put", "upload.write", "upload.finish"))


@pytest.mark.parametrize("what", ["touched", "log", "large"])
def test_the_prover_does_not_make_ready_for_nothing(world, what, monkeypatch):
    """Nobody makes ready for a file that was only touched, for a log, or for what will take long to store."""
    world.write("last.pt", small_checkpoint())
    if what != "large":
        world.backup()
    monkeypatch.setattr("mlsync.backup.new_version._QUICKLY_STORED_BYTES", 1000)
    if what == "touched":
        os.utime(world.path("last.pt"), ns=(1, 1))
    elif what == "log":
        world.write("log.txt", b"a line\n")
    prover = Starting(world)
    world.backup(prover=prover)
    assert prover.asked == []


def test_a_distributed_checkpoint_comes_back_once(world):
    """What tells of its tensors is read without them: a proof of a shard fetches hardly more than its own bytes."""
    state = {f"layer{number}": random_tensor(number, 4 * MIB) for number in range(8)}
    state |= {f"bias{number}": random_tensor(100 + number, 400) for number in range(50)}
    with warnings.catch_warnings(action="ignore"):  # that it is one rank only
        distributed.save(state, checkpoint_id=os.fsdecode(world.path("step")), no_dist=True)
    result = world.backup()
    assert world.entry(b"step/__0_0.distcp").proof.level == 2
    assert result.read_back_bytes < 1.05 * world.entry(b"step/__0_0.distcp").size_bytes


def test_the_metadata_of_a_distributed_checkpoint_are_parsed_twice(world, monkeypatch):
    """Once for the places of its items and once for what they mean, however many shards and looks at them there are."""
    state = {f"layer{number}": random_tensor(number, 4 * MIB) for number in range(2)}
    with warnings.catch_warnings(action="ignore"):  # that it is one rank only
        distributed.save(state, checkpoint_id=os.fsdecode(world.path("step")), no_dist=True)
    parsed = []

    def counted(data: bytes) -> tuple[object, int]:
        parsed.append(len(data))
        return read_pickle(data)

    for module in (container, metadata):
        monkeypatch.setattr(module, "read_pickle", counted)
    world.backup()
    assert parsed == [world.entry(b"step/.metadata").size_bytes] * 2


def test_what_lies_between_tensors_is_fetched_together(world):
    """A look at the structure of a checkpoint asks the store for all small pieces at once, and for none twice."""
    world.write("last.pt", checkpoint(*(random_tensor(number) for number in range(8))))
    world.backup()
    entry = world.entry(b"last.pt")
    small = [ref for ref in entry.chunks if ref.plain_bytes <= SMALL_CHUNK_BYTES_MAX]
    with world.repository.reader() as reader:
        file = RestoredFile(reader, entry, lambda _: None)
        calls = world.counted.calls["read"]
        first = file.read_at(0, 10)
        fetched = world.counted.calls["read"] - calls
        assert 1 < fetched <= len(small)
        assert file.read_at(entry.size_bytes - 10, 10)
        assert file.read_at(0, 10) == first
        assert world.counted.calls["read"] - calls == fetched
