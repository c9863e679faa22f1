"""Restores in disorder: two at once, damage, what stands in the way, missing rights, what ``--delete`` spares."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from flow_parts import World, as_nobody, contents, killed_at, noise, outcome, tree_of
from mlsync import errors
from mlsync.repository import names
from mlsync.restore.restore import RestoreOptions, restore
from mlsync.target import nested as nested_targets
from mlsync.target.lock import LOCK_NAME, TargetLock
from mlsync.target.temporary import TEMPORARY_PREFIX

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts, or changes its user")


def run(world: World, number: int | None = None, to: str = "out", manifest=None, **options):
    """What came of a restore, with what failed in it."""
    manifest = manifest or world.manifest(number)
    directory = os.fsencode(world.base / to)
    return restore(world.repository, manifest, directory, RestoreOptions(**options), world.monitor)


def left_over(world: World) -> list[bytes]:
    """Names of ours that a restore is to take away again."""
    return [path for path in tree_of(world.base / "out") if TEMPORARY_PREFIX in path]


# ---------------------------------------------------------------- two at once


@contextmanager
def one_at_work(world: World, number: int, to: str = "out"):
    """A restore that has begun and waits, in another thread, until the context ends."""
    began, may_go_on, results = threading.Event(), threading.Event(), []

    def stop():
        began.set()
        may_go_on.wait(20)

    def work():
        results.append(outcome(lambda: world.restore(number, to, stop=stop)))

    thread = threading.Thread(target=work)
    thread.start()
    assert began.wait(20)
    try:
        yield results
    finally:
        may_go_on.set()
        thread.join(30)


@pytest.fixture
def two_versions(world) -> World:
    """Two versions that differ in all their files."""
    for turn in range(2):
        for number in range(5):
            world.write(f"{number}.bin", noise(50_000, 10 * turn + number))
        world.backup()
    return world


def test_another_version_is_refused_while_one_is_restored(two_versions):
    """A second restore of another version ends with a status of its own and changes nothing; the first is whole."""
    world = two_versions
    with one_at_work(world, 2) as first:
        with pytest.raises(errors.TargetLocked) as raised:
            world.restore(1)
        assert "yolo version 2" in str(raised.value)
    assert first[0][1] is None
    assert tree_of(world.base / "out") == world.tree()


@pytest.mark.parametrize(("first", "second"), [("out", "out/weights/best"), ("out/weights/best", "out")])
def test_a_restore_into_a_directory_keeps_away_those_above_and_below(two_versions, monkeypatch, first, second):
    """Of two restores, one into a directory that lies in the other's, the second is refused, whichever that is."""
    monkeypatch.setattr(nested_targets, "_WAIT_S", 0)
    (two_versions.base / second).mkdir(parents=True, exist_ok=True)
    with one_at_work(two_versions, 2, first) as results, pytest.raises(errors.TargetLocked, match="under way"):
        two_versions.restore(2, second)
    assert results[0][1] is None


def test_restores_into_neighbouring_directories_do_not_wait(two_versions):
    """Two directories of one are two places."""
    with one_at_work(two_versions, 2, "out/one"):
        two_versions.restore(1, "out/two")


def test_the_same_version_is_waited_for(two_versions):
    """Ranks that all restore the same version end well, all but the first find every file right, and it is said."""
    world = two_versions
    results = []
    with one_at_work(world, 2) as first:
        ranks = [threading.Thread(target=lambda: results.append(outcome(lambda: world.restore(2)))) for _ in range(3)]
        for rank in ranks:
            rank.start()
        while not [text for _, text in world.monitor.notices if "waiting for another restore" in text]:
            assert all(rank.is_alive() for rank in ranks)
    for rank in ranks:
        rank.join(30)
    assert [error for _, error in (*first, *results)] == [None] * 4
    assert [result.unchanged_count for result, _ in results] == [5] * 3
    assert tree_of(world.base / "out") == world.tree()


