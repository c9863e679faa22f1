"""Prove what a version would hold: every new file comes back from the store, and every new checkpoint loads."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from mlsync.errors import ProofUnavailable
from mlsync.proof.framework import Loaded
from mlsync.proof.prover import Prover
from mlsync.proof.verdict import Verdict
from mlsync.proving.load import Loading
from mlsync.proving.policy import Policy
from mlsync.repository.manifest import Entry
from mlsync.repository.reader import ChunkReader
from mlsync.repository.tokens import EntryKind
from mlsync.values import Fact, Finding, Level, Proof, Severity
from mlsync.versions.loaded_directories import LoadedDirectories, LoadedDirectory, name_of
from mlsync.versions.stored_file import RestoredFile, whole
from mlsync.versions.units import Entries, fitting_metadata, metadata_beside

#: The fact that says in which directory, loaded as one, a checkpoint reached level 5: a file of another one has not.
LOADED_IN: Final = "loaded_in"


class Proving:
    """Judges files of a candidate; files of the same content are judged once. *loading* has level 5 done, if wanted."""

    def __init__(
        self,
        reader: ChunkReader,
        prover: Prover,
        known: Mapping[Hashable, Verdict] | None = None,
        loading: Loading | None = None,
    ) -> None:
        self._reader = reader
        self._prover = prover
        self._loading = loading
        self._loaded: dict[Hashable, Loaded | ProofUnavailable] = {}
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

    def wholes(self, paths: Iterable[bytes], beside: Entries) -> LoadedDirectories:
        """Return the directories of a version that any of *paths* is in and that level 5 loads as one."""
        return LoadedDirectories() if self._loading is None else self._loading.wholes(paths, beside)

    def judge(
        self, entry: Entry, beside: Entries, advance: Callable[[int], None], wholes: LoadedDirectories
    ) -> Verdict:
        """Read a checkpoint back and prove it; raises ``Damage`` if it does not come back whole.

        *beside* is the version that it is a file of: a shard says nothing without the metadata that lie there. One that
        is in one of the *wholes* is not loaded for itself.
        """
        content = content_of(entry, beside)
        judged = self._judged.get(content)
        if judged is None:
            metadata = self._metadata(metadata_beside(entry, beside), beside)
            file = RestoredFile(self._reader, entry, advance)
            judged = self._judged[content] = self._prover.prove(file, entry.path, metadata)
        if self._loading is None or judged.refused is not None or wholes.hold(entry.path):
            return judged
        if not self._loading.is_wanted(entry, judged.proof):
            return judged
        # Apart from the others: the command may be meant for one of two files of the same content.
        name = entry.path.rpartition(b"/")[2]
        began_s = time.monotonic()
        outcome = self._outcome(content, [msgspec.structs.replace(entry, path=name)], name, advance)
        return _with_outcome(judged.proof, outcome, {"loaded_by": self._loading.name}, time.monotonic() - began_s)

    def judge_wholes(
        self,
        wholes: LoadedDirectories,
        entries: Entries,
        judged: Mapping[bytes, Verdict],
        advance: Callable[[int], None],
    ) -> dict[bytes, Verdict]:
        """Return what loading directories as one adds to what was *judged* of a version's files one by one."""
        proved = {path: msgspec.structs.replace(entries[path], proof=one.proof) for path, one in judged.items()}
        entries = {**entries, **proved}
        found: dict[bytes, Verdict] = {}
        for one in wholes.found:
            found |= self.judge_whole(one, entries, advance)
        return found

    def judge_whole(
        self, whole: LoadedDirectory, entries: Entries, advance: Callable[[int], None]
    ) -> dict[bytes, Verdict]:
        """Load a directory as one; return what that says of each checkpoint in it, by path.

        *entries* are the version's, each with its proof by now. Nothing is tried, and the answer is empty, where a
        level below does not hold for one of the checkpoints, or where something is lacking.
        """
        proofs = {path: proof for path, entry in entries.items() if whole.holds(path) and (proof := entry.proof)}
        if self._loading is None or not proofs or whole.lacking is not None:
            return {}
        if any(proof.is_broken or proof.level < Level.NUMBERS for proof in proofs.values()):
            return {}
        name = whole.path.rpartition(b"/")[2] or b"checkpoint"
        held = whole.entries(entries)
        content = tuple((entry.path, entry.kind, entry.target, entry.holes, entry.chunks) for entry in held)
        held = [msgspec.structs.replace(entry, path=name + b"/" + entry.path) for entry in held]
        began_s = time.monotonic()
        outcome = self._outcome(content, held, name, advance)
        seconds = (time.monotonic() - began_s) / len(proofs)
        facts = {"loaded_by": self._loading.name, LOADED_IN: name_of(whole.path)}
        return {path: _with_outcome(not_loaded(proof), outcome, facts, seconds) for path, proof in proofs.items()}

    def _outcome(
        self, content: Hashable, entries: Sequence[Entry], name: bytes, advance: Callable[[int], None]
    ) -> Loaded | ProofUnavailable:
        """Return what came of loading something, which is loaded once."""
        assert self._loading is not None
        if content not in self._loaded:
            try:
                self._loaded[content] = self._loading.load(entries, name, lambda: advance(0))
            except ProofUnavailable as error:
                self._loaded[content] = error
        return self._loaded[content]

    def _metadata(self, entry: Entry | None, beside: Entries) -> bytes | None:
        """Return the bytes of metadata that fit the files beside them, read once for all of these."""
        if entry is None:
            return None
        if self._last_metadata is None or self._last_metadata[0] != entry:
            self._last_metadata = entry, fitting_metadata(entry, beside, self._reader)
        return self._last_metadata[1]


