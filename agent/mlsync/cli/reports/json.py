"""The JSON of every command: all shapes of docs/json.md, but for the agent's status and the demo's report.

Those two are made where they are also written to a file: ``service/status.py`` and ``demo/report.py``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from mlsync.cli.terminal.output import iso, path

if TYPE_CHECKING:
    from pathlib import Path

    # Only for annotations: no command pays for the imports of another one.
    from mlsync.access.policy import PolicyRequest
    from mlsync.app.mirroring import MirrorSeen
    from mlsync.backup.preview import Preview, PreviewedDirectory
    from mlsync.backup.request import BackupResult
    from mlsync.bucket.apply import BucketApplied
    from mlsync.bucket.facts import BucketFacts
    from mlsync.bucket.plan import Seen
    from mlsync.bucket.providers import Provider
    from mlsync.bucket.steps import BucketPlan
    from mlsync.cli.reports.fleet_report import FleetRun
    from mlsync.cli.reports.resuming import Resume
    from mlsync.config.model import NotifySettings, RetentionSettings
    from mlsync.diff.checkpoint import CheckpointDiff, TensorDiff
    from mlsync.diff.diff import DiffResult, FileDiff
    from mlsync.diff.drift import Drift
    from mlsync.doctor.findings import Diagnosis
    from mlsync.errors import Error
    from mlsync.formats.layout import Tensor
    from mlsync.mirror.account import CopyResult
    from mlsync.proving.evaluate import Evaluated
    from mlsync.proving.prove_later import LaterResult
    from mlsync.proving.shares import Share
    from mlsync.proving.verify import VerifyResult
    from mlsync.publish.export import Exported
    from mlsync.publish.register import RegisterResult
    from mlsync.repository.evaluation import Evaluation
    from mlsync.repository.history.decision import Pin
    from mlsync.repository.history.decisions import By, Decided
    from mlsync.repository.history.registered import Registered
    from mlsync.repository.manifest import Entry, Manifest, Trouble
    from mlsync.repository.repository import StoredVersion
    from mlsync.restore.restore import Failure, RestoreResult
    from mlsync.service.here import RunHere
    from mlsync.service.status import AgentSeen
    from mlsync.service.talk.ask_now import AskedPass
    from mlsync.store.counting import CountingStore
    from mlsync.tell.letter import Receipt
    from mlsync.upkeep.check import CheckResult, Problem
    from mlsync.upkeep.compaction import Compacted, CompactionPlan
    from mlsync.upkeep.discard import Discarding
    from mlsync.upkeep.early_deletion import EarlyPack
    from mlsync.upkeep.extend_lock import Extended
    from mlsync.upkeep.forget import Forgetting
    from mlsync.upkeep.healing.heal import HealResult
    from mlsync.upkeep.key_slots import SlotAdded, SlotStatus
    from mlsync.upkeep.prune import Pruned, PrunePlan
    from mlsync.upkeep.repair import Healing, Repaired
    from mlsync.upkeep.resealing import ResealingPlan
    from mlsync.upkeep.retained import Retained
    from mlsync.upkeep.rotation import Rotated
    from mlsync.values import Fact, Proof
    from mlsync.versions.logs.run_metrics import RunMetrics
    from mlsync.versions.proof_status import ProofStatus, RunVersions

# How many files that are not understood are listed by name; the count says how many there are.
_NAMED_MAX: Final = 100
_NUMPY: Final = "numpy "


def backups_json(results: Iterable[BackupResult], failed: Iterable[tuple[str, Error]]) -> dict[str, object]:
    """Return the value of ``mlsync backup``."""
    return {
        "runs": [_backup_json(result) for result in results],
        "errors": [{"run": run} | error_json(error) for run, error in failed],
    }


def _backup_json(result: BackupResult) -> dict[str, object]:
    return {
        "run": result.run,
        "version": result.version or None,
        "previous": result.previous or None,
        "why": list(result.why),
        "scanned_count": result.scanned_count,
        "changed_count": result.changed_count,
        "size_bytes": result.size_bytes,
        "read_bytes": result.read_bytes,
        "new_bytes": result.new_bytes,
        "stored_bytes": result.stored_bytes,
        "read_back_bytes": result.read_back_bytes,
        "checkpoint_count": result.checkpoint_count,
        "lowest_level": result.lowest_level if result.checkpoint_count else None,
        "device": result.device or None,
        "pending": list(result.pending),
        "left_out_count": result.left_out.count,
        "left_out": [path(name) for name in sorted(result.left_out.paths)],
        **_not_understood_json(result.not_understood),
        "troubles": [_trouble_json(trouble) for trouble in result.troubles],
        "store_seconds": round(result.store_seconds, 3),
        "prove_seconds": round(result.prove_seconds, 3),
        "store_cpu_seconds": round(result.store_cpu_seconds, 3),
        "prove_cpu_seconds": round(result.prove_cpu_seconds, 3),
        "seconds": round(result.seconds, 3),
    }


def previews_json(previews: Iterable[Preview], failed: Iterable[tuple[str, Error]]) -> dict[str, object]:
    """Return the value of ``mlsync backup --dry-run``."""
    return {
        "runs": [_preview_json(one) for one in previews],
        "errors": [{"run": run} | error_json(error) for run, error in failed],
    }


def _preview_json(one: Preview) -> dict[str, object]:
    return {
        "run": one.source.run,
        "directory": path(one.source.directory),
        "previous": one.previous or None,
        "changed": not one.is_nothing,
        "read_count": one.read.count,
        "read_bytes": one.read.size_bytes,
        "new_bytes_max": one.read.size_bytes,
        "unchanged_count": one.unchanged.count,
        "unchanged_bytes": one.unchanged.size_bytes,
        "left_out_count": one.left_out.count,
        "left_out_bytes": one.left_out.size_bytes,
        "removed_count": one.removed_count,
        "directories": [_directory_json(name, found) for name, found in sorted(one.directories.items())],
        "left_out": [
            {
                "reason": group.reason.value,
                "what": group.what,
                "count": group.tally.count,
                "size_bytes": group.tally.size_bytes,
                "paths": [path(name) for name in group.paths],
            }
            for group in one.groups.values()
        ],
        "seconds": round(one.seconds, 3),
    }


def _directory_json(name: bytes, found: PreviewedDirectory) -> dict[str, object]:
    return {
        "path": path(name),
        "read_count": found.read.count,
        "read_bytes": found.read.size_bytes,
        "unchanged_count": found.unchanged.count,
        "unchanged_bytes": found.unchanged.size_bytes,
        "left_out_count": found.left_out.count,
        "left_out_bytes": found.left_out.size_bytes,
    }


def _not_understood_json(paths: Sequence[bytes]) -> dict[str, object]:
    return {
        "not_understood_count": len(paths),
        "not_understood": [path(name) for name in paths[:_NAMED_MAX]],
    }


def _trouble_json(trouble: Trouble) -> dict[str, object]:
    return {
        "path": path(trouble.path),
        "kind": trouble.kind.name.lower(),
        "text": trouble.text,
        "kept_version": trouble.kept or None,
    }


def versions_json(listed: Iterable[RunVersions], unreadable: Iterable[tuple[str, Error]]) -> dict[str, object]:
    """Return the value of ``mlsync versions``."""
    listed = list(listed)
    return {
        "versions": [
            _version_json(status, one.decided, one.measured.get(status.root.number, {}))
            for one in listed
            for status in one.statuses
        ],
        "decided": [_decided_json(one.decided) for one in listed],
        "unreadable": [{"object": key, "text": error.what} for key, error in unreadable],
    }


def _decided_json(decided: Decided) -> dict[str, object]:
    return {
        "run": decided.run,
        "pinned_count": len(decided.pins),
        "registered_count": len(decided.registered),
        "forgotten_count": len(decided.forgotten),
        "gone_count": decided.gone_count,
        "hidden": decided.hidden,
    }


def _pin_json(pin: Pin) -> dict[str, object]:
    return {"name": pin.name or None, "reason": pin.reason, "made": iso(pin.made_ns)}


def pin_json(run: str, pin: Pin, *, was_forgotten: bool) -> dict[str, object]:
    """Return the value of ``mlsync pin`` and ``unpin``."""
    return {"run": run, "version": pin.version, "pin": _pin_json(pin), "was_forgotten": was_forgotten}


def register_json(done: RegisterResult) -> dict[str, object]:
    """Return the value of ``mlsync register``."""
    return {
        "run": done.run,
        "version": done.version,
        "path": path(done.path),
        "tracking_uri": done.place,
        "model": done.model,
        "model_version": done.number,
        "uri": done.uri,
        "source": done.source,
        "aliases": list(done.aliases),
        "sha256": done.sha256,
        "is_new": done.is_new,
    }


def unregister_json(run: str, version: int, removed: Iterable[Registered], deleted: Iterable[str]) -> dict[str, object]:
    """Return the value of ``mlsync unregister``."""
    return {
        "run": run,
        "version": version,
        "removed": [_registered_json(one) for one in removed],
        "deleted_in_mlflow": list(deleted),
    }


def _registered_json(one: Registered) -> dict[str, object]:
    return {
        "tracking_uri": one.place,
        "model": one.model,
        "model_version": one.number,
        "path": path(one.path),
        "when": iso(one.made_ns),
    }


def export_json(stored: StoredVersion, done: Iterable[Exported]) -> dict[str, object]:
    """Return the value of ``mlsync export``."""
    return {
        "run": stored.root.run,
        "version": stored.root.number,
        "files": [
            {
                "path": path(one.path),
                "to": one.where,
                "size_bytes": one.size_bytes,
                "sha256": one.sha256,
                "is_new": one.is_new,
            }
            for one in done
        ],
    }


def forget_json(shown: Forgetting, by: By, *, is_dry_run: bool) -> dict[str, object]:
    """Return the value of ``mlsync forget``."""
    return {
        "run": shown.run,
        "dry_run": is_dry_run,
        "forgotten": [
            {
                "version": stored.root.number,
                "made": iso(stored.root.created_ns),
                "size_bytes": stored.root.summary.size_bytes,
                "stored_bytes": stored.root.summary.stored_bytes,
                "rule": rule,
                "when": iso(by.now_ns),
            }
            for stored, rule in shown.items
        ],
        "already_forgotten": list(shown.already),
    }


def forget_by_policy_json(
    found: Iterable[tuple[Retained, RetentionSettings]],
    refused: Iterable[tuple[str, Error]],
    *,
    is_dry_run: bool,
    is_done: bool,
) -> dict[str, object]:
    """Return the value of ``mlsync forget`` without numbers."""
    return {
        "dry_run": is_dry_run,
        "done": is_done,
        "runs": [_retained_json(one, settings) for one, settings in found],
        "errors": [{"run": run} | error_json(error) for run, error in refused],
    }


def _retained_json(one: Retained, settings: RetentionSettings) -> dict[str, object]:
    evaluation = one.evaluation
    return {
        "run": evaluation.run,
        "floor": settings.floor,
        "grace_seconds": settings.grace_s,
        "max_remove": str(settings.max_remove),
        "allowed": settings.max_remove.allows(len(evaluation.removed), evaluation.there_count),
        "rules": [
            {"rule": rule.text, "seen_count": rule.seen_count, "kept_count": rule.kept_count}
            for rule in evaluation.rules
        ],
        "versions": [
            {
                "version": item.version.number,
                "made": iso(item.version.made_ns),
                "level": item.version.level if one.roots[item.version.number].summary.checkpoint_count else None,
                "broken": item.version.is_broken,
                "stored_bytes": one.roots[item.version.number].summary.stored_bytes,
                "kept": item.is_kept,
                "reasons": list(item.reasons),
            }
            for item in evaluation.judged
        ],
        "removed": list(evaluation.removed),
    }


def unforget_json(run: str, back: Iterable[int]) -> dict[str, object]:
    """Return the value of ``mlsync unforget``."""
    return {"run": run, "versions": list(back)}


def _version_json(status: ProofStatus, decided: Decided, measured: Mapping[str, float]) -> dict[str, object]:
    root, summary = status.root, status.root.summary
    has_checkpoints = summary.checkpoint_count > 0
    pin, forgotten = decided.pins.get(root.number), decided.forgotten.get(root.number)
    return {
        "run": root.run,
        "version": root.number,
        "previous": root.previous.number if root.previous else None,
        "made": iso(root.created_ns),
        "host": root.host,
        "directory": path(root.directory),
        "writer": root.writer,
        "writer_id": root.origin.id.hex(),
        "file_count": summary.file_count,
        "size_bytes": summary.size_bytes,
        "new_bytes": summary.new_bytes,
        "stored_bytes": summary.stored_bytes,
        "checkpoint_count": summary.checkpoint_count,
        "broken_count": status.broken_count,
        "lowest_level": status.lowest_level if has_checkpoints else None,
        "required_level": root.required_level,
        "pending": status.is_pending,
        "device": status.device or None,
        "hidden_proofs": [] if status.hidden is None else list(status.hidden.keys),
        "numbers": dict(measured),
        "trouble_count": len(root.troubles),
        "notes": list(root.notes),
        "pin": None if pin is None else _pin_json(pin),
        "registered": [_registered_json(one) for one in decided.registered.get(root.number, ())],
        "forgotten": None if forgotten is None else {"rule": forgotten.rule, "when": iso(forgotten.forgotten_ns)},
    }


def show_json(
    status: ProofStatus,
    manifest: Manifest,
    logged: Mapping[bytes, Mapping[str, Fact]],
    unknown: Sequence[bytes],
    decided: Decided,
    evaluations: Sequence[Evaluation],
) -> dict[str, object]:
    """Return the value of ``mlsync show``; *logged* are the facts of trainers' logs by path."""
    from mlsync.repository.evaluation import newest_numbers  # late: no error is told by it

    return _version_json(status, decided, newest_numbers(evaluations)) | {
        "evaluations": [_evaluation_json(one) for one in evaluations],
        "entries": [_entry_json(entry, logged.get(entry.path)) for entry in manifest.entries],
        "troubles": [_trouble_json(trouble) for trouble in manifest.root.troubles],
        **_not_understood_json(unknown),
    }


