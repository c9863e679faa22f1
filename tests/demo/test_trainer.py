import argparse
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open

from mlsync.demo import numpy_network, safetensors_file
from mlsync.demo.kinds import KINDS
from mlsync.demo.trainer import Trainer


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """A training of a few small steps an epoch."""
    for module in ("torch_network", "numpy_network"):
        for name, value in [("TRAIN_COUNT", 256), ("VALIDATION_COUNT", 128), ("WIDTH", 16)]:
            monkeypatch.setattr(f"mlsync.demo.{module}.{name}", value)


def train(directory, epochs, kind, *, resume=False):
    given = {"directory": directory, "epochs": epochs, "resume": resume, "save_period": 2, "seed": 3, "rate": 1e-3}
    Trainer(argparse.Namespace(**given, trainer=kind)).run()


def torchs_numbers(file):
    """Weights and the optimizer's second moments."""
    content = torch.load(file, weights_only=False)
    moments = content["optimizer"]["state"]
    return [*content["weights"].values(), *(moments[number]["exp_avg_sq"] for number in moments)]


def numpys_numbers(file):
    """Weights, both moments, and last of all the state of the generator."""
    tensors, texts = safetensors_file.unpacked(file.read_bytes())
    return [*tensors.values(), np.frombuffer(texts["random_state"].encode(), np.uint8)]


@pytest.mark.parametrize(("kind", "numbers"), [("torch", torchs_numbers), ("numpy", numpys_numbers)])
def test_a_resumed_training_is_the_uninterrupted_one_to_the_last_bit(tmp_path, kind, numbers):
    """Three epochs at once and one, then two more, give the same weights and the same optimizer state.

    A row of an epoch whose checkpoint was lost does not stand in the table twice.
    """
    last = KINDS[kind].last
    train(tmp_path / "whole", 3, kind)
    train(tmp_path / "parts", 1, kind)
    with (tmp_path / "parts/results.csv").open("a") as stream:
        stream.write("2,0.1,9,9,9,9\n")
    train(tmp_path / "parts", 3, kind, resume=True)
    one, two = numbers(tmp_path / "whole" / last), numbers(tmp_path / "parts" / last)
    assert len(one) == len(two) > 20
    assert all(np.array_equal(before, after) for before, after in zip(one, two, strict=True))
    rows = (tmp_path / "parts/results.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["epoch", "1", "2", "3"]
    assert "2,0.1,9,9,9,9" not in rows


def test_an_epoch_is_saved_as_ultralytics_saves_it(tmp_path):
    """The files of an epoch are alike to the byte, the table has a row more, and the checkpoint has its usual keys."""
    train(tmp_path, 2, "torch")
    last = (tmp_path / "weights/last.pt").read_bytes()
    assert (tmp_path / "weights/epoch2.pt").read_bytes() == last
    assert not (tmp_path / "weights/epoch1.pt").exists()
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 3
    content = torch.load(tmp_path / "weights/last.pt", weights_only=False)
    assert content["model"] is None
    assert {parameter.dtype for parameter in content["ema"].parameters()} == {torch.float16}
    assert content["train_results"]["epoch"] == [1.0, 2.0]
    assert content.keys() >= {"epoch", "best_fitness", "updates", "optimizer", "train_args", "date", "version"}


def test_numpys_checkpoint_is_read_by_the_library(tmp_path):
    """The library of safetensors finds each tensor, with its shape and numbers, and the texts with epoch and step."""
    train(tmp_path, 2, "numpy")
    file = tmp_path / "weights/last.safetensors"
    assert (tmp_path / "weights/epoch2.safetensors").read_bytes() == file.read_bytes()
    tensors, texts = safetensors_file.unpacked(file.read_bytes())
    with safe_open(file, "numpy") as opened:
        assert opened.metadata() == texts
        assert sorted(opened.keys()) == sorted(tensors)
        assert all(np.array_equal(opened.get_tensor(name), tensor) for name, tensor in tensors.items())
    assert (texts["epoch"], texts["step"]) == ("2", "8")
    assert json.loads(texts["train_results"])["epoch"] == [1.0, 2.0]
    assert tensors["model.blocks.0.first.weight"].shape == (numpy_network.WIDTH, numpy_network.WIDTH)


def test_numpys_gradients_are_right():
    """Each parameter's gradient is what becomes of the loss when the parameter is moved a little along it."""
    random = np.random.default_rng(1)
    network = numpy_network.NumpyNetwork(random)
    network.parameters.flat += random.normal(size=network.parameters.flat.shape).astype(np.float32) / 10
    _, (features, classes) = numpy_network.dataset(random)
    gradients, unused = network.parameters.alike(), network.parameters.alike()
    network.loss_and_gradients(features, classes, gradients)
    for name, part in network.parameters.named.items():
        gradient = gradients.named[name]
        move = gradient * (np.float32(0.02) / np.linalg.norm(gradient))
        before = part.copy()
        losses = []
        for sign in (1, -1):
            part[...] = before + sign * move
            losses.append(network.loss_and_gradients(features, classes, unused))
        part[...] = before
        wanted = float((gradient * move).sum())
        assert (losses[0] - losses[1]) / 2 == pytest.approx(wanted, rel=0.01), name


def test_numpys_trainer_imports_no_torch(tmp_path):
    """Where every import of torch fails, numpy's trainer trains, saves and resumes."""
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from mlsync.demo import numpy_network, trainer\n"
        "numpy_network.TRAIN_COUNT = numpy_network.VALIDATION_COUNT = numpy_network.WIDTH = 64\n"
        "trainer.main()\n"
    )
    for epochs, *options in ["1"], ["2", "--resume"]:
        command = [sys.executable, "-c", program, str(tmp_path), "--epochs", epochs, "--trainer", "numpy", *options]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout.splitlines()[-1]) == {"event": "finished", "epoch": int(epochs)}
        assert done.stderr == ""
