"""``mlsync diff``: what a person is told of what changed."""

from __future__ import annotations

import re

import pytest
import torch
from machine import checkpoint

COLUMNS = 80
SCREEN = 40


def save(machine, value, name="last.pt"):
    """Make a version in which a checkpoint holds *value*."""
    torch.save(value, machine.training / "weights" / name)
    machine.good("backup", "-q")


def lines(done):
    """What was printed, with single blanks."""
    return [re.sub(" +", " ", line).strip() for line in done.out.splitlines()]


def test_what_the_last_version_changed(saved):
    """Without arguments it compares the last version with the one before it."""
    shown = lines(saved.good("diff"))
    assert re.fullmatch(r"yolo: version 1 \(\S+ \S+ UTC\) -> version 2 \(\S+ \S+ UTC\)", shown[0])
    assert shown[1:] == [
        "1 changed, 2 the same; 24 B new",
        "",
        "SIZE NEW PATH",
        "changed 17 B -> 24 B 24 B results.csv",
    ]


def test_versions_are_named_as_everywhere(saved):
    """A and B are numbers, words or times, in either order; B is the last version if only A is named."""
    forward = saved.good("diff", "1", "2").out
    assert saved.good("diff", "1").out == forward
    assert saved.good("diff", "1", "latest", "results.csv", "--run", "yolo").out != forward
    assert "changed 24 B -> 17 B" in lines(saved.good("diff", "2", "1"))[4]
    made = saved.good("versions", "--json").json()["versions"][0]["made"]
    assert saved.good("diff", made).out == forward
    assert lines(saved.good("diff", "2", "2"))[1:] == ["3 the same; 0 B new"]


def test_how_tensors_moved(saved):
    """A block for a checkpoint says its facts, what became of its tensors, and how far they moved, in columns."""
    weight = torch.full((64, 64), 2.0)
    before = {"epoch": 3, "best_fitness": 0.123456789, "model": {"a": weight, "b": weight + 0, "c": torch.ones(3)}}
    after = {"epoch": 4, "model": {"a": weight * 1.5, "b": weight + 0, "d": torch.ones(()), "n": torch.tensor([1])}}
    before["model"]["n"] = torch.tensor([0])
    save(saved, before)
    save(saved, after)
    shown = lines(saved.good("diff"))
    at = shown.index("weights/last.pt")
    assert shown[at + 1] == "epoch 3 -> 4, best fitness 0.123457 -> none, parameter count 8,195 -> 8,193"
    assert shown[at + 2] == "tensors: 2 changed, 1 new, 1 gone, 1 the same"
    assert shown[at + 3 : at + 8] == [
        "MOVED LARGEST CHANGED DTYPE SHAPE TENSOR",
        "50.0 % 1 100 % float32 64x64 model.a",
        "- - 100 % int64 1 model.n",
        "new - - float32 scalar model.d",
        "gone - - float32 3 model.c",
    ]
    assert shown[-1].startswith("MOVED: ||B-A|| / ||A||.")


def test_what_is_no_number_is_said(saved):
    """NaN and infinite numbers are named beside the tensor; what came out of zero has no quotient."""
    save(saved, {"nan": torch.ones(5), "zero": torch.zeros(5), "cut": torch.ones(5)})
    numbers = torch.tensor([1, 1, float("nan"), float("inf"), 2])
    save(saved, {"nan": numbers, "zero": torch.ones(5), "cut": torch.ones(4)})
    shown = lines(saved.good("diff"))
    at = shown.index("57.7 % 1 60.0 % float32 5 nan")
    assert shown[at + 1] == "2 NaN or infinite, 0 before, left out"
    wide = lines(saved.good("diff", COLUMNS="120"))
    assert "57.7 % 1 60.0 % float32 5 nan 2 NaN or infinite, 0 before, left out" in wide
    assert "from 0 1 100 % float32 5 zero" in shown
    assert "reshaped - - float32 5 -> 4 cut" in shown


