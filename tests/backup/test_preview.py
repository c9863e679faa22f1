"""What a backup would do: an estimate by stats and the local state, which leaves everything as it is."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import tracemalloc
from contextlib import nullcontext

import pytest

from flow_parts import RUN, as_nobody, noise, small_checkpoint, uniform_checkpoint
from mlsync.backup.files_cache import decode_row
from mlsync.backup.preview import Reason, preview
from mlsync.backup.request import Source
from mlsync.errors import SourceMissing
from mlsync.proof.options import ProofOptions
from mlsync.proof.prover import Prover
from mlsync.proving.policy import NO_POLICY, Policy
from mlsync.repository.encoding.tokens import EntryKind
from mlsync.source import scan as scan_module
from mlsync.source.state import StateReader

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes its user")
LONG_AGO_NS = 10**18


def look(world, exclude=(), *, keep_temporary=False, policy=NO_POLICY, first=False):
    """What a backup would do."""
    source = Source(RUN, os.fsencode(world.directory), exclude, keep_temporary)
    if first:
        return preview(source, None, policy, world.monitor)
    with StateReader(world.state_path) as state:
        return preview(source, state, policy, world.monitor)


def pair(tally):
    """Count and bytes."""
    return tally.count, tally.size_bytes


def settled(world):
    """So that nothing is read again for having been written a moment ago."""
    for folder, _, names in os.walk(world.path("")):
        for name in [*names, b"."]:
            os.utime(os.path.join(folder, name), ns=(LONG_AGO_NS, LONG_AGO_NS))
    time.sleep(0.1)  # the clock tick of their ctime has to be over


@pytest.fixture
def tree(world):
    """A run of some files."""
    for name in ("a.txt", "b.txt", "w/last.bin", "w/deep/1.bin", "logs/1.log"):
        world.write(name, noise(1000))
    return world


def left_out(found):
    """Reason, count and paths of each group; a directory lists in an order of its file system."""
    return {(one.reason, one.what): (one.tally.count, sorted(one.paths)) for one in found.groups.values()}


def test_a_first_backup(tree):
    """Without a state everything would be read, by directory, and nothing is compared."""
    found = look(tree, first=True)
    assert (found.previous, found.is_nothing, found.groups) == (0, False, {})
    assert pair(found.read) == (5, 5000)
    counts = {path: pair(one.read) for path, one in found.directories.items()}
    assert counts == {b"": (2, 2000), b"w": (1, 1000), b"w/deep": (1, 1000), b"logs": (1, 1000)}


def test_nothing_changed(tree):
    """After a backup nothing would be read, and no version made."""
    settled(tree)
    tree.backup()
    found = look(tree)
    assert (found.previous, found.is_nothing, found.removed_count) == (1, True, 0)
    assert (pair(found.read), pair(found.unchanged)) == ((0, 0), (5, 5000))


def test_what_changed_is_told_by_stats(tree):
    """New and changed files would be read, removed ones missed; it agrees with the backup that follows."""
    settled(tree)
    tree.backup()
    tree.write("a.txt", noise(2000, 1))
    tree.write("w/new.bin", noise(500, 2))
    os.remove(tree.path("b.txt"))
    os.symlink("a.txt", tree.path("link"))
    found = look(tree)
    assert (pair(found.read), found.unchanged.count, found.removed_count) == ((2, 2500), 3, 1)
    assert not found.is_nothing
    result = tree.backup()
    assert (result.changed_count, result.read_bytes) == pair(found.read)
    assert result.new_bytes <= found.read.size_bytes


def test_it_agrees_with_the_backup_of_a_disordered_tree(tree):
    """Names that sort between a directory and what is in it are compared with their own rows."""
    for name in ("w-1", "w.txt", "w/deep-2", "w0", "logs-/x"):
        tree.write(name, name.encode())
    settled(tree)
    tree.backup()
    tree.write("w/deep-2", b"other")
    os.remove(tree.path("w.txt"))
    found = look(tree)
    assert (pair(found.read), found.removed_count) == ((1, 5), 1)


def test_reasons_for_what_is_left_out(tree):
    """Patterns, names, special files and unreadable ones are told apart, with files and bytes."""
    tree.write("wandb/run/1.bin", noise(700))
    tree.write("wandb/run/2.tmp", noise(300))
    tree.write("x.part", noise(50))
    tree.write("tmp-checkpoint-3/w.bin", noise(60))
    tree.write("w/1.log", noise(70))
    os.mkfifo(tree.path("pipe"))
    os.mkfifo(tree.path("wandb/pipe"))
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(tree.path("s"))
    found = look(tree, ("wandb/", "*.log"), first=True)
    assert left_out(found) == {
        (Reason.EXCLUDED, "*.log"): (2, [b"logs/1.log", b"w/1.log"]),
        (Reason.EXCLUDED, "wandb/"): (2, [b"wandb/"]),
        (Reason.UNFINISHED, "the name of an unfinished file"): (2, [b"tmp-checkpoint-3/", b"x.part"]),
        (Reason.SPECIAL, "a socket, a pipe or a device"): (2, [b"pipe", b"s"]),
    }
    assert pair(found.directories[b"wandb"].left_out) == (2, 1000)
    assert pair(found.directories[b"tmp-checkpoint-3"].left_out) == (1, 60)
    assert pair(found.left_out) == (6, 1000 + 50 + 60 + 1000 + 70)
    kept = look(tree, ("wandb/", "*.log"), keep_temporary=True, first=True)
    assert not any(reason is Reason.UNFINISHED for reason, _ in kept.groups)
    assert kept.read.count == found.read.count + 2


def test_what_is_excluded_from_now_on_leaves_the_version(tree):
    """A pattern that is new takes files out of the next version."""
    settled(tree)
    tree.backup()
    found = look(tree, ("w/",))
    assert (found.removed_count, found.read.count, found.unchanged.count) == (4, 0, 3)
    assert not found.is_nothing


@needs_root
def test_what_cannot_be_read(directory_world):
    """Directories and files without permission are named, and what the version has below them is not called removed."""
    world = directory_world
    world.write("secret/a.bin", noise(100))
    world.write("b.bin", noise(100))
    world.write("log", b"1")
    world.backup()
    world.write("b.bin", noise(120))
    os.chmod(world.path("secret"), 0o700)
    os.chmod(world.path("b.bin"), 0o600)
    for place in (world.path("secret"), world.path("b.bin")):
        os.chown(place, 0, 0)
    for place in (world.base, *world.base.rglob("*")):
        if place.name not in ("secret", "b.bin") and "secret" not in place.parts:
            os.chown(place, 65534, 65534)
    with as_nobody():
        found = look(world)
    assert left_out(found) == {
        (Reason.UNREADABLE, "no permission to read it"): (1, [b"b.bin"]),
        (Reason.UNREADABLE, "cannot be read: Permission denied"): (1, [b"secret"]),
    }
    assert found.removed_count == 0


@pytest.fixture
def mounted(directory_world):
    """Whether another directory is mounted below the run, with a file in it: only root can, and not everywhere."""
    place, other = directory_world.path("mounted"), os.fsencode(directory_world.base / "other")
    for directory in (place, other):
        os.mkdir(directory)
    directory_world.write("../other/in-the-mount.bin", noise(90))
    done = subprocess.run(["mount", "--bind", other, place], capture_output=True, check=False)
    yield done.returncode == 0
    if done.returncode == 0:
        subprocess.run(["umount", "-l", place], check=True)


def everything_left_out(world):
    """A tree with all that a backup leaves out, for one reason or another, and some files that it takes."""
    for name in (
        "a.bin",
        "w/last.bin",
        "x.part",
        "tmp-checkpoint-3/w.bin",
        "w/1.log",
        "wandb/run/1.bin",
        "wandb/y.tmp",
    ):
        world.write(name, noise(100))
    for name in ("closed/b.bin", "closed.bin"):
        world.write(name, noise(100))
    world.write("../outside.bin", noise(70))
    os.link(world.path("../outside.bin"), world.path("second-name.bin"))
    os.link(world.path("../outside.bin"), world.path("third-name.bin"))
    world.write("../also-outside.bin", noise(80))
    os.link(world.path("../also-outside.bin"), world.path("hard-link.bin"))
    os.link(world.path("wandb/run/1.bin"), world.path("x-also-in-wandb.bin"))
    os.mkfifo(world.path("pipe"))
    with socket.socket(socket.AF_UNIX) as bound:
        # The full path may be longer than the address of a socket.
        bound.bind(os.path.relpath(world.path("s")))
    os.chmod(world.path("closed"), 0)
    os.chmod(world.path("closed.bin"), 0)
    os.chmod(world.path("second-name.bin"), 0o600)


@pytest.mark.parametrize("is_nobody", [False, pytest.param(True, marks=needs_root)], ids=["this user", "nobody"])
def test_the_list_is_that_of_the_backup(directory_world, mounted, is_nobody):
    """A backup's version lacks what the dry run calls left out, and nothing else; both name the unreadable ones."""
    world = directory_world
    everything_left_out(world)
    if os.geteuid() == 0:
        for place in (world.base, *world.base.rglob("*")) if is_nobody else ():
            os.chown(place, 65534, 65534)
        os.chown(world.path("second-name.bin"), 12345, 12345)
    exclude = ("wandb/", "*.log")
    with as_nobody() if is_nobody else nullcontext():
        found = look(world, exclude, first=True)
        result = world.backup(exclude=exclude)
    named = {reason: set() for reason in Reason}
    for group in found.groups.values():
        named[group.reason].update(path.rstrip(b"/") for path in group.paths)
    everything = set().union(*named.values())
    top = os.fsencode(world.directory)
    there = {os.path.relpath(os.path.join(folder, name), top) for folder, _, names in os.walk(top) for name in names}
    left = {path for path in there if any(path == one or path.startswith(one + b"/") for one in everything)}
    taken = {entry.path for entry in world.manifest(1).entries if entry.kind is not EntryKind.DIRECTORY}
    assert there - taken == left
    assert named[Reason.SPECIAL] == {b"pipe", b"s"}
    assert named[Reason.UNFINISHED] == set(result.left_out.paths)
    assert named[Reason.UNREADABLE] == {trouble.path for trouble in result.troubles}
    if is_nobody:
        assert {b"closed", b"closed.bin", b"second-name.bin"} <= named[Reason.UNREADABLE]
    elif os.geteuid() == 0:
        assert b"second-name.bin" in named[Reason.UNREADABLE]
        (secret,) = [group for group in found.groups.values() if "second name" in group.what]
        assert secret.what in {trouble.text for trouble in result.troubles}
    assert (b"mounted/in-the-mount.bin" in taken) is mounted
    assert found.read.count == len(taken)


