"""When uploads that were cut off are looked for, and what is said of those that were finished or dropped."""

from __future__ import annotations

import stat
from types import SimpleNamespace

import pytest

from doubles.recording_monitor import RecordingMonitor
from mlsync.backup.storing.uploads import drop_stale_uploads, resume_uploads
from mlsync.codec.compression import Coding
from mlsync.errors import StoreBroken, StoreDenied
from mlsync.repository.manifest import ChunkRef

DAY_S = 86_400
NOW_S = 1_800_000_000.0


class Stale:
    """A repository whose store has *count* uploads that nobody went on with, and notes for which age it was asked."""

    def __init__(self, count: int = 0) -> None:
        self.ages_s: list[float] = []
        self.store = SimpleNamespace(remove_stale_uploads=self._remove)
        self._count = count

    def _remove(self, age_s: float) -> int:
        self.ages_s.append(age_s)
        return self._count


def looks(directory, *moments_s: float) -> int:
    """How many of the moments, after a first look, are ones at which the store is asked."""
    stale = Stale()
    for now_s in (NOW_S, *moments_s):
        drop_stale_uploads(directory, stale, RecordingMonitor(), now_s)
    return len(stale.ages_s) - 1


@pytest.mark.parametrize(("later_s", "count"), [(0, 0), (DAY_S - 1, 0), (DAY_S, 1), (-1, 1)])
def test_a_look_is_due_once_a_day(tmp_path, later_s, count):
    """A day after the last look the store is asked again, and not a second earlier; a clock set back makes it due."""
    assert looks(tmp_path, NOW_S + later_s) == count


def test_what_is_three_days_old_is_dropped(tmp_path):
    """Uploads are left alone for three days."""
    stale = Stale()
    drop_stale_uploads(tmp_path, stale, RecordingMonitor(), NOW_S)
    assert stale.ages_s == [3 * DAY_S]


def test_the_moment_of_the_look_is_the_users_own(tmp_path):
    """The note of the last look and a directory that is made for it are closed to others, and may be there already."""
    directory = tmp_path / "deep" / "uploads"
    for day in range(2):
        drop_stale_uploads(directory, Stale(), RecordingMonitor(), NOW_S + day * DAY_S)
    [note] = directory.iterdir()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(note.stat().st_mode) == 0o600
    assert note.stat().st_mtime == NOW_S + DAY_S


@pytest.mark.parametrize(("count", "said"), [(0, 0), (1, 1)])
def test_what_was_dropped_is_said(tmp_path, count, said):
    """A look that finds nothing says nothing, and one that drops uploads says how many."""
    monitor = RecordingMonitor()
    drop_stale_uploads(tmp_path, Stale(count), monitor, NOW_S)
    assert [str(count) in text for _, text in monitor.notices] == [True] * said


class Journal:
    """Notes of uploads, by how much of each was sent."""

    def __init__(self, *sent_bytes: int) -> None:
        self._noted = [SimpleNamespace(pack_id=bytes([n]), sent_bytes=sent) for n, sent in enumerate(sent_bytes)]
        self.left = {noted.pack_id for noted in self._noted}

    def interrupted(self):
        """Give the notes."""
        return list(self._noted)

    def forget(self, pack_id: bytes) -> None:
        """Forget one."""
        self.left.discard(pack_id)


def a_ref(base: ChunkRef | None = None) -> ChunkRef:
    """Return a reference to a chunk."""
    coding = Coding.RAW if base is None else Coding.DIFFERENCE
    return ChunkRef(bytes(32) if base is None else bytes([1] * 32), bytes(16), 0, 48, 20, 4, coding, base=base)


def finished(journal: Journal, *lost: int) -> tuple[list[list[ChunkRef]], list[str]]:
    """Finish what the journal has, all but the *lost* uploads; return what was remembered and what was said."""
    remembered: list[list[ChunkRef]] = []
    monitor = RecordingMonitor()
    refs = [a_ref(), a_ref(a_ref())]
    repository = SimpleNamespace(finish_pack=lambda noted, _tell: [] if noted.pack_id[0] in lost else refs)
    resume_uploads(journal, repository, remembered.append, monitor)
    assert not journal.left
    return remembered, [text for _, text in monitor.notices]


def test_uploads_that_were_finished_are_counted():
    """What is said is how many uploads were finished, of which what is no difference need not be sent again."""
    assert finished(Journal(3 << 20)) == (
        [[a_ref()]],
        ["finished 1 upload that was cut off: 3 MiB need not be sent again"],
    )
    assert finished(Journal(3 << 20, 2 << 20, 9 << 20), 2) == (
        [[a_ref()], [a_ref()]],
        ["finished 2 uploads that were cut off: 5 MiB need not be sent again"],
    )


def test_uploads_that_are_gone_are_nothing_to_tell():
    """An upload that the store has lost is sent anew without a word, unless somebody can do something about it."""
    assert finished(Journal(3 << 20), 0) == ([], [])
    monitor = RecordingMonitor()
    errors = [StoreBroken("lost", where="x"), StoreBroken("denied", where="x", advice="allow it")]

    def lose(_noted, tell):
        tell(errors.pop(0))
        return []

    resume_uploads(Journal(1, 1), SimpleNamespace(finish_pack=lose), [].append, monitor)
    assert [severity for severity, _ in monitor.notices] == ["warning"]
    assert "denied" in monitor.notices[0][1]


def test_a_look_that_is_denied_costs_no_backup(tmp_path):
    """What the store says against the look is said, and the next look comes a day later all the same."""
    monitor = RecordingMonitor()
    asked = []

    def deny(age_s):
        asked.append(age_s)
        raise StoreDenied("not yours to list", where="x")

    for now_s in (NOW_S, NOW_S + DAY_S - 1):
        drop_stale_uploads(tmp_path, SimpleNamespace(store=SimpleNamespace(remove_stale_uploads=deny)), monitor, now_s)
    assert len(asked) == len(monitor.notices) == 1
    assert "not yours to list" in monitor.notices[0][1]


def test_a_look_that_cannot_be_noted_costs_no_backup(tmp_path):
    """Where the note of the look cannot be written, the look is made again the next time."""
    (tmp_path / "uploads").write_bytes(b"a file in the directory's place")
    assert looks(tmp_path / "uploads", NOW_S) == 1
