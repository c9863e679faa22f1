"""Open what one backup needs of bases: by the settings, and by where the store is."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Final

from mlsync.backup.bases.cache import SEGMENT_BYTES, BaseCache, delete, drop_stale, limit_of
from mlsync.backup.bases.choice import BaseContent, OpenContent
from mlsync.backup.bases.content import CachedContent, StoredContent
from mlsync.backup.bases.settings import Differences
from mlsync.repository.repository import Repository

#: The most that a cache takes unless a number is set: whoever has larger checkpoints has larger disks, and says so.
AUTO_BYTES_MAX: Final = 8 << 30
# Segments go as a whole: so much may be taken by bases that are none any more.
_SLACK_BYTES: Final = 2 * SEGMENT_BYTES


def content_opener(
    differences: Differences | None, repository: Repository, run: str, now_s: float
) -> OpenContent | None:
    """Return what opens the content of bases for a backup of *run*, ``None`` if nothing is stored as a difference."""
    if differences is None or (repository.is_write_only and not differences.insists):
        return None
    directory = repository.directory_of(run, differences.caches)

    def open_content(names: AbstractSet[bytes], newest_bytes: int) -> BaseContent:
        if repository.store.is_near and not repository.is_write_only:
            delete(directory)
            return StoredContent(repository.reader())
        drop_stale(differences.caches, now_s)
        auto_bytes = min(newest_bytes + _SLACK_BYTES, AUTO_BYTES_MAX)
        cache = BaseCache(directory, repository.keys, limit_of(directory, differences.cache_bytes, auto_bytes))
        cache.keep_only(names)
        return CachedContent(cache)

    return open_content