def test_a_hard_link_to_an_excluded_file_is_a_file(tree):
    """A name of a file whose first name is excluded would be read, and stays as it is once it was backed up."""
    os.link(tree.path("logs/1.log"), tree.path("z.log"))
    settled(tree)
    assert look(tree, ("logs/",), first=True).read.count == 5
    tree.backup(exclude=("logs/",))
    found = look(tree, ("logs/",))
    assert (found.read.count, found.unchanged.count, found.is_nothing) == (0, 5, True)


def test_a_file_that_the_last_backup_did_not_take(tree):
    """A torn checkpoint that nobody touched since stays out, with the reason."""
    tree.write("w/last.pt", small_checkpoint()[:-100])
    settled(tree)
    result = tree.backup()
    (group,) = look(tree).groups.values()
    assert (group.reason, group.tally.count, group.paths) == (Reason.NOT_TAKEN, 1, [b"w/last.pt"])
    assert group.what == result.troubles[0].text


def test_another_policy_reads_what_the_first_refused(world):
    """A checkpoint that a policy refused is read when the policy changes, as by a backup."""
    world.write("last.pt", uniform_checkpoint(float("nan")))
    world.write("log", b"1")
    settled(world)
    strict = Policy("nan")
    world.backup(prover=Prover(ProofOptions(device="cpu", refuse=("nan",))), policy=strict)
    assert look(world, policy=strict).read.count == 0
    assert look(world).read.count == 1