def test_two_that_begin_at_the_same_moment_do_the_work_once(two_versions, monkeypatch):
    """Who looks at an empty directory and then waits for another restore looks again once it is let in."""
    world, real = two_versions, TargetLock.__enter__

    def entered(lock):
        monkeypatch.setattr(TargetLock, "__enter__", real)
        world.restore(2)
        return real(lock)

    monkeypatch.setattr(TargetLock, "__enter__", entered)
    assert world.restore(2).unchanged_count == 5


def test_who_waits_for_the_same_version_can_be_stopped(two_versions):
    """A stop is obeyed while another restore is waited for."""
    with one_at_work(two_versions, 2), pytest.raises(errors.Stopped):
        two_versions.restore(2, stop=lambda: True)


def test_a_killed_restores_lock_is_no_obstacle(two_versions):
    """What a killed restore of another version left of its lock holds nobody up, and is gone after the next."""
    with killed_at(3, "pwrite"):
        two_versions.restore(1)
    two_versions.restore(2)
    assert tree_of(two_versions.base / "out") == two_versions.tree()


@pytest.mark.parametrize("how", ["link", "symlink"])
def test_nothing_is_written_through_a_lock_of_somebody_elses_making(two_versions, how):
    """A lock's name that leads to another file is taken away, and the file stays as it is."""
    out, outside = two_versions.base / "out", two_versions.base / "outside"
    out.mkdir()
    outside.write_bytes(b"mine")
    getattr(os, how)(outside, out / os.fsdecode(LOCK_NAME))
    two_versions.restore(2)
    assert outside.read_bytes() == b"mine"
    assert tree_of(out) == two_versions.tree()


# ---------------------------------------------------------------- damage


def pack_of(world: World, name: bytes) -> str:
    """The pack that holds a file's first chunk."""
    return names.pack(world.entry(name).chunks[0].pack)


@pytest.fixture
def three_packs(world) -> World:
    """A version whose files lie in several packs, some small files beside each other."""
    for turn in range(3):
        for number in range(4):
            world.write(f"{turn}/{number}.bin", noise(40_000, 10 * turn + number))
        world.backup()
    assert len({pack_of(world, b"%d/0.bin" % turn) for turn in range(3)}) == 3
    return world


def flip(world: World, name: bytes) -> None:
    """Change a byte of a file's first chunk in the store."""
    ref, key = world.entry(name).chunks[0], pack_of(world, name)
    body = bytearray(world.store._objects[key][0])
    body[ref.offset + 5] ^= 1
    world.store._objects[key] = (bytes(body), 0.0)


def test_a_flipped_byte_costs_one_file(three_packs):
    """All but the file that it is in come back, also its neighbours in the pack; it is named, with the pack."""
    world = three_packs
    flip(world, b"1/2.bin")
    result = run(world)
    expected = {path: content for path, content in contents(world.tree()).items() if path != b"1/2.bin"}
    assert contents(tree_of(world.base / "out")) == expected
    assert [failure.path for failure in result.failures] == [b"1/2.bin"]
    assert (result.fault.exit_code, result.fault.where) == (31, pack_of(world, b"1/2.bin"))
    assert "1/2.bin" in result.fault.what
    assert [text for severity, text in world.monitor.notices if severity == "error" and "1/2.bin" in text]
    assert (result.written_count, result.file_count) == (11, 12)
    assert left_over(world) == []


def test_a_lost_pack_costs_its_files_and_few_questions(three_packs):
    """What other packs hold comes back; the files of the lost one are named, and it is asked for once or twice."""
    world = three_packs
    key = pack_of(world, b"1/0.bin")
    del world.store._objects[key]
    before = world.counted.calls["read"]
    result = run(world)
    assert sorted(failure.path for failure in result.failures) == [b"1/%d.bin" % number for number in range(4)]
    assert (result.fault.exit_code, result.fault.where) == (30, key)
    assert contents(tree_of(world.base / "out")).keys() == {
        b"%d/%d.bin" % (turn, number) for turn in (0, 2) for number in range(4)
    }
    assert world.counted.calls["read"] - before <= 12


