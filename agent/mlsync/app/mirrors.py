"""Mirrors, second copies of a repository: open one, and read from them what the repository itself has lost.

Nothing that comes from a mirror is believed for where it comes from: seals, names and digests decide, as for the
repository. What a mirror can do is show less, or older things, so only commands that read use it.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from mlsync.app.flow_options import server_options
from mlsync.config.model import Config, MirrorSettings
from mlsync.errors import Error, MirrorForeign, RepositoryMissing, StoreDenied, StoreUnavailable
from mlsync.monitor import Monitor
from mlsync.repository import names
from mlsync.repository.repository import Repository
from mlsync.store.base import Store
from mlsync.store.fallback import FallbackStore
from mlsync.store.location import open_store
from mlsync.store.retry import RetryingStore

#: What means that a repository as a whole is away or gone, so that a mirror may stand in for it.
AWAY: Final = (RepositoryMissing, StoreUnavailable, StoreDenied)
# Another way is tried anyway if a mirror fails.
_BUDGET_S: Final = 20.0
_FIRST_CONTACT_S: Final = 6.0
_TOLD_MAX: Final = 8


def in_place_of(config: Config, mirror: MirrorSettings) -> Config:
    """Return the configuration for a mirror as the repository, with the other mirrors."""
    others = tuple(one for one in config.mirrors if one is not mirror)
    return dataclasses.replace(config, repository=mirror.url, s3=mirror.s3, mirrors=others)


def open_mirror(mirror: MirrorSettings, repository_id: bytes) -> Store:
    """Return the mirror's store, which retries; raise ``MirrorForeign`` if another repository is there.

    Raise ``RepositoryMissing`` if there is none yet, or its disk is not mounted.
    """
    inner = open_store(mirror.url, server_options(mirror.s3))
    try:
        found = Repository.look(RetryingStore(inner, budget_s=_FIRST_CONTACT_S, tries_min=1))
        if found.repository_id != repository_id:
            raise MirrorForeign(f"the mirror {mirror.name!r} is another repository", where=mirror.url)
    except BaseException:
        inner.close()
        raise
    return RetryingStore(inner, budget_s=_BUDGET_S, tries_min=1)


@contextmanager
def opened_mirrors(config: Config, repository: Repository, monitor: Monitor) -> Iterator[list[tuple[str, Repository]]]:
    """Give the names of all mirrors that can be had, opened with the repository's keys; tell of the others."""
    found: list[tuple[str, Repository]] = []
    try:
        for mirror in config.mirrors:
            try:
                store = open_mirror(mirror, repository.repository_id)
            except Error as error:
                monitor.notice("warning", f"the mirror {mirror.name!r} is of no help: {error}")
                continue
            found.append((mirror.name, Repository(store, repository.keys)))
        yield found
    finally:
        for _, opened in found:
            opened.close()


class MirrorReading:
    """The store of one session that reads: *store* asks the mirrors for what the repository does not give."""

    def __init__(self, store: Store, config: Config, repository_id: bytes, monitor: Monitor) -> None:
        self._config = config
        self._repository_id = repository_id
        self._monitor = monitor
        self._lock = threading.Lock()
        self._names: dict[int, str] = {}
        self._told_count = 0
        self.store = FallbackStore(store, self._opened, is_lost=_is_lost, told=self._tell)

    @property
    def count(self) -> int:
        """How many objects came from mirrors."""
        return self.store.count

    def as_json(self) -> dict[str, object]:
        """Return which objects came from mirrors, as plain values; those after the first thousand are only counted."""
        objects = [
            {"object": key, "mirror": self._names[id(store)], "why": why}
            for key, (store, why) in self.store.taken.items()
        ]
        return {"count": self.count, "objects": objects}

    def _opened(self) -> tuple[Store, ...]:
        return tuple(self._each())

    def _each(self) -> Iterator[Store]:
        for mirror in self._config.mirrors:
            try:
                store = open_mirror(mirror, self._repository_id)
            except Error as error:
                self._monitor.notice("warning", f"the mirror {mirror.name!r} is of no help: {error}")
                continue
            self._names[id(store)] = mirror.name
            yield store

    def _tell(self, key: str, store: Store, why: str) -> None:
        with self._lock:
            self._told_count += 1
            count = self._told_count
        if count <= _TOLD_MAX:
            self._monitor.notice("warning", f"{key} is taken from the mirror {self._names[id(store)]!r}: {why}")
        elif count == _TOLD_MAX + 1:
            self._monitor.notice("warning", "more objects are taken from mirrors; --json names them")


def _is_lost(key: str, after: str) -> bool:
    """Return whether a key without an object is a loss: of a version that was removed on purpose a fence stays.

    So is a run of which nothing is listed *after* a key; behind the last run there is nothing to list.
    """
    return key.startswith(names.VERSIONS) and not (after and key == names.VERSIONS)
