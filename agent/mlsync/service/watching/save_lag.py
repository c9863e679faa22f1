"""How far what is stored of a run, and what is proved, is behind the newest finished save that the watcher saw.

All moments are the agent's own, on the monotonic clock: clocks that are set, and file systems with a clock of their
own, change nothing.
"""

from __future__ import annotations

from typing import Final

from mlsync.app.pass_result import PassResult

# A machine that proves nothing itself has versions that stay pending; each later one stands for those before.
_PENDING_MAX: Final = 256


class SaveLag:
    """Notes which saves passes have covered; its worker's thread writes it, any thread reads it.

    What was there when the agent started, at *now_s*, counts as stored: the first pass is for that.
    """

    def __init__(self, now_s: float) -> None:
        self._stored_s = self._proved_s = now_s
        self._pending: dict[int, float] = {}

    def passed(self, seen_s: float, outcome: PassResult) -> None:
        """Note what a pass came to when *seen_s* was the newest save as it began."""
        self._stored_s = max(self._stored_s, seen_s)
        if outcome.version is not None:
            pending = sorted((self._pending | {outcome.version: self._stored_s}).items())
            self._pending = dict(pending[-_PENDING_MAX:])
        if outcome.proved_version is not None:
            proved = [at_s for version, at_s in self._pending.items() if version <= outcome.proved_version]
            self._proved_s = max(self._proved_s, *proved) if proved else self._proved_s
            self._pending = {one: at_s for one, at_s in self._pending.items() if one > outcome.proved_version}
        if not self._pending:
            self._proved_s = self._stored_s

    def behind_s(self, seen_s: float) -> tuple[float, float]:
        """Return by how many seconds the newest stored save is behind the newest seen one, and the newest proved."""
        return max(0.0, seen_s - self._stored_s), max(0.0, seen_s - self._proved_s)
