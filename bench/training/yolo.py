"""A convolutional detector trained with SGD and an averaged copy, saved the way Ultralytics 8.4 saves.

A checkpoint holds the average (EMA) as a whole ``nn.Module`` in half precision, the optimizer's momentum in half
precision and all rows of ``results.csv`` in its pickle. Each epoch writes one buffer to ``last.pt``, to ``best.pt`` if
it is the best and to ``epochN.pt`` every third time, in place; at the end, last and best are stripped of the optimizer
and written anew. Every float changes from epoch to epoch.
"""

from __future__ import annotations

import copy
import csv
import io
import math
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.run_directory import RunDirectory
from training.shapes import CLASS_COUNT, Drawing, draw

SIDE = 96
BATCH = 12
STEPS_PER_EPOCH = 30
SAVE_PERIOD = 3
COLUMNS = ("epoch", "time", "train/box_loss", "train/cls_loss", "metrics/fitness", "lr/pg0")
RATE = 0.01


class Conv(nn.Module):
    def __init__(self, inlet: int, outlet: int, size: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inlet, outlet, size, stride, size // 2, bias=False)
        self.bn = nn.BatchNorm2d(outlet)
        self.act = nn.SiLU(inplace=True)

    def forward(self, value: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(value)))


class Bottleneck(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.cv1 = Conv(width, width, 3)
        self.cv2 = Conv(width, width, 3)

    def forward(self, value: Tensor) -> Tensor:
        return value + self.cv2(self.cv1(value))


class C2f(nn.Module):
    """Splits its channels and gathers what each bottleneck makes of one half."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.cv1 = Conv(width, width)
        self.m = nn.ModuleList(Bottleneck(width // 2) for _ in range(count))
        self.cv2 = Conv((2 + count) * width // 2, width)

    def forward(self, value: Tensor) -> Tensor:
        parts = list(self.cv1(value).chunk(2, dim=1))
        for bottleneck in self.m:
            parts.append(bottleneck(parts[-1]))
        return self.cv2(torch.cat(parts, dim=1))


class Detector(nn.Module):
    """Says for each cell whether the middle of a thing is there, what it is, and where exactly."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(
            Conv(3, 32, 3, 2),
            Conv(32, 64, 3, 2),
            C2f(64, 1),
            Conv(64, 128, 3, 2),
            C2f(128, 2),
            Conv(128, 256, 3, 2),
            C2f(256, 2),
            Conv(256, 512, 3),
            C2f(512, 2),
            Conv(512, 256, 3),
            nn.Conv2d(256, 1 + CLASS_COUNT + 3, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)


class Average:
    """Ultralytics' ModelEMA: its decay grows from nothing, so that the first steps are soon forgotten."""

    def __init__(self, model: nn.Module) -> None:
        self.ema = copy.deepcopy(model).eval().requires_grad_(False)
        self.updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.updates += 1
        decay = 0.9999 * (1 - math.exp(-self.updates / 2000))
        for name, value in self.ema.state_dict().items():
            if value.dtype.is_floating_point:
                value.mul_(decay).add_(model.state_dict()[name], alpha=1 - decay)


def train(run: RunDirectory, versions: int) -> None:
    generator = torch.Generator().manual_seed(0)
    model = Detector()
    average = Average(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.937, weight_decay=5e-4, nesterov=True)
    held_out = draw(128, SIDE, generator)
    (run.path / "weights").mkdir()
    (run.path / "args.yaml").write_text(f"imgsz: {SIDE}\nbatch: {BATCH}\nsave_period: {SAVE_PERIOD}\nlr0: {RATE}\n")
    best = 0.0
    for epoch in range(1, versions):
        losses = [step(model, average, optimizer, draw(BATCH, SIDE, generator)) for _ in range(STEPS_PER_EPOCH)]
        box, classes = (sum(parts) / STEPS_PER_EPOCH for parts in zip(*losses, strict=True))
        fitness = accuracy(average.ema, held_out)
        best = max(best, fitness)
        write_row(run.path / "results.csv", (epoch, round(epoch * 7.3, 2), box, classes, fitness, RATE))
        save(run.path, average, optimizer, epoch, is_best=fitness == best)
        run.snapshot()
    strip(run.path / "weights")
    run.snapshot()


def step(model: Detector, average: Average, optimizer: torch.optim.Optimizer, drawing: Drawing) -> tuple[float, float]:
    model.train()
    optimizer.zero_grad(set_to_none=True)
    box, classes = losses(model(drawing.images), drawing)
    (box + classes).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 10.0)
    optimizer.step()
    average.update(model)
    return box.item(), classes.item()


