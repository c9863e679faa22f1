"""Objects beside a manifest, of which each version may have several: later proofs and evaluations.

Their names say of which version they are, and so does their content; the two have to agree.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Generic, Protocol, TypeVar

import msgspec

from mlsync.codec import digest
from mlsync.codec.keys import Keys
from mlsync.errors import ManifestDamaged, NotFound, StoreBroken
from mlsync.repository import sealed_object
from mlsync.repository.encoding.canonical import decode_as
from mlsync.repository.read_twice import read_anywhere
from mlsync.repository.sealed_object import SealedKind
from mlsync.store.base import Store


class OfVersion(Protocol):
    """Content that names the version it is of, and the digest of its manifest."""

    @property
    def run(self) -> str:
        """The run."""

    @property
    def number(self) -> int:
        """The version's number."""

    @property
    def manifest(self) -> bytes:
        """The digest of its manifest."""


_T = TypeVar("_T", bound=OfVersion)


class BesideKind(msgspec.Struct, Generic[_T], frozen=True):
    """A kind of object beside manifests: its *sealed* kind, its *content*, its names, and the bounds of the content.

    *parse* returns run id and number of a name, *of_run* and *of_version* are prefixes of names, and *check* raises
    ``ManifestDamaged`` for content that no writer makes.
    """

    sealed: SealedKind
    content: type[_T]
    parse: Callable[[str], tuple[bytes, int] | None]
    of_run: Callable[[bytes], str]
    of_version: Callable[[bytes, int], str]
    check: Callable[[_T, str], None]


class ObjectsBeside(Generic[_T]):
    """The objects of one kind in a repository; *refuse* raises an error for one that does not count."""

    def __init__(self, kind: BesideKind[_T], store: Store, keys: Keys, refuse: Callable[[str, bytes], None]) -> None:
        self._kind = kind
        self._store = store
        self._keys = keys
        self._refuse = refuse
        self._run_key = keys.of("run id")

    def of_run(self, run_id: bytes) -> dict[int, list[str]]:
        """Return the names of those of a run's versions, by version: one listing."""
        found: dict[int, list[str]] = defaultdict(list)
        for key, number in self._listed(self._kind.of_run(run_id)):
            found[number].append(key)
        return found

    def of_version(self, run_id: bytes, number: int) -> list[str]:
        """Return the names of those of one version."""
        return [key for key, _ in self._listed(self._kind.of_version(run_id, number))]

    def opened(self, key: str, manifest: bytes | None = None) -> tuple[_T, bytes]:
        """Return content and digest of the object of this name.

        Raises ``ManifestDamaged`` if it does not open, or is of another *manifest*.
        """
        found = read_anywhere(self._store, partial(self._open, key))
        if manifest is not None and found[0].manifest != manifest:
            raise self.of_another(key)
        return found

    def put(self, key: str, content: _T) -> bytes:
        """Store *content* under this name, and return the object's digest."""
        self._kind.check(content, key)
        body = sealed_object.seal(self._keys, self._kind.sealed, key, msgspec.msgpack.encode(content))
        self._store.put(key, body)
        return digest.object_digest(body)

    def of_another(self, key: str) -> ManifestDamaged:
        """Return the error for an object that is not of the version that its name says."""
        return ManifestDamaged(f"the {self._noun} belongs to another version than its name says", where=key)

    @property
    def _noun(self) -> str:
        return self._kind.sealed.noun

    def _listed(self, prefix: str) -> Iterator[tuple[str, int]]:
        for info in self._store.list(prefix):
            parsed = self._kind.parse(info.key)
            if parsed is not None:
                yield info.key, parsed[1]

    def _open(self, key: str, store: Store) -> tuple[_T, bytes]:
        try:
            body = store.get(key, limit_bytes=sealed_object.OBJECT_BYTES_MAX)
        except StoreBroken as error:
            if not error.is_of_object:
                raise
            raise ManifestDamaged(f"the {self._noun} is not as it was written: {error.what}", where=key) from error
        except NotFound as error:
            raise ManifestDamaged(f"the {self._noun} was listed and is gone", where=key) from error
        found = decode_as(sealed_object.open_(self._keys, self._kind.sealed, key, body), self._kind.content, key)
        if self._kind.parse(key) != (digest.run_id(self._run_key, found.run), found.number):
            raise self.of_another(key)
        self._kind.check(found, key)
        self._refuse(key, body)
        return found, digest.object_digest(body)
