"""Key slots: the master key, wrapped once for each passphrase, key file, recovery key or key of AWS KMS.

Argon2id stretches a passphrase (RFC 9106; by default its second recommended setting, 64 MiB and three passes). A key
file holds 32 random bytes or more and a recovery key 32, and HKDF alone derives their wrapping keys. For a key of a key
service the secret is 32 random bytes, which the service wrapped and alone can unwrap; it never gets the master key.
Each slot has a random salt, so its wrapping key is used once, and the nonce may be zero.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias, get_args

import msgspec
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from mlsync.codec.keys import EPOCH_MAX, KEY_BYTES, MASTER_KEY_BYTES, derive
from mlsync.codec.sealing import NONCE_BYTES, TAG_BYTES, Seal, SealBroken
from mlsync.codec.write_only import WriteOnlyKeys
from mlsync.errors import ConfigInvalid, KeySlotDamaged, WriteOnly, WrongPassphrase
from mlsync.repository.encoding.canonical import newer
from mlsync.repository.encoding.tokens import FORMAT_VERSION
from mlsync.repository.header import check_format
from mlsync.repository.keys.remembered import Remembered

SLOT_BYTES_MAX: Final = 4096
SALT_BYTES: Final = 16
KEY_FILE_BYTES_MIN: Final = 32
_SEALED_BYTES: Final = MASTER_KEY_BYTES + TAG_BYTES
_ZERO_NONCE: Final = bytes(NONCE_BYTES)
_HKDF_INFO: Final = {
    "key-file": b"mlsync 1 key file",
    "recovery-key": b"mlsync 1 recovery key",
    "aws-kms": b"mlsync 1 aws kms",
}
SERVICE_SECRET_BYTES: Final = 32
# AWS KMS returns some 180 bytes for a secret of 32; the whole slot must fit into its bound.
WRAPPED_BYTES_MAX: Final = 1024
# Partition, region, account and id are bounded, and none holds what could mislead a terminal or a log.
_KMS_KEY: Final = re.compile(r"arn:aws[a-z-]{0,24}:kms:[a-z0-9-]{1,40}:[0-9]{12}:key/[A-Za-z0-9-]{1,64}")

# A slot comes from a hostile store: the memory and time that it may ask for are bounded before they are spent.
_MEMORY_KIB_MAX: Final = 1 << 20
_ITERATIONS_MAX: Final = 64
_LANES_MAX: Final = 64
# The cost of a thread in each pass, even if it fills little memory.
_LANE_KIB: Final = 64


class _Secret:
    """Bytes that open key slots; the repr hides them. It is no structure whose fields other printers would find."""

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @property
    def secret(self) -> bytes:
        """The bytes themselves."""
        return self._secret

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.secret == self._secret

    def __hash__(self) -> int:
        return hash((type(self), self._secret))

    def __repr__(self) -> str:
        """Return a text without the secret."""
        return f"{type(self).__name__}(...)"


class Passphrase(_Secret):
    """A passphrase as bytes."""


class KeyFile(_Secret):
    """The content of a key file."""


class RecoveryKey(_Secret):
    """The 32 bytes of a recovery key, which ``recovery_key`` writes and reads as text."""


@dataclass(frozen=True, slots=True, repr=False)
class WrappedSecret:
    """A new *secret*, as the key service *wrapped* it under its *key*, which has its full name; the repr hides it."""

    key: str
    secret: bytes
    wrapped: bytes

    def __repr__(self) -> str:
        """Return a text without the secret."""
        return f"WrappedSecret({self.key})"


class KeyService(Protocol):
    """One key of a key service, which never leaves the service.

    Its methods raise ``KeyServiceRefused``, and ``KeyServiceUnavailable`` for what may pass.
    """

    def may_be(self, key: str) -> bool:
        """Return whether this key may be the one with the full name *key*; ask nobody."""

    def wrap(self, context: Mapping[str, str]) -> WrappedSecret:
        """Return a new random secret of 32 bytes, which only opens with the same *context* again."""

    def unwrap(self, wrapped: bytes, context: Mapping[str, str]) -> bytes | None:
        """Return the secret, or ``None`` if *wrapped* is not from this key and *context*."""


class KmsKey(msgspec.Struct, frozen=True):
    """A key of AWS KMS: *service* asks for it. It holds no secret."""

    service: KeyService


# What opens a repository. The last one opens no slot, and what it opens can be written to and not read.
Unlock: TypeAlias = Passphrase | KeyFile | RecoveryKey | KmsKey | WriteOnlyKeys


class Stretching(msgspec.Struct, frozen=True):
    """The cost of Argon2id for each guess; kept in the slot, so that it can grow over the years."""

    memory_kib: int = 64 << 10
    iterations: int = 3
    lanes: int = 4


SlotKind = Literal["passphrase", "key-file", "recovery-key", "aws-kms"]


class Slot(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A key slot as it is stored: *salt*, *sealed* and *wrapped* in base64.

    The Argon2id numbers are zero but for a passphrase. *key*, the full name of a key of AWS KMS, and *wrapped*, the
    secret that KMS wrapped, are empty, and left out in the object, but for such a key.
    """

    mlsync: str
    format: int
    repository: str
    kind: SlotKind
    epoch: int
    salt: str
    memory_kib: int
    iterations: int
    lanes: int
    sealed: str
    key: str = ""
    wrapped: str = ""

    def bound(self) -> bytes:
        """Return the slot without the sealed key: the seal binds these bytes, so that no field can be changed."""
        return msgspec.json.encode(msgspec.structs.replace(self, sealed=""))

    def context(self) -> dict[str, str]:
        """Return what a key service binds to the secret of this slot; it is no secret, and services log it."""
        return {"mlsync": "key-slot", "repository": self.repository, "salt": self.salt}


