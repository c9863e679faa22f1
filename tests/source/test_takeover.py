"""Notes that a directory may go on with a run."""

from __future__ import annotations

import errno
import os

import pytest

from mlsync.errors import StateDamaged, StateFull
from mlsync.source.takeover import NewestWriter, allow_takeover, end_takeover, may_take_over


def test_a_note_is_of_one_run_and_one_directory_until_it_is_dropped(tmp_path):
    """Nothing but that pair is handed over; noting twice and dropping twice is fine."""
    state = tmp_path / "state"
    assert not may_take_over(state, "run", b"/d")
    allow_takeover(state, "run", b"/d", 3)
    allow_takeover(state, "run", b"/d", 4)
    assert [may_take_over(state, *pair) for pair in (("run", b"/d"), ("run", b"/e"), ("b", b"/d"))] == [
        True,
        False,
        False,
    ]
    (note,) = (state / "handed-over").iterdir()
    assert note.stat().st_mode & 0o777 == 0o600
    end_takeover(state, "run", b"/d")
    end_takeover(state, "run", b"/d")
    assert not may_take_over(state, "run", b"/d")


def test_a_directory_is_known_by_where_it_really_is(tmp_path):
    """A way through a symlink leads to the same directory."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    allow_takeover(tmp_path, "run", os.fsencode(tmp_path / "link" / "d"), 1)
    assert may_take_over(tmp_path, "run", os.fsencode(tmp_path / "disk" / "d"))


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, StateFull), (errno.EROFS, StateDamaged)])
def test_what_cannot_be_noted_is_the_states_error(tmp_path, monkeypatch, number, kind):
    """It names the place, and leaves no half of a note behind."""

    def fail(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(kind, match="handed-over"):
        allow_takeover(tmp_path, "run", b"/d", 1)
    assert list((tmp_path / "handed-over").iterdir()) == []


def test_a_note_ends_with_a_version_of_somebody_else(tmp_path):
    """The version that was newest and later ones of its writer are followed, those of a third one are not."""
    seen = NewestWriter(4, b"a" * 16)
    allow_takeover(tmp_path, "run", b"/d", 2, seen)
    found = [(4, b"a"), (3, b"x"), (7, b"a"), (5, b"b")]
    may = [may_take_over(tmp_path, "run", b"/d", NewestWriter(number, letter * 16)) for number, letter in found]
    assert may == [True, True, True, False]
    assert not may_take_over(tmp_path, "other", b"/d", seen)


@pytest.mark.parametrize("content", [None, b"", b"[1]", b'{"newest": "x", "writer": 3}', b"\xff", b"[" * 9999])
def test_a_note_that_says_nothing_of_the_newest_is_for_any(tmp_path, content):
    """That of --take-over, of an earlier mlsync, or a damaged one counts by being there."""
    allow_takeover(tmp_path, "run", b"/d", 0)
    if content is not None:
        next((tmp_path / "handed-over").iterdir()).write_bytes(content)
    assert may_take_over(tmp_path, "run", b"/d", NewestWriter(9, b"b" * 16))
