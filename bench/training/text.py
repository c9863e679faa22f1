"""Text that every machine has, as numbers: the standard library's own source, cut into words."""

from __future__ import annotations

import re
import sysconfig
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor

TEXT_BYTES = 6 << 20
WORD = re.compile(r"[A-Za-z_]+|\d|\n *| +|[^\sA-Za-z_\d]")
UNKNOWN = 0


def tokens(vocabulary: int) -> Tensor:
    """Return the text as the ranks of its words by frequency; words too rare for the *vocabulary* are one."""
    words = WORD.findall(standard_library())
    frequent = [word for word, _ in Counter(words).most_common(vocabulary - 1)]
    numbers = {word: number for number, word in enumerate(frequent, UNKNOWN + 1)}
    return torch.tensor([numbers.get(word, UNKNOWN) for word in words])


def standard_library() -> str:
    root = Path(sysconfig.get_path("stdlib"))
    texts, size_bytes = [], 0
    for file in sorted(root.rglob("*.py")):
        if size_bytes >= TEXT_BYTES:
            break
        if {"site-packages", "dist-packages", "test", "tests"} & set(file.relative_to(root).parts):
            continue
        texts.append(file.read_text(errors="replace"))
        size_bytes += len(texts[-1])
    return "".join(texts)


class Batches:
    """Endless batches of passages and what follows each of their words."""

    def __init__(self, stream: Tensor, length: int, count: int, seed: int) -> None:
        self._stream = stream
        self._length = length
        self._count = count
        self._generator = torch.Generator().manual_seed(seed)

    def next(self) -> tuple[Tensor, Tensor]:
        last = len(self._stream) - self._length - 1
        starts = torch.randint(last, (self._count, 1), generator=self._generator)
        passages = self._stream[starts + torch.arange(self._length + 1)]
        return passages[:, :-1], passages[:, 1:]
