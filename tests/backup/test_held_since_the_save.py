"""Checkpoints that a trainer deletes before a pass begins: the agent held them open from the end of their save on."""

from __future__ import annotations

import json
import os
import resource
import shutil
import time

import pytest

from flow_parts import small_checkpoint
from mlsync.service.watching.holds import AGE_S, Holds
from mlsync.source.finished import finished_file, full_directory

GIB = 1 << 30


class Trainer:
    """Saves below the world's directory; what the agent holds of it, and the bounds that it keeps."""

    def __init__(self, world):
        self.world = world
        self.now_s = 0.0
        self.free = (100 * GIB, 200 * GIB)
        self.holds = Holds("run", world.directory, clock=lambda: self.now_s, free_bytes=lambda _: self.free)

    def close(self, path, content):
        """Write a file, and close it; the agent hears of that."""
        self.world.write(path, content)
        name = path.encode()
        self.holds.add(name, finished_file(name))

    def save(self, step):
        """Save as Hugging Face's trainer does."""
        for number, name in enumerate(("pytorch_model.bin", "optimizer.pt")):
            self.close(f"checkpoint-{step}/{name}", small_checkpoint(step * 10 + number))
        self.close(f"checkpoint-{step}/trainer_state.json", json.dumps({"global_step": step}).encode())

    def rotate(self, step):
        """Delete a checkpoint."""
        shutil.rmtree(self.world.directory / f"checkpoint-{step}")

    def backed_up(self, **options):
        """Back up as a pass does; return the paths of files in the newest version."""
        held = self.holds.taken()
        result = self.world.backup(held=held, **options)
        self.holds.done(held)
        self.holds.returned()
        assert result.troubles == ()
        return {os.fsdecode(entry.path) for entry in self.world.manifest().entries if entry.size_bytes}


@pytest.fixture
def trainer(world):
    trainer = Trainer(world)
    yield trainer
    trainer.holds.close()


def of(step):
    """The files of a checkpoint."""
    return {f"checkpoint-{step}/{name}" for name in ("pytorch_model.bin", "optimizer.pt", "trainer_state.json")}


def open_count():
    """How many descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))


def test_a_checkpoint_that_was_rotated_before_the_pass_is_in_the_version(trainer, tmp_path):
    """All of its files are read, proved and restored, in directories that are gone as well; nothing stays open."""
    before = open_count()
    trainer.save(1)
    model = (trainer.world.directory / "checkpoint-1/pytorch_model.bin").read_bytes()
    trainer.save(2)
    trainer.rotate(1)
    assert trainer.backed_up() == of(1) | of(2)
    trainer.world.restore(to="out")
    assert (trainer.world.base / "out/checkpoint-1/pytorch_model.bin").read_bytes() == model
    assert (trainer.holds.missed_count, open_count()) == (0, before)
    trainer.save(3)
    assert trainer.backed_up() == of(2) | of(3)


def test_a_run_that_looks_untouched_gets_a_version_of_what_was_rotated(trainer):
    """What came and went between two passes is in the second one's version."""
    trainer.close("last.pt", small_checkpoint(1))
    assert trainer.backed_up() == {"last.pt"}
    trainer.close("epoch1.pt", small_checkpoint(2))
    os.unlink(trainer.world.directory / "epoch1.pt")
    assert trainer.backed_up() == {"last.pt", "epoch1.pt"}


@pytest.mark.parametrize("how", ["written again", "held too long", "all let go"])
def test_what_a_pass_has_stays_open(trainer, how):
    """Whatever becomes of a save, its descriptors are the files of the pass, and are closed when that is over."""
    before = open_count()
    trainer.close("last.pt", small_checkpoint(1))
    content = (trainer.world.directory / "last.pt").read_bytes()
    (held,) = trainer.holds.taken()
    (file,) = held.files
    if how == "written again":
        os.unlink(trainer.world.directory / "last.pt")
        trainer.close("last.pt", small_checkpoint(2))
    elif how == "held too long":
        trainer.now_s += AGE_S
        trainer.holds.look()
    else:
        trainer.holds.done([held])
    assert os.pread(file.descriptor, 1 << 20, 0) == content
    assert held.is_deleted == (how == "written again")
    trainer.holds.returned()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file.descriptor)
    trainer.holds.close()
    assert open_count() == before


