"""Which fences are to be believed: who kept a retired key, and may overwrite, can put one over a version.

A prune says that a version is gone before it puts a fence in its place, and what a retired key decides after its time
is no decision. So a fence of an older epoch over a version of which there still is a copy takes a decision to count.
"""

from __future__ import annotations

from mlsync.errors import FormatUnsupported, ManifestDamaged, NotFound, ObjectArchived
from mlsync.repository import names
from mlsync.repository.history.decisions import find_decided
from mlsync.repository.repository import Repository, is_no_version


def counts(repository: Repository, key: str) -> bool:
    """Return whether a fence is under the name *key* of a version, and says that the number is no version.

    One of an older epoch over a version whose copy opens, and which no decision calls gone, was made with a retired key
    or by mistake: the version is the one in the copy.
    """
    epoch = repository.fence_epoch(key)
    if epoch is None or epoch == repository.keys.epoch:
        return epoch is not None
    try:
        root = repository.open_body(key, names.copy_of(key))[0].root
    except NotFound:
        return True
    except (ManifestDamaged, FormatUnsupported) as error:
        # A newer mlsync's copy cannot be told from a version that this fence hides.
        return is_no_version(error)
    except ObjectArchived:
        return False
    return find_decided(repository, root.run).gone_as(root.number) is not None