def losses(answers: Tensor, drawing: Drawing) -> tuple[Tensor, Tensor]:
    across, down, within = cells(drawing, answers.shape[-1])
    every = torch.arange(len(answers))
    wanted = torch.zeros_like(answers[:, 0])
    wanted[every, down, across] = 1.0
    there = functional.binary_cross_entropy_with_logits(answers[:, 0], wanted)
    mine = answers[every, :, down, across]
    classes = functional.cross_entropy(mine[:, 1 : 1 + CLASS_COUNT], drawing.classes)
    return functional.l1_loss(mine[:, 1 + CLASS_COUNT :], within), classes + 5 * there


def cells(drawing: Drawing, count: int) -> tuple[Tensor, Tensor, Tensor]:
    places = drawing.boxes[:, :2] * count
    corner = places.floor().clamp(max=count - 1)
    within = torch.cat([places - corner, drawing.boxes[:, 2:] * count], dim=1)
    return corner[:, 0].long(), corner[:, 1].long(), within


@torch.no_grad()
def accuracy(model: nn.Module, drawing: Drawing) -> float:
    answers = model(drawing.images)
    across, down, _ = cells(drawing, answers.shape[-1])
    classes = answers[torch.arange(len(answers)), 1 : 1 + CLASS_COUNT, down, across]
    return (classes.argmax(dim=1) == drawing.classes).float().mean().item()


def write_row(file: Path, row: tuple[float, ...]) -> None:
    is_new = not file.exists()
    with file.open("a", newline="") as stream:
        writer = csv.writer(stream)
        if is_new:
            writer.writerow(COLUMNS)
        writer.writerow([f"{value:.5g}" for value in row])


def save(run: Path, average: Average, optimizer: torch.optim.Optimizer, epoch: int, *, is_best: bool) -> None:
    with (run / "results.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    buffer = io.BytesIO()
    state = {
        "epoch": epoch,
        "best_fitness": max(float(row["metrics/fitness"]) for row in rows),
        "model": None,
        "ema": copy.deepcopy(average.ema).half(),
        "updates": average.updates,
        "optimizer": halved(optimizer.state_dict()),
        "train_args": {"imgsz": SIDE, "batch": BATCH, "lr0": RATE},
        "train_results": {name: [float(row[name]) for row in rows] for name in COLUMNS},
        "date": datetime.now(UTC).isoformat(),
    }
    torch.save(state, buffer)
    names = ["last.pt", *(["best.pt"] if is_best else []), *([f"epoch{epoch}.pt"] if epoch % SAVE_PERIOD == 0 else [])]
    for name in names:
        (run / "weights" / name).write_bytes(buffer.getvalue())


def halved(state: dict[str, object]) -> dict[str, object]:
    state = copy.deepcopy(state)
    for values in state["state"].values():
        values["momentum_buffer"] = values["momentum_buffer"].half()
    return state


def strip(weights: Path) -> None:
    """Ultralytics' strip_optimizer: what is left is for using the model, not for training on."""
    for name in ("last.pt", "best.pt"):
        state = torch.load(weights / name, weights_only=False)
        state["model"] = state["ema"].half().requires_grad_(False)
        state |= dict.fromkeys(("optimizer", "best_fitness", "ema", "updates"))
        state["epoch"] = -1
        torch.save(state, weights / name)