def metrics_json(metrics: RunMetrics, asked: Sequence[str], last: int) -> dict[str, object]:
    """Return the value of ``mlsync metrics``: the last rows, all for 0, of the metrics *asked* for, else of all."""
    names = list(asked) or list(metrics.said.names)
    return {
        "run": metrics.stored.root.run,
        "version": metrics.stored.root.number,
        "made": iso(metrics.stored.root.created_ns),
        "log": path(metrics.log.shown),
        "kind": metrics.said.kind,
        "names": names,
        "rows": [
            {
                "epoch": _whole(row.epoch),
                "step": _whole(row.step),
                "values": {name: _number_json(row.values[name]) for name in names if name in row.values},
            }
            for row in metrics.said.rows[-last:]
        ],
        "marks": [
            {"version": mark.version, "epoch": _whole(mark.epoch), "step": _whole(mark.step)} for mark in metrics.marks
        ],
        "notes": metrics.said.notes,
        "other_logs": [path(log.shown) for log in metrics.others],
    }


def _whole(place: float | None) -> float | None:
    return int(place) if place is not None and place.is_integer() else place


def _number_json(value: float) -> float | str:
    """Return a number; as text what JSON has no number for."""
    return value if math.isfinite(value) else str(value)


def _entry_json(entry: Entry, logged: Mapping[str, Fact] | None) -> dict[str, object]:
    return {
        "path": path(entry.path),
        "kind": entry.kind.name.lower(),
        "mode": f"{entry.mode:04o}",
        "modified": iso(entry.mtime_ns),
        "size_bytes": entry.size_bytes,
        "target": path(entry.target) if entry.target else None,
        "blake3": entry.blake3.hex() if entry.blake3 is not None else None,
        "chunk_count": len(entry.chunks),
        "stored_bytes": sum(ref.stored_bytes for ref in entry.chunks),
        "difference_count": sum(ref.base is not None for ref in entry.chunks),
        "base_bytes": sum(base.stored_bytes for base in {ref.base for ref in entry.chunks} if base is not None),
        "proof": _proof_json(entry.proof) if entry.proof else None,
        "logged": logged,
    }


