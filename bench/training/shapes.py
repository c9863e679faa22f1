"""Images drawn by rule: discs, squares and triangles of some colour before a noisy slope of another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SHAPE_COUNT = 3
COLOUR_COUNT = 4
CLASS_COUNT = SHAPE_COUNT * COLOUR_COUNT
COLOURS = torch.tensor([[0.9, 0.2, 0.2], [0.2, 0.8, 0.3], [0.2, 0.3, 0.9], [0.9, 0.8, 0.2]])


@dataclass(frozen=True)
class Drawing:
    """A batch of images and, per image, the one thing in it: its class, and where it is in parts of the side."""

    images: Tensor
    classes: Tensor
    boxes: Tensor


def draw(count: int, side: int, generator: torch.Generator) -> Drawing:
    shapes = torch.randint(SHAPE_COUNT, (count,), generator=generator)
    colours = torch.randint(COLOUR_COUNT, (count,), generator=generator)
    radius = 0.12 + 0.18 * torch.rand(count, generator=generator)
    centre = radius + (1 - 2 * radius) * torch.rand(2, count, generator=generator)
    inside = mask(shapes, centre, radius, side).unsqueeze(1)
    images = torch.where(inside, COLOURS[colours].view(count, 3, 1, 1), background(count, side, generator))
    images = images + 0.05 * torch.randn(images.shape, generator=generator)
    return Drawing(images, shapes * COLOUR_COUNT + colours, torch.stack([*centre, radius], dim=1))


def mask(shapes: Tensor, centre: Tensor, radius: Tensor, side: int) -> Tensor:
    places = (torch.arange(side) + 0.5) / side
    across = places.view(1, 1, -1) - centre[0].view(-1, 1, 1)
    down = places.view(1, -1, 1) - centre[1].view(-1, 1, 1)
    reach = radius.view(-1, 1, 1)
    disc = across.square() + down.square() < reach.square()
    square = torch.maximum(across.abs(), down.abs()) < reach
    triangle = (down.abs() < reach) & (across.abs() < (down + reach) / 2)
    return torch.stack([disc, square, triangle])[shapes, torch.arange(len(shapes))]


def background(count: int, side: int, generator: torch.Generator) -> Tensor:
    corner, slope = torch.rand(2, count, 3, 1, 1, generator=generator)
    return 0.5 * corner + 0.4 * slope * torch.linspace(0, 1, side)
