"""A transformer sharded over two processes, its state written by torch.distributed.checkpoint.

The processes (gloo, one thread each) train with fully_shard: weights and both moments of AdamW are split between them.
Each save replaces ``checkpoint/`` in place, as PyTorch's own recipe does with its one checkpoint id: ``__0_0.distcp``
and ``__1_0.distcp`` are written over, ``.metadata`` is renamed over the old one.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import torch
from torch import distributed
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from training.language import LanguageModel, Shape, adamw, step
from training.run_directory import RunDirectory
from training.text import Batches, tokens

SHAPE = Shape(vocabulary=4096, width=256, heads=4, layers=4, length=128)
RANKS = 2
RATE = 1e-3
WARM_STEPS = 100
STEPS_PER_SAVE = 20


def train(run: RunDirectory, versions: int) -> None:
    with tempfile.TemporaryDirectory() as meeting:
        torch.multiprocessing.spawn(train_rank, (run, versions, Path(meeting) / "point"), nprocs=RANKS)


def train_rank(rank: int, run: RunDirectory, versions: int, meeting: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=RANKS)
    model = LanguageModel(SHAPE)
    mesh = init_device_mesh("cpu", (RANKS,))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = adamw(model, RATE)
    batches = Batches(tokens(SHAPE.vocabulary), SHAPE.length, count=4, seed=rank)
    for version in range(versions):
        for _ in range(STEPS_PER_SAVE if version else WARM_STEPS):
            loss = step(model, optimizer, batches.next())
        save(run.path, model, optimizer, version, loss)
        distributed.barrier()
        if rank == 0:
            run.snapshot()
        distributed.barrier()
    distributed.destroy_process_group()


def save(directory: Path, model: LanguageModel, optimizer: torch.optim.Optimizer, version: int, loss: float) -> None:
    steps = WARM_STEPS + version * STEPS_PER_SAVE
    weights, moments = get_state_dict(model, optimizer)
    state = {"model": weights, "optimizer": moments, "step": steps}
    with warnings.catch_warnings(action="ignore"):  # that it writes over the checkpoint before
        checkpoint.save(state, checkpoint_id=directory / "checkpoint")
    if distributed.get_rank() == 0:
        with (directory / "log.txt").open("a") as log:
            log.write(f"step {steps}: loss {loss:.4f}\n")
