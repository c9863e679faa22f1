"""Whose run is it? Each row of the table in docs/runs.md, with real directories that change places."""

from __future__ import annotations

import os
import shutil
import socket
from contextlib import contextmanager
from pathlib import Path

import pytest

from doubles.faulty_store import FaultyStore
from flow_parts import RUN, World, small_checkpoint, tree_of
from mlsync.backup.backup import backup
from mlsync.backup.parents import ownership
from mlsync.backup.request import BackupOptions, Source
from mlsync.errors import RunOfAnother, SourceEmptied
from mlsync.proof.options import ProofOptions
from mlsync.proof.prover import Prover
from mlsync.repository import names
from mlsync.repository.readable import newest_maker
from mlsync.restore.restore import RestoreOptions, restore
from mlsync.source.state import State
from mlsync.source.takeover import NewestWriter, allow_takeover, may_take_over

HEADER = b"epoch,time,train/box_loss,train/cls_loss,train/dfl_loss,metrics/precision\n"


class Fleet:
    """Machines that back up to one repository; a machine's disk stands at the common path while it is its turn."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = world
        self._monkeypatch = monkeypatch
        self._turn = 0
        shutil.rmtree(world.directory)

    @contextmanager
    def on(self, machine, *, host=None, mark=None, disk=None):
        """Be *machine* for a while, called *host*, with the directory that *disk* holds at the common path."""
        place, disk_place = self.world.directory, self.world.base / "disks" / (disk or machine)
        disk_place.mkdir(parents=True, exist_ok=True)
        os.rename(disk_place, place)
        self._monkeypatch.setattr(socket, "gethostname", lambda: host or machine)
        self._monkeypatch.setattr(
            ownership, "machine_mark", lambda: machine.encode()[:1] * 16 if mark is None else mark
        )
        self.world.state.close()
        self.world.state = State.open(self.state_of(machine))
        try:
            yield self.world
        finally:
            os.rename(place, disk_place)

    def state_of(self, machine: str) -> Path:
        """Where a machine's local state lies."""
        return self.world.base / "states" / machine / "state.db"

    def copy(self, kind: str, one: str, other: str) -> None:
        """Copy a machine's ``disks`` or ``states`` as an image of it does: with all times."""
        self.world.state.close()
        shutil.copytree(self.world.base / kind / one, self.world.base / kind / other, copy_function=shutil.copy2)

    def train(self, epoch: int, who: int = 0) -> None:
        """Do what a trainer does in an epoch: one checkpoint overwritten, a line in the log."""
        self.world.write("weights/last.pt", small_checkpoint(100 * who + epoch))
        if epoch == 1:
            self.world.write("args.yaml", b"lr: 0.01\n")
            self.world.write("results.csv", HEADER)
        self.world.append("results.csv", f"{epoch},{who + 0.25:.3f},{1 / (epoch + who):.6f}\n".encode())


@pytest.fixture
def fleet(world, monkeypatch):
    return Fleet(world, monkeypatch)


def writers(world):
    """Who made each version, by host."""
    return [world.manifest(number).root.host for number in world.numbers()]


def back_up_from(world, directory, run=RUN):
    """Back another directory of this machine up."""
    source = Source(run, os.fsencode(directory))
    options = BackupOptions(required_level=2, sleep=lambda _: None)
    return backup(
        world.repository, world.state, source, lambda: Prover(ProofOptions(device="none")), options, world.monitor
    )


def warnings(world):
    return [text for severity, text in world.monitor.notices if severity == "warning"]


# ---------------------------------------------------------------- who goes on


def test_the_first_version_names_its_writer(fleet):
    """An id is made at the first backup and stands in every version that the same directory makes."""
    with fleet.on("anna") as world:
        fleet.train(1)
        world.backup()
        fleet.train(2)
        world.backup()
        one, two = world.manifest(1).root, world.manifest(2).root
    assert one.origin == two.origin
    assert (len(one.origin.id), one.origin.machine, one.host) == (16, b"a" * 16, "anna")
    assert warnings(world) == []


def test_a_container_has_another_name_at_each_start(fleet):
    """The id in the local state decides, whatever machine and host are called by now."""
    for start in range(1, 4):
        with fleet.on("anna", host=f"container-{start}", mark=bytes([start]) * 16) as world:
            fleet.world.write("last.pt", small_checkpoint(start))
            world.backup()
    assert writers(world) == ["container-1", "container-2", "container-3"]
    assert len({world.manifest(number).root.origin.id for number in world.numbers()}) == 1


