"""Plain copies: whole or not there, compared before anything is overwritten, each with its SHA-256."""

from __future__ import annotations

import hashlib
import os
import subprocess

import pytest

from flow_parts import RUN, World, small_checkpoint
from mlsync.errors import CheckpointBroken, ConfigInvalid, ExportRefused, PathMissing, Stopped, TargetBlocked
from mlsync.publish.export import ExportOptions, chosen_files, export, sum_line
from mlsync.publish.to_bucket import BucketPlace
from mlsync.publish.to_directory import DirectoryPlace
from mlsync.store.options import StoreOptions

CONTENT = small_checkpoint(1)
SUM = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def world(tmp_path):
    """A run with a checkpoint, a log and an odd name."""
    world = World(tmp_path)
    world.write("weights/best.pt", CONTENT)
    world.write("log.txt", b"1\n")
    world.write(b"odd\n\\name\xff", b"x")
    world.backup()
    yield world
    world.close()


def exported(world, place, *paths, **options):
    """Export files of the newest version, and say which copies are new."""
    files = chosen_files(world.manifest(), paths)
    done = export(world.repository, files, place, ExportOptions(**options), world.monitor)
    return {one.path: one.is_new for one in done}


@pytest.fixture
def place(tmp_path):
    """A directory that is not there yet."""
    with DirectoryPlace(tmp_path / "copies" / "here") as place:
        yield place


def test_a_copy_has_its_sum_beside_it(world, place, tmp_path):
    """Content, modes as the umask has them, and a file that sha256sum reads; nothing else is left."""
    assert exported(world, place) == {b"weights/best.pt": True}
    there = tmp_path / "copies/here/weights"
    assert (there / "best.pt").read_bytes() == CONTENT
    assert sorted(os.listdir(there)) == ["best.pt", "best.pt.sha256"]
    mask = os.umask(0)
    os.umask(mask)
    assert (there / "best.pt").stat().st_mode & 0o777 == 0o666 & ~mask
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "best.pt.sha256"], cwd=there, check=True)


def test_odd_names_have_sums_that_sha256sum_reads(world, place, tmp_path):
    """A line end, a backslash and a byte that is no UTF-8."""
    name = b"odd\n\\name\xff"
    exported(world, place, name)
    there = os.fsencode(tmp_path / "copies/here")
    subprocess.run([b"sha256sum", b"--check", b"--strict", b"--quiet", name + b".sha256"], cwd=there, check=True)
    assert sum_line(b"a", "00") == b"00  a\n"


