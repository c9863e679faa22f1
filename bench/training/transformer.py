"""A transformer trained in float32 with AdamW: ``last.pt`` holds the model, both moments and the losses so far.

Rewritten in place 20 to 50 steps after the save before; saves begin after the warm phase, where moments have settled.
Every float changes between two saves, also the embeddings of words that did not occur (AdamW decays them).
"""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict

import torch

from training.language import LanguageModel, Shape, adamw, step
from training.run_directory import RunDirectory
from training.text import Batches, tokens

SHAPE = Shape(vocabulary=4096, width=256, heads=4, layers=6, length=128)
RATE = 1e-3
WARM_STEPS = 120
STEPS_BETWEEN_SAVES = (20, 30, 50, 20, 25, 40, 30)


def train(run: RunDirectory, versions: int) -> None:
    model = LanguageModel(SHAPE)
    optimizer = adamw(model, RATE)
    batches = Batches(tokens(SHAPE.vocabulary), SHAPE.length, count=8, seed=0)
    (run.path / "args.json").write_text(json.dumps(asdict(SHAPE) | {"rate": RATE}, indent=2) + "\n")
    losses: list[float] = []
    between = itertools.chain([WARM_STEPS], itertools.cycle(STEPS_BETWEEN_SAVES))
    for steps in itertools.islice(between, versions):
        losses += [warmed_step(model, optimizer, batches, len(losses) + number) for number in range(steps)]
        save(run, model, optimizer, losses)
        run.snapshot()


def warmed_step(model: LanguageModel, optimizer: torch.optim.Optimizer, batches: Batches, number: int) -> float:
    optimizer.param_groups[0]["lr"] = RATE * min(1.0, (number + 1) / 50)
    return step(model, optimizer, batches.next())


def save(run: RunDirectory, model: LanguageModel, optimizer: torch.optim.Optimizer, losses: list[float]) -> None:
    with (run.path / "log.txt").open("a") as log:
        log.write(f"step {len(losses)}: loss {losses[-1]:.4f}\n")
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": len(losses),
        "losses": losses,
    }
    torch.save(state, run.path / "last.pt")
