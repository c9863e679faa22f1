"""``mlsync prove``: what was committed without a device is proved later, from anywhere."""

from __future__ import annotations

import pytest
from machine import NO_DEVICE, write_training

NO_TORCH = '[proof]\npython = "/nowhere/python"\n'


@pytest.fixture
def pending(fresh):
    """A machine with one version, whose checkpoint still has to be proved."""
    write_training(fresh.training)
    fresh.configure()
    fresh.good("init", fresh.url, "--config", fresh.base / "other.toml")
    fresh.configure(NO_TORCH)
    fresh.good("backup")
    return fresh


def test_pending_versions_are_proved(pending):
    """What is pending is proved on the CPU, says so in every listing, and is pending no more."""
    assert "L2 (pending L3)" in pending.good("versions", COLUMNS="100").out
    pending.configure()
    done = pending.good("prove", "--pending", "--device", "cpu")
    assert done.out.startswith("yolo: version 1: L4 cpu, 1 checkpoint read back (")
    assert "L4 cpu" in pending.good("versions").out
    assert "(pending" not in pending.good("versions").out + pending.good("show").out
    assert pending.good("show", "--json").json()["entries"][-1]["proof"]["level"] == 4
    assert pending.good("prove", "--pending", "--device", "cpu").out == "nothing was pending\n"


def test_another_machine_needs_the_repository_only(pending):
    """Without a configuration, the URL and the secret are enough."""
    done = pending.good("prove", "--pending", "--device", "cpu", "--repo", pending.url, "--json", MLSYNC_CONFIG="")
    (version,) = done.json()["versions"]
    assert (version["run"], version["version"], version["lowest_level"], version["device"]) == ("yolo", 1, 4, "cpu")
    assert (version["checkpoint_count"], version["broken"]) == (1, [])


def test_a_version_is_proved_anew(pending):
    """A version that is named is proved again, also if nothing of it is pending."""
    pending.configure()
    pending.good("prove", "1", "--device", "cpu")
    done = pending.good("prove", "latest", "--device", "cpu")
    assert "version 1: L4 cpu, 1 checkpoint read back" in done.out


def test_what_does_not_load_is_marked(fresh):
    """A checkpoint that is refused ends with 50, is named with what is wrong, and stays marked."""
    import torch

    fresh.training.mkdir(parents=True)
    torch.save({"weight": torch.full((9,), float("nan"))}, fresh.training / "last.pt")
    fresh.good("init", fresh.url, "--config", fresh.base / "other.toml")
    fresh.configure(NO_TORCH)
    fresh.good("backup")
    fresh.configure('[proof]\nrefuse = ["nan", "inf"]\n')
    done = fresh.run("prove", "--pending", "--device", "cpu")
    assert done.status == 50
    assert "broken: last.pt: level 4: 9 NaN" in done.out
    assert "1 broken" in fresh.good("versions").out
    assert "broken: last.pt: 9 NaN" in fresh.good("show").out
    assert fresh.good("versions", "--json").json()["versions"][0]["broken_count"] == 1


def test_no_device(pending):
    """Without a Python it ends with 59 and names it; where no device is wanted with 51, and what to do."""
    done = pending.run("prove", "--pending")
    assert (done.status, "/nowhere/python" in done.err) == (59, True)
    pending.configure(NO_DEVICE)
    done = pending.run("prove", "--pending")
    assert (done.status, "--device cpu" in done.err) == (51, True)


@pytest.mark.parametrize(
    "arguments", [(), ("1", "--pending"), ("--pending", "--level", "5"), ("--pending", "--level", "6")]
)
def test_what_is_no_question(pending, arguments):
    """Neither or both of a version and --pending, and a level that there is not, end with 2."""
    assert pending.run("prove", *arguments).status == 2


def test_no_such_version(pending):
    """A version that is not there ends with 15 and the versions that are."""
    done = pending.run("prove", "7", "--device", "cpu")
    assert (done.status, "only 1" in done.err) == (15, True)
