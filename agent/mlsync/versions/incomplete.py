"""Checkpoints of several files that came into a version although not all of them had come: who restores one is told."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from mlsync.repository.manifest import Entry

#: How a finding in the proof of each of their files begins.
INCOMPLETE: Final = "of a checkpoint that is not whole: "


def incomplete_checkpoints(entries: Iterable[Entry]) -> dict[str, list[bytes]]:
    """Return the paths of *entries* that are of a checkpoint that is not whole, by why it is not."""
    found: dict[str, list[bytes]] = {}
    for entry in entries:
        for finding in entry.proof.findings if entry.proof is not None else ():
            if finding.what.startswith(INCOMPLETE):
                found.setdefault(finding.what.removeprefix(INCOMPLETE), []).append(entry.path)
    return found