def test_half_a_checkpoint_is_none(trainer):
    """A save that was deleted before its last file came is in no version, not even in part."""
    trainer.save(1)
    trainer.close("checkpoint-2/pytorch_model.bin", small_checkpoint(20))
    trainer.rotate(2)
    assert trainer.backed_up() == of(1)


def test_a_checkpoint_that_was_written_again_is_no_mixture(trainer):
    """Of a directory that was deleted and came back in part, nothing old is added to what is new."""
    trainer.save(1)
    trainer.save(2)
    trainer.rotate(2)
    trainer.world.write("checkpoint-2/pytorch_model.bin", small_checkpoint(99))
    held = trainer.holds.taken()
    trainer.world.backup(held=held)
    assert b"checkpoint-2/optimizer.pt" not in {entry.path for entry in trainer.world.manifest().entries}


def test_what_a_writer_takes_away_before_it_is_done_stays_away(trainer):
    """A mark of an unfinished save, deleted by its writer, is not brought back with the checkpoint."""
    trainer.close("checkpoint-1/checkpoint-is-incomplete.txt", b"saving")
    os.unlink(trainer.world.directory / "checkpoint-1/checkpoint-is-incomplete.txt")
    trainer.save(1)
    trainer.rotate(1)
    trainer.save(2)
    assert trainer.backed_up() == of(1) | of(2)


def test_files_that_are_excluded_or_renamed_are_not_added(trainer):
    """The user's patterns hold for what is held too, and a name that was given up is not used again."""
    trainer.close("a.pt", small_checkpoint(1))
    trainer.close("b.pt", small_checkpoint(2))
    os.unlink(trainer.world.directory / "a.pt")
    os.rename(trainer.world.directory / "b.pt", trainer.world.directory / "c.pt")
    assert trainer.backed_up(exclude=("a*",)) == {"c.pt"}


def test_a_directory_that_was_renamed_to_its_name_is_held_whole(trainer):
    """A save that comes by a rename of its directory survives a rotation like any other."""
    trainer.world.write("tmp-checkpoint-4/pytorch_model.bin", small_checkpoint(4))
    trainer.world.write("tmp-checkpoint-4/trainer_state.json", json.dumps({"global_step": 4}).encode())
    os.rename(trainer.world.directory / "tmp-checkpoint-4", trainer.world.directory / "checkpoint-4")
    trainer.holds.add(b"checkpoint-4", full_directory(b"checkpoint-4", is_renamed=True))
    trainer.rotate(4)
    trainer.save(5)
    assert trainer.backed_up() >= {"checkpoint-4/pytorch_model.bin", "checkpoint-4/trainer_state.json"}


def test_space_goes_back_to_the_trainer_that_needs_it(trainer):
    """Deleted files are let go when they are more than a quarter of what is free; those with a name cost nothing."""
    before = open_count()
    trainer.save(1)
    trainer.save(2)
    trainer.free = (10, 200 * GIB)
    trainer.holds.look()
    assert open_count() == before + 6
    trainer.rotate(1)
    trainer.holds.look()
    assert open_count() == before + 3
    assert trainer.backed_up() == of(2)
    assert trainer.holds.missed_count == 1


def test_nothing_is_held_for_long(trainer):
    """While no pass comes, as with a store that is away, what is held is let go after some minutes."""
    before = open_count()
    trainer.save(1)
    trainer.now_s = AGE_S - 1
    trainer.holds.look()
    assert open_count() == before + 3
    trainer.now_s = AGE_S
    trainer.holds.look()
    assert open_count() == before
    # It is still there, and no save was missed.
    assert (trainer.backed_up(), trainer.holds.missed_count) == (of(1), 0)


