"""Key slots: the master key, wrapped once for each passphrase, key file or recovery key.

Argon2id stretches a passphrase (RFC 9106; by default its second recommended setting, 64 MiB and three passes). A key
file holds 32 random bytes or more and a recovery key 32, and HKDF alone derives their wrapping keys. Each slot has a
random salt, so its wrapping key is used once, and the nonce may be zero.
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
_HKDF_INFO: Final = {"key-file": b"mlsync 1 key file", "recovery-key": b"mlsync 1 recovery key"}

# A slot comes from a hostile store: the memory and time that it may ask for are bounded before they are spent.
_MEMORY_KIB_MAX: Final = 1 << 20
_ITERATIONS_MAX: Final = 64
_LANES_MAX: Final = 64
# The cost of a thread in each pass, even if it fills little memory.
_LANE_KIB: Final = 64


@dataclass(frozen=True, slots=True, repr=False)
class Passphrase:
    """A passphrase as bytes; the repr hides it."""

    secret: bytes

    def __repr__(self) -> str:
        """Return a text without the secret."""
        return "Passphrase(...)"


@dataclass(frozen=True, slots=True, repr=False)
class KeyFile:
    """The content of a key file; the repr hides it."""

    secret: bytes

    def __repr__(self) -> str:
        """Return a text without the secret."""
        return "KeyFile(...)"


@dataclass(frozen=True, slots=True, repr=False)
class RecoveryKey:
    """The 32 bytes of a recovery key, which ``recovery_key`` writes and reads as text; the repr hides them."""

    secret: bytes

    def __repr__(self) -> str:
        """Return a text without the secret."""
        return "RecoveryKey(...)"


Unlock: TypeAlias = Passphrase | KeyFile | RecoveryKey


@dataclass(frozen=True, slots=True)
class Stretching:
    """The cost of Argon2id for each guess; kept in the slot, so that it can grow over the years."""

    memory_kib: int = 64 << 10
    iterations: int = 3
    lanes: int = 4


SlotKind = Literal["passphrase", "key-file", "recovery-key"]


class Slot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key slot as it is stored: *salt* and *sealed* in base64, and the Argon2id numbers zero but for a passphrase."""

    mlsync: str
    format: int
    repository: str
    kind: SlotKind
    salt: str
    memory_kib: int
    iterations: int
    lanes: int
    sealed: str

    def bound(self) -> bytes:
        """Return the slot without the sealed key: the seal binds these bytes, so that no field can be changed."""
        return msgspec.json.encode(msgspec.structs.replace(self, sealed=""))


class _Claim(msgspec.Struct):
    mlsync: str
    format: int
    kind: str = ""


# Made by the thread that imports this: a first decoding in several at once would crash.
_claim_decoder: Final = msgspec.json.Decoder(_Claim)
_slot_decoder: Final = msgspec.json.Decoder(Slot)


def make(unlock: Unlock, master: bytes, repository_id: bytes, salt: bytes, stretching: Stretching) -> bytes:
    """Return the bytes of a slot from which *unlock* obtains *master*."""
    if isinstance(unlock, KeyFile):
        check_key_file(unlock)
    kind = kind_of(unlock)
    cost = stretching if kind == "passphrase" else Stretching(0, 0, 0)
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
        claim = _claim_decoder.decode(body)
        if claim.mlsync != "key-slot":
            raise KeySlotDamaged("not a key slot", where=where)
        check_format(claim.format, where, KeySlotDamaged)
        if claim.kind not in get_args(SlotKind):
            # A future kind (a key of a cloud's key service) must not keep out those who hold another slot.
            raise newer(f"key slots of kind {claim.kind!r} are not known here", where)
        slot = _slot_decoder.decode(body)
        lengths = len(_unbase64(slot.salt)), len(_unbase64(slot.sealed))
        if lengths != (SALT_BYTES, _SEALED_BYTES) or _write(slot) != body:
            raise ValueError("not written so by any mlsync")
    except (ValueError, RecursionError) as error:
        raise KeySlotDamaged(f"the key slot does not parse: {error}", where=where) from None
    numbers = (slot.memory_kib, slot.iterations, slot.lanes)
    bounds = (_MEMORY_KIB_MAX, _ITERATIONS_MAX, _LANES_MAX)
    if any(not 0 <= number <= bound for number, bound in zip(numbers, bounds, strict=True)):
        raise KeySlotDamaged("the key slot asks for more memory or time than any slot of ours", where=where)
    if slot.kind != "passphrase" and any(numbers):
        what = f"the slot of a {noun(slot.kind)} has a cost, which only a slot of a passphrase may have"
        raise KeySlotDamaged(what, where=where)
    return slot


