"""Look at every object and reference of the repository, go on after each problem, and name them all.

What is wrong (*problems*) is told apart from what could not be looked at (*unchecked*: a newer mlsync's, or in cold
storage), and from what is odd and harms nothing (*oddities*: what is not ours, or only looks like it).
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from mlsync.codec.digest import file_digester
from mlsync.errors import (
    Damage,
    Error,
    FormatUnsupported,
    KeyProblem,
    ManifestDamaged,
    NotFound,
    ObjectArchived,
    StoreBroken,
)
from mlsync.monitor import Monitor
from mlsync.repository import names
from mlsync.repository.manifest import Entry, Previous
from mlsync.repository.repository import Repository, Stored
from mlsync.repository.segments import segment_refs
from mlsync.repository.tokens import EntryKind
from mlsync.source.paths import display
from mlsync.store.base import ObjectInfo
from mlsync.upkeep.check_packs import PackCheck
from mlsync.upkeep.faults import Faults
from mlsync.upkeep.references import References
from mlsync.versions.proof_status import summed, with_proofs

Version = tuple[str, int]

# What says something about one object; any other error of the store ends the check.
_OF_OBJECT: Final = (Damage, FormatUnsupported, ObjectArchived, NotFound)
_NOT_READ: Final = (FormatUnsupported, ObjectArchived)
_EMPTY_DIGEST: Final = file_digester().digest()
_ALMOST_VERSION: Final = re.compile(rf"{names.VERSIONS}[0-9a-f]{{32}}/([0-9]{{{names.VERSION_DIGITS}}})(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong with an object, or unknown of it, and the versions (run, number) that it touches."""

    key: str
    text: str
    versions: tuple[Version, ...] = ()


@dataclass(slots=True)
class CheckResult:
    """What a check saw; *unused_packs* are of backups that did not end, and no problem.

    *left_open* is the error to end with where a version could not be looked at whole, and nothing was wrong.
    """

    run_count: int = 0
    version_count: int = 0
    pack_count: int = 0
    pack_bytes: int = 0
    chunk_count: int = 0
    read_bytes: int = 0
    unused_packs: int = 0
    problems: list[Problem] = field(default_factory=list)
    unchecked: list[Problem] = field(default_factory=list)
    oddities: list[Problem] = field(default_factory=list)
    left_open: Error | None = None


def check(repository: Repository, monitor: Monitor, *, read_data: bool = False) -> CheckResult:
    """Return all problems of the repository.

    With *read_data* every byte of every pack is read and opened, and each file's content is compared with its digest.
    """
    return _Check(repository, monitor, read_data=read_data).run()


