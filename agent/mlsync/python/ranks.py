"""Which process of a distributed training this is, as far as launchers and torch say it; torch is never imported."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping


def rank_here(environ: Mapping[str, str] = os.environ) -> int:
    """Return the rank of this process, 0 for one that is alone."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank())
    # torchrun, accelerate, deepspeed and Lightning set it. Tasks of Slurm may be trainings of their own.
    rank = environ.get("RANK", "")
    return int(rank) if rank.isascii() and rank.isdigit() else 0
