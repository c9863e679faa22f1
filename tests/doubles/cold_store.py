"""A store whose objects lie in cold storage and thaw slowly, by a clock that a test moves."""

from __future__ import annotations

import threading

from msgspec.structs import replace

from doubles.memory_store import MemoryStore
from mlsync import errors
from mlsync.store.base import ObjectInfo
from mlsync.store.prices import AWS_LIST

DAY_S = 86_400.0


class ColdStore(MemoryStore):
    """Objects of the classes in *classes* are cold, until somebody thaws them and *takes_s* have passed.

    *asked* are the requests to thaw in order, *refusal* what the next one raises. *sleep* moves the clock.
    """

    price_list = AWS_LIST
    may_freeze = True

    def __init__(self, part_bytes: int = 1 << 20, *, takes_s: float = 3600.0) -> None:
        super().__init__(part_bytes)
        self.now_s = 0.0
        self.takes_s = takes_s
        self.classes: dict[str, str] = {}
        self.asked: list[tuple[str, int | None, str]] = []
        self.stats = 0
        self.refusal: errors.StoreError | None = None
        self.is_away = False
        self.in_vain = 0
        self._ready_s: dict[str, float] = {}
        self._gone_s: dict[str, float] = {}
        self._cold_lock = threading.Lock()

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds

    def freeze(self, storage_class: str = "GLACIER", *keys: str) -> list[str]:
        """Move packs to a class, all of them unless some are named; return them."""
        moved = sorted(keys or (info.key for info in super().list("packs/")))
        self.classes.update(dict.fromkeys(moved, storage_class))
        return moved

    def thaw(self, key, *, days, tier):
        """Begin to thaw."""
        with self._cold_lock:
            if self.refusal is not None:
                raise self.refusal
            self.asked.append((key, days, tier))
            if key in self._ready_s:
                return False
            self._ready_s[key] = self.now_s + self.takes_s
            self._gone_s[key] = self._ready_s[key] + (days or 10**6) * DAY_S
            return True

    def stat(self, key):
        """Say how it stands."""
        with self._cold_lock:
            self.stats += 1
        if self.is_away:
            self.in_vain += 1
            raise errors.StoreUnavailable("no answer")
        return self._info(super().stat(key))

    def list(self, prefix, *, after=""):
        """List, with what a listing knows: the class, and nothing of thaws."""
        for info in super().list(prefix, after=after):
            storage_class = self.classes.get(info.key, "")
            yield replace(info, storage_class=storage_class.partition("/")[0], is_archived=_is_archive(storage_class))

    def read(self, key, offset, into):
        """Refuse what is cold."""
        if self._info(ObjectInfo(key, 0, 0.0)).is_archived:
            raise errors.ObjectArchived("the store answered InvalidObjectState", where=key)
        super().read(key, offset, into)

    def _info(self, info: ObjectInfo) -> ObjectInfo:
        storage_class = self.classes.get(info.key, "")
        ready_s = self._ready_s.get(info.key)
        if ready_s is not None and self.now_s >= self._gone_s[info.key]:
            ready_s = None
        is_cold = _is_archive(storage_class) or "/" in storage_class
        is_archived = is_cold and (ready_s is None or self.now_s < ready_s)
        is_thawing = is_archived and ready_s is not None
        return replace(info, storage_class=storage_class, is_archived=is_archived, is_thawing=is_thawing)


def _is_archive(storage_class: str) -> bool:
    return storage_class in ("GLACIER", "DEEP_ARCHIVE")
