"""Check every object and reference of the repository, continue after each problem, and report them all.

A result separates problems from objects that could not be checked (*unchecked*: written by a newer mlsync, or in cold
storage) and from harmless oddities (objects that are not mlsync's, or only look like it).
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, TypeVar

from mlsync.codec.digest import FileDigester
from mlsync.errors import (
    OF_OBJECT,
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
from mlsync.repository.ahead import ahead
from mlsync.repository.encoding.segments import segment_refs
from mlsync.repository.encoding.tokens import EntryKind
from mlsync.repository.features import is_feature
from mlsync.repository.history import fences, omission
from mlsync.repository.history.decision import tagged_number
from mlsync.repository.history.decisions import Decided
from mlsync.repository.history.fence import is_fence_size
from mlsync.repository.history.omission import Omitted, Range
from mlsync.repository.history.seen_decision import half, seen_decision
from mlsync.repository.later_proof import StoredProof
from mlsync.repository.manifest import ChunkRef, Entry, ManifestRoot, Previous, with_bases
from mlsync.repository.proof_links import SeenProofs, seen_links, seen_proofs
from mlsync.repository.repository import Repository, StoredVersion, is_no_version
from mlsync.source.paths import display
from mlsync.store.base import ObjectInfo
from mlsync.upkeep.check_decisions import checked_decisions, hidden_decision
from mlsync.upkeep.check_packs import PackCheck
from mlsync.upkeep.check_reading import Beside, Looked, VersionRead, read_ahead
from mlsync.upkeep.epoch_care import epoch_faults, epoch_names
from mlsync.upkeep.faults import Faults
from mlsync.upkeep.prune_sight import VersionPlace
from mlsync.upkeep.references import References, claim_of
from mlsync.versions.proof_status import summed, with_proofs

Version = tuple[str, int]
_T = TypeVar("_T")
_Read = TypeVar("_Read")

_NOT_READ: Final = (FormatUnsupported, ObjectArchived)
_HAS_COPY: Final = "its copy is sound, and mlsync repair brings it back"
_ALMOST_VERSION: Final = re.compile(rf"{names.VERSIONS}[0-9a-f]{{32}}/([0-9]{{{names.VERSION_DIGITS}}})(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with an object, or unknown about it, and the affected versions (run, number)."""

    key: str
    text: str
    versions: tuple[Version, ...] = ()


