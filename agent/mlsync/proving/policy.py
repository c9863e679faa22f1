"""What refuses checkpoints by the user's wish, and not for what they are: such a refusal holds as long as the wish."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """Which *numbers* are refused, and what refuses by *loading*: texts that change when the wish does."""

    numbers: str = ""
    loading: str = ""

    @property
    def by_numbers(self) -> str:
        """What is remembered of a checkpoint that was refused for its numbers."""
        return f"numbers {self.numbers}"

    @property
    def by_loading(self) -> str:
        """What is remembered of one that was refused by level 5."""
        return f"loading {self.loading}"

    def holds(self, refused_by: str) -> bool:
        """Whether what was refused so would be again; empty is what no wish has a part in."""
        return refused_by in ("", self.by_numbers, self.by_loading)


#: Nothing is refused that could be wished otherwise.
NO_WISH = Policy()
