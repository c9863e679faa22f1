"""``mlsync pin``, ``unpin``, ``forget`` and ``unforget`` on the command line, and what ``versions`` shows of it."""

from __future__ import annotations

import pytest


@pytest.fixture
def three(saved):
    """A machine with three versions: the first is needed by nothing."""
    (saved.training / "results.csv").write_text("epoch,loss\n1,0.5\n2,0.25\n3,0.125\n")
    saved.good("backup")
    return saved


def test_a_version_is_pinned_under_a_name_and_restored_by_it(three):
    """The name stands for the version in restore, show and verify, until it is unpinned."""
    done = three.good("pin", "1", "--name", "paper", "--reason", "table 2")
    assert done.out == "yolo: version 1 pinned as paper\n"
    assert "pinned as paper: table 2" in three.good("versions").out
    assert "pinned as paper: table 2" in three.good("show", "paper").out
    assert "version 1 restored" in three.good("restore", "--version", "paper", "--to", "there").out
    assert three.run("forget", "1", "--yes").status == 94
    assert three.run("pin", "2", "--name", "paper").status == 92
    assert three.good("unpin", "paper").out == "yolo: version 1 (paper) is no longer pinned\n"
    done = three.run("restore", "--version", "paper", "--to", "elsewhere")
    assert (done.status, "no version of run 'yolo' is pinned under that name" in done.err) == (15, True)


def test_a_forgotten_version_is_left_out_until_it_is_brought_back(three):
    """A list counts what is forgotten, and shows it with --all; its number still restores, with a note."""
    shown = three.good("forget", "1", "--dry-run").out
    assert shown.endswith("yolo: 1 version would be forgotten\n")
    assert "by hand" in shown
    assert three.good("versions").out.startswith("yolo: 3 versions\n")
    done = three.good("forget", "1", "--yes")
    assert done.out.endswith("yolo: 1 version forgotten; to bring back: mlsync unforget 1\n")
    assert three.good("versions").out.startswith("yolo: 2 versions, 1 forgotten\n")
    assert "forgotten by hand on " in three.good("versions", "--all").out
    done = three.good("restore", "--version", 1, "--to", "there")
    assert "version 1 is forgotten by hand on" in done.err
    assert "mlsync unforget 1 brings it back" in done.err
    assert three.good("forget", "1", "--yes").out == "yolo: nothing to forget: they are forgotten already\n"
    assert three.good("unforget", "1-2").out == "yolo: version 1 brought back\n"
    assert three.good("versions").out.startswith("yolo: 3 versions\n")
    assert three.good("unforget", "1").out == "yolo: none of these versions is forgotten\n"
    assert "no problem" in three.good("check").out


def test_a_pin_brings_a_forgotten_version_back(three):
    """It says so, and does not warn that the version is forgotten."""
    three.good("forget", "1", "--yes")
    done = three.good("pin", "1")
    assert (done.out, done.err) == ("yolo: version 1 pinned; it is no longer forgotten\n", "")


def test_without_a_terminal_forgetting_takes_yes(three):
    """Nobody can be asked: nothing is forgotten, and the status says so."""
    done = three.run("forget", "1")
    assert done.status == 94
    assert "--yes" in done.err
    assert three.good("versions").out.startswith("yolo: 3 versions\n")


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("forget", "3", "--yes"), 94, "version 3: it is the newest"),
        (("forget", "1-3", "--yes"), 94, "version 3: it is the newest"),
        (("forget", "9", "--yes"), 15, "no version 9"),
        (("forget", "7-9", "--yes"), 2, "no such version from 7 to 9"),
        (("forget", "x", "--yes"), 2, "not a number of a version: 'x'"),
        (("forget", "3-1", "--yes"), 2, "not a number of a version: '3-1'"),
        (("forget", "0"), 2, "not a number of a version: '0'"),
        (("forget",), 2, "nothing says which versions to keep"),
        (("unforget", "1-3"), 2, "no such version from 1 to 3"),
        (("pin", "1", "--name", "latest"), 2, "means something else"),
        (("pin", "1", "--name", "a b"), 2, "not a name for a pin"),
        (("pin", "1", "--reason", "a\nb"), 2, "line break"),
        (("pin", "9"), 15, "no version 9"),
        (("unpin", "1"), 15, "is not pinned"),
        (("unpin", "a/b"), 2, "neither a number"),
    ],
)
def test_what_is_refused_changes_nothing(three, arguments, status, said):
    """Each refusal has its status and says what is wrong, and no object is written."""
    before = sorted(three.repository.rglob("*"))
    done = three.run(*arguments)
    assert done.status == status, done
    assert said in done.err
    assert sorted(three.repository.rglob("*")) == before


def test_a_lost_decision_is_refused_until_it_is_accepted(three):
    """A decision that is gone stops whoever would decide; versions warns; a word goes on with what is left."""
    three.good("pin", "1")
    (three.training / "more.txt").write_text("1")
    three.good("backup")
    three.object("decisions/*/*", 0).unlink()
    assert "may be missing: decision 1, which a version names, is missing" in three.good("versions").err
    done = three.run("pin", "2")
    assert done.status == 95
    assert "--accept-rollback" in done.err
    assert three.run("check").status == 33
    three.good("pin", "2", "--accept-rollback")
    assert three.good("versions").err == ""
