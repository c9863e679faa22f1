"""``--share``: this process's part of the work, from the option or from a launcher's environment.

A process that proves only a part by mistake leaves the rest pending and ends with 0. So a launcher's environment counts
only with ``--share rank``, or if torchrun started this very process. If the environment still looks like that of one
process of several, the command refuses to guess and does nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from mlsync.cli.arguments import candidates
from mlsync.proving.shares import Share

_BY_RANK: Final = "rank"
_TOLD = re.compile(r"([0-9]{1,4})/([0-9]{1,4})")
# Set by the mpirun of Open MPI.
_MPI: Final = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK")
_RANK = re.compile(r"[0-9]{1,4}")
# Set by torchrun and programs like it; set by srun for the tasks of a step, and not in a batch script.
_TORCH: Final = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_SLURM: Final = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
_ONLY_TORCHRUN: Final = "TORCHELASTIC_RUN_ID"


@dataclass(frozen=True, slots=True)
class ShareChoice:
    """What this process proves: its *share*, or everything without one; *local_rank* is its number on this machine."""

    share: Share | None = None
    local_rank: int | None = None

    def device(self, wanted: str) -> str:
        """Return where to prove: this rank's GPU if any would do, so that no two ranks take the same one."""
        is_any = wanted in ("auto", "cuda")
        return f"{wanted}%{self.local_rank}" if is_any and self.local_rank is not None else wanted


def _part(_context: click.Context, _option: click.Parameter, value: str | None) -> ShareChoice:
    """Return the part that ``--share`` names, or the environment's if torchrun started this process."""
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
    return ShareChoice()


def _as_told(value: str) -> ShareChoice:
    match = _TOLD.fullmatch(value)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise click.BadParameter(f"{value!r} is neither {_BY_RANK} nor one of 1/N to N/N, as 2/8.")
    return ShareChoice(_share(int(match[1]), int(match[2])))


def _by_rank(environ: Mapping[str, str]) -> ShareChoice:
    """Return the part that the environment of torchrun or srun names; raise if it names none."""
    names = _names(environ, _TORCH[:2]) or _names(environ, _SLURM[:2])
    if names is None:
        raise click.BadParameter("neither torchrun's RANK and WORLD_SIZE are set, nor those of a step of srun.")
    rank, count = (_number(environ, name) for name in names)
    if not rank < count:
        raise click.BadParameter(f"{names[0]}={rank} is none of {names[1]}={count}.")
    local = (_TORCH if names[0] in _TORCH else _SLURM)[2]
    return ShareChoice(_share(rank + 1, count), _number(environ, local) if local in environ else None)


@dataclass(frozen=True, slots=True)
class Rank:
    """Process *number* (from 0) of *count* of a *launcher*; *is_beside_first*: on the same machine as number 0."""

    number: int
    count: int
    launcher: str
    is_beside_first: bool


def rank_here(environ: Mapping[str, str], parent_pid: int) -> Rank | None:
    """Return which process of how many this is, if srun or mpirun started it, or torchrun this very process."""
    if _is_of_torchrun(environ, parent_pid):
        launcher, names, node = "torchrun", _TORCH, "GROUP_RANK"
    elif _names(environ, _SLURM[:2]) is not None:
        launcher, names, node = "srun", _SLURM, "SLURM_NODEID"
    elif _names(environ, _MPI[:2]) is not None:
        launcher, names, node = "mpirun", _MPI, ""
    else:
        return None
    if not all(_RANK.fullmatch(environ[name]) for name in names[:2]):
        return None
    number, count = (int(environ[name]) for name in names[:2])
    if not number < count or count == 1:
        return None
    # Without a number of the machine: the first one has the first of all numbers.
    is_beside_first = environ[node] == "0" if node in environ else environ.get(names[2]) == str(number)
    return Rank(number, count, launcher, is_beside_first)


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
    """Return whether torchrun started this very process: processes below a rank inherit its variables too."""
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
    metavar="SHARE",
    shell_complete=candidates.words("rank"),
    help="Prove only the K-th of N shares: K/N, or rank, which torchrun and srun set.",
)
