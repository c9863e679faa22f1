"""The two trainers of the demo: what each needs, and what its checkpoints are called."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass

from mlsync.errors import TorchMissing

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Kind:
    """A trainer by what it trains with; *suffix* ends the names of its checkpoints, *rate* is how fast it learns."""

    name: str
    suffix: str
    rate: float

    @property
    def last(self) -> str:
        """Where the newest checkpoint lies, below the run's directory."""
        return f"weights/last{self.suffix}"

    @property
    def last_name(self) -> str:
        """The newest checkpoint's name."""
        return f"last{self.suffix}"


KINDS = {kind.name: kind for kind in (Kind("torch", ".pt", 4e-4), Kind("numpy", ".safetensors", 1e-4))}


def kind_of(asked: str) -> Kind:
    """Return the trainer that was asked for; ``auto`` is torch's where torch is installed. Nothing is imported."""
    has_torch = importlib.util.find_spec("torch") is not None
    if asked == AUTO:
        return KINDS["torch" if has_torch else "numpy"]
    if asked == "torch" and not has_torch:
        advice = "pip install 'mlsync-agent[torch]', or leave --trainer out: numpy trains as well"
        raise TorchMissing("torch's trainer needs torch", where=sys.executable, advice=advice)
    return KINDS[asked]
