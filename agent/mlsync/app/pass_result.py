"""The result of one pass over a run, as the agent reports it: a module that the idle agent can afford to import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from mlsync.upkeep.version_seen import VersionSeen


@dataclass(frozen=True, slots=True)
class PassResult:
    """What one pass over a run came to; *version* is the one it made, none if nothing had changed.

    *troubles* are what a person should know although the pass went through: a broken checkpoint whose last good
    content stands, a file that would not settle. *proved_version* is the newest version all of whose checkpoints are
    proved now and were not before the pass: the one that it made, or an older one that was pending. *versions* are
    those that it made or proved, and for the first pass of an agent the newest of the run. With *waits*
    logs changed since the last version, and are left to the next one. *newest_checkpoint_ns* is when the newest
    checkpoint in a version that was made was written, 0 without one. *damaged_count* packs were found damaged.
    """

    run: str
    version: int | None
    proved_version: int | None
    troubles: tuple[str, ...]
    summary: str
    versions: tuple[VersionSeen, ...] = ()
    waits: bool = False
    newest_checkpoint_ns: int = 0
    damaged_count: int = 0

    @classmethod
    def of_json(cls, done: Mapping[str, Any]) -> Self:
        """Return the result whose fields came as JSON from another process."""
        versions = tuple(VersionSeen(**one) for one in done["versions"])
        return cls(**{**done, "troubles": tuple(done["troubles"]), "versions": versions})