@dataclass(slots=True)
class CheckResult:
    """What a check found; *unused_packs* are from backups that did not end, and are no problem.

    *uncopied* are versions whose manifest has no second copy: they restore, and mlsync repair makes the copy.
    *omitted* are versions that are missing since whoever made this copy of a repository left them out, by run.
    *left_open* is the error to end with if there is no problem, but a version could not be checked completely.
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
    uncopied: list[Version] = field(default_factory=list)
    omitted: dict[str, tuple[Range, ...]] = field(default_factory=dict)
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
        self._evaluations: dict[tuple[bytes, int], list[str]] = defaultdict(list)
        self._copies: dict[tuple[bytes, int], ObjectInfo] = {}
        self._places: Mapping[ChunkRef, ChunkRef] = {}
        self._moved_to: set[bytes] = set()
        self._runs: dict[bytes, list[int]] = defaultdict(list)
        self._decisions: dict[bytes, dict[int, str]] = defaultdict(dict)
        self._decided: dict[bytes, Decided] = {}
        self._fences: dict[bytes, set[int]] = defaultdict(set)
        self._omitted: dict[bytes, Omitted] = defaultdict(Omitted)
        self._old_fences: set[tuple[bytes, int]] = set()
        self._opened: list[VersionPlace] = []
        self._sizes: dict[VersionPlace, int] = {}
        self._ended_early = False

    def run(self) -> CheckResult:
        self._list_all()
        self._check_key_slots()
        self._check_epochs()
        self._decided = checked_decisions(self._repository, self._decisions, self._failed, self._problem)
        self._check_versions()
        self._check_proofs_without_version()
        self._check_copies_without_version()
        if self._ended_early:
            self._look_for_unlisted_packs()
        packs = PackCheck(self._repository, self._monitor, self._references, self._faults, self._packs)
        packs.check(read_data=self._read_data)
        self._places = packs.places
        self._find_affected()
        result = self._result
        result.run_count, result.read_bytes = len(self._runs), packs.read_bytes
        result.pack_count = len(self._packs)
        result.pack_bytes = sum(info.size_bytes for info in self._packs.values())
        result.chunk_count = sum(map(len, self._references.packs.values())) - len(self._places)
        result.unused_packs = len(self._packs.keys() - self._references.packs.keys() - self._moved_to)
        return result

    def _problem(self, key: str, text: str, version: Version | None = None) -> None:
        self._result.problems.append(Problem(key, text, () if version is None else (version,)))

    def _odd(self, key: str, text: str) -> None:
        self._result.oddities.append(Problem(key, text))

    def _failed(self, key: str, error: Error, version: Version | None = None, *, leaves_open: bool = True) -> None:
        """Report the error of an object: as a problem, or as unchecked."""
        if not isinstance(error, _NOT_READ):
            self._problem(key, error.what, version)
            return
        self._result.unchecked.append(Problem(key, _unchecked_text(error), () if version is None else (version,)))
        if leaves_open:
            self._result.left_open = self._result.left_open or error

    # ------------------------------------------------------------ listing

    def _list_all(self) -> None:
        """List all objects under our prefixes by kind; report others as oddities."""
        self._look_for_strays()
        self._list_features()
        for info, pack_id in self._parsed(names.PACKS, names.parse_pack):
            self._packs[pack_id] = info
        self._list_versions()
        for info, version in self._parsed(names.COPIES, names.parse_copy):
            self._copies[version] = info
        for info, (run_id, number) in self._parsed(names.DECISIONS, names.parse_decision):
            if tagged_number(self._repository.keys, info.key) is None:
                self._odd(info.key, "not an object of mlsync: left alone")
            else:
                self._decisions[run_id][number] = info.key
        for info, version in self._parsed(names.LATER_PROOFS, names.parse_later_proof):
            self._proofs[version].append(info.key)
        for info, version in self._parsed(names.EVALUATIONS, names.parse_evaluation):
            self._evaluations[version].append(info.key)
        for info, _, moved in self._read_each(names.MOVES, names.parse_move, self._open_move):
            self._check_move(info.key, moved)
        for info, pack_id in self._parsed(names.TOMBSTONES, names.parse_tombstone):
            if pack_id not in self._packs:
                self._problem(info.key, "a tombstone for a pack that is not in the store")

    def _note_omission(self, key: str, run_id: bytes, read: Looked[tuple[Range, ...]]) -> None:
        """Note which versions nobody meant to be here; what does not open says nothing."""
        try:
            self._omitted[run_id].ranges += read.get()
        except NotFound:
            return
        except OF_OBJECT as error:
            # A copier says it anew after a rotation of the key.
            if not (isinstance(error, ManifestDamaged) and error.is_retired):
                self._failed(key, error)

    def _list_versions(self) -> None:
        listed = list(self._parsed(names.VERSIONS, names.parse_version, _odd_version_text))
        small = (one for one in listed if is_fence_size(one[0].size_bytes))
        epochs = {place: epoch() for (_, place), epoch in ahead(self._fence_epoch, small)}
        for info, place in listed:
            run_id, number = place
            epoch = epochs.get(place)
            if epoch is None:
                self._runs[run_id].append(number)
                self._sizes[place] = info.size_bytes
                continue
            self._fences[run_id].add(number)
            if epoch != self._repository.keys.epoch:
                self._old_fences.add(place)
        for _ in self._parsed(names.RUNS, names.parse_registration):
            pass  # a run may be registered and never get a version
        for info, run_id, found in self._read_each(names.OMISSIONS, names.parse_omission, self._read_omission):
            self._note_omission(info.key, run_id, found)

    def _fence_epoch(self, one: tuple[ObjectInfo, VersionPlace]) -> int | None:
        """Return the epoch of a fence that counts; ``None`` for what is none."""
        # Only one that opens: something else of that length in the place of a manifest is damage.
        key = one[0].key
        epoch = self._repository.fence_epoch(key)
        return epoch if epoch == self._repository.keys.epoch or fences.counts(self._repository, key) else None

    def _read_omission(self, key: str, _run_id: bytes) -> tuple[Range, ...]:
        return omission.read(self._repository, key).versions

    def _parsed(
        self,
        prefix: str,
        parse: Callable[[str], _T | None],
        odd_text: Callable[[str], str] = lambda _key: "not an object of mlsync: left alone",
    ) -> Iterator[tuple[ObjectInfo, _T]]:
        """Yield the objects of a kind with what their names say; report others as oddities."""
        for info in self._listed(prefix):
            parsed = parse(info.key)
            if parsed is None:
                self._odd(info.key, odd_text(info.key))
            else:
                yield info, parsed

    def _read_each(
        self, prefix: str, parse: Callable[[str], _T | None], read: Callable[[str, _T], _Read]
    ) -> Iterator[tuple[ObjectInfo, _T, Looked[_Read]]]:
        """Yield the objects of a kind as ``_parsed`` does, each read ahead of its turn."""

        def look(info: ObjectInfo) -> tuple[_T, Looked[_Read]] | None:
            parsed = parse(info.key)
            return None if parsed is None else (parsed, Looked.of(lambda: read(info.key, parsed)))

        for info, result in ahead(look, self._listed(prefix)):
            found = result()
            if found is None:
                self._odd(info.key, "not an object of mlsync: left alone")
            else:
                yield info, *found

    def _list_features(self) -> None:
        """Report what is no feature; one that this mlsync does not know would have kept the repository from opening."""
        for info in self._listed(names.FEATURES):
            if not is_feature(self._repository.keys, info.key):
                self._odd(info.key, "not an object of mlsync: left alone")

    def _open_move(self, _key: str, pack_id: bytes) -> frozenset[bytes]:
        return frozenset(self._repository.moves.open(pack_id).packs)

    def _check_move(self, key: str, moved: Looked[frozenset[bytes]]) -> None:
        """Note what the record of a pack's move says; it counts once that pack is gone."""
        try:
            self._moved_to |= moved.get()
        except NotFound:
            return  # deleted meanwhile
        except OF_OBJECT as error:
            if isinstance(error, _NOT_READ) and not (isinstance(error, FormatUnsupported) and error.is_claim):
                self._failed(key, error)
            else:
                # Whoever may create objects can put anything there; what it should have said is missed in its pack.
                self._odd(key, f"no move record: {error.what}")

    def _look_for_strays(self) -> None:
        """Report what the store does not list: as a problem in an object's place, and as an oddity elsewhere."""
        for prefix in names.PREFIXES:
            for name, what in self._repository.store.strays(prefix):
                shown = display(os.fsencode(name))
                if names.is_object(name):
                    self._problem(shown, f"{what} is where an object belongs")
                elif what != "a directory" or not names.is_folder(name):
                    self._odd(shown, f"{what} that is not an object of mlsync: left alone")

    def _listed(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield what the store lists; if something in the store ends the listing early, report that."""
        try:
            yield from self._repository.store.list(prefix)
        except StoreBroken as error:
            if not error.is_of_object:
                raise
            self._ended_early = True
            where = "" if error.where is None else f" at {error.where}"
            self._problem(prefix, f"the listing is incomplete{where}: {error.what}")

    def _check_key_slots(self) -> None:
        slots = 0
        for info in self._listed(names.KEY_SLOTS):
            if not names.is_key_slot(info.key):
                self._odd(info.key, "not an object of mlsync: left alone")
                continue
            slots += 1
            try:
                self._repository.read_slot(info.key)
            except (KeyProblem, StoreBroken, *OF_OBJECT) as error:
                if isinstance(error, StoreBroken) and not error.is_of_object:
                    raise
                # Another slot opened the repository, so a newer one keeps nothing from being checked.
                self._failed(info.key, error, leaves_open=False)
        if not slots and not self._ended_early:
            self._problem(names.KEY_SLOTS, "there is no key slot: once closed, the repository cannot be opened again")

    def _check_epochs(self) -> None:
        """Report objects of epochs that are lost or damaged, and what only looks like one."""
        known = epoch_names(self._repository)
        for info in self._listed(names.EPOCHS):
            if info.key not in known:
                self._odd(info.key, "no epoch of the key that opened the repository: left alone")
        for fault in epoch_faults(self._repository):
            if fault.is_announcement:
                self._problem(
                    fault.key, f"{fault.what}; mlsync repair tells holders of the older key again that it was rotated"
                )
            elif fault.twin is None:
                self._problem(fault.key, f"{fault.what}: what the older key wrote afterwards may not be told apart")
            else:
                self._problem(fault.key, f"{fault.what}; mlsync repair makes it again from {fault.twin}")

    # ------------------------------------------------------------ versions

    def _check_versions(self) -> None:
        count = sum(map(len, self._runs.values()))
        # What is gone may be half deleted.
        runs = {
            run_id: [number for number in numbers if not self._is_gone(run_id, number)]
            for run_id, numbers in self._runs.items()
        }
        places = ((run_id, number) for run_id, numbers in runs.items() for number in numbers)
        beside = Beside(self._proofs, self._evaluations, self._copy_to_read, self._sizes)
        with (
            self._monitor.task("checking versions", count, unit="versions") as task,
            closing(read_ahead(self._repository, places, beside)) as read,
        ):
            for run_id, numbers in runs.items():
                self._check_run(run_id, numbers, read)
                task.advance(len(self._runs[run_id]))

    def _copy_to_read(self, place: VersionPlace) -> str | None:
        """Return the name of a version's second copy, if its bytes are to be compared."""
        copy = self._copies.get(place)
        return copy.key if copy is not None and self._read_data else None

    def _check_run(
        self, run_id: bytes, numbers: list[int], versions: Iterator[tuple[VersionPlace, VersionRead | Error]]
    ) -> None:
        """Check a run; *versions* yields those of these numbers next."""
        before: Previous | None = None
        missing_before = False
        run: str | None = None
        unread: list[tuple[int, Error]] = []
        later: dict[int, tuple[StoredVersion, list[StoredProof], list[str]]] = {}
        for place, read in islice(versions, len(numbers)):
            key, number = names.version(*place), place[1]
            if isinstance(read, Error):
                unread.append((number, read))
                # The next version cannot be compared with one that does not open.
                missing_before = True
                continue
            stored = read.stored
            self._opened.append(place)
            self._check_copy(stored, self._copies.pop(place, None), read.copy)
            proofs = self._proofs.pop(place, [])
            self._evaluations.pop(place, None)
            self._check_evaluations(stored, read.evaluations)
            later[number] = stored, self._check_version(read), proofs
            run, previous = stored.root.run, stored.root.previous
            if previous is not None and self._is_absent(run_id, previous.number, numbers):
                pass  # a gap that was decided, or that a copier left
            elif previous is not None and previous.number not in numbers:
                self._note_missing(run_id, (run, previous.number), number)
            elif before is not None and _is_broken(previous, before, is_next=not missing_before):
                self._problem(key, _chain_text(previous, before), (run, number))
            before, missing_before = Previous(number, stored.digest), False
        # What a listing lacks that ended early is not hidden; that it did is reported.
        if later and not self._ended_early:
            newest = later[max(later)][0].root
            self._check_decided(run_id, newest, {number: stored for number, (stored, _, _) in later.items()}, numbers)
            named = seen_proofs(newest.room)
            for number, (stored, found, keys) in later.items():
                self._check_hidden(stored, found, keys, named.get(number))
        for number, fault in unread:
            copy = self._copies.pop((run_id, number), None)
            key, told = names.version(run_id, number), fault
            if copy is not None and is_no_version(fault) and self._opens(key, copy.key):
                told = type(fault)(f"{fault.what}; {_HAS_COPY}")
            # The run's name is not in the object's name, but in the run's other manifests.
            self._failed(key, told, None if run is None else (run, number))

    def _is_gone(self, run_id: bytes, number: int, *, was_version: bool = False) -> bool:
        """Return whether a number is no version, on purpose: it is fenced, or decided to be gone.

        If it *was_version*, as another one says, a fence by a retired key is not enough.
        """
        if number in self._fences[run_id] and not (was_version and (run_id, number) in self._old_fences):
            return True
        decided = self._decided.get(run_id)
        return decided is not None and decided.gone_as(number) is not None

    def _is_absent(self, run_id: bytes, number: int, listed: Collection[int]) -> bool:
        """Return whether somebody meant a version not to be here: it was removed, or never copied here."""
        was_omitted = number in self._omitted[run_id] and number not in listed
        return was_omitted or self._is_gone(run_id, number, was_version=True)

    def _check_decided(
        self, run_id: bytes, newest: ManifestRoot, opened: Mapping[int, StoredVersion], listed: Collection[int]
    ) -> None:
        """Report a decision that is hidden, and versions that are not there as something was decided of them."""
        run, decided = newest.run, self._decided.get(run_id, Decided(newest.run))
        missing = self._omitted[run_id].without(listed)
        if missing:
            self._result.omitted[run] = missing
        key, text = hidden_decision(self._repository, run, decided, seen_decision(newest.room))
        # One that is listed and does not open is reported already.
        if key and (decided.number or key not in self._decisions.get(run_id, {}).values()):
            self._problem(key, text)
        halves = {pin.version: ("pinned", pin.manifest) for pin in decided.pins.values()}
        halves |= {number: ("registered", items[0].manifest) for number, items in decided.registered.items()}
        halves |= {item.version: ("forgotten", item.manifest) for item in decided.forgotten.values()}
        for number, (how, manifest) in sorted(halves.items()):
            version_key = names.version(run_id, number)
            if number not in listed and number in self._omitted[run_id]:
                continue
            if number not in listed:
                self._problem(version_key, f"the manifest is missing, and the version is {how}", (run, number))
            elif number in opened and half(opened[number].digest) != manifest:
                self._problem(version_key, f"it is another version than was {how}", (run, number))

    def _note_missing(self, run_id: bytes, missing: Version, after: int) -> None:
        key = names.version(run_id, missing[1])
        if not ((run_id, missing[1]) in self._copies and self._opens(key, names.copy_of(key))):
            # A copy is looked at once all runs are: its version may be the newest, which nothing follows.
            self._problem(key, f"the manifest is missing, and version {after} follows it", missing)

    def _check_version(self, read: VersionRead) -> list[StoredProof]:
        """Check a version with its later proofs, and return those that open."""
        self._result.version_count += 1
        stored = read.stored
        root, key = stored.root, stored.key
        version = (root.run, root.number)
        try:
            for ref in segment_refs(root, key):
                self._references.note(ref)
            entries: tuple[Entry, ...] | None = read.entries.get()
        except OF_OBJECT as error:
            entries = None
            if isinstance(error, _NOT_READ):
                self._failed(key, error, version)
            else:
                self._problem(key, f"the list of files cannot be read: {error}", version)
        if entries is not None:
            self._check_summary(stored, entries)
            for entry in entries:
                self._note_entry(entry, key, version)
        found = (self._check_later_proof(proof, one, stored, entries) for proof, one in read.proofs.items())
        return [proof for proof in found if proof is not None]

    def _check_summary(self, stored: StoredVersion, entries: tuple[Entry, ...]) -> None:
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
        needed = with_bases(entry.chunks, self._packs.__contains__)
        disputed = [ref for ref in needed if not self._references.note(ref)]
        if entry.kind is not EntryKind.FILE:
            return
        if not entry.chunks and entry.digest != FileDigester(entry.digest[0], entry.holes).digest():
            self._problem(key, f"the digest of {display(entry.path)} is not that of a file without data", version)
        elif entry.chunks and not disputed and self._read_data:
            self._references.note_content(entry)

    def _check_later_proof(
        self, key: str, read: Looked[StoredProof], stored: StoredVersion, entries: tuple[Entry, ...] | None
    ) -> StoredProof | None:
        version = (stored.root.run, stored.root.number)
        try:
            found = read.get()
        except OF_OBJECT as error:
            self._failed(key, error, version)
            return None
        if entries is None:
            return found
        try:
            proof = found.proof
            broken_count = summed(with_proofs(entries, [proof]))[2]
            if not broken_count <= proof.broken_count <= stored.root.summary.checkpoint_count:
                raise ManifestDamaged("it counts other broken checkpoints than there can be")
        except ManifestDamaged as error:
            self._failed(key, error, version)
        return found

    def _check_evaluations(self, stored: StoredVersion, read: Mapping[str, Looked[object]]) -> None:
        """Report evaluations that do not open; those that were made before the key was rotated count for nothing."""
        version = (stored.root.run, stored.root.number)
        for key, one in read.items():
            try:
                one.get()
            except OF_OBJECT as error:
                if isinstance(error, FormatUnsupported) and error.is_claim:
                    # A rotation that did not end leaves some that no key opens.
                    self._odd(key, f"an evaluation that no key opens: {error.what}")
                elif not (isinstance(error, ManifestDamaged) and error.is_retired):
                    self._failed(key, error, version)

    def _check_hidden(
        self, stored: StoredVersion, proofs: list[StoredProof], listed: list[str], seen: SeenProofs | None
    ) -> None:
        """Report later proofs that others, or the newest manifest, have links to, and that are not there."""
        root = stored.root
        links = {link for one in proofs for link in seen_links(one.proof.room)}
        links.update(() if seen is None else seen.heads)
        opened = {one.key for one in proofs}
        for link in sorted(links - {one.link for one in proofs}):
            key = self._repository.later_proof_key(root.run, root.number, link)
            if key in opened:
                text = "the later proof is another one than was seen before"
            elif key in listed or self._is_newer(key, link, stored):
                continue  # it does not open, which is reported; or it came after the listing
            else:
                text = "a later proof that was seen before is gone, and may say that a checkpoint is broken"
            self._problem(key, text, (root.run, root.number))

    def _is_newer(self, key: str, link: bytes, stored: StoredVersion) -> bool:
        with suppress(*OF_OBJECT):
            return self._repository.open_later_proof(key, stored).link == link
        return False

    def _check_copy(self, stored: StoredVersion, copy: ObjectInfo | None, read: Looked[bytes] | None) -> None:
        """Compare a manifest with its second copy: by length, and by all bytes if data is read."""
        root = stored.root
        if copy is None:
            self._result.uncopied.append((root.run, root.number))
        elif copy.size_bytes != stored.size_bytes:
            self._problem(copy.key, f"the copy of a manifest has {copy.size_bytes} bytes, not {stored.size_bytes}")
        elif read is not None:
            try:
                if read.get() != stored.digest:
                    raise ManifestDamaged("the copy of a manifest is another one than the manifest")
            except OF_OBJECT as error:
                self._failed(copy.key, error)

    def _check_copies_without_version(self) -> None:
        for (run_id, number), copy in self._copies.items():
            if self._is_gone(run_id, number):
                continue
            key = names.version(run_id, number)
            try:
                root = self._repository.open_body(key, copy.key)[0].root
            except NotFound:
                continue  # deleted meanwhile
            except OF_OBJECT:
                # Whoever may create objects can put anything there.
                self._odd(copy.key, f"a copy of the manifest of version {number}, which is not in the store: no copy")
            else:
                self._problem(key, f"the manifest is missing; {_HAS_COPY}", (root.run, number))

    def _opens(self, key: str, place: str) -> bool:
        try:
            self._repository.open_body(key, place)
        except OF_OBJECT:
            return False
        return True

    def _check_proofs_without_version(self) -> None:
        for (run_id, number), keys in self._proofs.items():
            # If the version exists and does not open, that is reported already.
            if number in self._runs.get(run_id, ()) or self._is_gone(run_id, number):
                continue
            for key in keys:
                self._problem(key, f"a later proof of version {number}, which is not in the store")
        for (run_id, number), keys in self._evaluations.items():
            if number in self._runs.get(run_id, ()) or self._is_gone(run_id, number):
                continue
            for key in keys:
                self._problem(key, f"an evaluation of version {number}, which is not in the store")

    def _look_for_unlisted_packs(self) -> None:
        """Look up each unlisted pack by its name: it may come after the point where a listing ended."""
        for pack in self._references.packs.keys() - self._packs.keys():
            try:
                self._packs[pack] = self._repository.store.stat(names.pack(pack))
            except NotFound:
                continue
            except StoreBroken as error:
                # In a directory: something that is not a file is in its place, which is reported as a stray.
                if not error.is_of_object:
                    raise

    # ------------------------------------------------------------ affected versions

    def _find_affected(self) -> None:
        """Find the versions that the packs' faults affect, by a second pass over all versions if there are any."""
        faults = self._faults
        if faults:
            for _, read in read_ahead(self._repository, self._opened, Beside(sizes=self._sizes)):
                self._find_affected_by(read)
        for fault in faults:
            if not fault.key:
                continue  # about a version that was deleted meanwhile
            problem = Problem(fault.key, fault.text, tuple(sorted(fault.versions)))
            if fault.not_read is None:
                self._result.problems.append(problem)
                continue
            self._result.unchecked.append(problem)
            # A pack in cold storage leaves the check incomplete only if the check had to read it.
            if fault.versions and (self._read_data or not isinstance(fault.not_read, ObjectArchived)):
                self._result.left_open = self._result.left_open or fault.not_read

    def _find_affected_by(self, read: VersionRead | Error) -> None:
        if isinstance(read, Error):
            return  # reported already, or deleted meanwhile
        stored = read.stored
        version = (stored.root.run, stored.root.number)
        try:
            self._touch(segment_refs(stored.root, stored.key), version)
            entries = read.entries.get()
        except OF_OBJECT:
            return
        for entry in entries:
            self._touch(with_bases(entry.chunks, self._packs.__contains__), version)
            if self._faults.contents and entry.chunks:
                content = self._references.content_of(entry.chunks)
                self._faults.touch_content(content, claim_of(entry), (stored.key, entry.path), version)

    def _touch(self, refs: Iterable[ChunkRef], version: Version) -> None:
        """Mark the faults of these chunks as affecting *version*, in their packs and where they were moved to."""
        for ref in refs:
            place = self._places.get(ref)
            self._faults.touch((ref,) if place is None else (ref, place), version)


def _unchecked_text(error: Error) -> str:
    if isinstance(error, ObjectArchived):
        return f"in cold storage, not checked: {error.what}"
    return f"newer, not checked: {error.what}"


def _odd_version_text(key: str) -> str:
    almost = _ALMOST_VERSION.fullmatch(key)
    if almost is None:
        return "not an object of mlsync: left alone"
    return f"looks like the manifest of version {int(almost[1])} with {almost[2]!r} after its name: nothing reads it"


def _is_broken(found: Previous | None, before: Previous, *, is_next: bool) -> bool:
    """Return whether a version contradicts the last one before it that opens."""
    # If versions in between do not open, it may follow one of those. If it follows that number, the digest must match.
    is_of_it = found is not None and found.number == before.number
    return found != before and (is_next or is_of_it)


def _chain_text(found: Previous | None, expected: Previous) -> str:
    if found is None or found.number != expected.number:
        follows = "none" if found is None else found.number
        return f"it follows version {follows}, but the one before it in the store is {expected.number}"
    return f"version {expected.number} is not the one that it was made to follow"
