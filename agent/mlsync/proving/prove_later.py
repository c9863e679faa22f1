"""Prove versions that were committed below their required level, and store the proofs beside their manifests.

Any machine that opens the repository can do it, such as one with a GPU for a trainer that has none to spare.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from types import TracebackType
from typing import Final, Self

import msgspec

import mlsync
from mlsync.errors import DeviceMissing, ProofUnavailable, Stopped
from mlsync.monitor import Monitor
from mlsync.proof.prover import Prover
from mlsync.proof.verdict import Verdict
from mlsync.proving.judge import Proving
from mlsync.proving.load import Loading, LoadingOptions
from mlsync.proving.shares import Share, Sharing
from mlsync.repository.ahead import ahead
from mlsync.repository.later_proof import LaterProof, ProvedFile, StoredProof, VersionProofs
from mlsync.repository.manifest import Entry, ManifestRoot
from mlsync.repository.proof_links import seen_room
from mlsync.repository.repository import Repository, StoredVersion
from mlsync.values import Level, Proof
from mlsync.versions.hidden_proofs import report_hidden
from mlsync.versions.loaded_directories import LoadedDirectories
from mlsync.versions.proof_status import ProofStatus, proof_statuses, status_from_summaries, summed, with_proofs
from mlsync.versions.run_proofs import proofs_of
from mlsync.versions.units import Entries

_WAITS: Final = "not loaded yet: other files of its directory were another process's share"


@dataclass(slots=True)
class LaterResult:
    """The result for one version: *verdicts* by path; all of the version is proved to *lowest_level* on *device* now.

    It *is_pending* if a checkpoint of it still has to be proved further, by any process.
    """

    run: str
    version: int
    required_level: int
    lowest_level: int = 0
    device: str = ""
    is_pending: bool = False
    read_bytes: int = 0
    seconds: float = 0.0
    verdicts: dict[bytes, Verdict] = field(default_factory=dict)

    @property
    def refused(self) -> dict[bytes, str]:
        """The checkpoints that do not load, and why."""
        return {path: verdict.refused for path, verdict in self.verdicts.items() if verdict.refused is not None}

    @property
    def unavailable(self) -> ProofUnavailable | None:
        """Why a checkpoint is still below the required level, if one is."""
        short = (verdict for verdict in self.verdicts.values() if verdict.proof.level < self.required_level)
        return next((verdict.unavailable for verdict in short if verdict.unavailable is not None), None)


class LaterProver:
    """Proves versions one after the other; content that several of them hold is read and proved once.

    *level* replaces the level that each version requires; *loading* does level 5, if it is wanted. With a *share* only
    the checkpoints of that share are proved; other processes prove the others.
    """

    def __init__(
        self,
        repository: Repository,
        prover: Prover,
        monitor: Monitor,
        *,
        level: int | None = None,
        loading: LoadingOptions | None = None,
        share: Share | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._repository = repository
        self._prover = prover
        self._monitor = monitor
        self._level = level
        self._stop = stop
        self._reader = repository.reader()
        self._proving = Proving(self._reader, prover, loading=Loading.of(loading, self._reader, repository))
        self._sharing = None if share is None else Sharing(repository, share, self._lacks)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.close()

    def lacking(self, run: str) -> Iterator[StoredVersion]:
        """Yield the versions of a run that lack a proof, the newest first: it is the one that is restored.

        With a share, only versions of which the share has checkpoints; divides the run for ``pending``.
        """
        yield from self._mine(partial(self._unproved, run))

    def lacking_of(self, runs: Iterable[str]) -> Iterator[tuple[str, Callable[[], list[StoredVersion]]]]:
        """Yield each run with what returns those that it lacks, as ``lacking`` does: runs are looked at ahead."""
        for run, found in ahead(self._unproved, runs):
            yield run, partial(self._mine, found)

    def _unproved(self, run: str) -> tuple[list[StoredVersion], list[StoredVersion]]:
        """Return the versions of a run that lack a proof, and those that lacked one when they were made."""
        all_of_them = proof_statuses(self._repository, run)
        lacking = [one.stored for one in all_of_them if self._is_lacking(one)]
        if self._sharing is None or not lacking:
            return lacking, []
        # Also versions that were proved since: the division must not depend on later proofs.
        manifests = [status_from_summaries(status.stored, ()) for status in all_of_them]
        return lacking, [one.stored for one in manifests if one.lacks(self._wanted(one.root))]

    def _mine(self, found: Callable[[], tuple[list[StoredVersion], list[StoredVersion]]]) -> list[StoredVersion]:
        lacking, unproved = found()
        if self._sharing is not None and lacking:
            numbers = self._sharing.divide(unproved)
            lacking = [stored for stored in lacking if stored.root.number in numbers]
        return lacking[::-1]

    def _is_lacking(self, status: ProofStatus) -> bool:
        return status.is_pending if self._level is None else status.lacks(self._level)

    def pending(self, stored: StoredVersion) -> LaterResult:
        """Prove what a version still lacks.

        Raises ``ProofUnavailable`` before anything is read if the device is missing, ``Damage`` if a byte does not come
        back, and ``Stopped``.
        """
        return self._prove(stored, lambda proof: self._lacks(stored.root, proof))

    def anew(self, stored: StoredVersion) -> LaterResult:
        """Prove all checkpoints of a version again."""
        if self._sharing is not None:
            self._sharing.divide_whole(stored)
        return self._prove(stored, lambda _: True)

    def _lacks(self, root: ManifestRoot, proof: Proof) -> bool:
        """Return whether a checkpoint is to be proved; with a level, all that are below it are."""
        if self._level is None:
            return proof.is_pending(root.required_level)
        return not proof.is_broken and proof.level < self._level

    def _wanted(self, root: ManifestRoot) -> int:
        return root.required_level if self._level is None else self._level

    def _prove(self, stored: StoredVersion, is_wanted: Callable[[Proof], bool]) -> LaterResult:
        began_s, read_bytes = time.monotonic(), self._proving.read_bytes
        later, hidden = proofs_of(self._repository, stored)
        if hidden is not None:
            report_hidden(hidden, stored.root.run, stored.root.number, self._monitor)
        entries = tuple(with_proofs(self._repository.entries(stored), later.proofs))
        wanted = [entry for entry in entries if entry.proof is not None and is_wanted(entry.proof)]
        if self._sharing is not None:
            wanted = [entry for entry in wanted if self._sharing.is_mine(stored, entry)]
        result = LaterResult(stored.root.run, stored.root.number, self._wanted(stored.root))
        # Before anything is read: a missing device must not cost traffic on every attempt.
        if wanted and result.required_level >= Level.DEVICE and not self._has_device(result):
            advice = 'say --device cpu, or set device in [proof] to "auto"'
            raise DeviceMissing("the configuration wants no device for the proof", advice=advice)
        try:
            self._judge(wanted, {entry.path: entry for entry in entries}, result)
        finally:
            # What was proved before an error is not proved again.
            self._record(stored, later, entries, result)
        result.read_bytes = self._proving.read_bytes - read_bytes
        result.seconds = time.monotonic() - began_s
        return result

    def _has_device(self, result: LaterResult) -> bool:
        """Start the child; return whether it has a device."""
        name = f"{result.run} version {result.version}: starting the proof"
        with self._monitor.task(name, None) as task:
            self._proving.say = task.say
            return self._prover.open() is not None

    def _judge(self, entries: list[Entry], beside: Entries, result: LaterResult) -> None:
        def advance(amount: int) -> None:
            # Within a file too: a service manager kills half a minute after the stop, and what is not recorded is lost.
            if self._stop():
                raise Stopped(f"{result.run}: stopped while proving version {result.version}")
            task.advance(amount)

        name = f"{result.run} version {result.version}: proving"
        with self._monitor.task(name, sum(entry.size_bytes for entry in entries)) as task:
            self._proving.say = task.say
            wholes = self._proving.wholes([entry.path for entry in entries], beside)
            for entry in entries:
                advance(0)
                result.verdicts[entry.path] = self._proving.judge(entry, beside, advance, wholes)
            result.verdicts |= self._proving.judge_wholes(wholes, beside, result.verdicts, advance)
        if self._sharing is not None:
            _note_pending_directories(wholes, beside, result.verdicts)

    def _record(
        self, stored: StoredVersion, later: VersionProofs, entries: tuple[Entry, ...], result: LaterResult
    ) -> None:
        """Store the proofs beside the version, then a summary of all proofs there, unless one has it already.

        Other processes may prove other files at the same time, and no summary includes the others' proofs. So each
        process lists the proofs again after storing its own: the last one sees them all.
        """
        known = {entry.path: entry.proof for entry in entries if entry.proof is not None}
        files = [
            ProvedFile(path, verdict.proof)
            for path, verdict in result.verdicts.items()
            if verdict.refused is not None or verdict.proof.level >= known[path].level
        ]
        if files:
            own = self._add(stored, entries, later, files)
            later = self._repository.later_proofs(stored, [own.link])
        proved = tuple(with_proofs(entries, later.proofs))
        level, device, broken_count = summed(proved)
        result.lowest_level, result.device = level, device
        result.is_pending = any(one.proof.is_pending(result.required_level) for one in proved if one.proof is not None)
        shown = status_from_summaries(stored, later.proofs)
        if (level, broken_count) != (shown.lowest_level, shown.broken_count):
            self._add(stored, entries, later, [])

    def _add(
        self, stored: StoredVersion, entries: tuple[Entry, ...], later: VersionProofs, files: list[ProvedFile]
    ) -> StoredProof:
        """Store *files* beside the version, with a summary of them, of *entries* and of *later*, and links to these."""
        proof = LaterProof(
            run=stored.root.run,
            number=stored.root.number,
            manifest=stored.digest,
            made_ns=time.time_ns(),
            writer=f"mlsync {mlsync.__version__}",
            host=socket.gethostname(),
            lowest_level=0,
            device="",
            broken_count=0,
            files=files,
            room=seen_room(later.heads),
        )
        level, device, broken_count = summed(with_proofs(entries, [*later.proofs, proof]))
        proof = msgspec.structs.replace(proof, lowest_level=level, device=device, broken_count=broken_count)
        return self._repository.add_later_proof(proof)


def _note_pending_directories(wholes: LoadedDirectories, beside: Entries, verdicts: dict[bytes, Verdict]) -> None:
    """Note in *verdicts* that their directory is not loaded yet, if other processes prove files in it.

    Without that the version would seem to be proved as far as possible, while no process saw the whole directory.
    """
    for path, verdict in list(verdicts.items()):
        whole = next((one for one in wholes.found if one.holds(path)), None)
        if whole is None or verdict.refused is not None:
            continue
        others = (entry.proof for other, entry in beside.items() if other not in verdicts and whole.holds(other))
        if any(proof is not None and proof.level < Level.NUMBERS and not proof.is_broken for proof in others):
            verdicts[path] = replace(verdict, proof=msgspec.structs.replace(verdict.proof, shortfall=_WAITS))
