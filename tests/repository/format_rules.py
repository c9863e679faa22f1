"""The rules of docs/format.md, written a second time, over plain values.

What the product takes is compared with this by the tests; nothing here comes from the product's code.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
import struct
from typing import Any

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM


class Broken(Exception):
    """A rule of the page is broken."""


class Newer(Exception):
    """A number above those of the page."""


def need(holds: object) -> None:
    """Break off unless a rule holds."""
    if not holds:
        raise Broken


def is_int(value: Any, low: int, high: int) -> bool:
    """Whether *value* is an int, and no bool, within bounds."""
    return type(value) is int and low <= value <= high


def array(value: Any, count: int | None = None) -> list[Any]:
    """An array, of exactly so many positions."""
    need(type(value) is list and count in (None, len(value)))
    return value


def token(value: Any, known: int, first: int = 1) -> None:
    """A number that names a kind: known, newer, or broken."""
    need(is_int(value, first, 255))
    if value > known:
        raise Newer


NUMBER = (1, 9_999_999_999)
COUNT, TIME, LEVEL = (0, (1 << 63) - 1), (-(1 << 63) + 1, (1 << 63) - 1), (0, 5)


def path(value: Any) -> bytes:
    """A path that stays in its tree."""
    need(type(value) is bytes and 0 < len(value) <= 65_536 and b"\0" not in value)
    need(not {b"", b".", b".."} & set(value.split(b"/")))
    return value


def table(value: Any) -> list[bytes]:
    """A table of packs."""
    packs = array(value)
    need(
        all(type(pack) is bytes and len(pack) == 18 for pack in packs)
        and len({pack[2:] for pack in packs}) == len(packs)
    )
    for pack in packs:
        token(pack[0], 2)
    return packs


def room(value: Any, *known: str) -> None:
    """The last position of what has room for additions."""
    if value is None:
        return
    need(type(value) is dict and value and all(type(name) is str for name in value))
    need(all(re.fullmatch("!?[a-z][a-z0-9-]{0,62}", name) for name in value))
    plain(value, 8)
    need(len(msgspec.msgpack.encode(value)) <= 64 << 10)
    if any(name[0] == "!" and name not in known for name in value):
        raise Newer


def plain(value: Any, depth: int) -> None:
    """A value of the room: no extension, maps in the order of their keys' bytes, nested so many times at most."""
    if type(value) in (list, dict):
        need(depth > 0)
    if type(value) is dict:
        need(all(type(name) is str for name in value))
        need([name.encode() for name in value] == sorted(name.encode() for name in value))
    else:
        need(type(value) in (type(None), bool, int, float, str, bytes, list))
    for one in value.values() if type(value) is dict else value if type(value) is list else ():
        plain(one, depth - 1)


def reference(value: Any, packs: list[bytes], *, may_differ: bool = True) -> int:
    """A chunk reference, of a difference or not; its plain length."""
    name, index, ordinal, offset, stored, plain, coding, base = array(value, 8)
    need(type(name) is bytes and type(index) is int and type(coding) is int)
    need(all(type(number) is int for number in (ordinal, offset, stored, plain)))
    need(0 <= index < len(packs))
    token(coding, 3, 0)
    need(len(name) == 32 and 0 <= ordinal < 65_536 and 48 <= offset <= 1 << 40)
    need(1 <= plain <= 16 << 20 and 17 <= stored <= plain + 16)
    need((coding == 3) == (base is not None) and (may_differ or base is None))
    if base is not None:
        need(reference(base, packs, may_differ=False) == plain and base[0] != name)
    return plain


def proof(value: Any) -> None:
    """A proof."""
    level, container, device, torch, proved, seconds, tensors, size, facts, findings, shortfall = array(value, 11)
    need(is_int(level, *LEVEL) and all(type(text) is str for text in (container, device, torch, shortfall)))
    need(is_int(proved, *TIME) and is_int(tensors, *COUNT) and is_int(size, *COUNT))
    need(type(seconds) is float and math.isfinite(seconds) and seconds >= 0)
    need(type(facts) is dict and all(type(name) is str for name in facts))
    need(all(type(fact) in (str, int, float, bool) for fact in facts.values()))
    for finding in array(findings):
        level, severity, text, record, offset = array(finding, 5)
        need(is_int(level, *LEVEL) and type(text) is str and type(record) in (str, type(None)))
        token(severity, 3)
        need(offset is None or is_int(offset, *COUNT))


