"""The demo's trainer: ``python -m mlsync.demo.trainer DIRECTORY [--resume]``, a training loop like many others.

It knows nothing of mlsync. It tells what it does as lines of JSON on stdout. SIGUSR1 makes it stand still in the middle
of its next write of ``last.pt``, so that it can be killed there.
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
from typing import Any

import torch
from torch.nn import functional

from mlsync.demo import checkpoint
from mlsync.demo.checkpoint import Progress
from mlsync.demo.network import Network, dataset, parameter_count

COLUMNS = ("epoch", "time", "train/loss", "val/loss", "metrics/accuracy", "lr/pg0")
BATCH_SIZE = 64


class Trainer:
    """Trains in *directory*; an epoch depends on its number and the checkpoint before it, and on nothing else."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.directory: Path = arguments.directory
        self.arguments = arguments
        self.stall = False
        torch.manual_seed(arguments.seed)
        self.network = Network()
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=arguments.rate, weight_decay=0.01)
        self.progress = Progress()
        self.train, self.validation = dataset(arguments.seed)

    def run(self) -> None:
        """Train until the last epoch."""
        self._begin()
        for epoch in range(self.progress.epoch + 1, self.arguments.epochs + 1):
            self.progress.epoch = epoch
            began_s = time.monotonic()
            loss = self._epoch(epoch)
            validation_loss, accuracy = self._validate()
            self.progress.fitness = accuracy
            self.progress.best_fitness = max(self.progress.best_fitness, accuracy)
            seconds = time.monotonic() - began_s
            self._append((epoch, round(seconds, 3), loss, validation_loss, accuracy, self.arguments.rate))
            self._save(loss, seconds)
        tell(event="finished", epoch=self.progress.epoch)

    def _begin(self) -> None:
        (self.directory / checkpoint.LAST).parent.mkdir(parents=True, exist_ok=True)
        if self.arguments.resume:
            self.progress = checkpoint.load(self.directory, self.network, self.optimizer)
            self._forget_later_epochs()
        else:
            settings = vars(self.arguments) | {"directory": os.fspath(self.directory)}
            lines = [f"{name}: {json.dumps(value)}\n" for name, value in settings.items()]
            (self.directory / "args.yaml").write_text("".join(lines))
        tell(event="begins", parameters=parameter_count(self.network), after_epoch=self.progress.epoch)

    def _epoch(self, epoch: int) -> float:
        """Take a gradient step for each batch, in an order that the epoch's number alone decides."""
        features, classes = self.train
        order = torch.randperm(len(features), generator=torch.Generator().manual_seed(self.arguments.seed + epoch))
        self.network.train()
        total = 0.0
        for batch in torch.split(order, BATCH_SIZE):
            self.optimizer.zero_grad(set_to_none=True)
            loss: Any = functional.cross_entropy(self.network(features[batch]), classes[batch])
            loss.backward()
            self.optimizer.step()
            total += loss.item() * len(batch)
        return total / len(features)

    @torch.no_grad()
    def _validate(self) -> tuple[float, float]:
        features, classes = self.validation
        self.network.eval()
        scores = self.network(features)
        accuracy = (scores.argmax(dim=1) == classes).double().mean().item()
        return functional.cross_entropy(scores, classes).item(), accuracy

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
        buffer = checkpoint.packed(self.network, self.optimizer, self.progress, settings, self._read_results())
        period = self.arguments.save_period
        files = checkpoint.save(self.directory, buffer, self.progress, period, lambda: self.stall)
        tell(
            event="saved",
            epoch=self.progress.epoch,
            loss=loss,
            seconds=round(seconds, 3),
            files=files,
            bytes=len(buffer),
            sha256=checkpoint.digest(buffer),
        )

    @property
    def _results(self) -> Path:
        return self.directory / "results.csv"

    def _read_results(self) -> dict[str, list[float]]:
        with self._results.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        return {name: [float(row[name]) for row in rows] for name in COLUMNS}

    def _forget_later_epochs(self) -> None:
        """Drop the rows of epochs that the checkpoint does not know, for they are trained again."""
        lines = self._results.read_text().splitlines(keepends=True)
        known = [line for line in lines[1:] if int(line.partition(",")[0]) <= self.progress.epoch]
        self._results.write_text("".join([*lines[:1], *known]))


def tell(**event: Any) -> None:
    """Print a line of JSON at once."""
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Train as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m mlsync.demo.trainer", description="Train the demo's network.")
    parser.add_argument("directory", type=Path, help="the run's directory")
    parser.add_argument("--epochs", type=int, default=100, help="train until this epoch")
    parser.add_argument("--resume", action="store_true", help="go on from weights/last.pt")
    parser.add_argument("--save-period", type=int, default=2, help="keep epochN.pt for each N-th epoch; 0: for none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=4e-4, help="AdamW's learning rate")
    trainer = Trainer(parser.parse_args())

    def stall(*_: object) -> None:
        trainer.stall = True

    signal.signal(signal.SIGUSR1, stall)
    # One thread: the sums are then the same each time, and the machine's other core is left for others.
    torch.set_num_threads(1)
    trainer.run()


if __name__ == "__main__":
    main()
