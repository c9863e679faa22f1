"""Why a version exists that stored nothing new: each way to make one without new content has its words."""

from __future__ import annotations

import json
import os
import time

import pytest
import torch
from safetensors.torch import save

from flow_parts import RUN, small_checkpoint, uniform_checkpoint
from mlsync.app.passes import outcome, summary
from mlsync.backup.backup import backup
from mlsync.backup.request import BackupOptions, Source
from mlsync.errors import ProofUnavailable
from mlsync.proof.options import ProofOptions
from mlsync.proof.prover import Prover
from mlsync.proving.policy import Policy
from mlsync.proving.prove_later import LaterProver
from mlsync.repository.encoding.segments import segment_refs
from mlsync.source.takeover import allow_takeover

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes owners")
STRICT = Policy("nan")


@pytest.fixture
def begun(world):
    """A version with files, a link and a directory."""
    for name in ("a.txt", "b.txt", "c.txt", "logs/1.log", "logs/2.log"):
        world.write(name, name.encode())
    os.symlink("a.txt", world.path("link"))
    assert world.backup().version == 1
    return world


def why(world, **options):
    """Why the next version exists; it stored no content, and its manifest and its line say why, too."""
    result = world.backup(**options)
    assert (result.version, result.new_bytes) == (world.numbers()[-1], 0)
    assert result.version > 1
    assert result.why
    assert world.manifest().root.notes == result.why
    for one in result.why:
        assert one in summary(result)
        assert one in outcome(result).summary
    return result.why


def test_new_content_needs_no_reason(begun):
    """A version with new content says nothing of this kind, and neither does a backup that found nothing changed."""
    begun.write("a.txt", b"other")
    result = begun.backup()
    assert (result.version, result.why, begun.manifest().root.notes) == (2, (), ())
    assert begun.backup().why == ()


def test_the_line_of_a_backup(begun):
    """The line of `backup` and of the agent's log begins with the reason."""
    os.remove(begun.path("a.txt"))
    result = begun.backup()
    assert summary(result).startswith(
        f"version 2 in {result.seconds:.1f} s because a.txt was removed: 0 files with 0 B"
    )


def test_removed(begun):
    """One path that is gone is named, several are counted by kind."""
    os.remove(begun.path("a.txt"))
    assert why(begun) == ("a.txt was removed",)
    for name in ("b.txt", "link", "logs/1.log", "logs/2.log"):
        os.remove(begun.path(name))
    os.rmdir(begun.path("logs"))
    assert why(begun) == ("3 files, 1 symbolic link and 1 directory were removed",)


def test_excluded(begun):
    """What an exclude pattern leaves out from now on is not called removed."""
    assert why(begun, exclude=("logs/",)) == ("2 files and 1 directory are excluded now",)
    assert why(begun, exclude=("logs/", "b.*")) == ("b.txt is excluded now",)


def test_an_unfinished_name(begun):
    """A file that is kept out by its name alone is not called removed."""
    world = begun
    world.write("x.part", b"1")

    def made(*, keep):
        prover = Prover(ProofOptions(device="none"))
        options = BackupOptions(required_level=2)
        place = Source(RUN, os.fsencode(world.directory), keep_temporary=keep)
        return backup(world.repository, world.state, place, lambda: prover, options, world.monitor)

    made(keep=True)
    assert made(keep=False).why == ("x.part has the name of an unfinished file",)


def test_added_without_content(begun):
    """Directories, links and empty files have nothing to store."""
    os.mkdir(begun.path("new"))
    assert why(begun) == ("new/ was added",)
    os.link(begun.path("a.txt"), begun.path("z.txt"))
    os.symlink("b.txt", begun.path("y"))
    begun.write("empty", b"")
    added = why(begun)
    assert added == ("1 file, 1 hard link and 1 symbolic link were added",)


def test_content_that_is_stored_already(begun):
    """A copy of a file, and a file that took another's content, say so."""
    begun.write("copy.txt", b"a.txt")
    assert why(begun) == ("copy.txt was added",)
    begun.write("b.txt", b"a.txt")
    assert why(begun) == ("b.txt changed to content that was stored before",)


def test_renamed(begun):
    """A rename is one path that came and one that went."""
    os.rename(begun.path("a.txt"), begun.path("d.txt"))
    assert why(begun) == ("a.txt was removed", "d.txt was added")


def test_modes_and_kinds(begun):
    """Another mode, target or kind of the same path is named for what it is."""
    os.chmod(begun.path("logs"), 0o700)
    assert why(begun) == ("the mode of logs/ changed",)
    os.chmod(begun.path("a.txt"), 0o600)
    os.chmod(begun.path("b.txt"), 0o600)
    assert why(begun) == ("the mode of 2 files changed",)
    os.remove(begun.path("link"))
    os.symlink("c.txt", begun.path("link"))
    assert why(begun) == ("link leads to another place",)
    os.remove(begun.path("link"))
    os.mkdir(begun.path("link"))
    assert why(begun) == ("link/ is of another kind",)


