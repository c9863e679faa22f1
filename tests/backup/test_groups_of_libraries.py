"""Checkpoints of several files as real libraries wrote them: whole in a version, or as the last version had them."""

from __future__ import annotations

import io
import os
import shutil
import time
from pathlib import Path

import pytest
import torch

from flow_parts import World, contents
from mlsync.repository.encoding.tokens import TroubleKind
from mlsync.values import Severity

MADE = Path(__file__).parents[1] / "formats" / "made"


@pytest.fixture
def world(tmp_path):
    """A run without versions."""
    world = World(tmp_path)
    yield world
    world.close()


def put(world, made, place, names="*"):
    """Put what a library wrote into the run, its files as if all of them were written just now."""
    now_ns = time.time_ns()
    for path in (MADE / made).rglob(names):
        if path.is_file():
            name = f"{place}/{path.relative_to(MADE / made)}"
            world.write(name, path.read_bytes())
            os.utime(world.path(name), ns=(now_ns, now_ns))


def warnings_of(world):
    """What the proofs of the newest version warn of."""
    proofs = [entry.proof for entry in world.manifest().entries if entry.proof is not None]
    return {finding.what for proof in proofs for finding in proof.findings if finding.severity > Severity.NOTE}


def whole_then_half(world, made, needed, names="*", place="run/1"):
    """Keep a save whole; then it is there without each of the files *needed*, then with each of them torn.

    In none of these does a version hold a part of a save: the last whole one stays. In a place where none was before,
    nothing of it is in a version; what is deleted as a whole is gone.
    """
    world.write("log.csv", b"1\n")
    other = place.replace("run", "new", 1)
    for name in needed:
        put(world, made, other, names)
        os.unlink(world.path(f"{other}/{name}"))
        assert TroubleKind.TORN in {trouble.kind for trouble in world.backup(accept_loss=True).troubles}, name
        assert not holds_model(world), name
        shutil.rmtree(world.path("new"))
    put(world, made, place, names)
    result = world.backup()
    assert result.troubles == ()
    assert world.restored() == world.tree()
    assert warnings_of(world) == set()
    whole = contents(world.tree())
    for name in needed:
        for damage in (lambda content: None, lambda content: content[: len(content) // 2]):
            put(world, made, place, names)
            path = world.path(f"{place}/{name}")
            body = damage((MADE / made / name).read_bytes())
            os.unlink(path) if body is None else world.write(f"{place}/{name}", body)
            world.backup(accept_loss=True)
            assert contents(world.restored()) == whole, name
    shutil.rmtree(world.path("run"))
    assert world.backup(accept_loss=True).troubles == ()
    assert contents(world.restored()) == {b"log.csv": b"1\n"}


def holds_model(world):
    """Whether the newest version has any file that was proved."""
    return any(entry.proof is not None for entry in world.manifest().entries)


ORBAX_DATA = "default/ocdbt.process_0/d/"
STATES = "global_step2/bf16_zero_pp_rank_{}_mp_rank_00_optim_states.pt"


@pytest.mark.parametrize(
    ("made", "needed", "names"),
    [
        (
            "orbax",
            [
                "default/manifest.ocdbt",
                *sorted(ORBAX_DATA + path.name for path in (MADE / "orbax" / ORBAX_DATA).iterdir())[:1],
            ],
            "*",
        ),
        ("tensorflow", ["ckpt-1.index", "ckpt-1.data-00000-of-00001"], "ckpt-1.*"),
        ("groups/deepspeed-zero1", ["global_step2/mp_rank_00_model_states.pt", STATES.format(1)], "*"),
        ("groups/deepspeed-zero3", ["global_step2/zero_pp_rank_1_mp_rank_00_model_states.pt", STATES.format(0)], "*"),
        (
            "groups/accelerate",
            [f"checkpoints/checkpoint_0/{name}" for name in ("model.safetensors", "random_states_0.pkl")],
            "*",
        ),
        ("groups/peft/second", ["adapter_config.json", "adapter_model.safetensors"], "*"),
        ("groups/torchtitan", ["checkpoint/step-2/.metadata", "checkpoint/step-2/__0_0.distcp"], "*"),
        ("groups/megatron", ["iter_0000010/common.pt", "iter_0000010/__0_0.distcp"], "*"),
    ],
    ids=lambda value: value.rpartition("/")[2] if isinstance(value, str) else "",
)
def test_half_a_save_keeps_the_last_whole(world, made, needed, names):
    """What each library wrote is whole, without a warning; without one file, or with a torn one, the last one stays."""
    whole_then_half(world, made, needed, names)


def test_torchtune(world):
    """What holds the recipe's state is held back with the newest epoch, and stays where an older epoch is deleted."""
    put(world, "groups/torchtune", "run")
    shutil.rmtree(world.path("run/epoch_1"))
    world.backup()
    whole = contents(world.tree())
    assert b"run/recipe_state/recipe_state.pt" in whole
    put(world, "groups/torchtune", "run")
    world.write("run/epoch_1/model-00001-of-00001.bin", b"")
    world.write("run/recipe_state/recipe_state.pt", small_torch({"epochs_run": 2}))
    assert "run/epoch_1" in {os.fsdecode(trouble.path) for trouble in world.backup().troubles}
    assert contents(world.restored()) == whole
    put(world, "groups/torchtune", "run")
    assert world.backup().troubles == ()
    shutil.rmtree(world.path("run/epoch_0"))
    assert world.backup(accept_loss=True).troubles == ()
    assert world.restored() == world.tree()
    assert warnings_of(world) == set()


def small_torch(content):
    """The bytes of what torch saves."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def test_what_names_a_save_that_is_not_whole(world):
    """While the save that ``latest`` names is not whole, a version has the last whole one and a ``latest`` for that."""
    put(world, "groups/deepspeed-zero1", "run")
    world.backup()
    whole = contents(world.tree())
    for path in (MADE / "groups/deepspeed-zero1/global_step2").iterdir():
        if "rank_1" not in path.name:
            world.write(f"run/global_step7/{path.name}", path.read_bytes())
    world.write("run/latest", b"global_step7")
    (trouble,) = world.backup().troubles
    # By their names these may be all: how many ranks there are stands in the files.
    assert (trouble.path, trouble.kept) == (b"run/global_step7", 1)
    assert "files of 1 data-parallel ranks are there, of 2" in trouble.text
    assert contents(world.restored()) == whole
    for path in (MADE / "groups/deepspeed-zero1/global_step2").iterdir():
        world.write(f"run/global_step7/{path.name}", path.read_bytes())
    assert world.backup().troubles == ()
    assert world.restored() == world.tree()


def test_what_names_a_save_that_is_gone(world):
    """A tracker for a directory that is not there is held back while it is young, and told of once in the end."""
    put(world, "groups/megatron", "run")
    world.backup()
    whole = contents(world.tree())
    world.write("run/latest_checkpointed_iteration.txt", b"20")
    (trouble,) = world.backup().troubles
    assert "names 'iter_0000020', which is not there" in trouble.text
    assert contents(world.restored()) == whole
    later = {"now_ns": lambda: time.time_ns() + 2 * 3600 * 10**9}
    assert world.backup(**later).troubles == ()
    assert world.restored() == world.tree()
    world.backup(**later)
    told = [text for text in world.monitor.notices if "iter_0000020" in str(text)]
    assert len(told) == 1


def test_an_adapter_of_another_save(world):
    """Weights of one rank beside settings of another are of two saves: the last whole one stays."""
    put(world, "groups/peft", "run", "adapter*")
    world.backup()
    whole = contents(world.tree())
    now_ns = time.time_ns()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        source = "" if name.endswith("json") else "second/"
        settings = (MADE / "groups/peft" / (source + name)).read_bytes().replace(b'"r": 2,', b'"r": 8,')
        world.write(f"run/{name}", settings)
        os.utime(world.path(f"run/{name}"), ns=(now_ns, now_ns))
    (trouble,) = world.backup().troubles
    assert "of two saves" in trouble.text
    assert "of 4 rows, its settings say rank 8" in trouble.text
    assert contents(world.restored()) == whole


def test_an_imitated_directory_of_nemo(world):
    """A save of NeMo 2, as its layout is described, waits for its weights and until nothing says it is unfinished."""
    put(world, "groups/megatron/iter_0000010", "run/m--step=10/weights")
    for name in ("io.json", "model.yaml"):
        world.write(f"run/m--step=10/context/{name}", b"{}")
    world.write("run/m--step=10-unfinished", b"")
    (trouble,) = world.backup().troubles
    assert "'m--step=10-unfinished' says that it was not finished" in trouble.text
    assert not holds_model(world)
    os.unlink(world.path("run/m--step=10-unfinished"))
    assert world.backup().troubles == ()
    whole = contents(world.tree())
    assert contents(world.restored()) == whole
    for gone in ("weights/.metadata", "weights/__0_0.distcp", "context/io.json"):
        put(world, "groups/megatron/iter_0000010", "run/m--step=10/weights")
        world.write("run/m--step=10/context/io.json", b"{}")
        os.unlink(world.path(f"run/m--step=10/{gone}"))
        world.backup(accept_loss=True)
        assert contents(world.restored()) == whole, gone


@pytest.mark.parametrize(
    ("made", "place", "left"),
    [
        ("groups/accelerate/checkpoints/checkpoint_0", "run/step_5", "model.safetensors"),
        ("groups/accelerate/checkpoints/checkpoint_0", "run/checkpoint-5", "model.safetensors"),
        ("groups/megatron", "run", "iter_0000010/common.pt"),
    ],
)
def test_what_is_left_of_a_save(world, made, place, left):
    """While a save is deleted, a version has all of it, whatever is left; in the end what nobody touches any more."""
    put(world, made, place)
    world.write("log.csv", b"1\n")
    world.backup()
    whole = contents(world.tree())
    for folder, _, names in os.walk(world.path("run")):
        for name in names:
            path = os.path.join(folder, name)
            if path != world.path(f"{place}/{left}") and b"latest" not in path:
                os.unlink(path)
    world.write("log.csv", b"2\n")
    assert len(world.backup(accept_loss=True).troubles) == 1
    assert contents(world.restored()) == whole | {b"log.csv": b"2\n"}
    later = {"now_ns": lambda: time.time_ns() + 2 * 3600 * 10**9}
    world.backup(accept_loss=True, **later)
    assert world.restored() == world.tree()
