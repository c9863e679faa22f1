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
MAGIC_EVALUATION: Final = b"mlsyncN\0"
MAGIC_EPOCH: Final = b"mlsyncK\0"
MAGIC_DECISION: Final = b"mlsyncD\0"
MAGIC_MOVE: Final = b"mlsyncX\0"
MAGIC_FENCE: Final = b"mlsyncF\0"
MAGIC_TOMBSTONE: Final = b"mlsyncT\0"
MAGIC_REGISTRATION: Final = b"mlsyncR\0"
MAGIC_OMISSION: Final = b"mlsyncO\0"

# How the key of a pack or manifest is obtained: HKDF from the master key, or sealed to a recipient's public key, so
# that a node can write and not read. Future kinds take the next numbers and need no new layout.
KEY_DERIVED: Final = 1
KEY_SEALED: Final = 2
KEY_KINDS: Final = (KEY_DERIVED, KEY_SEALED)
# How the key material of the second kind is sealed: HPKE with X-Wing, HKDF-SHA-256 and AES-256-GCM.
KEY_SUITE: Final = 1

# A number above the known ones, up to this, is of a newer mlsync; zero and larger numbers are damage.
TOKEN_MAX: Final = 255


class EntryKind(IntEnum):
    """The kind of an entry."""

    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3
    HARD_LINK = 4


class TroubleKind(IntEnum):
    """Why a version does not have a file's content as the source held it at that moment."""

    TORN = 1  # kept changing, or was cut off
    BROKEN = 2  # a checkpoint that the proof refused
    UNREADABLE = 3  # the source gave an error
