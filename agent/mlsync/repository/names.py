"""The names of a repository's objects: random or keyed hexadecimal, and names of features; no run, path or user."""

from __future__ import annotations

import re
from typing import Final

from mlsync.codec.keys import EPOCH_MAX

HEADER: Final = "repository"
KEY_SLOTS: Final = "keys/"
PACKS: Final = "packs/"
VERSIONS: Final = "versions/"
TOMBSTONES: Final = "tombstones/"
LATER_PROOFS: Final = "proofs/"
EVALUATIONS: Final = "evaluations/"
FEATURES: Final = "features/"
COPIES: Final = "copies/"
DECISIONS: Final = "decisions/"
MOVES: Final = "moves/"
RUNS: Final = "runs/"
EPOCHS: Final = "epochs/"
OMISSIONS: Final = "omissions/"
PREFIXES: Final = (
    KEY_SLOTS,
    PACKS,
    VERSIONS,
    TOMBSTONES,
    LATER_PROOFS,
    EVALUATIONS,
    FEATURES,
    COPIES,
    DECISIONS,
    MOVES,
    RUNS,
    EPOCHS,
    OMISSIONS,
)

SLOT_ID_BYTES: Final = 16
PROOF_ID_BYTES: Final = 16
EVALUATION_ID_BYTES: Final = 16
OMISSION_ID_BYTES: Final = 16
FEATURE_TAG_BYTES: Final = 16
DECISION_TAG_BYTES: Final = 16
EPOCH_TAG_BYTES: Final = 16
VERSION_DIGITS: Final = 10
VERSION_MAX: Final = 10**VERSION_DIGITS - 1

_KEY_SLOT = re.compile(rf"{KEY_SLOTS}[0-9a-f]{{{2 * SLOT_ID_BYTES}}}")
_PACK = re.compile(rf"{PACKS}([0-9a-f]{{2}})/(\1[0-9a-f]{{30}})")
_VERSION = re.compile(rf"{VERSIONS}([0-9a-f]{{32}})/([0-9]{{{VERSION_DIGITS}}})")
_COPY = re.compile(rf"{COPIES}([0-9a-f]{{32}})/([0-9]{{{VERSION_DIGITS}}})")
_LATER_PROOF = re.compile(
    rf"{LATER_PROOFS}([0-9a-f]{{32}})/([0-9]{{{VERSION_DIGITS}}})/[0-9a-f]{{{2 * PROOF_ID_BYTES}}}"
)
_EVALUATION = re.compile(
    rf"{EVALUATIONS}([0-9a-f]{{32}})/([0-9]{{{VERSION_DIGITS}}})-[0-9a-f]{{{2 * EVALUATION_ID_BYTES}}}"
)
_FEATURE = re.compile(rf"{FEATURES}([a-z][a-z0-9-]{{0,62}})/[0-9a-f]{{{2 * FEATURE_TAG_BYTES}}}")
_DECISION = re.compile(
    rf"{DECISIONS}([0-9a-f]{{32}})/([0-9]{{{VERSION_DIGITS}}})-([0-9a-f]{{{2 * DECISION_TAG_BYTES}}})"
)
_REGISTRATION = re.compile(rf"{RUNS}([0-9a-f]{{32}})")
_EPOCH = re.compile(rf"{EPOCHS}([0-9]{{3}})(?:-copy|-[0-9a-f]{{{2 * EPOCH_TAG_BYTES}}})?")
_OMISSION = re.compile(rf"{OMISSIONS}([0-9a-f]{{32}})/[0-9a-f]{{{2 * OMISSION_ID_BYTES}}}")
_TOMBSTONE = re.compile(rf"{TOMBSTONES}([0-9a-f]{{32}})")
_MOVE = re.compile(rf"{MOVES}([0-9a-f]{{32}})")
# The folders in which a directory store keeps objects.
_FOLDER = re.compile(
    rf"{PACKS}[0-9a-f]{{2}}|{VERSIONS}[0-9a-f]{{32}}|{LATER_PROOFS}[0-9a-f]{{32}}(?:/[0-9]{{{VERSION_DIGITS}}})?"
    rf"|{FEATURES}[a-z][a-z0-9-]{{0,62}}|{COPIES}[0-9a-f]{{32}}|{DECISIONS}[0-9a-f]{{32}}"
    rf"|{EVALUATIONS}[0-9a-f]{{32}}|{OMISSIONS}[0-9a-f]{{32}}"
)


