"""What a proof says of one checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

from mlsync.errors import ProofUnavailable
from mlsync.values import Proof


@dataclass(frozen=True, slots=True)
class Verdict:
    """The *proof* that a manifest keeps of a checkpoint, and the error behind its shortfall, if there was one."""

    proof: Proof
    unavailable: ProofUnavailable | None = None

    @property
    def refused(self) -> str | None:
        """Why the checkpoint is broken, ``None`` if it is not."""
        return self.proof.refusal or None
