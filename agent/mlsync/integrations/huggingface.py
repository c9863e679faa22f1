"""Hugging Face's Trainer: ``Trainer(…, callbacks=[HuggingFaceCallback()])``."""

from __future__ import annotations

import os
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mlsync.python.now import now


class HuggingFaceCallback(TrainerCallback):
    """Tells the agent after each save: ``checkpoint-N`` is whole then; *run* tells of one run only."""

    def __init__(self, *, run: str | None = None) -> None:
        self._run = run

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Tell of the checkpoint that was just written, or of the whole output where a search names it otherwise."""
        del control, kwargs
        if not state.is_world_process_zero:
            return
        checkpoint = os.path.join(args.output_dir, f"checkpoint-{state.global_step}")
        now(checkpoint if os.path.isdir(checkpoint) else args.output_dir, run=self._run)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell that the training has ended."""
        del control, kwargs
        if state.is_world_process_zero:
            now(args.output_dir, run=self._run)
