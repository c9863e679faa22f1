"""The first process of a launcher restores for all on its machine, and the others wait for it."""

from __future__ import annotations

import fcntl
import os

import pytest

from mlsync.errors import DirectoryNewer, FirstRestoreFailed, StateDamaged
from mlsync.service.training.first_restore import Launch, await_first, restoring

SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}


class Clock:
    """Goes on while somebody sleeps; *at* something happens."""

    def __init__(self, at=None):
        self.now_s = 0.0
        self.at = dict(at or {})

    def __call__(self):
        """The time."""
        return self.now_s

    def sleep(self, seconds):
        """The time goes on."""
        self.now_s += seconds
        for at_s in [one for one in self.at if one <= self.now_s]:
            self.at.pop(at_s)()


@pytest.fixture
def launch():
    """A launch."""
    return Launch.of("srun", SLURM, 1, "runs")


def waited(launch, state, at=None):
    """For how long the others wait, until they go on."""
    clock = Clock(at)
    await_first(launch, state, patience_s=60.0, clock=clock, sleep=clock.sleep)
    return clock.now_s


def test_the_others_go_on_once_all_is_restored(launch, tmp_path):
    """They wait for one that has not come yet, and for as long as it restores; then they go on at once."""
    first = restoring(launch, tmp_path)
    begun = []

    def end():
        restored = begun.pop()
        restored()

    at = {50.0: lambda: begun.append(first.__enter__()), 200.0: end}
    assert 200.0 <= waited(launch, tmp_path, at) < 201.0
    assert waited(launch, tmp_path) == 0.0
    first.__exit__(None, None, None)
    assert waited(launch, tmp_path) == 0.0


def test_a_restore_that_fails_is_theirs_too(launch, tmp_path):
    """They end with 108 and say why the first one did not restore."""
    with pytest.raises(DirectoryNewer), restoring(launch, tmp_path):
        raise DirectoryNewer("files are newer")
    with pytest.raises(FirstRestoreFailed, match="files are newer"):
        waited(launch, tmp_path)


def test_a_training_that_fails_later_is_none_of_theirs(launch, tmp_path):
    """What becomes of the first one after its restore changes nothing."""

    def fail():
        with restoring(launch, tmp_path) as restored:
            restored()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert waited(launch, tmp_path) == 0.0


def test_a_first_one_that_is_stopped_or_killed_is_told(launch, tmp_path):
    """Stopped before the restore was over it says so, and of a killed one the lock is free."""
    with restoring(launch, tmp_path):
        pass
    with pytest.raises(FirstRestoreFailed, match="it was stopped"):
        waited(launch, tmp_path)
    launch.file(tmp_path).write_bytes(b"")
    clock = Clock()
    with pytest.raises(FirstRestoreFailed, match="was killed while it restored"):
        await_first(launch, tmp_path, clock=clock, sleep=clock.sleep)
    assert clock.now_s < 10.0


def test_nobody_waits_for_ever(launch, tmp_path):
    """Where no first one comes, they say so."""
    with pytest.raises(FirstRestoreFailed, match="does not come"):
        waited(launch, tmp_path)


@pytest.mark.parametrize("content", [b"[]", b"\xff", b"nonsense", b"{"])
def test_what_is_no_word_of_the_first_one_is_none(launch, tmp_path, content):
    """Whatever the file holds, it is not taken for a restore that is done."""
    launch.file(tmp_path).parent.mkdir()
    launch.file(tmp_path).write_bytes(content)
    with pytest.raises(FirstRestoreFailed):
        waited(launch, tmp_path)


def test_a_link_in_the_way_is_not_followed(launch, tmp_path):
    """A link under the name of the file is neither written through nor read."""
    launch.file(tmp_path).parent.mkdir()
    (tmp_path / "other").write_text('"done"')
    launch.file(tmp_path).symlink_to(tmp_path / "other")
    with pytest.raises(StateDamaged, match="symbolic"), restoring(launch, tmp_path):
        pass
    with pytest.raises(FirstRestoreFailed):
        waited(launch, tmp_path)


def test_another_start_has_another_name():
    """Another step, restart, directory, or parent where that says it: each is a launch of its own."""
    ours, torch = os.getpid(), {"TORCHELASTIC_RUN_ID": "none"}
    launches = [
        Launch.of("srun", SLURM, ours, "a"),
        Launch.of("srun", SLURM, ours, "b"),
        Launch.of("srun", SLURM | {"SLURM_STEP_ID": "1"}, ours, "a"),
        Launch.of("srun", SLURM | {"SLURM_RESTART_COUNT": "1"}, ours, "a"),
        Launch.of("torchrun", torch, ours, "a"),
        Launch.of("torchrun", torch, os.getppid(), "a"),
        Launch.of("torchrun", torch | {"TORCHELASTIC_RESTART_COUNT": "1"}, ours, "a"),
        Launch.of("mpirun", {"PMIX_NAMESPACE": "1"}, ours, "a"),
        Launch.of("mpirun", {"PMIX_NAMESPACE": "2"}, ours, "a"),
    ]
    assert len({one.key for one in launches}) == len(launches)
    assert Launch.of("srun", SLURM, 1, "a") == Launch.of("srun", SLURM, 2, "a")


def test_what_old_launches_left_goes(launch, tmp_path):
    """A day later the file of a launch is removed by the next one."""
    with restoring(launch, tmp_path) as restored:
        restored()
    os.utime(launch.file(tmp_path), (0, 0))
    with restoring(Launch("other"), tmp_path):
        assert not launch.file(tmp_path).exists()


def test_the_lock_is_free_while_the_training_runs(launch, tmp_path):
    """Whoever comes late finds the restore done, and no lock."""
    with restoring(launch, tmp_path) as restored:
        restored()
        with launch.file(tmp_path).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
