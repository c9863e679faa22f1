"""A restore: to a new place, over what is there, in part, after a kill, and where something stands in the way."""

from __future__ import annotations

import os
import stat
import subprocess

import msgspec
import pytest

from flow_parts import World, as_nobody, contents, killed_at, noise, small_checkpoint, tree_of
from mlsync import errors
from mlsync.repository.commit import commit
from mlsync.repository.manifest import Manifest
from mlsync.target.target import Target
from mlsync.target.temporary import TEMPORARY_PREFIX

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts, or changes its user")


def leftovers(world: World, to: str = "out") -> list[bytes]:
    return [path for path in tree_of(world.base / to) if os.path.basename(path).startswith(TEMPORARY_PREFIX)]


@pytest.fixture
def full_world(world):
    """A version with everything that a tree can hold."""
    world.write("weights/last.pt", small_checkpoint())
    world.write("weights/empty.bin", b"")
    world.write("a\nname \xff\x1b".encode("latin1"), b"strange")
    world.write(b"n" * 255, b"long")
    world.write("log.csv", noise(300_000))
    os.symlink(b"weights/last.pt", world.path("latest"))
    os.symlink(b"/nowhere\n", world.path("dangling"))
    os.link(world.path("log.csv"), world.path("weights/log-again.csv"))
    with open(world.path("sparse.bin"), "wb") as file:
        file.write(b"begin")
        file.seek(1 << 20)
        file.write(b"end")
        file.truncate(3 << 20)
    os.chmod(world.path("log.csv"), 0o640)
    os.makedirs(world.path("empty/deep"))
    os.chmod(world.path("empty"), 0o551)
    os.utime(world.path("empty/deep"), ns=(5, 1_600_000_000_123_456_789))
    os.utime(world.path("weights"), ns=(5, -7_000_000_123))
    os.utime(world.path("latest"), ns=(5, 1_500_000_000_000_000_001), follow_symlinks=False)
    world.backup()
    return world


def test_a_restore_to_a_new_place_is_the_same_tree(full_world):
    """Names, contents, modes, times, links, hard links and empty directories come back as they were."""
    assert full_world.restored() == full_world.tree()
    link = os.lstat(full_world.base / "out" / "latest")
    assert link.st_mtime_ns == 1_500_000_000_000_000_001
    assert leftovers(full_world) == []


def test_holes_come_back_as_holes(full_world):
    """A sparse file takes as little room after its restore as it did before."""
    full_world.restore()
    assert (full_world.base / "out" / "sparse.bin").stat().st_blocks * 512 < 1 << 20


def test_what_is_right_already_is_not_touched(full_world):
    """A second restore reads nothing from the store and leaves every file, link and time as it is, ctime included."""
    full_world.restore()
    out = full_world.base / "out"
    before = {path: os.lstat(path) for path in out.rglob("*")}
    result = full_world.restore()
    after = {path: os.lstat(path) for path in out.rglob("*")}
    assert (result.read_bytes, result.written_count) == (0, 0)
    assert result.unchanged_count == result.file_count
    for path, found in before.items():
        if not stat.S_ISDIR(found.st_mode):
            assert (found.st_ino, found.st_mtime_ns, found.st_ctime_ns) == (
                after[path].st_ino,
                after[path].st_mtime_ns,
                after[path].st_ctime_ns,
            )
    assert tree_of(out) == full_world.tree()


def test_a_file_that_differs_in_part_fetches_that_part_alone(world):
    """Of a file that was changed in place only the chunks that differ come from the store."""
    content = noise(12 << 20)
    world.write("big.bin", content)
    world.backup()
    world.restore()
    with open(world.base / "out" / "big.bin", "r+b") as file:
        file.seek(6 << 20)
        file.write(b"damage")
    result = world.restore()
    assert (world.base / "out" / "big.bin").read_bytes() == content
    assert 0 < result.read_bytes < 5 << 20


def test_wrong_modes_and_times_are_mended_in_place(world):
    """A file whose content is right keeps its inode while its mode and time are set right."""
    world.write("a.bin", b"content")
    world.backup()
    world.restore()
    out = world.base / "out" / "a.bin"
    inode = out.stat().st_ino
    out.chmod(0o600)
    os.utime(out, ns=(1, 1))
    world.restore()
    assert out.stat().st_ino == inode
    assert tree_of(world.base / "out") == world.tree()


