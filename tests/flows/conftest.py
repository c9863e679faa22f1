"""A world for each test."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from flow_parts import World

from mlsync.store.directory import DirectoryStore


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A run without files, a repository in memory, an empty local state."""
    world = World(tmp_path)
    yield world
    world.close()


@pytest.fixture
def directory_world() -> Iterator[World]:
    """The same on a directory repository, in a place that every user can reach: pytest closes its own to others."""
    with tempfile.TemporaryDirectory(prefix="mlsync-test-") as name:
        base = Path(name)
        os.chmod(base, 0o755)
        world = World(base, DirectoryStore(base / "repo", create=True))
        yield world
        world.close()