class _Claim(msgspec.Struct):
    mlsync: str
    format: int
    kind: str = ""


# Made by the thread that imports this: a first decoding in several at once would crash.
_claim_decoder: Final = msgspec.json.Decoder(_Claim)
_slot_decoder: Final = msgspec.json.Decoder(Slot)


def make(
    unlock: Unlock, master: bytes, repository_id: bytes, salt: bytes, stretching: Stretching, *, epoch: int = 0
) -> bytes:
    """Return the bytes of a slot from which *unlock* obtains *master*, the master key of *epoch*.

    A key service is asked once.
    """
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
        epoch,
        salt_text,
        cost.memory_kib,
        cost.iterations,
        cost.lanes,
        "",
    )
    if isinstance(unlock, KmsKey):
        new = unlock.service.wrap(slot.context())
        slot = msgspec.structs.replace(slot, key=new.key, wrapped=base64.b64encode(new.wrapped).decode())
        wrapping = _derived(slot, new.secret, salt)
    else:
        wrapping = _own_wrapping_key(slot, unlock, salt)
    sealed = Seal(wrapping).seal(_ZERO_NONCE, master, slot.bound())
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
            # A future kind (a key of another key service) must not keep out those who hold another slot.
            raise newer(f"key slots of kind {claim.kind!r} are not known here", where)
        slot = _slot_decoder.decode(body)
        lengths = len(_unbase64(slot.salt)), len(_unbase64(slot.sealed))
        if lengths != (SALT_BYTES, _SEALED_BYTES) or _write(slot) != body:
            raise ValueError("not written so by any mlsync")
        _check_service(slot)
    except (ValueError, RecursionError) as error:
        raise KeySlotDamaged(f"the key slot does not parse: {error}", where=where) from None
    if not 0 <= slot.epoch <= EPOCH_MAX:
        raise KeySlotDamaged(f"there is no epoch {slot.epoch}", where=where)
    numbers = (slot.memory_kib, slot.iterations, slot.lanes)
    bounds = (_MEMORY_KIB_MAX, _ITERATIONS_MAX, _LANES_MAX)
    if any(not 0 <= number <= bound for number, bound in zip(numbers, bounds, strict=True)):
        raise KeySlotDamaged("the key slot asks for more memory or time than any slot of ours", where=where)
    if slot.kind != "passphrase" and any(numbers):
        what = f"the slot of a {noun(slot.kind)} has a cost, which only a slot of a passphrase may have"
        raise KeySlotDamaged(what, where=where)
    return slot


def unwrap(slot: Slot, unlock: Unlock, remembered: Remembered | None = None) -> bytes | None:
    """Return the master key, or ``None`` if *unlock* does not open this slot.

    A passphrase is not stretched if *remembered* knows what that comes to.
    """
    if slot.kind != kind_of(unlock):
        return None
    if remembered is not None and isinstance(unlock, Passphrase):
        return _unwrap_remembered(slot, unlock, remembered)
    wrapping = _wrapping_key(slot, unlock, base64.b64decode(slot.salt))
    return None if wrapping is None else _opened(slot, wrapping)


def _unwrap_remembered(slot: Slot, unlock: Passphrase, remembered: Remembered) -> bytes | None:
    stored = _write(slot)
    known = remembered.find(stored, slot.repository, unlock.secret)
    master = None if known is None else _opened(slot, known)
    if master is not None:
        return master
    wrapping = _own_wrapping_key(slot, unlock, base64.b64decode(slot.salt))
    master = _opened(slot, wrapping)
    if master is not None:
        remembered.keep(stored, slot.repository, unlock.secret, wrapping)
    return master


