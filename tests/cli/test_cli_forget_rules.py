"""``mlsync forget`` without numbers: what the rules of the configuration, or of ``--keep``, leave of the runs."""

from __future__ import annotations

import re
import shutil

import pytest

from safetensors_parts import saved as checkpoint_bytes

# Versions of a moment ago are younger than any other grace.
NO_DEVICE = '[proof]\ndevice = "none"\n'
POLICY = NO_DEVICE + '[retention]\nkeep = ["last 2", "best 1 by best_fitness"]\nfloor = "L2"\ngrace = "0s"\n'


@pytest.fixture
def five(machine):
    """A machine with five versions, of which the second is the best."""
    machine.configure(POLICY)
    shutil.rmtree(machine.training)
    machine.training.mkdir()
    for epoch, fitness in enumerate((0.1, 0.9, 0.2, 0.3, 0.4)):
        data = checkpoint_bytes(epoch=epoch, best_fitness=fitness, fill=bytes([epoch]))
        (machine.training / "last.safetensors").write_bytes(data)
        machine.good("backup")
    return machine


def listed(machine):
    """The numbers of the versions that are listed."""
    return [one["version"] for one in machine.good("versions", "--json").json()["versions"]]


def test_the_rules_of_the_configuration_are_applied_and_undone(five):
    """A dry run shows each version with its reasons and what each rule saw; the rest is forgotten, and comes back."""
    shown = five.good("forget", "--dry-run").out
    assert "yolo: 2 of 5 versions would be forgotten" in shown
    assert re.search(r"^ +1 .* forget$", shown, re.MULTILINE)
    assert re.search(r"^ +2 .* keep\s+best; best 1 by best_fitness: 0.9$", shown, re.MULTILINE)
    assert re.search(r"^best 1 by best_fitness +5 +1$", shown, re.MULTILINE)
    assert listed(five) == [1, 2, 3, 4, 5]
    done = five.good("forget", "--yes").out
    assert "yolo: 2 versions forgotten; to bring back: mlsync unforget --run yolo 1 3" in done
    assert listed(five) == [2, 4, 5]
    assert "forgotten by the policy last 2, best 1 by best_fitness on" in five.good("versions", "--all").out
    assert five.good("forget", "--yes").out == "yolo: nothing to forget: 3 versions kept\n"
    five.good("unforget", "--run", "yolo", "1", "3")
    assert listed(five) == [1, 2, 3, 4, 5]


def test_too_many_at_once_take_their_number(five):
    """More than half is refused; the right number does it, a wrong one does not."""
    done = five.run("forget", "--keep", "last 1", "--yes")
    assert (done.status, "3 of the 5 versions of run 'yolo' would be removed" in done.err) == (89, True)
    assert "--yes-remove 3" in done.err
    assert "without --dry-run, this would be refused" in five.good("forget", "--keep", "last 1", "--dry-run").out
    assert five.run("forget", "--keep", "last 1", "--yes-remove", "4").status == 89
    assert listed(five) == [1, 2, 3, 4, 5]
    five.good("forget", "--keep", "last 1", "--yes-remove", "3")
    assert listed(five) == [2, 5]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--keep", "lst 3"], 2, "'lst 3' is no rule: did you mean last?"),
        (["--keep", "best 1 by fitnes"], 99, "did you mean best_fitness?"),
        (["3", "--keep", "last 3"], 2, "not both"),
        (["3", "--yes-remove", "3"], 2, "not both"),
        (["--run", "nobody"], 14, "no run named 'nobody'"),
        ([], 89, "there is no terminal to ask on"),
    ],
)
def test_what_cannot_be_applied_removes_nothing(five, arguments, status, said):
    """Each has its status, and a message that helps."""
    done = five.run("forget", *arguments)
    assert (done.status, said in done.err) == (status, True), done
    assert listed(five) == [1, 2, 3, 4, 5]


def test_a_version_that_does_not_open_stops_the_policy(five):
    """Nobody knows what it is; numbers by hand still work."""
    five.object("versions/*/*", 1).write_bytes(b"damaged")
    done = five.run("forget", "--yes")
    assert (done.status, "cannot be read" in done.err) == (99, True)
    five.good("forget", "1", "--yes")


def test_without_a_policy_all_versions_stay(five):
    """Nothing is removed by default."""
    five.configure(NO_DEVICE)
    done = five.run("forget", "--yes")
    assert (done.status, "nothing says which versions to keep of run 'yolo'" in done.err) == (2, True)


def test_each_run_has_its_own_policy(five):
    """All runs are looked at; one without a policy, and one whose policy is refused, keep no other from its own."""
    other = five.base / "other"
    other.mkdir()
    (other / "a.safetensors").write_bytes(checkpoint_bytes(epoch=1))
    watch = f'[[watch]]\ndirectory = "{other}"\nrun = "other"\n'
    five.configure(f'{watch}[watch.retention]\nkeep = ["every 3 steps"]\n{POLICY}')
    five.good("backup")
    done = five.run("forget", "--yes")
    assert (done.status, "of no version of run 'other' the step is known" in done.err) == (99, True)
    assert [one["run"] for one in five.good("versions", "--json").json()["versions"]].count("yolo") == 3
