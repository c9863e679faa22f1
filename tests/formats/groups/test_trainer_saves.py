from __future__ import annotations

from pathlib import Path

import pytest
from test_find_units import Tree, on_disk, trainer

from mlsync.formats.groups.find import find_units

GROUPS = Path(__file__).parents[1] / "made" / "groups"


@pytest.mark.parametrize("made", sorted(path.name for path in GROUPS.iterdir() if path.is_dir()))
def test_what_libraries_wrote_is_whole(made):
    """Every directory that a library wrote is found, as what it is, and lacks nothing."""
    units = find_units(*on_disk(GROUPS / made))
    assert {unit.kind for unit in units} == {"dcp" if made == "torchtitan" else made.partition("-")[0]}
    assert {unit.lacking for unit in units} == {None}


def accelerate(name: str = "step_5") -> Tree:
    tree = Tree()
    for file in ("model.safetensors", "optimizer.bin", "optimizer_1.bin", "scheduler.bin", "sampler.bin"):
        tree.add(f"out/{name}/{file}")
    for rank in range(3):
        tree.add(f"out/{name}/random_states_{rank}.pkl")
    return tree


def test_accelerate():
    """Weights, optimizers and schedules without a gap, and the random states of each rank are there, none empty."""
    unit = accelerate().only()
    assert (unit.kind, unit.directory, len(unit.members), unit.lacking) == ("accelerate", b"out/step_5", 8, None)
    for gone, lacking in (
        ("model.safetensors", "there are no weights"),
        ("optimizer.bin", "'optimizer.bin' is missing"),
        ("random_states_0.pkl", "'random_states_0.pkl' is missing"),
        ("random_states_1.pkl", "'random_states_1.pkl' is missing"),
    ):
        assert accelerate().without(f"out/step_5/{gone}").only().lacking == lacking
    assert accelerate().add("out/step_5/model.safetensors", 0).only().lacking == "'model.safetensors' is empty"
    sharded = accelerate().without("out/step_5/model.safetensors")
    assert sharded.add("out/step_5/unet/diffusion_pytorch_model.safetensors").only().lacking is None
    early = Tree().add("a/model.safetensors").add("a/optimizer.bin").add("a/scheduler.bin")
    assert early.only().lacking == "'random_states_0.pkl' is missing"


def test_accelerate_in_a_directory_named_as_the_trainers():
    """Scripts of diffusers call theirs ``checkpoint-N`` as well; what a trainer wrote stays the trainer's."""
    assert (accelerate("checkpoint-5").only().kind, accelerate("checkpoint-5").only().lacking) == ("accelerate", None)
    assert trainer().add("run/checkpoint-500/optimizer.bin").only().kind == "huggingface-trainer"


def test_an_adapter():
    """Settings and weights are there, and the settings parse; one in a trainer's checkpoint is a part of that."""
    tree = Tree().add("a/adapter_config.json", {"peft_type": "LORA"}).add("a/adapter_model.safetensors").add("a/x.txt")
    assert (tree.only().kind, len(tree.only().members), tree.only().lacking) == ("peft", 2, None)
    assert tree.add("a/adapter_model.safetensors", 0).only().lacking == "'adapter_model.safetensors' is empty"
    assert tree.without("a/adapter_model.safetensors").only().lacking == "'adapter_model.safetensors' is missing"
    tree.add("a/adapter_model.bin").add("a/adapter_config.json", "{")
    assert tree.only().lacking == "'adapter_config.json' does not parse"
    assert tree.without("a/adapter_config.json").only().lacking == "'adapter_config.json' is missing"
    whole = trainer().add("run/checkpoint-500/adapter_model.safetensors")
    assert whole.only().lacking == "'adapter_config.json' is missing"


def test_torchtune():
    """Each epoch is one of its own; with the newest goes the recipe's state, which names no epoch."""
    tree = Tree().add("out/recipe_state/recipe_state.pt")
    for epoch in (0, 9, 10):
        tree.add(f"out/epoch_{epoch}/model-00001-of-00001.bin").add(f"out/epoch_{epoch}/config.json", {})
    found = {unit.directory: unit for unit in tree.units()}
    assert {unit.lacking for unit in found.values()} == {None}
    assert [unit.pointer is not None for unit in found.values()] == [False, True, False]
    assert found[b"out/epoch_10"].pointer == b"out/recipe_state/recipe_state.pt"
    tree.without("out/epoch_9/model-00001-of-00001.bin")
    assert {unit.directory: unit.lacking for unit in tree.units()}[b"out/epoch_9"] == "there are no weights"
    assert tree.without("out/recipe_state/recipe_state.pt").units() == []


def test_nemo():
    """Imitated: weights and context are there, and no file says that the directory is unfinished."""
    tree = Tree().add("m/context/io.json", {}).add("m/context/model.yaml").add("m/weights/metadata.json", {})
    assert tree.add("m/weights/.metadata").only().lacking is None
    assert tree.add("m-unfinished", "").only().lacking == "'m-unfinished' says that it was not finished"
    tree.without("m-unfinished").without("m/weights/.metadata")
    assert tree.only().lacking == "'weights/.metadata' is missing"
    tree.add("m/weights/.metadata").without("m/context/io.json")
    assert tree.only().lacking == "'context/io.json' is missing"