def test_a_file_whose_pack_is_damaged_is_read_again(tree):
    """What the store lost is stored again, so it is read although nobody touched it."""
    settled(tree)
    tree.backup()
    tree.state.add_damaged([tree.entry(b"a.txt").chunks[0].pack])
    assert look(tree).read.count > 0


def test_it_changes_nothing(tree):
    """Neither the store nor any file of the local state is written to."""
    settled(tree)
    tree.backup()
    tree.write("a.txt", b"other")
    tree.state.close()
    before = {path: path.read_bytes() for path in tree.state_path.parent.rglob("*") if path.is_file()}
    calls = dict(tree.counted.calls)
    look(tree)
    assert {path: path.read_bytes() for path in tree.state_path.parent.rglob("*") if path.is_file()} == before
    assert dict(tree.counted.calls) == calls


def test_while_another_process_has_the_state_open(tree):
    """A state that an agent holds open, with writes under way, is read as it was before them."""
    settled(tree)
    tree.backup()
    with tree.state._transaction() as connection:
        connection.execute("DELETE FROM files")
        assert look(tree).unchanged.count == 5


def test_a_damaged_state_counts_as_none(tree):
    """A state that cannot be read is left as it is, and everything counts as new, with a warning."""
    settled(tree)
    tree.backup()
    tree.state.close()
    for name in ("-wal", "-shm"):
        tree.state_path.with_name(tree.state_path.name + name).unlink(missing_ok=True)
    body = bytearray(tree.state_path.read_bytes())
    body[4096:] = b"x" * len(body[4096:])
    tree.state_path.write_bytes(body)
    found = look(tree)
    assert (found.previous, found.read.count) == (0, 5)
    assert tree.monitor.notices[-1][0] == "warning"
    assert "everything counts as new" in tree.monitor.notices[-1][1]
    assert tree.state_path.read_bytes() == bytes(body)


