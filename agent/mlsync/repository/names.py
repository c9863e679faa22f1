"""The names of a repository's objects. They hold random or keyed hexadecimal only: no run, no path, no user."""

from __future__ import annotations

import re
from typing import Final

HEADER: Final = "repository"
KEY_SLOTS: Final = "keys/"
PACKS: Final = "packs/"
VERSIONS: Final = "versions/"
TOMBSTONES: Final = "tombstones/"
LATER_PROOFS: Final = "proofs/"
PREFIXES: Final = (KEY_SLOTS, PACKS, VERSIONS, TOMBSTONES, LATER_PROOFS)

SLOT_ID_BYTES: Final = 16
PROOF_ID_BYTES: Final = 16
VERSION_DIGITS: Final = 10
VERSION_MAX: Final = 10**VERSION_DIGITS - 1

_KEY_SLOT = re.compile(rf"{KEY_SLOTS}[0-9a-f]{{{2 * SLOT_ID_BYTES}}}")
_PACK = re.compile(rf"{PACKS}([0-9a-f]{{2}})/(\1[0-9a-f]{{30}})")
_VERSION = re.compile(rf"{VERSIONS}([0-9a-f]{{32}})/([0-9]{{{VERSION_DIGITS}}})")
_LATER_PROOF = re.compile(
    rf"{LATER_PROOFS}([0-9a-f]{{32}})/([0-9]{{{VERSION_DIGITS}}})/[0-9a-f]{{{2 * PROOF_ID_BYTES}}}"
)
_TOMBSTONE = re.compile(rf"{TOMBSTONES}([0-9a-f]{{32}})")
# What a directory store keeps objects in.
_FOLDER = re.compile(
    rf"{PACKS}[0-9a-f]{{2}}|{VERSIONS}[0-9a-f]{{32}}|{LATER_PROOFS}[0-9a-f]{{32}}(?:/[0-9]{{{VERSION_DIGITS}}})?"
)


def key_slot(slot_id: bytes) -> str:
    """Name a key slot."""
    return f"{KEY_SLOTS}{slot_id.hex()}"


def pack(pack_id: bytes) -> str:
    """Name a pack; the first byte makes 256 folders, so that a directory store stays quick."""
    digits = pack_id.hex()
    return f"{PACKS}{digits[:2]}/{digits}"


def run_prefix(run_id: bytes) -> str:
    """Name what all versions of a run begin with."""
    return f"{VERSIONS}{run_id.hex()}/"


def version(run_id: bytes, number: int) -> str:
    """Name a version's manifest; the digits are padded so that key order is the order of versions."""
    return f"{run_prefix(run_id)}{number:0{VERSION_DIGITS}d}"


def run_proofs_prefix(run_id: bytes) -> str:
    """Name what all later proofs of a run begin with."""
    return f"{LATER_PROOFS}{run_id.hex()}/"


def version_proofs_prefix(run_id: bytes, number: int) -> str:
    """Name what all later proofs of a version begin with."""
    return f"{run_proofs_prefix(run_id)}{number:0{VERSION_DIGITS}d}/"


def later_proof(run_id: bytes, number: int, proof_id: bytes) -> str:
    """Name a proof that was made later than its version; several machines may make one each."""
    return f"{version_proofs_prefix(run_id, number)}{proof_id.hex()}"


def tombstone(pack_id: bytes) -> str:
    """Name the mark that a pack is about to be deleted."""
    return f"{TOMBSTONES}{pack_id.hex()}"


def is_key_slot(key: str) -> bool:
    """Whether *key* names a key slot."""
    return _KEY_SLOT.fullmatch(key) is not None


def parse_pack(key: str) -> bytes | None:
    """Return the pack's id if *key* names a pack."""
    match = _PACK.fullmatch(key)
    return bytes.fromhex(match[2]) if match else None


def parse_version(key: str) -> tuple[bytes, int] | None:
    """Return the run's id and the version's number if *key* names a manifest."""
    match = _VERSION.fullmatch(key)
    return (bytes.fromhex(match[1]), int(match[2])) if match and int(match[2]) else None


def parse_later_proof(key: str) -> tuple[bytes, int] | None:
    """Return the run's id and the version's number if *key* names a later proof."""
    match = _LATER_PROOF.fullmatch(key)
    return (bytes.fromhex(match[1]), int(match[2])) if match and int(match[2]) else None


def parse_tombstone(key: str) -> bytes | None:
    """Return the pack's id if *key* names a tombstone."""
    match = _TOMBSTONE.fullmatch(key)
    return bytes.fromhex(match[1]) if match else None


def is_object(key: str) -> bool:
    """Whether *key* names an object of ours other than the header."""
    parsed = (parse_pack(key), parse_version(key), parse_later_proof(key), parse_tombstone(key))
    return is_key_slot(key) or any(found is not None for found in parsed)


def is_folder(name: str) -> bool:
    """Whether *name* is what objects of ours lie in, where a store has directories."""
    return _FOLDER.fullmatch(name) is not None