class _Check:
    def __init__(self, repository: Repository, monitor: Monitor, *, read_data: bool) -> None:
        self._repository = repository
        self._monitor = monitor
        self._read_data = read_data
        self._result = CheckResult()
        self._faults = Faults()
        self._references = References()
        self._packs: dict[bytes, ObjectInfo] = {}
        self._proofs: dict[tuple[bytes, int], list[str]] = defaultdict(list)
        self._runs: dict[bytes, list[int]] = defaultdict(list)
        self._opened: list[tuple[bytes, int]] = []
        self._ended_early = False

    def run(self) -> CheckResult:
        self._list_all()
        self._check_key_slots()
        self._check_versions()
        self._check_proofs_without_version()
        if self._ended_early:
            self._look_for_unlisted_packs()
        packs = PackCheck(self._repository, self._monitor, self._references, self._faults, self._packs)
        packs.check(read_data=self._read_data)
        self._attribute()
        result = self._result
        result.run_count, result.read_bytes = len(self._runs), packs.read_bytes
        result.pack_count = len(self._packs)
        result.pack_bytes = sum(info.size_bytes for info in self._packs.values())
        result.chunk_count = sum(map(len, self._references.packs.values()))
        result.unused_packs = len(self._packs.keys() - self._references.packs.keys())
        return result

    def _problem(self, key: str, text: str, version: Version | None = None) -> None:
        self._result.problems.append(Problem(key, text, () if version is None else (version,)))

    def _odd(self, key: str, text: str) -> None:
        self._result.oddities.append(Problem(key, text))

    def _failed(self, key: str, error: Error, version: Version | None = None, *, leaves_open: bool = True) -> None:
        """Name what an object answered: as a problem, or as not looked at."""
        if not isinstance(error, _NOT_READ):
            self._problem(key, error.what, version)
            return
        self._result.unchecked.append(Problem(key, _unchecked_text(error), () if version is None else (version,)))
        if leaves_open:
            self._result.left_open = self._result.left_open or error

    # ------------------------------------------------------------ what there is

    def _list_all(self) -> None:
        """Sort what lies under our prefixes; what is none of our objects is odd, and left alone."""
        self._look_for_strays()
        for info in self._listed(names.PACKS):
            pack_id = names.parse_pack(info.key)
            if pack_id is None:
                self._odd(info.key, "not an object of ours: it is left alone")
            else:
                self._packs[pack_id] = info
        for info in self._listed(names.VERSIONS):
            version = names.parse_version(info.key)
            if version is None:
                self._odd(info.key, _odd_version_text(info.key))
            else:
                self._runs[version[0]].append(version[1])
        for info in self._listed(names.LATER_PROOFS):
            version = names.parse_later_proof(info.key)
            if version is None:
                self._odd(info.key, "not an object of ours: it is left alone")
            else:
                self._proofs[version].append(info.key)
        for info in self._listed(names.TOMBSTONES):
            pack_id = names.parse_tombstone(info.key)
            if pack_id is None:
                self._odd(info.key, "not an object of ours: it is left alone")
            elif pack_id not in self._packs:
                self._problem(info.key, "a tombstone of a pack that is not in the store")

    def _look_for_strays(self) -> None:
        """Name what the store does not list: a problem where an object belongs, and odd elsewhere."""
        for prefix in names.PREFIXES:
            for name, what in self._repository.store.strays(prefix):
                shown = display(os.fsencode(name))
                if names.is_object(name):
                    self._problem(shown, f"{what} stands where an object belongs")
                elif what != "a directory" or not names.is_folder(name):
                    self._odd(shown, f"{what} that is no object of ours: it is left alone")

    def _listed(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield what the store lists; where the listing ends in something that cannot be, that is named."""
        try:
            yield from self._repository.store.list(prefix)
        except StoreBroken as error:
            if not error.is_of_object:
                raise
            self._ended_early = True
            where = "" if error.where is None else f" at {error.where}"
            self._problem(prefix, f"the listing ends before all was listed{where}: {error.what}")

    def _check_key_slots(self) -> None:
        slots = 0
        for info in self._listed(names.KEY_SLOTS):
            if not names.is_key_slot(info.key):
                self._odd(info.key, "not an object of ours: it is left alone")
                continue
            slots += 1
            try:
                self._repository.read_slot(info.key)
            except (KeyProblem, StoreBroken, *_OF_OBJECT) as error:
                if isinstance(error, StoreBroken) and not error.is_of_object:
                    raise
                # A slot that is newer stands beside the one that opened, and keeps nothing from being checked.
                self._failed(info.key, error, leaves_open=False)
        if not slots:
            self._problem(names.KEY_SLOTS, "there is no key slot: once closed, the repository cannot be opened again")

    # ------------------------------------------------------------ versions

    def _check_versions(self) -> None:
        count = sum(map(len, self._runs.values()))
        with self._monitor.task("checking versions", count, unit="versions") as task:
            for run_id, numbers in self._runs.items():
                self._check_run(run_id, numbers)
                task.advance(len(numbers))

    def _check_run(self, run_id: bytes, numbers: list[int]) -> None:
        before: Previous | None = None
        missing_before = False
        run: str | None = None
        unread: list[tuple[int, Error]] = []
        for number in numbers:
            key = names.version(run_id, number)
            try:
                stored = self._repository.open_version(key)
            except _OF_OBJECT as error:
                unread.append((number, error))
                # What follows cannot be compared with what does not open.
                missing_before = True
                continue
            self._opened.append((run_id, number))
            self._check_version(stored, self._proofs.pop((run_id, number), []))
            run, previous = stored.root.run, stored.root.previous
            if previous is not None and previous.number not in numbers:
                text = f"the manifest is missing, and version {number} follows it"
                self._problem(names.version(run_id, previous.number), text, (run, previous.number))
            elif before is not None and _is_broken(previous, before, is_next=not missing_before):
                self._problem(key, _chain_text(previous, before), (run, number))
            before, missing_before = Previous(number, stored.digest), False
        for number, fault in unread:
            # Which run it is of is not known by the name of the object, but by its brothers.
            self._failed(names.version(run_id, number), fault, None if run is None else (run, number))

    def _check_version(self, stored: Stored, proofs: list[str]) -> None:
        self._result.version_count += 1
        root, key = stored.root, stored.key
        version = (root.run, root.number)
        try:
            for ref in segment_refs(root, key):
                self._references.note(ref)
            entries = self._repository.entries(stored)
        except _OF_OBJECT as error:
            if isinstance(error, _NOT_READ):
                self._failed(key, error, version)
            else:
                self._problem(key, f"the list of files cannot be read: {error}", version)
            return
        self._check_summary(stored, entries)
        for entry in entries:
            self._note_entry(entry, key, version)
        for proof in proofs:
            self._check_later_proof(proof, stored, entries)

    def _check_summary(self, stored: Stored, entries: tuple[Entry, ...]) -> None:
        summary = stored.root.summary
        files = [entry for entry in entries if entry.kind is EntryKind.FILE]
        proofs = [entry.proof for entry in files if entry.proof is not None]
        lowest = min((proof.level for proof in proofs), default=0)
        devices = {proof.device for proof in proofs if proof.level == lowest} or {""}
        stated = (summary.file_count, summary.size_bytes, summary.checkpoint_count, summary.lowest_level)
        if stated != (len(files), sum(entry.size_bytes for entry in files), len(proofs), lowest):
            text = "its summary is not that of its files"
        elif summary.device not in devices:
            text = "its summary names another device than its proofs"
        else:
            return
        self._problem(stored.key, text, (stored.root.run, stored.root.number))

    def _note_entry(self, entry: Entry, key: str, version: Version) -> None:
        disputed = [ref for ref in entry.chunks if not self._references.note(ref)]
        if entry.kind is not EntryKind.FILE:
            return
        if not entry.chunks and entry.digest != _EMPTY_DIGEST:
            self._problem(key, f"the digest of {display(entry.path)} is not that of an empty file", version)
        elif entry.chunks and not disputed and self._read_data:
            self._references.note_content(entry.chunks, entry.digest)

    def _check_later_proof(self, key: str, stored: Stored, entries: tuple[Entry, ...]) -> None:
        version = (stored.root.run, stored.root.number)
        try:
            for proof in self._repository.read_later_proofs([key], stored):
                broken_count = summed(with_proofs(entries, [proof]))[2]
                if not broken_count <= proof.broken_count <= stored.root.summary.checkpoint_count:
                    raise ManifestDamaged("it counts other broken checkpoints than there can be")
        except _OF_OBJECT as error:
            self._failed(key, error, version)

    def _check_proofs_without_version(self) -> None:
        for (run_id, number), keys in self._proofs.items():
            # Of one that is there and does not open it is named already that it does not.
            if number in self._runs.get(run_id, ()):
                continue
            for key in keys:
                self._problem(key, f"a later proof of version {number}, which is not in the store")

    def _look_for_unlisted_packs(self) -> None:
        """Ask for each pack that was not listed by its name: it may stand behind the place where a listing ended."""
        for pack in self._references.packs.keys() - self._packs.keys():
            with suppress(NotFound):
                self._packs[pack] = self._repository.store.stat(names.pack(pack))

    # ------------------------------------------------------------ who is touched

    def _attribute(self) -> None:
        """Find the versions that what is wrong with packs touches, by going through them again if anything is."""
        faults = self._faults
        if faults:
            for run_id, number in self._opened:
                self._attribute_version(run_id, number)
        for fault in faults:
            if not fault.key:
                continue  # of a version that is gone since
            problem = Problem(fault.key, fault.text, tuple(sorted(fault.versions)))
            if fault.not_read is None:
                self._result.problems.append(problem)
                continue
            self._result.unchecked.append(problem)
            # What lies in cold storage is left open only where it was to be read.
            if fault.versions and (self._read_data or not isinstance(fault.not_read, ObjectArchived)):
                self._result.left_open = self._result.left_open or fault.not_read

    def _attribute_version(self, run_id: bytes, number: int) -> None:
        try:
            stored = self._repository.open_version(names.version(run_id, number))
            version = (stored.root.run, number)
            self._faults.touch(segment_refs(stored.root, stored.key), version)
            entries = self._repository.entries(stored)
        except _OF_OBJECT:
            return  # named already, or gone since
        for entry in entries:
            self._faults.touch(entry.chunks, version)
            if self._faults.contents and entry.chunks:
                content = self._references.content_of(entry.chunks)
                self._faults.touch_content(content, entry.digest, (stored.key, entry.path), version)


def _unchecked_text(error: Error) -> str:
    if isinstance(error, ObjectArchived):
        return f"in cold storage, not checked: {error.what}"
    return f"newer, not checked: {error.what}"


def _odd_version_text(key: str) -> str:
    almost = _ALMOST_VERSION.fullmatch(key)
    if almost is None:
        return "not an object of ours: it is left alone"
    return f"looks like the manifest of version {int(almost[1])} with {almost[2]!r} behind its name: nothing reads it"


def _is_broken(found: Previous | None, before: Previous, *, is_next: bool) -> bool:
    """Whether a version cannot follow the one before it that opens, between which there may be what does not."""
    # Past what does not open it may follow that; where it follows the same number, the digest has to be the same.
    is_of_it = found is not None and found.number == before.number
    return found != before and (is_next or is_of_it)


def _chain_text(found: Previous | None, expected: Previous) -> str:
    if found is None or found.number != expected.number:
        follows = "none" if found is None else found.number
        return f"it follows version {follows}, but the one before it in the store is {expected.number}"
    return f"version {expected.number} is not the one that it followed when it was made"
