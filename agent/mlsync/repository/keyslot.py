"""Key slots: the master key, wrapped once for each passphrase or key file.

A passphrase is stretched by Argon2id (RFC 9106; its second recommended setting, 64 MiB and three passes, by default);
a key file holds 32 random bytes or more and goes through HKDF alone. Each slot has a random salt, so the wrapping key
is used once and its nonce may be zero.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

import msgspec
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from mlsync.codec.keys import KEY_BYTES, MASTER_KEY_BYTES, derive
from mlsync.codec.sealing import NONCE_BYTES, TAG_BYTES, Seal, SealBroken
from mlsync.errors import ConfigInvalid, KeySlotDamaged, WrongPassphrase
from mlsync.repository.canonical import newer
from mlsync.repository.header import check_format
from mlsync.repository.tokens import FORMAT_VERSION

SLOT_BYTES_MAX: Final = 4096
SALT_BYTES: Final = 16
KEY_FILE_BYTES_MIN: Final = 32
_SEALED_BYTES: Final = MASTER_KEY_BYTES + TAG_BYTES
_ZERO_NONCE: Final = bytes(NONCE_BYTES)
_KEY_FILE_INFO: Final = b"mlsync 1 key file"

# A slot comes from a hostile store: what it may ask of memory and time is bounded before any of it is spent.
_MEMORY_KIB_MAX: Final = 1 << 20
_ITERATIONS_MAX: Final = 64
_LANES_MAX: Final = 64
# What a thread costs in each pass, however little memory it fills.
_LANE_KIB: Final = 64


@dataclass(frozen=True, slots=True, repr=False)
class Passphrase:
    """What a person typed; the repr hides it."""

    secret: bytes

    def __repr__(self) -> str:
        """Hide it."""
        return "Passphrase(...)"


@dataclass(frozen=True, slots=True, repr=False)
class KeyFile:
    """What a key file holds; the repr hides it."""

    secret: bytes

    def __repr__(self) -> str:
        """Hide it."""
        return "KeyFile(...)"


Unlock: TypeAlias = Passphrase | KeyFile


@dataclass(frozen=True, slots=True)
class Stretching:
    """What Argon2id costs whoever guesses; kept in the slot, so that it can grow with the years."""

    memory_kib: int = 64 << 10
    iterations: int = 3
    lanes: int = 4


Kind = Literal["passphrase", "key-file"]


class Slot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key slot as it is stored; *salt* and *sealed* in base64, the Argon2id numbers zero for a key file."""

    mlsync: str
    format: int
    repository: str
    kind: Kind
    salt: str
    memory_kib: int
    iterations: int
    lanes: int
    sealed: str

    def bound(self) -> bytes:
        """All of the slot but the sealed key: what the seal binds, so that no field can be changed."""
        return msgspec.json.encode(msgspec.structs.replace(self, sealed=""))


class _Claim(msgspec.Struct):
    mlsync: str
    format: int
    kind: str = ""


def make(unlock: Unlock, master: bytes, repository_id: bytes, salt: bytes, stretching: Stretching) -> bytes:
    """Return the bytes of a slot that gives *master* to whoever has *unlock*."""
    if isinstance(unlock, KeyFile):
        check_key_file(unlock)
        kind: Kind = "key-file"
        cost = Stretching(0, 0, 0)
    else:
        kind, cost = "passphrase", stretching
    salt_text = base64.b64encode(salt).decode()
    slot = Slot(
        "key-slot",
        FORMAT_VERSION,
        repository_id.hex(),
        kind,
        salt_text,
        cost.memory_kib,
        cost.iterations,
        cost.lanes,
        "",
    )
    sealed = Seal(_wrapping_key(slot, unlock, salt)).seal(_ZERO_NONCE, master, slot.bound())
    slot = msgspec.structs.replace(slot, sealed=base64.b64encode(sealed).decode())
    return _write(slot)