def _proof_json(proof: Proof) -> dict[str, object]:
    return {
        "level": proof.level,
        "container": proof.container,
        "device": proof.device or None,
        "torch": proof.torch if proof.torch and not proof.torch.startswith(_NUMPY) else None,
        "numpy": proof.torch.removeprefix(_NUMPY) if proof.torch.startswith(_NUMPY) else None,
        "proved": iso(proof.proved_ns),
        "seconds": proof.seconds,
        "tensor_count": proof.tensor_count,
        "tensor_bytes": proof.tensor_bytes,
        "facts": proof.facts,
        "shortfall": proof.shortfall or None,
        "findings": [
            {
                "level": finding.level,
                "severity": finding.severity.name.lower(),
                "what": finding.what,
                "record": finding.record,
                "offset": finding.offset,
            }
            for finding in proof.findings
        ],
    }


def diff_json(result: DiffResult) -> dict[str, object]:
    """Return the value of ``mlsync diff``."""
    return {
        "run": result.after.run,
        "before": result.before.number,
        "before_path": None if result.before_path is None else path(result.before_path) or ".",
        "after": result.after.number,
        "after_path": None if result.after_path is None else path(result.after_path) or ".",
        "files": [_file_json(file) for file in result.files],
        "numbers": [
            {"name": name, "before": before, "after": after} for name, (before, after) in result.numbers.items()
        ],
        "same_count": result.same_count,
        "new_bytes": result.new_bytes,
        "read_bytes": result.read_bytes,
        "seconds": round(result.seconds, 3),
    }


