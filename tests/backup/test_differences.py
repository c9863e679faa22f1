"""Changed tensors are stored as differences from what the last versions have, and come back bit for bit."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest

from doubles.memory_store import MemoryStore
from flow_parts import World, contents, keys_of
from mlsync.backup.bases import choice
from mlsync.backup.bases.settings import Differences
from mlsync.codec.compression import Coding
from mlsync.repository import names
from mlsync.repository.keys.write_only_file import new_keys
from mlsync.repository.repository import Repository
from mlsync.store.directory.store import DirectoryStore

LENGTH = 1 << 15


def weights(step, *, seed=1, count=2, dtype="F32"):
    """A safetensors file of a training at a step: each weight moves a little between two steps."""
    tensors = {}
    for number in range(count):
        start = np.random.default_rng(seed + number).standard_normal(LENGTH).astype(np.float32)
        drift = np.random.default_rng(100 + number).standard_normal(LENGTH).astype(np.float32)
        tensors[f"layer.{number}"] = (start + np.float32(1e-6 * step) * drift).astype(np.float32)
    return safetensors(tensors, dtype)


def safetensors(tensors, dtype="F32"):
    header, at = {"__metadata__": {"step": "1"}}, 0
    for name, values in tensors.items():
        header[name] = {"dtype": dtype, "shape": [len(values)], "data_offsets": [at, at + values.nbytes]}
        at += values.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(values.tobytes() for values in tensors.values())


class Differing(World):
    """A world whose backups may store differences."""

    insists = False
    cache_bytes = None

    @property
    def caches(self):
        """Where the base caches are."""
        return self.state_path.parent / "bases"

    @property
    def segments(self):
        """The files of the base caches."""
        return sorted(self.caches.rglob("*/*")) if self.caches.exists() else []

    def backup(self, **options):
        """Back up once, with differences unless said otherwise."""
        return super().backup(**{"differences": Differences(self.caches, self.cache_bytes, self.insists)} | options)

    def save(self, step, name="model.safetensors", **options):
        """Write a checkpoint and back it up."""
        self.write(name, weights(step, **options))
        return self.backup()

    def codings(self, number=None, name=b"model.safetensors"):
        """How the tensors of a file are stored."""
        return [ref.coding for ref in self.entry(name, number).chunks if ref.plain_bytes == 4 * LENGTH]


@pytest.fixture
def near(tmp_path):
    """A world whose store is a directory."""
    world = Differing(tmp_path, DirectoryStore(tmp_path / "store", create=True))
    yield world
    world.close()


@pytest.fixture
def far(tmp_path):
    """A world whose store is not on this machine."""
    world = Differing(tmp_path, MemoryStore())
    yield world
    world.close()


@pytest.fixture(params=["near", "far"])
def world(request):
    """Both in turns."""
    return request.getfixturevalue(request.param)


DIFFERENCES = [Coding.DIFFERENCE] * 2
PLANES = [Coding.PLANES] * 2


def test_a_changed_checkpoint_is_stored_as_differences(world):
    """It takes less than as a whole, every version is restored as it was, and a check finds nothing."""
    first, second = world.save(0), world.save(1)
    before = contents(world.tree())
    assert (world.codings(1), world.codings(2)) == (PLANES, DIFFERENCES)
    assert second.stored_bytes < 0.5 * first.stored_bytes
    assert second.differences.size_bytes == 8 * LENGTH
    assert second.differences.saved_bytes > 0.4 * first.stored_bytes
    assert first.differences.size_bytes == 0
    assert contents(world.restored(2)) == before
    assert contents(world.restored(1)) == {b"model.safetensors": weights(0)}
    assert not world.check().problems


def test_a_base_is_never_a_difference(world, monkeypatch):
    """Version after version is a difference from the same base, until it is stored as a whole again."""
    monkeypatch.setattr(choice, "ROUNDS_MAX", 2)
    last = 5
    for step in range(last):
        world.save(step)
    wholes = [number for number in range(1, last + 1) if world.codings(number) == PLANES]
    assert wholes == [1, 4]
    for number in range(1, last + 1):
        bases = {ref.base.name for ref in world.entry(b"model.safetensors", number).chunks if ref.base}
        of = wholes[-1] if number > wholes[-1] else wholes[0]
        assert bases <= {ref.name for ref in world.entry(b"model.safetensors", of).chunks}
    assert contents(world.restored(last)) == contents(world.tree())


def test_a_new_directory_of_a_series_continues_the_last(world):
    """Checkpoints in directories that count steps are differences from the newest."""
    world.save(0, "step-10/model.safetensors")
    world.save(9, "step-20/model.safetensors")
    assert world.codings(name=b"step-20/model.safetensors") == DIFFERENCES


def test_two_files_of_one_content_share_their_differences(world):
    """What best.pt and last.pt have in common is stored once, also as a difference."""
    for step in range(2):
        world.write("best.safetensors", weights(step))
        world.save(step, "last.safetensors")
    best, last = (world.entry(name).chunks for name in (b"best.safetensors", b"last.safetensors"))
    assert best == last
    assert world.codings(name=b"last.safetensors") == DIFFERENCES


def test_what_is_not_proved_yet_is_no_base(world):
    """After a version that was not read back, the next one is stored as a whole."""
    world.write("model.safetensors", weights(0))
    world.backup(read_back="none")
    world.save(1)
    assert world.codings(2) == PLANES


def test_noise_gets_no_base(world):
    """Where a difference saves nothing a tensor is stored as before, and the next versions do not try."""
    for step in range(3):
        world.save(0, seed=10 * step + 1)
        assert world.codings() == PLANES


def test_off_is_off(world):
    """Without the setting nothing is a difference, and nothing is kept on this machine."""
    for step in range(2):
        world.write("model.safetensors", weights(step))
        world.backup(differences=None)
    assert world.codings() == PLANES
    assert not world.segments


def test_after_the_loss_of_the_state_bases_are_found_by_place(near):
    """A node that has nothing but the store goes on with differences."""
    near.save(0)
    near.lose_state()
    near.save(1)
    assert near.codings() == DIFFERENCES
    assert contents(near.restored()) == contents(near.tree())


def test_a_far_store_is_not_asked_for_bases(far):
    """Bases come from this machine, for storing and for the proof: hardly a byte is fetched of an older pack."""
    far.save(0)
    packs = set(keys_of(far.store, "packs/"))
    far.write("model.safetensors", weights(1))
    reads = []
    real = far.store.read
    far.store.read = lambda key, offset, into: (reads.append((key, len(into))), real(key, offset, into))[1]
    far.backup()
    assert far.codings() == DIFFERENCES
    assert sum(size_bytes for key, size_bytes in reads if key in packs) < 1000


def test_a_near_store_keeps_nothing_twice(near):
    """A repository in a directory needs no cache; one that was left there is deleted."""
    near.save(0)
    assert not near.caches.exists()


@pytest.mark.parametrize("how", ["deleted", "cut", "changed", "swapped", "planted"])
def test_a_cache_that_is_gone_or_wrong_costs_room_alone(far, how):
    """The version holds the right bytes, stored as a whole, and the one after it is a difference again."""
    far.save(0)
    (segment,) = far.segments
    body = bytearray(segment.read_bytes())
    if how == "deleted":
        shutil.rmtree(far.caches)
    elif how == "cut":
        os.truncate(segment, 100)
    elif how == "changed":
        body[1000] ^= 1
        body[len(body) // 2 + 1000] ^= 1
        segment.write_bytes(body)
    elif how == "swapped":
        half = len(body) // 2
        segment.write_bytes(body[half:] + body[:half])
    else:
        segment.unlink()
        os.mkfifo(segment)
    far.save(1)
    assert far.codings() == PLANES
    assert contents(far.restored()) == contents(far.tree())
    far.save(2)
    assert far.codings() == DIFFERENCES
    assert contents(far.restored()) == contents(far.tree())


def test_the_cache_holds_the_checkpoint_once(far, monkeypatch):
    """However many versions there are, its files take as much as the checkpoint, and a little for their heads."""
    monkeypatch.setattr(choice, "ROUNDS_MAX", 1)
    for step in range(5):
        far.save(step)
    assert sum(path.stat().st_size for path in far.segments) <= 8 * LENGTH + 4096


def test_a_cache_without_room_is_none(far):
    """With no room for a base, tensors are stored as a whole."""
    far.cache_bytes = 4 * LENGTH + 1000
    far.save(0)
    far.save(1)
    assert sorted(far.codings()) == [Coding.PLANES, Coding.DIFFERENCE]


def test_a_base_in_a_pack_that_is_lost_is_not_relied_on(world):
    """The version stores the tensor as a whole, and is restored."""
    world.save(0)
    (pack,) = {ref.pack for ref in world.entry(b"model.safetensors").chunks}
    world.write("model.safetensors", weights(1))
    world.store.delete(names.pack(pack))
    world.backup()
    assert world.codings() == PLANES
    assert contents(world.restored()) == contents(world.tree())


def test_a_base_whose_pack_goes_while_the_version_is_made_is_found_out(world):
    """Bases are looked at before the commit like all that a version relies on: the tensor is stored as a whole."""
    world.save(0)
    (pack,) = {ref.pack for ref in world.entry(b"model.safetensors").chunks}
    world.write("model.safetensors", weights(1))
    world.backup(hurry=lambda: bool(world.store.delete(names.pack(pack))))
    assert world.codings() == PLANES
    assert contents(world.restored()) == contents(world.tree())


def node_of(world, tmp_path, *, insists):
    """The same run on a node that writes and cannot read."""
    keys = new_keys(world.repository.keys, conditional_create=True)
    node = Differing(tmp_path / "node", world.store, is_there=True)
    node.keys = dataclasses.replace(keys, _made={})
    node.repository = Repository(world.store, node.keys)
    node.insists = insists
    return node


@pytest.mark.parametrize(("insists", "codings"), [(False, PLANES), (True, DIFFERENCES)])
def test_a_node_that_cannot_read_stores_differences_only_if_asked_to(world, tmp_path, insists, codings):
    """Bases on its disk are what a thief could read: unless that is wanted, none are there."""
    node = node_of(world, tmp_path, insists=insists)
    try:
        for step in range(3):
            node.save(step)
            # Another process of the node, which opens nothing that an earlier one wrote.
            node.repository = Repository(world.store, dataclasses.replace(node.keys, _made={}))
        assert bool(node.segments) is insists
        world.base = node.base
        assert world.codings(3) == codings
        assert contents(world.restored(3)) == contents(node.tree())
        assert not world.check().problems
    finally:
        node.close()


def test_half_precision_integers_and_odd_ends_come_back(world):
    """Numbers of other widths, and tensors with a piece that is shorter than the others."""
    numbers = np.random.default_rng(5).integers(-(1 << 62), 1 << 62, 300_001)
    for step in range(3):
        half = (numbers[:50_001] % 7777 + step).astype(np.float16)
        whole = numbers + step
        bits = (numbers[:90_000] & 1).astype(np.uint8)
        world.write("h.safetensors", safetensors({"h": half}, "F16"))
        world.write("i.safetensors", safetensors({"i": whole}, "I64"))
        world.write("b.safetensors", safetensors({"b": bits}, "U8"))
        world.backup()
    codings = {name: [ref.coding for ref in world.entry(name).chunks] for name in (b"h.safetensors", b"i.safetensors")}
    assert all(Coding.DIFFERENCE in found for found in codings.values())
    assert contents(world.restored()) == contents(world.tree())
