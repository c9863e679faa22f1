"""A small language model of the usual build, and one step of its training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Shape:
    vocabulary: int
    width: int
    heads: int
    layers: int
    length: int


class Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.norm_attention = nn.LayerNorm(shape.width)
        self.attention = nn.Linear(shape.width, 3 * shape.width)
        self.projection = nn.Linear(shape.width, shape.width)
        self.norm_feed = nn.LayerNorm(shape.width)
        self.feed_up = nn.Linear(shape.width, 4 * shape.width)
        self.feed_down = nn.Linear(4 * shape.width, shape.width)

    def forward(self, value: Tensor) -> Tensor:
        value = value + self.attend(self.norm_attention(value))
        return value + self.feed_down(functional.gelu(self.feed_up(self.norm_feed(value))))

    def attend(self, value: Tensor) -> Tensor:
        count, length, width = value.shape
        parts = self.attention(value).view(count, length, 3, self.heads, width // self.heads)
        query, key, content = parts.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, content, is_causal=True)
        return self.projection(mixed.transpose(1, 2).reshape(count, length, width))


class LanguageModel(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.words = nn.Embedding(shape.vocabulary, shape.width)
        self.places = nn.Embedding(shape.length, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width)
        self.head = nn.Linear(shape.width, shape.vocabulary, bias=False)
        self.apply(initialize)

    def forward(self, words: Tensor) -> Tensor:
        value = self.words(words) + self.places(torch.arange(words.shape[1]))
        for block in self.blocks:
            value = block(value)
        return self.head(self.norm(value))


def initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def adamw(model: nn.Module, rate: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.1)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor]) -> float:
    words, following = batch
    optimizer.zero_grad(set_to_none=True)
    loss = functional.cross_entropy(model(words).flatten(0, 1).float(), following.flatten())
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()
