"""Checkpoints of several files that a version holds although some of their files are missing: a restore warns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from mlsync.repository.manifest import Entry

#: The beginning of a finding in the proof of each of their files; versions hold it, so it may never change.
INCOMPLETE: Final = "of a checkpoint that is not whole: "


def incomplete_checkpoints(entries: Iterable[Entry]) -> dict[str, list[bytes]]:
    """Return the paths of the files of incomplete checkpoints, by the reason why each is incomplete."""
    found: dict[str, list[bytes]] = {}
    for entry in entries:
        for finding in entry.proof.findings if entry.proof is not None else ():
            if finding.what.startswith(INCOMPLETE):
                found.setdefault(finding.what.removeprefix(INCOMPLETE), []).append(entry.path)
    return found
