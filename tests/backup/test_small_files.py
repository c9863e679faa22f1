"""A tree of small files: they are read together, and the version is the one that reading each by itself makes."""

from __future__ import annotations

import os
import tracemalloc

import msgspec
import pytest

from flow_parts import World, contents, noise, small_checkpoint
from mlsync.backup import new_version, record
from mlsync.backup.storing import small_files
from mlsync.backup.storing.archiver import Archiver
from mlsync.errors import Stopped
from mlsync.repository.encoding.tokens import TroubleKind
from mlsync.source import small_files as reading
from mlsync.source.state import State
from mlsync.versions import units


@pytest.fixture(autouse=True)
def _at_rest(monkeypatch):
    """Files count as written long ago, or how they are read would depend on how fast the test is."""
    monkeypatch.setattr(reading, "COARSE_NS", 0)
    monkeypatch.setattr(reading, "is_racy", lambda _stat, _at_ns: False)


@pytest.fixture
def alone(monkeypatch):
    """The files that the archiver read one by one."""
    paths = []
    real = Archiver.read

    def read(self, found, cached):
        paths.append(found.path)
        return real(self, found, cached)

    monkeypatch.setattr(Archiver, "read", read)
    return paths


def write_tree(world: World) -> None:
    for number in range(60):
        world.write(f"results/{number % 3}/{number:03}.txt", noise(1 + 97 * number, number))
    for number in range(4):
        world.write(f"same/{number}", b"the same in each")
    world.write("empty/a", b"")
    world.write("top.log", b"step 1\n")
    world.write("zeros", bytes(5000))


def plain_entries(world: World) -> list[object]:
    """The entries of the last version without the places of chunks, which are random."""

    def without_place(entry):
        chunks = tuple((ref.name, ref.plain_bytes, ref.coding) for ref in entry.chunks)
        return msgspec.structs.replace(entry, chunks=(), proof=None), chunks

    return [without_place(entry) for entry in world.manifest().entries]


def test_the_version_is_the_one_that_reading_each_file_makes(world, tmp_path, monkeypatch, alone):
    """Digests, names, codings, holes and attributes are the same, and all of it is restored."""
    write_tree(world)
    world.write("last.pt", small_checkpoint())
    with open(world.path("sparse"), "wb") as file:
        file.truncate(12000)
    os.link(world.path("top.log"), world.path("again.log"))
    first = world.backup()
    # Small checkpoints, files with holes or a second name, and those that a checkpoint is expected to be.
    assert sorted(alone) == [b"again.log", b"last.pt", b"sparse"]
    together = plain_entries(world)
    assert world.restored() == world.tree()
    world.lose_state()
    monkeypatch.setattr(record, "is_small", lambda _found: False)
    other = World(tmp_path / "other")
    world.directory, other_directory = other.directory, world.directory
    monkeypatch.setattr(other, "directory", other_directory)
    second = other.backup()
    assert len(alone) > 60
    assert (first.read_bytes, first.new_bytes) == (second.read_bytes, second.new_bytes)
    other.close()
    names_apart = [(entry, [one[1:] for one in chunks]) for entry, chunks in plain_entries(other)]
    assert [(entry, [one[1:] for one in chunks]) for entry, chunks in together] == names_apart


def test_what_has_its_old_content_is_not_stored_again(world, alone):
    """A touched file keeps its chunk, one that changed is stored, and one with the content of another is not."""
    write_tree(world)
    world.backup()
    os.utime(world.path("results/0/003.txt"), ns=(1, 1_600_000_000_000_000_001))
    world.write("results/0/006.txt", b"changed")
    world.write("results/1/007.txt", noise(1 + 97 * 8, 8))
    before = {entry.path: entry.chunks for entry in world.manifest().entries}
    result = world.backup()
    after = {entry.path: entry.chunks for entry in world.manifest().entries}
    assert result.new_bytes == len(b"changed")
    assert after[b"results/0/003.txt"] == before[b"results/0/003.txt"]
    assert after[b"results/1/007.txt"] == before[b"results/2/008.txt"]
    assert not alone
    assert world.restored() == world.tree()


def test_many_small_files_cost_no_more_requests_than_one(world, tmp_path):
    """One pack holds them all, and one read brings them back."""
    world.write("one", b"1")
    world.backup()
    other = World(tmp_path / "other")
    for number in range(200):
        other.write(f"many/{number}", b"file %d" % number)
    other.backup()
    assert other.counted.calls == world.counted.calls
    other.close()


