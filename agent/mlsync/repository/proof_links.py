"""Links to later proofs: what a later proof or a manifest says of the later proofs that its writer had seen.

A link has the proof's id and the start of its object's digest. A later proof has links to those of its version that no
other one had a link to yet, as a commit has to its parents; a manifest has them for all versions of its run. So a store
that hides or swaps a proof is found out as soon as anything was written after it. See docs/format.md, "Links".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from mlsync.errors import ManifestDamaged
from mlsync.repository.encoding.room import Room
from mlsync.repository.names import PROOF_ID_BYTES
from mlsync.values import is_count

# The names in the room of a later proof, and of a root.
SEEN: Final = "seen"
LATER_PROOFS: Final = "later-proofs"

_DIGEST_BYTES: Final = 16
LINK_BYTES: Final = PROOF_ID_BYTES + _DIGEST_BYTES
# What a writer puts into one later proof: the next one has links to the rest.
SEEN_MAX: Final = 1000
# What a writer puts into a root of the links to proofs of one version.
HEADS_MAX: Final = 100
# What a writer puts into a root, encoded: every manifest has it, and its room has other things too.
LATER_PROOFS_BYTES_MAX: Final = 48 << 10


class SeenProofs(NamedTuple):
    """What a manifest says of the later proofs of a version that its writer had seen.

    There were *proof_count* of them, and one *refused* a checkpoint or none did; *heads* are links to those to which no
    other one has a link.
    """

    number: int
    refused: bool
    proof_count: int
    heads: tuple[bytes, ...]


def link(proof_id: bytes, digest: bytes) -> bytes:
    """Return the link to a later proof."""
    return proof_id + digest[:_DIGEST_BYTES]


def linked_id(one: bytes) -> bytes:
    """Return the id of the proof that a link is to."""
    return one[:PROOF_ID_BYTES]


def seen_links(room: Room) -> tuple[bytes, ...]:
    """Return the links of a later proof, from its room."""
    return tuple((room or {}).get(SEEN, ()))


def seen_room(links: Iterable[bytes]) -> Room:
    """Return the room of a later proof with these links, or with the first of them if there are many."""
    chosen = sorted(links)[:SEEN_MAX]
    return {SEEN: chosen} if chosen else None


def seen_proofs(room: Room) -> dict[int, SeenProofs]:
    """Return what a manifest says of later proofs by version, from its root's room."""
    records = (room or {}).get(LATER_PROOFS, ())
    return {number: SeenProofs(number, refused, count, tuple(heads)) for number, refused, count, heads in records}


def later_proofs_value(seen: Iterable[SeenProofs]) -> list[Any] | None:
    """Return the value for a root's room, ``None`` if there is none.

    If all is too much, versions with a refusal come first, then the newest.
    """
    chosen: list[list[Any]] = []
    left_bytes = LATER_PROOFS_BYTES_MAX
    for one in sorted(seen, key=lambda one: (not one.refused, -one.number)):
        record = [one.number, one.refused, one.proof_count, sorted(one.heads)]
        left_bytes -= len(msgspec.msgpack.encode(record))
        if left_bytes < 0:
            break
        chosen.append(record)
    return sorted(chosen) or None


def heads_of(links: Mapping[bytes, Sequence[bytes]]) -> tuple[bytes, ...]:
    """Return the links that no other proof has, in order; *links* are by the link to the proof that has them."""
    linked = {one for links_of_one in links.values() for one in links_of_one}
    return tuple(sorted(links.keys() - linked))


def check_seen(room: Room, own_id: bytes, where: str) -> None:
    """Raise ``ManifestDamaged`` if a later proof's links are not as docs/format.md says, or one is to itself."""
    if room is None or SEEN not in room:
        return
    links = room[SEEN]
    if not _are_links(links) or any(linked_id(one) == own_id for one in links):
        raise ManifestDamaged("the later proof's links to others are not as any writer makes them", where=where)


def check_later_proofs(room: Room, number: int, where: str) -> None:
    """Raise ``ManifestDamaged`` if what the root of version *number* says of later proofs is not as the page says."""
    if room is None or LATER_PROOFS not in room:
        return
    records = room[LATER_PROOFS]
    is_sound = isinstance(records, list) and len(records) > 0 and all(map(_is_record, records))
    if is_sound:
        numbers = [record[0] for record in records]
        is_sound = numbers[0] > 0 and numbers[-1] < number and all(map(int.__lt__, numbers, numbers[1:]))
    if not is_sound:
        raise ManifestDamaged("what the version says of later proofs is not as any writer makes it", where=where)


def _is_record(record: object) -> bool:
    if not isinstance(record, list) or len(record) != len(SeenProofs._fields):
        return False
    number, refused, count, heads = record
    has_types = type(number) is int and type(refused) is bool and type(count) is int
    return has_types and _are_links(heads) and len(heads) <= count and is_count(count)


def _are_links(links: object) -> bool:
    """Return whether a value is one link or more, by rising ids."""
    if not isinstance(links, list) or not links:
        return False
    if not all(type(one) is bytes and len(one) == LINK_BYTES for one in links):
        return False
    if len(links) == 1:
        return True  # as most are; a root has thousands
    ids = list(map(linked_id, links))
    return all(map(bytes.__lt__, ids, ids[1:]))