def parse(body: bytes, where: str) -> Slot:
    """Return the slot that *body* holds, or raise ``KeySlotDamaged`` or ``FormatUnsupported``."""
    try:
        claim = msgspec.json.decode(body, type=_Claim)
        if claim.mlsync != "key-slot":
            raise KeySlotDamaged("not a key slot", where=where)
        check_format(claim.format, where, KeySlotDamaged)
        if claim.kind not in get_args(Kind):
            # A kind to come (a key of a cloud's key service): whoever holds another slot is not kept out by it.
            raise newer(f"key slots of kind {claim.kind!r} are not known here", where)
        slot = msgspec.json.decode(body, type=Slot)
        lengths = len(_unbase64(slot.salt)), len(_unbase64(slot.sealed))
        if lengths != (SALT_BYTES, _SEALED_BYTES) or _write(slot) != body:
            raise ValueError("not written so by any mlsync")
    except (ValueError, RecursionError) as error:
        raise KeySlotDamaged(f"the key slot does not parse: {error}", where=where) from None
    numbers = (slot.memory_kib, slot.iterations, slot.lanes)
    bounds = (_MEMORY_KIB_MAX, _ITERATIONS_MAX, _LANES_MAX)
    if any(not 0 <= number <= bound for number, bound in zip(numbers, bounds, strict=True)):
        raise KeySlotDamaged("the key slot asks for more memory or time than any slot of ours", where=where)
    if slot.kind == "key-file" and any(numbers):
        raise KeySlotDamaged("the slot of a key file has a cost, as only a passphrase's has", where=where)
    return slot


def unwrap(slot: Slot, unlock: Unlock) -> bytes | None:
    """Return the master key, or ``None`` where *unlock* is not this slot's."""
    if (slot.kind == "key-file") != isinstance(unlock, KeyFile):
        return None
    sealed = base64.b64decode(slot.sealed)
    try:
        master = Seal(_wrapping_key(slot, unlock, base64.b64decode(slot.salt))).open(_ZERO_NONCE, sealed, slot.bound())
    except SealBroken:
        return None
    return master if len(master) == MASTER_KEY_BYTES else None


def cost(stretching: Stretching) -> int:
    """Return what a try costs, in KiB that are gone over: memory times passes, and what each lane costs by itself."""
    return stretching.iterations * (stretching.memory_kib + _LANE_KIB * stretching.lanes)


def cost_of(slot: Slot, unlock: Unlock) -> int:
    """Return what it costs to try *unlock* on a slot: nothing where no passphrase is stretched."""
    if slot.kind == "key-file" or isinstance(unlock, KeyFile):
        return 0
    return cost(Stretching(slot.memory_kib, slot.iterations, slot.lanes))


def check_key_file(unlock: KeyFile) -> None:
    """Refuse a key file so short that it could be a passphrase: it would be guessed, since it is not stretched."""
    if len(unlock.secret) < KEY_FILE_BYTES_MIN:
        what = f"a key file must hold at least {KEY_FILE_BYTES_MIN} random bytes, this one has {len(unlock.secret)}"
        raise ConfigInvalid(what, advice="make one with: head -c 32 /dev/urandom > FILE")


def wrong_unlock(unlock: Unlock, where: str) -> WrongPassphrase:
    """Return the error that says that no slot opened."""
    what = "the key file opens no key slot" if isinstance(unlock, KeyFile) else "the passphrase opens no key slot"
    return WrongPassphrase(what, where=where)


def _unbase64(text: str) -> bytes:
    """Return what *text* says; ``ValueError`` unless it is the one way to say it."""
    content = base64.b64decode(text, validate=True)
    if base64.b64encode(content).decode() != text:
        raise ValueError("base64 that is not as it is written")
    return content


def _write(slot: Slot) -> bytes:
    return msgspec.json.format(msgspec.json.encode(slot), indent=2) + b"\n"


def _wrapping_key(slot: Slot, unlock: Unlock, salt: bytes) -> bytes:
    if isinstance(unlock, KeyFile):
        return derive(unlock.secret, salt, _KEY_FILE_INFO)
    try:
        stretch = Argon2id(
            salt=salt, length=KEY_BYTES, iterations=slot.iterations, lanes=slot.lanes, memory_cost=slot.memory_kib
        )
    except ValueError as error:
        raise KeySlotDamaged(f"the key slot's Argon2id numbers are out of range: {error}") from None
    return stretch.derive(unlock.secret)
