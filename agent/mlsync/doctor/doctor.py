"""All that is looked at, in the order in which it is shown, and the few things that are looked at at every start."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from mlsync.app.flow_options import store_options
from mlsync.config.model import Config
from mlsync.doctor import inotify, media, mirrors, pressure, readable, remembering, room
from mlsync.doctor.disks import Host
from mlsync.doctor.findings import Check, Diagnosis, Grade, examine
from mlsync.doctor.mounts import MOUNTS, mounts
from mlsync.store.base import Store

if TYPE_CHECKING:
    from mlsync.store.s3.inspection import BucketInspection

T = TypeVar("T")
# What is looked at at every start may delay it this long at most.
AT_START_S: Final = 2.0
# A mirror in another region is asked after the repository.
_MIRROR_S: Final = 15.0


def this_host() -> Host:
    """Return the facts of this machine that places are judged by."""
    return Host(mounts(MOUNTS.read_text("utf-8", "surrogateescape")))


def diagnose(config: Config, *, writes: bool = True) -> list[Diagnosis]:
    """Return everything that was found out about what the backups of *config* depend on.

    With *writes* an object of a random name is made in the store, and removed again. Nothing else changes anywhere.
    """
    checks = [*_checks_here(config), *_checks_of_store(config, writes=writes)]
    return examine(checks)


def at_start(config: Config) -> list[Diagnosis]:
    """Return which disks die with the machine, without a request to the store and within two seconds."""
    found = examine([Check("disks", lambda: media.diagnose_media(config, this_host()), AT_START_S)])
    # A state that goes is what containers have; whoever wants to know asks doctor.
    wanted = ("disk of run", media.DISK_OF_REPOSITORY)
    said = [one for one in found if one.subject.startswith(wanted) and one.grade in (Grade.GRAVE, Grade.WARNING)]
    return [one for one in said if "dies" in one.what]


def in_short(found: Diagnosis) -> str:
    """Return what was found at a start, in one line."""
    return f"{found.what}: {found.means} (mlsync doctor says more)"


def _checks_here(config: Config) -> Iterator[Check]:
    yield Check("disks", lambda: media.diagnose_media(config, this_host()))
    for watch in config.watches:
        directory, run = watch.directory, watch.run
        yield Check(
            f"files of run {run}",
            lambda directory=directory, run=run: readable.diagnose_readable(directory, run),  # type: ignore[misc]
        )
    yield Check("room", lambda: room.diagnose_room(config))
    if config.key.remember_s is not None:
        yield Check(remembering.SUBJECT, remembering.diagnose_remembering)
    if config.agent.on_change and config.watches:
        yield Check(inotify.SUBJECT, lambda: _diagnose_events(config))
    if config.watches:
        yield Check(pressure.SUBJECT, pressure.diagnose_pressure)
        from mlsync.doctor.device import SUBJECT, diagnose_device  # late: init and agent do without

        yield Check(SUBJECT, lambda: diagnose_device(config))
        from mlsync.doctor import notices  # late, as above
        from mlsync.preemption.find import find_platforms
        from mlsync.preemption.grace import grace_here

        # With none of them the agent was told not to listen.
        if (listened := config.preemption.notices) != ():
            yield Check(notices.SUBJECT, lambda: notices.diagnose_notices(find_platforms(listened)))
        yield Check(notices.GRACE, lambda: [notices.diagnose_grace(config.preemption.grace_s, grace_here(listened))])


def _diagnose_events(config: Config) -> Iterator[Diagnosis]:
    found = inotify.limits()
    for watch in config.watches:
        yield from inotify.diagnose_events(watch.directory, this_host().mounts)
    needed = sum(inotify.count_directories(watch.directory) for watch in config.watches)
    yield from inotify.diagnose_inotify(needed, found)


def _checks_of_store(config: Config, *, writes: bool) -> Iterator[Check]:
    from mlsync.doctor import bucket, store  # late, as above

    opened = _Once(lambda: _opened(config))
    prunes = "daily" in (config.retention.prune, *(watch.retention.prune for watch in config.watches))
    is_bucket = config.repository_directory is None
    asked = _Once(lambda: _inspection(config))
    if is_bucket:
        # What takes a third of a second to import does so before the checks' time begins.
        from mlsync.store.s3 import inspection as _  # noqa: F401
    yield Check(store.STORE, lambda: store.diagnose_store(opened), late=store.LATE)
    yield Check(
        store.RIGHTS,
        lambda: store.diagnose_rights(
            opened(), writes=writes, prunes=prunes, is_bucket=is_bucket, remedy=lambda: bucket.remedy_of(asked())
        ),
    )
    yield Check(store.KEY_SLOTS, lambda: store.diagnose_key_slots(opened()))
    for mirror in config.mirrors:
        yield Check(
            f"mirror {mirror.name}: its copy",
            lambda mirror=mirror: mirrors.diagnose_copy(mirror, lambda: store.repository_id(opened())),  # type: ignore[misc]
            _MIRROR_S,
        )
    if is_bucket:
        yield from _checks_of_bucket(asked, config)


def _opened(config: Config) -> Store:
    from mlsync.store.location import open_store

    return open_store(config.repository, store_options(config))


def _inspection(config: Config) -> BucketInspection:
    from mlsync.store.s3.inspection import BucketInspection

    return BucketInspection(config.repository, store_options(config))


def _checks_of_bucket(asked: Callable[[], BucketInspection], config: Config) -> Iterator[Check]:
    from mlsync.doctor import bucket, store

    yield Check(store.CLOCK, lambda: [store.diagnose_clock(asked().ahead_s())])
    yield from bucket.checks_of_bucket(asked, longest_grace_s(config))


def longest_grace_s(config: Config) -> float:
    """Return how long what is forgotten waits: of several runs' graces the longest."""
    return max(config.retention.grace_s, *(watch.retention.grace_s for watch in config.watches), 0.0)


class _Once(Generic[T]):
    """Makes what several checks share when the first of them asks; the others wait, or get its error."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: list[T] = []
        self._error: Exception | None = None

    def __call__(self) -> T:
        with self._lock:
            if self._error is not None:
                raise self._error
            if not self._made:
                try:
                    self._made.append(self._make())
                except Exception as error:
                    self._error = error
                    raise
            return self._made[0]
