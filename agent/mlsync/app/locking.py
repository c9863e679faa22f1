"""Locks of objects in a bucket, extended as the configuration has it: by the agent and by a command."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mlsync.app.wording import count
from mlsync.config.model import Config
from mlsync.config.new_objects import Lock
from mlsync.errors import ConfigInvalid
from mlsync.monitor import Monitor, NoticeLevel
from mlsync.repository.repository import Repository
from mlsync.upkeep.extend_lock import Extended, extend_locks


def lock_of(config: Config) -> Lock | None:
    """Return how new objects are locked; ``None`` if they are not, as in a directory."""
    return None if config.repository_directory is not None else config.s3.object_lock


def needed_lock(config: Config) -> Lock:
    """Return the lock by which locks are extended; raise ``ConfigInvalid`` if the configuration locks nothing."""
    lock = lock_of(config)
    if lock is None:
        advice = 'set object_lock = "governance 30d" there; the bucket must have been made with object lock'
        raise ConfigInvalid("no bucket with object_lock under [s3]: there is no lock to extend", advice=advice)
    return lock


def extend(
    repository: Repository,
    lock: Lock,
    monitor: Monitor,
    *,
    skips_young: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> Extended:
    """Extend the locks of what the versions of a repository use."""
    return extend_locks(repository, monitor, lock.period_s, skips_young=skips_young, stop=stop)


def sentences(done: Extended) -> Iterator[tuple[NoticeLevel, str]]:
    """Yield what people should know of it, the worst first."""
    for error in list(done.denied.values())[:1]:
        untried = ", and the rest was not tried" if done.gave_up else ""
        yield "warning", f"the lock of {count(done.denied_count, 'object')} could not be extended{untried}: {error}"
    if done.lost:
        packs = count(len(done.lost), "pack")
        yield "warning", f"{packs} that versions need are not in the store, and cannot be locked; run mlsync check"
    if done.unread:
        versions = count(len(done.unread), "version")
        text = f"{versions} cannot be read, {done.unread[0]} for one, so that all packs were locked; run mlsync check"
        yield "warning", text
    asked = f"{count(done.asked_count, 'object')} of {done.used_count} in use asked about"
    requests = count(done.request_count, "request")
    yield "info", f"locks: {done.extended_count} extended, {asked}, {requests}"
