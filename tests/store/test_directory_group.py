"""What a group's directory repository is, with users that have numbers of their own."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

import unprivileged
from members import ANNA, BERT, GROUP, GROUPS_MODES, ROOT, STRANGER, modes_below, run, shared_place
from mlsync import errors
from mlsync.store.directory import create_only
from mlsync.store.directory.store import DirectoryStore

pytestmark = pytest.mark.slow

PROGRAM = """
import os, signal, sys
from pathlib import Path
from mlsync import errors
from mlsync.store.directory.store import DirectoryStore
try:
    store = DirectoryStore(Path(sys.argv[1]))
    exec(sys.argv[2])
except errors.Error as error:
    sys.exit(f"{error.exit_code} {error}")
"""


@pytest.fixture(scope="module")
def python():
    """A Python that every user can start."""
    return unprivileged.python_for_all()


@pytest.fixture
def root(python):
    """A group's repository, as root makes it."""
    with shared_place() as place:
        root = place / "runs"
        store = DirectoryStore(root, create=True, group=GROUP)
        store.put("repository", b"")
        store.close()
        yield root


@pytest.fixture
def do(python, root):
    """Has a user run code with ``store``, and gives what it wrote to stderr: nothing if all went well."""

    def run_code(uid, code, umask=0o077):
        return run(uid, [python, "-c", PROGRAM, root, code], umask=umask).stderr.strip()

    return run_code


@pytest.mark.parametrize("umask", [0o077, 0o022, 0o002])
def test_members_and_root_read_and_add_whatever_the_umask(do, root, umask):
    """Each reads what the others wrote and adds beside it; every file is 0440, every directory 2770, of the group."""
    users = (ANNA, BERT, ROOT)
    for uid in users:
        code = (
            f"store.put('packs/ab/{uid}', b'x'); store.put('packs/c{uid % 10}/y', b'x');"
            f"u = store.upload('packs/ab/u{uid}'); u.write(0, bytes(3 << 20)); u.finish(3 << 20)"
        )
        assert do(uid, code, umask) == ""
    read = "assert len([store.get(found.key, limit_bytes=4 << 20) for found in store.list('packs/')]) == 9"
    for uid in users:
        assert do(uid, read) == ""
    assert modes_below(root) == GROUPS_MODES
    assert list((root / "tmp").iterdir()) == []


def test_a_stranger_gets_nothing(do):
    """Who is not in the group is refused, and told whose repository it is."""
    said = do(STRANGER, "list(store.list(''))")
    assert said.startswith("72 ")
    assert f"group {GROUP}" in said


def test_a_second_user_is_told_how_to_share_a_repository(do, root):
    """In a repository of one user's another one learns whose it is, and with which commands it becomes a group's."""
    root.chmod(0o700)
    said = do(BERT, "store.get('repository', limit_bytes=1)")
    assert said.startswith("72 ")
    assert "it is root's alone" in said
    assert f"chgrp -R GROUP {root} && chmod -R g+rwX {root} && find {root} -type d -exec chmod g+s {{}} +" in said


def test_a_repository_becomes_a_groups_by_the_commands_that_a_denial_names(do, python):
    """After chgrp, chmod and find with g+s every member reads what one user made alone, and adds to it."""
    with shared_place() as place:
        root = place / "anna's runs"
        root.mkdir(mode=0o700)
        os.chown(root, ANNA, ANNA)
        code = (
            "os.umask(0o077); s = DirectoryStore(Path({0!r}), create=True);"
            "s.put('repository', b''); s.put('packs/ab/x', b'x')"
        )
        assert do(ANNA, code.format(str(root))) == ""
        said = run(BERT, [python, "-c", PROGRAM, root, "store.stat('repository')"]).stderr
        commands = said[said.index("chgrp") : said.rindex(")")].replace("GROUP", str(GROUP))
        assert run(ANNA, ["/bin/sh", "-c", commands]).stderr == ""
        code = "assert store.get('packs/ab/x', limit_bytes=1) == b'x'; store.put('packs/ab/y', b'y')"
        assert run(BERT, [python, "-c", PROGRAM, root, code]).stderr == ""
        assert modes_below(root) == {*GROUPS_MODES, ("file", "0660", GROUP)}


def test_a_member_is_told_of_what_is_closed_to_the_group(do, root):
    """Something in a group's repository that another user closed is named, with the commands that open it."""
    assert do(ANNA, "store.put('packs/ab/x', b'x'); os.chmod(store._root.path / 'packs/ab/x', 0)") == ""
    said = do(BERT, "store.get('packs/ab/x', limit_bytes=1)")
    assert f"{root}/packs/ab/x (something in it is not open to group {GROUP}; its owner or root: chgrp -R" in said


def test_what_another_user_made_in_a_users_own_repository_is_told_so(do, root):
    """After root wrote into a user's repository, the user is told to have it back by chown."""
    os.chown(root, ANNA, ANNA)
    root.chmod(0o700)
    (root / "repository").chmod(0o600)
    assert f"as root: chown -R {ANNA} {root})" in do(ANNA, "store.get('repository', limit_bytes=1)")


def test_a_closed_directory_above_is_named(do, root):
    """Who cannot even reach the repository is told which directory above it is closed, and whose that is."""
    root.parent.chmod(0o700)
    assert f"({root.parent} of root and group root is closed to this user, its mode is 0700)" in do(ANNA, "")


def test_a_member_deletes_what_another_wrote(do, root):
    """Every member may delete every object."""
    assert do(ANNA, "store.put('packs/ab/x', b'x')") == ""
    assert do(BERT, "store.delete('packs/ab/x')") == ""
    assert list((root / "packs" / "ab").iterdir()) == []


