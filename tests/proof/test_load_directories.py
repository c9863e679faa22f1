"""The built-in commands on checkpoints of several files, as torch's ranks and Hugging Face's writers leave them."""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from pathlib import Path

import pytest
import torch
from load_here import load_here
from safetensors.torch import save_file

from mlsync.proof.framework import DESCRIBED, HUGGING_FACE, Framework, Loaded, load, state_dict_command
from mlsync.proof.programs import load_transformers

pytestmark = pytest.mark.slow

MODELS = """
import torch

def layers(*more):
    return torch.nn.Sequential(torch.nn.Linear(7, 9), torch.nn.ReLU(), torch.nn.Linear(9, 3), *more), torch.zeros(1, 7)

def deeper():
    return layers(torch.nn.Linear(3, 3))

def wider():
    return torch.nn.Sequential(torch.nn.Linear(7, 9), torch.nn.ReLU(), torch.nn.Linear(9, 4)), torch.zeros(1, 7)

def renamed():
    return torch.nn.ModuleDict({"first": torch.nn.Linear(7, 9)}), torch.zeros(1, 7)
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Where the models are to be imported from."""
    place = tmp_path_factory.mktemp("models")
    (place / "models.py").write_text(MODELS)
    return place


@pytest.fixture
def fsdp(two_ranks):
    """What two ranks saved of a model under FSDP2 with its optimizer."""
    assert len(list((two_ranks / "fsdp").glob("*.distcp"))) == 2
    return two_ranks / "fsdp"


def the_command(models, model):
    """The built-in command that loads into one of the models."""
    command = state_dict_command(sys.executable, "cpu", f"models:{model}")
    return Framework("state_dict", command, environment={"PYTHONPATH": str(models)}, device="cpu")


def loaded(models, directory, model):
    """What becomes of loading a directory into one of the models, in a process."""
    return load(the_command(models, model), directory, models, lambda: None)


def loaded_here(models, directory, model):
    """The same without a process."""
    return load_here(the_command(models, model), directory)


def test_what_two_ranks_saved_is_loaded_by_one(models, fsdp):
    """The model's part of a distributed checkpoint is read into a model that is whole, and the optimizer's is not."""
    assert loaded(models, fsdp, "layers") == Loaded()


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("deeper", "Missing key in checkpoint state_dict: model.3."),
        ("wider", "Size mismatch between saved torch.Size([3"),
        ("renamed", "Unexpected key(s) in the checkpoint: 0.bias, 0.weight, 2.bias and 1 more"),
    ],
)
def test_a_distributed_state_that_does_not_fit_is_refused(models, fsdp, model, said):
    """A tensor that is missing, left over, of another shape or of another name speaks against the checkpoint."""
    assert said in loaded_here(models, fsdp, model).refused


def test_a_refusal_of_torchs_reader_is_in_the_last_words(models, fsdp):
    """What a process shows at its end of a distributed state that does not fit has the reason in it."""
    assert "Size mismatch between saved torch.Size([3" in loaded(models, fsdp, "wider").refused


