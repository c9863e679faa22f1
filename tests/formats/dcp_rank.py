"""One rank of a training that saves a distributed checkpoint; run as ``dcp_rank.py RANK RANKS FOLDER``."""

import sys

import torch
import torch.distributed.checkpoint as dcp
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor


def save(rank: int, ranks: int, folder: str) -> None:
    """Write this rank's part of one sharded and some whole values."""
    distributed.init_process_group(
        "gloo", store=distributed.FileStore(f"{folder}/store", ranks), rank=rank, world_size=ranks
    )
    mesh = init_device_mesh("cpu", (ranks,))
    torch.manual_seed(5)
    sharded = distribute_tensor(torch.randn(64, 16), mesh, [Shard(0)])
    dcp.save({"sharded": sharded, "whole": torch.arange(5), "step": 3}, checkpoint_id=f"{folder}/checkpoint")
    distributed.destroy_process_group()


if __name__ == "__main__":
    save(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