CRASHING = (
    "u = store.upload('packs/ab/crashed'); u.write(0, bytes(3 << 20)); {more}os.kill(os.getpid(), signal.SIGKILL)"
)


@pytest.mark.parametrize("more", ["", "os.fchmod(u._file.fd, 0o440); "])
def test_what_a_killed_member_left_stops_nobody_and_goes_after_an_hour(do, root, more):
    """Another member writes beside an upload that was cut off at any moment, and removes it once it is old."""
    assert do(ANNA, CRASHING.format(more=more)) == ""
    (left,) = (root / "tmp").iterdir()
    assert do(BERT, "store.put('packs/ab/x', b'x')") == ""
    assert left.exists()
    os.utime(left, (0, 0))
    assert do(BERT, "store.put('packs/ab/y', b'x')") == ""
    assert not left.exists()


def test_a_directory_that_was_being_made_goes_after_an_hour(do, root):
    """An empty directory that a killed writer left in tmp is removed as its files are; one with content stays."""
    for name, is_full in (("0" * 32, False), ("1" * 32, True)):
        (root / "tmp" / name).mkdir()
        if is_full:
            (root / "tmp" / name / "x").mkdir()
        os.utime(root / "tmp" / name, (0, 0))
        os.chown(root / "tmp" / name, ANNA, GROUP)
    assert do(BERT, "store.get('repository', limit_bytes=1)") == ""
    assert [path.name for path in (root / "tmp").iterdir()] == ["1" * 32]


@pytest.fixture
def groups_store(root):
    """The group's store, opened by root."""
    store = DirectoryStore(root)
    yield store
    store.close()


def test_a_directory_has_its_mode_before_it_has_its_name(groups_store, root, monkeypatch):
    """Under a umask of 077 no other member ever finds a directory of the repository closed."""
    seen = []
    real = create_only._renameat2()

    def rename(*arguments):
        seen.extend(path.stat().st_mode & 0o7777 for path in (root / "tmp").iterdir() if path.is_dir())
        return real(*arguments)

    monkeypatch.setattr(create_only, "_renameat2", lambda: rename)
    before = os.umask(0o077)
    try:
        groups_store.put("packs/ab/x", b"x")
    finally:
        os.umask(before)
    assert seen == [0o2770, 0o2770]


def test_without_a_rename_that_refuses_a_group_shares_the_lock(groups_store, root, monkeypatch):
    """On file systems that need it, the lock file is writable for all members."""
    monkeypatch.setattr(create_only, "_renameat2", lambda: None)
    before = os.umask(0o077)
    try:
        groups_store.put("packs/ab/x", b"x")
        groups_store.put("packs/ab/y", b"y")
    finally:
        os.umask(before)
    assert modes_below(root) == {*GROUPS_MODES, ("file", "0660", GROUP)}
    assert [found.key for found in groups_store.list("packs/")] == ["packs/ab/x", "packs/ab/y"]


def test_a_filter_that_forbids_the_set_group_id_bit_costs_only_that_bit(groups_store, root, monkeypatch):
    """Under systemd's RestrictSUIDSGID= a directory may lack the bit, and what is made in it has the group anyway."""
    real = os.fchmod

    def filtered(descriptor, mode):
        if mode & stat.S_ISGID:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        real(descriptor, mode)

    monkeypatch.setattr(os, "fchmod", filtered)
    before = os.umask(0o077)
    try:
        groups_store.put("packs/ab/x", b"x")
    finally:
        os.umask(before)
    assert modes_below(root / "packs") == {("directory", "0770", GROUP), ("file", "0440", GROUP)}


def test_a_file_system_that_gives_the_users_group_makes_no_difference(groups_store, root):
    """Where new files do not take the directory's group, they are given it."""
    (root / "tmp").chmod(0o770)
    groups_store.put("packs/ab/x", b"x")
    assert modes_below(root / "packs") == GROUPS_MODES


@pytest.mark.parametrize("mode", [0o770, 0o2750, 0o2700, 0o775])
def test_only_the_bit_with_all_rights_of_the_group_makes_it_a_groups(root, mode):
    """Without the set-group-ID bit, or with fewer rights of the group, new files are their user's alone."""
    root.chmod(mode)
    store = DirectoryStore(root)
    store.put("packs/ab/x", b"x")
    store.close()
    assert (root / "packs/ab/x").stat().st_mode & 0o7777 == 0o600
    assert (root / "packs").stat().st_mode & 0o777 == 0o700


def test_what_is_made_above_a_groups_repository_lets_members_pass_and_no_more(python):
    """Missing parents get the group and 0750: members reach the repository, and cannot rename it."""
    with shared_place() as place:
        DirectoryStore(place / "a" / "b" / "runs", create=True, group=GROUP).close()
        assert modes_below(place / "a") == {("directory", "0750", GROUP), ("directory", "2770", GROUP)}


def test_a_directory_that_is_the_groups_already_stays_as_it_is(root, do):
    """A member makes a repository in a directory that root gave to the group, and changes nothing about that."""
    root.chmod(0o3775)
    code = "DirectoryStore(store._root.path, create=True, group=store._root.access.group).close()"
    assert do(ANNA, code) == ""
    assert root.stat().st_mode & 0o7777 == 0o3775


def do_nothing(*_):
    """As mounts that have one mode for all and say nothing."""


def refuse(*_):
    """As mounts that have one mode for all and say so."""
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.mark.parametrize("fchmod", [do_nothing, refuse])
def test_a_file_system_without_the_bit_is_refused(tmp_path, monkeypatch, fchmod):
    """Where the root does not keep the group and the bit, making a group's repository fails and says why."""
    monkeypatch.setattr(os, "fchmod", fchmod)
    with pytest.raises(errors.StoreDenied, match="set-group-ID"):
        DirectoryStore(Path(tmp_path) / "runs", create=True, group=os.getegid())
