"""Compaction of a test's world, and a deletion of versions and packs as prune does it."""

from __future__ import annotations

from typing import Any

from flow_parts import RUN, World
from mlsync.monitor import SilentMonitor
from mlsync.repository import names
from mlsync.repository.listing import runs
from mlsync.repository.repository import Repository
from mlsync.upkeep.compaction import Compacted, CompactionPlan, compact, plan_all, releasable
from mlsync.upkeep.live_chunks import LiveChunks

WHEN_NS = 1_800_000_000_000_000_000


def drop(world: World, *numbers: int) -> None:
    """Delete versions as a policy does."""
    for number in numbers:
        key = world.repository.version_key(RUN, number)
        world.store.delete(key)
        world.store.delete(names.copy_of(key))


def versions_of(repository: Repository) -> list[Any]:
    """Every version of every run."""
    return [repository.stored(run.name, number) for run in runs(repository) for number in run.numbers]


def planned(repository: Repository, **options: Any) -> CompactionPlan:
    """A plan for all that the store has."""
    return plan_all(repository, SilentMonitor(), **options)


def compacted(repository: Repository, *, only: CompactionPlan | None = None, **options: Any) -> Compacted:
    """Plan and carry out."""
    values = {name: options.pop(name) for name in ("stop", "pack_bytes") if name in options}
    return compact(
        repository,
        only or planned(repository, **options),
        SilentMonitor(),
        now_ns=WHEN_NS,
        **values,
    )


def delete_buried(repository: Repository) -> set[bytes]:
    """Delete packs that have a tombstone and are not needed any more, as if their grace was over."""
    sizes = {pack: info.size_bytes for pack, info in repository.packs()}
    buried = repository.tombstones() & sizes.keys()
    free = releasable(repository, buried, versions_of(repository), sizes, SilentMonitor())
    for pack in free:
        repository.store.delete(names.pack(pack))
        repository.store.delete(names.tombstone(pack))
    return free


def delete_unused(repository: Repository) -> set[bytes]:
    """Delete packs that no version needs, directly or by records."""
    live = LiveChunks(repository, set(repository.moves.listed()))
    for stored in versions_of(repository):
        live.add_version(stored, repository.entries(stored))
    unused = {pack for pack, _ in repository.packs()} - live.ordinals.keys()
    for pack in unused:
        repository.store.delete(names.pack(pack))
        repository.store.delete(names.tombstone(pack))
    return unused