def entry(value: Any, packs: list[bytes]) -> None:
    """An entry by itself."""
    where, kind, mode, owner, group, modified, size, target, digest, holes, chunks, proved, more = array(value, 13)
    token(kind, 4)
    path(where)
    need(is_int(mode, 0, 0o7777) and is_int(owner, 0, (1 << 32) - 2) and is_int(group, 0, (1 << 32) - 2))
    need(is_int(modified, *TIME) and is_int(size, *COUNT) and type(target) is bytes and type(digest) is bytes)
    need((kind in (3, 4)) == (target != b"") and b"\0" not in target)
    if kind == 4:
        path(target)
    lengths = [reference(chunk, packs) for chunk in array(chunks)]
    for hole in array(holes):
        need(all(type(number) is int for number in array(hole, 2)))
    if proved is not None:
        proof(proved)
    room(more)
    if more and "xattrs" in more:
        need(kind in (1, 2) and type(more["xattrs"]) is dict and more["xattrs"])
        for name, attribute in more["xattrs"].items():
            need(type(attribute) is bytes and "\0" not in name and len(name.encode()) <= 255)
            need(name in ("system.posix_acl_access", "system.posix_acl_default") or (name[:5] == "user." and name[5:]))
    if kind != 1:
        need(not size and not digest and not holes and not chunks and proved is None)
        return
    _laid_out(size, holes, lengths)
    need(digest)
    token(digest[0], 2)
    skipped = sum(length for _, length in holes)
    need(len(digest) == 33)
    need(skipped <= min(sum(lengths) + (1 << 20), 4 << 30) if digest[0] == 1 else skipped > 0)


def _laid_out(size: int, holes: list[list[int]], lengths: list[int]) -> None:
    """Chunks fill in order what the holes leave of the size."""
    at = 0
    rest = list(lengths)
    for offset, length in holes:
        need(length > 0 and offset >= at)
        while at < offset:
            need(rest)
            at += rest.pop(0)
        need(at == offset)
        at += length
    need(at + sum(rest) == size)


def tree(entries: list[list[Any]]) -> None:
    """Entries together."""
    directories, files, before = {b""}, set(), b""
    for one in entries:
        need(one[0] > before and one[0].rpartition(b"/")[0] in directories)
        before = one[0]
        if one[1] == 2:
            directories.add(one[0])
        if one[1] == 1:
            files.add(one[0])
    need(all(one[7] in files for one in entries if one[1] == 4))


def root(value: Any, run: str, number: int) -> None:
    """A root whose segments, if they stand inside, are opened up already; of that run and number."""
    fields = array(value, 16)
    need(type(fields[0]) is str and fields[0] == run and type(fields[1]) is int and fields[1] == number)
    need(is_int(fields[2], *TIME))
    if fields[3] is not None:
        before, digest = array(fields[3], 2)
        need(is_int(before, 1, number - 1) and type(digest) is bytes and len(digest) == 32)
    need(type(fields[4]) is str and type(fields[5]) is str and type(fields[6]) is bytes and is_int(fields[7], *LEVEL))
    summary(fields[8])
    for one in array(fields[9]):
        where, kind, text, kept = array(one, 4)
        path(where)
        token(kind, 3)
        need(type(text) is str and is_int(kept, 0, number - 1))
    packs = table(fields[10])
    entries = [one for segment in array(fields[11]) for one in segment_of(segment, packs)]
    tree(entries)
    identity, machine = array(fields[12], 2)
    need(type(identity) is bytes and len(identity) == 16 and type(machine) is bytes and len(machine) in (0, 16))
    if fields[13] is not None:
        mode, owner, group, modified = array(fields[13], 4)
        need(is_int(mode, 0, 0o7777) and is_int(owner, 0, (1 << 32) - 2) and is_int(group, 0, (1 << 32) - 2))
        need(is_int(modified, *TIME))
    need(all(type(note) is str for note in array(fields[14])))
    room(fields[15])
    if "later-proofs" in (fields[15] or {}):
        seen_proofs(fields[15]["later-proofs"], number)
    if "decision" in (fields[15] or {}):
        newest, half = array(fields[15]["decision"], 2)
        need(is_int(newest, *NUMBER) and type(half) is bytes and len(half) == 16)


