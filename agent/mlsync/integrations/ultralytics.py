"""Ultralytics: ``attach(model)`` before ``model.train(…)``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from mlsync.python.now import now


class TakesCallbacks(Protocol):
    """A model of Ultralytics, as far as it is used here."""

    def add_callback(self, event: str, func: Callable[[Any], object], /) -> None:
        """Have *func* called with the trainer at each *event*."""


def attach(model: TakesCallbacks, *, run: str | None = None) -> None:
    """Tell the agent after each save of *model*'s training, and at its end.

    Ultralytics calls this in the first process of the training: when ``last.pt``, ``best.pt`` and ``epochN.pt`` are
    written, and when it has stripped the optimizer from them. *run* tells of one run only.
    """

    def saved(trainer: Any) -> None:
        now(trainer.wdir, run=run)

    def ended(trainer: Any) -> None:
        now(trainer.save_dir, run=run)

    model.add_callback("on_model_save", saved)
    model.add_callback("on_train_end", ended)
