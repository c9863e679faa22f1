"""Lightning: ``Trainer(callbacks=[…, LightningCallback()])``, of ``lightning`` as of ``pytorch_lightning``.

Lightning's own hook, ``on_save_checkpoint``, comes before the file is written. So the callback puts itself behind what
writes: behind the strategy, whose shards are all written then, or, where the writing goes on in a thread
(``AsyncCheckpointIO``), behind what that thread calls.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import TYPE_CHECKING, Any

from mlsync.python.now import now

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
else:
    # The two packages are the same code under two names; the training's own is loaded already.
    _loaded = [name for name in ("lightning.pytorch", "pytorch_lightning") if name in sys.modules]
    try:
        Callback = import_module((_loaded or ["lightning.pytorch"])[0]).Callback
    except ModuleNotFoundError:
        Callback = import_module("pytorch_lightning").Callback


class LightningCallback(Callback):
    """Tells the agent after each save, when the file or directory is whole; *run* tells of one run only."""

    def __init__(self, *, run: str | None = None) -> None:
        self._run = run
        self._undo: Callable[[], None] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stand behind what writes checkpoints."""
        del pl_module
        if stage == "fit" and self._undo is None:
            self._undo = _tell_after(_writer(trainer.strategy), self._run)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave Lightning as it was."""
        del trainer, pl_module, stage
        undo, self._undo = self._undo, None
        if undo is not None:
            undo()


def _writer(strategy: Any) -> Any:
    """Return what has written the whole checkpoint when its ``save_checkpoint`` returns."""
    writer, within = strategy, getattr(strategy, "checkpoint_io", None)
    # One that wraps another may hand the work to a thread.
    while (wrapped := getattr(within, "checkpoint_io", None)) is not None:
        writer = within = wrapped
    return writer


def _tell_after(writer: Any, run: str | None) -> Callable[[], None]:
    """Have *writer* tell the agent of each checkpoint that it wrote; return what ends that."""
    write = writer.save_checkpoint

    @wraps(write)
    def save_checkpoint(*args: Any, **kwargs: Any) -> Any:
        done = write(*args, **kwargs)
        # Lightning's own classes call it by two names.
        now(args[1] if len(args) > 1 else kwargs.get("path", kwargs.get("filepath")), run=run)
        return done

    writer.save_checkpoint = save_checkpoint

    def undo() -> None:
        if vars(writer).get("save_checkpoint") is save_checkpoint:
            del writer.save_checkpoint

    return undo