def _file_json(file: FileDiff) -> dict[str, object]:
    return {
        "path": path(file.path),
        "change": file.change,
        "before": _state_json(file.before) if file.before else None,
        "after": _state_json(file.after) if file.after else None,
        "new_bytes": file.new_bytes,
        "checkpoint": _checkpoint_json(file.checkpoint) if file.checkpoint else None,
    }


def _state_json(entry: Entry) -> dict[str, object]:
    return {
        "path": path(entry.path),
        "kind": entry.kind.name.lower(),
        "mode": f"{entry.mode:04o}",
        "owner": f"{entry.uid}:{entry.gid}",
        "size_bytes": entry.size_bytes,
        "target": path(entry.target) if entry.target else None,
    }


def _checkpoint_json(checkpoint: CheckpointDiff) -> dict[str, object]:
    from mlsync.diff.checkpoint import FATES  # late, with numpy

    return {
        "not_looked_into": checkpoint.why_not or None,
        "facts_before": {name: was for name, (was, _) in checkpoint.facts.items() if was is not None},
        "facts_after": {name: now for name, (_, now) in checkpoint.facts.items() if now is not None},
        "same_count": checkpoint.same_count,
        **{f"{fate}_count": checkpoint.count(fate) for fate in FATES},
        "tensors": [_tensor_json(tensor) for tensor in checkpoint.tensors],
    }


def _tensor_json(tensor: TensorDiff) -> dict[str, object]:
    return {
        "name": tensor.name,
        "change": tensor.fate,
        "before": _form_json(tensor.before) if tensor.before else None,
        "after": _form_json(tensor.after) if tensor.after else None,
        "drift": _drift_json(tensor.drift) if tensor.drift else None,
        "note": tensor.note or None,
    }


def _form_json(tensor: Tensor) -> dict[str, object]:
    return {"dtype": tensor.dtype, "shape": list(tensor.shape)}


def _drift_json(drift: Drift) -> dict[str, object]:
    return {
        "number_count": drift.number_count,
        "changed_count": drift.changed_count,
        "relative": drift.relative,
        "moved_norm": drift.moved_norm,
        "before_norm": drift.before_norm,
        "mean_change": drift.mean,
        "largest_change": drift.largest,
        "before_nonfinite_count": drift.before_nonfinite_count,
        "after_nonfinite_count": drift.after_nonfinite_count,
        "left_out_count": drift.left_out_count,
    }


