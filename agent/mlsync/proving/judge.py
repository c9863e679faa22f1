"""Prove a candidate: read every new file back from the store, and load every new checkpoint."""

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
from mlsync.repository.encoding.tokens import EntryKind
from mlsync.repository.manifest import Entry
from mlsync.repository.reader import ChunkReader
from mlsync.source.paths import display
from mlsync.values import Fact, Finding, Level, Proof, Severity
from mlsync.versions.loaded_directories import LoadedDirectories, LoadedDirectory, name_of
from mlsync.versions.stored_file import RestoredFile, check_whole
from mlsync.versions.units import Entries, fitting_metadata, metadata_beside

#: The fact that names the directory which was loaded as one: in another directory the file is not at level 5.
LOADED_IN: Final = "loaded_in"
# Of files that are read back, progress is reported after so much; a stop waits for no more.
_REPORTED_BYTES_MIN: Final = 1 << 20
_REPORTED_FILES: Final = 128


class Proving:
    """Proves files of a candidate, files of equal content once; *loading* does level 5, if wanted."""

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
        #: Called with what is being done: the file that is proved, or what its proof waits for.
        self.say: Callable[[str], None] = _unheard
        #: Asked for a verdict before a file is proved, with the file in the store; it may have been proved meanwhile.
        self.early: Callable[[Entry, RestoredFile], Verdict | None] = lambda _entry, _file: None
        prover.on_wait = lambda what: self.say(what or self._path)
        self._path = ""

    @property
    def read_bytes(self) -> int:
        """How many bytes came back from the store."""
        return self._reader.read_bytes

    def read_back(self, entries: Sequence[Entry], advance: Callable[[int], None]) -> None:
        """Read back files that are not checkpoints; raises ``Damage`` if one does not come back whole.

        They are many and small: they are one stream, so that neighbours in a pack are fetched together.
        """
        if entries:
            self.say("reading back what is no checkpoint")
        chunks = self._reader.stream(ref for entry in entries for ref in entry.chunks)
        checked_bytes = 0
        for number, entry in enumerate(entries, 1):
            check_whole(entry, chunks)
            checked_bytes += entry.size_bytes
            # To report each of a hundred thousand takes longer than to read it.
            if checked_bytes >= _REPORTED_BYTES_MIN or number % _REPORTED_FILES == 0 or number == len(entries):
                advance(checked_bytes)
                checked_bytes = 0

    def wholes(self, paths: Iterable[bytes], beside: Entries) -> LoadedDirectories:
        """Return the directories of a version that level 5 loads as one and that contain any of *paths*."""
        return LoadedDirectories() if self._loading is None else self._loading.wholes(paths, beside)

    def judge(
        self, entry: Entry, beside: Entries, advance: Callable[[int], None], wholes: LoadedDirectories
    ) -> Verdict:
        """Read a checkpoint back and prove it; raises ``Damage`` if it does not come back whole.

        *beside* are the entries of its version: a shard cannot be checked without the metadata beside it. A file in one
        of the *wholes* is not loaded by itself.
        """
        self._path = display(entry.path)
        self.say(self._path)
        content = content_of(entry, beside)
        judged = self._judged.get(content)
        if judged is None:
            metadata = self._metadata(metadata_beside(entry, beside), beside)
            file = RestoredFile(self._reader, entry, advance)
            judged = None if metadata is not None else self.early(entry, file)
            if judged is None:
                judged = self._prover.prove(file, entry.path, metadata)
            else:
                advance(entry.size_bytes)
            self._judged[content] = judged
        if self._loading is None or judged.refused is not None or wholes.hold(entry.path):
            return judged
        if not self._loading.is_wanted(entry, judged.proof):
            return judged
        # Not kept with the verdict: the command may be meant for one of two files of equal content.
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
        """Load directories as one; return the verdicts on their files, which were *judged* one by one before."""
        proved = {path: msgspec.structs.replace(entries[path], proof=one.proof) for path, one in judged.items()}
        entries = {**entries, **proved}
        found: dict[bytes, Verdict] = {}
        for one in wholes.found:
            found |= self.judge_whole(one, entries, advance)
        return found

    def judge_whole(
        self, whole: LoadedDirectory, entries: Entries, advance: Callable[[int], None]
    ) -> dict[bytes, Verdict]:
        """Load a directory as one; return the verdict on each checkpoint in it, by path.

        *entries* are those of the version, with their proofs. The directory is not loaded, and the result is empty, if
        one of its checkpoints is below level 4 or a file is missing.
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
        """Load *entries*, equal *content* once; return the result."""
        assert self._loading is not None
        if content not in self._loaded:
            self.say(f"loading {display(name)} by {self._loading.name}")
            try:
                self._loaded[content] = self._loading.load(entries, name, lambda: advance(0))
            except ProofUnavailable as error:
                self._loaded[content] = error
        return self._loaded[content]

    def _metadata(self, entry: Entry | None, beside: Entries) -> bytes | None:
        """Return the metadata that fits the files beside it, read once for all of them."""
        if entry is None:
            return None
        if self._last_metadata is None or self._last_metadata[0] != entry:
            self._last_metadata = entry, fitting_metadata(entry, beside, self._reader)
        return self._last_metadata[1]


def _unheard(_what: str) -> None:
    """Tell nobody."""


def refusing_policy(proof: Proof, policy: Policy) -> str:
    """Return the mark of the policy that refused a checkpoint, empty if it is broken under any policy."""
    levels = {finding.level for finding in proof.findings if finding.severity is Severity.REFUSE}
    if levels == {Level.FRAMEWORK}:
        return policy.by_loading
    return policy.by_numbers if levels == {Level.NUMBERS} else ""


def is_file(entry: Entry) -> bool:
    """Return whether an entry has content of its own."""
    return entry.kind is EntryKind.FILE


def content_of(entry: Entry, beside: Entries) -> Hashable:
    """Return a key that is equal for files of the same chunks and holes, beside the same metadata."""
    metadata = metadata_beside(entry, beside)
    return entry.holes, entry.chunks, metadata and (metadata.chunks, entry.path.rpartition(b"/")[2])


def proved_content(entries: Entries, level: int) -> dict[Hashable, Verdict]:
    """Return the verdicts on the contents of *entries* that reached *level*."""
    proofs = {path: _by_itself(entry.proof) for path, entry in entries.items() if entry.proof is not None}
    return {
        content_of(entries[path], entries): Verdict(proof)
        for path, proof in proofs.items()
        if proof.level >= level and not proof.is_broken
    }


def _by_itself(proof: Proof) -> Proof:
    """Return the proof as it holds for the content in any directory."""
    return not_loaded(proof) if LOADED_IN in proof.facts else proof


def put_off(shortfall: str) -> Verdict:
    """Return the verdict on a checkpoint that is read back later; *shortfall* says why."""
    return Verdict(Proof(Level.BYTES, "", "", "", time.time_ns(), 0.0, 0, 0, {}, [], shortfall))


def _with_outcome(
    proof: Proof, outcome: Loaded | ProofUnavailable, facts: Mapping[str, Fact], seconds: float
) -> Verdict:
    """Return the verdict on a checkpoint after level 5."""
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
    """Return a proof without its level 5, as after the directory that was loaded has changed."""
    facts = {name: fact for name, fact in proof.facts.items() if name not in ("loaded_by", "loaded_as_root", LOADED_IN)}
    return msgspec.structs.replace(proof, level=min(proof.level, Level.NUMBERS), facts=facts, shortfall="")
