"""Large files are proved beside the storing: nothing of what is promised, said or refused changes by it."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import msgspec
import pytest
import safetensors.torch
import torch

from doubles.memory_store import MemoryStore
from flow_parts import World, checkpoint, noise
from mlsync.backup import early_proofs
from mlsync.errors import Stopped
from mlsync.proof.options import ProofOptions
from mlsync.proof.prover import Prover
from mlsync.repository import reader
from mlsync.repository.writer import PackWriter

KIB, MIB = 1 << 10, 1 << 20
PACK_BYTES = 256 * KIB
ON_CPU = ProofOptions(device="cpu")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Files of 300 KiB count as large, and a pack is full and durable after a quarter of a MiB."""
    monkeypatch.setattr(early_proofs, "FILE_BYTES_MIN", 300 * KIB)
    defaults = {**PackWriter.__init__.__kwdefaults__, "pack_bytes": PACK_BYTES, "batch_bytes": 64 * KIB, "lanes": 1}
    monkeypatch.setattr(PackWriter.__init__, "__kwdefaults__", defaults)
    yield
    assert not [one.name for one in threading.enumerate() if one.name == "mlsync-early-proof"]


@pytest.fixture
def world(tmp_path):
    """An empty run."""
    world = World(tmp_path, MemoryStore(64 * KIB))
    yield world
    world.close()