def wish_behind(proof: Proof, policy: Policy) -> str:
    """Return by which wish of the user's a checkpoint was refused, empty if it would be whatever is wished."""
    levels = {finding.level for finding in proof.findings if finding.severity is Severity.REFUSE}
    if levels == {Level.FRAMEWORK}:
        return policy.by_loading
    return policy.by_numbers if levels == {Level.NUMBERS} else ""


def is_file(entry: Entry) -> bool:
    """Whether an entry has content of its own."""
    return entry.kind is EntryKind.FILE


def content_of(entry: Entry, beside: Entries) -> Hashable:
    """Return what two files have in common that are made of the same chunks at the same places, as their metadata."""
    metadata = metadata_beside(entry, beside)
    return entry.holes, entry.chunks, metadata and (metadata.chunks, entry.path.rpartition(b"/")[2])


def proved_content(entries: Entries, level: int) -> dict[Hashable, Verdict]:
    """Return by content what *entries* are known of; a proof that fell short is no answer for another file."""
    proofs = {path: _by_itself(entry.proof) for path, entry in entries.items() if entry.proof is not None}
    return {
        content_of(entries[path], entries): Verdict(proof)
        for path, proof in proofs.items()
        if proof.level >= level and not proof.is_broken
    }


def _by_itself(proof: Proof) -> Proof:
    """Return what a proof says of a file of that content, wherever it lies."""
    return not_loaded(proof) if LOADED_IN in proof.facts else proof


def put_off() -> Verdict:
    """Return what stands for a checkpoint that is to be read back later."""
    shortfall = "not read back yet, as proof.read_back says"
    return Verdict(Proof(Level.BYTES, "", "", "", time.time_ns(), 0.0, 0, 0, {}, [], shortfall))


def _with_outcome(
    proof: Proof, outcome: Loaded | ProofUnavailable, facts: Mapping[str, Fact], seconds: float
) -> Verdict:
    """Return what level 5 adds to the proof of a checkpoint, or that it speaks against it."""
    if isinstance(outcome, ProofUnavailable):
        return Verdict(msgspec.structs.replace(proof, shortfall=str(outcome)), unavailable=outcome)
    if outcome.refused is not None:
        finding = Finding(Level.FRAMEWORK, Severity.REFUSE, outcome.refused)
        broken = msgspec.structs.replace(proof, findings=[*proof.findings, finding])
        return Verdict(broken)
    if outcome.skipped:
        return Verdict(proof)
    if outcome.as_root:
        facts = {**facts, "loaded_as_root": outcome.as_root}
    facts, seconds = {**proof.facts, **facts}, round(proof.seconds + seconds, 6)
    return Verdict(msgspec.structs.replace(proof, level=Level.FRAMEWORK, seconds=seconds, facts=facts))


def not_loaded(proof: Proof) -> Proof:
    """Return what is left of a proof without level 5, as where the directory that was loaded is another one by now."""
    facts = {name: fact for name, fact in proof.facts.items() if name not in ("loaded_by", "loaded_as_root", LOADED_IN)}
    return msgspec.structs.replace(proof, level=min(proof.level, Level.NUMBERS), facts=facts, shortfall="")