def summary(value: Any) -> None:
    """A summary by itself."""
    *counts, level, device = array(value, 7)
    need(all(is_int(count, *COUNT) for count in counts) and is_int(level, *LEVEL) and type(device) is str)
    need(counts[4] or not level)


def segment_of(value: Any, packs: list[bytes]) -> list[list[Any]]:
    """The entries of a segment; those in chunks are not read here."""
    first, count, inline, chunks = array(value, 4)
    need(type(first) is bytes and type(count) is int)
    lengths = [reference(chunk, packs, may_differ=False) for chunk in array(chunks)]
    need((inline is None) == bool(lengths) and sum(lengths) <= 256 << 20)
    if inline is None:
        raise Broken  # the chunks of the tests' packs are no segments
    own, entries, more = array(inline, 3)
    own = table(own)
    room(more)
    for one in array(entries):
        entry(one, own)
    need(count == len(entries) and first == (entries[0][0] if entries else b""))
    return entries


def seen_proofs(value: Any, number: int) -> None:
    """What a root says of the later proofs of versions before its own."""
    need(array(value))
    before = 0
    for one in value:
        version, refused, count, heads = array(one, 4)
        need(is_int(version, before + 1, number - 1) and type(refused) is bool)
        links(heads)
        need(is_int(count, len(heads), COUNT[1]))
        before = version


def links(value: Any, own: bytes | None = None) -> None:
    """Links to later proofs."""
    need(array(value) and all(type(one) is bytes and len(one) == 32 for one in value))
    ids = [one[:16] for one in value]
    need(ids == sorted(set(ids)) and own not in ids)


def move(value: Any, pack: bytes) -> None:
    """The record of where the chunks of *pack* were moved to."""
    fields = array(value, 6)
    need(type(fields[0]) is bytes and fields[0] == pack and is_int(fields[1], *TIME) and type(fields[2]) is str)
    packs = table(fields[3])
    need(1 <= len(array(fields[4])) <= 65_536)
    for chunk in fields[4]:
        reference(chunk, packs, may_differ=False)
    chunk_names = [chunk[0] for chunk in fields[4]]
    need(chunk_names == sorted(set(chunk_names)))
    need({chunk[1] for chunk in fields[4]} == set(range(len(packs))) and pack not in {one[-16:] for one in packs})
    room(fields[5])


def later_proof(value: Any, run: str, number: int, manifest: bytes, own: bytes) -> None:
    """A later proof with the id *own* beside the version of that run, number and manifest."""
    fields = array(value, 11)
    room(fields[10])
    if "seen" in (fields[10] or {}):
        links(fields[10]["seen"], own)
    need(type(fields[0]) is str and fields[0] == run and type(fields[1]) is int and fields[1] == number)
    need(type(fields[2]) is bytes and fields[2] == manifest and is_int(fields[3], *TIME))
    need(type(fields[4]) is str and type(fields[5]) is str and type(fields[7]) is str)
    need(is_int(fields[6], *LEVEL) and is_int(fields[8], *COUNT))
    paths = []
    for one in array(fields[9]):
        where, proved = array(one, 2)
        paths.append(path(where))
        proof(proved)
    need(len(set(paths)) == len(paths))


def evaluation(value: Any, run: str, number: int, manifest: bytes) -> None:
    """An evaluation beside the version of that run, number and manifest."""
    fields = array(value, 13)
    room(fields[12])
    need(type(fields[0]) is str and fields[0] == run and type(fields[1]) is int and fields[1] == number)
    need(type(fields[2]) is bytes and fields[2] == manifest and is_int(fields[3], *TIME))
    need(all(type(fields[at]) is str for at in (4, 5, 6, 9)))
    need(0 < len(fields[6].encode()) <= 200 and type(fields[7]) is bytes and len(fields[7]) == 32)
    need(fields[8] == b"" or path(fields[8]))
    need(type(fields[10]) is float and math.isfinite(fields[10]) and fields[10] >= 0)
    called = []
    for one in array(fields[11]):
        name, measured = array(one, 2)
        need(type(name) is str and re.fullmatch(r"[^\x00-\x1f\x7f-\x9f]+", name) and len(name.encode()) <= 100)
        need(type(measured) is float and math.isfinite(measured))
        called.append(name.encode())
    need(1 <= len(called) <= 100 and called == sorted(set(called)))