def test_files_that_are_no_regular_change(saved):
    """Renamed files name what they were, links where they lead, and modes stand beside the path."""
    train = saved.training
    (train / "weights" / "last.pt").rename(train / "weights" / "kept.pt")
    (train / "weights" / "best.pt").symlink_to("kept.pt")
    (train / "args.yaml").chmod(0o600)
    (train / "empty").mkdir()
    (train / "odd\x1b[31m").write_text("x")
    saved.good("backup")
    shown = lines(saved.good("diff"))
    assert "changed 10 B 0 B args.yaml mode 0644 -> 0600" in shown
    assert "came - - empty directory" in shown
    assert "came - - weights/best.pt symlink to kept.pt" in shown
    assert any(re.fullmatch(r"renamed .* KiB - weights/kept.pt was weights/last.pt", line) for line in shown)
    assert "came 1 B 1 B odd\\u001b[31m" in shown
    assert shown[1] == "1 changed, 3 came, 1 renamed, 1 the same; 1 B new"


def test_last_and_best_have_one_block(saved):
    """Checkpoints that were alike and are alike are told of once."""
    for epoch in (2, 3):
        for name in ("last.pt", "best.pt"):
            (saved.training / "weights" / name).write_bytes(checkpoint(epoch))
        saved.good("backup")
    shown = lines(saved.good("diff"))
    assert "weights/best.pt, weights/last.pt" in shown
    assert sum(line.startswith("tensors:") for line in shown) == 1


def fill(machine, seed):
    """A version with more of everything than a screen holds."""
    for number in range(30):
        (machine.training / f"log{number}.txt").write_text(f"{seed}\n" * 9)
    for number in range(6):
        torch.manual_seed(seed)
        model = {f"very.long.name.of.a.module.in.a.large.network.layers.{n}.weight": torch.randn(8) for n in range(20)}
        torch.save(
            {"epoch": seed, "shard": number, "model": model | {"own": torch.randn(number + 1)}},
            machine.training / "weights" / f"shard{number}.pt",
        )
    machine.good("backup")


def test_no_more_than_a_screen(saved):
    """However much changed, it fits a screen and says what is not shown; with --tensors 0 all of it is."""
    fill(saved, 1)
    fill(saved, 2)
    on_terminal = saved.on_terminal("diff", columns=COLUMNS).splitlines()
    assert len(on_terminal) <= SCREEN
    assert all(len(line) <= COLUMNS for line in on_terminal)
    shown = lines(saved.good("diff"))
    assert "and 29 more: 29 changed, which --tensors 0 shows" in shown
    assert "and 3 more checkpoints, which --tensors 0 or a PATH shows" in shown
    assert sum(" % " in line for line in shown) == 10
    assert sum(" % " in line for line in lines(saved.good("diff", "--tensors", "3"))) == 3
    whole = lines(saved.good("diff", "--tensors", "0"))
    assert sum(" % " in line for line in whole) == 6 * 21
    assert sum(line.startswith("changed") for line in whole) == 36
    assert len(saved.good("diff", "--json").json()["files"][-1]["checkpoint"]["tensors"]) == 21


def test_what_is_not_understood_is_said(saved):
    """A checkpoint that is compared as a plain file is named with the reason."""
    import pickle

    for value in (1, 2):
        (saved.training / "weights" / "old.pkl").write_bytes(pickle.dumps({"value": value}, 2))
        saved.good("backup")
    shown = lines(saved.good("diff"))
    at = shown.index("weights/old.pkl")
    assert shown[at + 1] == "compared as a plain file (no tensor was found in it)"


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("9",), 15, "no version 9, only 1 to 2"),
        (("1", "9"), 15, "no version 9, only 1 to 2"),
        (("1", "2", "nowhere"), 19, "neither version 1 nor 2 holds anything at nowhere"),
        (("weights/last.pt",), 2, "not a version: 'weights/last.pt'"),
        (("checkpoint-40",), 15, "or VERSION:PATH on both sides, such as latest:checkpoint-40"),
        (("--run", "other"), 14, "no run named 'other'"),
        (("--tensors", "-1"), 2, "--tensors"),
    ],
)
def test_what_cannot_be_compared(saved, arguments, status, said):
    """What is not there ends with the status that it has everywhere, and says so."""
    done = saved.run("diff", *arguments)
    assert (done.status, done.out) == (status, "")
    assert said in done.err