def test_a_part_comes_with_the_directories_above_it(full_world):
    """A path brings what is at and below it, and the directories above with their modes and times."""
    full_world.restore(None, "out", b"weights/last.pt", b"empty/")
    expected = {b"weights", b"weights/last.pt", b"empty", b"empty/deep"}
    whole = full_world.tree()
    assert tree_of(full_world.base / "out") == {path: whole[path] for path in expected}


def test_a_hard_link_alone_becomes_a_file_with_its_content(full_world):
    """A hard link whose first name was not asked for is restored as a file of its own."""
    result = full_world.restore(None, "out", b"weights/log-again.csv")
    found = contents(tree_of(full_world.base / "out"))
    assert found == {b"weights/log-again.csv": contents(full_world.tree())[b"log.csv"]}
    assert result.file_count == 1


def test_delete_takes_away_what_the_version_does_not_hold(full_world):
    """With delete the directory is the version exactly, and what was deleted is counted."""
    full_world.restore()
    out = full_world.base / "out"
    (out / "extra").mkdir()
    (out / "extra" / "file").write_bytes(b"x")
    (out / "to-elsewhere").symlink_to(full_world.directory, target_is_directory=True)
    (out / "weights" / "old.pt").write_bytes(b"x")
    result = full_world.restore(delete=True)
    assert result.deleted_count == 3
    assert tree_of(out) == full_world.tree()


def test_delete_does_nothing_in_a_restore_in_part(full_world):
    """A part never deletes: what was not asked for is not looked at."""
    full_world.restore()
    (full_world.base / "out" / "extra").write_bytes(b"x")
    full_world.restore(None, "out", b"log.csv", delete=True)
    assert (full_world.base / "out" / "extra").exists()


def test_a_symbolic_link_on_the_way_stops_the_restore(full_world):
    """Nothing is written through a symbolic link that stands where a directory should, wherever it leads."""
    outside = full_world.base / "outside"
    outside.mkdir()
    (full_world.base / "out").mkdir()
    (full_world.base / "out" / "weights").symlink_to(outside, target_is_directory=True)
    with pytest.raises(errors.TargetBlocked) as raised:
        full_world.restore()
    assert "weights" in str(raised.value)
    assert list(outside.iterdir()) == []


def test_a_symbolic_link_in_a_files_place_is_replaced_and_not_followed(world):
    """A file is never written through a link that has its name."""
    world.write("a.bin", b"good")
    world.backup()
    outside = world.base / "outside"
    outside.write_bytes(b"mine")
    (world.base / "out").mkdir()
    (world.base / "out" / "a.bin").symlink_to(outside)
    world.restore()
    assert outside.read_bytes() == b"mine"
    assert tree_of(world.base / "out") == world.tree()


@pytest.mark.parametrize("name", [b"weights/last.pt", b"latest", b"weights/log-again.csv"])
def test_a_directory_in_the_place_of_a_file_or_link_stops_the_restore(full_world, name):
    """A directory that stands where a file or link should is named and left alone."""
    place = full_world.base / "out" / os.fsdecode(name)
    place.mkdir(parents=True)
    with pytest.raises(errors.TargetBlocked):
        full_world.restore()
    assert place.is_dir()


def test_a_file_in_the_place_of_a_directory_stops_the_restore(full_world):
    """A file that stands where a directory should is named and left alone."""
    (full_world.base / "out").mkdir()
    (full_world.base / "out" / "weights").write_bytes(b"mine")
    with pytest.raises(errors.TargetBlocked):
        full_world.restore()
    assert (full_world.base / "out" / "weights").read_bytes() == b"mine"


def test_pipes_and_foreign_names_in_the_way_do_not_hang_it(world):
    """A pipe where a file or its temporary name should stand is not opened for reading."""
    world.write("a.bin", b"good")
    world.backup()
    (world.base / "out").mkdir()
    os.mkfifo(world.base / "out" / "a.bin")
    world.restore()
    assert tree_of(world.base / "out") == world.tree()


