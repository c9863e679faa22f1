"""``versions`` and ``show`` as a person reads them, at the widths of terminals."""

from __future__ import annotations

import re
import subprocess

import pytest
import torch
from machine import MLSYNC, NO_DEVICE
from rich.cells import cell_len

LONG = "llama-3-8b-instruct-finetune-on-customer-support-dialogues"


def trainers_directory(machine, step):
    """A directory as Hugging Face's trainer writes it."""
    from safetensors.torch import save_file

    place = machine.training / f"checkpoint-{step}"
    place.mkdir()
    save_file({"lm_head.weight": torch.full((64, 64), float(step))}, place / "model.safetensors")
    torch.save({"state": {0: {"exp_avg": torch.ones(9)}}, "param_groups": [{"lr": 1.0}]}, place / "optimizer.pt")
    torch.save({"last_epoch": step, "_step_count": 1}, place / "scheduler.pt")
    (place / "trainer_state.json").write_text(
        f'{{"global_step": {step}, "epoch": 0.5, "best_metric": 0.9, "best_model_checkpoint": "x", "log_history": []}}'
    )


@pytest.fixture
def trained(machine):
    """A run with a long name, with the trainer's directories and checkpoints of epochs."""
    machine.configuration.write_text(machine.configuration.read_text().replace('run = "yolo"', f'run = "{LONG}"'))
    for step in (500, 1000):
        trainers_directory(machine, step)
    for epoch in (2, 10):
        weights = {"model": {"w": torch.full((50, 50), float(epoch))}, "epoch": epoch}
        torch.save(
            weights | {"optimizer": {"state": {0: torch.ones(2)}}}, machine.training / "weights" / f"epoch{epoch}.pt"
        )
    torch.save({"w": torch.full((50, 50), 1.5)}, machine.training / "weights" / "best.pt")
    machine.good("backup")
    return machine


@pytest.mark.parametrize("columns", [80, 120])
def test_lists_fit_the_terminal(trained, columns):
    """No line is wider than the terminal, with a long name of the run and files as trainers name them."""
    for command in (["versions"], ["show"]):
        for line in trained.on_terminal(*command, columns=columns).splitlines():
            # The directory of the test is a word that may be longer.
            assert cell_len(line) <= columns or " " not in line.strip()


def test_the_run_is_a_heading(trained):
    """The run's name stands above the table of its versions, whose heading names the time zone."""

    def said(command):
        # A process of its own, since Python reads the time zone when it starts.
        return subprocess.check_output([MLSYNC, command], env=trained.environment(TZ="Europe/Berlin"), text=True)

    shown = said("versions").splitlines()
    assert shown[0] == f"{LONG}: 1 version"
    assert re.fullmatch(r"VERSION  MADE \(CES?T\) +FILES +SIZE +NEW +STORED  PROOF", shown[1])
    assert re.match(r" +1  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", shown[2])
    assert re.search(r"MODIFIED \(CES?T(/CES?T)?\)", said("show"))


def test_runs_and_files_are_in_natural_order(trained):
    """Numbers in names count by their value: files, directories and runs."""
    shown = trained.good("show").out
    names = re.findall(r"(?:^|  )(checkpoint-\d+/|epoch\d+\.pt$)", shown.partition("\n\n")[2], re.MULTILINE)
    assert names[:2] == ["checkpoint-500/", "checkpoint-1000/"]
    assert [name for name in names if name.startswith("epoch")] == ["epoch2.pt", "epoch10.pt"]
    for name in ("exp10", "exp2"):
        trained.configure(NO_DEVICE, directory=trained.base / name)
        text = trained.configuration.read_text().replace('run = "yolo"', f'run = "{name}"')
        trained.configuration.write_text(text)
        (trained.base / name).mkdir()
        (trained.base / name / "log.txt").write_text("x")
        trained.good("backup")
    heads = [line for line in trained.good("versions").out.splitlines() if line.endswith("1 version")]
    assert heads == ["exp2: 1 version", "exp10: 1 version", f"{LONG}: 1 version"]