def test_a_distributed_checkpoint_within_another_directory_is_found(models, fsdp, tmp_path):
    """As where Hugging Face's trainer put it under FSDP: the optimizer's is passed by, and the weights' is loaded."""
    import torch.distributed.checkpoint as dcp

    shutil.copytree(fsdp, tmp_path / "pytorch_model_fsdp_0")
    moments = {"optim": {"state": {"0.weight": {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}}
    with warnings.catch_warnings(action="ignore"):  # that it is one process
        dcp.save(moments, checkpoint_id=tmp_path / "optimizer_0", no_dist=True)
    assert loaded_here(models, tmp_path, "layers") == Loaded()
    shutil.rmtree(tmp_path / "pytorch_model_fsdp_0")
    assert loaded_here(models, tmp_path, "layers") == Loaded(skipped=True)


def write_shards(directory: Path, state) -> None:
    """Write a state in two files with their index, as Hugging Face does."""
    names = sorted(state)
    index = {}
    for number, part in enumerate((names[:2], names[2:])):
        file = f"model-0000{number + 1}-of-00002.safetensors"
        save_file({name: state[name] for name in part}, directory / file)
        index |= dict.fromkeys(part, file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def model_state():
    """The state of the model."""
    return torch.nn.Sequential(torch.nn.Linear(7, 9), torch.nn.ReLU(), torch.nn.Linear(9, 3)).state_dict()


def test_a_state_in_several_files_is_put_together(models, tmp_path):
    """The files that an index names make one state; one that is not what the index says is refused."""
    write_shards(tmp_path, model_state())
    assert loaded_here(models, tmp_path, "layers") == Loaded()
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("0.bias", "0.other"))
    said = loaded_here(models, tmp_path, "layers").refused
    assert "the index and its files do not name the same weights: 0.bias, 0.other" in said


def test_a_state_in_one_file_of_a_directory_is_found(models, tmp_path):
    """Beside what else lies there; a directory without weights is skipped."""
    (tmp_path / "config.json").write_text("{}")
    assert loaded(models, tmp_path, "layers") == Loaded(skipped=True)
    save_file(model_state(), tmp_path / "model.safetensors")
    assert loaded_here(models, tmp_path, "layers") == Loaded()


# ---------------------------------------------------------------- transformers


class Network(torch.nn.Module):
    """A model as transformers has them; it keeps what it was called with."""

    def __init__(self, takes="input_ids", *, is_encoder_decoder=False):
        super().__init__()
        self.main_input_name = takes
        self.config = type("Config", (), {"is_encoder_decoder": is_encoder_decoder})
        self.seen = None

    def forward(self, input_ids=None, decoder_input_ids=None, **more):
        """Keep it."""
        self.seen = (input_ids, decoder_input_ids)


class NeedsMore(Network):
    """One that cannot do with tokens alone."""

    def forward(self, input_ids, pixel_values):
        """Never called."""
        raise AssertionError


def test_a_model_is_run_on_tokens_if_it_takes_them():
    """Models that take tokens are, those with a decoder with tokens for it too, and others are only loaded."""
    for model, shapes in (
        (Network(), ((1, 8), None)),
        (Network(is_encoder_decoder=True), ((1, 8), (1, 8))),
        (Network("pixel_values"), None),
        (NeedsMore(), None),
    ):
        load_transformers.run(torch, model, "cpu")
        assert model.seen is None if shapes is None else [shape_of(one) for one in model.seen] == list(shapes)


def shape_of(tokens):
    """The shape of what the model got, if it got anything."""
    return None if tokens is None else tuple(tokens.shape)


@pytest.mark.parametrize(
    ("patterns", "kinds", "path", "found", "is_meant"),
    [
        ((), HUGGING_FACE, b"final", {"huggingface-weights"}, True),
        ((), HUGGING_FACE, b"step", {"dcp"}, False),
        ((), {DESCRIBED}, b"final", {DESCRIBED, "dcp"}, True),
        ((), (), b"checkpoint-5", {"huggingface-trainer"}, False),
        (("checkpoint-*/",), (), b"a/checkpoint-5", set(), True),
        (("b/checkpoint-*/",), (), b"a/checkpoint-5", set(), False),
        (("./",), (), b"", set(), True),
        (("*",), HUGGING_FACE, b"final", {"huggingface-weights"}, False),
    ],
)
def test_the_command_is_meant_for_some_directories(patterns, kinds, path, found, is_meant):
    """By patterns that end in a slash, and without any by what kind of checkpoint of several files a directory is."""
    one = Framework("check", ("true", "{path}"), patterns=patterns, kinds=kinds)
    assert one.is_meant_for_directory(path, found) is is_meant


def test_a_fingerprint_is_of_what_may_fare_otherwise(tmp_path):
    """It is another one for another command, pattern or program, and the same for another deadline."""
    program = tmp_path / "check.py"
    program.write_text("1")
    one = {"name": "check", "command": ("python", str(program), "{path}")}
    known = Framework(**one).fingerprint()
    assert Framework(**one, timeout_s=5.0).fingerprint() == known
    assert Framework(**one | {"command": ("python3", str(program), "{path}")}).fingerprint() != known
    assert Framework(**one, patterns=("*.pt",)).fingerprint() != known
    program.write_text("12")
    assert Framework(**one).fingerprint() != known


def test_a_file_of_a_directory_may_be_written_as_large_as_it_was(tmp_path):
    """What a command may write is bounded by the largest file that it was given, not by 1 GiB."""
    (tmp_path / "model").mkdir()
    with (tmp_path / "model" / "large").open("wb") as file:
        file.truncate(3 << 30)
    script = "test $(ulimit -f) -ge $((3 << 20))"
    framework = Framework("check", ("bash", "-c", script, "bash", "{path}"))
    assert load(framework, tmp_path / "model", tmp_path, lambda: None) == Loaded()