def restore_json(
    result: RestoreResult, resumes: Iterable[Resume], config: Path | None, cold: Iterable[Mapping[str, object]]
) -> dict[str, object]:
    """Return the value of ``mlsync restore``."""
    return {
        "run": result.run,
        "version": result.version,
        "directory": path(result.directory),
        "file_count": result.file_count,
        "written_count": result.written_count,
        "unchanged_count": result.unchanged_count,
        "deleted_count": result.deleted_count,
        "size_bytes": result.size_bytes,
        "written_bytes": result.written_bytes,
        "read_bytes": result.read_bytes,
        "failures": [_unrestored_json(failure) for failure in result.failures],
        "resume": [{"kind": one.kind, "path": path(one.path), "line": one.line} for one in resumes],
        "config": None if config is None else path(bytes(config)),
        "cold": list(cold),
        "seconds": round(result.seconds, 3),
    }


def _unrestored_json(failure: Failure) -> dict[str, object]:
    error = failure.error
    return {
        "path": path(failure.path),
        "kind": type(error).__name__,
        "exit_status": error.exit_code,
        "what": error.what,
        "where": error.where,
    }


def verify_json(result: VerifyResult) -> dict[str, object]:
    """Return the value of ``mlsync verify``."""
    return {
        "run": result.run,
        "version": result.version,
        "file_count": result.file_count,
        "read_bytes": result.read_bytes,
        "lowest_level": result.lowest_level if result.verdicts else None,
        "checkpoints": [
            {
                "path": path(name),
                "refused": verdict.refused,
                "proof": None if verdict.refused is not None else _proof_json(verdict.proof),
            }
            for name, verdict in result.verdicts.items()
        ],
        "seconds": round(result.seconds, 3),
    }


def evaluate_json(done: Evaluated) -> dict[str, object]:
    """Return the value of ``mlsync evaluate``."""
    return _evaluation_json(done.evaluation) | {
        "run": done.evaluation.run,
        "version": done.evaluation.number,
        "notes": list(done.notes),
        "as_root": done.as_root or None,
        "read_bytes": done.read_bytes,
    }


def _evaluation_json(one: Evaluation) -> dict[str, object]:
    return {
        "label": one.label,
        "command": one.command.hex(),
        "path": path(one.path) or ".",
        "evaluated": iso(one.made_ns),
        "host": one.host,
        "device": one.device,
        "seconds": one.seconds,
        "numbers": one.by_name,
    }


def prove_json(share: Share | None, results: Iterable[LaterResult]) -> dict[str, object]:
    """Return the value of ``mlsync prove``."""
    return {
        "share": None if share is None else {"number": share.number, "count": share.count},
        "versions": [_proved_version_json(result) for result in results],
    }


def _proved_version_json(result: LaterResult) -> dict[str, object]:
    return {
        "run": result.run,
        "version": result.version,
        "required_level": result.required_level,
        "lowest_level": result.lowest_level,
        "device": result.device or None,
        "checkpoint_count": len(result.verdicts),
        "broken": [{"path": path(name), "refused": why} for name, why in sorted(result.refused.items())],
        "read_bytes": result.read_bytes,
        "seconds": round(result.seconds, 3),
    }


def check_json(
    result: CheckResult, extended: Extended | None, healed: HealResult | None, *, read_data: bool, dry_run: bool
) -> dict[str, object]:
    """Return the value of ``mlsync check``."""
    return {
        "run_count": result.run_count,
        "version_count": result.version_count,
        "pack_count": result.pack_count,
        "pack_bytes": result.pack_bytes,
        "chunk_count": result.chunk_count,
        "unused_pack_count": result.unused_packs,
        "read_data": read_data,
        "read_bytes": result.read_bytes,
        "problems": _problems_json(result.problems),
        "unchecked": _problems_json(result.unchecked),
        "oddities": _problems_json(result.oddities),
        "uncopied": _versions_json(result.uncopied),
        "omitted": [
            {"run": run, "ranges": [{"first": first, "last": last} for first, last in ranges]}
            for run, ranges in result.omitted.items()
        ],
        "lock": None if extended is None else _lock_json(extended),
        "healing": None if healed is None else _healing_json(healed, is_dry_run=dry_run),
    }


def _lock_json(done: Extended) -> dict[str, object]:
    from mlsync.repository import names  # late: hardly any command's output needs it

    return {
        "used_count": done.used_count,
        "asked_count": done.asked_count,
        "extended_count": done.extended_count,
        "denied_count": done.denied_count,
        "denied": [str(error) for error in done.denied.values()],
        "lost": sorted(names.pack(pack_id) for pack_id in done.lost),
        "unread": done.unread,
        "request_count": done.request_count,
    }


def _healing_json(healed: HealResult, *, is_dry_run: bool) -> dict[str, object]:
    return {
        "dry_run": is_dry_run,
        "healed": [
            {
                "object": one.key,
                "mirror": one.mirror,
                "size_bytes": one.size_bytes,
                "was_damaged": one.was_damaged,
            }
            for one in healed.healed
        ],
        "failed": [{"object": key, "why": why} for key, why in healed.failed.items()],
    }


