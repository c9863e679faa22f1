"""Copy small sealed objects as they are: created, read back, and never overwritten."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final

from mlsync.errors import (
    AlreadyExists,
    Damage,
    Error,
    FormatUnsupported,
    MirrorConflict,
    NotFound,
    ObjectArchived,
    StoreBroken,
)
from mlsync.repository.read_twice import reads_back
from mlsync.repository.sealed_object import OBJECT_BYTES_MAX
from mlsync.store.base import Store

_AT_ONCE: Final = 8
_OTHER: Final = "the mirror has another object of this name"


def create(target: Store, key: str, body: bytes) -> bool:
    """Create the object *key* and return whether it was missing; raise ``MirrorConflict`` if another one is there.

    It is read back: some stores overwrite, lose or exchange an object and tell nobody.
    """
    is_new = False
    with suppress(AlreadyExists):
        target.put(key, body)
        is_new = True
    if not reads_back(target, key, body):
        what = "the mirror took the object, and does not have it" if is_new else _OTHER
        raise MirrorConflict(what, where=f"{target.url} {key}")
    return is_new


def same(source: Store, target: Store, key: str) -> bool:
    """Return whether both stores have the same object under a name; ``True`` if it left the source meanwhile."""
    try:
        body = source.get(key, limit_bytes=OBJECT_BYTES_MAX)
    except NotFound:
        return True
    return reads_back(target, key, body)


def copy_all(
    source: Store,
    target: Store,
    keys: Iterable[str],
    check: Callable[[str, bytes], object],
    failed: Callable[[str, Error], None],
) -> int:
    """Copy objects, several at once; return how many were missing.

    *check* raises what keeps an object from counting: that one stays where it is, without a word, since nobody reads
    it. One that left the source meanwhile is passed over. *failed* is called for one that is another one in the mirror,
    or that cannot be read now.
    """

    def copy(key: str) -> tuple[str, bool | Error]:
        try:
            body = source.get(key, limit_bytes=OBJECT_BYTES_MAX)
            check(key, body)
        except (NotFound, Damage, FormatUnsupported):
            return key, False
        except (ObjectArchived, StoreBroken) as error:
            if isinstance(error, StoreBroken) and not error.is_of_object:
                raise
            return key, error
        try:
            return key, create(target, key, body)
        except MirrorConflict as error:
            return key, error

    count = 0
    with ThreadPoolExecutor(_AT_ONCE) as executor:
        for key, outcome in executor.map(copy, keys):
            if isinstance(outcome, Error):
                failed(key, outcome)
            else:
                count += outcome
    return count
