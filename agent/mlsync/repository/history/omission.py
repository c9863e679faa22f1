"""Omissions: objects of a mirror that say which versions of a run were not copied there, so that none looks hidden.

A manifest names the version before it, and decisions name versions. A reader of a mirror that has a part of them could
not tell what nobody copied from what the store withholds. So whoever leaves versions out says so, sealed, before he
copies one that follows them. See docs/format.md, "Omission".
"""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import msgspec

import mlsync
from mlsync.codec.digest import run_id
from mlsync.codec.keys import Keys
from mlsync.errors import Damage, FormatUnsupported, ManifestDamaged, NotFound, ObjectArchived, StoreBroken
from mlsync.repository import names, sealed_object
from mlsync.repository.encoding.canonical import decode_as
from mlsync.repository.encoding.room import Room, check_room
from mlsync.repository.encoding.validation import is_time
from mlsync.repository.history.decisions import By
from mlsync.repository.read_twice import read_twice
from mlsync.repository.repository import Repository
from mlsync.values import storable

#: More ranges than this are said in several objects.
RANGES_MAX: Final = 100_000
# A hundred thousand ranges of the largest numbers.
OBJECT_BYTES_MAX: Final = 4 << 20
_UNREADABLE: Final = (Damage, FormatUnsupported, ObjectArchived, NotFound)

# The first and the last number of a row of versions.
Range = tuple[int, int]


class Omission(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The versions of a run that whoever made the mirror left out, in rising ranges."""

    run: str
    made_ns: int
    writer: str
    host: str
    versions: tuple[Range, ...]
    room: Room = None


@dataclass(slots=True)
class Omitted:
    """The versions of a run that are not meant to be here, by all omissions that open and count."""

    ranges: list[Range] = field(default_factory=list)

    def __contains__(self, number: int) -> bool:
        """Return whether a version was left out."""
        return any(first <= number <= last for first, last in self.ranges)

    def __bool__(self) -> bool:
        """Return whether any was."""
        return bool(self.ranges)

    def without(self, numbers: Iterable[int]) -> tuple[Range, ...]:
        """Return the ranges, joined and rising, without some numbers: those of versions that are here all the same."""
        here = sorted(numbers)
        found: list[Range] = []
        end = 0
        for first, last in sorted(self.ranges):
            begin = max(first, end + 1)
            for number in here[bisect_left(here, begin) : bisect_right(here, last)]:
                if begin < number:
                    found.append((begin, number - 1))
                begin = number + 1
            if begin <= last:
                found.append((begin, last))
            end = max(end, last)
        return tuple(found)


def seal(keys: Keys, omission: Omission, key: str) -> bytes:
    """Return the object of an omission; raise ``ManifestDamaged`` for one that readers would refuse."""
    _check(omission, key)
    return sealed_object.seal(keys, sealed_object.OMISSION, key, msgspec.msgpack.encode(omission))


def open_omission(keys: Keys, key: str, body: bytes) -> Omission:
    """Return the omission under the name *key*; raise ``ManifestDamaged`` or ``FormatUnsupported``."""
    found = decode_as(sealed_object.open_(keys, sealed_object.OMISSION, key, body), Omission, key)
    if names.parse_omission(key) != run_id(keys.of("run id"), found.run):
        raise ManifestDamaged("the omission is of another run than its name says", where=key)
    _check(found, key)
    return found


def read(repository: Repository, key: str) -> Omission:
    """Return the omission of this name; raise ``NotFound``, or what keeps it from counting."""

    def look() -> Omission:
        try:
            body = repository.store.get(key, limit_bytes=OBJECT_BYTES_MAX)
        except StoreBroken as error:
            if not error.is_of_object:
                raise
            raise ManifestDamaged(f"the omission is not as it was written: {error.what}", where=key) from error
        found = open_omission(repository.keys, key, body)
        repository.retired_keys.refuse(key, body)
        return found

    return read_twice(look)


def omitted(repository: Repository, run_bytes: bytes) -> Omitted:
    """Return which versions of a run were left out of this mirror: one listing, and one read for each omission.

    What does not open, or is of an older epoch, counts for nothing.
    """
    found = Omitted()
    for info in repository.store.list(names.run_omissions_prefix(run_bytes)):
        if names.parse_omission(info.key) is not None:
            with suppress(*_UNREADABLE):
                found.ranges += read(repository, info.key).versions
    return found


def made(repository: Repository, run: str, numbers: Collection[int], by: By) -> Iterator[tuple[str, bytes]]:
    """Yield names and bytes of objects that say that the versions of these numbers are not in a mirror."""
    run_bytes = run_id(repository.keys.of("run id"), run)
    ranges = list(ranges_of(numbers))
    for at in range(0, len(ranges), RANGES_MAX):
        some = tuple(ranges[at : at + RANGES_MAX])
        one = Omission(run, by.now_ns, f"mlsync {mlsync.__version__}", storable(by.host), some)
        key = names.omission(run_bytes, os.urandom(names.OMISSION_ID_BYTES))
        yield key, seal(repository.keys, one, key)


def ranges_of(numbers: Iterable[int]) -> Iterator[Range]:
    """Yield rows of numbers, each with its first and last one, by rising number."""
    first = last = 0
    for number in sorted(numbers):
        if first and number == last + 1:
            last = number
            continue
        if first:
            yield first, last
        first = last = number
    if first:
        yield first, last


def _check(omission: Omission, where: str) -> None:
    """Raise ``ManifestDamaged`` unless an omission is as docs/format.md says."""
    if not is_time(omission.made_ns):
        raise ManifestDamaged("the omission's time is out of bounds", where=where)
    if not _are_ranges(omission.versions):
        raise ManifestDamaged("the versions of an omission are not as any writer lists them", where=where)
    check_room(omission.room, "the omission", where)


def _are_ranges(ranges: Sequence[Range]) -> bool:
    edges = [edge for first, last in ranges for edge in (2 * first, 2 * last + 1)]
    in_bounds = all(0 < first <= last <= names.VERSION_MAX for first, last in ranges)
    return 0 < len(ranges) <= RANGES_MAX and in_bounds and all(map(int.__lt__, edges, edges[1:]))