def test_a_hard_link_to_a_damaged_file_is_not_made(three_packs):
    """A hard link to what could not be restored is named too, and does not become one to an older file there."""
    world = three_packs
    os.link(world.path("0/0.bin"), world.path("0/again.bin"))
    world.backup()
    flip(world, b"0/0.bin")
    (world.base / "out" / "0").mkdir(parents=True)
    (world.base / "out" / "0" / "0.bin").write_bytes(b"older")
    result = run(world)
    assert [failure.path for failure in result.failures] == [b"0/0.bin", b"0/again.bin"]
    assert not (world.base / "out" / "0" / "again.bin").exists()


# ---------------------------------------------------------------- what stands in the way


def test_a_directory_in_a_files_place_keeps_no_other_file_back(three_packs):
    """The file is named with status 60, the directory stays, and all else is restored."""
    world = three_packs
    (world.base / "out" / "1" / "2.bin").mkdir(parents=True)
    result = run(world)
    assert [failure.path for failure in result.failures] == [b"1/2.bin"]
    assert result.fault.exit_code == 60
    assert len(contents(tree_of(world.base / "out"))) == 11
    assert (world.base / "out" / "1" / "2.bin").is_dir()


def test_a_file_in_a_directorys_place_costs_what_is_below(three_packs):
    """All files below a directory that cannot be made are named, all others restored."""
    world = three_packs
    (world.base / "out").mkdir()
    (world.base / "out" / "1").write_bytes(b"mine")
    result = run(world)
    assert [failure.path for failure in result.failures] == [b"1", *(b"1/%d.bin" % number for number in range(4))]
    assert len(contents(tree_of(world.base / "out"))) == 9


def test_a_name_that_is_too_long_keeps_no_other_file_back(three_packs):
    """A name of another file system that is too long for this one is named with status 60, and all else is restored."""
    world = three_packs
    manifest = world.manifest()
    last = manifest.entries[-1]
    long = msgspec.structs.replace(last, path=b"2/" + b"n" * 300)
    result = run(world, manifest=msgspec.structs.replace(manifest, entries=(*manifest.entries, long)))
    assert [failure.path for failure in result.failures] == [long.path]
    assert result.fault.exit_code == 60
    assert "too long" in result.fault.what
    assert contents(tree_of(world.base / "out")) == contents(world.tree())


@needs_root
def test_a_refused_restore_leaves_nothing(world):
    """Where the version does not fit, neither the directories nor the target that were made for it stay."""
    world.write("deep/er/a.bin", noise(2 << 20))
    world.backup()
    disk = world.base / "disk"
    disk.mkdir()
    with mounted(disk, "-t", "tmpfs", "-o", "size=512k", "tmpfs"):
        with pytest.raises(errors.TargetFull):
            run(world, to="disk/new/out")
        assert list(disk.iterdir()) == []
        (disk / "here").mkdir()
        with pytest.raises(errors.TargetFull):
            run(world, to="disk/here")
        assert list((disk / "here").iterdir()) == []
        assert os.listxattr(disk / "here") == []


def test_a_stopped_restore_leaves_directories_as_they_will_be(world):
    """A restore that is stopped leaves no directory that only its user can enter, and what it wrote for the next."""
    for number in range(4):
        world.write(f"deep/{number}.bin", noise(20_000, number))
    world.backup()
    asked = [0]

    def stop():
        asked[0] += 1
        return asked[0] > 14

    with pytest.raises(errors.Stopped):
        world.restore(stop=stop)
    assert contents(tree_of(world.base / "out"))
    assert stat.S_IMODE((world.base / "out" / "deep").stat().st_mode) == 0o755


# ---------------------------------------------------------------- owners and modes


@pytest.fixture
def nobodys_world(directory_world) -> World:
    """A repository that everybody can read, and a target of nobody's."""
    (directory_world.base / "out").mkdir()
    os.chown(directory_world.base / "out", 65534, 65534) if os.geteuid() == 0 else None
    return directory_world


def give_away(world: World) -> None:
    """Let nobody read the repository, as root cannot be told to forget that it is root."""
    for place in (world.base / "repo", *world.base.glob("repo/**/*")):
        os.chown(place, 65534, 65534)


