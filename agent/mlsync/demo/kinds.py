"""The demo's two kinds of trainers: what each needs, and the names of its checkpoints."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass

from mlsync.errors import TorchMissing

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class TrainerKind:
    """A kind of trainer; *suffix* ends the names of its checkpoints, *rate* is its learning rate."""

    name: str
    suffix: str
    rate: float

    @property
    def last(self) -> str:
        """The newest checkpoint's path below the run's directory."""
        return f"weights/last{self.suffix}"

    @property
    def last_name(self) -> str:
        """The newest checkpoint's name."""
        return f"last{self.suffix}"


KINDS = {kind.name: kind for kind in (TrainerKind("torch", ".pt", 4e-4), TrainerKind("numpy", ".safetensors", 1e-4))}


def kind_of(asked: str) -> TrainerKind:
    """Return the requested kind, without importing torch; ``auto`` is torch where torch is installed."""
    has_torch = importlib.util.find_spec("torch") is not None
    if asked == AUTO:
        return KINDS["torch" if has_torch else "numpy"]
    if asked == "torch" and not has_torch:
        advice = (
            "install mlsync with torch (pip install '.[torch]' in its clone), or leave out --trainer: numpy trains too"
        )
        raise TorchMissing("torch's trainer needs torch", where=sys.executable, advice=advice)
    return KINDS[asked]
