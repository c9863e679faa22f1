"""Extended attributes and ACLs: what a version keeps of them, what it costs, and how they come back."""

from __future__ import annotations

import errno
import os
import struct

import pytest

from flow_parts import World
from mlsync import xattrs

pytestmark = pytest.mark.disk
ACL = "system.posix_acl_access"


def acl(*entries):
    """An ACL as the kernel has it: (tag, permissions, id) each."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


# Its owner, user 12345, the group, the mask, all others.
OF_A_STRANGER = acl((1, 6, 0xFFFFFFFF), (2, 4, 12345), (4, 4, 0xFFFFFFFF), (16, 4, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF))


@pytest.fixture
def world(tmp_path):
    """A run with a file and a directory, on a file system with attributes."""
    world = World(tmp_path)
    world.write("sub/a.bin", b"content")
    try:
        os.setxattr(world.path("sub/a.bin"), "user.note", b"x")
    except OSError:
        pytest.skip("this file system has no extended attributes")
    yield world
    world.close()


def of(path):
    """The attributes that a version would keep."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return xattrs.read(descriptor)[0]
    finally:
        os.close(descriptor)


def test_attributes_of_files_and_directories_come_back(world):
    """Empty values and names beyond ASCII come back too, and a hard link has its file's."""
    os.setxattr(world.path("sub/a.bin"), "user.leer", b"")
    os.setxattr(world.path("sub/a.bin"), "user.größe".encode(), b"\xff\0")
    os.setxattr(world.path("sub"), "user.kind", b"of a directory")
    os.link(world.path("sub/a.bin"), world.path("sub/b.bin"))
    world.backup()
    world.restore()
    wanted = {"user.note": b"x", "user.leer": b"", "user.größe": b"\xff\0"}
    assert world.entry(b"sub/a.bin").room == {"xattrs": wanted}
    assert world.entry(b"sub/b.bin").room is None
    assert of(world.base / "out/sub/a.bin") == of(world.base / "out/sub/b.bin") == wanted
    assert of(world.base / "out/sub") == {"user.kind": b"of a directory"}
    assert world.restored() == world.tree()


def test_an_acl_comes_back_with_the_ids_that_it_has(world):
    """An ACL that names a user who is unknown here is set as it is, and the mode beside it is right."""
    try:
        os.setxattr(world.path("sub/a.bin"), ACL, OF_A_STRANGER)
        os.setxattr(world.path("sub"), "system.posix_acl_default", OF_A_STRANGER)
    except OSError:
        pytest.skip("this file system has no ACLs")
    world.backup()
    world.restore()
    assert of(world.base / "out/sub/a.bin")[ACL] == OF_A_STRANGER
    assert of(world.base / "out/sub") == {"system.posix_acl_default": OF_A_STRANGER}
    mode = os.stat(world.path("sub/a.bin")).st_mode
    assert os.stat(world.base / "out/sub/a.bin").st_mode == mode


@pytest.mark.parametrize("name", ["sub/a.bin", "sub"])
def test_a_changed_attribute_alone_makes_a_version(world, name):
    """The ctime shows it; a second backup has nothing to do."""
    assert world.backup().version == 1
    os.setxattr(world.path(name), "user.note", b"y")
    result = world.backup()
    assert (result.version, result.new_bytes) == (2, 0)
    assert world.entry(name.encode()).room == {"xattrs": {"user.note": b"y"}}
    assert world.backup().version == 0


def test_an_untouched_tree_is_not_asked_for_attributes(world, monkeypatch):
    """A backup of an unchanged directory lists no attributes; a change asks for those of what changed."""
    world.write("log.csv", b"1\n")
    world.backup()
    asked = []
    listed = os.listxattr
    monkeypatch.setattr(os, "listxattr", lambda path: asked.append(path) or listed(path))
    world.backup()
    assert asked == []
    world.append("log.csv", b"2\n")
    assert world.backup().version == 2
    assert len(asked) == 1


def test_what_has_no_room_is_left_out_and_named(world, monkeypatch):
    """ACLs and small attributes stay, a large one is left out with a warning and a note; so is a name of bytes."""
    large = {b"user.huge": bytes(64 << 10), b"user.note": b"x", b"user.\xff": b"1"}
    monkeypatch.setattr(os, "listxattr", lambda _: [os.fsdecode(name) for name in large])
    monkeypatch.setattr(os, "getxattr", lambda _, name: large[os.fsencode(name)])
    assert xattrs.read(0) == ({"user.note": b"x"}, True)
    world.backup()
    assert world.entry(b"sub/a.bin").room == {"xattrs": {"user.note": b"x"}}
    (note,) = world.manifest().root.notes
    assert "sub" in note
    assert [text for severity, text in world.monitor.notices if severity == "warning"] == [f"yolo: {note}"]


def test_names_of_the_system_are_neither_read_nor_set(world, monkeypatch):
    """Capabilities, labels and mlsync's own marks are in no version, and a restore leaves those of the target."""
    names = ["security.capability", "trusted.overlay", "user.mlsync.restored", "system.nfs4_acl", "user.note"]
    monkeypatch.setattr(os, "listxattr", lambda _: names)
    monkeypatch.setattr(os, "getxattr", lambda _, _name: b"x")
    assert xattrs.read(0) == ({"user.note": b"x"}, False)
    removed = []
    monkeypatch.setattr(os, "removexattr", lambda _, name: removed.append(name))
    xattrs.write(0, {})
    assert removed == ["user.note"]


def test_a_restore_over_files_makes_attributes_exact(world):
    """Over files that are there, what differs is set, and what the version has not is removed."""
    world.backup()
    world.restore()
    out = world.base / "out/sub/a.bin"
    os.setxattr(out, "user.note", b"other")
    os.setxattr(out, "user.more", b"1")
    result = world.restore()
    assert result.written_count == 0
    assert of(out) == {"user.note": b"x"}


def test_a_target_without_attributes_is_named_once(world, monkeypatch):
    """The restore succeeds, and one warning says what is missing."""
    world.write("sub/b.bin", b"more")
    os.setxattr(world.path("sub/b.bin"), "user.note", b"x")
    world.backup()
    real = os.setxattr

    def refuse(path, name, value, **options):
        if not os.fsdecode(name).startswith("user.mlsync."):
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        real(path, name, value, **options)

    monkeypatch.setattr(os, "setxattr", refuse)
    world.monitor.notices.clear()
    assert world.restore().written_count == 2
    (warning,) = [text for severity, text in world.monitor.notices if severity == "warning"]
    assert "extended attributes" in warning


def test_a_second_name_elsewhere_keeps_its_attributes(world):
    """A file of the target with another name, which may be anywhere, is made again instead of changed."""
    world.backup()
    world.restore()
    out, elsewhere = world.base / "out/sub/a.bin", world.base / "elsewhere"
    os.link(out, elsewhere)
    os.setxattr(elsewhere, "user.note", b"of another")
    world.restore()
    assert of(elsewhere) == {"user.note": b"of another"}
    assert of(out) == {"user.note": b"x"}