def unwrap(slot: Slot, unlock: Unlock) -> bytes | None:
    """Return the master key, or ``None`` if *unlock* does not open this slot."""
    if slot.kind != kind_of(unlock):
        return None
    sealed = base64.b64decode(slot.sealed)
    try:
        master = Seal(_wrapping_key(slot, unlock, base64.b64decode(slot.salt))).open(_ZERO_NONCE, sealed, slot.bound())
    except SealBroken:
        return None
    return master if len(master) == MASTER_KEY_BYTES else None


def cost(stretching: Stretching) -> int:
    """Return the cost of a try in KiB: memory times passes, and the fixed cost of each lane."""
    return stretching.iterations * (stretching.memory_kib + _LANE_KIB * stretching.lanes)


def cost_of(slot: Slot, unlock: Unlock) -> int:
    """Return the cost of trying *unlock* on a slot: 0 unless a passphrase is stretched."""
    if slot.kind != "passphrase" or not isinstance(unlock, Passphrase):
        return 0
    return cost(Stretching(slot.memory_kib, slot.iterations, slot.lanes))


def check_key_file(unlock: KeyFile) -> None:
    """Raise ``ConfigInvalid`` for a short key file: it could be guessed, since it is not stretched."""
    if len(unlock.secret) < KEY_FILE_BYTES_MIN:
        what = f"a key file must hold at least {KEY_FILE_BYTES_MIN} random bytes, this one has {len(unlock.secret)}"
        raise ConfigInvalid(what, advice="make one with: head -c 32 /dev/urandom > FILE")


def wrong_unlock(unlock: Unlock, where: str) -> WrongPassphrase:
    """Return the error for the case that no slot opened."""
    return WrongPassphrase(f"wrong {noun(kind_of(unlock))}: it opens no key slot", where=where)


def kind_of(unlock: Unlock) -> SlotKind:
    """Return the kind of slot that *unlock* opens."""
    match unlock:
        case Passphrase():
            return "passphrase"
        case KeyFile():
            return "key-file"
        case RecoveryKey():
            return "recovery-key"


def noun(kind: SlotKind) -> str:
    """Return the words for a kind in messages."""
    return kind.replace("-", " ")


def _unbase64(text: str) -> bytes:
    """Return the decoded *text*; raise ``ValueError`` unless it is in the canonical encoding."""
    content = base64.b64decode(text, validate=True)
    if base64.b64encode(content).decode() != text:
        raise ValueError("base64 that is not as it is written")
    return content


def _write(slot: Slot) -> bytes:
    return msgspec.json.format(msgspec.json.encode(slot), indent=2) + b"\n"


def _wrapping_key(slot: Slot, unlock: Unlock, salt: bytes) -> bytes:
    if not isinstance(unlock, Passphrase):
        return derive(unlock.secret, salt, _HKDF_INFO[kind_of(unlock)])
    try:
        stretch = Argon2id(
            salt=salt, length=KEY_BYTES, iterations=slot.iterations, lanes=slot.lanes, memory_cost=slot.memory_kib
        )
    except ValueError as error:
        raise KeySlotDamaged(f"the key slot's Argon2id numbers are out of range: {error}") from None
    return stretch.derive(unlock.secret)