def copy_json(result: CopyResult, source: CountingStore, mirror: CountingStore, seconds: float) -> dict[str, object]:
    """Return the value of ``mlsync copy``."""
    return {
        "dry_run": result.is_dry,
        "created": result.is_new,
        "versions": _versions_json(result.versions),
        "there_count": result.there_count,
        "pack_count": result.pack_count,
        "size_bytes": result.size_bytes,
        "server_side_bytes": result.server_side_bytes,
        "verified_bytes": result.verified_bytes,
        "object_count": result.object_count,
        "left_out": [{"run": one.run, "version": one.number, "why": one.why} for one in result.left_out],
        "conflicts": [{"object": one.key, "text": one.why} for one in result.conflicts],
        "ahead": _numbers_json(result.ahead),
        "omitted": _numbers_json(result.omitted),
        "removed": _numbers_json(result.removed),
        "decided_apart": list(result.decided_apart),
        "lag": [
            {
                "run": run,
                "newest": lag.newest,
                "copied": lag.copied or None,
                "version_count": lag.version_count,
                "seconds": round(lag.age_s, 3),
            }
            for run, lag in result.lag.items()
        ],
        "stale_key_slots": list(result.stale_slots),
        "requests": sum(source.calls.values()),
        "mirror_requests": sum(mirror.calls.values()),
        "seconds": round(seconds, 3),
    }


def _numbers_json(found: Mapping[str, Sequence[int]]) -> list[dict[str, object]]:
    return [{"run": run, "versions": list(numbers)} for run, numbers in found.items()]


def _problems_json(problems: Iterable[Problem]) -> list[dict[str, object]]:
    return [
        {
            "object": problem.key,
            "text": problem.text,
            "versions": _versions_json(problem.versions),
        }
        for problem in problems
    ]


def repair_json(steps: Sequence[Healing], repaired: Repaired, *, is_dry_run: bool) -> dict[str, object]:
    """Return the value of ``mlsync repair``."""
    failures = {step.key: str(error) for step, error in repaired.failed}
    done = {step.key for step in repaired.done}
    return {
        "dry_run": is_dry_run,
        "objects": [
            {
                "object": step.key,
                "text": step.fault,
                "heal": step.heal.value,
                "version": None if step.version is None else _versions_json([step.version])[0],
                "healed": step.key in done,
                "failure": failures.get(step.key),
            }
            for step in steps
        ],
        "problems": _problems_json(repaired.left),
        "lost": [{"run": one.run, "path": path(one.path), "versions": list(one.versions)} for one in repaired.affected],
    }


def discard_json(found: Sequence[Discarding], *, is_dry_run: bool) -> dict[str, object]:
    """Return the value of ``mlsync repair --discard``."""
    return {
        "dry_run": is_dry_run,
        "discarded": [
            {
                "object": one.key,
                "run": one.run or None,
                "version": one.number,
                "text": one.fault,
                "copy": one.copy_fault,
                "followed_by": one.followed_by,
                "done": one.is_done,
            }
            for one in found
        ],
    }


def _early_json(packs: Iterable[EarlyPack]) -> dict[str, object]:
    from mlsync.upkeep.early_deletion import total_of  # late: no other command's output needs it

    total = total_of(packs)
    return {
        "packs": total.count,
        "bytes": total.size_bytes,
        "seconds_left": round(total.left_s),
        "usd": None if total.usd is None else round(total.usd, 6),
    }


def prune_json(
    found: PrunePlan, pruned: Pruned, moving: CompactionPlan, compacted: Compacted, *, is_dry_run: bool
) -> dict[str, object]:
    """Return the value of ``mlsync prune``."""
    from mlsync.repository import names  # late: hardly any command's output needs it

    removed = {one.place for one in pruned.versions}
    return {
        "dry_run": is_dry_run,
        "versions": [
            {"run": one.run, "version": one.place[1], "rule": one.rule, "removed": one.place in removed}
            for one in found.going
        ],
        "versions_left": found.version_count,
        "to_delete": _packs_json(found.delete | found.emptied_by_moves),
        "to_mark": _packs_json(found.mark),
        "waiting": _packs_json(found.waiting),
        "early": _early_json(found.early.values()),
        "held_for_minimum": _early_json(found.held.values()),
        "cold_not_moved": moving.cold_count,
        "deleted": _packs_json(pruned.deleted),
        "marked": _packs_json(pruned.marked),
        "records": {"to_delete": len(found.spent), "deleted": len(pruned.records)},
        "to_move": {
            "packs": len(moving.packs),
            "read_bytes": moving.read_bytes,
            "written_bytes": moving.written_bytes,
            "freed_bytes": moving.freed_bytes,
        },
        "moved": {"packs": len(compacted.moved), "written_bytes": compacted.written_bytes},
        "not_moved": [{"object": names.pack(pack_id), "text": why} for pack_id, why in compacted.left.items()],
        "blocked": [{"object": one.key, "text": one.why} for one in (*found.blocked, *found.kept_back)],
        "denied": [{"object": one.key, "text": one.why} for one in pruned.denied],
    }


def _packs_json(packs: Mapping[bytes, int]) -> dict[str, object]:
    return {"packs": len(packs), "bytes": sum(packs.values())}


def _versions_json(versions: Iterable[tuple[str, int]]) -> list[dict[str, object]]:
    return [{"run": run, "version": number} for run, number in versions]


