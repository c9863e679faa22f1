"""The torch trainer's network and its data: small, but real and learnable."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlsync.demo.sizes import BLOCK_COUNT, CLASS_COUNT, FEATURE_COUNT, TRAIN_COUNT, VALIDATION_COUNT, WIDTH


class Block(nn.Module):
    """Adds to its input the output of two layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)

    def forward(self, value: Tensor) -> Tensor:
        """Return the block's output."""
        inner = functional.silu(self.first(self.norm(value)))
        result: Tensor = value + self.second(inner)
        return result


class TorchNetwork(nn.Module):
    """A residual classifier; checkpoints hold it pickled, as those of Ultralytics hold its models."""

    def __init__(self) -> None:
        super().__init__()
        self.inlet = nn.Linear(FEATURE_COUNT, WIDTH)
        self.blocks = nn.Sequential(*(Block(WIDTH) for _ in range(BLOCK_COUNT)))
        self.outlet = nn.Linear(WIDTH, CLASS_COUNT)

    def forward(self, features: Tensor) -> Tensor:
        """Return a score for each class."""
        scores: Tensor = self.outlet(self.blocks(self.inlet(features)))
        return scores


def parameter_count(network: nn.Module) -> int:
    """Return the number of trained parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def dataset(seed: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return features and classes for training and for validation: noise, classified by a fixed random network."""
    generator = torch.Generator().manual_seed(seed)
    count = TRAIN_COUNT + VALIDATION_COUNT
    features = torch.randn(count, FEATURE_COUNT, generator=generator)
    hidden = torch.tanh(features @ torch.randn(FEATURE_COUNT, 8, generator=generator) / 4)
    classes = (hidden @ torch.randn(8, CLASS_COUNT, generator=generator)).argmax(dim=1)
    return (features[:TRAIN_COUNT], classes[:TRAIN_COUNT]), (features[TRAIN_COUNT:], classes[TRAIN_COUNT:])
