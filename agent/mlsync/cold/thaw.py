"""Have packs thawed: ask the store for each, and look from time to time until all can be read.

The requests run in the store, whoever waits for them. So a wait that is stopped, or whose machine goes away, costs
nothing: the next one looks first, and asks only for what nobody has asked for.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from mlsync.cold.find import ColdPack
from mlsync.cold.terms import refuse_tier, slowest
from mlsync.errors import Error, NotFound, Stopped, StoreError, StoreUnavailable, ThawRefused, ThawUnderWay
from mlsync.monitor import Monitor, Task
from mlsync.store.base import ObjectInfo, Store
from mlsync.store.prices import Tier, class_of

_AT_ONCE: Final = 8
#: How many packs are looked at before the next wait.
ROUND: Final = 8
_FIRST_WAIT_S: Final = 1.0
#: A thaw of minutes is looked at each half a minute, one of hours each five minutes.
WAIT_MAX_S: Final = {"expedited": 30.0, "standard": 300.0, "bulk": 300.0}
_SLICE_S: Final = 0.5
# So often in a row a pack may be archived with nobody thawing it, before that counts as the store's last word.
_IDLE_LOOKS_MAX: Final = 5
GO_ON: Final = "the requests go on in the store: give the same command again, which asks for nothing twice"


@dataclass(frozen=True, slots=True)
class ThawOptions:
    """What to ask for, and whether to wait; with *again* also for packs that are being thawed, to speed them up."""

    tier: Tier
    days: int
    waits: bool = True
    again: bool = False
    stop: Callable[[], bool] = lambda: False
    sleep: Callable[[float], None] = time.sleep


@dataclass(slots=True)
class Thawed:
    """What was done: for how many packs the store was *asked* now, and how many *looks* the wait took."""

    asked: int = 0
    looks: int = 0
    waited_s: float = 0.0


def thaw(store: Store, packs: Sequence[ColdPack], options: ThawOptions, monitor: Monitor) -> Thawed:
    """Ask for *packs*, and return when all of them can be read.

    Raise ``ThawRefused``, ``ThawUnderWay`` if it is not to wait, ``Stopped``, or the store's error. What was asked for
    goes on in the store then.
    """
    refuse_tier(packs, options.tier)
    done = Thawed()
    _ask(store, packs, options, monitor, done)
    takes = slowest(packs, options.tier)
    if not options.waits:
        what = f"{_packs(len(packs))} are being thawed" if len(packs) > 1 else "1 pack is being thawed"
        later = f"later: it takes {takes}" if takes else "later"
        raise ThawUnderWay(what, where=store.url, advice=f"give the same command again {later}")
    how_long = f", which takes {takes} from when it was asked for" if takes else ""
    text = f"waiting for the thaw of {_packs(len(packs))}{how_long}; Ctrl-C ends the wait and not the thaw"
    monitor.notice("status", text)
    try:
        _Wait(store, options, monitor, done).wait_for([pack.key for pack in packs])
    except StoreError as error:
        if not isinstance(error, ThawRefused):
            monitor.notice("status", GO_ON)
        raise
    return done


def _ask(store: Store, packs: Sequence[ColdPack], options: ThawOptions, monitor: Monitor, done: Thawed) -> None:
    wanted = [pack for pack in packs if options.again or not pack.is_thawing]
    lock = threading.Lock()

    def ask(pack: ColdPack) -> None:
        if options.stop():
            return
        days = options.days if class_of(pack.storage_class).has_copy else None
        store.thaw(pack.key, days=days, tier=options.tier)
        with lock:
            done.asked += 1
            task.advance(1)

    if not wanted:
        return
    with monitor.task("asking for the thaw", len(wanted), unit="packs") as task:
        try:
            with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="mlsync-thaw") as pool:
                for start in range(0, len(wanted), _AT_ONCE):
                    # The first refusal ends it: no more is asked for than those under way.
                    list(pool.map(ask, wanted[start : start + _AT_ONCE]))
        except Error as error:
            error.what = f"{error.what}; {done.asked} of {_packs(len(wanted))} were asked for"
            error.args = (error.what,)
            raise
    if options.stop():
        raise Stopped(f"stopped after {done.asked} of {_packs(len(wanted))} were asked for", advice=GO_ON)


class _Wait:
    """Looks at a few packs in a round, at longer and longer intervals, until each was seen thawed."""

    def __init__(self, store: Store, options: ThawOptions, monitor: Monitor, done: Thawed) -> None:
        self._store = store
        self._options = options
        self._monitor = monitor
        self._done = done
        self._idle: dict[str, int] = {}
        self._is_away = False
        self._told = 0

    def wait_for(self, keys: Sequence[str]) -> None:
        pending = deque(keys)
        wait_s = _FIRST_WAIT_S
        with self._monitor.task("waiting for the thaw", len(keys), unit="packs") as task:
            while pending:
                batch = [pending.popleft() for _ in range(min(ROUND, len(pending)))]
                # Those that were not ready go to the end: each is looked at again only after all others.
                left = self._not_ready(batch)
                pending.extend(left)
                ready = len(batch) - len(left)
                task.advance(ready)
                self._tell(len(keys) - len(pending), len(keys))
                # Where some are ready the others mostly are too: they are looked at sooner.
                wait_s = _FIRST_WAIT_S if ready else min(2 * wait_s, WAIT_MAX_S[self._options.tier])
                if left:
                    self._pause(wait_s, task, len(keys) - len(pending), len(keys))

    def _tell(self, count: int, total: int) -> None:
        """Tell how far it is, in at most ten lines: a wait of hours may have a log for its reader."""
        if count < total and count - self._told >= total / 10:
            self._told = count
            self._monitor.notice("status", f"{count} of {_packs(total)} are thawed")

    def _not_ready(self, batch: Sequence[str]) -> list[str]:
        """Return those of *batch* that are not thawed; of a store that does not answer, it asks for no more of them."""
        left: list[str] = []
        for place, key in enumerate(batch):
            try:
                if not self._is_ready(key):
                    left.append(key)
            except StoreUnavailable as error:
                if not self._is_away:
                    self._monitor.notice("warning", f"the wait goes on, although the store does not answer: {error}")
                self._is_away = True
                return left + list(batch[place:])
            self._is_away = False
        return left

    def _is_ready(self, key: str) -> bool:
        self._done.looks += 1
        try:
            info = self._store.stat(key)
        except NotFound:
            return True  # it was deleted meanwhile: whoever reads it says so, or finds where it was moved
        if info.is_archived:
            self._note_idle(info)
        return not info.is_archived

    def _note_idle(self, info: ObjectInfo) -> None:
        """Raise ``ThawRefused`` if the store says again and again that nobody thaws the pack."""
        self._idle[info.key] = 0 if info.is_thawing else self._idle.get(info.key, 0) + 1
        if self._idle[info.key] > _IDLE_LOOKS_MAX:
            what = "the store took the request, and does not thaw this pack"
            raise ThawRefused(what, where=info.key, advice="give the command again, which asks for it once more")

    def _pause(self, wait_s: float, task: Task, count: int, total: int) -> None:
        task.say(f"{count} of {total} thawed, next look in {wait_s:.0f} s")
        while wait_s > 0:
            if self._options.stop():
                raise Stopped(f"stopped while {_packs(total - count)} were being thawed", advice=GO_ON)
            step_s = min(wait_s, _SLICE_S)
            self._options.sleep(step_s)
            self._done.waited_s += step_s
            wait_s -= step_s


def _packs(count: int) -> str:
    return "1 pack" if count == 1 else f"{count} packs"