@needs_root
def test_owners(begun):
    """Another owner of a path is named."""
    os.chown(begun.path("logs"), 12, 12)
    assert why(begun) == ("the owner of logs/ changed",)


def test_a_file_that_was_held_back(world):
    """A part of a checkpoint that never became complete is taken after an hour, although nobody touched it."""
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    index = json.dumps({"metadata": {}, "weight_map": {"a": shards[0], "b": shards[1]}})
    world.write("log", b"1")
    world.write(shards[0], save({"a": torch.ones(100)}))
    world.write("model.safetensors.index.json", index.encode())
    assert world.backup().troubles
    reason = "2 files were held back until now"
    assert why(world, now_ns=lambda: time.time_ns() + 2 * 3600 * 10**9) == (reason,)


def strict():
    """A prover that refuses what holds a NaN."""
    return Prover(ProofOptions(device="cpu", refuse=("nan",)))


def not_a_number(world):
    """Write a checkpoint whose numbers are none."""
    world.write("last.pt", uniform_checkpoint(float("nan")))


def test_a_later_proof_that_found_a_file_broken(world):
    """A checkpoint of the last version that turned out broken is left out, and the reason names it."""
    not_a_number(world)
    world.write("log", b"1")
    nowhere = Prover(ProofOptions(device="cpu", python="/nowhere/python"))
    world.backup(required_level=3, prover=nowhere)
    with strict() as prover, LaterProver(world.repository, prover, world.monitor) as later:
        later.pending(world.repository.stored(RUN, 1))
    os.chmod(world.path("log"), 0o600)
    assert why(world) == ("last.pt does not load", "the mode of log changed")


def test_a_policy_that_lets_a_file_in(world):
    """What another policy had refused, and this one takes, says so."""
    not_a_number(world)
    world.write("log", b"1")
    assert world.backup(prover=strict(), policy=STRICT).troubles
    assert why(world, prover=Prover(ProofOptions(device="cpu"))) == ("last.pt was refused by an earlier policy",)


def test_a_policy_that_refuses_a_file(world):
    """A new file of known content that is refused makes a version that names it, and says so."""
    world.write("log", b"1")
    not_a_number(world)
    world.backup(prover=Prover(ProofOptions(device="cpu")))
    os.rename(world.path("last.pt"), world.path("best.pt"))
    reasons = why(world, prover=strict(), policy=STRICT, required_level=4)
    assert reasons[0] == "last.pt was removed"


def test_a_proof_that_can_be_made_now(world):
    """A checkpoint whose bytes were stored before, and waited for its proof, says that its content was stored."""
    world.write("log", b"1")
    world.backup()
    world.write("last.pt", small_checkpoint(1))
    with pytest.raises(ProofUnavailable):
        world.backup(
            required_level=3, wait_for_proof=True, prover=Prover(ProofOptions(device="cpu", python="/nowhere/python"))
        )
    assert why(world, required_level=3, prover=Prover(ProofOptions(device="cpu"))) == ("last.pt was added",)


def test_another_machine_in_between(world):
    """A machine whose files nobody touched, after another one wrote the run, says that it knew their content."""
    world.write("a.txt", b"1")
    world.backup()
    world.save_state("first")
    os.rename(world.directory, world.base / "first-disk")
    world.lose_state()
    world.write("a.txt", b"2")
    allow_takeover(world.state.directory, RUN, os.fsencode(world.directory), 0)
    world.backup()
    os.rename(world.directory, world.base / "second-disk")
    os.rename(world.base / "first-disk", world.directory)
    world.load_state("first")
    allow_takeover(world.state.directory, RUN, os.fsencode(world.directory), 0)
    assert why(world) == ("the content of a.txt was stored by an earlier backup",)


def test_a_newest_version_that_does_not_open(begun):
    """A version made since the newest one no longer opens says so, and what its files have of it."""
    begun.write("a.txt", b"2")
    begun.backup()
    key = begun.repository.version_key(RUN, 2)
    begun.store.delete(key)
    begun.store.put(key, b"planted")
    os.chmod(begun.path("logs"), 0o700)
    reasons = why(begun)
    assert reasons == (
        "the newest version does not open any more",
        "the content of a.txt was stored by an earlier backup",
        "the mode of logs/ changed",
    )


def test_a_lost_list_of_files(begun):
    """A version whose list of files is lost in the store is made again without reading a file."""
    for number in range(500):
        begun.write(f"{number:0150}", b"")
    begun.backup()
    stored = begun.repository.stored(RUN, 2)
    packs = [ref.pack for ref in segment_refs(stored.root, stored.key)]
    assert packs
    begun.state.add_damaged(packs)
    assert why(begun) == ("part of version 2 is lost or damaged in the store",)