@needs_root
def test_an_ordinary_user_gives_nobody_elses_rights_to_a_file(nobodys_world):
    """Set-user-id and set-group-id bits of another owner are not set on a file that is the restorer's own."""
    world = nobodys_world
    for name, owner in (("theirs.bin", 1234), ("own.bin", 65534)):
        world.write(name, b"x")
        os.chown(world.path(name), owner, owner)
        os.chmod(world.path(name), 0o6755)
    world.backup()
    give_away(world)
    with as_nobody():
        world.restore()
        assert world.restore().unchanged_count == 2
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (world.base / "out").iterdir()}
    assert modes == {"theirs.bin": 0o755, "own.bin": 0o6755}


PROGRAM = """
import sys
sys.path[:0] = {path!r}
from pathlib import Path
from flow_parts import *
from mlsync.store.directory.store import DirectoryStore
base = Path({base!r})
world = World(base, DirectoryStore(base / "repo"), is_there=True)
for _ in range(2):
    result = world.restore()
    print(result.written_count, result.unchanged_count, world.monitor.notices)
    world.monitor.notices.clear()
"""


@needs_root
def test_root_without_the_right_to_give_files_away_goes_on(directory_world):
    """Root of a container that maps no other user restores as an ordinary user does, and says so once, not per file."""
    world = directory_world
    for number in range(5):
        world.write(f"d{number}/a.bin", noise(1000, number))
        os.chown(world.path(f"d{number}/a.bin"), 1234 + number, 1234)
    os.chmod(world.path("d0/a.bin"), 0o4755)
    world.backup()
    world.state.close()
    code = PROGRAM.format(path=[str(Path(__file__).parents[1]), *sys.path], base=str(world.base))
    command = ["unshare", "--user", "--map-root-user", sys.executable, "-c", code]
    if subprocess.run([*command[:3], "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine makes no user namespaces")
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first.startswith("5 0 ")
    assert first.count("owners of files cannot be restored") == 1
    assert second.startswith("0 5 ")
    assert stat.S_IMODE((world.base / "out" / "d0" / "a.bin").stat().st_mode) == 0o755
    world.reopen()


@needs_root
@pytest.mark.parametrize("how", ["owner", "mode", "link"])
def test_root_makes_a_file_anew_that_others_may_have_open(world, how):
    """A file whose content is right, but which another user made or could write, is not given away as it is."""
    world.write("a.bin", noise(1000))
    os.chmod(world.path("a.bin"), 0o644)
    world.backup()
    world.restore()
    out, outside = world.base / "out" / "a.bin", world.base / "outside"
    if how == "owner":
        os.chown(out, 1234, 1234)
    elif how == "mode":
        out.chmod(0o666)
    else:
        os.link(out, outside)
        out.chmod(0o600)
    before = out.stat()
    world.restore()
    assert out.stat().st_ino != before.st_ino
    assert tree_of(world.base / "out") == world.tree()
    if how == "link":
        assert stat.S_IMODE(outside.stat().st_mode) == 0o600


def test_the_directory_itself_comes_back(world):
    """The run's own directory has its mode and time again, in a new place and over an old one, and after a backup."""
    world.write("a.bin", b"x")
    os.chmod(world.directory, 0o750)
    os.utime(world.directory, ns=(5, 1_600_000_000_123_456_789))
    world.backup()
    for _ in range(2):
        world.restore()
        found = (world.base / "out").stat()
        assert (stat.S_IMODE(found.st_mode), found.st_mtime_ns) == (0o750, 1_600_000_000_123_456_789)


def test_a_directory_that_is_no_restores_keeps_its_mode(world):
    """A restore into somebody's home gives it the run's time, and neither its mode nor its owner."""
    world.write("a.bin", b"x")
    os.chmod(world.directory, 0o777)
    world.backup()
    (world.base / "out").mkdir(mode=0o700)
    (world.base / "out" / "mine").write_bytes(b"x")
    world.restore()
    assert stat.S_IMODE((world.base / "out").stat().st_mode) == 0o700


@needs_root
def test_a_directory_that_everybody_may_write_to_is_enough(directory_world):
    """A restore into somebody else's directory, as of a scratch disk, is whole; its time stays, which is said once."""
    world = directory_world
    for name in ("a.bin", "sub/b.bin"):
        world.write(name, b"x")
    world.backup()
    out = world.base / "out"
    for directory in (out, out / "sub"):
        directory.mkdir()
        directory.chmod(0o777)
    give_away(world)
    with as_nobody():
        result = run(world)
    assert (result.fault, tuple(result.failures)) == (None, ())
    assert contents(tree_of(out)) == contents(world.tree())
    said = [text for severity, text in world.monitor.notices if severity == "warning" and "times of files" in text]
    assert len(said) == 1


def test_a_temporary_name_that_is_swapped_while_it_is_written_leads_nowhere(world):
    """What takes the temporary name of a long file meanwhile is not written to, and does not become the file."""
    world.write("big.bin", noise(40 << 20))
    world.backup()
    out, outside = world.base / "out", world.base / "outside"
    outside.write_bytes(b"mine")

    def swap():
        for path in out.glob(f"{TEMPORARY_PREFIX.decode()}*"):
            if path.name != LOCK_NAME.decode() and path.stat().st_size > 0 and not path.is_symlink():
                path.unlink()
                path.symlink_to(outside)

    result = run(world, stop=swap)
    assert outside.read_bytes() == b"mine"
    assert [failure.error.exit_code for failure in result.failures] == [60]
    world.restore()
    assert tree_of(out) == world.tree()


# ---------------------------------------------------------------- what --delete spares


@contextmanager
def mounted(place: Path, *arguments: str):
    """Something is mounted at *place*."""
    done = subprocess.run(["mount", *arguments, str(place)], check=False, capture_output=True)
    if done.returncode:
        pytest.skip("this container may not mount")
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


@needs_root
@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_delete_never_enters_another_mount(world, kind):
    """What is mounted below the target, from another disk or from elsewhere on this one, stays as it is."""
    world.write("a.bin", b"x")
    world.backup()
    world.restore()
    out, elsewhere = world.base / "out", world.base / "elsewhere"
    for place in (out / "mount", elsewhere):
        place.mkdir()
    (out / "old.bin").write_bytes(b"x")
    with mounted(out / "mount", *(("-t", "tmpfs", "tmpfs") if kind == "tmpfs" else ("--bind", str(elsewhere)))):
        (out / "mount" / "data").mkdir()
        (out / "mount" / "data" / "mine").write_bytes(b"x")
        result = run(world, delete=True)
        assert (result.deleted_count, result.failures) == (1, ())
        assert (out / "mount" / "data" / "mine").read_bytes() == b"x"


def test_delete_spares_what_backups_leave_out(world):
    """Excluded paths and unfinished files stay, with the directories that they are in, unless they are asked for."""
    world.write("a.bin", b"x")
    world.backup(exclude=("cache/", "*.log"))
    world.restore()
    out = world.base / "out"
    for name in ("cache/deep/one", "sub/trace.log", "sub/old.bin", "last.pt.tmp"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(b"x")
    result = world.restore(delete=True, exclude=("cache/", "*.log"))
    assert result.deleted_count == 1
    assert contents(tree_of(out)).keys() == {b"a.bin", b"cache/deep/one", b"sub/trace.log", b"last.pt.tmp"}
    assert world.restore(delete=True, delete_excluded=True, exclude=("cache/", "*.log")).deleted_count == 3
    assert tree_of(out) == world.tree()


@pytest.fixture
def home(world) -> World:
    """A version, and a directory with much that is not of it."""
    world.write("a.bin", b"x")
    world.backup()
    for number in range(6):
        (world.base / "out" / f"d{number}").mkdir(parents=True)
        (world.base / "out" / f"d{number}" / "mine").write_bytes(b"x")
    return world


def test_delete_of_most_of_a_directory_wants_a_word(home):
    """What would go is counted before anything changes; with the word for it, it goes."""
    before = tree_of(home.base / "out")
    with pytest.raises(errors.DeletionRefused) as raised:
        home.restore(delete=True)
    assert "6 of the 6 files" in str(raised.value)
    assert "--yes" in str(raised.value)
    assert tree_of(home.base / "out") == before
    assert home.restore(delete=True, confirmed=True).deleted_count == 6
    assert tree_of(home.base / "out") == home.tree()


def test_delete_of_little_needs_no_word(home):
    """A directory that mostly is the version loses what is not, whoever made it."""
    for number in range(20):
        home.write(f"{number}.bin", b"x" * 100)
        (home.base / "out" / f"{number}.bin").write_bytes(b"x" * 100)
    home.backup()
    assert home.restore(delete=True).deleted_count == 6


def test_delete_in_what_a_restore_made_needs_no_word(home):
    """Going back to a version of few files, where a restore of the run made the directory, is what it is for."""
    for number in range(20):
        home.write(f"{number}.bin", b"x" * 100)
    home.backup()
    home.restore(2, to="other")
    result = run(home, 1, to="other", delete=True)
    assert (result.deleted_count, result.fault) == (20, None)


# ---------------------------------------------------------------- holes


def sparse(world: World, hole_bytes: int) -> None:
    """A file that is a long hole but for its ends."""
    with open(world.path("sparse.bin"), "wb") as file:
        file.write(noise(5000))
        file.seek(hole_bytes)
        file.write(noise(5000, 1))


@contextmanager
def bytes_read():
    """Count what is read from files."""
    count, real = [0], os.preadv

    def counted(descriptor, buffers, *more):
        got = real(descriptor, buffers, *more)
        count[0] += got
        return got

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "preadv", counted)
        yield count


def test_a_hole_is_restored_and_compared_without_being_read(world):
    """Of a file with a hole of 2 GiB nothing of the hole is read, when it is new and when it is right already."""
    sparse(world, 2 << 30)
    world.backup()
    with bytes_read() as count:
        world.restore()
        assert world.restore().unchanged_count == 1
    assert count[0] < 1 << 20
    assert (world.base / "out" / "sparse.bin").stat().st_blocks * 512 < 1 << 20


def test_zeros_count_as_a_hole_and_other_bytes_do_not(world):
    """A file with written zeros in the place of a hole is right; with one other byte there it is made anew."""
    sparse(world, 12 << 20)
    world.backup()
    world.restore()
    out = world.base / "out" / "sparse.bin"
    found = out.stat()
    with open(out, "r+b") as file:
        file.seek(1 << 20)
        file.write(bytes(9 << 20))
    os.utime(out, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert world.restore().unchanged_count == 1
    with open(out, "r+b") as file:
        file.seek((9 << 20) + 7)
        file.write(b"\1")
    assert world.restore().written_count == 1
    assert tree_of(world.base / "out") == world.tree()


def test_what_was_left_in_a_hole_is_dug_out(world):
    """A leftover that has bytes where the version has a hole ends with zeros there that take no room."""
    sparse(world, 12 << 20)
    world.backup()
    with killed_at(1, "fsync"):
        world.restore()
    (left,) = [path for path in left_over(world) if path != LOCK_NAME]
    with open(world.base / "out" / os.fsdecode(left), "r+b") as file:
        file.write(noise(12 << 20, 9))
    world.restore()
    assert tree_of(world.base / "out") == world.tree()
    assert (world.base / "out" / "sparse.bin").stat().st_blocks * 512 < 1 << 20


def test_a_stop_is_obeyed_while_zeros_are_compared(world):
    """A long stretch of written zeros is compared piece by piece, with a look at the stop before each."""
    sparse(world, 64 << 20)
    world.backup()
    world.restore()
    out = world.base / "out" / "sparse.bin"
    with open(out, "r+b") as file:
        file.seek(1 << 20)
        file.write(bytes(60 << 20))
    asked = [0]

    def stop():
        asked[0] += 1
        return asked[0] > 8

    with bytes_read() as count, pytest.raises(errors.Stopped):
        world.restore(stop=stop)
    assert count[0] < 32 << 20
