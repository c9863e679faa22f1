"""Decisions: objects that say which versions of a run are pinned, registered, forgotten or gone for good.

Each decision holds the whole state of its run, so that readers need the newest one alone; it names the digest of the
one before it. Its name has a tag that takes the master key: whoever may only create objects can plant none, and what he
puts beside them costs no read. See docs/format.md, "Decision".
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final

import msgspec

from mlsync.codec.digest import object_digest, run_id
from mlsync.codec.keys import Keys
from mlsync.errors import ManifestDamaged
from mlsync.repository import names, sealed_object
from mlsync.repository.encoding.canonical import decode_as
from mlsync.repository.encoding.room import Room, check_room
from mlsync.repository.encoding.validation import check_previous, is_time
from mlsync.repository.history.registered import ROOM_NAME, check_registered
from mlsync.repository.history.seen_decision import HALF_BYTES
from mlsync.repository.manifest import Previous
from mlsync.repository.sealed_object import DECISION

# With these bounds a decision is never larger than a sealed object may be.
PINS_MAX: Final = 1_000
ITEMS_MAX: Final = 100_000
REASON_BYTES_MAX: Final = 1_000
RULE_BYTES_MAX: Final = 200
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,62}")


class Pin(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A version that stays whatever any rule says; *name* is empty, or stands for the version in commands.

    *manifest* is the first half of the digest of the version's manifest.
    """

    version: int
    manifest: bytes
    name: str
    reason: str
    made_ns: int


class Forgotten(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A version that lists leave out, by what *rule*; all of it is still there, and it can be brought back."""

    version: int
    manifest: bytes
    rule: str
    forgotten_ns: int


class Gone(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Versions from *first* to *last* that may be deleted, or are; *forgotten_ns* is when the last was forgotten."""

    first: int
    last: int
    rule: str
    forgotten_ns: int


class Decision(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """All that is decided of a run's versions, from one decision to the next."""

    run: str
    number: int
    previous: Previous | None
    made_ns: int
    writer: str
    host: str
    pins: tuple[Pin, ...]
    forgotten: tuple[Forgotten, ...]
    gone: tuple[Gone, ...]
    room: Room = None


def is_pin_name(name: str) -> bool:
    """Return whether a pin can have this name: a letter, then letters, digits, ``.``, ``_`` and ``-``."""
    return _NAME.fullmatch(name) is not None


def decision_key(keys: Keys, run: str, number: int) -> str:
    """Return the name of a decision of a run."""
    return _key(keys, run_id(keys.of("run id"), run), number)


def tagged_number(keys: Keys, key: str) -> int | None:
    """Return the number of the decision that *key* names, ``None`` if nobody with the master key made that name."""
    parsed = names.parse_decision(key)
    if parsed is None or not hmac.compare_digest(key, _key(keys, *parsed)):
        return None
    return parsed[1]


def _key(keys: Keys, run: bytes, number: int) -> str:
    tag = keys.of("tag of decision", run + number.to_bytes(8, "little"))[: names.DECISION_TAG_BYTES]
    return names.decision(run, number, tag)


def seal(keys: Keys, decision: Decision, key: str) -> bytes:
    """Return the object of a decision; raise ``ManifestDamaged`` for one that readers would refuse."""
    check_decision(decision, key)
    return sealed_object.seal(keys, DECISION, key, msgspec.msgpack.encode(decision))


def open_decision(keys: Keys, key: str, body: bytes) -> tuple[Decision, bytes]:
    """Return a decision with its digest; raise ``ManifestDamaged`` or ``FormatUnsupported``."""
    decision = decode_as(sealed_object.open_(keys, DECISION, key, body), Decision, key)
    check_decision(decision, key)
    if decision_key(keys, decision.run, decision.number) != key:
        raise ManifestDamaged("the decision is another one than its name says", where=key)
    return decision, object_digest(body)


def check_decision(decision: Decision, where: str) -> None:
    """Raise ``ManifestDamaged`` unless a decision is as docs/format.md says."""
    if not 0 < decision.number <= names.VERSION_MAX or not is_time(decision.made_ns):
        raise ManifestDamaged("the decision's number or time is out of bounds", where=where)
    check_previous(decision.previous, decision.number, where)
    check_room(decision.room, "the decision", where, understood=(ROOM_NAME,))
    sizes = (len(decision.pins), PINS_MAX), (len(decision.forgotten), ITEMS_MAX), (len(decision.gone), ITEMS_MAX)
    if any(count > bound for count, bound in sizes):
        raise ManifestDamaged("the decision holds more than any of ours", where=where)
    if not (_are_pins(decision.pins) and _are_forgotten(decision.forgotten) and _are_gone(decision.gone)):
        raise ManifestDamaged("what the decision says of versions is not as any writer makes it", where=where)
    if not _are_apart(decision):
        raise ManifestDamaged("the decision says two things of one version", where=where)
    dropped = [(item.version, item.version) for item in decision.forgotten]
    check_registered(decision.room, dropped + [(one.first, one.last) for one in decision.gone], where)


def _are_pins(pins: Sequence[Pin]) -> bool:
    pin_names = [pin.name for pin in pins if pin.name]
    return (
        _rise(pin.version for pin in pins)
        and len(set(pin_names)) == len(pin_names)
        and all(map(is_pin_name, pin_names))
        and all(len(pin.manifest) == HALF_BYTES and is_time(pin.made_ns) for pin in pins)
        and all(len(pin.reason.encode()) <= REASON_BYTES_MAX for pin in pins)
    )


def _are_forgotten(items: Sequence[Forgotten]) -> bool:
    return _rise(item.version for item in items) and all(
        len(item.manifest) == HALF_BYTES and _is_rule(item.rule) and is_time(item.forgotten_ns) for item in items
    )


def _are_gone(ranges: Sequence[Gone]) -> bool:
    edges = [edge for one in ranges for edge in (2 * one.first, 2 * one.last + 1)]
    return (
        all(0 < one.first <= one.last <= names.VERSION_MAX for one in ranges)
        and all(map(int.__lt__, edges, edges[1:]))
        and all(_is_rule(one.rule) and is_time(one.forgotten_ns) for one in ranges)
    )


def _are_apart(decision: Decision) -> bool:
    """Return whether no version is two of pinned, forgotten and gone."""
    spans = [(pin.version, pin.version) for pin in decision.pins]
    spans += [(item.version, item.version) for item in decision.forgotten]
    spans += [(one.first, one.last) for one in decision.gone]
    spans.sort()
    return all(before[1] < after[0] for before, after in pairwise(spans))


def _is_rule(text: str) -> bool:
    return 0 < len(text.encode()) <= RULE_BYTES_MAX


def _rise(numbers: Iterable[int]) -> bool:
    listed = list(numbers)
    in_bounds = not listed or (listed[0] > 0 and listed[-1] <= names.VERSION_MAX)
    return in_bounds and all(map(int.__lt__, listed, listed[1:]))
