"""How long a process has after SIGTERM, by what is seen of the place."""

from __future__ import annotations

import os

import pytest

from mlsync.preemption.grace import Grace, grace_here


@pytest.fixture
def here(tmp_path):
    """The grace of a place with an environment, a firmware and files."""

    def find(environ, vendor="", files=(), names=None):
        (tmp_path / "dmi").mkdir()
        (tmp_path / "dmi" / "sys_vendor").write_text(vendor)
        for name, text in dict(files).items():
            file = tmp_path / "root" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return grace_here(names, dmi=tmp_path / "dmi", root=tmp_path / "root", environ=environ)

    return find


DOCKER = {".dockerenv": ""}
RUNPOD, POD, JOB = {"RUNPOD_POD_ID": "x"}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, {"SLURM_JOB_ID": "1"}


@pytest.mark.parametrize(
    ("environ", "vendor", "files", "kill_s", "plan_s"),
    [
        ({}, "", {}, 30.0, 25.0),
        ({}, "Amazon EC2", {}, 30.0, 25.0),
        ({}, "", DOCKER, 10.0, 8.0),
        ({}, "", {"run/.containerenv": ""}, 10.0, 8.0),
        ({"container": "podman"}, "", {}, 10.0, 8.0),
        ({"container": "docker"}, "", {"run/systemd/system/x": ""}, 30.0, 25.0),
        ({}, "Amazon EC2", DOCKER, 10.0, 8.0),
        ({"VAST_CONTAINERLABEL": "C.1"}, "", DOCKER, 10.0, 8.0),
        (RUNPOD, "", DOCKER, 5.0, 4.0),
        ({"SM_TRAINING_ENV": "{}"}, "", DOCKER, 120.0, 115.0),
        (POD, "", DOCKER, 30.0, 25.0),
        (POD, "Google", DOCKER, 15.0, 12.0),
        (JOB, "", {}, 30.0, 25.0),
        (JOB, "", {"etc/slurm/slurm.conf": "#KillWait=5\nKillWait=40\nKillWait = 90 # seconds\n"}, 90.0, 85.0),
        (JOB, "", {"etc/slurm/slurm.conf": "KillWait=1e9\n"}, 30.0, 25.0),
        (JOB, "", {"etc/slurm/slurm.conf": "KillWait=0\n"}, 0.0, 1.0),
        (JOB | POD, "Google", {}, 15.0, 12.0),
    ],
)
def test_the_shortest_time_that_is_seen_counts(here, environ, vendor, files, kill_s, plan_s):
    """Each place has its time, a container beside it counts only where nobody else says when he kills."""
    found = here(environ, vendor, files)
    assert (found.kill_s, found.plan_s) == (kill_s, plan_s)
    assert found.why


def test_what_the_configuration_names_counts(here):
    """A platform that is named is one, whatever the machine shows."""
    assert here({}, names=["runpod"]).kill_s == 5.0


def test_slurms_file_is_where_slurm_says(here, tmp_path):
    """SLURM_CONF names another file."""
    (tmp_path / "other.conf").write_text("killwait=60\n")
    assert here({"SLURM_JOB_ID": "1", "SLURM_CONF": str(tmp_path / "other.conf")}).kill_s == 60.0


def test_what_is_no_file_of_slurm_is_not_read(here, tmp_path):
    """A pipe in its place holds nobody up."""
    os.mkfifo(tmp_path / "pipe")
    assert here({"SLURM_JOB_ID": "1", "SLURM_CONF": str(tmp_path / "pipe")}).kill_s == 30.0


@pytest.mark.parametrize("kill_s", [0.0, 0.5, 3.0, 30.0, 1e6])
def test_a_plan_ends_before_the_kill_if_that_is_possible(kill_s):
    """Some of the time is kept back, a second is the least that is planned with."""
    assert Grace(kill_s, "").plan_s == pytest.approx(max(1.0, kill_s * 0.8 if kill_s < 25 else kill_s - 5))
