"""How the demo's trainers save: files and order are those of Ultralytics 8.4, with either kind of checkpoint."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(slots=True)
class Progress:
    """The state of a training besides network and optimizer."""

    epoch: int = 0
    best_fitness: float = 0.0
    fitness: float = 0.0


def save(
    directory: Path, suffix: str, buffer: bytes, progress: Progress, period: int, stall_wanted: Callable[[], bool]
) -> list[str]:
    """Write an epoch's files in place, all from one buffer; return their names."""
    names = ["last"]
    if progress.fitness == progress.best_fitness:
        names.append("best")
    if period and progress.epoch % period == 0:
        names.append(f"epoch{progress.epoch}")
    files = [directory / "weights" / f"{name}{suffix}" for name in names]
    if stall_wanted():
        _write_half(files[0], buffer)
    for file in files:
        file.write_bytes(buffer)
    return [file.name for file in files]


def digest(buffer: bytes) -> str:
    """Return the SHA-256 of a buffer."""
    return hashlib.sha256(buffer).hexdigest()


def _write_half(file: Path, buffer: bytes) -> None:
    """Write half of a checkpoint and wait to be killed, as on a machine that dies during a save."""
    with file.open("wb") as stream:
        stream.write(buffer[: len(buffer) // 2])
        stream.flush()
        sys.stdout.write(f'{{"event": "stalled", "bytes": {len(buffer) // 2}, "of_bytes": {len(buffer)}}}\n')
        sys.stdout.flush()
        while True:
            time.sleep(3600)
