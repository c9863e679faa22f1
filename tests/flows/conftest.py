"""A world for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from flow_parts import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A run without files, a repository in memory, an empty local state."""
    world = World(tmp_path)
    yield world
    world.close()
