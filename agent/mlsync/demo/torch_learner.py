"""The torch trainer's learner and its checkpoint, which holds what one of Ultralytics 8.4 holds.

Ultralytics resumes from half-precision weights, so its resume is never exact. This trainer keeps its weights in full
precision beside them, so that the demo can show a loss that goes on to the last digit.
"""

from __future__ import annotations

import copy
import io
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

import mlsync
from mlsync.demo.checkpoint import Progress
from mlsync.demo.torch_network import TorchNetwork, dataset, parameter_count

BATCH_SIZE = 64


class TorchLearner:
    """A network, its optimizer and the data; an epoch depends only on its number and the checkpoint before it."""

    def __init__(self, seed: int, rate: float) -> None:
        # One thread, so that sums are the same each time, and the machine's other cores stay free.
        torch.set_num_threads(1)
        torch.manual_seed(seed)
        self._seed = seed
        self._network = TorchNetwork()
        self._optimizer = torch.optim.AdamW(self._network.parameters(), lr=rate, weight_decay=0.01)
        self._train, self._validation = dataset(seed)

    @property
    def parameter_count(self) -> int:
        """The number of trained parameters."""
        return parameter_count(self._network)

    def epoch(self, number: int) -> float:
        """Take a gradient step for each batch, in an order that depends only on the epoch's number; return the loss."""
        features, classes = self._train
        order = torch.randperm(len(features), generator=torch.Generator().manual_seed(self._seed + number))
        self._network.train()
        total = 0.0
        for batch in torch.split(order, BATCH_SIZE):
            self._optimizer.zero_grad(set_to_none=True)
            loss: Any = functional.cross_entropy(self._network(features[batch]), classes[batch])
            loss.backward()
            self._optimizer.step()
            total += loss.item() * len(batch)
        return total / len(features)

    @torch.no_grad()
    def validate(self) -> tuple[float, float]:
        """Return loss and accuracy on the validation data."""
        features, classes = self._validation
        self._network.eval()
        scores = self._network(features)
        accuracy = (scores.argmax(dim=1) == classes).double().mean().item()
        return functional.cross_entropy(scores, classes).item(), accuracy

    def packed(self, progress: Progress, arguments: dict[str, Any], results: dict[str, list[float]]) -> bytes:
        """Return a checkpoint as one buffer."""
        buffer = io.BytesIO()
        content = {
            "epoch": progress.epoch,
            "best_fitness": progress.best_fitness,
            "model": None,
            "ema": copy.deepcopy(self._network).half(),
            "updates": progress.epoch,
            "optimizer": self._optimizer.state_dict(),
            "weights": self._network.state_dict(),
            "train_args": arguments,
            "train_results": results,
            "date": datetime.now().astimezone().isoformat(),
            "version": mlsync.__version__,
            "license": "Apache-2.0",
        }
        torch.save(content, buffer)
        return buffer.getvalue()

    def resume(self, file: Path) -> Progress:
        """Load network and optimizer from a checkpoint, which the trainer wrote itself and trusts."""
        content = torch.load(file, map_location="cpu", weights_only=False)
        self._network.load_state_dict(content["weights"])
        self._optimizer.load_state_dict(content["optimizer"])
        return Progress(content["epoch"], content["best_fitness"])
