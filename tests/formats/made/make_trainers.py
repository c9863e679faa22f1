"""Writes the checkpoints of trainers in this directory, each with the trainer itself.

Run once, with these versions: Python 3.11, torch 2.13.0+cpu, pytorch-lightning 2.6.6, accelerate 1.15.0 and
transformers 5.24.0. The tests read what it wrote and need none of them.
"""

from __future__ import annotations

import logging
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import torch

HERE = Path(__file__).parent


def lightning() -> None:
    """Two epochs with the default ``ModelCheckpoint``, which keeps ``kth_value = tensor(inf)`` with the rest."""
    import pytorch_lightning

    class Module(pytorch_lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 2)

        def training_step(self, batch, index):
            return self.layer(batch[0]).square().mean()

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters())

    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(12, 4)), batch_size=4)
    with tempfile.TemporaryDirectory() as directory:
        trainer = pytorch_lightning.Trainer(
            max_epochs=2,
            default_root_dir=directory,
            accelerator="cpu",
            enable_progress_bar=False,
            enable_model_summary=False,
            log_every_n_steps=1,
        )
        trainer.fit(Module(), data)
        shutil.copyfile(next(Path(directory).rglob("*.ckpt")), HERE / "lightning-default.ckpt")


def accelerate() -> None:
    """``Accelerator.save_state`` of a model and its optimizer."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model = torch.nn.Linear(4, 2)
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters()))
    accelerator.backward(model(torch.randn(3, 4)).square().mean())
    optimizer.step()
    target = HERE / "accelerate-save-state"
    shutil.rmtree(target, ignore_errors=True)
    accelerator.save_state(str(target))
    (target / "random_states_0.pkl").unlink()


def huggingface() -> None:
    """``Trainer`` with an evaluation a step: its state names the best one, which is not the last."""
    from transformers import PretrainedConfig, PreTrainedModel, Trainer, TrainingArguments

    class Model(PreTrainedModel):
        config_class = PretrainedConfig

        def __init__(self, config) -> None:
            super().__init__(config)
            self.layer = torch.nn.Linear(4, 1)
            self.post_init()

        def _init_weights(self, module) -> None:
            pass

        def forward(self, x, labels=None):
            out = self.layer(x)
            return {"loss": (out - labels).square().mean(), "logits": out}

    torch.manual_seed(0)
    rows = [{"x": torch.randn(4), "labels": torch.randn(1)} for _ in range(8)]
    losses = iter([0.5, 0.25, 0.75])
    with tempfile.TemporaryDirectory() as directory:
        arguments = TrainingArguments(
            output_dir=directory,
            max_steps=3,
            per_device_train_batch_size=4,
            eval_strategy="steps",
            eval_steps=1,
            save_strategy="steps",
            save_steps=1,
            metric_for_best_model="score",
            greater_is_better=False,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = Trainer(
            Model(PretrainedConfig()),
            arguments,
            train_dataset=rows,
            eval_dataset=rows,
            compute_metrics=lambda _: {"score": next(losses)},
        )
        trainer.train()
        target = HERE / "huggingface-trainer"
        shutil.rmtree(target, ignore_errors=True)
        for number in (2, 3):
            here = target / f"checkpoint-{number}"
            here.mkdir(parents=True)
            for name in ("trainer_state.json", "optimizer.pt", "model.safetensors"):
                shutil.copyfile(Path(directory) / f"checkpoint-{number}" / name, here / name)


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    for make in [globals()[name] for name in sys.argv[1:]] or (lightning, accelerate, huggingface):
        make()
