"""All ranks of a training that saves distributed checkpoints; run as ``dcp_ranks.py RANKS FOLDER``."""

import os
import sys
import warnings

import torch
import torch.distributed.checkpoint as dcp
from torch import distributed
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor


def save(rank: int, ranks: int, folder: str) -> None:
    """Write this rank's part of a few values, of a model under FSDP2, and of weights for Hugging Face."""
    distributed.init_process_group(
        "gloo", store=distributed.FileStore(f"{folder}/store", ranks), rank=rank, world_size=ranks
    )
    mesh = init_device_mesh("cpu", (ranks,))
    torch.manual_seed(5)
    sharded = distribute_tensor(torch.randn(64, 16), mesh, [Shard(0)])
    by_column = distribute_tensor(torch.arange(15.0).reshape(3, 5), mesh, [Shard(1)])
    uneven = distribute_tensor(torch.ones(1, 3), mesh, [Shard(0)])  # one rank has nothing of it
    same = distribute_tensor(torch.arange(6).half(), mesh, [Replicate()])
    state = {"sharded": sharded, "column": by_column, "uneven": uneven, "same": same, "whole": torch.arange(5)}
    dcp.save({**state, "step": 3}, checkpoint_id=f"{folder}/checkpoint")
    save_fsdp(mesh, folder)
    writer = HuggingFaceStorageWriter(f"{folder}/hf", save_distributed=True, thread_count=1)
    dcp.save({"sharded": sharded, "whole": torch.arange(5)}, storage_writer=writer)
    distributed.destroy_process_group()


def save_fsdp(mesh: distributed.DeviceMesh, folder: str) -> None:
    """Train a model of a few layers for a step, each layer sharded, and save it with its optimizer."""
    model = torch.nn.Sequential(torch.nn.Linear(7, 9), torch.nn.ReLU(), torch.nn.Linear(9, 3))
    for layer in (model[0], model[2]):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(4, 7)).square().mean().backward()
    optimizer.step()
    weights, moments = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optim": moments, "epoch": 2}, checkpoint_id=f"{folder}/fsdp")


def main(ranks: int, folder: str) -> None:
    """Be the first rank, and fork the others: each would take seconds to import torch."""
    others = []
    rank = 0
    for number in range(1, ranks):
        child = os.fork()
        if child == 0:
            rank = number
            break
        others.append(child)
    save(rank, ranks, folder)
    statuses = [os.waitpid(child, 0)[1] for child in others] if rank == 0 else []
    # All is written. Now and then a thread of torch's is still there when Python clears up, and C++ ends the process.
    os._exit(1 if any(statuses) else 0)


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # of torch about torch
    main(int(sys.argv[1]), sys.argv[2])
