"""Prove what a version would hold: every new file comes back from the store, and every new checkpoint loads."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from mlsync.errors import ProofUnavailable
from mlsync.flows.loading import Loading
from mlsync.flows.restored_file import RestoredFile, whole
from mlsync.flows.units import Entries, fitting_metadata, metadata_beside
from mlsync.proof.prove import Prover
from mlsync.proof.verdict import LEVEL_BYTES, LEVEL_FRAMEWORK, Verdict
from mlsync.repository.manifest import Entry, Finding, Proof
from mlsync.repository.reader import ChunkReader
from mlsync.repository.tokens import EntryKind, Severity

_SEVERITY: Final = {"note": Severity.NOTE, "warn": Severity.WARN, "refuse": Severity.REFUSE}


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of a checkpoint: its *proof*, and why it is *refused*, if it is."""

    proof: Proof
    refused: str | None = None
    unavailable: ProofUnavailable | None = None


class Proving:
    """Judges files of a candidate; files of the same content are judged once. *loading* has level 5 done, if wanted."""

    def __init__(
        self,
        reader: ChunkReader,
        prover: Prover,
        known: Mapping[Hashable, Judged] | None = None,
        loading: Loading | None = None,
    ) -> None:
        self._reader = reader
        self._prover = prover
        self._loading = loading
        self._loaded: dict[Hashable, Judged] = {}
        self._judged = dict(known or {})
        self._last_metadata: tuple[Entry, bytes | None] | None = None

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

    def judge(self, entry: Entry, beside: Entries, advance: Callable[[int], None]) -> Judged:
        """Read a checkpoint back and prove it; raises ``Damage`` if it does not come back whole.

        *beside* is the version that it is a file of: a shard says nothing without the metadata that lie there.
        """
        content = content_of(entry, beside)
        judged = self._judged.get(content)
        if judged is None:
            metadata = self._metadata(metadata_beside(entry, beside), beside)
            verdict = self._prover.prove(RestoredFile(self._reader, entry, advance), entry.path, metadata)
            judged = self._judged[content] = _judged(verdict)
        if self._loading is None or judged.refused is not None or not self._loading.is_wanted(entry, judged.proof):
            return judged
        # Apart from the others: the command may be meant for one of two files of the same content.
        loaded = self._loaded.get(content)
        if loaded is None:
            loaded = self._loaded[content] = _loaded(self._loading, entry, judged.proof, advance)
        return loaded

    def _metadata(self, entry: Entry | None, beside: Entries) -> bytes | None:
        """Return the bytes of metadata that fit the files beside them, read once for all of these."""
        if entry is None:
            return None
        if self._last_metadata is None or self._last_metadata[0] != entry:
            self._last_metadata = entry, fitting_metadata(entry, beside, self._reader)
        return self._last_metadata[1]


def is_file(entry: Entry) -> bool:
    """Whether an entry has content of its own."""
    return entry.kind is EntryKind.FILE


def content_of(entry: Entry, beside: Entries) -> Hashable:
    """Return what two files have in common that are made of the same chunks at the same places, as their metadata."""
    metadata = metadata_beside(entry, beside)
    return entry.holes, entry.chunks, metadata and (metadata.chunks, entry.path.rpartition(b"/")[2])


def proved_content(entries: Entries, level: int) -> dict[Hashable, Judged]:
    """Return by content what *entries* are known of; a proof that fell short is no answer for another file."""
    return {
        content_of(entry, entries): Judged(entry.proof)
        for entry in entries.values()
        if entry.proof is not None and entry.proof.level >= level and not entry.proof.is_broken
    }


def put_off() -> Judged:
    """Return what stands for a checkpoint that is to be read back later."""
    shortfall = "not read back yet, as proof.read_back says"
    return Judged(Proof(LEVEL_BYTES, "", "", "", time.time_ns(), 0.0, 0, 0, {}, [], shortfall))


def _judged(verdict: Verdict) -> Judged:
    proof = _proof(verdict)
    refused = (proof.refusal or "refused") if verdict.status == "broken" else None
    return Judged(proof, refused, verdict.error)


def _loaded(loading: Loading, entry: Entry, proof: Proof, advance: Callable[[int], None]) -> Judged:
    """Return what level 5 adds to the proof of a checkpoint, or that it speaks against it."""
    began_s = time.monotonic()
    try:
        loaded = loading.load(entry, lambda: advance(0))
    except ProofUnavailable as error:
        return Judged(msgspec.structs.replace(proof, shortfall=str(error)), unavailable=error)
    if loaded.refused is not None:
        finding = Finding(LEVEL_FRAMEWORK, Severity.REFUSE, loaded.refused)
        broken = msgspec.structs.replace(proof, findings=[*proof.findings, finding])
        return Judged(broken, refused=broken.refusal)
    if loaded.skipped:
        return Judged(proof)
    seconds = round(proof.seconds + time.monotonic() - began_s, 6)
    facts = proof.facts | {"loaded_by": loading.name}
    return Judged(msgspec.structs.replace(proof, level=LEVEL_FRAMEWORK, seconds=seconds, facts=facts))


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
