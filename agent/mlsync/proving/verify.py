"""Read a version back from the store, whole, and prove its checkpoints again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from mlsync.errors import ProofUnavailable
from mlsync.monitor import Monitor
from mlsync.proof.prover import Prover
from mlsync.proof.verdict import Verdict
from mlsync.proving.judge import Proving, is_file
from mlsync.proving.load import Loading, LoadingOptions
from mlsync.repository.manifest import Manifest
from mlsync.repository.repository import Repository
from mlsync.versions.archived import naming_all_archived
from mlsync.versions.units import Entries


@dataclass(slots=True)
class VerifyResult:
    """What a verification found, by the path of each checkpoint; damage is raised, never a result.

    *unavailable* says why a checkpoint could not be proved again to the level that it has in the version.
    """

    run: str
    version: int
    file_count: int = 0
    read_bytes: int = 0
    seconds: float = 0.0
    verdicts: dict[bytes, Verdict] = field(default_factory=dict)
    unavailable: ProofUnavailable | None = None

    @property
    def refused(self) -> dict[bytes, str]:
        """The checkpoints that do not load, and why."""
        return {path: verdict.refused for path, verdict in self.verdicts.items() if verdict.refused is not None}

    @property
    def lowest_level(self) -> int:
        """The lowest level of the checkpoints that load."""
        return min((one.proof.level for one in self.verdicts.values() if one.refused is None), default=0)


@naming_all_archived
def verify(
    repository: Repository,
    manifest: Manifest,
    prover: Prover,
    monitor: Monitor,
    loading: LoadingOptions | None = None,
) -> VerifyResult:
    """Read every file of a version back and prove its checkpoints; raises ``Damage`` if a byte does not come back.

    *loading* says how a framework loads checkpoints; without it level 5 is skipped.
    """
    started_s = time.monotonic()
    result = VerifyResult(manifest.root.run, manifest.root.number)
    files = [entry for entry in manifest.entries if is_file(entry)]
    task_name = f"{manifest.root.run} version {manifest.root.number}: verifying"
    with repository.reader() as reader, monitor.task(task_name, sum(entry.size_bytes for entry in files)) as task:
        proving = Proving(reader, prover, loading=Loading.of(loading, reader, repository))
        proving.say = task.say
        proving.read_back([entry for entry in files if entry.proof is None], task.advance)
        beside = {entry.path: entry for entry in manifest.entries}
        checkpoints = [entry for entry in files if entry.proof is not None]
        wholes = proving.wholes([entry.path for entry in checkpoints], beside)
        verdicts = {entry.path: proving.judge(entry, beside, task.advance, wholes) for entry in checkpoints}
        result.verdicts = verdicts | proving.judge_wholes(wholes, beside, verdicts, task.advance)
        result.unavailable = _unavailable(beside, result.verdicts)
        result.file_count, result.read_bytes = len(files), proving.read_bytes
    result.seconds = time.monotonic() - started_s
    return result


def _unavailable(entries: Entries, verdicts: Mapping[bytes, Verdict]) -> ProofUnavailable | None:
    for path, verdict in verdicts.items():
        before = entries[path].proof
        if verdict.unavailable is not None and before is not None and verdict.proof.level < before.level:
            return verdict.unavailable
    return None
