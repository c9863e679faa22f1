"""What it means for a save that a file was closed or renamed, or that a directory came: by names alone."""

from __future__ import annotations

from mlsync.formats.groups.names import Saved, enclosing, is_named_for_all, saved_by
from mlsync.source.temporary_names import is_temporary

__all__ = ["Saved", "finished_file", "full_directory", "has_temporary_name", "is_one_save", "place_of_save"]


def finished_file(path: bytes) -> Saved | None:
    """Return the save that a finished file belongs to; ``None`` if its name is temporary, or none of checkpoints."""
    return None if has_temporary_name(path) else saved_by(path)


def full_directory(path: bytes, *, is_renamed: bool) -> Saved | None:
    """Return the save that a directory is which came with all that is in it.

    By a rename, writers say that it is complete.
    """
    if has_temporary_name(path) or not (is_renamed or is_named_for_all(path)):
        return None
    return Saved(enclosing(path), has_ended=is_renamed, is_alone=False)


def place_of_save(path: bytes) -> bytes:
    """Return the place of the save that is named by a file or by a directory; itself if no name says more."""
    saved = finished_file(path) or full_directory(path, is_renamed=True)
    return path if saved is None else saved.place


def is_one_save(place: bytes) -> bool:
    """Return whether everything below the directory is one save, by its name."""
    return bool(place) and is_named_for_all(place)


def has_temporary_name(path: bytes) -> bool:
    """Return whether writers use the name for what is not complete yet."""
    return is_temporary(path.rpartition(b"/")[2])
