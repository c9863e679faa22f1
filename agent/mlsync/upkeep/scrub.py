"""Read a rolling share of the packs back, each once in a period: what rots is found before it is needed.

What a chunk's seal and name say of its bytes is as much as any earlier proof of them: the very bytes that loaded then.
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
    """What was read, and the packs that are damaged or gone, each with why."""

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
    """Read the packs that are due between the two moments; whoever calls it without gaps reads each once a period.

    Raises ``Stopped``, and the store's error where it cannot be reached.
    """
    result = ScrubResult()
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
                # Its turn comes again: it cannot be read, which says nothing of what is in it.
                result.archived_count += 1
            except (Damage, FormatUnsupported, NotFound) as error:
                result.damaged[pack_id] = error.what
            result.pack_count += 1
            task.advance(size_bytes)
        result.read_bytes = reader.read_bytes
    return result


def is_due(pack_id: bytes, since_ns: int, now_ns: int, period_s: float) -> bool:
    """Whether the pack's moment, one in each period, lies after *since* and not after *now*.

    Ids are random: the moments of all packs are spread evenly, and nothing need be remembered of any of them.
    """
    period_ns = int(period_s * _NS)
    offset_ns = int.from_bytes(pack_id[:_ID_BYTES_USED], "big") * period_ns >> (8 * _ID_BYTES_USED)
    return (now_ns - offset_ns) // period_ns > (since_ns - offset_ns) // period_ns