def _opened(slot: Slot, wrapping: bytes) -> bytes | None:
    """Return the master key if *wrapping* is what seals it."""
    sealed = base64.b64decode(slot.sealed)
    try:
        master = Seal(wrapping).open(_ZERO_NONCE, sealed, slot.bound())
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


def asks_a_service(slot: Slot, unlock: Unlock) -> bool:
    """Return whether trying *unlock* on a slot asks a key service, as it does if the slot may be of its key."""
    return slot.kind == "aws-kms" and isinstance(unlock, KmsKey) and unlock.service.may_be(slot.key)


def check_key_file(unlock: KeyFile) -> None:
    """Raise ``ConfigInvalid`` for a short key file: it could be guessed, since it is not stretched."""
    if len(unlock.secret) < KEY_FILE_BYTES_MIN:
        what = f"a key file must hold at least {KEY_FILE_BYTES_MIN} random bytes, this one has {len(unlock.secret)}"
        raise ConfigInvalid(what, advice="make one with: head -c 32 /dev/urandom > FILE")


def wrong_unlock(unlock: Unlock, where: str) -> WrongPassphrase:
    """Return the error for the case that no slot opened."""
    if isinstance(unlock, KmsKey):
        what, add = "this key of AWS KMS opens no key slot", "mlsync key add --new-kms KEY"
        return WrongPassphrase(what, where=where, advice=f"to add one, opened with another passphrase or key: {add}")
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
        case KmsKey():
            return "aws-kms"
        case WriteOnlyKeys():
            raise WriteOnly("a write-only key is no key slot's")


def noun(kind: SlotKind) -> str:
    """Return the words for a kind in messages."""
    return "key of AWS KMS" if kind == "aws-kms" else kind.replace("-", " ")


def _unbase64(text: str) -> bytes:
    """Return the decoded *text*; raise ``ValueError`` unless it is in the canonical encoding."""
    content = base64.b64decode(text, validate=True)
    if base64.b64encode(content).decode() != text:
        raise ValueError("base64 that is not as it is written")
    return content


def _write(slot: Slot) -> bytes:
    return msgspec.json.format(msgspec.json.encode(slot), indent=2) + b"\n"


def _check_service(slot: Slot) -> None:
    """Raise ``ValueError`` unless a slot of AWS KMS, and no other, has a key and a wrapped secret."""
    if slot.kind != "aws-kms":
        if slot.key or slot.wrapped:
            raise ValueError(f"a {noun(slot.kind)} has what only a key of AWS KMS may have")
        return
    if not is_kms_key(slot.key):
        raise ValueError("it names no key of AWS KMS")
    wrapped_bytes = len(_unbase64(slot.wrapped))
    if not 1 <= wrapped_bytes <= WRAPPED_BYTES_MAX:
        raise ValueError(f"a wrapped secret of {wrapped_bytes} bytes; 1 to {WRAPPED_BYTES_MAX} are possible")


def is_kms_key(text: str) -> bool:
    """Return whether *text* is the full name of a key of AWS KMS, as slots have it."""
    return _KMS_KEY.fullmatch(text) is not None


def _derived(slot: Slot, secret: bytes, salt: bytes) -> bytes:
    return derive(secret, salt, _HKDF_INFO[slot.kind])


def _wrapping_key(slot: Slot, unlock: Unlock, salt: bytes) -> bytes | None:
    """Return the key that seals the master key in a slot, ``None`` if a key service says that the slot is not its."""
    if not isinstance(unlock, KmsKey):
        return _own_wrapping_key(slot, unlock, salt)
    if not asks_a_service(slot, unlock):
        return None
    secret = unlock.service.unwrap(base64.b64decode(slot.wrapped), slot.context())
    return None if secret is None else _derived(slot, secret, salt)


def _own_wrapping_key(slot: Slot, unlock: Passphrase | KeyFile | RecoveryKey | WriteOnlyKeys, salt: bytes) -> bytes:
    if isinstance(unlock, WriteOnlyKeys):
        raise WriteOnly("a write-only key opens no key slot, and none is made for it")
    if not isinstance(unlock, Passphrase):
        return _derived(slot, unlock.secret, salt)
    try:
        stretch = Argon2id(
            salt=salt, length=KEY_BYTES, iterations=slot.iterations, lanes=slot.lanes, memory_cost=slot.memory_kib
        )
    except ValueError as error:
        raise KeySlotDamaged(f"the key slot's Argon2id numbers are out of range: {error}") from None
    return stretch.derive(unlock.secret)