def test_the_newest_saves_are_held(world):
    """Beyond so many files the oldest save goes, all of it."""
    trainer = Trainer(world)
    trainer.holds = Holds("run", world.directory, count_max=6)
    before = open_count()
    for step in (1, 2, 3):
        trainer.save(step)
    assert open_count() == before + 6
    trainer.rotate(1)
    trainer.rotate(2)
    assert trainer.backed_up() == of(2) | of(3)
    assert trainer.holds.missed_count == 1
    trainer.holds.close()


def test_a_pipe_and_a_link_are_not_held(trainer):
    """What is no regular file is not opened for long, and blocks nobody."""
    before = open_count()
    os.mkfifo(trainer.world.directory / "a.pt")
    os.symlink("/etc/passwd", trainer.world.directory / "b.pt")
    for name in (b"a.pt", b"b.pt", b"gone.pt"):
        trainer.holds.add(name, finished_file(name))
    assert open_count() == before


def test_a_save_without_a_last_file_counts_once_it_was_quiet(trainer):
    """Of a writer that never says that it is done, what was deleted a while after the last write was whole."""
    two_s_ago = time.time() - 2.5
    for name, seed in (("0/model.safetensors.bin", 1), ("0/optimizer.bin", 2)):
        trainer.world.write(name, small_checkpoint(seed))
        os.utime(trainer.world.directory / name, (two_s_ago, two_s_ago))
        trainer.holds.add(name.encode(), finished_file(name.encode()))
    trainer.close("last.pt", small_checkpoint(3))
    shutil.rmtree(trainer.world.directory / "0")
    assert "0/optimizer.bin" in trainer.backed_up()


def test_all_runs_together_leave_the_agent_its_descriptors(world, monkeypatch):
    """Many runs hold no more than a quarter of what a process may open: whoever comes last lets go of its own."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (28, 28))
    one, other = Trainer(world), Trainer(world)
    before = open_count()
    one.save(1)
    one.save(2)
    assert open_count() == before + 6
    other.save(3)
    assert open_count() == before + 6
    one.holds.close()
    other.save(4)
    assert open_count() == before + 3
    other.holds.close()


def test_a_name_that_was_used_for_a_moment_is_no_missed_checkpoint(trainer):
    """A file that its writer renamed at once is read under its new name, and nothing is told."""
    trainer.world.write("last.pt", small_checkpoint(1))
    trainer.holds.add(b"new_last.pt", finished_file(b"new_last.pt"))
    trainer.holds.add(b"last.pt", finished_file(b"last.pt"))
    assert trainer.backed_up() == {"last.pt"}
    assert trainer.holds.missed_count == 0


def test_a_file_that_was_gone_before_the_end_does_not_spoil_the_save(trainer):
    """What a writer closed and renamed within its directory is held under the name that it has at the end."""
    trainer.world.write("checkpoint-1/pytorch_model.bin", small_checkpoint(1))
    trainer.holds.add(b"checkpoint-1/new.bin", finished_file(b"checkpoint-1/new.bin"))
    trainer.world.write("checkpoint-1/optimizer.pt", small_checkpoint(2))
    trainer.close("checkpoint-1/trainer_state.json", b'{"global_step": 1}')
    trainer.save(2)
    trainer.rotate(1)
    assert trainer.backed_up() == of(1) | of(2)


def test_a_store_that_is_behind_gets_the_newest_of_what_was_deleted(trainer):
    """Checkpoints that come faster than the store takes them are thinned, and those that are in no version counted."""
    for step in (1, 2, 3, 4):
        trainer.now_s += 10
        trainer.save(step)
    for step in (1, 2, 3):
        trainer.rotate(step)
    held = trainer.holds.taken(is_behind=True)
    trainer.world.backup(held=held)
    paths = {os.fsdecode(entry.path) for entry in trainer.world.manifest().entries if entry.size_bytes}
    assert paths == of(3) | of(4)
    assert trainer.holds.missed_count == 2
