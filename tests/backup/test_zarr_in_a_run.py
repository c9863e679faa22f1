"""Arrays of zarr in a run: one with a torn chunk stays as the last version had it, the others are taken."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from flow_parts import World, contents

MADE = Path(__file__).parents[1] / "formats" / "made" / "zarr"


@pytest.fixture
def world(tmp_path):
    """A run without versions."""
    world = World(tmp_path)
    yield world
    world.close()


def write(world, name, content):
    """Write a file as of now."""
    world.write(name, content)
    now_ns = time.time_ns()
    os.utime(world.path(name), ns=(now_ns, now_ns))


def test_an_array_with_a_torn_chunk_stays_as_it_was(world):
    """Its chunks together, until the chunk is whole; what is beside it goes into the version."""
    for path in MADE.rglob("*"):
        if path.is_file():
            write(world, f"z/{path.relative_to(MADE)}", path.read_bytes())
    assert world.backup().troubles == ()
    assert world.restored() == world.tree()
    before = contents(world.tree())
    whole = (MADE / "v3/plain/c/0/0").read_bytes()
    write(world, "z/v3/plain/c/0/0", whole[:5])
    write(world, "z/v3/plain/c/1/0", b"\1" * 64)
    write(world, "z/v3/summed/c/0", b"\2" * 36)
    result = world.backup()
    assert any("has 5 bytes, and needs 64" in trouble.text for trouble in result.troubles)
    held = contents(world.restored())
    assert [held[b"z/v3/plain/" + name] for name in (b"c/0/0", b"c/1/0")] == [
        before[b"z/v3/plain/" + name] for name in (b"c/0/0", b"c/1/0")
    ]
    assert held[b"z/v3/summed/c/0"] == b"\2" * 36
    write(world, "z/v3/plain/c/0/0", b"\3" * 64)
    assert world.backup().troubles == ()
    assert world.restored() == world.tree()


def test_an_array_that_nobody_wrote_to_for_long_is_kept_with_a_word(world):
    """Torn as it is: who made it does not come back, and the rest of it may be wanted."""
    for path in (MADE / "v2/plain").rglob("*"):
        write(world, f"plain/{path.name}", path.read_bytes()[:60] if path.name == "1.0" else path.read_bytes())
        os.utime(world.path(f"plain/{path.name}"), ns=(1_700_000_000 * 10**9,) * 2)
    os.utime(world.path("plain"), ns=(1_700_000_000 * 10**9,) * 2)
    result = world.backup()
    assert result.troubles == ()
    assert world.restored() == world.tree()
    assert any("'plain/1.0' has 60 bytes, and needs 64" in text for _, text in world.monitor.notices)
