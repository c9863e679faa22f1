"""What of the runs is worth to be told, as long as it lasts: pure functions of what the agent knows already."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from mlsync.service.status import RunStatus
from mlsync.tell.event import NoticeEvent
from mlsync.tell.onsets import Condition

#: What may pass by itself is told after so long.
AWAY_S: Final = 300.0
TORN_S: Final = 600.0
BEHIND_S: Final = 1800.0
PENDING_S: Final = 3600.0
#: A disk is nearly full with less than both.
FREE_SHARE: Final = 0.05
FREE_BYTES: Final = 20 << 30
_STORE_KINDS: Final = frozenset(
    {"StoreUnavailable", "StoreDenied", "StoreFull", "StoreBroken", "RepositoryMissing", "KeyServiceUnavailable"}
)
_KINDS: Final = frozenset({"store_away", "failing", "pending", "behind", "silence", "broken", "torn"})
_TROUBLE: Final = re.compile(r"(.+): (torn|broken|unreadable): ([^;]*)(?:; version (\d+)'s content is kept|;|$)")


class Conditions:
    """Looks at the runs again and again; remembers since when a file is unfinished.

    A change may wait for *behind_s*; where this machine *proves* nothing, others are waited for without a word.
    """

    def __init__(self, host: str, *, behind_s: float = BEHIND_S, proves: bool = True) -> None:
        self._host = host
        self._behind_s = behind_s
        self._proves = proves
        self._torn_since_s: dict[str, float] = {}

    def of(self, runs: Sequence[RunStatus]) -> list[Condition]:
        """Return what holds now."""
        found = [one for run in runs for one in self._of_run(run)]
        seen = {_key("torn", run.run, path) for run in runs for path, kind, _, _ in _troubles(run) if kind == "torn"}
        self._torn_since_s = {key: since_s for key, since_s in self._torn_since_s.items() if key in seen}
        return found

    def _of_run(self, run: RunStatus) -> Iterator[Condition]:
        failing = run.record.failing
        if failing is not None and run.now_s - failing.since_s >= AWAY_S:
            kind = "store_away" if failing.kind in _STORE_KINDS else "failing"
            facts: dict[str, float | str] = {"what": failing.kind, "status": failing.status}
            yield self._condition(kind, run, facts | {"since_s": run.now_s - failing.since_s})
        yield from self._of_proofs(run)
        if run.no_checkpoint_s is not None:
            facts = {"since_s": run.no_checkpoint_s, "usual_s": run.record.usual_interval_s() or 0.0}
            yield self._condition("silence", run, facts)
        for path, kind, why, kept in _troubles(run):
            facts = {"path": path, "what": why} | ({"kept": int(kept)} if kept else {})
            if kind == "broken":
                yield self._condition("broken", run, facts, path)
            elif kind == "torn":
                since_s = self._torn_since_s.setdefault(_key("torn", run.run, path), run.now_s)
                if run.now_s - since_s >= TORN_S:
                    yield self._condition("torn", run, facts | {"since_s": run.now_s - since_s}, path)

    def _of_proofs(self, run: RunStatus) -> Iterator[Condition]:
        if run.record.failing is not None:
            return
        since_s = run.record.pending_since_s
        if self._proves and since_s is not None and run.now_s - since_s >= PENDING_S:
            yield self._condition("pending", run, {"since_s": run.now_s - since_s})
        elif run.changed_s is not None and run.now_s - run.changed_s >= self._behind_s:
            yield self._condition("behind", run, {"since_s": run.now_s - run.changed_s})

    def _condition(self, kind: str, run: RunStatus, facts: Mapping[str, float | str], path: str = "") -> Condition:
        event = NoticeEvent(kind, run.run, run.state.last_version, facts, run.now_s, host=self._host)
        return Condition(_key(kind, run.run, path), event)


def knows_of(key: str, runs: Sequence[RunStatus]) -> bool:
    """Return whether a look at the runs can tell that what is called *key* has ended.

    After a restart nothing is known before the first pass, and a store that failed a moment ago has not come back.
    """
    kind, run_name, *_ = (*key.split("\0"), "")
    if kind not in _KINDS:
        return False
    run = next((one for one in runs if one.run == run_name), None)
    if run is None or not run.record.counts.passed:
        return False
    return run.record.failing is None or kind not in ("store_away", "failing", "pending", "behind")


def full_disks(directories: Mapping[str, Path], host: str) -> list[Condition]:
    """Return which of the named directories lie on a disk that is nearly full; it may wait for a disk that hangs."""
    found = []
    for name, directory in directories.items():
        try:
            info = os.statvfs(directory)
        except OSError:
            continue
        free_bytes, all_bytes = info.f_bavail * info.f_frsize, info.f_blocks * info.f_frsize
        if all_bytes and free_bytes < min(FREE_BYTES, FREE_SHARE * all_bytes):
            facts: dict[str, float | str] = {"disk": name, "free_bytes": free_bytes}
            found.append(
                Condition(_key("disk_full", name), NoticeEvent("disk_full", "", None, facts, time.time(), host=host))
            )
    return found


def _key(kind: str, run: str, path: str = "") -> str:
    return f"{kind}\0{run}\0{path}"


def _troubles(run: RunStatus) -> Iterator[tuple[str, str, str, str]]:
    """Yield path, kind, reason and the kept version of each file whose content is not in the last version."""
    for trouble in run.state.troubles:
        if (found := _TROUBLE.match(trouble)) is not None:
            yield found[1], found[2], found[3], found[4] or ""
