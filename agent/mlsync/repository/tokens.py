"""Every number and word that stands in stored objects, in one place, apart from the names that the code uses.

Those of proofs stand in ``values``.

Nothing here may ever change its meaning: a repository of ten years' age is read by this table.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

FORMAT_VERSION: Final = 1

MAGIC_PACK: Final = b"mlsyncP\0"
MAGIC_PACK_END: Final = b"mlsyncE\0"
MAGIC_MANIFEST: Final = b"mlsyncM\0"
MAGIC_LATER_PROOF: Final = b"mlsyncV\0"

# How the key of a pack or manifest is had. 1: HKDF from the master key. Kinds to come (sealed to a public key, so that
# an agent can write what it cannot read) take the next numbers and need no new layout.
KEY_DERIVED: Final = 1

# A number above those that are known here, up to this, is a newer mlsync's; zero and what is beyond is nobody's.
TOKEN_MAX: Final = 255


class EntryKind(IntEnum):
    """What an entry of the tree is."""

    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3
    HARD_LINK = 4


class TroubleKind(IntEnum):
    """Why a file's content in a version is not what the source held at that moment."""

    TORN = 1  # would not hold still, or ended in the middle
    BROKEN = 2  # a checkpoint that the proof refused
    UNREADABLE = 3  # the source gave an error
