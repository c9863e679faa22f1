"""``--share``: which part of the work is this process's own, as it was told or as a launcher's environment says.

A process that proves a part only, and was not meant to, would leave the rest pending and end with 0. So an environment
counts where it was asked for, or where torchrun started this very process. Where it is neither, and still looks like
that of one of several, nothing is done: whether it was meant for this process is not to be guessed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from mlsync.cli import candidates
from mlsync.proving.shares import Share

_BY_RANK: Final = "rank"
_TOLD = re.compile(r"([0-9]{1,4})/([0-9]{1,4})")
_RANK = re.compile(r"[0-9]{1,4}")
# What torchrun sets, and who does as it does; what srun sets for the tasks of a step, and not in a batch script.
_TORCH: Final = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_SLURM: Final = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
_ONLY_TORCHRUN: Final = "TORCHELASTIC_RUN_ID"


@dataclass(frozen=True, slots=True)
class Part:
    """What this process is to prove: its *share*, all if there is none; *local_rank* counts those on this machine."""

    share: Share | None = None
    local_rank: int | None = None

    def device(self, wanted: str) -> str:
        """Return where to prove: where any GPU would do, the one of this rank, so that no two ranks take the same."""
        is_any = wanted in ("auto", "cuda")
        return f"{wanted}%{self.local_rank}" if is_any and self.local_rank is not None else wanted


def _part(_context: click.Context, _option: click.Parameter, value: str | None) -> Part:
    """Return what ``--share`` comes to, without it what the environment says where that is beyond doubt."""
    if value == _BY_RANK:
        return _by_rank(os.environ)
    if value is not None:
        return _as_told(value)
    if _is_of_torchrun(os.environ, os.getppid()):
        return _by_rank(os.environ)
    names = _names(os.environ, _TORCH) or _names(os.environ, _SLURM)
    if names is not None and os.environ[names[1]] != "1":
        raise click.UsageError(
            f"{names[0]} and {names[1]} are set: this may be one process of {os.environ[names[1]]}. "
            f"Say --share {_BY_RANK} to prove its share, or --share 1/1 to prove all."
        )
    return Part()


def _as_told(value: str) -> Part:
    match = _TOLD.fullmatch(value)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise click.BadParameter(f"{value!r} is neither {_BY_RANK} nor one of 1/N to N/N, as 2/8.")
    return Part(_share(int(match[1]), int(match[2])))


def _by_rank(environ: Mapping[str, str]) -> Part:
    """Return what the environment of torchrun, or of srun, says, or raise that it says nothing."""
    names = _names(environ, _TORCH[:2]) or _names(environ, _SLURM[:2])
    if names is None:
        raise click.BadParameter("neither torchrun's RANK and WORLD_SIZE are set, nor those of a step of srun.")
    rank, count = (_number(environ, name) for name in names)
    if not rank < count:
        raise click.BadParameter(f"{names[0]}={rank} is none of {names[1]}={count}.")
    local = (_TORCH if names[0] in _TORCH else _SLURM)[2]
    return Part(_share(rank + 1, count), _number(environ, local) if local in environ else None)


def _share(number: int, count: int) -> Share | None:
    return Share(number, count) if count > 1 else None


def _number(environ: Mapping[str, str], name: str) -> int:
    if _RANK.fullmatch(environ[name]) is None:
        raise click.BadParameter(f"{name}={environ[name]!r} is no number.")
    return int(environ[name])


def _names(environ: Mapping[str, str], names: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return *names* if all are set."""
    return names if all(name in environ for name in names) else None


def _is_of_torchrun(environ: Mapping[str, str], parent_pid: int) -> bool:
    """Whether torchrun started this very process: what a rank starts inherits all that torchrun set for the rank."""
    if _names(environ, (_ONLY_TORCHRUN, *_TORCH)) is None:
        return False
    try:
        inherited = Path(f"/proc/{parent_pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return not any(one.startswith(f"{_ONLY_TORCHRUN}=".encode()) for one in inherited)


share_option = click.option(
    "--share",
    "part",
    callback=_part,
    metavar="[K/N|rank]",
    shell_complete=candidates.words("rank"),
    help="Prove the K-th of N shares only, 1/N to N/N, which together are all; rank takes K and N from torchrun's or "
    "srun's environment. Started by torchrun itself it is rank; 1/1 is all.",
)