def key_slot(slot_id: bytes) -> str:
    """Return the name of a key slot."""
    return f"{KEY_SLOTS}{slot_id.hex()}"


def pack(pack_id: bytes) -> str:
    """Return the name of a pack; its first byte makes 256 folders, so that a directory store stays fast."""
    digits = pack_id.hex()
    return f"{PACKS}{digits[:2]}/{digits}"


def run_prefix(run_id: bytes) -> str:
    """Return the prefix of the names of a run's versions."""
    return f"{VERSIONS}{run_id.hex()}/"


def version(run_id: bytes, number: int) -> str:
    """Return the name of a version's manifest; the digits are padded, so that names sort in the order of versions."""
    return f"{run_prefix(run_id)}{number:0{VERSION_DIGITS}d}"


def copy_of(key: str) -> str:
    """Return the name of the second copy of the manifest *key*."""
    return f"{COPIES}{key.removeprefix(VERSIONS)}"


def copied(copy: str) -> str:
    """Return the name of the manifest whose second copy is *copy*."""
    return f"{VERSIONS}{copy.removeprefix(COPIES)}"


def run_proofs_prefix(run_id: bytes) -> str:
    """Return the prefix of the names of a run's later proofs."""
    return f"{LATER_PROOFS}{run_id.hex()}/"


def version_proofs_prefix(run_id: bytes, number: int) -> str:
    """Return the prefix of the names of a version's later proofs."""
    return f"{run_proofs_prefix(run_id)}{number:0{VERSION_DIGITS}d}/"


def later_proof(run_id: bytes, number: int, proof_id: bytes) -> str:
    """Return the name of a later proof; several machines may make one each."""
    return f"{version_proofs_prefix(run_id, number)}{proof_id.hex()}"


def run_evaluations_prefix(run_id: bytes) -> str:
    """Return the prefix of the names of the evaluations of a run's versions."""
    return f"{EVALUATIONS}{run_id.hex()}/"


def version_evaluations_prefix(run_id: bytes, number: int) -> str:
    """Return the prefix of the names of a version's evaluations."""
    return f"{run_evaluations_prefix(run_id)}{number:0{VERSION_DIGITS}d}-"


def evaluation(run_id: bytes, number: int, evaluation_id: bytes) -> str:
    """Return the name of an evaluation; a version may have several."""
    return f"{version_evaluations_prefix(run_id, number)}{evaluation_id.hex()}"


def run_decisions_prefix(run_id: bytes) -> str:
    """Return the prefix of the names of what was decided of a run's versions."""
    return f"{DECISIONS}{run_id.hex()}/"


def decision(run_id: bytes, number: int, tag: bytes) -> str:
    """Return the name of a decision; its *tag* takes the master key, so that nobody else can make such a name."""
    return f"{run_decisions_prefix(run_id)}{number:0{VERSION_DIGITS}d}-{tag.hex()}"


def decisions_after(run_id: bytes, number: int) -> str:
    """Return what a listing of a run's decisions above *number* begins after."""
    # "." comes right after "-", and before every digit.
    return f"{run_decisions_prefix(run_id)}{number:0{VERSION_DIGITS}d}." if number > 0 else ""


def tombstone(pack_id: bytes) -> str:
    """Return the name of the tombstone of a pack: the mark that it will be deleted."""
    return f"{TOMBSTONES}{pack_id.hex()}"


def move(pack_id: bytes) -> str:
    """Return the name of the record that says where the chunks of a pack were moved to."""
    return f"{MOVES}{pack_id.hex()}"


def registration(run_id: bytes) -> str:
    """Return the name of a run's registration: a prune learns from it of a run that has no version yet."""
    return f"{RUNS}{run_id.hex()}"


def run_omissions_prefix(run_id: bytes) -> str:
    """Return the prefix of the names of what says which of a run's versions a mirror does not have."""
    return f"{OMISSIONS}{run_id.hex()}/"


def omission(run_id: bytes, omission_id: bytes) -> str:
    """Return the name of what says which of a run's versions a mirror does not have; a run may have several."""
    return f"{run_omissions_prefix(run_id)}{omission_id.hex()}"


def parse_omission(key: str) -> bytes | None:
    """Return the run's id if *key* names what says which of its versions a mirror does not have."""
    match = _OMISSION.fullmatch(key)
    return bytes.fromhex(match[1]) if match else None


