"""Writes ``torch-2.1.pt``: run once with torch 2.1.2 and numpy 1.26.4, as ``python make_torch_2_1.py``."""

from pathlib import Path

import torch


def main() -> None:
    """A state dict, nested and shared, with plain values beside it."""
    generator = torch.Generator().manual_seed(5)
    base = torch.randn(3, 4, generator=generator)
    value = {
        "a.weight": base,
        "b": {"w": torch.randn(5, generator=generator).half(), "turned": base.T},
        "steps": torch.arange(3),
        "epoch": 3,
        "lr": 0.125,
        "done": False,
        "name": "run",
    }
    torch.save(value, Path(__file__).with_name("torch-2.1.pt"))


if __name__ == "__main__":
    main()
