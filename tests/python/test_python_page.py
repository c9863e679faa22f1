"""docs/python.md: each example is run as it stands, beside a real agent, with stand-ins for the frameworks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mlsync
from doubles.told_agent import ToldAgent, ToldJob

STAND_IN = Path(__file__).with_name("stand_in")
AGENT = Path(mlsync.__file__).parents[1]
PAGE = (AGENT.parent / "docs" / "python.md").read_text()
EXAMPLES = dict(re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
WAITING = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[1]
# Says on stderr what was told, when it was told, and what was there then.
RECORDING = """
import os, sys
from pathlib import Path
import mlsync.python.now as module
ask = module.AgentAt.ask
def asked(self, target, **more):
    answer = ask(self, target, **more)
    if target.startswith("/saved"):
        path = Path(os.fsdecode(bytes.fromhex(target.partition("path=")[2].partition("&")[0])))
        files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
        there = " ".join(f"{one.name}={one.read_text()!r}" for one in files if one.exists())
        sys.stderr.write(f"{answer.status} {os.path.relpath(path)}: {there}\\n")
    return answer
module.AgentAt.ask = asked
"""


@pytest.fixture
def job(tmp_path):
    (tmp_path / "runs").mkdir()
    return ToldJob("runs", tmp_path / "runs")


@pytest.fixture
def run(tmp_path, job):
    """Runs a program in the directory above the watched one; returns what it told and what it printed."""

    def run(program):
        (tmp_path / "program.py").write_text(RECORDING + program)
        environ = os.environ | {"PYTHONPATH": f"{STAND_IN}:{AGENT}", "MLSYNC_SOCKETS": str(tmp_path / "state")}
        command = [sys.executable, "-S", "program.py"]
        done = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stderr.splitlines(), done.stdout

    (tmp_path / "state").mkdir(mode=0o700)
    with ToldAgent([job], tmp_path / "state"):
        yield run


def test_every_part_with_an_example_is_run():
    """A new example on the page has a test here, or in test_cli_from_python.py."""
    assert list(EXAMPLES) == [
        "A loop of your own",
        "Ultralytics",
        "Hugging Face Trainer",
        "Lightning",
        "torch.distributed.checkpoint",
        "In a notebook",
    ]
    assert PAGE.count("```python") == 7


def test_a_loop_tells_of_each_save(run):
    """The file is whole each time."""
    told, printed = run(EXAMPLES["A loop of your own"])
    assert [line.partition(", ")[0] for line in told] == [
        f"202 runs/last.pt: last.pt=\"{{'epoch': {n}" for n in range(3)
    ]
    assert printed == ""


def test_a_wait_prints_the_version_and_its_level(run, job):
    """The example prints what it says."""
    (job.directory / "last.pt").write_text("1")
    assert run(WAITING)[1] == "version 1 is safe, proved to level 4\n"


def test_ultralytics_tells_when_all_files_of_an_epoch_are_there(run):
    """After each epoch all of weights/, and at the end the stripped files."""
    told, _ = run(EXAMPLES["Ultralytics"])
    epochs = [f"'{epoch}, with optimizer'" for epoch in range(3)]
    assert told == [
        *(f"202 runs/train/weights: best.pt={text} last.pt={text}" for text in epochs),
        "202 runs/train: best.pt='stripped' last.pt='stripped'",
    ]


def test_the_trainer_tells_of_each_checkpoint(run):
    """Each is whole, and the output directory is told of at the end."""
    told, _ = run(EXAMPLES["Hugging Face Trainer"])
    assert told[:3] == [
        f"202 runs/checkpoint-{step}: model.safetensors='{step}' optimizer.pt='{step}' trainer_state.json='{step}'"
        for step in (1, 2, 3)
    ]
    assert told[3].startswith("202 runs: ")


def test_other_ranks_of_the_trainer_tell_nothing(run):
    """The process that did not write the checkpoint is silent, and so is a search that names directories otherwise."""
    assert run(
        EXAMPLES["Hugging Face Trainer"].replace(
            "trainer.train()",
            "from types import SimpleNamespace as N\n"
            "callback = trainer.callbacks[0]\n"
            "callback.on_save(arguments, N(global_step=1, is_world_process_zero=False), None)\n"
            "callback.on_train_end(arguments, N(global_step=1, is_world_process_zero=False), None)\n"
            "callback.on_save(arguments, N(global_step=1, is_world_process_zero=True), None)",
        )
    )[0] == ["202 runs: "]


def test_lightning_tells_of_each_file(run):
    """Behind the strategy: each file is whole, and after the training everything is as it was."""
    told, printed = run(EXAMPLES["Lightning"] + '\nprint("save_checkpoint" in vars(trainer.strategy))\n')
    names = [name for epoch in range(3) for name in (f"epoch={epoch}.ckpt", "last.ckpt")]
    assert told == [f"202 runs/{name}: {name}='weights'" for name in names]
    assert printed == "False\n"


def test_lightning_tells_late_of_what_is_written_late(run):
    """With a plug-in that writes in the background nothing is told before the file is there."""
    told, printed = run(
        EXAMPLES["Lightning"]
        .replace("Trainer(max_epochs=3", "Trainer(plugin=io, max_epochs=1")
        .replace(
            "trainer =", "from lightning.pytorch import FileIO, LaterIO\nio = LaterIO(LaterIO(FileIO()))\ntrainer ="
        )
        .replace(
            "trainer.fit()",
            "trainer.callbacks[1].teardown = lambda *_: None\ntrainer.fit()\nprint('fitted', flush=True)",
        )
        + "io.work()\nprint(len(io.checkpoint_io.later))\nio.checkpoint_io.work()\n"
    )
    assert told == [f"202 runs/{name}: {name}='weights'" for name in ("epoch=0.ckpt", "last.ckpt")]
    assert printed == "fitted\n2\n"


def test_a_distributed_checkpoint_is_told_of_when_its_metadata_is_there(run):
    """At once after save, and for async_save when the future ends."""
    told, _ = run(EXAMPLES["torch.distributed.checkpoint"])
    assert [line.partition(":")[0] for line in told] == ["202 runs/step-100", "202 runs/step-200"]
    assert all(".metadata='whole'" in line for line in told)
