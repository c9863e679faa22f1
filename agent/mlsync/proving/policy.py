"""The user's policy on refusing sound checkpoints; such a refusal holds as long as the policy does."""

from __future__ import annotations

import msgspec


class Policy(msgspec.Struct, frozen=True):
    """Which *numbers* are refused, and what refuses by *loading*: texts that change with the configuration."""

    numbers: str = ""
    loading: str = ""

    @property
    def by_numbers(self) -> str:
        """The mark of a checkpoint that was refused for its numbers."""
        return f"numbers {self.numbers}"

    @property
    def by_loading(self) -> str:
        """The mark of a checkpoint that level 5 refused."""
        return f"loading {self.loading}"

    def holds(self, refused_by: str) -> bool:
        """Return whether a checkpoint with the mark *refused_by* is still refused; one without a mark always is."""
        return refused_by in ("", self.by_numbers, self.by_loading)


#: Refuses only checkpoints that are broken.
NO_POLICY = Policy()