def test_a_rerun_uses_what_a_killed_restore_left(world):
    """What stands in a temporary file already does not come from the store again, and the file is gone at the end."""
    content = noise(12 << 20)
    world.write("big.bin", content)
    world.write("zzz.bin", b"last")
    world.backup()
    whole = world.restore(to="measure").read_bytes

    # The first one writes into the lock.
    with killed_at(3, "pwrite"):
        world.restore()
    assert len(leftovers(world)) == 1
    assert contents(tree_of(world.base / "out")).keys() == set(leftovers(world))
    result = world.restore()
    assert 0 < result.read_bytes < whole
    assert tree_of(world.base / "out") == world.tree()


def test_a_leftover_of_something_else_does_no_harm(world):
    """A temporary file with other bytes, longer than the file, ends as the right file; holes read as zeros."""
    with open(world.path("sparse.bin"), "wb") as file:
        file.write(noise(5000))
        file.truncate(1 << 20)
        file.seek((1 << 20) - 1)
        file.write(b"x")
    world.backup()

    with killed_at(1, "fsync"):
        world.restore()
    (left,) = leftovers(world)
    (world.base / "out" / os.fsdecode(left)).write_bytes(noise(3 << 20, 9))
    world.restore()
    assert tree_of(world.base / "out") == world.tree()


def test_all_that_a_restore_made_is_durable_when_it_returns(world, monkeypatch):
    """Each file is synced before it gets its name, and each directory after the last name in it."""
    world.write("weights/last.pt", noise(5000))
    world.write("args.yaml", b"lr0: 0.01\n")
    world.backup()
    synced, real = [], os.fsync

    def fsync(descriptor):
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    world.restore()
    out = str(world.base / "out")
    assert out == synced[-1]
    assert f"{out}/weights" in synced
    files = [path for path in synced if path not in (out, f"{out}/weights")]
    assert len(files) == 2
    assert all(TEMPORARY_PREFIX.decode() in path for path in files)


def test_a_damaged_pack_writes_no_file_under_its_name(world):
    """Of a file that does not come back right nothing stands under its final name; others that were there stay."""
    world.write("a.bin", noise(40_000))
    world.backup()
    world.restore()
    world.write("a.bin", noise(40_000, 1))
    world.backup()
    ref = world.entry(b"a.bin").chunks[0]
    key = f"packs/{ref.pack.hex()[:2]}/{ref.pack.hex()}"
    body = bytearray(world.store._objects[key][0])
    body[ref.offset + 5] ^= 1
    world.store._objects[key] = (bytes(body), 0.0)
    with pytest.raises(errors.ObjectDamaged) as raised:
        world.restore(2)
    assert key in str(raised.value)
    assert contents(tree_of(world.base / "out"))[b"a.bin"] == noise(40_000)


def test_a_hostile_manifest_cannot_lead_out_of_the_target(world):
    """A version whose entries climb or go through links is refused before anything is written."""
    world.write("a.bin", b"x")
    world.backup()
    manifest = world.manifest()
    (entry,) = manifest.entries
    for path in (b"../a.bin", b"/a.bin", b"d/../../a.bin", b"a\0b"):
        root = msgspec.structs.replace(manifest.root, number=2)
        hostile = Manifest(root, (msgspec.structs.replace(entry, path=path),))
        with pytest.raises(errors.ManifestDamaged):
            commit(world.repository, hostile, lambda _name: None)
    assert world.numbers() == [1]


def test_a_stopped_restore_goes_on_where_it_was(world):
    """A restore that is asked to stop keeps the files that it finished, and a rerun does not fetch them again."""
    for number in range(6):
        world.write(f"{number}.bin", noise(100_000, number))
    world.backup()
    asked = [0]

    def stop():
        asked[0] += 1
        return asked[0] > 10

    with pytest.raises(errors.Stopped):
        world.restore(stop=stop)
    done = len(contents(tree_of(world.base / "out")))
    assert 0 < done < 6
    assert world.restore().written_count == 6 - done
    assert tree_of(world.base / "out") == world.tree()


def test_a_restore_is_stopped_within_a_large_file(world):
    """Being asked to stop ends a restore within a piece; what came by then is not fetched again."""
    world.write("big.bin", noise(20 << 20))
    world.backup()
    asked = [0]

    def stop():
        asked[0] += 1
        return asked[0] > 120

    with pytest.raises(errors.Stopped):
        world.restore(stop=stop)
    assert asked[0] == 121
    assert world.restore().read_bytes < 18 << 20
    assert tree_of(world.base / "out") == world.tree()


