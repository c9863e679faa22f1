"""``mlsync evaluate``, and where the numbers show: lists, ``show``, ``diff``, ``best by`` and a policy."""

from __future__ import annotations

import pytest

SAY = "sh -c 'echo {}'"


@pytest.fixture
def measured(saved):
    """A machine with two versions, of which the first has a number more."""
    saved.good("evaluate", "--quickly", "1", "--command", SAY.format("accuracy 0.9; echo loss 0.5"))
    saved.good("evaluate", "--quickly", "2", "--command", SAY.format("accuracy 0.8"))
    return saved


def test_a_version_is_measured_by_hand(saved):
    """The command's numbers are shown and kept, and its label is its program; --json has all of it."""
    script = saved.base / "measure.py"
    script.write_text("import os; print('loss', 0.25); print('epoch', os.environ['MLSYNC_EVALUATE_VERSION'])\n")
    done = saved.good("evaluate", "--quickly", "--command", f"python3 {script}", "--path", "*.pt")
    assert done.out.splitlines()[0].startswith("yolo: version 2: ")
    assert "last.pt evaluated by measure.py, " in done.out.splitlines()[0]
    assert [line.split() for line in done.out.splitlines()[1:]] == [
        ["NUMBER", "VALUE"],
        ["epoch", "2"],
        ["loss", "0.25"],
    ]
    value = saved.good(
        "evaluate", "--quickly", "1", "--command", SAY.format("a 1; echo b nan"), "--json", "--label", "mine"
    ).json()
    assert (value["version"], value["label"], value["numbers"]) == (1, "mine", {"a": 1.0})
    assert value["notes"] == ["b: no finite number"]


def test_lists_show_one_number(measured):
    """The column is the commonest number, or the one of best_by; a machine without evaluations has no column."""
    lines = measured.good("versions", COLUMNS="120").out.splitlines()
    assert [line.split()[-1] for line in lines[1:]] == ["accuracy", "0.9", "0.8"]
    numbers = [one["numbers"] for one in measured.good("versions", "--json").json()["versions"]]
    assert numbers == [{"accuracy": 0.9, "loss": 0.5}, {"accuracy": 0.8}]
    measured.configure('[evaluate]\nbest_by = "loss"\n')
    lines = measured.good("versions", COLUMNS="120").out.splitlines()
    assert [line.split()[-1] for line in lines[1:]] == ["loss", "0.5", "-"]


def test_a_version_shows_what_was_measured(measured):
    """Show has each number with its checkpoint and who measured, and diff both numbers and the difference."""
    measured.good("evaluate", "--quickly", "1", "--command", SAY.format("accuracy 0.95"))
    shown = measured.good("show", "1", COLUMNS="120").out
    (line,) = [line for line in shown.splitlines() if line.startswith("accuracy")]
    assert line.split()[1] == "0.95"
    assert " by sh on " in line
    labels = [one["label"] for one in measured.good("show", "1", "--json").json()["evaluations"]]
    assert labels == ["sh", "sh"]
    changed = measured.good("diff", "1", "2").out
    assert ["accuracy", "0.95", "0.8", "-0.15"] in [line.split() for line in changed.splitlines()]
    assert ["loss", "0.5", "-", "-"] in [line.split() for line in changed.splitlines()]
    (first, second) = measured.good("diff", "1", "2", "--json").json()["numbers"]
    assert first == {"name": "accuracy", "before": 0.95, "after": 0.8}
    assert second == {"name": "loss", "before": 0.5, "after": None}


def test_the_best_version_is_chosen_by_a_number(measured):
    """More is better but for losses, a word says otherwise, and best_by makes "best" mean it."""

    def chosen(version):
        return measured.good("show", version, "--json").json()["version"]

    # Version 2 was not measured by its loss, and its trainer logged a lower one.
    assert [chosen(f"best by {name}") for name in ("accuracy", "accuracy min", "loss")] == [1, 2, 2]
    measured.configure('[evaluate]\nbest_by = "accuracy min"\n')
    assert chosen("best") == 2
    done = measured.run("show", "best by accurac")
    assert (done.status, "did you mean accuracy?" in done.err) == (15, True)
    assert measured.run("show", "best by ").status == 2


def test_a_number_that_was_only_logged_counts_too(measured):
    """Where no evaluation has a name, what the trainer logged has it."""
    (measured.training / "results.csv").write_text("epoch,val/acc\n1,0.5\n")
    measured.good("backup")
    assert measured.good("show", "best by val/acc", "--json").json()["version"] == 3


def test_a_policy_keeps_by_a_number(measured):
    """What was measured keeps a version as any number does, and one that was not measured is kept too."""
    for name in ("one", "two"):
        (measured.training / name).write_text("x")
        measured.good("backup")
    done = measured.good(
        "forget", "--keep", "last 1", "--keep", "best 1 by accuracy max", "--dry-run", COLUMNS="120"
    ).out
    assert "best 1 by accuracy max: 0.9" in done
    assert "best 1 by accuracy max: not known" in done
    assert measured.run("forget", "--keep", "best 1 by wer", "--dry-run").status == 2  # it would keep the worst


@pytest.mark.parametrize(
    ("command", "status", "why"),
    [
        ("nosuch {checkpoint}", 111, "nosuch does not start: No such file or directory"),
        ("false", 110, "false ended with 1"),
        (SAY.format(""), 110, "what sh said cannot be read: it is empty"),
        ("'", 2, "no closing quotation"),
        ("", 2, "it names no program"),
    ],
)
def test_what_fails_ends_with_its_status(saved, command, status, why):
    """Each failure has a status and a reason on one line, and stores nothing."""
    done = saved.run("evaluate", "--quickly", "--command", command)
    assert (done.status, why in done.err) == (status, True), done.err
    assert saved.good("versions", "--json").json()["versions"][1]["numbers"] == {}


def test_without_a_command_it_says_where_to_name_one(saved):
    """A machine without [evaluate] gets the key to set."""
    done = saved.run("evaluate", "--quickly")
    assert done.status == 2
    assert "under [evaluate], or say --command" in done.err


def test_a_run_may_have_a_command_of_its_own(saved):
    """[watch.evaluate] replaces the command of all runs, and keeps their other keys."""
    saved.configure(
        '[watch.evaluate]\ncommand = ["sh", "-c", "echo own 1"]\n[evaluate]\nbuiltin = "ultralytics"\nlabel = "ours"\n'
    )
    value = saved.good("evaluate", "--quickly", "--json").json()
    assert (value["label"], value["numbers"]) == ("ours", {"own": 1.0})