def service_json(
    files: Iterable[Path], command: Sequence[str], missing: Sequence[str], following: Sequence[str]
) -> dict[str, object]:
    """Return the value of ``mlsync service install`` and ``uninstall``."""
    return {
        "files": [path(bytes(file)) for file in files],
        "command": list(command),
        "missing": list(missing),
        "next": list(following),
    }


def status_json(
    state: str,
    configuration: Path | None,
    problem: Error | None,
    repository: str | None,
    agents: Sequence[AgentSeen],
    runs: Iterable[RunHere],
    following: Sequence[str],
    live: Sequence[Mapping[str, object]] = (),
) -> dict[str, object]:
    """Return the value of ``mlsync status``; *live* are the agents' answers.

    *state* is ``none``, ``invalid`` or ``ready``.
    """
    from mlsync.service.status import foremost  # late: other commands know nothing of agents

    return {
        "state": state,
        "configuration": None if configuration is None else path(bytes(configuration)),
        "problem": None if problem is None else error_json(problem),
        "repository": repository,
        "agent": None if (agent := foremost(agents)) is None else _agent_json(agent),
        "agents": [_agent_json(one) for one in agents],
        "runs": [_run_here_json(run) for run in runs],
        "next": list(following),
        "live": list(live),
    }


def fleet_json(fleet: Iterable[FleetRun]) -> dict[str, object]:
    """Return the value of ``mlsync status --fleet``."""
    return {
        "runs": [
            {
                "run": one.run,
                "host": one.newest.root.host,
                "directory": path(one.newest.root.directory),
                "version": one.newest.root.number,
                "made": iso(one.newest.root.created_ns),
                "lowest_level": one.newest.lowest_level if one.newest.root.summary.checkpoint_count else None,
                "pending": one.newest.is_pending,
                "proved_version": None if one.proved is None else one.proved.root.number,
                "proved_made": None if one.proved is None else iso(one.proved.root.created_ns),
                "version_count": one.version_count,
                "size_bytes": one.newest.root.summary.size_bytes,
                "stored_bytes": one.stored_bytes,
                "hidden": list(one.hidden),
            }
            for one in fleet
        ]
    }


def mirrors_json(found: Iterable[MirrorSeen]) -> dict[str, object]:
    """Return the value of ``mlsync status --mirrors``."""
    return {
        "mirrors": [
            {
                "name": one.name,
                "url": one.url,
                "error": None if one.error is None else error_json(one.error),
                "runs": one.runs,
            }
            for one in found
        ]
    }


def doctor_json(repository: str, found: Sequence[Diagnosis]) -> dict[str, object]:
    """Return the value of ``mlsync doctor``."""
    return {
        "repository": repository,
        "grave_count": sum(1 for one in found if one.grade.value == "grave"),
        "findings": [
            {
                "subject": one.subject,
                "grade": one.grade.value,
                "what": one.what,
                "means": one.means or None,
                "advice": one.advice or None,
            }
            for one in found
        ],
    }


def bucket_plan_json(
    seen: Seen, plan: BucketPlan, applied: BucketApplied | None, after: BucketPlan
) -> dict[str, object]:
    """Return the value of ``mlsync bucket plan`` and ``apply``: *after* is what is left to do."""
    failed = [] if applied is None else applied.failed
    return {
        "bucket": seen.first.bucket,
        "region": seen.region,
        "server": seen.provider.name,
        "second_bucket": None if seen.second is None else seen.second.bucket,
        "second_region": seen.second_region,
        "change_count": len(plan.changes),
        "applied": applied is not None,
        "left_count": len(after.open),
        "steps": [
            {
                "bucket": step.bucket or None,
                "setting": step.name,
                "changes": step.is_change,
                "lines": [{"mark": line.mark.value, "text": line.text} for line in step.lines],
                "document": dict(step.document),
            }
            for step in plan.steps
        ],
        "notes": list(plan.notes),
        "lacking": [] if applied is None else list(dict.fromkeys(step.name for step in applied.lacking)),
        "failed": [{"bucket": step.bucket or None, "setting": step.name, "why": why} for step, why in failed],
    }


def bucket_show_json(facts: BucketFacts, provider: Provider, found: Sequence[Diagnosis]) -> dict[str, object]:
    """Return the value of ``mlsync bucket show``."""
    return {
        "bucket": facts.bucket,
        "region": facts.region,
        "server": provider.name,
        "settings": [
            {
                "setting": setting.value,
                "known": answer.is_known,
                "lacking": answer.is_lacking,
                "document": json_document(answer.document),
            }
            for setting, answer in facts.answers.items()
        ],
        "findings": doctor_json(facts.bucket, found)["findings"],
    }


def json_document(value: Mapping[str, object]) -> dict[str, object]:
    """Return a document of AWS's API as JSON has it: moments are text."""
    return {name: _plain(one) for name, one in value.items()}


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return json_document(value)
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value if value is None or isinstance(value, str | int | float) else str(value)


