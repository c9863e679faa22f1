"""How far each version holds the log of a training."""

from __future__ import annotations

from pathlib import Path

import pytest

from flow_parts import RUN, World
from mlsync.errors import LogMissing, ObjectArchived
from mlsync.repository import names
from mlsync.versions.logs.metrics import logged_metrics
from mlsync.versions.logs.run_metrics import metrics_of
from safetensors_parts import saved

MADE = Path(__file__).parents[2] / "formats/made"
EVENTS = (MADE / "logs/lightning.tfevents").read_bytes()


@pytest.fixture
def world(tmp_path):
    """A run without versions."""
    world = World(tmp_path)
    yield world
    world.close()


def metrics(world, number=None, path=None):
    """What the log of a version says."""
    return metrics_of(world.repository, world.repository.stored(RUN, number or world.numbers()[-1]), path)


def test_tables_are_marked_where_their_copy_ends(world):
    """A version that came before the log, or has another one, has no mark; one without new rows has the same."""
    world.write("a.safetensors", saved())
    world.backup()
    for count in (2, 5, 5):
        world.write("results.csv", b"epoch,x\n" + b"".join(b"%d,1\n" % epoch for epoch in range(count)) + b"9")
        world.write("a.safetensors", saved(epoch=len(world.numbers())))
        world.backup()
    assert metrics(world).marks == ((2, 1, None), (3, 4, None), (4, 4, None))
    assert metrics(world, 2).marks == ((2, 1, None),)


def test_a_log_that_was_begun_anew_is_marked_by_what_it_says(world):
    """A training that went on from an earlier version has a log that is no beginning of the newest one."""
    for epochs in (9, 4, 6):
        world.write("results.csv", b"epoch,x\n" + b"".join(b"%d,1\n" % epoch for epoch in range(1, epochs + 1)))
        world.backup()
    assert [mark.epoch for mark in metrics(world).marks] == [9, 4, 6]


def test_a_state_is_marked_by_its_directory(world):
    """The step is in the name of the newest checkpoint; the state itself is not read for that."""
    for step in (10, 20):
        world.write(f"checkpoint-{step}/model.safetensors", saved(step=step))
        state = b'{"global_step": %d, "log_history": [{"step": %d, "loss": 1}]}' % (step, step)
        world.write(f"checkpoint-{step}/trainer_state.json", state)
        world.backup()
    found = metrics(world)
    assert found.log.shown == b"checkpoint-20/trainer_state.json"
    assert found.marks == ((1, None, 10), (2, None, 20))


def test_events_are_marked_by_their_last_record(world):
    """The end of the newest file says how far a training is, with its epoch."""
    for share in (0.4, 1):
        world.write("events.out.tfevents.1.host.0", EVENTS[: int(len(EVENTS) * share)])
        world.backup()
    first, second = metrics(world).marks
    assert first.step < second.step == 95
    assert second.epoch == 5


def test_a_version_that_cannot_be_read_has_no_mark(world):
    """Check reports it; the other versions are marked all the same."""
    keys = set()
    for epoch in (1, 2):
        world.write("results.csv", b"epoch,x\n%d,1\n" % epoch)
        before = {item.key for item in world.store.list(names.PACKS)}
        world.backup()
        keys = keys or {item.key for item in world.store.list(names.PACKS)} - before
    for key in keys:
        world.store.replace(key, b"")
    assert [mark.version for mark in metrics(world).marks] == [2]


def test_a_forgotten_version_is_not_marked(world):
    """Its rows are held by the next one."""
    from mlsync.repository.history.decisions import By
    from mlsync.upkeep.forget import forget

    for epoch in (1, 2):
        world.write("results.csv", b"epoch,x\n" + b"".join(b"%d,1\n" % one for one in range(1, epoch + 1)))
        world.backup()
    forget(world.repository, RUN, [(1, "by hand")], By.here())
    assert [mark.version for mark in metrics(world).marks] == [2]


def test_a_log_without_numbers_gives_way_to_the_next(world):
    """What is empty of numbers is passed over; if all are, the error names them."""
    world.write("log.txt", b"hello\n")
    world.write("results.csv", b"epoch,x\n1,2\n")
    world.backup()
    assert metrics(world).log.path == b"results.csv"
    with pytest.raises(LogMissing, match=r"has no numbers in log\.txt"):
        metrics(world, path=b"log.txt")
    with pytest.raises(LogMissing, match="no file or log at "):
        metrics(world, path=b"nothing")


def test_versions_in_cold_storage_are_not_marked(world):
    """Those that can be read are. A log that is to be shown must be warm; for whoever compares it has no number."""
    for epoch in (1, 2):
        world.write("results.csv", b"epoch,x\n%d,1\n" % epoch)
        world.backup()
    cold = {names.pack(ref.pack) for ref in world.entry(b"results.csv", 1).chunks}

    class ColdStore(type(world.store)):
        """Gives nothing of what is cold."""

        def read(self, key, offset, into):
            if key in cold:
                raise ObjectArchived("cold", where=key)
            super().read(key, offset, into)

    world.store.__class__ = ColdStore
    world.use(world.store)
    assert [mark.version for mark in metrics(world).marks] == [2]
    first = world.repository.stored(RUN, 1)
    assert logged_metrics(world.repository, world.repository.entries(first)) == {}
    with pytest.raises(ObjectArchived):
        metrics(world, 1)
