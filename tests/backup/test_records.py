"""Records of paths without a source or a store: what a version keeps, what it holds back, and what names it."""

from __future__ import annotations

import pytest

from mlsync.backup.files_cache import CachedPath, CacheRow
from mlsync.backup.parents.parent import Parent
from mlsync.backup.record import Record, Status
from mlsync.backup.records import Records
from mlsync.backup.storing.avoided import Avoided
from mlsync.errors import SourceUnreadable
from mlsync.proving.policy import NO_POLICY
from mlsync.repository.encoding.tokens import EntryKind, TroubleKind
from mlsync.repository.manifest import Entry, Trouble
from mlsync.source.cached_file import CachedFile
from mlsync.source.scan import FileStat

PARENT_NUMBER = 7
STEP = Entry(b"step", EntryKind.DIRECTORY, 0o755, 0, 0, 1)


def file(path: bytes, content: bytes = b"old") -> Entry:
    """A file's entry; *content* stands for its digest."""
    return Entry(path, EntryKind.FILE, 0o644, 0, 0, 1, digest=content)


def parent(*entries: Entry, troubles: tuple[Trouble, ...] = ()) -> Parent:
    """A last version of these entries."""
    return Parent(
        PARENT_NUMBER,
        b"",
        is_remembered=True,
        entries={entry.path: entry for entry in entries},
        troubles={trouble.path: trouble for trouble in troubles},
    )


def torn(path: bytes, kept: int) -> Trouble:
    """A trouble of the last version."""
    return Trouble(path, TroubleKind.TORN, "torn", kept)


def records_of(last: Parent, *now: Entry, unreadable: tuple[bytes, ...] = ()) -> Records:
    """The records of a source that has *now*, each as the files cache knows it, and that has unreadable places."""
    read = CachedFile(FileStat(*range(9)), 0, b"", ())
    cached = {entry.path: CachedPath(CacheRow(None), entry, read) for entry in now}
    records = {path: Record(path, None, one, Status.UNCHANGED) for path, one in cached.items()}
    problems = [(path, SourceUnreadable("cannot be read")) for path in unreadable]
    return Records(records, problems, last, Avoided(set()), NO_POLICY)


def held_back(records: Records, members: list[bytes], instead: tuple[Entry, ...], directory: bytes) -> Trouble:
    """Hold these files back, and return the trouble that names them."""
    records.hold_back(members, instead, directory, "not whole yet")
    (trouble,) = (
        record.unit_trouble
        for path in {*members, directory}
        if (record := records.record(path)) is not None and record.unit_trouble is not None
    )
    return trouble


def test_only_what_is_below_an_unreadable_directory_is_kept():
    """A file that was deleted elsewhere stays deleted, also if its path begins with the directory's name."""
    there = [file(b"secret"), file(b"secret/a"), file(b"secret/b/c")]
    deleted = [file(b"gone"), file(b"secret2/a"), file(b"secre")]
    records = records_of(parent(*there, *deleted), unreadable=(b"secret",))
    assert set(records.entries) == {entry.path for entry in there}


def test_what_was_found_in_an_unreadable_directory_is_not_replaced():
    """An entry that the source has now wins over the last version's entry of the same path."""
    records = records_of(parent(file(b"secret"), file(b"secret/a")), file(b"secret", b"new"), unreadable=(b"secret",))
    assert records.entries[b"secret"].digest == b"new"
    assert b"secret/a" in records.entries


def test_files_that_wait_are_due_at_no_moment_unless_one_is_given():
    """A file has an *again_ns* only if ``hold_back`` got one: 0 waits until nobody has written to the file for long."""
    records = records_of(parent(), file(b"step/a"))
    records.hold_back([b"step/a"], (), b"step", "not whole yet")
    assert records.record(b"step/a").again_ns == 0
    records = records_of(parent(), file(b"step/a"))
    records.hold_back([b"step/a"], (), b"step", "not whole yet", 5)
    assert records.record(b"step/a").again_ns == 5


def test_what_is_held_back_with_nothing_in_its_place_keeps_nothing():
    """The trouble of a checkpoint that no version has says *kept* 0, whatever the last version's number is."""
    assert held_back(records_of(parent(), file(b"step/a")), [b"step/a"], (), b"step").kept == 0
    assert held_back(records_of(parent(STEP)), [b"step/a"], (file(b"step/a"),), b"step").kept == PARENT_NUMBER


@pytest.mark.parametrize(
    ("directory", "troubles", "where"),
    [
        (b"step", (), b"step"),
        (b"step", (torn(b"b", 2),), b"step"),
        (b"", (torn(b"b", 2), torn(b"c", 3)), b"b"),
        (b"", (), b"c"),
    ],
    ids=["directory", "directory before a name", "the name that it had", "the first that is held"],
)
def test_a_checkpoint_that_is_held_back_is_named_by(directory, troubles, where):
    """The trouble names the directory, else the file that it named before, else the first file that waits."""
    last = parent(file(b"a"), file(b"b"), troubles=troubles)
    now = (file(b"a"), file(b"b"), file(b"c", b"new"), file(b"d", b"new"))
    assert held_back(records_of(last, *now), [b"a", b"b", b"c", b"d"], (), directory).path == where


def test_a_checkpoint_of_which_nothing_waits_is_named_by_its_last_file():
    """If all remaining files are as the last version has them, the last of them still names the trouble."""
    last = parent(file(b"a"), file(b"b"), file(b"c"))
    assert held_back(records_of(last, file(b"a"), file(b"b")), [b"a", b"b"], (file(b"c"),), b"").path == b"b"
    assert held_back(records_of(last, file(b"a")), [b"a"], (file(b"c"),), b"").path == b"a"


@pytest.mark.parametrize(
    ("troubles", "kept"),
    [
        ((), PARENT_NUMBER),
        ((torn(b"step/a", 2),), 2),
        ((torn(b"step", 3), torn(b"step/a", 2)), 3),
        ((torn(b"step", 3),), 3),
    ],
    ids=["no trouble", "of a file", "of both", "of the directory"],
)
def test_content_that_was_kept_before_is_said_to_be_of_the_version_that_made_it(troubles, kept):
    """The number comes from the directory's trouble in the last version, else from that of a file in it."""
    last = parent(STEP, file(b"step/a"), troubles=troubles)
    assert held_back(records_of(last, file(b"step/a", b"new")), [b"step/a"], (file(b"step/a"),), b"step").kept == kept
