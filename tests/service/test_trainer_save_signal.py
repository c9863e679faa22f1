"""Who of a training's processes is told to save."""

from __future__ import annotations

import signal

import pytest

from mlsync.service.training.save_signal import catchers
from mlsync.service.training.trainer import exit_status

USR1 = signal.SIGUSR1.value


@pytest.fixture
def proc(tmp_path):
    """A table of processes as the kernel shows it."""

    def add(pid, parent, *caught, name="python"):
        place = tmp_path / str(pid)
        place.mkdir()
        mask = sum(1 << (number - 1) for number in caught)
        (place / "status").write_text(f"Name:\t{name}\nSigIgn:\t{1 << 9:016x}\nSigCgt:\t{mask:016x}\n")
        (place / "stat").write_text(f"{pid} ({name}) S {parent} 1 1 0 -1\n")

    (tmp_path / "self").mkdir()
    add(1, 0)
    return tmp_path, add


def test_a_training_that_catches_it_is_told_alone(proc):
    """What it forked inherits its handler, and belongs to it."""
    place, add = proc
    add(10, 1, USR1)
    add(11, 10, USR1)
    assert catchers(10, USR1, place) == [10]


def test_of_a_launcher_its_workers_are_told(proc):
    """The launcher would die of it, and so would a worker that does not catch it; other trainings are left alone."""
    place, add = proc
    add(10, 1, signal.SIGTERM, name="torchrun (a) b")
    add(11, 10, USR1, signal.SIGTERM)
    add(12, 10)
    add(13, 12, USR1)
    add(20, 1, USR1)
    assert catchers(10, USR1, place) == [11, 13]
    assert catchers(10, signal.SIGUSR2, place) == []


def test_a_process_that_is_gone_is_nobody(proc):
    """It ended between two looks."""
    assert catchers(99, USR1, proc[0]) == []


@pytest.mark.parametrize(("status", "said"), [(0, 0), (3 << 8, 3), (9, 137), (15, 143), (11 | 0x80, 139)])
def test_exit_statuses_are_those_of_shells(status, said):
    """As the kernel gives them: the status in the second byte, the signal and the mark of a core file in the first."""
    assert exit_status(status) == said
