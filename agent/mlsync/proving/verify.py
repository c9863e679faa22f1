"""Read a version back from the store, whole, and prove its checkpoints again."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from mlsync.monitor import Monitor
from mlsync.proof.prover import Prover
from mlsync.proving.judge import Judged, Proving, is_file
from mlsync.proving.load import Loading, LoadingOptions
from mlsync.repository.manifest import Entry, Manifest
from mlsync.repository.repository import Repository
from mlsync.versions.archived import naming_all_archived


@dataclass(frozen=True, slots=True)
class VerifiedFile:
    """A checkpoint of the version and what became of it."""

    entry: Entry
    judged: Judged


@dataclass(slots=True)
class VerifyResult:
    """What a verification found; damage is raised, never a result."""

    run: str
    version: int
    file_count: int = 0
    read_bytes: int = 0
    seconds: float = 0.0
    checkpoints: list[VerifiedFile] = field(default_factory=list)

    @property
    def refused(self) -> list[VerifiedFile]:
        """The checkpoints that do not load."""
        return [file for file in self.checkpoints if file.judged.refused is not None]

    @property
    def lowest_level(self) -> int:
        """The least level that any checkpoint reached."""
        return min((file.judged.proof.level for file in self.checkpoints if file.judged.refused is None), default=0)


@naming_all_archived
def verify(
    repository: Repository,
    manifest: Manifest,
    prover: Prover,
    monitor: Monitor,
    loading: LoadingOptions | None = None,
) -> VerifyResult:
    """Return what every checkpoint of the version reached; raises ``Damage`` if a byte does not come back.

    *loading* says how checkpoints are loaded by a framework, if they are to be.
    """
    started_s = time.monotonic()
    result = VerifyResult(manifest.root.run, manifest.root.number)
    files = [entry for entry in manifest.entries if is_file(entry)]
    task_name = f"{manifest.root.run} version {manifest.root.number}: verifying"
    with repository.reader() as reader, monitor.task(task_name, sum(entry.size_bytes for entry in files)) as task:
        proving = Proving(reader, prover, loading=Loading.of(loading, reader, repository))
        proving.read_back([entry for entry in files if entry.proof is None], task.advance)
        beside = {entry.path: entry for entry in manifest.entries}
        checkpoints = [entry for entry in files if entry.proof is not None]
        wholes = proving.wholes([entry.path for entry in checkpoints], beside)
        judged = {entry.path: proving.judge(entry, beside, task.advance, wholes) for entry in checkpoints}
        judged |= proving.judge_wholes(wholes, beside, judged, task.advance)
        result.checkpoints += [VerifiedFile(entry, judged[entry.path]) for entry in checkpoints]
        result.file_count, result.read_bytes = len(files), proving.read_bytes
    result.seconds = time.monotonic() - started_s
    return result
