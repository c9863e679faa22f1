"""A fine-tune of a new head on a frozen convolutional backbone, saved whole, frozen weights and all, each time.

Done as PyTorch's tutorial on transfer learning does it: ``requires_grad = False`` and ``model.train()``. The backbone's
weights stay as they are to the last bit, the running statistics of its normalisation move. ``train_results`` grows in
the pickle, so that what follows it moves within the file. ``last.pt`` each epoch, ``best.pt`` when it is the best.
"""

from __future__ import annotations

import io
import json

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.run_directory import RunDirectory
from training.shapes import CLASS_COUNT, SHAPE_COUNT, Drawing, draw

WIDTHS = (64, 128, 256, 512)
BLOCKS_PER_WIDTH = 2
SIDE = 48
BATCH = 32
START_STEPS = 120
STEPS_PER_EPOCH = 15
HEAD_WIDTH = 1024


class Block(nn.Module):
    def __init__(self, inlet: int, outlet: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inlet, outlet, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outlet)
        self.conv2 = nn.Conv2d(outlet, outlet, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outlet)
        is_alike = inlet == outlet and stride == 1
        shortcut = nn.Sequential(nn.Conv2d(inlet, outlet, 1, stride, bias=False), nn.BatchNorm2d(outlet))
        self.shortcut = nn.Identity() if is_alike else shortcut

    def forward(self, value: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(value)))))
        return functional.relu(inner + self.shortcut(value))


class Classifier(nn.Module):
    """ResNet-18's backbone behind a smaller stem, and the head that it is asked for."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, WIDTHS[0], 3, 2, 1, bias=False), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU())
        inlets = (WIDTHS[0], *WIDTHS)
        self.layers = nn.Sequential(
            *(
                Block(inlet if first else outlet, outlet, 2 if first and inlet != outlet else 1)
                for inlet, outlet in zip(inlets, WIDTHS, strict=False)
                for first in (number == 0 for number in range(BLOCKS_PER_WIDTH))
            )
        )
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.layers(self.stem(images)).mean(dim=(2, 3)))


def train(run: RunDirectory, versions: int) -> None:
    generator = torch.Generator().manual_seed(0)
    model = Classifier(nn.Linear(WIDTHS[-1], SHAPE_COUNT))
    trained_start(model, generator)
    model.head = new_head()
    model.requires_grad_(False)
    model.head.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.head.parameters(), lr=1e-3)
    held_out = draw(256, SIDE, generator)
    results: dict[str, list[float]] = {"epoch": [], "train/loss": [], "val/accuracy": []}
    for epoch in range(1, versions + 1):
        loss = sum(step(model, optimizer, draw(BATCH, SIDE, generator)) for _ in range(STEPS_PER_EPOCH))
        row = (epoch, loss / STEPS_PER_EPOCH, accuracy(model, held_out))
        for name, value in zip(results, row, strict=True):
            results[name].append(value)
        save(run, model, optimizer, results)
        run.snapshot()


def new_head() -> nn.Module:
    first, second, last = nn.Linear(WIDTHS[-1], HEAD_WIDTH), nn.Linear(HEAD_WIDTH, HEAD_WIDTH), CLASS_COUNT
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(HEAD_WIDTH, last))


def trained_start(model: Classifier, generator: torch.Generator) -> None:
    """Train all of it for another task, the shapes alone, as a backbone comes from somewhere else."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for _ in range(START_STEPS):
        drawing = draw(BATCH, SIDE, generator)
        classes = drawing.classes // (CLASS_COUNT // SHAPE_COUNT)
        step(model, optimizer, Drawing(drawing.images, classes, drawing.boxes))


def step(model: Classifier, optimizer: torch.optim.Optimizer, drawing: Drawing) -> float:
    model.train()
    optimizer.zero_grad(set_to_none=True)
    loss = functional.cross_entropy(model(drawing.images), drawing.classes)
    loss.backward()
    optimizer.step()
    return loss.item()


@torch.no_grad()
def accuracy(model: Classifier, drawing: Drawing) -> float:
    model.eval()
    return (model(drawing.images).argmax(dim=1) == drawing.classes).float().mean().item()


def save(
    run: RunDirectory, model: Classifier, optimizer: torch.optim.Optimizer, results: dict[str, list[float]]
) -> None:
    last = {name: values[-1] for name, values in results.items()}
    with (run.path / "log.jsonl").open("a") as log:
        log.write(json.dumps(last) + "\n")
    buffer = io.BytesIO()
    state = {
        "epoch": last["epoch"],
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "train_results": results,
    }
    torch.save(state, buffer)
    (run.path / "last.pt").write_bytes(buffer.getvalue())
    if last["val/accuracy"] >= max(results["val/accuracy"]):
        (run.path / "best.pt").write_bytes(buffer.getvalue())
