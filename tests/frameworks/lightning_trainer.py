"""A training as anybody writes it with Lightning: ``lightning_trainer.py EVENTS DIRECTORY EPOCHS [CHECKPOINT]``."""

import json
import sys

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint


class Regression(lightning.LightningModule):
    """Learns to give back what it is given."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 64))

    def training_step(self, batch, _index):
        """One step."""
        loss = torch.nn.functional.mse_loss(self.layers(batch), batch)
        self.log("loss", loss, on_epoch=True)
        return loss

    def configure_optimizers(self):
        """The usual one."""
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


class Telling(Callback):
    """Says where the training begins, and waits for a line on stdin after each epoch but the last."""

    def __init__(self, events):
        self._events = events

    def on_train_start(self, trainer, pl_module):
        """It begins, or goes on."""
        self._tell("begins", trainer.current_epoch)

    def on_train_epoch_start(self, trainer, pl_module):
        """What the epoch before saved is there."""
        if trainer.current_epoch:
            self._tell("saved", trainer.current_epoch - 1)
            sys.stdin.readline()

    def _tell(self, event, epoch):
        with open(self._events, "a") as stream:
            stream.write(json.dumps({"event": event, "epoch": epoch}) + "\n")


def main() -> None:
    """Train, or go on."""
    events, directory, epochs, *checkpoint = sys.argv[1:]
    saving = ModelCheckpoint(directory, monitor="loss", save_top_k=2, save_last=True)
    trainer = lightning.Trainer(
        max_epochs=int(epochs),
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        callbacks=[saving, Telling(events)],
    )
    numbers = torch.randn(256, 64, generator=torch.Generator().manual_seed(0))
    data = torch.utils.data.DataLoader(numbers, batch_size=32)
    trainer.fit(Regression(), data, ckpt_path=checkpoint[0] if checkpoint else None, weights_only=False)


if __name__ == "__main__":
    main()
