"""Copy runs to a mirror by the configuration, as the agent asks for it."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from mlsync.app.flow_options import server_options
from mlsync.app.session import Session
from mlsync.app.wording import STORE_WAITS, count
from mlsync.config.model import MirrorSettings
from mlsync.errors import Error, RepositoryMissing
from mlsync.mirror.account import CopyOptions, CopyResult
from mlsync.mirror.copying import copy_versions, look_at_mirror
from mlsync.monitor import Monitor
from mlsync.repository.ahead import ahead
from mlsync.repository.listing import run_names
from mlsync.retention.policy import KeepPolicy
from mlsync.store.location import open_store
from mlsync.store.retry import RetryingStore
from mlsync.upkeep.retained import retained

_NAMED_MAX: Final = 3


def copy_to_mirror(
    session: Session,
    mirror: MirrorSettings,
    runs: Collection[str],
    monitor: Monitor,
    stop: threading.Event,
    *,
    newest_only: Mapping[str, int],
) -> dict[str, Any]:
    """Copy what a mirror lacks of *runs*; return what was copied and how far it is behind, as plain values.

    Of a run in *newest_only* only that version, since time is short. A mirror in a bucket is made if there is none; one
    in a directory is not, as its disk may not be mounted. Raises what the stores raise.
    """
    there = [run for run in sorted(run_names(session.repository)) if run in runs and mirror.copies(run)]
    if not there:
        return {"runs": {}, "versions": 0, "bytes": 0, "faults": []}
    chosen: dict[str, Collection[int]] = {run: {number} for run, number in newest_only.items() if run in there}
    chosen |= _chosen(session, mirror, [run for run in there if run not in chosen])
    options = CopyOptions(
        now_ns=time.time_ns(),
        host=socket.gethostname(),
        runs=there,
        versions=chosen,
        create=mirror.directory is None,
        stop=stop.is_set,
    )
    with _opened(mirror, monitor) as target:
        result = copy_versions(session.repository, target, options, monitor)
    differing = _differing(result)
    return {
        "runs": {
            run: {
                "copied": lag.copied,
                "newest": lag.newest,
                # A version of the same number is there, and is another one: nothing of this run is safe there.
                "behind": lag.version_count + differing[_place(session.repository.version_key(run, 1))],
            }
            for run, lag in result.lag.items()
        },
        "versions": len(result.versions),
        "bytes": result.size_bytes,
        "faults": _faults(result),
    }


@dataclass(frozen=True, slots=True)
class MirrorSeen:
    """How a mirror stands by what both stores list: its runs as plain values, or why it could not be had."""

    name: str
    url: str
    runs: list[dict[str, Any]] = field(default_factory=list)
    error: Error | None = None


def mirror_seen(session: Session, mirror: MirrorSettings, monitor: Monitor) -> MirrorSeen:
    """Return how far a mirror is behind, run by run; nothing is written, and what is missing is not read."""
    try:
        return MirrorSeen(mirror.name, mirror.url, _lags(session, mirror, monitor))
    except Error as error:
        return MirrorSeen(mirror.name, mirror.url, error=error)


def _lags(session: Session, mirror: MirrorSettings, monitor: Monitor) -> list[dict[str, Any]]:
    there = [run for run in sorted(run_names(session.repository)) if mirror.copies(run)]
    chosen = _chosen(session, mirror, there)
    options = CopyOptions(now_ns=time.time_ns(), host=socket.gethostname(), runs=there, versions=chosen)
    with _opened(mirror, monitor) as target:
        result = look_at_mirror(session.repository, target, options, monitor)
    differing = _differing(result)
    return [
        {
            "run": run,
            "newest": lag.newest,
            "version": lag.copied or None,
            "behind_versions": lag.version_count,
            "behind_s": round(lag.age_s) if lag.version_count else None,
            "differing": differing[_place(session.repository.version_key(run, 1))],
            "ahead": len(result.ahead.get(run, ())),
        }
        for run, lag in sorted(result.lag.items())
    ]


@contextmanager
def _opened(mirror: MirrorSettings, monitor: Monitor) -> Iterator[RetryingStore]:
    def report(call: str, error: Exception, wait_s: float) -> None:
        monitor.notice("info", f"{STORE_WAITS}{call} failed, trying again in {wait_s:.1f} s: {error}")

    directory = mirror.directory
    if directory is not None and not directory.is_dir():
        advice = f"mount its disk; the first time: mlsync copy --to {mirror.name} --create"
        raise RepositoryMissing("the mirror's directory is not there", where=str(directory), advice=advice)
    inner = open_store(mirror.url, server_options(mirror.s3))
    try:
        yield RetryingStore(inner, on_wait=report)
    except RepositoryMissing as error:
        if directory is None:
            raise
        advice = f"mount its disk; the first time: mlsync copy --to {mirror.name} --create"
        raise RepositoryMissing(error.what, where=error.where, advice=advice) from error
    finally:
        inner.close()


def _chosen(session: Session, mirror: MirrorSettings, runs: list[str]) -> dict[str, Collection[int]]:
    """Return which versions of *runs* the mirror's own rules keep; empty if it has none, and takes all."""
    if not mirror.keep:
        return {}
    return {run: kept() for run, kept in ahead(lambda run: _kept(session, mirror, run), runs)}


def _kept(session: Session, mirror: MirrorSettings, run: str) -> set[int]:
    """Return the versions that the mirror's own rules keep."""
    policy = KeepPolicy(mirror.keep, session.config.retention_of(run).floor, 0.0)
    found = retained(session.repository, run, policy, time.time_ns(), with_all_reasons=True)
    return {one.version.number for one in found.evaluation.judged if one.is_kept}


def _differing(result: CopyResult) -> Counter[str]:
    """Return how many versions are other ones in the mirror, by what the keys of their run begin with."""
    return Counter(_place(conflict.key) for conflict in result.conflicts)


def _place(key: str) -> str:
    return key.rpartition("/")[0]


def _faults(result: CopyResult) -> list[str]:
    """Return what was not copied, and why, in sentences."""
    found = [f"{one.run}: version {one.number} is not copied: {one.why}" for one in result.left_out]
    found += [f"{one.why} ({one.key})" for one in result.conflicts]
    for run, numbers in result.ahead.items():
        lost = f"{run}: the mirror has {count(len(numbers), 'version')} that the repository lost, such as {numbers[-1]}"
        found.append(f"{lost} (mlsync check --repair-from-mirror)")
    more = len(found) - _NAMED_MAX
    return [*found[:_NAMED_MAX], *([f"and {more} more"] if more > 0 else [])]
