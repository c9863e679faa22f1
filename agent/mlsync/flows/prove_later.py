"""Prove what versions were committed without: read their checkpoints back, and put the proof beside the manifest.

Any machine that opens the repository can do it, as one with a GPU for a trainer that has none to spare.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import msgspec

import mlsync
from mlsync.errors import DeviceMissing, ProofUnavailable, Stopped
from mlsync.flows.loading import Loading, LoadingOptions
from mlsync.flows.proving import Judged, Proving
from mlsync.flows.standing import stand, standings, summed, with_proofs
from mlsync.flows.units import Entries
from mlsync.monitor import Monitor
from mlsync.proof.prove import Prover
from mlsync.proof.verdict import LEVEL_DEVICE
from mlsync.repository.later_proof import LaterProof, ProvedFile
from mlsync.repository.manifest import Entry, Proof, Root
from mlsync.repository.repository import Repository, Stored


@dataclass(slots=True)
class LaterResult:
    """What was proved of one version: *judged* by path; *lowest_level* on *device* is where all of it stands now."""

    run: str
    version: int
    required_level: int
    lowest_level: int = 0
    device: str = ""
    read_bytes: int = 0
    seconds: float = 0.0
    judged: dict[bytes, Judged] = field(default_factory=dict)

    @property
    def refused(self) -> dict[bytes, str]:
        """The checkpoints that do not load, and why."""
        return {path: judged.refused for path, judged in self.judged.items() if judged.refused is not None}

    @property
    def unavailable(self) -> ProofUnavailable | None:
        """Why a checkpoint still is not proved as far as required, if one is not."""
        short = (judged for judged in self.judged.values() if judged.proof.level < self.required_level)
        return next((judged.unavailable for judged in short if judged.unavailable is not None), None)


class LaterProver:
    """Proves versions one after the other; content that several of them hold is read and judged once.

    *level* is what to reach instead of what each version requires; *loading* has level 5 done, if it is wanted.
    """

    def __init__(
        self,
        repository: Repository,
        prover: Prover,
        monitor: Monitor,
        *,
        level: int | None = None,
        loading: LoadingOptions | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._repository = repository
        self._prover = prover
        self._monitor = monitor
        self._level = level
        self._stop = stop
        self._reader = repository.reader()
        self._proving = Proving(self._reader, prover, loading=Loading.of(loading, self._reader, repository))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.close()

    def lacking(self, run: str) -> Iterator[Stored]:
        """Yield the versions of a run that lack a proof, the newest first: it is the one that is restored."""
        for standing in reversed(standings(self._repository, run)):
            if standing.is_pending if self._level is None else standing.lacks(self._level):
                yield self._repository.stored(run, standing.root.number)

    def pending(self, stored: Stored) -> LaterResult:
        """Prove what a version still lacks; nothing is read where the device cannot be had.

        Raises ``ProofUnavailable`` then, ``Damage`` if a byte does not come back, and ``Stopped``.
        """
        return self._prove(stored, lambda proof: self._lacks(proof, stored.root))

    def anew(self, stored: Stored) -> LaterResult:
        """Prove all checkpoints of a version again, whatever they were proved to before."""
        return self._prove(stored, lambda _: True)

    def _lacks(self, proof: Proof, root: Root) -> bool:
        """Whether a checkpoint may be proved further: who asks for a level has it tried of all that are below."""
        if self._level is None:
            return proof.is_pending(root.required_level)
        return not proof.is_broken and proof.level < self._level

    def _wanted(self, root: Root) -> int:
        return root.required_level if self._level is None else self._level

    def _prove(self, stored: Stored, is_wanted: Callable[[Proof], bool]) -> LaterResult:
        began_s, read_bytes = time.monotonic(), self._proving.read_bytes
        later = self._repository.later_proofs(stored)
        entries = tuple(with_proofs(self._repository.entries(stored), later))
        wanted = [entry for entry in entries if entry.proof is not None and is_wanted(entry.proof)]
        result = LaterResult(stored.root.run, stored.root.number, self._wanted(stored.root))
        # Before anything is read: a device that is not there costs no traffic, however often it is asked for.
        if wanted and result.required_level >= LEVEL_DEVICE and self._prover.open() is None:
            advice = 'say --device cpu, or set device in [proof] to "auto"'
            raise DeviceMissing("the configuration wants no device for the proof", advice=advice)
        try:
            self._judge(wanted, {entry.path: entry for entry in entries}, result)
        finally:
            # What was proved before a later file could not be is not done again.
            self._record(stored, later, entries, result)
        result.read_bytes = self._proving.read_bytes - read_bytes
        result.seconds = time.monotonic() - began_s
        return result

    def _judge(self, entries: list[Entry], beside: Entries, result: LaterResult) -> None:
        name = f"{result.run} version {result.version}: proving"
        with self._monitor.task(name, sum(entry.size_bytes for entry in entries)) as task:
            wholes = self._proving.wholes([entry.path for entry in entries], beside)
            for entry in entries:
                if self._stop():
                    raise Stopped(f"{result.run}: stopped while proving version {result.version}")
                result.judged[entry.path] = self._proving.judge(entry, beside, task.advance, wholes)
            result.judged |= self._proving.judge_wholes(wholes, beside, result.judged, task.advance)

    def _record(self, stored: Stored, later: list[LaterProof], entries: tuple[Entry, ...], result: LaterResult) -> None:
        """Put what was found beside the version, if it says more than what is there."""
        known = {entry.path: entry.proof for entry in entries if entry.proof is not None}
        files = [
            ProvedFile(path, judged.proof)
            for path, judged in result.judged.items()
            if judged.refused is not None or judged.proof.level >= known[path].level
        ]
        draft = LaterProof(
            run=result.run,
            number=result.version,
            manifest=stored.digest,
            made_ns=time.time_ns(),
            writer=f"mlsync {mlsync.__version__}",
            host=socket.gethostname(),
            lowest_level=0,
            device="",
            broken_count=0,
            files=files,
        )
        level, device, broken_count = summed(with_proofs(entries, [draft]))
        result.lowest_level, result.device = level, device
        shown = stand(stored.root, later)
        # Also where two machines proved a part each: the sum of both is in neither of their objects.
        if files or (level, broken_count) != (shown.lowest_level, shown.broken_count):
            proof = msgspec.structs.replace(draft, lowest_level=level, device=device, broken_count=broken_count)
            self._repository.add_later_proof(proof)