def test_what_died_right_after_its_commit_is_the_writer(fleet, monkeypatch):
    """The state knows of a version before it exists: a container that is killed then goes on under another name."""
    with fleet.on("anna") as world:
        fleet.train(1)
        world.backup()
        fleet.train(2)
        monkeypatch.setattr(State, "set_head", lambda *_: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            world.backup()
        monkeypatch.undo()
    with fleet.on("anna", host="another", mark=b"") as world:
        world.write("weights/last.pt", small_checkpoint(77))
        world.write("results.csv", b"begun anew")
        assert world.backup().version == 3


def test_the_same_directory_on_the_same_machine_goes_on_without_its_state(fleet):
    """A local state that was deleted costs nobody a version, whatever became of the files since."""
    with fleet.on("anna") as world:
        fleet.train(1)
        world.backup()
        shutil.rmtree(world.directory)
        world.write("other.pt", small_checkpoint(9))
        shutil.rmtree(fleet.state_of("anna").parent)
        world.state.close()
        world.state = State.open(fleet.state_of("anna"))
        assert world.backup().version == 2
        assert world.manifest(1).root.origin.id != world.manifest(2).root.origin.id


@pytest.mark.parametrize("epochs", [0, 1, 3])
def test_a_new_node_with_the_old_disk_goes_on(fleet, epochs):
    """The directory of the same path holds what the newest version holds, or what training made of it since."""
    with fleet.on("anna") as world:
        for epoch in (1, 2):
            fleet.train(epoch)
            world.backup()
    with fleet.on("berta", disk="anna") as world:
        assert world.backup().version == 0
        for epoch in range(3, 3 + epochs):
            fleet.train(epoch)
        result = world.backup()
        assert result.version == (3 if epochs else 0)
    assert len(warnings(world)) == (1 if epochs else 0)
    assert not epochs or "goes on from" in warnings(world)[0]


def test_a_new_node_whose_trainer_was_quicker_goes_on(fleet):
    """Nothing but a log that goes on tells that it is the same training: that is enough."""
    with fleet.on("anna") as world:
        for epoch in (1, 2):
            fleet.train(epoch)
            world.backup()
    with fleet.on("berta", disk="anna") as world:
        fleet.train(3)
        assert world.backup().version == 3


def test_a_copy_without_its_times_goes_on(fleet):
    """Where no time is the same every byte is: the same path and the same content are the same run."""
    with fleet.on("anna") as world:
        for epoch in (1, 2):
            fleet.train(epoch)
            world.backup()
    fleet.copy("disks", "anna", "berta")
    with fleet.on("berta") as world:
        for path in world.directory.rglob("*"):
            os.utime(path, ns=(5, 1_700_000_000_000_000_005))
        assert world.backup().version == 0
        fleet.train(3)
        assert world.backup().version == 3


def test_two_hosts_on_one_shared_directory_take_turns(fleet):
    """One directory, one configuration, two machines with a state each: neither is refused, whoever was last."""
    for epoch in range(1, 6):
        with fleet.on(("anna", "berta")[epoch % 2], disk="shared") as world:
            fleet.train(epoch)
            assert world.backup().version == epoch
    assert writers(world) == ["berta", "anna", "berta", "anna", "berta"]


def test_an_unchanged_directory_of_both_hosts_costs_one_listing(fleet):
    """Who looked once at what the other one wrote, and found it here, does not look at it again."""
    with fleet.on("anna", disk="shared") as world:
        fleet.train(1)
        world.backup()
    with fleet.on("berta", disk="shared") as world:
        assert world.backup().version == 0
        world.counted.reset()
        assert world.backup().version == 0
        assert world.counted.calls == {"list": 1}


# ---------------------------------------------------------------- who is refused


def test_two_directories_of_one_name_do_not_share_a_run(world):
    """Two people's ``train`` on one machine: the second one is told who writes the run, and what to do; status 90."""
    for who in ("anna", "berta"):
        (world.base / who / "train").mkdir(parents=True)
        (world.base / who / "train" / "last.pt").write_bytes(small_checkpoint(len(who)))
    assert back_up_from(world, world.base / "anna" / "train").version == 1
    before = world.counted.written_bytes
    with pytest.raises(RunOfAnother) as refused:
        back_up_from(world, world.base / "berta" / "train")
    assert refused.value.exit_code == 90
    words = (f"{world.base}/anna/train on {socket.gethostname()}", "version 1 at 20", f"{world.base}/berta/train")
    for word in (*words, 'run = "another name"', f"mlsync backup --take-over {RUN}"):
        assert word in str(refused.value)
    assert (world.numbers(), world.counted.written_bytes) == ([1], before)
    (world.base / "anna" / "train" / "last.pt").write_bytes(small_checkpoint(3))
    assert back_up_from(world, world.base / "anna" / "train").version == 2


def test_the_same_path_on_another_machine_is_not_enough(fleet):
    """Two containers, two people, one path: what is in it tells them apart."""
    with fleet.on("anna") as world:
        fleet.train(1)
        world.backup()
    with fleet.on("berta") as world:
        fleet.train(1, who=7)
        with pytest.raises(RunOfAnother, match="on anna"):
            world.backup()
        fleet.train(2, who=7)
        with pytest.raises(RunOfAnother):
            world.backup()
    assert writers(world) == ["anna"]


def test_files_that_everybody_unpacks_are_no_sign(fleet):
    """The same template with whole seconds as times in both: it is no run."""
    for who, machine in enumerate(("anna", "berta")):
        with fleet.on(machine) as world:
            for name in ("train.py", "model.py", "args.yaml", "data.yaml"):
                world.write(name, b"from the archive")
                os.utime(world.path(name), (1_700_000_000, 1_700_000_000))
            world.write("last.pt", small_checkpoint(who))
            if machine == "anna":
                world.backup()
                continue
            with pytest.raises(RunOfAnother):
                world.backup()


def test_one_disk_copied_twice_is_two_trainings(fleet):
    """A past in common proves nothing: who goes on first has the run, the other is refused."""
    with fleet.on("anna") as world:
        for epoch in (1, 2):
            fleet.train(epoch)
            world.write(f"weights/epoch{epoch}.pt", small_checkpoint(50 + epoch))
            world.backup()
    fleet.copy("disks", "anna", "berta")
    with fleet.on("berta") as world:
        fleet.train(3, who=1)
        assert world.backup().version == 3
    with fleet.on("anna") as world:
        fleet.train(3, who=2)
        with pytest.raises(RunOfAnother, match="on berta"):
            world.backup()
    with fleet.on("berta") as world:
        fleet.train(4, who=1)
        assert world.backup().version == 4
    fleet.copy("disks", "anna", "clara")
    with fleet.on("clara") as world, pytest.raises(RunOfAnother):
        world.backup()


def test_a_machine_copied_with_its_state_is_another_writer(fleet):
    """An id that two use is known by the versions that only one of them made; the second gets its own."""
    with fleet.on("anna") as world:
        fleet.train(1)
        world.backup()
    fleet.copy("disks", "anna", "berta")
    fleet.copy("states", "anna", "berta")
    with fleet.on("berta") as world:
        fleet.train(2, who=1)
        assert world.backup().version == 2
    with fleet.on("anna") as world:
        fleet.train(2, who=2)
        with pytest.raises(RunOfAnother, match="on berta"):
            world.backup()
        allow_takeover(world.state.directory, RUN, os.fsencode(world.directory), 0)
        assert world.backup().version == 3
        assert world.manifest(3).root.origin.id != world.manifest(2).root.origin.id


def test_an_empty_directory_of_the_same_path_is_a_disk_that_is_not_there(fleet):
    """A new machine whose disk is not mounted yet hears of that, not of another writer."""
    with fleet.on("anna") as world:
        fleet.train(1)
        world.backup()
    with fleet.on("berta") as world, pytest.raises(SourceEmptied):
        world.backup()


# ---------------------------------------------------------------- handed over


def restored_to(world, directory, number=None):
    """Bring a version back as ``mlsync restore`` does."""
    place = os.fsencode(directory)
    result = restore(world.repository, world.manifest(number), place, RestoreOptions(), world.monitor)
    newest = NewestWriter(*newest_maker(world.repository, RUN))
    allow_takeover(world.state.directory, RUN, place, result.version, newest)


def test_a_restored_directory_takes_the_run_over_with_its_first_version(fleet):
    """On a new machine, at another path: nobody has to say so; the old machine is refused from then on."""
    with fleet.on("anna") as world:
        fleet.train(1)
        world.backup()
    new = world.base / "elsewhere" / "run-1"
    with fleet.on("berta") as world:
        restored_to(world, new)
        assert back_up_from(world, new).version == 0
    with fleet.on("anna") as world:
        fleet.train(2)
        # It lives after all, and nothing was made from the restored directory yet.
        assert world.backup().version == 2
    with fleet.on("berta") as world:
        (new / "weights" / "last.pt").write_bytes(small_checkpoint(5))
        assert back_up_from(world, new).version == 3
        (new / "weights" / "last.pt").write_bytes(small_checkpoint(6))
        assert back_up_from(world, new).version == 4
        assert not may_take_over(world.state.directory, RUN, os.fsencode(new))
    with fleet.on("anna") as world:
        fleet.train(3)
        with pytest.raises(RunOfAnother, match="elsewhere/run-1 on berta, which made version 4"):
            world.backup()


def test_of_two_nodes_that_restored_one_version_the_first_has_the_run(fleet):
    """The second is refused by what the first made, until it restores again; a node that is gone holds nothing."""
    with fleet.on("anna") as world:
        fleet.train(1)
        world.backup()
    places = {name: world.base / "nodes" / name for name in ("berta", "clara")}
    for name, place in places.items():
        with fleet.on(name) as world:
            restored_to(world, place)
    with fleet.on("berta") as world:
        (places["berta"] / "weights" / "last.pt").write_bytes(small_checkpoint(5))
        assert back_up_from(world, places["berta"]).version == 2
    with fleet.on("clara") as world:
        (places["clara"] / "weights" / "last.pt").write_bytes(small_checkpoint(6))
        with pytest.raises(RunOfAnother, match="nodes/berta on berta, which made version 2"):
            back_up_from(world, places["clara"])
        # Berta is gone for good: nobody has to wait for anything.
        shutil.rmtree(places["clara"])
        restored_to(world, places["clara"])
        (places["clara"] / "weights" / "last.pt").write_bytes(small_checkpoint(7))
        assert back_up_from(world, places["clara"]).version == 3


def test_a_look_at_an_old_version_steals_nothing(fleet):
    """A restore to some other place, for inspection, leaves the run with its writer."""
    with fleet.on("anna") as world:
        for epoch in (1, 2):
            fleet.train(epoch)
            world.backup()
    with fleet.on("berta") as world:
        restored_to(world, world.base / "look", 1)
    with fleet.on("anna") as world:
        fleet.train(3)
        assert world.backup().version == 3
        restored_to(world, world.base / "look-here", 1)
        fleet.train(4)
        assert world.backup().version == 4


def test_a_restore_through_a_symlink_is_of_the_same_directory(fleet):
    """The directory is known by where it really is: ``~/run`` may lead to a large disk."""
    with fleet.on("anna") as world:
        fleet.train(1)
        world.backup()
    with fleet.on("berta") as world:
        (world.base / "disk").mkdir()
        (world.base / "link").symlink_to("disk")
        restored_to(world, world.base / "link" / "run")
        (world.base / "disk" / "run" / "new").write_bytes(b"1")
        assert back_up_from(world, world.base / "disk" / "run").version == 2


def test_an_old_version_that_was_restored_goes_on(fleet):
    """Who goes back to version 1 on purpose goes on from it, and what came after it is kept."""
    with fleet.on("anna") as world:
        for epoch in (1, 2, 3):
            fleet.train(epoch)
            world.backup()
    new = world.base / "elsewhere"
    with fleet.on("berta") as world:
        restored_to(world, new, 1)
        assert back_up_from(world, new).version == 4
    assert contents_of(world, 4) == contents_of(world, 1)


def contents_of(world, number):
    return {path: found[3] for path, found in world.restored(number).items() if found[0] == "file"}


# ---------------------------------------------------------------- hints


def test_a_new_run_with_another_ones_content_is_hinted_at(world):
    """A directory that got another name goes on with the run under that: it is said once, with what to do."""
    world.write("last.pt", small_checkpoint(1))
    world.write("log.csv", b"1\n")
    world.backup()
    moved = world.base / "moved"
    shutil.copytree(world.directory, moved)
    assert back_up_from(world, moved, "moved").version == 1
    (text,) = warnings(world)
    assert f"holds the same files as version 1 of run '{RUN}'" in text
    assert f'set run = "{RUN}"' in text
    (moved / "log.csv").write_bytes(b"2\n")
    assert back_up_from(world, moved, "moved").version == 2
    assert len(warnings(world)) == 1
    assert tree_of(moved)


def test_other_content_is_not_hinted_at_and_costs_one_listing_more(world):
    """A first version asks for one listing and one manifest of each other run, and reads no list of files."""
    world.write("last.pt", small_checkpoint(1))
    world.backup()
    other = world.base / "other"
    other.mkdir()
    (other / "last.pt").write_bytes(small_checkpoint(2))
    (other / "log.csv").write_bytes(b"1\n")
    asked = (("list", names.VERSIONS), ("get", world.repository.version_key(RUN, 1)))
    for number, times in ((1, 1), (2, 0)):
        store = FaultyStore(world.store)
        world.use(store)
        assert back_up_from(world, other, "other").version == number
        assert [store.calls.count(call) for call in asked] == [times, times]
        (other / "log.csv").write_bytes(b"2\n")
    assert warnings(world) == []
