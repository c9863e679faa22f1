"""What has to be copied of a repository: versions that the mirror lacks, and the packs that they need.

One listing of each kind of object at either end tells what is missing. Of each version that is missing the manifest is
opened, and tells its packs; a pack that was moved leads to others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from mlsync.errors import OF_OBJECT, Error, ManifestDamaged, NotFound, ObjectMissing
from mlsync.mirror.transfer import Pack
from mlsync.repository import names
from mlsync.repository.ahead import ahead
from mlsync.repository.history.decision import tagged_number
from mlsync.repository.history.fence import is_fence_size
from mlsync.repository.history.move import STEPS_MAX
from mlsync.repository.named_packs import NamedPacks
from mlsync.repository.reader import ChunkReader
from mlsync.repository.repository import ListedVersion, Repository, StoredVersion, is_no_version, listed_versions

# So much of manifests is kept between the plan and the copy; others are read once more.
_KEPT_BYTES: Final = 64 << 20


@dataclass(slots=True)
class PackNeeds:
    """What a version needs in the mirror: packs, those of them that are to be copied, and records of moves."""

    packs: set[bytes] = field(default_factory=set)
    missing: dict[bytes, Pack] = field(default_factory=dict)
    records: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class Planned:
    """A version to copy: as it was read, its bytes if they were kept, and what it needs."""

    stored: StoredVersion
    body: bytes | None
    needs: PackNeeds

    @property
    def number(self) -> int:
        """Its number."""
        return self.stored.root.number


class Packs:
    """The packs at both ends, and what versions need of them."""

    def __init__(self, source: Repository, target: Repository) -> None:
        self._source = source
        self._target = target
        self._named = NamedPacks()

    @cached_property
    def there(self) -> dict[bytes, int]:
        """The packs of the mirror, and their sizes: one listing, once a version is to be copied."""
        return {pack_id: info.size_bytes for pack_id, info in self._target.packs()}

    @cached_property
    def _sizes(self) -> dict[bytes, int]:
        return {pack_id: info.size_bytes for pack_id, info in self._source.packs()}

    def needs(self, stored: StoredVersion, reader: ChunkReader) -> PackNeeds:
        """Return what a version needs; raise ``ObjectMissing`` if a pack is nowhere, and what cannot be read."""
        found = PackNeeds()
        named = self._named.of(stored, reader)
        for pack_id in named:
            self._need(found, pack_id, 0)
        if found.records:
            self._refuse_without_bases(stored, named)
        return found

    def _refuse_without_bases(self, stored: StoredVersion, named: Iterable[bytes]) -> None:
        """Raise ``ObjectMissing`` if the mirror would read a difference of which nobody has the base any more.

        A copy that was broken off may have left the difference's pack there. Since then the source moved that, without
        the base, and let the base's pack go. A reader takes what was moved only where the old pack is gone.
        """
        left = {pack_id for pack_id in named if pack_id in self.there and pack_id not in self._sizes}
        if not left:
            return
        refs = (ref for entry in self._source.entries(stored) for ref in entry.chunks if ref.pack in left)
        for ref in refs:
            if ref.base is not None and self._source.moves.last_place(ref.base, self._is_anywhere) is None:
                what = "the source moved what a pack of the mirror holds as differences, and the bases are gone"
                advice = "prune the mirror, which deletes that pack, and copy again afterwards"
                raise ObjectMissing(what, where=names.pack(ref.pack), advice=advice)

    def _is_anywhere(self, pack_id: bytes) -> bool:
        return pack_id in self.there or pack_id in self._sizes

    def is_other(self, pack_id: bytes) -> bool:
        """Return whether the mirror's pack has another size than the source's."""
        size_bytes = self._sizes.get(pack_id)
        return size_bytes is not None and self.there.get(pack_id, size_bytes) != size_bytes

    def forget(self, pack_ids: Iterable[bytes]) -> None:
        """Look again, the next time, whether the source has these packs."""
        for pack_id in pack_ids:
            self._sizes.pop(pack_id, None)

    def _need(self, found: PackNeeds, pack_id: bytes, step: int) -> None:
        if pack_id in found.packs:
            return
        if pack_id in self.there:
            found.packs.add(pack_id)
            return
        size_bytes = self._size(pack_id)
        if size_bytes is not None:
            found.packs.add(pack_id)
            found.missing[pack_id] = Pack(pack_id, size_bytes)
            return
        try:
            moved = self._source.moves.open(pack_id)
        except (NotFound, ManifestDamaged) as error:
            what = "a pack is gone, and no record says where its chunks are"
            raise ObjectMissing(what, where=names.pack(pack_id)) from error
        if step == STEPS_MAX:
            raise ObjectMissing("the chunks of a pack were moved too often", where=names.pack(pack_id))
        for other in sorted(moved.packs):
            self._need(found, other, step + 1)
        # Behind those that it leads to.
        if pack_id not in found.records:
            found.records.append(pack_id)

    def _size(self, pack_id: bytes) -> int | None:
        """Return the size of a pack in the source; the listing may be older than the pack."""
        if pack_id not in self._sizes:
            try:
                self._sizes[pack_id] = self._source.store.stat(names.pack(pack_id)).size_bytes
            except NotFound:
                return None
        return self._sizes[pack_id]


def versions_of(repository: Repository) -> dict[bytes, dict[int, ListedVersion]]:
    """Return what is under names of versions, fences too, by run and number."""
    found: dict[bytes, dict[int, ListedVersion]] = {}
    for run_id, one in listed_versions(repository.store.list(names.VERSIONS)):
        found.setdefault(run_id, {})[one.number] = one
    return found


def plan_run(source: Repository, packs: Packs, keys: Sequence[str]) -> Iterator[tuple[str, Planned | Error | None]]:
    """Yield each version with its plan, the error that keeps it away, or ``None`` if it is no version."""
    kept_bytes = 0
    with source.reader() as reader:
        for key, opened in ahead(lambda key: _opened(source, key), keys):
            found = opened()
            if not isinstance(found, tuple):
                yield key, found
                continue
            stored, body = found
            kept_bytes += len(body)
            try:
                needs = packs.needs(stored, reader)
            except OF_OBJECT as error:
                yield key, None if source.is_fenced(key) else error
                continue
            yield key, Planned(stored, body if kept_bytes <= _KEPT_BYTES else None, needs)


def _opened(source: Repository, key: str) -> tuple[StoredVersion, bytes] | Error | None:
    try:
        return source.open_body(key, key)
    except NotFound:
        return None
    except OF_OBJECT as error:
        # The copy has the same bytes; what neither opens is no version, and was reported by its reader.
        if is_no_version(error):
            with suppress(*OF_OBJECT):
                return source.open_body(key, names.copy_of(key))
        return error


def listed_by_version(
    repository: Repository, prefix: str, runs: Mapping[bytes, object]
) -> dict[tuple[bytes, int], dict[str, int]]:
    """Return later proofs or evaluations of these runs: their names and sizes, by version."""
    parse = {names.LATER_PROOFS: names.parse_later_proof, names.EVALUATIONS: names.parse_evaluation}[prefix]
    found: dict[tuple[bytes, int], dict[str, int]] = {}
    for info in repository.store.list(prefix):
        place = parse(info.key)
        if place is not None and place[0] in runs:
            found.setdefault(place, {})[info.key] = info.size_bytes
    return found


def decisions_of(repository: Repository) -> dict[bytes, set[str]]:
    """Return the names of decisions by run: one listing, whatever the number of runs."""
    found: dict[bytes, set[str]] = {}
    for info in repository.store.list(names.DECISIONS):
        place = names.parse_decision(info.key)
        if place is not None and tagged_number(repository.keys, info.key) is not None:
            found.setdefault(place[0], set()).add(info.key)
    return found


def numbers_in(listed: Mapping[int, ListedVersion]) -> set[int]:
    """Return the numbers that are not of a fence's length."""
    return {number for number, one in listed.items() if not is_fence_size(one.size_bytes)}