def numbers(seed, size_bytes=128 * KIB):
    """Finite numbers that do not compress."""
    return torch.empty(size_bytes // 4).uniform_(-1, 1, generator=torch.Generator().manual_seed(seed))


def model(seed=0, count=12):
    """One and a half MiB of weights as torch saves them."""
    return checkpoint(*(numbers(100 * seed + number) for number in range(count)))


class Watching(Prover):
    """Notes which proofs were begun from the start, and which verdicts on early ones were confirmed."""

    def __init__(self, options=ON_CPU, *, before=lambda: None):
        super().__init__(options)
        self.from_the_start = []
        self.passed = []
        self.waited_s = []
        self.confirmed = []
        self._before = before

    def pass_over(self, structure, source, path, waited_s):
        """Note it, and do something first."""
        self.passed.append(path)
        self.waited_s.append(waited_s())
        self._before()
        return super().pass_over(structure, source, path, waited_s)

    def prove(self, source, path, metadata=None):
        """Note it, and prove."""
        self.from_the_start.append(path)
        return super().prove(source, path, metadata)

    def confirm(self, passed, source, path):
        """Note it if it is."""
        verdict = super().confirm(passed, source, path)
        if verdict is not None:
            self.confirmed.append(path)
        return verdict


def same(proof):
    """What of a proof does not depend on when and how fast it was made."""
    return msgspec.structs.replace(proof, proved_ns=0, seconds=0.0)


def write_kind(world, kind):
    """Write a checkpoint of a kind; return its name."""
    if kind == "torch":
        world.write("last.pt", model())
        return "last.pt"
    tensors = {f"layer{n}": numbers(n) for n in range(12)}
    if kind == "holes":
        tensors["a"] = torch.zeros(256 * KIB)
    place = Path(os.fsdecode(world.path("model.safetensors")))
    safetensors.torch.save_file(tensors, place)
    if kind == "holes":
        content = place.read_bytes()
        zeros = content.index(bytes(MIB - 4))
        begin, end = -(-zeros // 4096) * 4096, (zeros + MIB - 4) // 4096 * 4096
        with place.open("r+b") as file:
            file.truncate(begin)
            file.seek(end)
            file.write(content[end:])
        assert place.read_bytes() == content
    return place.name


@pytest.mark.parametrize("kind", ["torch", "safetensors", "holes"])
def test_an_early_proof_says_what_a_late_one_says(world, kind, monkeypatch):
    """Level, findings and facts are the same; of the file everything came back from the store, and once."""
    text = write_kind(world, kind)
    name = text.encode()
    early = Watching()
    result = world.backup(prover=early, required_level=4)
    assert (early.from_the_start, early.confirmed) == ([], [name])
    entry = world.entry(name)
    assert bool(entry.holes) == (kind == "holes")
    stored_bytes = sum(ref.stored_bytes for ref in entry.chunks)
    assert stored_bytes <= result.read_back_bytes < 1.1 * stored_bytes + 64 * KIB
    monkeypatch.setattr(early_proofs, "FILE_BYTES_MIN", 1 << 40)
    late = Watching()
    later = World(world.base / "later", MemoryStore(64 * KIB))
    later.write(text, Path(os.fsdecode(world.path(text))).read_bytes())
    later.backup(prover=late, required_level=4)
    assert late.from_the_start == [name]
    assert same(later.entry(name).proof) == same(entry.proof)
    assert entry.proof.level == 4
    later.close()


class Holding(MemoryStore):
    """Does not finish its fifth pack before a pack was read."""

    def __init__(self):
        super().__init__(64 * KIB)
        self.is_read = threading.Event()
        self.has_waited_in_vain = False
        self.finished = 0

    def read(self, key, offset, into):
        """Note it."""
        if key.startswith("packs/"):
            self.is_read.set()
        super().read(key, offset, into)

    def upload(self, key):
        """Hold the fifth one."""
        upload = super().upload(key)
        finish = upload.finish

        def held(size_bytes):
            self.finished += 1
            if self.finished == 5 and not self.is_read.wait(20):
                self.has_waited_in_vain = True
            finish(size_bytes)

        upload.finish = held
        return upload


def test_packs_are_read_back_while_others_are_stored(tmp_path, monkeypatch):
    """A pack that is durable comes back before the last one is stored."""
    monkeypatch.setattr(reader, "WINDOW_BYTES", 64 * KIB)
    monkeypatch.setattr(reader, "WINDOW_BYTES_MIN", 64 * KIB)
    monkeypatch.setattr(reader, "AHEAD_BYTES", 128 * KIB)
    world = World(tmp_path, Holding())
    world.write("last.pt", model(count=20))
    prover = Watching()
    world.backup(prover=prover, required_level=4)
    assert prover.confirmed == [b"last.pt"]
    assert world.store.finished > 5
    # The time of a proof counts from its beginning on, and never below nothing.
    assert prover.waited_s == [0.0]
    assert world.entry(b"last.pt").proof.seconds >= 0
    assert not world.store.has_waited_in_vain
    world.close()


def test_what_came_back_before_is_taken_from_the_source(world):
    """Of a large checkpoint that changed, only what is new is read back early."""
    frozen = [numbers(number) for number in range(12)]
    world.write("last.pt", checkpoint(*frozen, numbers(50)))
    world.backup(prover=Watching(), required_level=4)
    world.write("last.pt", checkpoint(*frozen, numbers(51)))
    prover = Watching()
    result = world.backup(prover=prover, required_level=4)
    assert prover.confirmed == [b"last.pt"]
    assert result.read_back_bytes < 300 * KIB


def test_a_structure_that_is_another_one_in_the_store_is_not_believed(world):
    """What the source says of a file while it is stored is compared with the store, and then worth nothing."""
    content, other = model(0), model(1)
    assert len(content) == len(other)
    changed = other.replace(b"archive/data/3", b"archive/data/X")
    world.write("last.pt", content)
    prover = Watching(before=lambda: world.write("last.pt", changed))
    world.backup(prover=prover, required_level=4)
    assert prover.confirmed == []


def test_a_file_that_is_written_meanwhile_is_read_again(world, monkeypatch):
    """A second attempt at a file leaves nothing of what was begun with the first."""
    world.write("last.pt", model(0))
    begin, begun = early_proofs.EarlyProofs._begin, []

    def begin_and_write(self, read):
        begin(self, read)
        if not any(read is one for one in begun):
            begun.append(read)
            if len(begun) == 1:
                world.write("last.pt", model(1))

    monkeypatch.setattr(early_proofs.EarlyProofs, "_begin", begin_and_write)
    prover = Watching()
    world.backup(prover=prover, required_level=4)
    assert len(begun) == 2
    assert prover.confirmed == [b"last.pt"]
    assert world.restored() == world.tree()
    assert world.entry(b"last.pt").proof.level == 4


def test_copies_are_proved_once(world):
    """Of two files of the same content one is passed over, and none of it comes back twice."""
    world.write("best.pt", model())
    world.write("last.pt", model())
    prover = Watching()
    result = world.backup(prover=prover, required_level=4)
    assert (len(prover.passed), len(prover.confirmed) + len(prover.from_the_start)) == (1, 1)
    assert result.read_back_bytes < 1.1 * sum(ref.stored_bytes for ref in world.entry(b"last.pt").chunks)
    assert {world.entry(name).proof.level for name in (b"last.pt", b"best.pt")} == {4}


def test_a_touched_file_is_not_passed_over(world):
    """A large file that was read again and holds nothing new costs no proof."""
    world.write("last.pt", model())
    world.backup(prover=Watching(), required_level=4)
    os.utime(world.path("last.pt"), ns=(1, 1_600_000_000_000_000_001))
    prover = Watching()
    result = world.backup(prover=prover, required_level=4)
    assert (result.version, result.read_back_bytes, prover.passed) == (0, 0, [])


class Rotting(MemoryStore):
    """Changes a bit of the first large pack that it takes."""

    def __init__(self):
        super().__init__(64 * KIB)
        self.rotten = None

    def read(self, key, offset, into):
        """Change a bit of what is stored before it is read for the first time."""
        if self.rotten is None and key.startswith("packs/") and len(self._objects[key][0]) > 200 * KIB:
            self.rotten = key
            body = bytearray(self._objects[key][0])
            body[100 * KIB] ^= 1
            self._objects[key] = (bytes(body), 0.0)
        super().read(key, offset, into)


def test_damage_that_shows_early_is_stored_again_as_ever(tmp_path):
    """A pack that does not come back is named, and its content is stored once more, in the same backup."""
    world = World(tmp_path, Rotting())
    world.write("last.pt", model())
    result = world.backup(prover=Watching(), required_level=4)
    assert result.version == 1
    assert any(world.store.rotten in text for _, text in world.monitor.notices)
    assert world.store.rotten not in {
        f"packs/{r.pack.hex()[:2]}/{r.pack.hex()}" for r in world.entry(b"last.pt").chunks
    }
    assert world.restored() == world.tree()
    world.close()


def test_a_backup_that_is_stopped_ends_what_it_began(world):
    """Whether it is stopped while it stores or while it waits for the early proof, no thread and no version is left."""
    world.write("last.pt", model())
    for after in (3, 15):
        asked = [0]

        def stop(after=after, asked=asked):
            asked[0] += 1
            return asked[0] > after

        with pytest.raises(Stopped):
            world.backup(prover=Watching(), required_level=4, stop=stop)
        assert world.numbers() == []
        world.append("last.pt", b"")
    assert world.backup(prover=Watching(), required_level=4).version == 1


def test_in_a_hurry_nothing_is_waited_for(world):
    """A version that is to be committed at once is, and its checkpoint is pending."""
    world.write("last.pt", model())
    result = world.backup(prover=Watching(), required_level=4, hurry=lambda: True)
    assert (result.version, result.pending) == (1, ("last.pt",))


def test_a_child_that_dies_early_is_no_fault_of_the_checkpoint(world):
    """What was begun is lost, and the file is proved from the start with another child."""
    world.write("last.pt", model())

    class Killing(Watching):
        def pass_over(self, structure, source, path, waited_s):
            self.open()
            os.kill(self._engine.pid, signal.SIGKILL)
            return super().pass_over(structure, source, path, waited_s)

    prover = Killing()
    world.backup(prover=prover, required_level=4)
    assert prover.confirmed in ([], [b"last.pt"])
    assert world.entry(b"last.pt").proof.level == 4


@pytest.mark.parametrize("how", ["all", "none", "busy", "small"])
def test_nothing_is_begun_where_it_is_not_meant(world, how, monkeypatch):
    """Not with read_back "all" or "none", not where others wait for processors, and not for small files."""
    world.write("last.pt", model() if how != "small" else model(count=2))
    if how == "busy":
        monkeypatch.setattr(early_proofs, "threads", lambda most: most - 1)
    begun = []
    prover = Watching(before=lambda: begun.append(1))
    world.backup(prover=prover, read_back=how if how in ("all", "none") else "new")
    assert begun == []


def test_broken_numbers_are_refused_as_ever(world):
    """A checkpoint that a proof refuses is refused by the same words, and is not in the version."""
    world.write("last.pt", checkpoint(*(numbers(n) for n in range(8)), torch.full((64 * KIB,), float("nan"))))
    world.write("log", noise(100))
    result = world.backup(prover=Watching(ProofOptions(device="cpu", refuse=frozenset({"nan"}))), required_level=4)
    assert [trouble.path for trouble in result.troubles] == [b"last.pt"]
    assert "nan" in result.troubles[0].text.lower()
    assert b"last.pt" not in world.tree() or b"last.pt" not in {e.path for e in world.manifest().entries}
