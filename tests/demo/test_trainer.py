import argparse

import pytest
import torch

from mlsync.demo import checkpoint
from mlsync.demo.trainer import Trainer


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small(monkeypatch):
    """A training of a few steps an epoch."""
    monkeypatch.setattr("mlsync.demo.network.TRAIN_COUNT", 256)
    monkeypatch.setattr("mlsync.demo.network.VALIDATION_COUNT", 128)


def train(directory, epochs, *, resume=False):
    arguments = argparse.Namespace(directory=directory, epochs=epochs, resume=resume, save_period=2, seed=3, rate=1e-3)
    Trainer(arguments).run()


def weights(directory):
    content = torch.load(directory / checkpoint.LAST, weights_only=False)
    return content["weights"], content["optimizer"]["state"]


@pytest.mark.usefixtures("small")
def test_a_resumed_training_is_the_uninterrupted_one_to_the_last_bit(tmp_path):
    """Three epochs at once and one, then two more, give the same weights and the same optimizer state."""
    train(tmp_path / "whole", 3)
    train(tmp_path / "parts", 1)
    train(tmp_path / "parts", 3, resume=True)
    (one, one_state), (two, two_state) = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert all(torch.equal(one_state[number]["exp_avg_sq"], two_state[number]["exp_avg_sq"]) for number in one_state)


@pytest.mark.usefixtures("small")
def test_an_epoch_is_saved_as_ultralytics_saves_it(tmp_path):
    """The files of an epoch are alike to the byte, the table has a row more, and the checkpoint has its usual keys."""
    train(tmp_path, 2)
    last = (tmp_path / "weights/last.pt").read_bytes()
    assert (tmp_path / "weights/epoch2.pt").read_bytes() == last
    assert not (tmp_path / "weights/epoch1.pt").exists()
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 3
    content = torch.load(tmp_path / "weights/last.pt", weights_only=False)
    assert content["model"] is None
    assert {parameter.dtype for parameter in content["ema"].parameters()} == {torch.float16}
    assert content["train_results"]["epoch"] == [1.0, 2.0]
    assert content.keys() >= {"epoch", "best_fitness", "updates", "optimizer", "train_args", "date", "version"}


@pytest.mark.usefixtures("small")
def test_a_resume_forgets_rows_of_epochs_that_it_trains_again(tmp_path):
    """A row of an epoch whose checkpoint was lost does not stand in the table twice."""
    train(tmp_path, 1)
    with (tmp_path / "results.csv").open("a") as stream:
        stream.write("2,0.1,9,9,9,9\n")
    train(tmp_path, 2, resume=True)
    rows = (tmp_path / "results.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["epoch", "1", "2"]
    assert "2,0.1,9,9,9,9" not in rows