def test_what_is_there_and_the_same_is_left_alone(world, place, tmp_path):
    """The second export writes nothing; a missing sum is made."""
    exported(world, place)
    copy = tmp_path / "copies/here/weights/best.pt"
    before = copy.stat()
    (tmp_path / "copies/here/weights/best.pt.sha256").unlink()
    assert exported(world, place) == {b"weights/best.pt": False}
    assert (copy.stat().st_ino, copy.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert (tmp_path / "copies/here/weights/best.pt.sha256").read_text() == f"{SUM}  best.pt\n"


@pytest.mark.parametrize("kind", ["other", "same size", "directory", "link", "pipe", "link above"])
def test_nothing_else_is_overwritten(world, place, tmp_path, kind):
    """Whatever has the name stays as it is, and nothing is written through a link."""
    there = tmp_path / "copies/here/weights"
    there.mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    target = there / "best.pt"
    if kind == "other":
        target.write_bytes(b"mine")
    elif kind == "same size":
        target.write_bytes(bytes(len(CONTENT)))
    elif kind == "directory":
        target.mkdir()
    elif kind == "link":
        target.symlink_to(outside / "file")
    elif kind == "pipe":
        os.mkfifo(target)
    else:
        there.rmdir()
        there.symlink_to(outside)
    before = os.lstat(there)
    with pytest.raises((ExportRefused, TargetBlocked), match=r"something else|stands in"):
        exported(world, place)
    assert os.lstat(there).st_ino == before.st_ino
    assert list(outside.iterdir()) == []
    if kind == "same size":
        assert target.read_bytes() == bytes(len(CONTENT))


def test_force_replaces_a_file_in_one_step(world, place, tmp_path):
    """With --force the name leads to the new content; a link is replaced and not followed."""
    there = tmp_path / "copies/here/weights"
    there.mkdir()
    (tmp_path / "outside").write_bytes(b"keep")
    (there / "best.pt").symlink_to(tmp_path / "outside")
    (there / "best.pt.sha256").write_bytes(b"old")
    assert exported(world, place, force=True) == {b"weights/best.pt": True}
    assert ((there / "best.pt").read_bytes(), (tmp_path / "outside").read_bytes()) == (CONTENT, b"keep")
    assert (there / "best.pt.sha256").read_text() == f"{SUM}  best.pt\n"


def test_what_comes_meanwhile_stays(world, place, tmp_path):
    """A file that another process makes while ours is written is not overwritten."""
    target = tmp_path / "copies/here/weights/best.pt"

    def stop(seen=[]):  # noqa: B006 - counts the calls
        seen.append(1)
        if len(seen) == 2:
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(b"theirs")

    with pytest.raises(ExportRefused, match="meanwhile"):
        exported(world, place, stop=stop)
    assert target.read_bytes() == b"theirs"
    assert os.listdir(target.parent) == ["best.pt"]


def test_a_stop_leaves_no_half_of_a_copy(world, place, tmp_path):
    """Nothing but what was whole before is there."""

    def stop(seen=[]):  # noqa: B006 - counts the calls
        seen.append(1)
        if len(seen) == 2:
            raise Stopped("enough")

    with pytest.raises(Stopped):
        exported(world, place, stop=stop)
    assert [name for _, _, files in os.walk(tmp_path / "copies") for name in files] == []
    assert exported(world, place) == {b"weights/best.pt": True}


def test_damage_in_the_store_leaves_no_copy(world, place, tmp_path):
    """What does not open is found before anything is written."""
    from mlsync.errors import Damage

    for info in list(world.store.list("packs/")):
        body = bytearray(world.store.get(info.key, limit_bytes=1 << 20))
        body[len(body) // 3 :: 50] = bytes(len(body[len(body) // 3 :: 50]))
        world.store.delete(info.key)
        world.store.put(info.key, bytes(body))
    with pytest.raises(Damage):
        exported(world, place)
    assert [name for _, _, files in os.walk(tmp_path / "copies") for name in files] == []


def test_paths_are_those_of_the_version(world, monkeypatch):
    """Patterns, directories and names; what is not there, or outside, or broken, is refused."""
    found = chosen_files(world.manifest(), [b"weights", b"*.txt"])
    assert [one.path for one in found] == [b"log.txt", b"weights/best.pt"]
    with pytest.raises(PathMissing):
        chosen_files(world.manifest(), [b"../log.txt"])
    with pytest.raises(PathMissing):
        chosen_files(world.manifest(), [b"nobody"])
    from mlsync.values import Proof

    monkeypatch.setattr(Proof, "is_broken", True)
    with pytest.raises(CheckpointBroken):
        chosen_files(world.manifest(), [b"weights/best.pt"])


def test_copies_in_a_bucket(world, s3_server):
    """Objects under the names of the version, compared by size and sum, and never overwritten without force."""
    from mlsync.store.retry import RetryingStore
    from mlsync.store.s3.plain import PlainS3Store

    bucket = s3_server.make_bucket()
    store = RetryingStore(
        PlainS3Store(f"s3://{bucket}/Models A", StoreOptions(endpoint_url=s3_server.endpoint_url, addressing="path"))
    )
    place = BucketPlace(store)
    assert exported(world, place, b"weights", b"log.txt") == {b"log.txt": True, b"weights/best.pt": True}
    assert exported(world, place, b"weights", b"log.txt") == {b"log.txt": False, b"weights/best.pt": False}
    assert store.get("weights/best.pt", limit_bytes=1 << 20) == CONTENT
    assert store.get("weights/best.pt.sha256", limit_bytes=100) == f"{SUM}  best.pt\n".encode()
    world.write("weights/best.pt", small_checkpoint(2))
    world.backup()
    with pytest.raises(ExportRefused):
        exported(world, place, b"weights")
    assert store.get("weights/best.pt", limit_bytes=1 << 20) == CONTENT
    assert exported(world, place, b"weights", force=True) == {b"weights/best.pt": True}
    assert store.get("weights/best.pt", limit_bytes=1 << 20) == small_checkpoint(2)
    with pytest.raises(ConfigInvalid, match="not safe"):
        exported(world, place, b"odd\n\\name\xff")
    store.close()
    assert RUN