def decision(value: Any, run: str, number: int) -> None:
    """A decision of that run and number."""
    fields = array(value, 10)
    room(fields[9], "!registered")
    need(type(fields[0]) is str and fields[0] == run and type(fields[1]) is int and fields[1] == number)
    if fields[2] is not None:
        before, digest = array(fields[2], 2)
        need(is_int(before, 1, number - 1) and type(digest) is bytes and len(digest) == 32)
    need(is_int(fields[3], *TIME) and type(fields[4]) is str and type(fields[5]) is str)
    pinned, called = [], []
    for version, half, name, reason, made in array(fields[6]) and [array(pin, 5) for pin in fields[6]]:
        need(is_int(version, *NUMBER) and type(half) is bytes and len(half) == 16 and is_int(made, *TIME))
        need(type(name) is str and re.fullmatch(r"([A-Za-z][A-Za-z0-9._-]{0,62})?", name, re.ASCII))
        need(type(reason) is str and len(reason.encode()) <= 1000)
        pinned.append(version)
        called += [name] if name else []
    need(pinned == sorted(set(pinned)) and len(called) == len(set(called)) and len(pinned) <= 1000)
    forgotten = []
    for version, half, *why in array(fields[7]) and [array(one, 4) for one in fields[7]]:
        need(is_int(version, *NUMBER) and type(half) is bytes and len(half) == 16)
        ruled(*why)
        forgotten.append(version)
    need(forgotten == sorted(set(forgotten)) and len(forgotten) <= 100_000)
    end = 0
    for first, last, *why in array(fields[8]) and [array(one, 4) for one in fields[8]]:
        need(is_int(first, end + 1, NUMBER[1]) and is_int(last, first, NUMBER[1]))
        ruled(*why)
        need(not any(first <= version <= last for version in (*pinned, *forgotten)))
        end = last
    need(len(fields[8]) <= 100_000 and not set(pinned) & set(forgotten))
    if "!registered" in (fields[9] or {}):
        registered(fields[9]["!registered"], forgotten, fields[8])


def registered(value: Any, forgotten: list[int], gone: list[Any]) -> None:
    """What is registered of versions that are neither forgotten nor gone."""
    need(type(value) is list and value)
    before: tuple[Any, ...] = ()
    for version, half, place, model, number, where, made in [array(one, 7) for one in value]:
        need(is_int(version, *NUMBER) and type(half) is bytes and len(half) == 16 and is_int(made, *TIME))
        need(is_int(number, 1, (1 << 63) - 1))
        need(all(type(text) is str and 1 <= len(text.encode()) <= 1000 for text in (place, model)))
        need(type(where) is bytes)
        if where:
            path(where)
        need(version not in forgotten and not any(first <= version <= last for first, last, *_ in gone))
        need(before < (version, place.encode(), model.encode(), number))
        before = version, place.encode(), model.encode(), number


def epoch(value: Any, number: int) -> None:
    """The object of the epoch of that number."""
    fields = array(value, 8)
    room(fields[7])
    need(type(fields[0]) is int and fields[0] == number and 1 <= number <= 255)
    masters = array(fields[1])
    need(len(masters) == number and all(type(one) is bytes and len(one) == 32 for one in masters))
    need(is_int(fields[2], *TIME) and type(fields[3]) is str and type(fields[4]) is str)
    keys = []
    for one in array(fields[5]):
        key, half = array(one, 2)
        need(type(key) is str and type(half) is bytes and len(half) == 16)
        need(re.fullmatch(r"versions/[0-9a-f]{32}/[0-9]{10}|decisions/[0-9a-f]{32}/[0-9]{10}-[0-9a-f]{32}", key))
        need(int(key.split("/")[2][:10]) > 0)
        keys.append(key)
    need(keys == sorted(keys) and len({key.rpartition("/")[0] for key in keys}) == len(keys))
    proofs = array(fields[6])
    need(all(type(one) is bytes and len(one) == 32 for one in proofs) and proofs == sorted(set(proofs)))


