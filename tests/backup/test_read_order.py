"""What a last backup reads first, and what it does with a checkpoint of several files that it has no time for."""

from __future__ import annotations

import os
import random

import pytest
import torch
from safetensors.torch import save

from doubles.ending_clock import EndsAfter
from flow_parts import RUN, World
from flow_parts import uniform_checkpoint as checkpoint
from mlsync.backup.backup import look
from mlsync.backup.deadline import Deadline
from mlsync.backup.read_order import newest_first
from mlsync.backup.request import Source
from mlsync.source.root import Root
from mlsync.source.scan import scan

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture
def world(tmp_path):
    """A run without versions."""
    world = World(tmp_path)
    yield world
    world.close()


def write(world, name, content, age_s=0):
    """Write a file that was last written so long ago, which is long before now in any case."""
    world.write(name, content)
    moment_ns = (1_700_000_000 - age_s) * 10**9
    os.utime(world.path(name), ns=(moment_ns, moment_ns))


def names_of(world):
    """The files of the last version."""
    return {entry.path for entry in world.manifest().entries if entry.digest}


def test_the_newest_checkpoint_comes_first_and_logs_last(world):
    """Directories follow each other from the newest on, each whole; a log is the newest file and comes last."""
    write(world, "step-1/model.bin", b"1", 300)
    write(world, "step-2/optimizer.bin", b"2", 110)
    write(world, "step-2/model.bin", b"2", 100)
    write(world, "step-3/model.bin", b"3", 200)
    write(world, "train.log", b"step 3", 0)
    write(world, "step-2/events.out.tfevents.1", b"", 0)
    with Root.open_watched(os.fsencode(world.directory)) as root:
        found = [one for one in scan(root, ()).found if one.kind == "file"]
    assert [one.path for one in newest_first(found)] == [
        b"step-2/model.bin",
        b"step-2/optimizer.bin",
        b"step-3/model.bin",
        b"step-1/model.bin",
        b"step-2/events.out.tfevents.1",
        b"train.log",
    ]


def test_half_of_a_checkpoint_in_several_files_stays_out(world):
    """A shard for which there is no time takes the others with it, however old they are; the next version has all."""
    for number, name in enumerate(SHARDS):
        write(world, name, save({f"layer{number}": torch.full((100,), 1.0)}), 1000 * number)
    index = b'{"metadata": {"total_size": 800}, "weight_map": {"layer0": "%b", "layer1": "%b"}}'
    write(world, "model.safetensors.index.json", index % tuple(map(str.encode, SHARDS)), 5000)
    write(world, "alone.pt", checkpoint(1.0), -1)
    # Two looks at the clock for each file: the last one's and the index's time is over.
    assert world.backup(deadline=Deadline(1.0, 1.0, EndsAfter(4))).version == 1
    assert names_of(world) == {b"alone.pt"}
    assert world.backup().version == 2
    assert world.restored() == world.tree()
    assert look(world.state, Source(RUN, os.fsencode(world.directory))) is not None


def test_what_was_sent_of_a_file_that_is_cut_off_is_not_sent_again(world):
    """Reading ends in the middle of a large file; the next backup sends only the rest of it."""
    content = random.Random(1).randbytes(24 << 20)
    write(world, "big.bin", content)
    assert world.backup(deadline=Deadline(1.0, 1.0, EndsAfter(4))).version == 0
    result = world.backup()
    assert result.version == 1
    assert 0 < result.new_bytes < len(content)
    assert world.restored() == world.tree()