def test_the_first_version_has_none_before_it(machine):
    """Where there is one version only, that is said."""
    machine.configure()
    machine.good("backup")
    done = machine.run("diff")
    assert (done.status, "the first: there is none before it" in done.err) == (15, True)


def test_damage_ends_with_its_own_status(saved):
    """A pack that is gone ends with 30, as everywhere, where something of it is needed."""
    save(saved, {"w": torch.ones(40_000)})
    save(saved, {"w": torch.zeros(40_000)})
    for pack in saved.repository.glob("packs/*/*"):
        pack.unlink()
    assert saved.run("diff").status == 30
    assert saved.good("diff", "1", "2").out


def test_two_paths_of_a_version(saved):
    """``VERSION:PATH`` on both sides compares two directories or files; the heading names both."""
    for step in (500, 1000):
        (saved.training / f"checkpoint-{step}").mkdir()
        save(saved, {"w": torch.full((9,), float(step))}, name=f"../checkpoint-{step}/model.pt")
    done = saved.good("diff", "latest:checkpoint-500", "4:checkpoint-1000/")
    shown = lines(done)
    assert " ".join(shown[:2]).startswith("yolo: checkpoint-500 of version 4 (")
    assert re.search(r" -> checkpoint-1000 of version 4 \(\S+ \S+ UTC\)", " ".join(shown[:3]))
    assert any(re.fullmatch(r"changed .* model\.pt", line) for line in shown)
    assert "100 % 500 100 % float32 9 w" in shown
    value = saved.good("diff", "4:checkpoint-500", "4:checkpoint-1000", "--json").json()
    assert (value["before_path"], value["after_path"]) == ("checkpoint-500", "checkpoint-1000")
    assert [file["path"] for file in value["files"]] == ["model.pt"]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("2:weights",), 2, "only one of A and B has a path: weights (give the other one too, such as latest:weights)"),
        (("1", "2:weights"), 2, "such as 1:weights"),
        (("2:weights", "2:weights", "last.pt"), 2, "such as 2:weights/last.pt"),
        (
            ("2:weights", "2:results.csv"),
            2,
            "weights of version 2 is a directory, and results.csv of",
        ),
        (("2:weight", "2:weights"), 19, "did you mean weights"),
        (("1", "2", "result.csv"), 19, "did you mean results.csv?"),
        (("2:", "2:weights"), 2, "no path behind '2:'"),
        (("2:weights", "results.csv"), 2, "or VERSION:PATH on both sides"),
    ],
)
def test_paths_that_cannot_be_compared(saved, arguments, status, said):
    """A path on one side only, two kinds, and a path that is not there end before anything is read."""
    done = saved.run("diff", *arguments)
    assert (done.status, done.out) == (status, "")
    assert said in done.err


def test_weights_come_before_an_optimizer_in_a_file_of_its_own(saved):
    """Of a trainer that saves weights and optimizer apart, the weights are shown first, however little they moved."""
    for scale in (1.0, 9.0):
        moments = {number: {"exp_avg": torch.full((4,), scale)} for number in range(20)}
        torch.save({"state": moments, "param_groups": []}, saved.training / "optimizer.pt")
        save(saved, {"w": torch.full((4,), 1 + scale / 100)}, name="model.pt")
    shown = lines(saved.good("diff", "--tensors", "1"))
    assert "weights/model.pt" in shown
    assert sum(" % " in line for line in shown) == 1
    assert "tensors: 20 changed (20 the optimizer's), 0 the same" in lines(saved.good("diff"))
