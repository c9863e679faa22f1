"""A neighbour who owns the watched tree and swaps names in it while root makes versions of it."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from flow_parts import World
from swapper import NEIGHBOUR, swapping

pytestmark = pytest.mark.slow

ROUNDS = 50
SECRET = b"for root alone " * 500


@pytest.fixture
def world():
    """A world that the neighbour may pass through, and whose watched directory is his."""
    if os.geteuid() != 0:
        pytest.skip("plays root and a neighbour")
    base = Path(tempfile.mkdtemp())
    base.chmod(0o755)
    world = World(base)
    os.chown(world.directory, NEIGHBOUR, NEIGHBOUR)
    secret = base / "secret"
    secret.mkdir(mode=0o700)
    (secret / "file").write_bytes(SECRET)
    (secret / "file").chmod(0o600)
    yield world
    world.close()
    shutil.rmtree(base)


def give(world, name, content=None):
    """A file or directory of the neighbour's."""
    path = world.directory / name
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    os.chown(path, NEIGHBOUR, NEIGHBOUR)


def holds_secret(world):
    """Whether any version has a file as long as the secret, which none of the neighbour's is."""
    sizes = {entry.size_bytes for number in world.numbers() for entry in world.manifest(number).entries}
    return len(SECRET) in sizes


def attacked(world, *names):
    """Make versions while the names are swapped, and give their number."""
    with swapping(world.directory, *names):
        for _ in range(ROUNDS):
            world.backup(read_back="none")
    return len(world.numbers())


def test_a_swapped_directory_leads_root_nowhere(world):
    """A directory that is a link to root's own the next moment never gives a version root's file."""
    give(world, "d")
    give(world, "d/file", b"mine")
    (world.directory / "link").symlink_to(world.base / "secret")
    assert attacked(world, "d", "link") > 1
    assert not holds_secret(world)


def test_a_swapped_file_leads_root_nowhere(world):
    """A file that is a link to root's file the next moment never gives a version that file."""
    give(world, "file", b"mine")
    give(world, "other", b"mine, too")
    (world.directory / "link").symlink_to(world.base / "secret/file")
    assert attacked(world, "file", "link", "file", "other") > 1
    assert not holds_secret(world)
