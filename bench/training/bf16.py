"""A fine-tune in pure bfloat16 at a rate of 1e-5, saved as Hugging Face's Trainer saves: ``checkpoint-N/``, two kept.

The start is the same model trained in float32 and then rounded. The optimizer is Adafactor as ``--optim adafactor``
sets it up, the usual choice where memory is so short that one trains in bfloat16 at all: its second moments are
factored, so ``optimizer.pt`` is small and nearly all of a checkpoint are weights. With AdamW they would be a third of
it. At this rate most updates are below half a unit in a weight's last place and are rounded away: such training is so.
Weights and gradients are rounded to bfloat16 as such training has them, and multiplied as float32: processors without
instructions for bfloat16 are twenty times slower with it.
"""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from training.language import LanguageModel, Shape, adamw, step
from training.run_directory import RunDirectory
from training.text import Batches, tokens

SHAPE = Shape(vocabulary=8192, width=512, heads=8, layers=4, length=128)
START_STEPS = 120
STEPS_PER_SAVE = 20
PLANNED_STEPS = 1000
KEPT_CHECKPOINTS = 2
RATE = 1e-5


class Adafactor(torch.optim.Optimizer):
    """Adafactor without relative steps, without scaling by the weights, without a first moment."""

    def __init__(self, parameters: list[Tensor], lr: float) -> None:
        super().__init__(parameters, {"lr": lr, "eps": 1e-30, "clip_threshold": 1.0, "decay_rate": -0.8})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for weights in group["params"]:
                self._update(weights, self.state[weights], group)

    def _update(self, weights: Tensor, state: dict[str, object], group: dict[str, float]) -> None:
        gradient = weights.grad.bfloat16().float()
        state["step"] = state.get("step", 0) + 1
        decay = 1.0 - state["step"] ** group["decay_rate"]
        update = gradient * self._inverse_root(gradient.square() + group["eps"], state, decay)
        update /= (update.square().mean().sqrt() / group["clip_threshold"]).clamp(min=1.0)
        weights.copy_((weights - group["lr"] * update).bfloat16())

    def _inverse_root(self, squares: Tensor, state: dict[str, object], decay: float) -> Tensor:
        if squares.dim() < 2:
            return moving(state, "exp_avg_sq", squares, decay).rsqrt()
        rows = moving(state, "exp_avg_sq_row", squares.mean(dim=-1), decay)
        columns = moving(state, "exp_avg_sq_col", squares.mean(dim=-2), decay)
        return (rows / rows.mean()).rsqrt().unsqueeze(-1) * columns.rsqrt()


def moving(state: dict[str, object], name: str, value: Tensor, decay: float) -> Tensor:
    state[name] = state[name].lerp_(value, 1.0 - decay) if name in state else value.clone()
    return state[name]


def train(run: RunDirectory, versions: int) -> None:
    stream = tokens(SHAPE.vocabulary)
    model = LanguageModel(SHAPE)
    trained_start(model, stream)
    model.to(torch.bfloat16).to(torch.float32)
    optimizer = Adafactor(list(model.parameters()), lr=RATE)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, PLANNED_STEPS)
    batches = Batches(stream, SHAPE.length, count=4, seed=1)
    history: list[dict[str, float]] = []
    for _ in range(versions):
        for _ in range(STEPS_PER_SAVE):
            loss = step(model, optimizer, batches.next())
            scheduler.step()
        number = (len(history) + 1) * STEPS_PER_SAVE
        history.append({"loss": round(loss, 4), "learning_rate": scheduler.get_last_lr()[0], "step": number})
        save(run.path / f"checkpoint-{number}", model, optimizer, scheduler, history)
        rotate(run.path, number)
        run.snapshot()


def trained_start(model: LanguageModel, stream: Tensor) -> None:
    optimizer = adamw(model, 6e-4)
    batches = Batches(stream, SHAPE.length, count=4, seed=0)
    for _ in range(START_STEPS):
        step(model, optimizer, batches.next())


def save(
    directory: Path,
    model: LanguageModel,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    history: list[dict[str, float]],
) -> None:
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(vars(SHAPE) | {"torch_dtype": "bfloat16"}, indent=2) + "\n")
    weights = {name: one.bfloat16() for name, one in model.state_dict().items()}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    torch.save(optimizer.state_dict(), directory / "optimizer.pt")
    torch.save(scheduler.state_dict(), directory / "scheduler.pt")
    generators = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002 - this is what Trainer saves
        "cpu": torch.random.get_rng_state(),
    }
    torch.save(generators, directory / "rng_state.pth")
    state = {"global_step": history[-1]["step"], "log_history": history, "max_steps": PLANNED_STEPS}
    (directory / "trainer_state.json").write_text(json.dumps(state, indent=2) + "\n")


def rotate(directory: Path, newest: int) -> None:
    shutil.rmtree(directory / f"checkpoint-{newest - KEPT_CHECKPOINTS * STEPS_PER_SAVE}", ignore_errors=True)
