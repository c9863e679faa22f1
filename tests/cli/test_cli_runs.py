"""Whose run is it, as commands tell it: docs/runs.md on real machines."""

from __future__ import annotations

import shutil

import pytest
from machine import NO_DEVICE, Machine, checkpoint, write_training

from mlsync.app.run_lock import RunLock


@pytest.fixture
def other(tmp_path, server, saved) -> Machine:
    """A machine of another person's that backs up to the same repository, from a directory of the same name."""
    result = Machine(tmp_path / "other", server)
    result.repository = saved.repository
    result.configure()
    write_training(result.training, epoch=7)
    # A version of the first machine's own: it is a copy of another one (see ``copy_of``).
    (saved.training / "own").write_text("1")
    saved.good("backup")
    return result


def test_two_people_with_one_name_are_told_apart(saved, other):
    """The second one gets 90, hears whose run it is and what to do, and no version of the first one's is touched."""
    refused = other.run("backup")
    assert refused.status == 90
    assert f"run 'yolo' is written from {saved.training} on " in refused.err
    assert "which made version 3 at " in refused.err
    assert f"no version was made from {other.training} on " in refused.err
    assert 'set run = "another name" under [[watch]]' in refused.err
    assert "mlsync backup --take-over yolo" in refused.err
    error = other.run("backup", "--json").json()["error"]
    assert (error["kind"], error["exit_status"]) == ("RunOfAnother", 90)
    assert [one["version"] for one in saved.good("versions", "--json").json()["versions"]] == [1, 2, 3]


def test_another_name_is_another_run(saved, other):
    """The first advice: ``run = `` of its own, and both go on."""
    text = other.configuration.read_text().replace('run = "yolo"', 'run = "yolo-berta"')
    other.configuration.write_text(text)
    assert other.good("backup", "--json").json()["runs"][0]["version"] == 1
    (saved.training / "new").write_text("1")
    assert saved.good("backup", "--json").json()["runs"][0]["version"] == 4


def test_a_run_that_is_taken_over_changes_hands(saved, other):
    """The second advice: from then on the one goes on and the other is refused, and listings show it."""
    done = other.good("backup", "--take-over")
    assert done.err.startswith(f"yolo: goes on from {other.training} on ")
    (other.training / "new").write_text("1")
    other.good("backup")
    (saved.training / "new").write_text("2")
    assert saved.run("backup").status == 90
    versions = saved.good("versions", "--json").json()["versions"]
    ids = [one["writer_id"] for one in versions]
    assert (ids[2] == ids[3], ids[3] == ids[4], len(ids)) == (False, True, 5)
    lines = saved.good("versions", COLUMNS="300").out.splitlines()
    assert [f"now from {other.training} on " in line for line in lines[2:]] == [False, False, False, True, False]


def test_a_run_is_taken_over_although_nothing_changed(saved, other):
    """Where no version is made it is still taken over: the next change does not ask again."""
    shutil.rmtree(other.training)
    shutil.copytree(saved.training, other.training)
    assert "most files are the same here" in other.run("backup").err
    assert other.good("backup", "--take-over", "--json").json()["runs"][0]["version"] is None
    (other.training / "new").write_text("1")
    assert other.good("backup", "--json").json()["runs"][0]["version"] == 4


def test_a_run_is_taken_over_while_an_agent_holds_it(saved, other):
    """The agent that was refused keeps the run's lock: it hears of it, and the command says so with status 13."""
    (directory,) = saved.state.iterdir()
    with RunLock(other.state, directory.name, "yolo"):
        done = other.run("backup", "--take-over")
    assert (done.status, "taken over, but another mlsync works on run yolo" in done.err) == (13, True)
    assert other.good("backup", "--json").json()["runs"][0]["version"] == 4


def test_take_over_is_for_one_run(saved):
    """With several runs it wants a name: what is taken from somebody is said, not guessed."""
    with saved.configuration.open("a") as file:
        file.write(f'[[watch]]\ndirectory = "{saved.base}/second"\n')
    done = saved.run("backup", "--take-over")
    assert (done.status, "name it: yolo, second" in done.err) == (2, True)


def test_a_restored_directory_goes_on_by_itself(saved, other):
    """A fresh machine that restores by URL alone, and an agent there later: nobody has to take anything over."""
    elsewhere = other.base / "elsewhere"
    other.good("restore", "--repo", saved.url, "--to", str(elsewhere), MLSYNC_CONFIG="")
    watch = f'[[watch]]\ndirectory = "{elsewhere}"\nrun = "yolo"\n'
    other.configuration.write_text(f'repository = "{saved.url}"\n{watch}{NO_DEVICE}')
    (elsewhere / "weights" / "last.pt").write_bytes(checkpoint(3))
    assert other.good("backup", "--json").json()["runs"][0]["version"] == 4
    (saved.training / "new").write_text("2")
    refused = saved.run("backup")
    assert (refused.status, f"written from {elsewhere} on " in refused.err) == (90, True)


def test_a_restore_of_single_files_hands_nothing_over(saved, other):
    """A few files to look at are not the run, whoever works in that directory."""
    other.good("restore", "results.csv", "--to", str(other.training))
    assert other.run("backup").status == 90


def test_a_restore_goes_through_without_a_local_state(saved, other):
    """What cannot be noted is told, and the files are there all the same."""
    other.state.write_text("a file in the way")
    done = other.good("restore", "--to", str(other.base / "back"))
    assert (other.base / "back" / "weights" / "last.pt").exists()
    assert "warning: the local state cannot be written, so a backup from there may need --take-over" in done.err


def test_a_new_name_for_an_old_run_is_noticed(saved):
    """A configuration without ``run`` that had another default: the new run begins, and says what to do."""
    lines = saved.configuration.read_text().replace('run = "yolo"\n', "")
    saved.configuration.write_text(lines)
    done = saved.good("backup")
    assert f"{saved.base.name}-train: version 1 " in done.out
    assert "holds the same files as version 2 of run 'yolo'" in done.err
    assert 'set run = "yolo" under [[watch]]' in done.err


def test_init_names_runs_as_the_configuration_would(fresh):
    """What ``init`` writes down is the name that a configuration without one gives."""
    watch = fresh.base / "yolo" / "runs" / "train"
    fresh.good("init", fresh.url, "--watch", str(watch))
    assert 'run = "yolo-runs-train"' in fresh.configuration.read_text()
    text = fresh.configuration.read_text().replace('run = "yolo-runs-train"\n', "")
    fresh.configuration.write_text(text)
    write_training(watch)
    assert fresh.good("backup", "--json").json()["runs"][0]["run"] == "yolo-runs-train"
