"""What a decoded root must hold beyond the types of its positions: see docs/format.md, "Root".

A commit checks by the same rules, so that nothing is written that no reader takes.
"""

from __future__ import annotations

from mlsync.errors import ManifestDamaged
from mlsync.repository import names
from mlsync.repository.manifest import (
    ORIGIN_BYTES,
    ManifestRoot,
    Summary,
    Trouble,
    check_pack_table,
    check_previous,
    is_level,
    is_safe_path,
    is_sound_top,
    is_time,
)
from mlsync.values import is_count


def check_root(root: ManifestRoot, where: str) -> None:
    """Refuse a root that no writer of ours makes: numbers, paths or ids that cannot be, a link that leads nowhere."""
    check_previous(root.previous, root.number, where)
    check_pack_table(root.packs, where)
    numbers_are_sound = (
        0 < root.number <= names.VERSION_MAX and is_time(root.created_ns) and is_level(root.required_level)
    )
    if not numbers_are_sound:
        raise ManifestDamaged("the version's number, time or level cannot be", where=where)
    if not _is_sound_summary(root.summary):
        raise ManifestDamaged("the version's summary cannot be", where=where)
    if len(root.origin.id) != ORIGIN_BYTES or len(root.origin.machine) not in (0, ORIGIN_BYTES):
        raise ManifestDamaged("the manifest's writer cannot be", where=where)
    if root.top is not None and not is_sound_top(root.top):
        raise ManifestDamaged("the numbers of the run's directory cannot be", where=where)
    for trouble in root.troubles:
        if not _is_sound_trouble(trouble, root.number):
            raise ManifestDamaged(f"a trouble of no file, or of a later version: {trouble.path!r}", where=where)


def _is_sound_summary(summary: Summary) -> bool:
    counts = (
        summary.file_count,
        summary.size_bytes,
        summary.new_bytes,
        summary.stored_bytes,
        summary.checkpoint_count,
    )
    has_level = is_level(summary.lowest_level) and (summary.checkpoint_count > 0 or summary.lowest_level == 0)
    return all(map(is_count, counts)) and has_level


def _is_sound_trouble(trouble: Trouble, number: int) -> bool:
    return is_safe_path(trouble.path) and 0 <= trouble.kept < number
