"""The layout that the parsers of boosted trees share."""

from __future__ import annotations

from dataclasses import dataclass

from mlsync.formats.layout import Content, Layout
from mlsync.values import Fact


@dataclass(frozen=True, slots=True)
class BoosterLayout(Layout):
    """A model of trees: how many arrays it has, and the facts about it."""

    array_count: int = 0
    facts: tuple[tuple[str, Fact], ...] = ()


def read_booster_content(layout: BoosterLayout) -> Content:
    """Return level 2: the parser has compared the arrays with each other; their numbers go to no device."""
    return Content((), (), dict(layout.facts), aside_count=layout.array_count)
