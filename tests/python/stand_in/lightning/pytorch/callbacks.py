"""What saves."""

import pathlib

from lightning.pytorch import Callback


class ModelCheckpoint(Callback):
    """Saves after each epoch."""

    def __init__(self, dirpath, save_last):
        self._dirpath = pathlib.Path(dirpath)

    def on_train_epoch_end(self, trainer, pl_module):
        """A file of the epoch's, and the last one."""
        for name in (f"epoch={trainer.epoch}.ckpt", "last.ckpt"):
            trainer.save_checkpoint(str(self._dirpath / name))
