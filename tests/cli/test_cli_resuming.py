"""How to resume, as a restore says it, from files as each framework writes them."""

from __future__ import annotations

import os
import shutil
import subprocess
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.filesystem import FileSystemWriter

from checkpoint_files import network, torch_bytes, yolo_bytes
from mlsync.cli.reports.resuming import resumes

MADE = Path(__file__).parents[1] / "formats/made"


def trained():
    """A small network after a step, and its optimizer."""
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 3, 8, 8)).square().mean().backward()
    optimizer.step()
    return model, optimizer


def write_ultralytics(directory: Path) -> None:
    """What Ultralytics keeps of a training: both files from one buffer, and one epoch's own."""
    (directory / "weights").mkdir(parents=True)
    for name in ("last.pt", "best.pt", "epoch9.pt"):
        (directory / "weights" / name).write_bytes(yolo_bytes())


def write_stripped(directory: Path) -> None:
    """What Ultralytics leaves when a training has ended."""
    (directory / "weights").mkdir(parents=True)
    content = {"epoch": -1, "ema": None, "model": network().half(), "optimizer": None, "train_args": {}}
    for name in ("last.pt", "best.pt"):
        (directory / "weights" / name).write_bytes(torch_bytes(content))


def write_trainer(directory: Path) -> None:
    """Two checkpoints of Hugging Face's trainer."""
    shutil.copytree(MADE / "huggingface-trainer", directory, dirs_exist_ok=True)


def write_lightning(directory: Path) -> None:
    """A checkpoint of Lightning, under its own name and as the last one."""
    directory.mkdir(exist_ok=True)
    for name in ("epoch=1-step=6.ckpt", "last.ckpt"):
        shutil.copy(MADE / "lightning-default.ckpt", directory / name)