def test_a_first_backup_asks_the_local_state_for_no_chunk(world, monkeypatch):
    """An index without chunks is asked once whether it has any; one that has some is asked for those of each group."""
    asked = []
    real = State.chunks
    monkeypatch.setattr(State, "chunks", lambda self, names: asked.append(len(names)) or real(self, names))
    write_tree(world)
    world.backup()
    assert asked == []
    world.write("more/1", b"one more")
    world.backup()
    assert asked == [1]


def test_a_file_that_changes_meanwhile_is_read_by_the_archiver(world, alone, monkeypatch):
    """The version holds what the file has at last, and of its neighbours what was there."""
    write_tree(world)
    real = os.read

    def read_late(descriptor, length):
        content = real(descriptor, length)
        if content == b"step 1\n":
            world.append("top.log", b"step 2\n")
        return content

    monkeypatch.setattr(os, "read", read_late)
    world.backup()
    assert alone == [b"top.log"]
    assert contents(world.restored())[b"top.log"] == b"step 1\nstep 2\n"
    assert world.restored() == world.tree()


def test_a_fault_of_a_parser_concerns_its_file_alone(world, monkeypatch):
    """Whatever a parser raises, the file is named and its neighbours are in the version."""
    write_tree(world)
    real = small_files.identify

    def broken(source, path):
        if path == b"top.log":
            raise RuntimeError("a bug")
        return real(source, path)

    monkeypatch.setattr(small_files, "identify", broken)
    monkeypatch.setattr("mlsync.backup.checkpoints.structure.identify", broken)
    world.backup()
    assert {path: trouble.kind for path, trouble in world.troubles().items()} == {b"top.log": TroubleKind.UNREADABLE}
    assert len(contents(world.restored())) == 66


def test_files_for_which_memory_runs_out_are_read_one_by_one(world, monkeypatch, alone):
    """A lack of memory ends no backup: each file is tried by itself."""

    def fails(*_):
        raise MemoryError

    write_tree(world)
    monkeypatch.setattr(small_files, "read_together", fails)
    world.backup()
    assert len(alone) == 67
    assert world.restored() == world.tree()


def test_a_checkpoint_that_is_one_no_more_is_not_taken(world):
    """A small file in the place of a checkpoint, whatever it holds, is for the archiver to judge."""
    world.write("weights", small_checkpoint())
    world.backup()
    world.write("weights", b"something else")
    world.write("log", b"1")
    world.backup()
    assert world.troubles()[b"weights"].kind is TroubleKind.TORN


def test_a_stop_comes_between_two_directories(world, monkeypatch):
    """Few files are read after a stop was asked for, and what was stored is not stored again."""
    write_tree(world)
    groups = []
    real = small_files.read_together
    monkeypatch.setattr(small_files, "read_together", lambda *args: groups.append(args[1]) or real(*args))
    with pytest.raises(Stopped):
        world.backup(stop=lambda: len(groups) > 2)
    assert len(groups) == 3
    world.backup()
    assert world.restored() == world.tree()


def test_a_file_that_was_just_written_is_read_again_next_time(world, monkeypatch):
    """The files cache has the time before the reading, so a write in the tick of the reading is found out."""
    world.write("a", b"1")
    world.write("b", b"2")
    monkeypatch.undo()
    monkeypatch.setattr(new_version.time, "sleep", lambda _: None)
    result = world.backup()
    assert result.version == 1
    for path, file in world.state.cached_files("yolo").items():
        assert file.checked_ns > os.stat(world.path(path)).st_mtime_ns


def test_directories_are_asked_for_and_not_files(world, monkeypatch):
    """Which files are one checkpoint is looked up once for each directory: a hundred thousand files lie in few."""
    write_tree(world)
    asked = []
    real = units.marked_around
    monkeypatch.setattr(units, "marked_around", lambda *args: asked.append(args[0]) or real(*args))
    world.backup()
    assert 0 < len(asked) <= 3 * len({os.path.dirname(path) for path in world.tree()})


def test_a_file_takes_two_kilobytes_of_memory(tmp_path):
    """What a first backup holds of each file is bounded: its stat, its entry, its record, and what is for the cache."""

    def peak_bytes(count):
        world = World(tmp_path / str(count))
        for number in range(count):
            world.write(f"{number // 500}/{number:06}", b"%d" % number)
        tracemalloc.start()
        try:
            world.backup(read_back="none")
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            world.close()

    peak_bytes(10)
    few, many = peak_bytes(500), peak_bytes(2500)
    assert (many - few) / 2000 < 1500