def ruled(rule: Any, when: Any) -> None:
    """By what rule a version was forgotten, and when."""
    need(type(rule) is str and 0 < len(rule.encode()) <= 200 and is_int(when, *TIME))


def fence(value: Any) -> None:
    """The body of a fence."""
    need(type(value) is bytes and len(value) == 28 and value[24:] == bytes(4))


def tombstone(value: Any) -> None:
    """A tombstone."""
    made, writer, more = array(value, 3)
    need(is_int(made, *TIME) and type(writer) is str)
    room(more)


def registration(value: Any, run: str) -> None:
    """A registration whose key has the id of that run."""
    name, made, writer, more = array(value, 4)
    need(type(name) is str and name == run and is_int(made, *TIME) and type(writer) is str)
    room(more)


def omission(value: Any, run: str) -> None:
    """An omission whose key has the id of that run."""
    name, made, writer, host, versions, more = array(value, 6)
    need(type(name) is str and name == run)
    need(is_int(made, *TIME) and type(writer) is str and type(host) is str)
    need(type(versions) is list and 0 < len(versions) <= 100_000)
    before = 0
    for one in versions:
        first, last = array(one, 2)
        need(is_int(first, before + 1, 9_999_999_999) and is_int(last, first, 9_999_999_999))
        before = last
    room(more)


# ---------------------------------------------------------------- key material, with an HPKE of its own


def sealed_manifest(body: bytes, name: str, master: bytes, repository_id: bytes) -> bytes:
    """The plain root of a manifest of key kind 2 and epoch 0, that is stored raw."""
    magic, version, kind, coding, plain_bytes, length, epoch, reserved, salt = struct.unpack_from("<8sHBBIHBB32s", body)
    need((magic, version, kind, coding, epoch, reserved) == (b"mlsyncM\0", 1, 2, 0, 0, 0))
    recipient, suite, zero = struct.unpack_from("<16sHH", body, 52)
    need(suite > 0)
    if suite > 1:
        raise Newer
    need(zero == 0 and length == 1188)
    parts = [_hkdf(master, repository_id, b"mlsync 1 recipient" + recipient + bytes([part])) for part in range(4)]
    try:
        secret = _hpke_open(
            parts[0] + parts[1], parts[2], body[72:1240], b"mlsync 1 sealed to" + repository_id + recipient
        )
        key = _hkdf(secret + parts[3], repository_id, b"mlsync 1 manifest" + salt)
        root = AESGCM(key).decrypt(bytes(12), body[1240:], body[:1240] + name.encode())
    except (InvalidTag, ValueError) as error:
        raise Broken from error
    need(len(root) == plain_bytes)
    return root


def _hpke_open(seed: bytes, private: bytes, sealed: bytes, info: bytes) -> bytes:
    """Open by HPKE as RFC 9180 has it, with X-Wing: the steps that the page only names."""
    lattice, curve = MLKEM768PrivateKey.from_seed_bytes(seed), X25519PrivateKey.from_private_bytes(private)
    share = sealed[1088:1120]
    both = lattice.decapsulate(sealed[:1088]) + curve.exchange(X25519PublicKey.from_public_bytes(share))
    shared = hashlib.sha3_256(both + share + curve.public_key().public_bytes_raw() + b"\\.//^\\").digest()
    suite = b"HPKE" + bytes.fromhex("647a 0001 0002")

    def extract(salt: bytes, label: bytes, value: bytes) -> bytes:
        return hmac.new(salt, b"HPKE-v1" + suite + label + value, "sha256").digest()

    def expand(key: bytes, label: bytes, value: bytes, length: int) -> bytes:
        labeled = struct.pack(">H", length) + b"HPKE-v1" + suite + label + value
        return hmac.new(key, labeled + b"\1", "sha256").digest()[:length]

    context = b"\0" + extract(b"", b"psk_id_hash", b"") + extract(b"", b"info_hash", info)
    secret = extract(shared, b"secret", b"")
    return AESGCM(expand(secret, b"key", context, 32)).decrypt(
        expand(secret, b"base_nonce", context, 12), sealed[1120:], b""
    )


def _hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """32 bytes of HKDF-SHA-256."""
    return hmac.new(hmac.new(salt, secret, "sha256").digest(), info + b"\1", "sha256").digest()
