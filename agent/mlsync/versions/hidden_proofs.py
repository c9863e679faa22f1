"""Versions of which later proofs are hidden: another proof or the newest manifest names them, and they are not there.

Such a proof may say that a checkpoint is broken, so nothing that asks for a proved version chooses the version.
"""

from __future__ import annotations

import msgspec

from mlsync.monitor import Monitor
from mlsync.repository.later_proof import VersionProofs
from mlsync.repository.proof_links import SeenProofs
from mlsync.repository.repository import Repository


class HiddenProofs(msgspec.Struct, frozen=True):
    """The names of the later proofs of a version that are hidden; *refused* if a checkpoint was broken by one of all.

    A store that shows them again, unchanged, makes the version what it was.
    """

    keys: tuple[str, ...]
    refused: bool = False

    def __str__(self) -> str:
        count = len(self.keys)
        if count == 1:
            what, they = "a later proof that was seen before is missing", "it"
        else:
            what, they = f"{count} later proofs that were seen before are missing", "they"
        if self.refused:
            return f"{what}; {they} or another one said that a checkpoint is broken"
        return f"{what}, and {they} may say that a checkpoint is broken"


def report_hidden(hidden: HiddenProofs, run: str, number: int, monitor: Monitor) -> None:
    """Warn of what is hidden of a version."""
    monitor.notice("warning", f"{run}: version {number}: {hidden}; mlsync check names what is missing")


def hidden_in(
    repository: Repository, run: str, number: int, proofs: VersionProofs, seen: SeenProofs | None
) -> HiddenProofs | None:
    """Return what is hidden of a version; *proofs* were read with the links of *seen*, the newest manifest's word."""
    if not proofs.missing:
        return None
    keys = tuple(repository.later_proof_key(run, number, link) for link in proofs.missing)
    return HiddenProofs(tuple(dict.fromkeys(keys)), seen is not None and seen.refused)
