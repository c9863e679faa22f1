"""Move what versions need of packs under older keys into new packs, so that the old packs can be deleted.

After a rotation the old packs stay sealed with the retired key. Resealing them is a compaction that chooses by the
epoch and not by what is needed; whoever dies in between goes on with a new plan. Manifests, their copies, later proofs
and decisions are never sealed anew: each version names the digest of the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from mlsync.errors import CompactionRefused
from mlsync.monitor import Monitor
from mlsync.repository.repository import Repository
from mlsync.upkeep.compaction import Compacted, CompactionPlan, compact, look_at_all, plan


@dataclass(frozen=True, slots=True)
class ResealingPlan:
    """The *packs* to move, with what it costs, and other packs under older keys that versions need.

    *waiting* were moved before and wait for a prune, *stuck* were moved as often as readers follow, and *later* are for
    another call, since no more was to be moved by this one; all with sizes.
    """

    packs: CompactionPlan = field(default_factory=CompactionPlan)
    waiting: Mapping[bytes, int] = field(default_factory=dict)
    stuck: Mapping[bytes, int] = field(default_factory=dict)
    later: Mapping[bytes, int] = field(default_factory=dict)

    def within(self, limit_bytes: int) -> ResealingPlan:
        """Return the plan for as many packs as can be moved with so many bytes read and written.

        Raise ``CompactionRefused`` if that is not enough for any of them: no call would ever move one.
        """
        packs = self.packs.within(limit_bytes)
        if self.packs.packs and not packs.packs:
            first = self.packs.packs[0]
            least_bytes = first.read_bytes + first.written_bytes
            what = f"{limit_bytes} bytes are allowed to be read and written, and the first pack takes {least_bytes}"
            raise CompactionRefused(what, advice="a higher --max-move, or none")
        later = {use.pack_id: use.size_bytes for use in self.packs.packs[len(packs.packs) :]}
        return replace(self, packs=packs, later=later)


def plan_resealing(repository: Repository, monitor: Monitor, *, below: int | None = None) -> ResealingPlan:
    """Return what moves every needed pack of an epoch *below* that one, else below the newest; nothing is changed.

    Raise ``KeyRetired`` if the newest key that is known here was rotated, and what keeps a list of files from being
    read.
    """
    repository.refuse_retired()
    epoch = repository.keys.epoch if below is None else below
    if epoch == 0:
        return ResealingPlan()
    live, sizes, moved = look_at_all(repository, monitor)
    # Of a pack that versions need and that was not moved, a tombstone is nobody's who deletes it: somebody planted it,
    # or wrote a version meanwhile. It must not keep the pack under the old key.
    buried = {one for one in repository.tombstones() & moved if repository.moves.of(one) is not None}
    packs = plan(repository, live, sizes, buried, moved, choose=lambda use: use.epoch < epoch, flatten=False)
    chosen = {use.pack_id for use in packs.packs}
    epochs = live.epochs | live.idle
    rest = {one: sizes[one] for one, of in epochs.items() if of < epoch and one in sizes and one not in chosen}
    waiting = {one: size for one, size in rest.items() if one in buried or one in packs.unburied}
    return ResealingPlan(packs, waiting, {one: size for one, size in rest.items() if one not in waiting})


def reseal(
    repository: Repository,
    planned: ResealingPlan,
    monitor: Monitor,
    *,
    now_ns: int,
    stop: Callable[[], bool] = lambda: False,
) -> Compacted:
    """Carry out a plan; raise ``KeyRetired`` with nothing moved if the key was rotated again, and as ``compact``."""
    repository.confirm()
    repository.refuse_retired()
    return compact(repository, planned.packs, monitor, now_ns=now_ns, stop=stop)
