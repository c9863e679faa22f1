"""The device of level 5: as the configuration says it, and none that is not there."""

from __future__ import annotations

import ast
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from proof_python import PROOF_PYTHON

from checkpoint_files import torch_bytes
from mlsync.errors import CommandUnavailable
from mlsync.proof.framework import Framework, load, state_dict_command
from mlsync.proof.programs import load_device
from mlsync.proof.programs.load_device import chosen_device

PROGRAMS = sorted(Path(load_device.__file__).parent.glob("load_*.py"))


def machine(count: int) -> SimpleNamespace:
    """A torch that sees so many GPUs, and notes which of them it was given."""
    given: list[int] = []
    cuda = SimpleNamespace(is_available=lambda: count > 0, device_count=lambda: count, set_device=given.append)
    return SimpleNamespace(cuda=cuda, given=given)


@pytest.mark.parametrize(
    ("wanted", "count", "device"),
    [
        ("cpu", 4, "cpu"),
        ("auto", 0, "cpu"),
        ("auto", 4, "cuda:0"),
        ("cuda", 4, "cuda:0"),
        ("cuda:0", 1, "cuda:0"),
        ("cuda:3", 4, "cuda:3"),
        ("auto%5", 4, "cuda:1"),
        ("cuda%3", 2, "cuda:1"),
        ("auto%3", 0, "cpu"),
    ],
)
def test_the_device_is_the_one_that_is_asked_for(wanted, count, device):
    """A number means that GPU, which becomes torch's own; ranks go round; auto does without."""
    torch_there = machine(count)
    assert chosen_device(torch_there, wanted) == device
    assert torch_there.given == ([int(device[5:])] if device != "cpu" else [])


@pytest.mark.parametrize(
    ("wanted", "count", "said"),
    [
        ("cuda", 0, "cuda was asked for, and torch sees no GPU"),
        ("cuda:1", 0, "cuda:1 was asked for, and torch sees no GPU"),
        ("cuda%1", 0, "torch sees no GPU"),
        ("cuda:1", 1, "there is no cuda:1, torch sees 1 GPU$"),
        ("cuda:4", 4, "there is no cuda:4, torch sees 4 GPUs"),
        ("cuda:x", 4, "'cuda:x' is no device"),
        ("mps", 4, "'mps' is no device"),
    ],
)
def test_a_device_that_is_not_there_is_refused(wanted, count, said):
    """Neither the first GPU nor the CPU is taken in its place."""
    with pytest.raises(RuntimeError, match=said):
        chosen_device(machine(count), wanted)


def test_one_piece_chooses_for_all_programs():
    """Each program of level 5 reads the piece, and none has one of its own."""
    assert [path.name for path in PROGRAMS if "def chosen_device" in path.read_text()] == ["load_device.py"]
    readers = [path.name for path in PROGRAMS if 'run_path(os.path.join(HERE, "load_device.py"))' in path.read_text()]
    assert readers == ["load_state_dict.py", "load_transformers.py", "load_ultralytics.py"]
    ast.parse(Path(load_device.__file__).read_text(), feature_version=(3, 9))


def test_a_gpu_that_is_not_there_says_nothing_of_the_checkpoint(tmp_path):
    """The program started by path ends with "cannot tell": the load is unavailable, not done on the CPU."""
    (tmp_path / "models.py").write_text(
        "import torch\ndef build():\n    return torch.nn.Linear(4, 2), torch.zeros(1, 4)\n", "utf-8"
    )
    (tmp_path / "a.pt").write_bytes(torch_bytes(torch.nn.Linear(4, 2).state_dict()))
    environment = {"PYTHONPATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    command = state_dict_command(PROOF_PYTHON, "cuda:1", "models:build")
    framework = Framework("state_dict", command, device="cuda:1", environment=environment)
    with pytest.raises(CommandUnavailable, match="cuda:1 was asked for, and torch sees no GPU"):
        load(framework, tmp_path / "a.pt", tmp_path, lambda: None)
