"""A run whose versions are copied to a mirror, the copy, and what a reader finds there."""

from __future__ import annotations

from doubles.recording_monitor import RecordingMonitor
from flow_parts import PASSPHRASE, RUN, noise
from mlsync.mirror.account import CopyOptions
from mlsync.mirror.copying import copy_versions
from mlsync.repository.repository import Repository
from mlsync.upkeep.check import check

NOW_NS = 4 * 10**18


def backup(world, number):
    """Make one more version, of which half is as before."""
    world.write("frozen.bin", noise(30_000, 99))
    world.write("last.bin", noise(20_000, number))
    world.backup()


def copy(world, target, repository=None, **options):
    """Copy to *target*."""
    chosen = CopyOptions(now_ns=NOW_NS, host="host", **{"create": True, **options})
    return copy_versions(repository or world.repository, target, chosen, RecordingMonitor())


def problems(target, secret=PASSPHRASE):
    """What a check that reads all data says of a mirror, opened as on a fresh machine."""
    repository = Repository.open(target, secret)
    found = check(repository, RecordingMonitor(), read_data=True)
    return [*found.problems, *found.unchecked, *found.oddities]


def numbers(target):
    """The versions that a mirror lists."""
    return Repository.open(target, PASSPHRASE).numbers(RUN)
