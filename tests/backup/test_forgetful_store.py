"""A store that takes what it is given and does not give it back: the backup ends with the store's words, soon."""

from __future__ import annotations

import pytest

from doubles.memory_store import MemoryStore
from fault_proxy import Fault
from flow_parts import World, keys_of, noise
from mlsync import errors
from mlsync.backup.storing import avoided
from mlsync.repository import names
from mlsync.store.counting import CountingStore
from mlsync.store.location import StoreOptions, open_store
from mlsync.store.retry import RetryingStore

pytestmark = pytest.mark.slow

SIZE_BYTES = 12 << 20
# A pack for a trial, manifests, headers and footers of packs, and what HTTP and TLS put around bodies.
SMALL_BYTES = 200_000


class Forgetful(MemoryStore):
    """Says of packs that it has them, with their size, and has none of *kept* and larger when it is to give it back."""

    def __init__(self, kept_bytes: int = 0) -> None:
        super().__init__(1 << 20)
        self.kept_bytes = kept_bytes

    def read(self, key, offset, into):
        """Give back small packs only."""
        # Without a bound it would go on until the machine has no memory left.
        assert sum(len(body) for body, _ in self._objects.values()) < 4 * SIZE_BYTES
        if key.startswith("packs/") and self.stat(key).size_bytes > self.kept_bytes:
            raise errors.NotFound("no such object", where=key)
        super().read(key, offset, into)


def test_a_store_that_forgets_all_is_sent_everything_once(tmp_path):
    """No chunk is sent a second time where not even a trial comes back, and the status is the store's, not damage."""
    world = World(tmp_path, Forgetful())
    world.write("data.bin", noise(SIZE_BYTES))
    with pytest.raises(errors.StoreBroken, match="does not give back what it took: no such object") as caught:
        world.backup()
    assert caught.value.exit_code == 76
    assert world.counted.written_bytes < SIZE_BYTES + SMALL_BYTES
    assert world.numbers() == []
    world.close()


def test_a_store_that_forgets_large_packs_is_sent_everything_twice_at_most(tmp_path):
    """Where small objects come back and packs do not, the second copy of a pack that is not there ends the backup."""
    world = World(tmp_path, Forgetful(10_000))
    world.write("data.bin", noise(SIZE_BYTES))
    with pytest.raises(errors.StoreBroken, match=r"stored twice .* no such object") as caught:
        world.backup()
    assert names.parse_pack(caught.value.where) is not None
    assert world.counted.written_bytes < 2 * SIZE_BYTES + SMALL_BYTES
    assert world.numbers() == []
    world.close()


def test_the_next_backup_to_a_store_that_forgets_sends_next_to_nothing(tmp_path):
    """An agent that tries again and again does not send all of it with each try."""
    world = World(tmp_path, Forgetful())
    world.write("data.bin", noise(SIZE_BYTES))
    for _ in range(4):
        with pytest.raises(errors.StoreBroken):
            world.backup()
    assert world.counted.written_bytes < SIZE_BYTES + 4 * SMALL_BYTES
    world.close()


def test_a_store_that_is_mended_has_the_version_with_the_next_backup(tmp_path):
    """What was given up on is no burden: the packs that come back by then are relied on."""
    store = Forgetful()
    world = World(tmp_path, store)
    world.write("data.bin", noise(SIZE_BYTES))
    with pytest.raises(errors.StoreBroken):
        world.backup()
    store.kept_bytes = 1 << 30
    assert world.backup().version == 1
    assert world.counted.written_bytes < SIZE_BYTES + 2 * SMALL_BYTES
    assert world.restored(1) == world.tree()
    world.close()


def test_packs_that_rot_one_after_the_other_are_each_stored_again(tmp_path, monkeypatch):
    """The bound is on copies, not on the number of bad packs: several of an older version are made good at once."""
    world = World(tmp_path)
    for number in range(4):
        world.write(f"log{number}.bin", noise(300_000, number))
        world.backup()
    tried = []
    monkeypatch.setattr(avoided, "refuse_forgetful", tried.append)
    for key in keys_of(world.store, "packs/"):
        world.store.delete(key)
    world.append("log0.bin", b"more")
    assert world.backup().version == 5
    assert world.restored(5) == world.tree()
    assert len(tried) == 1
    world.close()


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("416", "InvalidRange: asked for, but says that the object has"),
        ("404", "NoSuchKey: asked for, but says that the object has"),
        ("404 unknown", "NeverHeardOf: asked for, but says that the object has"),
        ("501", "NotImplemented: asked for"),
        ("418", "Teapot: asked for"),
        ("400 unknown", "SomethingElse: asked for"),
    ],
)
def test_a_real_store_that_refuses_to_give_packs_back_is_sent_them_once(tmp_path, s3_server, proxy, kind, says):
    """Before a real server, each answer to reads of packs that is no damage ends the backup with the store's words."""
    url = f"s3://{s3_server.make_bucket()}/runs"
    options = StoreOptions(endpoint_url=proxy.url, region=s3_server.region)
    proxy.reset()
    world = World(tmp_path, RetryingStore(open_store(url, options), sleep=lambda _s: None))
    world.write("data.bin", noise(SIZE_BYTES))
    proxy.reset(Fault(kind, "GetObject", times=10**6, paths=("/packs/",)))
    with pytest.raises(errors.StoreBroken) as caught:
        world.backup()
    assert says in str(caught.value)
    assert proxy.sent_bytes < SIZE_BYTES + SMALL_BYTES
    proxy.reset()
    world.counted = CountingStore(world.store)
    world.use(world.counted)
    assert world.backup().version == 1
    assert world.counted.written_bytes < SMALL_BYTES
    world.close()
    world.store.close()
