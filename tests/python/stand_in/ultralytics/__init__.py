"""As much of Ultralytics as attach() touches, in the order of its trainer."""

import pathlib
from types import SimpleNamespace


class YOLO:
    """A model."""

    def __init__(self, model):
        self.callbacks = {}

    def add_callback(self, event, func):
        """Have it called."""
        self.callbacks.setdefault(event, []).append(func)

    def train(self, data, project, epochs):
        """Save after each epoch, and strip what was saved at the end."""
        save_dir = pathlib.Path(project).absolute() / "train"
        trainer = SimpleNamespace(save_dir=save_dir, wdir=save_dir / "weights")
        trainer.wdir.mkdir(parents=True)
        for epoch in range(epochs):
            for name in ("last.pt", "best.pt"):
                (trainer.wdir / name).write_text(f"{epoch}, with optimizer")
            self._run("on_model_save", trainer)
        for name in ("last.pt", "best.pt"):
            (trainer.wdir / name).write_text("stripped")
        self._run("on_train_end", trainer)

    def _run(self, event, trainer):
        for func in self.callbacks.get(event, ()):
            func(trainer)
