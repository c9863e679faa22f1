"""Files of two saves that lie side by side under the same names never get into one version."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save
from shard_writer import COUNT, name_of

from flow_parts import World, contents
from mlsync.backup.checkpoints.one_save import SILENT_NS
from mlsync.proof.options import ProofOptions
from mlsync.proof.prover import Prover
from mlsync.repository.encoding.tokens import TroubleKind

pytestmark = pytest.mark.slow

INDEX = "model.safetensors.index.json"
MINUTE_NS = 60 * 10**9


class Writer:
    """A process that writes as it is told, step by step."""

    def __init__(self, directory: Path) -> None:
        program = Path(__file__).with_name("shard_writer.py")
        self._process = subprocess.Popen(
            [sys.executable, program, directory], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def do(self, *orders: str) -> None:
        """Have steps done, one after the other."""
        for order in orders:
            self._process.stdin.write(order + "\n")
            self._process.stdin.flush()
            assert self._process.stdout.readline() == "done\n"

    def shard(self, number: int, value: int) -> None:
        """Write one shard under its own name."""
        self.do(f"temporary {number} {value}", f"rename {number}")

    def save(self, value: int) -> None:
        """Write all of a save."""
        for number in range(1, COUNT + 1):
            self.shard(number, value)
        self.do("index")

    def close(self) -> None:
        """End it."""
        self._process.stdin.close()
        self._process.stdout.close()
        assert self._process.wait(60) == 0


@pytest.fixture
def writer(world):
    """A trainer beside the run."""
    writer = Writer(world.directory)
    yield writer
    writer.close()


def steps_of(world: World, number: int | None = None) -> set[float]:
    """The saves that the shards of a version are of."""
    files = contents(world.restored(number))
    shards = [load(files[name_of(n).encode()]) for n in range(1, COUNT + 1)]
    return {float(tensor[0]) for shard in shards for tensor in shard.values()}


def written(world: World, ago_ns: int, *names: str) -> None:
    """Have files be as old as that."""
    at_ns = time.time_ns() - ago_ns
    for name in names:
        os.utime(world.path(name), ns=(at_ns, at_ns))


def test_a_save_that_is_half_written_over_another_is_in_no_version(world, writer):
    """At each step of a save that overwrites the last one a version has all shards of one save."""
    writer.save(1)
    assert world.backup().version == 1
    for number, step in enumerate(["temporary 1 2", "rename 1", "temporary 2 2", "rename 2", "temporary 3 2"]):
        writer.do(step)
        world.write("log.csv", b"%d\n" % number)
        result = world.backup()
        assert steps_of(world) == {1.0}, step
        assert [trouble.kind for trouble in result.troubles] == [TroubleKind.TORN], step
    writer.do("rename 3", "index")
    assert world.backup().troubles == ()
    assert steps_of(world) == {2.0}
    assert world.restored() == world.tree()


def test_a_temporary_name_beside_the_files_says_that_one_is_being_written(world, writer):
    """A first save of which all is there waits for as long as something is written beside it."""
    writer.save(1)
    writer.do("temporary 2 2")
    result = world.backup()
    assert result.version == 0
    [trouble] = result.troubles
    assert trouble.kind is TroubleKind.TORN
    assert ".tmp000002 is being written beside it" in trouble.text
    writer.do("rename 2")
    # Shard 2 is of another save than the others: in its time nothing tells that, and the index is older than it.
    writer.shard(1, 2)
    writer.shard(3, 2)
    writer.do("index")
    assert world.backup().version == 1
    assert steps_of(world) == {2.0}


def test_a_temporary_name_that_nobody_writes_to_is_waited_for_no_longer(world, writer):
    """What a writer that died left beside a save is passed over ten minutes after its last write."""
    writer.save(1)
    writer.do("temporary 2 2")
    assert world.backup().version == 0
    later_ns = time.time_ns() + SILENT_NS + MINUTE_NS
    assert world.backup(now_ns=lambda: later_ns).version == 1
    assert steps_of(world) == {1.0}


def test_the_temporary_name_of_a_log_is_none_of_a_checkpoint(world, writer):
    """What is written beside a save and cannot become a part of it keeps nothing back."""
    writer.save(1)
    world.write("status.json.tmp", b"{")
    assert world.backup().version == 1


def test_a_shard_that_is_much_newer_than_the_others_is_waited_for(world, writer):
    """Without a version to compare with, the pause between two shards says how long a writer may be silent."""
    writer.save(1)
    old = [name_of(2), name_of(3), INDEX]
    written(world, 5 * MINUTE_NS, *old)
    writer.shard(1, 2)
    result = world.backup()
    assert result.version == 0
    assert "perhaps of two saves" in result.troubles[0].text
    writer.shard(2, 2)
    writer.shard(3, 2)
    writer.do("index")
    assert world.backup().version == 1
    assert steps_of(world) == {2.0}


def test_a_pause_is_waited_for_and_then_over(world, writer):
    """When the writer has been silent for longer than between two shards, a look at the untouched run sees to it."""
    writer.save(1)
    written(world, 5 * MINUTE_NS, name_of(1))
    written(world, 2 * MINUTE_NS, name_of(2), name_of(3))
    written(world, 9 * MINUTE_NS, INDEX)
    assert world.backup().version == 0
    untouched = world.backup(now_ns=lambda: time.time_ns() + MINUTE_NS // 2)
    assert (untouched.version, untouched.read_bytes, len(untouched.troubles)) == (0, 0, 1)
    assert world.backup(now_ns=lambda: time.time_ns() + 2 * MINUTE_NS).version == 1


def test_a_short_pause_is_waited_for_within_the_backup(world, writer):
    """A writer whose pauses are short costs one short sleep and no second backup."""
    writer.save(1)
    written(world, 9 * MINUTE_NS, INDEX)
    written(world, 4 * 10**9, name_of(1))
    written(world, 0, name_of(2), name_of(3))
    slept = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)

    result = world.backup(sleep=sleep, now_ns=lambda: time.time_ns() + int(sum(slept) * 1e9))
    assert result.version == 1
    assert 3 < sum(slept) < 10


def test_the_file_that_is_written_last_ends_the_waiting(world, writer):
    """Where the index is the newest file, the save is done, however long the pauses in it were."""
    writer.save(1)
    written(world, 5 * MINUTE_NS, name_of(1))
    slept = []
    assert world.backup(sleep=slept.append).version == 1
    assert slept == []


def test_what_is_written_while_it_is_proved_is_looked_at_again(world, writer):
    """All files are looked at once more right before the manifest: a save may have begun before the first look."""
    writer.save(1)
    world.backup()
    writer.shard(1, 2)
    writer.shard(2, 2)
    writer.shard(3, 2)

    class Meanwhile(Prover):
        """Has the trainer write while a file is proved."""

        def prove(self, source, path, metadata=None):
            """Prove, after a shard was written."""
            if path.decode() == name_of(3):
                writer.shard(1, 3)
            return super().prove(source, path, metadata)

    result = world.backup(prover=Meanwhile(ProofOptions(device="none")))
    assert result.version == 0
    assert "written while it was proved" in result.troubles[0].text
    assert steps_of(world) == {1.0}


def test_the_version_that_has_the_content_is_named_each_time_alike(world, writer):
    """While a save is half written, each version that is made meanwhile names the one that has the last whole save."""
    writer.save(1)
    world.backup()
    writer.shard(1, 2)
    told = set()
    for number in range(3):
        world.write("log.csv", b"%d\n" % number)
        [trouble] = world.backup().troubles
        told.add((trouble.path, trouble.kind, trouble.kept, trouble.text))
    assert world.numbers() == [1, 2, 3, 4]
    assert {kept for _, _, kept, _ in told} == {1}
    assert len({(path, text) for path, _, _, text in told}) == 1


def test_a_torn_shard_names_the_version_that_has_its_content(world):
    """A shard that stays cut short is told of in the same words by each version, with the version that has it whole."""
    names = {n: f"a/{name_of(n)}" for n in range(1, COUNT + 1)}
    for n, name in names.items():
        world.write(name, save({f"layer{n}": torch.ones(1000)}))
    index = {"metadata": {"total_size": 4000 * COUNT}, "weight_map": {f"layer{n}": name_of(n) for n in names}}
    world.write("a/" + INDEX, json.dumps(index).encode())
    world.backup()
    world.write(names[2], contents(world.tree())[names[2].encode()][:-8])
    told = []
    for number in range(3):
        world.write("log.csv", b"%d\n" % number)
        told.append({(trouble.path, trouble.text, trouble.kept) for trouble in world.backup().troubles})
    assert told[0] == told[1] == told[2]
    assert {kept for _, _, kept in told[0]} == {1}