def test_what_training_can_resume_from(trained):
    """A trainer's directory is judged as a whole, a checkpoint in one file by itself, and a part of one not at all."""
    shown = trained.good("show", COLUMNS="160").out
    assert "checkpoint-500/: resumable as a whole" in shown
    assert re.search(r"epoch2\.pt +epoch 2, resumable$", shown, re.MULTILINE)
    assert re.search(r"best\.pt +weights only, no optimizer: not for resuming$", shown, re.MULTILINE)
    assert re.search(r"scheduler\.pt$", shown, re.MULTILINE)
    assert "not resumable" not in shown


def test_parameters_are_listed_once(trained):
    """How many parameters a model has stands behind the table, once for all files that have it."""
    shown = trained.good("show", COLUMNS="200").out
    assert shown.count("4,096 float32 parameters, safetensors: checkpoint-500/model.safetensors, ") == 1
    assert "2,500 float32 parameters: weights/best.pt, weights/epoch2.pt, weights/epoch10.pt" in shown
    assert " 0 " not in shown.partition("NAME")[2]


def test_notes_stand_below_their_row_where_they_do_not_fit(saved):
    """At 80 columns a note is a line below its version, broken between words; with room it stands beside it."""
    saved.configure(NO_DEVICE)
    last = saved.training / "weights" / "last.pt"
    last.write_bytes(last.read_bytes()[:-100])
    (saved.training / "results.csv").write_text("epoch,loss\n")
    assert saved.run("backup").status == 42
    rows = saved.good("versions").out.splitlines()
    at = next(number for number, line in enumerate(rows) if "last.pt" in line)
    assert rows[at].startswith("         ")
    assert [line[:9] for line in rows[2:5]] == ["      1  ", "      2  ", "      3  "]
    assert at > 4
    assert any(re.match(r" +3  .*last\.pt", line) for line in saved.good("versions", COLUMNS="300").out.splitlines())


@pytest.mark.parametrize("columns", ["", "0", "1", "20", "99999999999", "x", "-5"])
def test_any_width(trained, columns):
    """Whatever COLUMNS says, lists are printed; without a terminal and without it they are 100 wide."""
    done = trained.good("versions", COLUMNS=columns)
    assert re.search(r"^ +1  \d{4}-", done.out, re.MULTILINE)
    trained.good("show", COLUMNS=columns)
    if columns in ("", "x"):
        assert done.out == trained.good("versions", COLUMNS="100").out


def test_names_that_a_terminal_would_obey(saved):
    """Line breaks, escapes and paths of 300 letters are one line each, and shown."""
    long = saved.training / ("d" * 150)
    long.mkdir()
    (long / ("f" * 150)).write_text("x")
    (saved.training / "line\nbreak \x1b[31mred").write_text("x")
    (saved.training / "模型" / "チェックポイント").mkdir(parents=True)
    (saved.training / "模型" / "チェックポイント" / "重み.txt").write_text("x")
    saved.good("backup")
    shown = saved.good("show").out
    assert "line\\u000abreak \\u001b[31mred" in shown
    assert f"\n{'d' * 150}/\n" in shown
    assert "f" * 150 in shown
    assert "\n模型/チェックポイント/\n" in shown
    assert all(line.isprintable() for line in shown.splitlines())


def test_sentences_are_broken_on_a_terminal_alone(saved):
    """On a terminal a long error or result is broken between words; in a pipe each is one line."""
    for command in (["show", "so on"], ["check"], ["diff"], ["show", "1", "--version", "2"]):
        piped = saved.run(*command)
        shown = saved.on_terminal(*command, columns=50)
        assert shown.split() == (piped.out + piped.err).split()
        assert max(map(len, piped.out.splitlines() + piped.err.splitlines())) > 50
        assert max(map(len, shown.splitlines())) <= 50
