"""How the key of a pack or manifest is had: derived from a master key, or sealed to a recipient's public key.

The object's header says which, and holds for the second kind the key material that the recipient opens. See
docs/format.md, "Key material".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from mlsync.codec import hpke
from mlsync.codec.keys import Keys, Purpose
from mlsync.codec.sealing import SealBroken
from mlsync.codec.write_only import RECIPIENT_ID_BYTES, WriteOnlyKeys, unwrapped_key
from mlsync.errors import Error, WriteOnly
from mlsync.repository.encoding.canonical import newer
from mlsync.repository.encoding.tokens import KEY_DERIVED, KEY_SEALED, KEY_SUITE

_HEAD: Final = struct.Struct(f"<{RECIPIENT_ID_BYTES}sHH")
#: The material of the suite that there is; a reader needs no more of an object to know its length.
MATERIAL_BYTES: Final = _HEAD.size + hpke.WRAPPED_BYTES


@dataclass(frozen=True, slots=True, repr=False)
class ObjectKey:
    """The key of one object, and what its header says of it."""

    kind: int
    epoch: int
    material: bytes
    key: bytes


def new_object_key(keys: Keys, purpose: Purpose, context: bytes) -> ObjectKey:
    """Return the key for a new object; *context* is random and stands in the object."""
    if isinstance(keys, WriteOnlyKeys):
        wrapped, key = keys.new_secret(purpose, context)
        return ObjectKey(KEY_SEALED, keys.epoch, _HEAD.pack(keys.recipient, KEY_SUITE, 0) + wrapped, key)
    return derived_key(keys, purpose, context, keys.epoch)


def derived_key(keys: Keys, purpose: Purpose, context: bytes, epoch: int) -> ObjectKey:
    """Return the key of an object of key kind 1."""
    return ObjectKey(KEY_DERIVED, epoch, b"", keys.of(purpose, context, epoch=epoch))


def made_key(keys: Keys, purpose: Purpose, context: bytes) -> ObjectKey | None:
    """Return the key that ``new_object_key`` gave for an object in this process, if it is of key kind 2."""
    made = keys.made(purpose, context) if isinstance(keys, WriteOnlyKeys) else None
    if made is None:
        return None
    material = _HEAD.pack(keys.recipient, KEY_SUITE, 0) + made.wrapped if isinstance(keys, WriteOnlyKeys) else b""
    return ObjectKey(KEY_SEALED, keys.epoch, material, made.key)


def opened_key(keys: Keys, purpose: Purpose, context: bytes, epoch: int, material: bytes) -> ObjectKey:
    """Return the key of an object of key kind 2, an epoch that is known, and sound *material*; or raise ``SealBroken``.

    Raise ``WriteOnly`` where only what this process wrote can be opened, and this is another object.
    """
    if isinstance(keys, WriteOnlyKeys):
        made = made_key(keys, purpose, context)
        if made is None:
            raise WriteOnly(f"this node can write to the repository and read nothing: it has no key for a {purpose}")
        if (made.epoch, made.material) != (epoch, material):
            raise SealBroken("the key material is not that which was written")
        return made
    recipient, wrapped = material[:RECIPIENT_ID_BYTES], material[_HEAD.size :]
    key = unwrapped_key(keys, recipient, epoch, wrapped, purpose, context)
    return ObjectKey(KEY_SEALED, epoch, material, key)


def check_material(material_bytes: int, material: bytes, where: str, damage: type[Error]) -> None:
    """Raise unless key material of key kind 2 is as a writer makes it, given its stated length and its bytes."""
    if len(material) < _HEAD.size:
        raise damage("the key material is cut short", where=where)
    _, suite, reserved = _HEAD.unpack_from(material)
    if suite < 1:
        raise damage(f"there is no suite {suite} of key material", where=where)
    if suite != KEY_SUITE:
        raise newer(f"suite {suite} of key material is not known here", where)
    if reserved or material_bytes != MATERIAL_BYTES or len(material) != MATERIAL_BYTES:
        raise damage("the key material has another length, or a reserved byte that is not 0", where=where)
