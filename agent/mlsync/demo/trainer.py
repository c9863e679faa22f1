"""The demo's trainer: ``python -m mlsync.demo.trainer DIRECTORY [--resume]``, a training loop like many others.

It knows nothing about mlsync, and prints its events as lines of JSON. SIGUSR1 stops it in the middle of its next write
of ``last``, so that the demo can kill it there.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, Protocol

from mlsync.demo import checkpoint
from mlsync.demo.checkpoint import Progress
from mlsync.demo.kinds import KINDS, TrainerKind

COLUMNS = ("epoch", "time", "train/loss", "val/loss", "metrics/accuracy", "lr/pg0")
# One thread, so that sums are the same each time, and the machine's other cores stay free.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Learner(Protocol):
    """Network, optimizer and data, with their way into a checkpoint and back."""

    @property
    def parameter_count(self) -> int:
        """The number of trained parameters."""

    def epoch(self, number: int) -> float:
        """Train for an epoch; return its mean loss."""

    def validate(self) -> tuple[float, float]:
        """Return loss and accuracy on the validation data."""

    def packed(self, progress: Progress, arguments: dict[str, Any], results: dict[str, list[float]]) -> bytes:
        """Return a checkpoint as one buffer, from which all files of an epoch are written."""

    def resume(self, file: Path) -> Progress:
        """Continue from a checkpoint."""


class Trainer:
    """Trains in a directory; an epoch depends only on its number and the checkpoint before it."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.directory: Path = arguments.directory
        self.arguments = arguments
        self.stall = False
        self.kind: TrainerKind = KINDS[arguments.trainer]
        self.learner = _learner(arguments)
        self.progress = Progress()

    def run(self) -> None:
        """Train until the last epoch."""
        self._begin()
        for epoch in range(self.progress.epoch + 1, self.arguments.epochs + 1):
            self.progress.epoch = epoch
            began_s = time.monotonic()
            loss = self.learner.epoch(epoch)
            validation_loss, accuracy = self.learner.validate()
            self.progress.fitness = accuracy
            self.progress.best_fitness = max(self.progress.best_fitness, accuracy)
            seconds = time.monotonic() - began_s
            self._append((epoch, round(seconds, 3), loss, validation_loss, accuracy, self.arguments.rate))
            self._save(loss, seconds)
        emit(event="finished", epoch=self.progress.epoch)

    def _begin(self) -> None:
        self._last.parent.mkdir(parents=True, exist_ok=True)
        if self.arguments.resume:
            self.progress = self.learner.resume(self._last)
            self._forget_later_epochs()
        else:
            settings = vars(self.arguments) | {"directory": os.fspath(self.directory)}
            lines = [f"{name}: {json.dumps(value)}\n" for name, value in settings.items()]
            (self.directory / "args.yaml").write_text("".join(lines))
        emit(event="begins", parameters=self.learner.parameter_count, after_epoch=self.progress.epoch)

    def _append(self, row: tuple[float, ...]) -> None:
        file = self._results
        is_new = not file.exists()
        with file.open("a", newline="") as stream:
            writer = csv.writer(stream)
            if is_new:
                writer.writerow(COLUMNS)
            writer.writerow(row)

    def _save(self, loss: float, seconds: float) -> None:
        settings = vars(self.arguments) | {"directory": os.fspath(self.directory)}
        buffer = self.learner.packed(self.progress, settings, self._read_results())
        period = self.arguments.save_period
        files = checkpoint.save(self.directory, self.kind.suffix, buffer, self.progress, period, lambda: self.stall)
        emit(
            event="saved",
            epoch=self.progress.epoch,
            loss=loss,
            seconds=round(seconds, 3),
            files=files,
            bytes=len(buffer),
            sha256=checkpoint.digest(buffer),
        )

    @property
    def _last(self) -> Path:
        return self.directory / self.kind.last

    @property
    def _results(self) -> Path:
        return self.directory / "results.csv"

    def _read_results(self) -> dict[str, list[float]]:
        with self._results.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        return {name: [float(row[name]) for row in rows] for name in COLUMNS}

    def _forget_later_epochs(self) -> None:
        """Drop the rows of epochs after the checkpoint, since they are trained again."""
        lines = self._results.read_text().splitlines(keepends=True)
        known = [line for line in lines[1:] if int(line.partition(",")[0]) <= self.progress.epoch]
        self._results.write_text("".join([*lines[:1], *known]))


def _learner(arguments: argparse.Namespace) -> Learner:
    """Return the requested learner, and import only what it needs."""
    if arguments.trainer == "torch":
        from mlsync.demo.torch_learner import TorchLearner

        return TorchLearner(arguments.seed, arguments.rate)
    from mlsync.demo.numpy_learner import NumpyLearner

    return NumpyLearner(arguments.seed, arguments.rate)


def emit(**event: Any) -> None:
    """Print a line of JSON at once."""
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Train as the command line asks."""
    parser = argparse.ArgumentParser(prog="python -m mlsync.demo.trainer", description="Train the demo's network.")
    parser.add_argument("directory", type=Path, help="the run's directory")
    parser.add_argument("--epochs", type=int, default=100, help="train until this epoch")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint")
    parser.add_argument("--trainer", choices=sorted(KINDS), default="numpy", help="what to train with")
    parser.add_argument("--save-period", type=int, default=2, help="keep a checkpoint of each N-th epoch; 0: for none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, help="AdamW's learning rate")
    # numpy's libraries read these when they load.
    os.environ.update(_ONE_THREAD)
    arguments = parser.parse_args()
    arguments.rate = arguments.rate or KINDS[arguments.trainer].rate
    trainer = Trainer(arguments)

    def stall(*_: object) -> None:
        trainer.stall = True

    signal.signal(signal.SIGUSR1, stall)
    trainer.run()


if __name__ == "__main__":
    main()
