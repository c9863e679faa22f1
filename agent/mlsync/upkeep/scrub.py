"""Read a rolling share of the packs, each once per period, to find bit rot before a restore needs the data.

If a chunk's seal and name match, these are the very bytes that an earlier proof loaded; nothing more need be proved.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from mlsync.errors import Damage, FormatUnsupported, NotFound, ObjectArchived, Stopped
from mlsync.monitor import Monitor
from mlsync.repository.repository import Repository

_NS: Final = 10**9
_ID_BYTES_USED: Final = 8


@dataclass(slots=True)
class ScrubResult:
    """What was read, and the damaged or missing packs, each with the reason."""

    pack_count: int = 0
    read_bytes: int = 0
    damaged: dict[bytes, str] = field(default_factory=dict)
    archived_count: int = 0


def scrub(
    repository: Repository,
    monitor: Monitor,
    *,
    since_ns: int,
    now_ns: int,
    period_s: float,
    stop: Callable[[], bool] = lambda: False,
) -> ScrubResult:
    """Read the packs that are due between the two times; calls without gaps read each pack once per period.

    Raise ``Stopped``, or the store's error if the store is unavailable.
    """
    result = ScrubResult()
    # Before the packs: one that is pruned while this runs is no damage.
    doomed = repository.tombstones()
    sizes = {pack_id: info.size_bytes for pack_id, info in repository.packs()}
    due = {pack_id: size for pack_id, size in sizes.items() if is_due(pack_id, since_ns, now_ns, period_s)}
    with repository.reader() as reader, monitor.task("scrubbing", sum(due.values())) as task:
        for pack_id, size_bytes in due.items():
            if stop():
                raise Stopped("stopped while scrubbing")
            try:
                for _ in reader.stream(repository.pack_refs(pack_id, size_bytes)):
                    pass
            except ObjectArchived:
                # Unreadable now, which says nothing about its content; it is due again in the next period.
                result.archived_count += 1
            except (Damage, FormatUnsupported, NotFound) as error:
                if pack_id in doomed and not repository.has_pack(pack_id):
                    continue
                result.damaged[pack_id] = error.what
            result.pack_count += 1
            task.advance(size_bytes)
        result.read_bytes = reader.read_bytes
    return result


def is_due(pack_id: bytes, since_ns: int, now_ns: int, period_s: float) -> bool:
    """Return whether the pack's time in the period is after *since* and not after *now*.

    It follows from the pack's random id: so packs are spread evenly, and no state is needed.
    """
    period_ns = int(period_s * _NS)
    offset_ns = int.from_bytes(pack_id[:_ID_BYTES_USED], "big") * period_ns >> (8 * _ID_BYTES_USED)
    return (now_ns - offset_ns) // period_ns > (since_ns - offset_ns) // period_ns