def test_a_directory_that_is_not_there(world):
    """A watched directory that is missing is the error that a backup raises."""
    world.directory.rmdir()
    with pytest.raises(SourceMissing):
        look(world, first=True)


def test_a_directory_that_vanishes_meanwhile(tree, monkeypatch):
    """What is deleted while it is looked at does not count, and is no error."""
    real = scan_module.Walk._enter

    def vanishing(walk, directory):
        if directory.path == b"w":
            for name in ("w/last.bin", "w/deep/1.bin"):
                os.remove(tree.path(name))
            os.rmdir(tree.path("w/deep"))
            os.rmdir(tree.path("w"))
        return real(walk, directory)

    monkeypatch.setattr(scan_module.Walk, "_enter", vanishing)
    assert look(tree, first=True).read.count == 3


def test_many_files_take_no_memory(world):
    """The memory is that of one directory's listing and of a count for each directory, whatever the number of files."""
    for directory in range(20):
        for number in range(200):
            world.write(f"{directory:03}/{number}", b"")
    peaks = []
    for top in ("000", ""):
        source = Source(RUN, world.path(top).rstrip(b"/"))
        tracemalloc.start()
        preview(source, None, NO_POLICY, world.monitor)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2 * peaks[0] + 20_000


def test_rows_that_cannot_be_decoded_are_read_again(tree):
    """A row of the state with nonsense in it is no reason to fail: the file would be read."""
    settled(tree)
    tree.backup()
    with tree.state._transaction() as connection:
        connection.execute("UPDATE files SET entry = ? WHERE path = ?", (b"\xc1", b"a.txt"))
    assert decode_row(b"\xc1") is None
    assert look(tree).read.count == 1
