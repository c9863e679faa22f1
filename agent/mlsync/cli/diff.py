"""``mlsync diff``: what differs between two versions, down to how far each tensor moved."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from mlsync.cli import output
from mlsync.cli.diff_report import TENSORS_SHOWN, print_report
from mlsync.cli.options import Command, Common, common_options, run_option
from mlsync.cli.rollback import accept_rollback_option, look_for_rollback
from mlsync.diff.checkpoint import FATES, CheckpointDiff, TensorDiff
from mlsync.diff.diff import DiffResult, FileDiff, diff
from mlsync.formats.layout import Tensor
from mlsync.repository.manifest import Entry
from mlsync.repository.repository import Repository, Stored
from mlsync.versions.select import LATEST, find_run, find_version, version_before

if TYPE_CHECKING:
    # numpy would come with it.
    from mlsync.diff.drift import Drift

_EXAMPLES = """\b
Examples:
  mlsync diff
  mlsync diff 12
  mlsync diff best latest weights/last.pt
  mlsync diff 12 13 --tensors 0
"""


@click.command("diff", cls=Command, short_help="Show what changed from one version to another.", epilog=_EXAMPLES)
@click.argument("before", metavar="[A]", required=False)
@click.argument("after", metavar="[B]", default=LATEST)
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@run_option
@click.option(
    "--tensors",
    "tensor_count",
    type=click.IntRange(min=0),
    default=TENSORS_SHOWN,
    show_default=True,
    metavar="N",
    help="How many tensors to show, of all checkpoints together, those that moved farthest first; 0: all of them, and "
    "every file.",
)
@accept_rollback_option
@common_options
def diff_command(
    common: Common,
    before: str | None,
    after: str,
    paths: tuple[str, ...],
    run: str | None,
    tensor_count: int,
    accept_rollback: bool,
) -> None:
    """Show what changed from version A to version B: files, and inside of checkpoints facts and tensors.

    A and B are versions as restore takes them: a number, latest, resumable, best, or a time. Without B it is the last
    version, without A the one before that. With PATH only those files and directories are looked at.

    Of a tensor it is said how far its numbers moved, ||B - A|| / ||A||, computed from the stored bytes of both. Only
    what differs is fetched; tensors that are stored as the same chunks are the same. Nothing is written. The exit
    status is 0 whether or not something differs.
    """
    monitor = common.monitor()
    with common.session(common.configuration(), monitor) as session:
        look_for_rollback(session, run, monitor, accept=accept_rollback, version=after)
        old, new = _versions(session.repository, find_run(session.repository, run), before, after)
        result = diff(session.repository, old, new, tuple(os.fsencode(path) for path in paths), monitor)
    if common.as_json:
        output.emit(as_json(result))
        return
    print_report(result, tensor_count)


def _versions(repository: Repository, run: str, before: str | None, after: str) -> tuple[Stored, Stored]:
    new = find_version(repository, run, after)
    if before is None:
        return version_before(repository, run, new.root.number), new
    return find_version(repository, run, before), new


def as_json(result: DiffResult) -> dict[str, object]:
    """Return a difference as docs/json.md describes it."""
    return {
        "run": result.after.run,
        "before": result.before.number,
        "after": result.after.number,
        "files": [_file_json(file) for file in result.files],
        "same_count": result.same_count,
        "new_bytes": result.new_bytes,
        "read_bytes": result.read_bytes,
        "seconds": round(result.seconds, 3),
    }


def _file_json(file: FileDiff) -> dict[str, object]:
    return {
        "path": output.path(file.path),
        "change": file.change,
        "before": _state_json(file.before) if file.before else None,
        "after": _state_json(file.after) if file.after else None,
        "new_bytes": file.new_bytes,
        "checkpoint": _checkpoint_json(file.checkpoint) if file.checkpoint else None,
    }


def _state_json(entry: Entry) -> dict[str, object]:
    return {
        "path": output.path(entry.path),
        "kind": entry.kind.name.lower(),
        "mode": f"{entry.mode:04o}",
        "owner": f"{entry.uid}:{entry.gid}",
        "size_bytes": entry.size_bytes,
        "target": output.path(entry.target) if entry.target else None,
    }


def _checkpoint_json(checkpoint: CheckpointDiff) -> dict[str, object]:
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
