"""The master keys of a repository by epoch: who has the newest one has all, and a retired one forges nothing new.

The object ``epochs/<n>`` is sealed under the master key of epoch n. It holds the master keys before it, and what was
there when the key was rotated: whatever is sealed with an older key and was not there then was written with a retired
key, and counts for nothing. Before it is written, ``epochs/<n>-<tag>`` announces it: the tag takes the retired key, so
that its holders learn that it is one, and whoever may only create objects stops nobody. See docs/format.md, "Epochs".
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from functools import partial
from typing import Final

import msgspec

from mlsync.codec.digest import object_digest
from mlsync.codec.keys import EPOCH_MAX, MASTER_KEY_BYTES, Keys
from mlsync.codec.write_only import WriteOnlyKeys, retired_tag
from mlsync.errors import Damage, FormatUnsupported, KeyRetired, ManifestDamaged, NotFound, ObjectMissing, StoreBroken
from mlsync.repository import names, sealed_object
from mlsync.repository.encoding.canonical import decode_as
from mlsync.repository.encoding.room import Room, check_room
from mlsync.repository.encoding.validation import is_time
from mlsync.repository.history.seen_decision import HALF_BYTES, half
from mlsync.repository.proof_links import link
from mlsync.repository.read_twice import read_twice
from mlsync.repository.sealed_object import EPOCH
from mlsync.store.base import Store

_LINK_BYTES: Final = names.PROOF_ID_BYTES + HALF_BYTES


class LastOne(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The newest version of a run, or its newest decision, when the key was rotated: its name, and half its digest."""

    key: str
    half: bytes


