"""What the parsers of boosted trees share: a layout that says how many trees there are, and of how many numbers."""

from __future__ import annotations

from dataclasses import dataclass

from mlsync.formats.layout import Content, Layout
from mlsync.values import Fact


@dataclass(frozen=True, slots=True)
class BoosterLayout(Layout):
    """A model of trees: how many arrays it has, and what it is."""

    array_count: int = 0
    facts: tuple[tuple[str, Fact], ...] = ()


def read_booster_content(layout: BoosterLayout) -> Content:
    """Level 2: the walk has held the arrays against one another; their numbers go to no device."""
    return Content((), (), dict(layout.facts), aside_count=layout.array_count)