def is_key_slot(key: str) -> bool:
    """Return whether *key* names a key slot."""
    return _KEY_SLOT.fullmatch(key) is not None


def parse_pack(key: str) -> bytes | None:
    """Return the pack's id if *key* names a pack."""
    match = _PACK.fullmatch(key)
    return bytes.fromhex(match[2]) if match else None


def parse_version(key: str) -> tuple[bytes, int] | None:
    """Return the run's id and the version's number if *key* names a manifest."""
    match = _VERSION.fullmatch(key)
    return (bytes.fromhex(match[1]), int(match[2])) if match and int(match[2]) else None


def parse_copy(key: str) -> tuple[bytes, int] | None:
    """Return the run's id and the version's number if *key* names the second copy of a manifest."""
    match = _COPY.fullmatch(key)
    return (bytes.fromhex(match[1]), int(match[2])) if match and int(match[2]) else None


def parse_later_proof(key: str) -> tuple[bytes, int] | None:
    """Return the run's id and the version's number if *key* names a later proof."""
    match = _LATER_PROOF.fullmatch(key)
    return (bytes.fromhex(match[1]), int(match[2])) if match and int(match[2]) else None


def parse_evaluation(key: str) -> tuple[bytes, int] | None:
    """Return the run's id and the version's number if *key* names an evaluation."""
    match = _EVALUATION.fullmatch(key)
    return (bytes.fromhex(match[1]), int(match[2])) if match and int(match[2]) else None


def later_proof_id(key: str) -> bytes:
    """Return the id of the later proof that *key* names."""
    return bytes.fromhex(key.rpartition("/")[2])


def parse_decision(key: str) -> tuple[bytes, int] | None:
    """Return the run's id and the decision's number if *key* may name a decision; whether its tag is right is open."""
    match = _DECISION.fullmatch(key)
    return (bytes.fromhex(match[1]), int(match[2])) if match and int(match[2]) else None


def parse_tombstone(key: str) -> bytes | None:
    """Return the pack's id if *key* names a tombstone."""
    match = _TOMBSTONE.fullmatch(key)
    return bytes.fromhex(match[1]) if match else None


def parse_move(key: str) -> bytes | None:
    """Return the old pack's id if *key* names a move record."""
    match = _MOVE.fullmatch(key)
    return bytes.fromhex(match[1]) if match else None


def parse_registration(key: str) -> bytes | None:
    """Return the run's id if *key* names a registration."""
    match = _REGISTRATION.fullmatch(key)
    return bytes.fromhex(match[1]) if match else None


def feature(name: str, tag: bytes) -> str:
    """Return the name of the object that says that the repository uses a feature."""
    return f"{FEATURES}{name}/{tag.hex()}"


def parse_feature(key: str) -> str | None:
    """Return the feature if *key* names the object of one."""
    match = _FEATURE.fullmatch(key)
    return match[1] if match else None


def epoch(number: int) -> str:
    """Return the name of the object that holds the keys before an epoch."""
    return f"{EPOCHS}{number:03d}"


def epoch_copy(number: int) -> str:
    """Return the name of the second copy of an epoch's object."""
    return f"{epoch(number)}-copy"


def epoch_announced(number: int, tag: bytes) -> str:
    """Return the name of the object that announces an epoch to holders of the key before it."""
    return f"{epoch(number)}-{tag.hex()}"


def parse_epoch(key: str) -> int | None:
    """Return the epoch's number if *key* may name an object of one; whether a tag in it is right is open."""
    match = _EPOCH.fullmatch(key)
    return int(match[1]) if match and 0 < int(match[1]) <= EPOCH_MAX else None


def is_object(key: str) -> bool:
    """Return whether *key* names an object of ours other than the header."""
    parsers = (
        parse_pack,
        parse_version,
        parse_copy,
        parse_later_proof,
        parse_evaluation,
        parse_decision,
        parse_tombstone,
        parse_feature,
        parse_move,
        parse_registration,
        parse_epoch,
        parse_omission,
    )
    return is_key_slot(key) or any(parse(key) is not None for parse in parsers)


def is_folder(name: str) -> bool:
    """Return whether *name* is a folder for objects of ours, in a store with directories."""
    return _FOLDER.fullmatch(name) is not None
