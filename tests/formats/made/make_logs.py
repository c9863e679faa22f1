"""Makes ``logs/`` as the trainers themselves write them: ``python -P make_logs.py``, where they are installed.

``logs/ultralytics.csv`` is of ``tests/frameworks/ultralytics_trainer.py`` with 25 epochs.
"""

import shutil
import warnings
from pathlib import Path

import pytorch_lightning as lightning
import torch
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter

HERE = Path(__file__).parent / "logs"
warnings.filterwarnings("ignore")


class Regression(lightning.LightningModule):
    """Learns to give back what it is given."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 16))

    def training_step(self, batch, _index):
        """One step."""
        loss = torch.nn.functional.mse_loss(self.layers(batch), batch)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, _index):
        """One step."""
        self.log("val_loss", torch.nn.functional.mse_loss(self.layers(batch), batch))

    def configure_optimizers(self):
        """The usual one."""
        return torch.optim.AdamW(self.parameters(), 1e-3)


def train(work: Path) -> None:
    """Train for six epochs, with both of Lightning's loggers."""
    torch.manual_seed(0)
    batches = torch.utils.data.DataLoader(torch.randn(128, 16), batch_size=8)
    loggers = [CSVLogger(work, "csv"), TensorBoardLogger(work, "events")]
    trainer = lightning.Trainer(
        max_epochs=6,
        accelerator="cpu",
        logger=loggers,
        enable_progress_bar=False,
        enable_checkpointing=False,
        log_every_n_steps=8,
    )
    trainer.fit(Regression(), batches, batches)
    shutil.copy(work / "csv/version_0/metrics.csv", HERE / "lightning.csv")
    shutil.copy(next((work / "events/version_0").glob("*tfevents*")), HERE / "lightning.tfevents")


def write_events(work: Path) -> None:
    """Write scalars in each form, and what is none."""
    writer = SummaryWriter(work / "torch")
    for step in range(20):
        writer.add_scalar("Loss/train", 1 / (step + 1), step)
        if step % 5 == 4:
            writer.add_scalar("Loss/val", 1.2 / (step + 1), step)
    writer.add_scalar("tensor", 7.5, 3, new_style=True)
    writer.add_scalar("double", 0.1, 4, new_style=True, double_precision=True)
    writer.add_scalar("diverged", float("nan"), 19)
    writer.add_text("note", "hello")
    writer.add_histogram("weights", torch.arange(100.0), 3)
    writer.add_image("picture", torch.rand(3, 160, 160), 1)  # more than a record of scalars has
    writer.close()
    shutil.copy(next((work / "torch").glob("*tfevents*")), HERE / "torch.tfevents")


if __name__ == "__main__":
    place = HERE / "work"
    train(place)
    write_events(place)
    shutil.rmtree(place)
