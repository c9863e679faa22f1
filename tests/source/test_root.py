"""Whom root believes about the directory that it is to read, and which files in it."""

from __future__ import annotations

import grp
import os
import pwd

import pytest
from source_parts import watched

from mlsync.errors import SourceMissing, SourceUnreadable, SourceUntrusted
from mlsync.source.reading import SourceFile
from mlsync.source.root import Root, reads_everything
from mlsync.source.scan import scan

ALICE, BOB = 65_534, 65_533

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes owners")


def directory(path, owner=0, mode=0o755, group=0):
    """A directory of that owner and mode; below it the name goes on."""
    path.mkdir()
    os.chown(path, owner, group)
    path.chmod(mode)
    return path


def link(path, target, owner=0):
    """A symbolic link of that owner."""
    path.symlink_to(target)
    os.chown(path, owner, owner, follow_symlinks=False)
    return path


@needs_root
def test_a_users_directory_is_read(tmp_path):
    """What lies in a user's home is read, whose own it is, also through links that root or he made."""
    home = directory(tmp_path / "alice", ALICE)
    run = directory(home / "run", ALICE, 0o777)
    assert watched(run).owner == ALICE
    assert watched(link(home / "mine", "run", ALICE)).owner == ALICE
    assert watched(link(tmp_path / "roots", run)).owner == ALICE
    assert watched(link(tmp_path / "through", "alice/../alice/mine")).owner == ALICE
    # Of a container that runs as root in the user's home.
    assert watched(directory(home / "made by root")).owner == 0


@needs_root
def test_a_link_of_a_users_to_what_is_not_his_is_refused(tmp_path):
    """A user's link leads root into no directory of another one's, wherever on the way it stands."""
    secret = directory(tmp_path / "secret", 0, 0o700)
    bobs = directory(tmp_path / "bobs", BOB, 0o700)
    home = directory(tmp_path / "alice", ALICE)
    (secret / "below").mkdir()
    link(home / "run", secret, ALICE)
    link(home / "bobs", bobs, ALICE)
    for way in (home / "run", home / "run/below", home / "bobs"):
        with pytest.raises(SourceUntrusted, match=f"user {ALICE} could turn the symbolic link"):
            watched(way)


@needs_root
@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_a_way_that_others_can_change_is_refused(tmp_path, mode):
    """A directory on the way in which everybody, or a group, may swap names is refused, unless it is sticky."""
    place = directory(tmp_path / "shared", BOB, mode, BOB)
    run = directory(place / "run", ALICE)
    with pytest.raises(SourceUntrusted, match=r"others than its owner may change the directory .*/shared"):
        watched(run)
    place.chmod(mode | 0o1000)
    assert watched(run).owner == ALICE
    link(place / "turned", tmp_path, ALICE)
    with pytest.raises(SourceUntrusted, match="could turn the symbolic link"):
        watched(place / "turned")


@needs_root
def test_the_group_that_a_user_has_for_himself_is_no_other(tmp_path, monkeypatch):
    """Homes of mode 0775 are usual where each user has a group of his own; a group with others in it is not that."""
    home = directory(tmp_path / "alice", ALICE, 0o775, 4711)
    run = directory(home / "run", ALICE)
    user = pwd.struct_passwd(("alice", "x", ALICE, 4711, "", "", ""))
    monkeypatch.setattr(pwd, "getpwuid", lambda _: user)
    monkeypatch.setattr(grp, "getgrgid", lambda gid: grp.struct_group(("alice", "x", gid, [])))
    assert watched(run).owner == ALICE
    monkeypatch.setattr(grp, "getgrgid", lambda gid: grp.struct_group(("alice", "x", gid, ["bob"])))
    with pytest.raises(SourceUntrusted):
        watched(run)


@needs_root
def test_an_ordinary_user_is_asked_nothing(tmp_path, open_to_all, unprivileged):
    """Who may read what he may read anyway is led wherever he likes."""
    os.chmod(open_to_all, 0o777)
    os.mkdir(f"{open_to_all}/run")
    os.symlink("run", f"{open_to_all}/link")
    os.chown(f"{open_to_all}/link", BOB, BOB, follow_symlinks=False)
    with unprivileged():
        assert not reads_everything()
        assert watched(f"{open_to_all}/link").owner == 0


def test_links_in_a_circle_and_files_are_no_directory(tmp_path):
    """What leads nowhere is a directory that is not there."""
    link(tmp_path / "a", "b", os.geteuid())
    link(tmp_path / "b", "a", os.geteuid())
    (tmp_path / "file").write_bytes(b"")
    for name in ("a", "file", "file/below", "gone"):
        with pytest.raises(SourceMissing):
            watched(tmp_path / name)


@needs_root
def test_a_relative_name_is_walked_from_where_the_process_is(tmp_path, monkeypatch):
    """A name that does not begin with a slash is looked at all the same."""
    monkeypatch.chdir(directory(tmp_path / "here"))
    directory(tmp_path / "here/run", ALICE)
    assert watched("run").owner == ALICE
    assert watched(".").owner == 0


def test_no_descriptor_is_left(tmp_path):
    """Whatever comes of it, what was opened on the way is closed."""
    (tmp_path / "run").mkdir()
    link(tmp_path / "link", "run", os.geteuid())
    before = len(os.listdir("/proc/self/fd"))
    Root.open_watched(os.fsencode(tmp_path / "link")).close()
    for name in ("gone", "link/gone"):
        with pytest.raises(SourceMissing):
            Root.open_watched(os.fsencode(tmp_path / name))
    assert len(os.listdir("/proc/self/fd")) == before


@needs_root
def test_root_does_not_read_the_second_name_of_anothers_secret(tmp_path):
    """A file that its owner keeps to himself is not read where somebody else gave it a name; others are."""
    run = directory(tmp_path / "run", ALICE)
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    secret.chmod(0o600)
    os.link(secret, run / "linked")
    (run / "alices").write_bytes(b"a")
    os.chown(run / "alices", ALICE, ALICE)
    (run / "alices").chmod(0o600)
    os.link(run / "alices", run / "again")
    root = watched(run)
    found = {one.path: one for one in scan(root).found}
    with pytest.raises(SourceUnreadable, match="second name of a file that user 0 keeps"):
        SourceFile.open(root, found[b"linked"])
    SourceFile.open(root, found[b"alices"]).close()
    secret.chmod(0o644)
    SourceFile.open(root, found[b"linked"]).close()


def test_the_directory_is_pinned(tmp_path):
    """Once it is open, what its name leads to later is not read."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "a").write_bytes(b"mine")
    root = watched(run)
    [found] = scan(root).found
    run.rename(tmp_path / "moved")
    run.mkdir()
    (run / "b").write_bytes(b"another's")
    assert [one.path for one in scan(root).found] == [b"a"]
    with SourceFile.open(root, found) as file:
        assert file.read_at(0, 4) == b"mine"
        file.confirm()