def test_a_directory_that_becomes_a_link_on_the_way_is_not_followed(world):
    """A link put in the place of a directory after it was made stops the restore, and nothing is written outside."""
    world.write("d/a.bin", b"x")
    world.backup()
    outside = world.base / "outside"
    outside.mkdir()

    def swap():
        place = world.base / "out" / "d"
        if place.is_dir() and not place.is_symlink():
            place.rmdir()
            place.symlink_to(outside, target_is_directory=True)

    with pytest.raises(errors.TargetBlocked):
        world.restore(stop=swap)
    assert list(outside.iterdir()) == []


def test_a_file_that_changes_under_the_restore_is_not_half_old(world):
    """Parts that were right when they were compared and are not when they are copied end it with an error."""
    content = noise(3 << 20)
    world.write("big.bin", content)
    world.backup()
    world.restore()
    out = world.base / "out" / "big.bin"
    out.write_bytes(content[: 1 << 20])
    real = Target.write

    def disturbed(*arguments):
        out.write_bytes(bytes(1 << 20))
        real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Target, "write", disturbed)
        with pytest.raises(errors.ObjectDamaged):
            world.restore()
    assert out.read_bytes() == bytes(1 << 20)
    world.restore()
    assert tree_of(world.base / "out") == world.tree()


@needs_root
def test_a_full_disk_leaves_nothing_half_written(world):
    """Where the version does not fit the restore says so before it writes, or takes its temporary file away."""
    world.write("a.bin", noise(200_000))
    world.write("b.bin", noise(900_000, 1))
    world.backup()
    out = world.base / "out"
    out.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", out], check=False, capture_output=True
    ).returncode:
        pytest.skip("this container may not mount")
    try:
        with pytest.raises(errors.TargetFull):
            world.restore()
        assert contents(tree_of(out)) == {}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mlsync.restore.restore._refuse_full", lambda *_: None)
            with pytest.raises(errors.TargetFull):
                world.restore()
        assert contents(tree_of(out)) == {b"a.bin": noise(200_000)}
    finally:
        subprocess.run(["umount", out], check=True)


@needs_root
def test_root_gives_owners_back(world):
    """Owner and set-user-id bits come back where the restore may set them."""
    world.write("a.bin", b"x")
    os.chown(world.path("a.bin"), 1234, 2345)
    os.chmod(world.path("a.bin"), 0o4755)
    world.backup()
    world.restore()
    found = (world.base / "out" / "a.bin").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1234, 2345, 0o4755)


@needs_root
def test_somebody_else_restores_read_only_and_closed_directories(directory_world):
    """A user without rights gets read-only files in read-only directories, and may run the restore again over them."""
    world = directory_world
    world.write("closed/a.bin", b"x" * 1000)
    world.write("closed/deep/b.bin", b"y" * 1000)
    os.chmod(world.path("closed/a.bin"), 0o400)
    os.chmod(world.path("closed/deep"), 0o500)
    os.chmod(world.path("closed"), 0o300)
    world.backup()
    out = world.base / "out"
    out.mkdir()
    os.chown(out, 65534, 65534)
    for place in (world.base / "repo", *world.base.glob("repo/**/*")):
        os.chown(place, 65534, 65534)
    with as_nobody():
        world.restore()
        result = world.restore()
    assert (result.written_count, result.unchanged_count) == (0, 2)
    assert tree_of(out) == world.tree()
    assert out.joinpath("closed", "a.bin").stat().st_uid == 65534


@needs_root
@pytest.mark.parametrize("owner", [65534, 0])
def test_a_leftover_with_its_last_mode_is_no_obstacle(directory_world, owner):
    """A killed restore of a read-only file leaves a temporary file that cannot be written: the rerun copes with it."""
    world = directory_world
    world.write("a.bin", noise(1000))
    os.chmod(world.path("a.bin"), 0o444)
    world.backup()
    out = world.base / "out"
    out.mkdir()

    with killed_at(1, "rename"):
        world.restore()
    for place in out.iterdir():
        os.chown(place, owner, owner)
    for place in (out, *world.base.glob("repo/**/*"), world.base / "repo"):
        os.chown(place, 65534, 65534)
    with as_nobody():
        world.restore()
    assert tree_of(out) == world.tree()