def write_dcp(directory: Path) -> None:
    """Two steps of a distributed checkpoint."""
    model, optimizer = trained()
    for step in (50, 100):
        writer = FileSystemWriter(directory / f"step-{step}", sync_files=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about torch
            dcp.save(
                {"model": model.state_dict(), "optimizer": optimizer.state_dict()}, storage_writer=writer, no_dist=True
            )


def write_torch(directory: Path) -> None:
    """What a loop of one's own saves."""
    model, optimizer = trained()
    directory.mkdir(exist_ok=True)
    for epoch in (9, 10):
        content = {"epoch": epoch, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
        (directory / f"epoch{epoch}.pt").write_bytes(torch_bytes(content))


def write_safetensors(directory: Path) -> None:
    """Weights and moments in one file without a pickle."""
    directory.mkdir(exist_ok=True)
    tensors = {"model.weight": torch.ones(8), "optimizer.weight.exp_avg": torch.ones(8)}
    safetensors.torch.save_file(tensors, directory / "last.safetensors", {"epoch": "3"})


def write_groups(directory: Path) -> None:
    """Saves of DeepSpeed and of accelerate."""
    shutil.copytree(MADE / "groups/deepspeed-zero1", directory / "deepspeed")
    shutil.copytree(MADE / "groups/accelerate/checkpoints", directory / "accelerate")


def restored(machine, write, *arguments, to="back"):
    """What a restore says as JSON, and for people, of what *write* wrote."""
    shutil.rmtree(machine.training)
    write(machine.training)
    machine.good("backup")
    told = machine.good("restore", "--to", to, *arguments, "--json").json()["resume"]
    return told, machine.good("restore", "--to", to, *arguments, COLUMNS="1000").out.splitlines()[1:]


@pytest.mark.parametrize(
    ("write", "kind", "path", "line", "about"),
    [
        (
            write_trainer,
            "huggingface-trainer",
            "checkpoint-3",
            'trainer.train(resume_from_checkpoint="{}")',
            "Hugging Face's Trainer, step 3",
        ),
        (
            write_lightning,
            "lightning",
            "last.ckpt",
            'trainer.fit(model, ckpt_path="{}")',
            "Lightning, epoch 1, step 6",
        ),
        (
            write_dcp,
            "dcp",
            "step-100",
            'dcp.load(state_dict, checkpoint_id="{}")',
            "torch.distributed.checkpoint, step 100",
        ),
        (
            write_torch,
            "torch",
            "epoch10.pt",
            'checkpoint = torch.load("{}", map_location="cpu", weights_only=True)',
            "torch, epoch 10",
        ),
        (
            write_safetensors,
            "safetensors",
            "last.safetensors",
            'tensors = safetensors.torch.load_file("{}")',
            "safetensors, epoch 3",
        ),
    ],
    ids=["huggingface", "lightning", "dcp", "torch", "safetensors"],
)
def test_a_restore_says_the_frameworks_line(machine, write, kind, path, line, about):
    """The newest checkpoint that training can resume from, with its absolute path, in the words of its framework."""
    told, said = restored(machine, write)
    place = str(machine.base / "back" / path)
    assert told == [{"kind": kind, "path": place, "line": line.format(place)}]
    assert said[:2] == [f"To resume the training ({about}):", "    " + line.format(place)]


def test_a_script_with_the_trainers_options_needs_no_edit(machine):
    """For Hugging Face's Trainer a restore also says the option by which scripts that have its options resume."""
    _, said = restored(machine, write_trainer)
    option = f"--resume_from_checkpoint={machine.base}/back/checkpoint-3"
    assert said[2:] == [f"If your script has the Trainer's options, add {option} instead."]


def test_ultralytics_is_told_where_to_write(machine):
    """Ultralytics writes where the checkpoint says, so the line names another directory, and not the same one."""
    told, said = restored(machine, write_ultralytics)
    back = machine.base / "back"
    line = f"yolo train resume model={back}/weights/last.pt save_dir={back}"
    assert told == [{"kind": "ultralytics", "path": f"{back}/weights/last.pt", "line": line}]
    # The file says epoch 4: Ultralytics itself counts from 1.
    assert said[0] == "To resume the training (Ultralytics, after epoch 5):"
    assert said[1:] == ["    " + line, "If the data set lies elsewhere than on the old machine, add data=FILE."]
    same = machine.good("restore", "--json").json()["resume"][0]["line"]
    assert same == f"yolo train resume model={machine.training}/weights/last.pt"


def test_the_line_to_copy_is_never_broken(machine):
    """On a narrow terminal sentences are broken at blanks, and the command stays on its line."""
    told, _ = restored(machine, write_ultralytics)
    out = machine.on_terminal("restore", "--to", "back", columns=40).splitlines()
    assert "    " + told[0]["line"] in out
    assert all(len(line) <= 40 for line in out if "/" not in line)
    in_a_pipe = machine.good("restore", "--to", "back", COLUMNS="40").out.splitlines()
    assert "If the data set lies elsewhere than on the old machine, add data=FILE." in in_a_pipe


def test_of_several_trainings_the_newest_comes_first(machine):
    """A directory of projects has a line for each training in JSON, and one for people."""

    def write(directory: Path) -> None:
        for age_s, name in enumerate(("train3", "train", "train2")):
            write_ultralytics(directory / name)
            for path in (directory / name / "weights").iterdir():
                os.utime(path, (10**9 - age_s, 10**9 - age_s))

    told, said = restored(machine, write)
    back = machine.base / "back"
    assert [one["path"] for one in told] == [f"{back}/{name}/weights/last.pt" for name in ("train3", "train", "train2")]
    named = f"{back}/train/weights/last.pt, {back}/train2/weights/last.pt"
    assert said[-1] == f"Other trainings there: {named}; --json has their lines"


def test_saves_of_deepspeed_and_accelerate_have_their_lines(machine):
    """A tag is loaded from the directory above it, a directory of accelerate as it is."""
    told, _ = restored(machine, write_groups)
    back = machine.base / "back"
    assert {one["kind"]: one["line"] for one in told} == {
        "deepspeed": f'engine.load_checkpoint("{back}/deepspeed", tag="global_step2")',
        "accelerate": f'accelerator.load_state("{back}/accelerate/checkpoint_0")',
    }


def test_megatron_is_told_what_to_load():
    """A save of Megatron-LM is loaded by an option, from the directory above it."""
    facts = {"has_optimizer": True, "parameter_count": 5, "resumable": True}
    proof = SimpleNamespace(facts=facts, container="torch-zip", findings=[], is_broken=False)
    entry = SimpleNamespace(path=b"iter_0000010/mp_rank_00/model_optim_rng.pt", mtime_ns=0, proof=proof)
    (found,) = resumes([entry], b"/my runs", b"/old")
    assert (found.kind, found.path, found.line) == ("megatron", b"/my runs/iter_0000010", "--load '/my runs'")


@pytest.mark.parametrize(
    ("paths", "count"), [(("checkpoint-3",), 1), (("checkpoint-3/model.safetensors",), 0), (("**/*.json",), 0)]
)
def test_only_what_came_back_counts(machine, paths, count):
    """A checkpoint of several files is named if all that it takes was restored, and not for its weights alone."""
    told, said = restored(machine, write_trainer, *paths)
    assert len(told) == count
    if paths == ("checkpoint-3/model.safetensors",):
        assert said[0].startswith("Nothing to resume from here: checkpoint-3/model.safetensors has weights without")


def test_a_training_that_has_ended_is_not_resumed(machine):
    """Of stripped checkpoints a restore says in one line what they are good for, and what may give others."""
    told, said = restored(machine, write_stripped)
    assert told == []
    (line,) = said
    assert line.startswith("This training has ended: weights/best.pt, weights/last.pt are stripped of the optimizer")
    assert "--version resumable" in line


def test_a_version_without_checkpoints_says_nothing(machine):
    """Logs alone are restored without a word on resuming."""
    told, said = restored(machine, lambda directory: directory.mkdir() or (directory / "log.txt").write_text("1\n"))
    assert (told, said) == ([], [])


ODD = ("a b", "it's", 'quo"te', "new\nline", "back\\slash", "$HOME", "caf\udce9", "ünï")


@pytest.mark.parametrize("name", ODD)
def test_a_line_of_the_shell_is_quoted(machine, name):
    """Whatever is in the path, bash makes of the line the words that were meant."""
    told, _ = restored(machine, write_ultralytics, to=str(machine.base / name))
    line = told[0]["line"]
    assert line.isprintable()
    done = subprocess.run(
        ["bash", "-c", f"yolo() {{ printf '%s\\0' \"$@\"; }}; {line}"], capture_output=True, check=True
    )
    place = os.fsencode(machine.base / name)
    words = [b"train", b"resume", b"model=" + place + b"/weights/last.pt", b"save_dir=" + place]
    assert done.stdout.split(b"\0")[:-1] == words


@pytest.mark.parametrize("name", ODD)
def test_a_line_of_python_is_quoted(machine, name):
    """Whatever is in the path, Python makes of the line a call that opens the file."""
    told, _ = restored(machine, write_torch, to=str(machine.base / name))
    line = told[0]["line"]
    assert line.isprintable()
    found: dict[str, object] = {"torch": torch}
    exec(line, found)
    assert found["checkpoint"]["epoch"] == 10
