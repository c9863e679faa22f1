"""Read a rolling share of the packs, each once per period, to find bit rot before a restore needs the data.

If a chunk's seal and name match, these are the very bytes that an earlier proof loaded; nothing more need be proved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from mlsync.errors import Damage, FormatUnsupported, NotFound, ObjectArchived, Stopped
from mlsync.monitor import Monitor
from mlsync.repository.pack.pack import PACK_ID_BYTES
from mlsync.repository.repository import Repository
from mlsync.store.base import ObjectInfo

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
    doomed = {pack_id for pack_id, _ in _due_among(repository.listed_tombstones, since_ns, now_ns, period_s)}
    due = {pack_id: info.size_bytes for pack_id, info in _due_among(repository.packs, since_ns, now_ns, period_s)}
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


def _due_among(
    listed: Callable[[bytes], Iterator[tuple[bytes, ObjectInfo]]], since_ns: int, now_ns: int, period_s: float
) -> Iterator[tuple[bytes, ObjectInfo]]:
    """Yield the packs that are due between the two times, of those that are *listed* above an id by rising ids.

    Only the part that is due is listed: what an hour costs follows the period, and not the number of packs.
    """
    period_ns = int(period_s * _NS)
    for first_ns, last_ns in _spans(since_ns, now_ns, period_ns):
        # An id below all with this offset.
        before = (first_ns << (8 * _ID_BYTES_USED)) // period_ns - 1
        after = before.to_bytes(_ID_BYTES_USED, "big").ljust(PACK_ID_BYTES, b"\0") if before > 0 else b""
        for pack_id, info in listed(after):
            if _offset_ns(pack_id, period_ns) > last_ns:
                break
            if is_due(pack_id, since_ns, now_ns, period_s):
                yield pack_id, info


def _spans(since_ns: int, now_ns: int, period_ns: int) -> list[tuple[int, int]]:
    """Return the spans of offsets that lie between the two times, each with its first and last: rising, and apart."""
    if now_ns - since_ns >= period_ns:
        return [(0, period_ns)]
    first_ns, last_ns = (since_ns + 1) % period_ns, now_ns % period_ns
    return [(first_ns, last_ns)] if first_ns <= last_ns else [(0, last_ns), (first_ns, period_ns)]


def is_due(pack_id: bytes, since_ns: int, now_ns: int, period_s: float) -> bool:
    """Return whether the pack's time in the period is after *since* and not after *now*.

    It follows from the pack's random id: so packs are spread evenly, and no state is needed.
    """
    period_ns = int(period_s * _NS)
    offset_ns = _offset_ns(pack_id, period_ns)
    return (now_ns - offset_ns) // period_ns > (since_ns - offset_ns) // period_ns


def _offset_ns(pack_id: bytes, period_ns: int) -> int:
    """Return when in each period the pack is due: it rises with the id."""
    return int.from_bytes(pack_id[:_ID_BYTES_USED], "big") * period_ns >> (8 * _ID_BYTES_USED)