def iam_policy_json(
    repository: str,
    asked: PolicyRequest,
    run: str | None,
    policy: Mapping[str, object],
    said: Iterable[tuple[str, str]],
) -> dict[str, object]:
    """Return the policy of a role, as text, and what to know of it."""
    return {
        "repository": repository,
        "role": asked.role.value,
        "form": asked.place.form.value,
        "run": run,
        "policy": json.dumps(policy),
        "remarks": [text for _, text in said],
    }


def notify_json(answers: Sequence[tuple[NotifySettings, Receipt]]) -> dict[str, object]:
    """Return the value of ``mlsync notify test``."""
    return {
        "channels": [
            {
                "name": channel.name,
                "channel": channel.channel,
                "is_taken": answer.is_taken,
                "was_reached": answer.was_reached,
                "said": answer.said,
            }
            for channel, answer in answers
        ]
    }


def _agent_json(agent: AgentSeen) -> dict[str, object]:
    return {
        "running": agent.is_running(),
        "pid": agent.pid,
        "host": agent.host,
        "started": iso(round(agent.started_s * 1e9)),
        "runs": [run.run for run in agent.runs],
    }


def _run_here_json(run: RunHere) -> dict[str, object]:
    return {
        "run": run.run,
        "directory": path(bytes(run.directory)),
        "version": run.version,
        "made": None if run.made_s is None else iso(round(run.made_s * 1e9)),
        "proved": run.is_proved,
        "problems": list(run.problems),
    }


def key_slots_json(slots: Iterable[SlotStatus]) -> dict[str, object]:
    """Return the value of ``mlsync key list``."""
    return {"slots": [_key_slot(one) for one in slots]}


def _key_slot(one: SlotStatus) -> dict[str, object]:
    slot = one.slot
    return {
        "id": one.id,
        "kind": None if slot is None else slot.kind,
        "epoch": None if slot is None else slot.epoch,
        "made": iso(int(one.modified_s * 10**9)),
        "memory_kib": None if slot is None else slot.memory_kib,
        "iterations": None if slot is None else slot.iterations,
        "lanes": None if slot is None else slot.lanes,
        "kms_key": None if slot is None else slot.key or None,
        "is_used": one.is_used,
        "trouble": one.trouble or None,
    }


def key_json(
    added: str | None,
    recovery_key: str | None,
    removed: str | None,
    others: Iterable[SlotAdded] = (),
    *,
    write_only_key: Path | None = None,
) -> dict[str, object]:
    """Return the value of ``mlsync key add``, ``change`` and ``remove``; *recovery_key* is shown only once."""
    return {
        "added": added,
        "recovery_key": recovery_key,
        "write_only_key": None if write_only_key is None else str(write_only_key),
        "removed": removed,
        "added_by_others": [{"id": one.id, "made": iso(int(one.modified_s * 10**9))} for one in others],
    }


def forgotten_stretched_json(count: int | None) -> dict[str, object]:
    """Return the value of ``mlsync key forget``."""
    return {"forgotten": count}


def rotation_json(rotated: Rotated, resealed: dict[str, object] | None) -> dict[str, object]:
    """Return the value of ``mlsync key rotate``."""
    return {
        "epoch": rotated.epoch,
        "added": rotated.slot_id,
        "removed": [_key_slot(one) for one in rotated.removed],
        "resealed": resealed,
    }


def resealing_json(
    planned: ResealingPlan, done: Compacted, left: Mapping[str, str], *, epoch: int, is_dry_run: bool
) -> dict[str, object]:
    """Return the value of ``mlsync key reseal``; *left* says why packs stay, by their names."""
    sizes = {use.pack_id: use.size_bytes for use in planned.packs.packs}
    return {
        "dry_run": is_dry_run,
        "epoch": epoch,
        "to_move": _packs_json(sizes),
        "to_read_bytes": planned.packs.read_bytes,
        "to_write_bytes": planned.packs.written_bytes,
        "later": _packs_json(planned.later),
        "waiting": _packs_json(planned.waiting),
        "moved_packs": len(done.moved),
        "new_packs": done.new_pack_count,
        "read_bytes": done.read_bytes,
        "written_bytes": done.written_bytes,
        "left": [{"object": key, "text": why} for key, why in left.items()],
    }


def now_json(asked: Iterable[AskedPass], *, waited: bool) -> dict[str, object]:
    """Return the value of ``mlsync now``."""
    return {"waited": waited, "runs": [_asked_json(one) for one in asked]}


def _asked_json(one: AskedPass) -> dict[str, object]:
    return {
        "run": one.run,
        "has_ended": one.has_ended,
        "version": one.version,
        "is_proved": one.is_proved,
        "summary": one.summary,
        "troubles": list(one.troubles),
        "error": None if one.error is None else error_json(one.error),
    }


def failure_json(
    kind: str, exit_status: int, what: str, *, where: str | None = None, advice: str | None = None
) -> dict[str, object]:
    """Return what any failure of a command says, of which no error of mlsync's own need be the cause."""
    return {"kind": kind, "exit_status": exit_status, "what": what, "where": where, "advice": advice}


def error_json(error: Error) -> dict[str, object]:
    """Return what an error of mlsync's own says."""
    return failure_json(type(error).__name__, error.exit_code, error.what, where=error.where, advice=error.advice)
