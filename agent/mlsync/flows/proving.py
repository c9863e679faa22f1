"""Prove what a version would hold: every new file comes back from the store, and every new checkpoint loads."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from mlsync.errors import ProofUnavailable
from mlsync.flows.loading import Loading
from mlsync.flows.restored_file import RestoredFile, whole
from mlsync.proof.prove import Prover
from mlsync.proof.verdict import LEVEL_FRAMEWORK, Verdict
from mlsync.repository.manifest import Entry, Finding, Proof
from mlsync.repository.reader import ChunkReader
from mlsync.repository.tokens import EntryKind, Severity

_SEVERITY: Final = {"note": Severity.NOTE, "warn": Severity.WARN, "refuse": Severity.REFUSE}


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of one file: its *proof* if it is a checkpoint, and why it is *refused*, if it is."""

    proof: Proof | None
    refused: str | None = None
    unavailable: ProofUnavailable | None = None


class Proving:
    """Judges files of a candidate; files of the same content are judged once. *loading* has level 5 done, if wanted."""

    def __init__(
        self, reader: ChunkReader, prover: Prover, known: Iterable[Entry] = (), loading: Loading | None = None
    ) -> None:
        self._reader = reader
        self._prover = prover
        self._loading = loading
        self._loaded: dict[Hashable, Judged] = {}
        self._judged = {_content(entry): Judged(entry.proof) for entry in known if entry.proof is not None}

    @property
    def read_bytes(self) -> int:
        """How many bytes came back from the store."""
        return self._reader.read_bytes

    def read_back(self, entries: Sequence[Entry], advance: Callable[[int], None]) -> None:
        """Read files back that are no checkpoints; raises ``Damage`` if one does not come back whole.

        They are many and small: all are one stream, so that what lies side by side in a pack is fetched together.
        """
        chunks = self._reader.stream(ref for entry in entries for ref in entry.chunks)
        for entry in entries:
            for _ in whole(entry, chunks):
                pass
            advance(entry.size_bytes)

    def judge(self, entry: Entry, advance: Callable[[int], None]) -> Judged:
        """Read a checkpoint back and prove it; raises ``Damage`` if it does not come back whole."""
        content = _content(entry)
        judged = self._judged.get(content)
        if judged is None:
            verdict = self._prover.prove(RestoredFile(self._reader, entry, advance), entry.path)
            judged = self._judged[content] = _judged(verdict)
        if self._loading is None or judged.proof is None or not self._loading.is_wanted(entry, judged.proof):
            return judged
        # Apart from the others: the command may be meant for one of two files of the same content.
        loaded = self._loaded.get(content)
        if loaded is None:
            loaded = self._loaded[content] = _loaded(self._loading, entry, judged.proof, advance)
        return loaded


def is_file(entry: Entry) -> bool:
    """Whether an entry has content of its own."""
    return entry.kind is EntryKind.FILE


def _content(entry: Entry) -> Hashable:
    """Return what two files have in common that are made of the same chunks at the same places."""
    return entry.holes, entry.chunks


def _judged(verdict: Verdict) -> Judged:
    if verdict.status == "broken":
        return Judged(None, refused=_why(verdict))
    return Judged(_proof(verdict), unavailable=verdict.error)


def _loaded(loading: Loading, entry: Entry, proof: Proof, advance: Callable[[int], None]) -> Judged:
    """Return what level 5 adds to the proof of a checkpoint, or that it speaks against it."""
    began_s = time.monotonic()
    try:
        loaded = loading.load(entry, lambda: advance(0))
    except ProofUnavailable as error:
        return Judged(msgspec.structs.replace(proof, shortfall=str(error)), unavailable=error)
    if loaded.refused is not None:
        return Judged(None, refused=f"level {LEVEL_FRAMEWORK}: {loaded.refused}")
    if loaded.skipped:
        return Judged(proof)
    seconds = round(proof.seconds + time.monotonic() - began_s, 6)
    facts = proof.facts | {"loaded_by": loading.name}
    return Judged(msgspec.structs.replace(proof, level=LEVEL_FRAMEWORK, seconds=seconds, facts=facts))


def _why(verdict: Verdict) -> str:
    refusals = [finding for finding in verdict.findings if finding.severity == "refuse"]
    parts = []
    for finding in refusals:
        place = f" in record {finding.record!r}" if finding.record is not None else ""
        place += f" at offset {finding.offset}" if finding.offset is not None else ""
        parts.append(f"level {finding.level}: {finding.what}{place}")
    return "; ".join(parts) or "refused"


def _proof(verdict: Verdict) -> Proof:
    findings = [
        Finding(finding.level, _SEVERITY[finding.severity], finding.what, finding.record, finding.offset)
        for finding in verdict.findings
    ]
    return Proof(
        level=verdict.level,
        container=verdict.container or "",
        device=verdict.device,
        torch=verdict.torch,
        proved_ns=time.time_ns(),
        seconds=round(verdict.seconds, 6),
        tensor_count=verdict.tensor_count,
        tensor_bytes=verdict.tensor_bytes,
        facts=dict(verdict.facts),
        findings=findings,
        shortfall="" if verdict.error is None else str(verdict.error),
    )
