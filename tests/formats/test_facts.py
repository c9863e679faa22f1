"""What a checkpoint says of itself, however its trainer calls it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from checkpoint_files import MemorySource, network, torch_bytes
from mlsync.formats.containers import read_content, read_layout
from mlsync.formats.pickles.nodes import Call, Global, Pairs
from mlsync.formats.sniff import identify
from mlsync.formats.torch.facts import torch_facts
from mlsync.values import Fact

MADE = Path(__file__).parent / "made"


def facts_of(content: object, **saving: object) -> dict[str, Fact]:
    """The facts of what torch saves."""
    return facts_in(torch_bytes(content, **saving))


def facts_in(data: bytes) -> dict[str, Fact]:
    source = MemorySource(data)
    found = read_content(source, read_layout(source, identify(source, b"last.pt")))
    return found.facts


def trained() -> torch.optim.Optimizer:
    """An optimizer with moments."""
    model = torch.nn.Linear(4, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(3, 4)).sum().backward()
    optimizer.step()
    return optimizer


WEIGHTS = torch.nn.Linear(4, 2).state_dict()
STATE = trained().state_dict()
RESUMABLE = {
    "opt": {"model": WEIGHTS, "opt": STATE},
    "optim": {"model": WEIGHTS, "optim": STATE},
    "optim_state_dict": {"model_state_dict": WEIGHTS, "optim_state_dict": STATE},
    "two": {"g": WEIGHTS, "d": torch.nn.Linear(4, 2).state_dict(), "opt_g": STATE, "opt_d": STATE},
    "nested": {"checkpoint": {"model": WEIGHTS, "opt": STATE}},
    "tuple": (WEIGHTS, STATE, 7),
    "list": [{"model": WEIGHTS, "training": [STATE]}],
    "sharded": {"model": WEIGHTS, "optim": {"state": {"weight": {"exp_avg": torch.ones(2, 4)}}}},
    "flat": {"model.weight": torch.ones(2), "optimizer.state.weight.exp_avg": torch.ones(2)},
}


@pytest.mark.parametrize("content", RESUMABLE.values(), ids=RESUMABLE.keys())
def test_an_optimizer_is_found_by_whatever_name_it_is_kept(content):
    """A checkpoint with an optimizer's state is resumable, and the state's moments are no parameters."""
    facts = facts_of(content)
    assert (facts["has_optimizer"], facts["resumable"]) == (True, True)
    weights = 2 if "model.weight" in content else (4 * 2 + 2) * (2 if "opt_d" in content else 1)
    assert facts["parameter_count"] == weights


@pytest.mark.parametrize(
    "content",
    [
        {"model": WEIGHTS, "optimizer": None, "optimizer_states": [], "optim": {}},
        {"model": WEIGHTS, "optimizer": "adamw", "optimizer_name": "adamw", "optimizer_args": {"lr": 0.1}},
        {"model": WEIGHTS, "opt": {"lr": 0.1, "name": "adamw"}},
        {"opt_model.weight": torch.ones(2), "state": torch.ones(2)},
    ],
)
def test_settings_and_what_is_empty_are_no_optimizer(content):
    """Names of optimizers, their settings, and stripped states are nothing that training can go on from."""
    assert facts_of(content)["resumable"] is False


PROGRESS = {
    "numbers": {"epoch": 3, "step": 70},
    "tensors": {"epoch": torch.tensor(3), "step": torch.tensor(70, dtype=torch.int32)},
    "one of many": {"epoch": torch.arange(9)[3], "step": torch.tensor([70.0])},
    "numpy": {"epoch": np.int64(3), "step": np.float64(70)},
    "meta": {"meta": {"epoch": 3, "iter": 70, "config": "x"}},
    "iter_num": {"epochs_run": 3, "iter_num": 70},
    "steps": {"epoch": "three", "current_epoch": 3, "steps": 70},
    "nested": {"trainer_state": {"epoch": 3, "global_step": 70}},
}


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("progress", PROGRESS.values(), ids=PROGRESS.keys())
def test_epoch_and_step_are_found_where_trainers_keep_them(progress, is_zip):
    """Numbers and tensors of one element, at the top or below it, by their usual names."""
    facts = facts_of({"model": WEIGHTS, **progress}, _use_new_zipfile_serialization=is_zip)
    assert (facts["epoch"], facts["step"]) == (3, 70)


def test_tensors_of_two_files_alike_but_for_their_numbers_are_told_apart():
    """Two saves of one layout, whose pickles are the same, have each the epoch that its own bytes tell."""
    found = [facts_of({"model": WEIGHTS, "epoch": torch.tensor(epoch)})["epoch"] for epoch in (3, 4)]
    assert found == [3, 4]


@pytest.mark.parametrize("value", [torch.tensor([1, 2]), torch.tensor(float("nan")), torch.zeros(0), torch.ones(2, 2)])
def test_a_tensor_that_is_no_number_is_no_fact(value):
    """Several numbers, none, or NaN are no epoch."""
    assert "epoch" not in facts_of({"model": WEIGHTS, "epoch": value})


def test_deep_and_wide_objects_are_looked_into_within_bounds():
    """Lists in lists without end, and very many, cost a bounded look and give no optimizer."""
    deep: object = STATE
    for _ in range(50):
        deep = [deep]
    assert facts_of({"a": deep, "b": [[[] for _ in range(300)] for _ in range(300)]})["has_optimizer"] is False


def test_an_object_that_a_thousand_others_share_is_looked_at_once():
    """Twenty thousand objects with one large state cost no twenty thousand looks at it."""
    state = Pairs(part for number in range(1000) for part in (str(number), number))
    looks: list[int] = []

    class Counted(Pairs):
        def __getitem__(self, place):
            looks.append(1)
            return super().__getitem__(place)

    shared = Counted(state)
    calls: list[object] = []
    for _ in range(900):
        call = Call(Global("a", "b"), ())
        call.touch().state = shared
        calls.append(call)
    assert torch_facts(calls)["has_optimizer"] is False
    assert len(looks) <= 4


def test_the_state_of_accelerate_is_known():
    """What ``Accelerator.save_state`` wrote: the optimizer's file says that it is one, the weights count."""
    directory = MADE / "accelerate-save-state"
    optimizer = facts_in((directory / "optimizer.bin").read_bytes())
    assert (optimizer["has_optimizer"], optimizer["parameter_count"]) == (True, 0)
    assert facts_in((directory / "model.safetensors").read_bytes())["parameter_count"] == 4 * 2 + 2


