"""As much of Lightning as LightningCallback touches: a strategy that writes, itself or through what it was given."""

import pathlib
from types import SimpleNamespace


class Callback:
    """Does nothing."""

    def setup(self, trainer, pl_module, stage):
        """Nothing."""

    def on_train_epoch_end(self, trainer, pl_module):
        """Nothing."""

    def teardown(self, trainer, pl_module, stage):
        """Nothing."""


class LightningModule:
    """A name."""


class FileIO:
    """Writes a file."""

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        """It is whole."""
        pathlib.Path(path).write_text(checkpoint)


class LaterIO:
    """Writes when it is told to, as AsyncCheckpointIO does in a thread."""

    def __init__(self, checkpoint_io):
        self.checkpoint_io = checkpoint_io
        self.later = []

    def save_checkpoint(self, *args, **kwargs):
        """It is not there yet."""
        self.later.append((args, kwargs))

    def work(self):
        """It is whole."""
        for args, kwargs in self.later:
            self.checkpoint_io.save_checkpoint(*args, **kwargs)


class Strategy:
    """The usual one."""

    def __init__(self, checkpoint_io):
        self.checkpoint_io = checkpoint_io

    def save_checkpoint(self, checkpoint, filepath, storage_options=None):
        """Through its plug-in."""
        self.checkpoint_io.save_checkpoint(checkpoint, filepath, storage_options=storage_options)


class Trainer:
    """Calls its callbacks."""

    def __init__(self, max_epochs, callbacks, plugin=None):
        self.max_epochs, self.callbacks = max_epochs, callbacks
        self.strategy = Strategy(plugin or FileIO())

    def save_checkpoint(self, path):
        """As ModelCheckpoint asks for it."""
        self.strategy.save_checkpoint("weights", path, storage_options=None)

    def fit(self):
        """All epochs."""
        for callback in self.callbacks:
            callback.setup(self, None, "fit")
        for epoch in range(self.max_epochs):
            self.epoch = epoch
            for callback in self.callbacks:
                callback.on_train_epoch_end(self, SimpleNamespace())
        for callback in self.callbacks:
            callback.teardown(self, None, "fit")
