"""How far to prove, on what device, and for how long."""

from __future__ import annotations

from dataclasses import dataclass

from mlsync.proof.user import User
from mlsync.values import Level, NumberFault


@dataclass(frozen=True, slots=True)
class ProofOptions:
    """How far to prove, on what, and for how long at most.

    *device* is ``auto``, ``cuda``, ``cuda:N``, ``cpu`` or ``none``, or ``auto%N`` or ``cuda%N``: the GPU whose
    number is N modulo the number of GPUs that the child sees. *memory_bytes* bounds what is used of a GPU. *python* is
    an interpreter that has numpy, and torch for a GPU; ``None`` is this one. *timeout_s* bounds the wait for the child
    per file, beyond the time that its bytes need at 20 MB/s. Faults of numbers that are in *refuse* break a checkpoint,
    those in *warn* become warnings, the others notes.

    If mlsync is root the child runs as *user*; if that user cannot run the Python, it runs as root if it *may be root*,
    and a note says so. *as_root* says why no other user is available although mlsync is root.
    """

    device: str = "auto"
    python: str | None = None
    level: int = Level.NUMBERS
    timeout_s: float = 120.0
    start_timeout_s: float = 180.0
    memory_bytes: int = 512 << 20
    threads: int = 1
    refuse: frozenset[NumberFault] = frozenset()
    warn: frozenset[NumberFault] = frozenset({"nan", "inf", "saturated"})
    user: User | None = None
    may_be_root: bool = True
    as_root: str = ""
