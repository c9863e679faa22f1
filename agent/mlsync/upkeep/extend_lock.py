"""Extend the locks of what versions still use, before they end: a new object is locked for one period only.

Each object takes one question, and a change if less than half of the period is left. Packs that no version names are
left out: their locks end, and prune can remove them. What is forgotten counts as used until prune has removed it,
because a node that was taken over can forget versions too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from mlsync.errors import FormatUnsupported, NotFound, Stopped, StoreError, StoreUnavailable
from mlsync.monitor import Monitor, Task
from mlsync.repository import names
from mlsync.repository.repository import ListedVersion, Repository
from mlsync.store.base import ObjectInfo
from mlsync.upkeep.moved_packs import led_to
from mlsync.upkeep.prune_sight import Sight, VersionPlace, list_places, list_versions, read_versions

# The share of the period that must be left. Whoever does this has the rest of it to come around.
LEFT_SHARE: Final = 0.5
# A clock that is behind the store's must not make old objects young.
_AHEAD_MAX_S: Final = 86400.0
_AT_ONCE: Final = 16
_BATCH_COUNT: Final = 1000
# Tombstones are for what goes. What is left are all objects of ours, wherever they are.
_KEPT: Final = tuple(prefix for prefix in names.PREFIXES if prefix not in (names.PACKS, names.TOMBSTONES))
# So many refusals without anything between them that worked are no matter of single objects.
_DENIED_MAX: Final = 10


@dataclass(slots=True)
class Extended:
    """What was done: how many objects are in use, were asked about, and were locked for another period.

    *denied* are objects whose lock the store does not let be extended, with its words, of which only the first few are
    kept. *lost* are packs that versions name and that are not there; *unread* versions that do not open, so that every
    pack counts as used.
    """

    used_count: int = 0
    asked_count: int = 0
    extended_count: int = 0
    denied_count: int = 0
    gave_up: bool = False
    denied: dict[str, StoreError] = field(default_factory=dict)
    lost: set[bytes] = field(default_factory=set)
    unread: list[str] = field(default_factory=list)

    @property
    def request_count(self) -> int:
        """How many requests it took, besides listings and what manifests took."""
        return self.asked_count + self.extended_count + self.denied_count


def extend_locks(
    repository: Repository,
    monitor: Monitor,
    period_s: float,
    *,
    skips_young: bool = False,
    stop: Callable[[], bool] = lambda: False,
    wall: Callable[[], float] = time.time,
) -> Extended:
    """Lock what versions use for *period_s* from now on, if less than half of that is left; raise ``Stopped``.

    With *skips_young* nothing is asked about objects that were created, and locked, less than half a period ago.
    """
    return _Extension(repository, monitor, period_s, skips_young=skips_young, stop=stop, wall=wall).run()


class _Extension:
    def __init__(
        self,
        repository: Repository,
        monitor: Monitor,
        period_s: float,
        *,
        skips_young: bool,
        stop: Callable[[], bool],
        wall: Callable[[], float],
    ) -> None:
        self._repository = repository
        self._store = repository.store
        self._monitor = monitor
        self._period_s = period_s
        self._skips_young = skips_young
        self._stop = stop
        self._wall = wall
        self._done = Extended()
        self._there: set[bytes] = set()
        self._lock = threading.Lock()

    def run(self) -> Extended:
        needed = self._needed()
        with (
            ThreadPoolExecutor(_AT_ONCE) as executor,
            self._monitor.task("extending locks", None, unit="objects") as task,
        ):
            objects = self._used(needed)
            # A batch at a time: a listing of millions is never in memory.
            while batch := list(islice(objects, _BATCH_COUNT)):
                for _ in executor.map(lambda info: self._extend(info, task), batch):
                    pass
                if self._stop():
                    raise Stopped("stopped while locks were extended")
                if self._done.gave_up:
                    break
        if not self._done.gave_up:
            moves = self._repository.moves
            self._done.lost = {one for one in (needed or set()) - self._there if moves.of(one) is None}
        return self._done

    def _needed(self) -> set[bytes] | None:
        """Return the packs that versions name, and those that records of moves lead to; ``None`` if it is not known."""
        sight = Sight()
        listed = list_versions(self._repository)
        places: dict[VersionPlace, ListedVersion] = {
            (run_id, number): one
            for run_id, versions in listed.items()
            for number, one in versions.items()
            if not one.is_fence
        }
        # Of a version whose manifest somebody removed the copy may be left, and it needs the same packs.
        for run_id, number in list_places(self._repository, names.COPIES).values():
            if number not in listed.get(run_id, {}):
                places[run_id, number] = ListedVersion(number, 0, 0.0)
        for _, _, packs in read_versions(self._repository, sight, list(places.items()), self._monitor):
            sight.named |= packs
            if self._stop():
                raise Stopped("stopped while locks were extended")
        self._done.unread = [one.key for one in sight.blocked]
        if sight.blocked:
            return None
        try:
            return sight.named | led_to(self._repository, sight.named, set(self._repository.moves.listed()))
        except FormatUnsupported as error:
            self._done.unread = [error.where or names.MOVES]
            return None

    def _used(self, needed: set[bytes] | None) -> Iterator[ObjectInfo]:
        """Yield all objects that are in use, those first without which nothing opens."""
        with suppress(NotFound):
            yield self._store.stat(names.HEADER)
        for prefix in _KEPT:
            yield from (info for info in self._store.list(prefix) if names.is_object(info.key))
        for pack_id, info in self._repository.packs():
            self._there.add(pack_id)
            if needed is None or pack_id in needed:
                yield info

    def _extend(self, info: ObjectInfo, task: Task) -> None:
        task.advance(1)
        done = self._done
        if done.gave_up or (self._skips_young and self._is_young(info)):
            with self._lock:
                done.used_count += 1
            return
        is_extended = False
        denied: StoreError | None = None
        try:
            is_extended = self._store.keep_for(info.key, self._period_s, self._period_s * LEFT_SHARE)
        except NotFound:
            return  # pruned meanwhile
        except StoreUnavailable:
            raise
        except StoreError as error:
            # Whatever the store has against it: the others may still be locked.
            denied = error
        with self._lock:
            done.used_count += 1
            done.asked_count += 1
            done.extended_count += is_extended
            if denied is not None:
                done.denied_count += 1
                if len(done.denied) < _DENIED_MAX:
                    done.denied[info.key] = denied
                done.gave_up = done.denied_count >= _DENIED_MAX and not done.extended_count

    def _is_young(self, info: ObjectInfo) -> bool:
        return -_AHEAD_MAX_S < self._wall() - info.modified_s < self._period_s * (1 - LEFT_SHARE)