class EpochKeys(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What the object of an epoch holds: the master keys before it, and what was there when it began.

    *last* is by name, one of each kind for each run; *later_proofs* are links to all that there were, rising.
    """

    number: int
    masters: tuple[bytes, ...]
    made_ns: int
    writer: str
    host: str
    last: tuple[LastOne, ...]
    later_proofs: tuple[bytes, ...]
    room: Room = None

    def __repr__(self) -> str:
        """Return the number, and no secret."""
        return f"EpochKeys(number={self.number})"


# ---------------------------------------------------------------- the objects


def seal_epoch(keys: Keys, epoch: EpochKeys) -> bytes:
    """Return the object of the newest of *keys*; raise ``ManifestDamaged`` for one that readers would refuse."""
    key = names.epoch(epoch.number)
    check_epoch_keys(epoch, key)
    return sealed_object.seal(keys, EPOCH, key, msgspec.msgpack.encode(epoch))


def open_epoch(repository_id: bytes, number: int, master: bytes, body: bytes) -> EpochKeys:
    """Return what the object of an epoch holds; *master* is the master key of that epoch."""
    key = names.epoch(number)
    if sealed_object.epoch_of(body) != number:
        raise ManifestDamaged("the object of an epoch is sealed with the key of another one", where=key)
    # The other keys are what is looked for: nothing but this object is opened with these.
    alone = Keys(b"", repository_id, (b"",) * (number - 1) + (master,))
    epoch = decode_as(sealed_object.open_(alone, EPOCH, key, body), EpochKeys, key)
    check_epoch_keys(epoch, key)
    return epoch


def check_epoch_keys(epoch: EpochKeys, where: str) -> None:
    """Raise ``ManifestDamaged`` unless an epoch's object is as docs/format.md says."""
    if not 0 < epoch.number <= EPOCH_MAX or names.epoch(epoch.number) != where or not is_time(epoch.made_ns):
        raise ManifestDamaged("the epoch's number or time is not what it can be", where=where)
    if len(epoch.masters) != epoch.number or any(len(master) != MASTER_KEY_BYTES for master in epoch.masters):
        raise ManifestDamaged("the epoch has other keys than those before it", where=where)
    numbered = [_numbered(one.key) for one in epoch.last]
    series = {one[0] for one in numbered if one is not None}
    keys = [one.key for one in epoch.last]
    is_sound = (
        len(series) == len(numbered) and keys == sorted(keys) and all(len(one.half) == HALF_BYTES for one in epoch.last)
    )
    links = epoch.later_proofs
    if not is_sound or any(len(one) != _LINK_BYTES for one in links) or list(links) != sorted(set(links)):
        raise ManifestDamaged("what the epoch says was there is not as any writer makes it", where=where)
    check_room(epoch.room, "the epoch", where)


def _numbered(key: str) -> tuple[tuple[str, bytes], int] | None:
    """Return the series of a version or decision, and its number in it; ``None`` for another object."""
    for prefix, parse in ((names.VERSIONS, names.parse_version), (names.DECISIONS, names.parse_decision)):
        parsed = parse(key)
        if parsed is not None:
            return (prefix, parsed[0]), parsed[1]
    return None


# ---------------------------------------------------------------- finding them


def keys_of(store: Store, repository_id: bytes, epoch: int, master: bytes) -> Keys:
    """Return all keys, given the master key of an epoch; raise ``ObjectMissing`` or ``ManifestDamaged``."""
    if epoch == 0:
        return Keys(master, repository_id)
    first, *later = read_epoch(store, repository_id, epoch, master).masters
    return Keys(first, repository_id, (*later, master))


def read_epoch(store: Store, repository_id: bytes, number: int, master: bytes) -> EpochKeys:
    """Return what an epoch's object or its copy holds; raise ``ObjectMissing`` or ``ManifestDamaged``."""
    fault: Damage | FormatUnsupported | None = None
    for place in (names.epoch(number), names.epoch_copy(number)):
        try:
            return read_twice(partial(_read, store, place, repository_id, number, master))
        except NotFound:
            continue
        except (ManifestDamaged, FormatUnsupported) as error:
            fault = fault or error
    what = "the keys of the epochs before it are gone: the object and its copy are not in the store"
    raise fault or ObjectMissing(what, where=f"{store.url} {names.epoch(number)}")


def _read(store: Store, place: str, repository_id: bytes, number: int, master: bytes) -> EpochKeys:
    return open_epoch(repository_id, number, master, body_of(store, place))


def body_of(store: Store, place: str) -> bytes:
    """Return the bytes of an epoch's object or copy; raise ``NotFound`` or ``ManifestDamaged``."""
    try:
        return store.get(place, limit_bytes=sealed_object.OBJECT_BYTES_MAX)
    except StoreBroken as error:
        if not error.is_of_object:
            raise
        raise ManifestDamaged(f"the epoch was changed: {error.what}", where=place) from error


def announcement(keys: Keys, epoch: int) -> str:
    """Return the name of the object that says that the key of *epoch* is, or will be, replaced by the next one."""
    number = epoch + 1
    tag = keys.of("retired", bytes([number]), epoch=epoch)[: names.EPOCH_TAG_BYTES]
    return names.epoch_announced(number, tag)


def node_announcement(keys: Keys, epoch: int) -> str:
    """Return the name of the object that says the same to nodes that write and cannot read.

    They have its tag and not the other one: whoever takes a node over could stop all writers otherwise.
    """
    tag = retired_tag(keys, epoch)
    return names.epoch_announced(epoch + 1, tag)


def announcements(keys: Keys, epoch: int) -> tuple[str, str]:
    """Return the names of both."""
    return announcement(keys, epoch), node_announcement(keys, epoch)


def is_retired(store: Store, keys: Keys) -> bool:
    """Return whether the newest of these keys is retired: one request."""
    if keys.epoch == EPOCH_MAX:
        return False
    is_node = isinstance(keys, WriteOnlyKeys)
    try:
        store.stat(node_announcement(keys, keys.epoch) if is_node else announcement(keys, keys.epoch))
    except NotFound:
        return False
    return True


def retired(store: Store, keys: Keys) -> KeyRetired:
    """Return the error of a process that has only a retired key: nothing that it writes would count."""
    number = keys.epoch + 1
    try:
        store.stat(names.epoch(number))
    except NotFound:
        what = "a rotation of the repository's key began and has not ended; nothing can be written until it has"
        return KeyRetired(what, where=store.url, advice="mlsync key rotate, with the same secret, ends it")
    what = f"the repository's key was rotated; it is of epoch {number} now, and what opened it here gives an older one"
    if isinstance(keys, WriteOnlyKeys):
        advice = "make another write-only key where the repository opens: mlsync key add --write-only FILE"
        return KeyRetired(what, where=store.url, advice=advice)
    return KeyRetired(what, where=store.url)


# ---------------------------------------------------------------- what a retired key may have written


class _Bounds:
    """What was there when a key was retired."""

    def __init__(self, epoch: EpochKeys) -> None:
        self._last: dict[tuple[str, bytes], tuple[int, bytes]] = {}
        for one in epoch.last:
            numbered = _numbered(one.key)
            assert numbered is not None, "checked when it was read"
            self._last[numbered[0]] = numbered[1], one.half
        self._proofs = frozenset(epoch.later_proofs)

    def allow(self, key: str, digest: bytes) -> bool:
        """Return whether the object of that name and digest was there, as far as that is known.

        Of an older version or decision only the number counts: the one after it names its digest.
        """
        if names.parse_later_proof(key) is not None:
            return link(names.later_proof_id(key), digest) in self._proofs
        if names.parse_evaluation(key) is not None or names.parse_omission(key) is not None:
            # The rotation wrote those anew that were there, and a copier writes omissions anew.
            return False
        numbered = _numbered(key)
        if numbered is None:
            return True
        last_number, last_half = self._last.get(numbered[0], (0, b""))
        return numbered[1] < last_number or (numbered[1] == last_number and half(digest) == last_half)


class RetiredKeys:
    """Tells what a retired key wrote before it was retired from what was written with it afterwards.

    Used by several threads; reads the object of an epoch when it is first needed.
    """

    def __init__(self, store: Store, keys: Keys) -> None:
        self._store = store
        self._keys = keys
        self._known: dict[int, _Bounds] = {}
        self._lock = threading.Lock()

    def refuse(self, key: str, body: bytes) -> None:
        """Raise ``ManifestDamaged`` if an object that opened was sealed with a retired key after it was retired."""
        epoch = sealed_object.epoch_of(body)
        if epoch == self._keys.epoch or self._bounds(epoch).allow(key, object_digest(body)):
            return
        what = f"it was written with the retired key of epoch {epoch}, after the key was rotated"
        error = ManifestDamaged(what, where=key)
        error.is_retired = True
        raise error

    def _bounds(self, epoch: int) -> _Bounds:
        """Return what was there when the key of *epoch* was retired, or at the next rotation that is known."""
        with self._lock:
            if epoch not in self._known:
                self._known[epoch] = _Bounds(self._first_known(range(epoch + 1, self._keys.epoch + 1)))
            return self._known[epoch]

    def _first_known(self, numbers: Iterable[int]) -> EpochKeys:
        fault: Damage | FormatUnsupported | None = None
        for number in numbers:
            try:
                return read_epoch(self._store, self._keys.repository_id, number, self._keys.masters[number])
            except (Damage, FormatUnsupported) as error:
                fault = fault or error
        assert fault is not None, "an object that opened is of no later epoch than the newest"
        raise fault
