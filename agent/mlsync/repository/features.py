"""What a whole repository needs from its readers and writers: objects ``features/<name>/<tag>`` of a newer mlsync.

A feature concerns what no single version can say, such as how packs are moved. Its tag is a keyed hash of its name:
whoever may only create objects cannot keep this mlsync out with a name of his own, and a listing shows all that counts.
See docs/format.md, "Features".
"""

from __future__ import annotations

import hmac
from contextlib import suppress
from typing import Final

from mlsync.codec.keys import Keys
from mlsync.errors import AlreadyExists
from mlsync.repository import names
from mlsync.repository.encoding.canonical import newer
from mlsync.store.base import Store

#: Chunks of some packs were stored anew in other packs: see move.py.
MOVES: Final = "moves"
_KNOWN: Final = frozenset({MOVES})


def feature_key(keys: Keys, name: str) -> str:
    """Return the name of the object that says that the repository uses the feature *name*."""
    return names.feature(name, keys.of("feature", name.encode())[: names.FEATURE_TAG_BYTES])


def is_feature(keys: Keys, key: str) -> bool:
    """Return whether *key* names a feature that a holder of the repository's key has set."""
    name = names.parse_feature(key)
    return name is not None and hmac.compare_digest(key, feature_key(keys, name))


def set_feature(store: Store, keys: Keys, name: str) -> None:
    """Say for good that readers and writers of the repository must understand the feature."""
    with suppress(AlreadyExists):
        store.put(feature_key(keys, name), b"")


def refuse_unknown(store: Store, keys: Keys) -> None:
    """Raise ``FormatUnsupported`` if the repository uses a feature that this mlsync does not know: one listing."""
    for info in store.list(names.FEATURES):
        name = names.parse_feature(info.key)
        if name not in _KNOWN and is_feature(keys, info.key):
            raise newer(f"the repository uses {name!r}, which is not known here", f"{store.url} {info.key}")
