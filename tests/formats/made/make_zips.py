"""Writes the zips of this folder: ``python make_zips.py FOLDER``.

``model.pt2`` and, with tied weights, ``shared.pt2`` by ``torch.export.save`` and ``package.zip`` by ``torch.package``
(torch 2.13.0); ``model.keras`` by Keras 3.15.1 on torch; ``a2c.zip`` by Stable-Baselines3 2.9.2.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch


class Tied(torch.nn.Module):
    """Two names for one weight, and a buffer that is a part of another."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(6, 6)
        self.second = torch.nn.Linear(6, 6)
        self.second.weight = self.first.weight
        base = torch.arange(12.0).reshape(4, 3)
        self.register_buffer("base", base)
        self.register_buffer("part", base[1:, 1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Use all of them."""
        return self.second(self.first(x)) + self.base.sum() + self.part.sum()


def main(folder: Path) -> None:
    """Write all files."""
    torch.manual_seed(3)
    plain = torch.nn.Sequential(torch.nn.Linear(8, 5), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 2)).eval()
    torch.export.save(torch.export.export(plain, (torch.randn(4, 8),)), folder / "model.pt2")
    torch.export.save(torch.export.export(Tied(), (torch.randn(4, 6),)), folder / "shared.pt2")
    with torch.package.PackageExporter(folder / "package.zip") as exporter:
        exporter.extern("**")
        exporter.save_pickle("model", "data.pkl", {"weight": torch.randn(9)})

    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    model = keras.Sequential([keras.Input((7,)), keras.layers.Dense(5, name="one"), keras.layers.Dense(3, name="two")])
    model.compile("adam", "mse")
    model.train_on_batch(torch.randn(4, 7), torch.randn(4, 3))
    model.save(folder / "model.keras")

    import gymnasium
    import stable_baselines3

    environment = gymnasium.make("CartPole-v1")
    agent = stable_baselines3.A2C("MlpPolicy", environment, policy_kwargs={"net_arch": [4]}, n_steps=2, device="cpu")
    agent.learn(4)
    agent.save(folder / "a2c.zip")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
