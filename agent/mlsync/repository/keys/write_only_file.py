"""The key file of a node that writes and cannot read: JSON, as docs/format.md describes it under "Key material"."""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final

import msgspec

from mlsync.codec import hpke
from mlsync.codec.digest import OBJECT_DIGEST_BYTES
from mlsync.codec.keys import EPOCH_MAX, KEY_BYTES, Keys
from mlsync.codec.write_only import RECIPIENT_ID_BYTES, RETIRED_TAG_BYTES, WriteOnlyKeys
from mlsync.errors import WriteOnlyKeyInvalid
from mlsync.repository import header
from mlsync.repository.encoding import tokens
from mlsync.repository.encoding.canonical import newer

_KIND: Final = "write-only-key"
_CHECK_BYTES: Final = 16


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file's fields, in their order; bytes are in base64."""

    mlsync: str
    format: int
    repository: str
    header: str
    epoch: int
    recipient: str
    public: str
    token: str
    chunk_names: str
    run_ids: str
    retired: str
    check: str


class _Claim(msgspec.Struct):
    mlsync: str
    format: int


# Made by the thread that imports this: a first decoding in several at once would crash.
_claim_decoder: Final = msgspec.json.Decoder(_Claim)
_decoder: Final = msgspec.json.Decoder(_File)


def is_write_only_file(body: bytes) -> bool:
    """Return whether *body* is, or was meant to be, such a file."""
    try:
        return _claim_decoder.decode(body).mlsync == _KIND
    except (ValueError, RecursionError):
        return False


def encode(keys: WriteOnlyKeys) -> bytes:
    """Return the file's bytes."""
    secrets = (keys.public, keys.token, keys.name_key, keys.run_key)
    public, token, chunk_names, run_ids = (base64.b64encode(one).decode() for one in secrets)
    file = _File(
        _KIND,
        tokens.FORMAT_VERSION,
        keys.repository_id.hex(),
        keys.header.hex(),
        keys.epoch,
        keys.recipient.hex(),
        public,
        token,
        chunk_names,
        run_ids,
        keys.retired.hex(),
        "",
    )
    return _write(msgspec.structs.replace(file, check=_check(file)))


def decode(body: bytes, where: str) -> WriteOnlyKeys:
    """Return the keys in a file; raise ``WriteOnlyKeyInvalid`` or ``FormatUnsupported``."""
    try:
        claim = _claim_decoder.decode(body)
        if claim.mlsync != _KIND:
            raise ValueError("it is something else")
        if claim.format > tokens.FORMAT_VERSION:
            raise newer(f"format {claim.format} of write-only keys is not known here", where)
        file = _decoder.decode(body)
        if file.check != _check(file):
            raise ValueError("its check is another: it was changed or cut")
        return _keys(file)
    except (ValueError, RecursionError, binascii.Error) as error:
        raise WriteOnlyKeyInvalid(f"this is no sound write-only key: {error}", where=where) from None


def new_keys(keys: Keys, *, conditional_create: bool) -> WriteOnlyKeys:
    """Return the keys for one more node, of a recipient of its own."""
    return WriteOnlyKeys.make(keys, header.digest_of(keys, conditional_create=conditional_create))


def _keys(file: _File) -> WriteOnlyKeys:
    ids = bytes.fromhex(file.repository), bytes.fromhex(file.header), bytes.fromhex(file.recipient)
    retired = bytes.fromhex(file.retired)
    secrets = [
        base64.b64decode(one, validate=True) for one in (file.public, file.token, file.chunk_names, file.run_ids)
    ]
    lengths = [len(one) for one in (*ids, *secrets, retired)]
    wanted = [
        header.ID_BYTES,
        OBJECT_DIGEST_BYTES,
        RECIPIENT_ID_BYTES,
        hpke.PUBLIC_BYTES,
        *[KEY_BYTES] * 3,
        RETIRED_TAG_BYTES,
    ]
    if lengths != wanted or not 0 <= file.epoch <= EPOCH_MAX or file.format != tokens.FORMAT_VERSION:
        raise ValueError("a value has another length")
    public, token, name_key, run_key = secrets
    return WriteOnlyKeys(
        repository_id=ids[0],
        header=ids[1],
        recipient=ids[2],
        recipient_epoch=file.epoch,
        public=public,
        token=token,
        name_key=name_key,
        run_key=run_key,
        retired=retired,
    )


def _check(file: _File) -> str:
    """Return what tells a typing error or a cut file; it is no secret and keeps nobody from changing the file."""
    return hashlib.sha256(msgspec.json.encode(msgspec.structs.replace(file, check=""))).digest()[:_CHECK_BYTES].hex()


def _write(file: _File) -> bytes:
    return msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n"