def test_the_model_of_a_pickled_module_is_counted():
    """A whole module counts with its buffers, its average not beside it."""
    model = network()
    count = facts_of({"model": model})["parameter_count"]
    assert facts_of({"generator": model, "generator_ema": network()})["parameter_count"] == count


def test_the_texts_of_safetensors_tell_epoch_and_step():
    """What a trainer puts down as texts beside its tensors are facts, and an optimizer beside weights can go on."""
    tensors = {"model.a": np.ones(4, np.float32), "optimizer.state.a.exp_avg": np.ones(4, np.float32)}
    for texts, expected in [
        ({"epoch": "3", "global_step": "70", "best_fitness": "0.5"}, {"epoch": 3, "step": 70, "best_fitness": 0.5}),
        ({"note": '"epoch": "9"', "epoch": "03 "}, {}),
        ({"epoch": "nan", "step": "1e400", "best_fitness": "9" * 5000}, {}),
        ({"epoch": "three", "current_epoch": "3"}, {"epoch": 3}),
        (None, {}),
    ]:
        found = facts_in(safetensors.numpy.save(tensors, texts))
        told = {name: found[name] for name in ("epoch", "step", "best_fitness") if name in found}
        assert told == expected
        assert (found["has_optimizer"], found["resumable"], found["parameter_count"]) == (True, True, 4)
    assert "resumable" not in facts_in(safetensors.numpy.save({"a": np.ones(4)}, {"epoch": "3"}))
    assert facts_in(safetensors.numpy.save({"optimizer.a": np.ones(4)}))["resumable"] is False


def test_deepspeed_says_how_many_ranks_wrote():
    """The ranks that each have files of their own are a fact, but where (with MiCS) few of them write."""
    made = Path(__file__).parent / "made" / "groups" / "deepspeed-zero1" / "global_step2"
    assert facts_in((made / "mp_rank_00_model_states.pt").read_bytes())["data_rank_count"] == 2
    said = {"dp_world_size": 8, "ds_version": "0.19.8"}
    assert facts_of(said)["data_rank_count"] == 8
    assert "data_rank_count" not in facts_of(said | {"ds_config": {"zero_optimization": {"mics_shard_size": 4}}})
    assert "data_rank_count" not in facts_of({"dp_world_size": 8})
    assert "data_rank_count" not in facts_of(said | {"dp_world_size": True})
