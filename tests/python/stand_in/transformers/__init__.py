"""As much of transformers as HuggingFaceCallback touches, in the order of its Trainer."""

import pathlib
from types import SimpleNamespace


class TrainerCallback:
    """Does nothing."""


class TrainerControl:
    """A name."""


class TrainerState:
    """A name."""


class TrainingArguments:
    """What is to be done."""

    def __init__(self, output_dir, max_steps, save_steps):
        self.output_dir, self.max_steps, self.save_steps = output_dir, max_steps, save_steps


class Trainer:
    """Fills checkpoint-N in place, and deletes the one before."""

    def __init__(self, args, callbacks):
        self.args, self.callbacks = args, callbacks

    def train(self):
        """All steps."""
        state = SimpleNamespace(global_step=0, is_world_process_zero=True)
        for step in range(1, self.args.max_steps + 1):
            state.global_step = step
            place = pathlib.Path(self.args.output_dir) / f"checkpoint-{step}"
            place.mkdir(parents=True)
            for name in ("model.safetensors", "optimizer.pt", "trainer_state.json"):
                (place / name).write_text(str(step))
            for callback in self.callbacks:
                callback.on_save(self.args, state, None, model=None)
        for callback in self.callbacks:
            callback.on_train_end(self.args, state, None, model=None)
