"""How the demo's trainer saves and resumes: the files, the order and the content of Ultralytics 8.4.

Ultralytics resumes from half-precision weights, so its resume is never exact. This trainer keeps its weights in full
precision beside them, so that the demo can show a loss that goes on to the last digit.
"""

from __future__ import annotations

import copy
import hashlib
import io
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

import mlsync
from mlsync.demo.network import Network

LAST, BEST = Path("weights/last.pt"), Path("weights/best.pt")


@dataclass(slots=True)
class Progress:
    """How far a training is: what a checkpoint holds beside the numbers of network and optimizer."""

    epoch: int = 0
    best_fitness: float = 0.0
    fitness: float = 0.0


def packed(
    network: Network,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    arguments: dict[str, Any],
    results: dict[str, list[float]],
) -> bytes:
    """Return a checkpoint as one buffer; all files of an epoch are written from it and are alike to the byte."""
    buffer = io.BytesIO()
    content = {
        "epoch": progress.epoch,
        "best_fitness": progress.best_fitness,
        "model": None,
        "ema": copy.deepcopy(network).half(),
        "updates": progress.epoch,
        "optimizer": optimizer.state_dict(),
        "weights": network.state_dict(),
        "train_args": arguments,
        "train_results": results,
        "date": datetime.now().astimezone().isoformat(),
        "version": mlsync.__version__,
        "license": "Apache-2.0",
    }
    torch.save(content, buffer)
    return buffer.getvalue()


def save(
    directory: Path, buffer: bytes, progress: Progress, period: int, stall_wanted: Callable[[], bool]
) -> list[str]:
    """Write an epoch's files over what stands there, in place, and return their names."""
    files = [LAST]
    if progress.fitness == progress.best_fitness:
        files.append(BEST)
    if period and progress.epoch % period == 0:
        files.append(LAST.with_name(f"epoch{progress.epoch}.pt"))
    if stall_wanted():
        _write_half(directory / LAST, buffer)
    for file in files:
        (directory / file).write_bytes(buffer)
    return [file.name for file in files]


def load(directory: Path, network: Network, optimizer: torch.optim.Optimizer) -> Progress:
    """Take network and optimizer on from ``last.pt``, which the trainer wrote itself and trusts."""
    content = torch.load(directory / LAST, map_location="cpu", weights_only=False)
    network.load_state_dict(content["weights"])
    optimizer.load_state_dict(content["optimizer"])
    return Progress(content["epoch"], content["best_fitness"])


def digest(buffer: bytes) -> str:
    """Return the SHA-256 of a buffer."""
    return hashlib.sha256(buffer).hexdigest()


def _write_half(file: Path, buffer: bytes) -> None:
    """Write half of a checkpoint and wait for the end: a trainer that a dying machine catches while it saves."""
    with file.open("wb") as stream:
        stream.write(buffer[: len(buffer) // 2])
        stream.flush()
        sys.stdout.write(f'{{"event": "stalled", "bytes": {len(buffer) // 2}, "of_bytes": {len(buffer)}}}\n')
        sys.stdout.flush()
        while True:
            time.sleep(3600)
