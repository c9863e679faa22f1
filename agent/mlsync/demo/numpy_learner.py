"""The numpy trainer's learner and its checkpoint: one safetensors file with everything that a resume needs.

Its tensors are the weights and the optimizer's moments. Counters, and the state of the generator that shuffles the
data, are texts in its header, where mlsync and others can read the epoch without the tensors.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

import mlsync
from mlsync.demo import safetensors_file
from mlsync.demo.checkpoint import Progress
from mlsync.demo.numpy_network import AdamW, Floats, NumpyNetwork, cross_entropy, dataset

BATCH_SIZE = 64
_MODEL, _EXP_AVG, _EXP_AVG_SQ = "model.", "optimizer.exp_avg.", "optimizer.exp_avg_sq."


class NumpyLearner:
    """A network, its optimizer, the data, and a generator that shuffles the data for each epoch."""

    def __init__(self, seed: int, rate: float) -> None:
        self._train, self._validation = dataset(np.random.default_rng(seed))
        self._random = np.random.default_rng(seed)
        self._network = NumpyNetwork(self._random)
        self._optimizer = AdamW(self._network.parameters, rate)

    @property
    def parameter_count(self) -> int:
        """The number of trained parameters."""
        return self._network.parameters.flat.size

    def epoch(self, number: int) -> float:  # noqa: ARG002 - the generator's state is what tells this epoch's order
        """Take a gradient step for each batch, in the generator's order; return the mean loss."""
        features, classes = self._train
        order = self._random.permutation(len(features))
        gradients = self._network.parameters.alike()
        total = 0.0
        for begin in range(0, len(order), BATCH_SIZE):
            batch = order[begin : begin + BATCH_SIZE]
            loss = self._network.loss_and_gradients(features[batch], classes[batch], gradients)
            self._optimizer.step(gradients)
            total += loss * len(batch)
        return total / len(order)

    def validate(self) -> tuple[float, float]:
        """Return loss and accuracy on the validation data."""
        features, classes = self._validation
        scores = self._network.scores(features)
        return cross_entropy(scores, classes)[0], float(np.mean(scores.argmax(axis=1) == classes))

    def packed(self, progress: Progress, arguments: dict[str, Any], results: dict[str, list[float]]) -> bytes:
        """Return a checkpoint as one buffer."""
        texts = {
            "epoch": str(progress.epoch),
            "step": str(self._optimizer.step_count),
            "best_fitness": repr(progress.best_fitness),
            "random_state": json.dumps(self._random.bit_generator.state),
            "train_args": json.dumps(arguments, default=str),
            "train_results": json.dumps(results),
            "date": datetime.now().astimezone().isoformat(),
            "version": mlsync.__version__,
        }
        return safetensors_file.packed(self._state(), texts)

    def resume(self, file: Path) -> Progress:
        """Load weights, moments, counters and the generator's state from a checkpoint."""
        tensors, texts = safetensors_file.unpacked(file.read_bytes())
        for name, part in self._state().items():
            part[...] = tensors[name]
        self._optimizer.step_count = int(texts["step"])
        self._random.bit_generator.state = json.loads(texts["random_state"])
        return Progress(int(texts["epoch"]), float(texts["best_fitness"]))

    def _state(self) -> dict[str, Floats]:
        """Return the arrays that the training changes, not copies, by their names in the checkpoint."""
        optimizer = self._optimizer
        parts = {_MODEL: self._network.parameters, _EXP_AVG: optimizer.exp_avg, _EXP_AVG_SQ: optimizer.exp_avg_sq}
        return {prefix + name: part for prefix, group in parts.items() for name, part in group.named.items()}
