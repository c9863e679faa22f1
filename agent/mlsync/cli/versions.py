"""``mlsync versions``: the versions of a run, or of all runs."""

from __future__ import annotations

import click

from mlsync.cli import candidates, output
from mlsync.cli.json import versions_json
from mlsync.cli.options import Common, common_options
from mlsync.cli.parsing import Command
from mlsync.cli.rollback import accept_rollback_option, look_for_rollback
from mlsync.repository.listing import runs
from mlsync.repository.manifest import ManifestRoot
from mlsync.versions.proof_status import ProofStatus, proof_statuses
from mlsync.versions.select import find_run


@click.command("versions", cls=Command, short_help="List versions and how far they were proved.")
@click.argument("run", required=False, shell_complete=candidates.runs)
@accept_rollback_option
@common_options
def versions_command(common: Common, run: str | None, accept_rollback: bool) -> None:
    """List the versions of RUN, or of all runs, oldest first.

    PROOF is the level that every checkpoint of the version reached: L1 the container is whole, L2 its content makes
    sense, L3 its bytes were the same on the device as in the file, L4 its numbers were checked, L5 a framework or a
    command of yours loaded it. "pending" marks a version that was committed below the level that the configuration
    requires and can still reach it; "broken" marks a checkpoint that a later proof could not load (mlsync show says
    why). NOTES says where versions come from when that changes.
    """
    monitor = common.monitor()
    with common.session(common.configuration(), monitor) as session:
        look_for_rollback(session, run, monitor, accept=accept_rollback)
        names = [find_run(session.repository, run)] if run else [item.name for item in runs(session.repository)]
        listed = [status for name in names for status in proof_statuses(session.repository, name)]
        unreadable = sorted(session.repository.skipped.items())
        if not listed:
            session.repository.refuse_unreadable()
    if common.as_json:
        common.emit(versions_json(listed, unreadable))
        return
    if not listed:
        output.say("no version yet")
        return
    rows = [_row(status, came) for status, came in zip(listed, _new_writers(listed), strict=True)]
    output.table(
        ("RUN", "VERSION", "MADE", "FILES", "SIZE", "NEW", "STORED", "PROOF", "NOTES"), rows, right=(1, 3, 4, 5, 6)
    )


def _new_writers(listed: list[ProofStatus]) -> list[str]:
    """Return for each version where it came from, if the version before it came from another place."""
    texts = []
    last: ManifestRoot | None = None
    for root in (status.root for status in listed):
        is_new = last is not None and last.run == root.run and last.origin.id != root.origin.id
        moved = last is not None and (last.host, last.directory) != (root.host, root.directory)
        texts.append(f"now from {output.path(root.directory)} on {root.host}" if is_new and moved else "")
        last = root
    return texts


def _row(status: ProofStatus, new_writer: str) -> tuple[str, ...]:
    root, summary = status.root, status.root.summary
    troubles = ", ".join(f"{trouble.kind.name.lower()}: {output.path(trouble.path)}" for trouble in root.troubles)
    return (
        root.run,
        str(root.number),
        output.moment(root.created_ns),
        str(summary.file_count),
        output.size(summary.size_bytes),
        output.size(summary.new_bytes),
        output.size(summary.stored_bytes),
        _proof(status),
        "; ".join(filter(None, (new_writer, *root.notes, troubles))),
    )


def _proof(status: ProofStatus) -> str:
    count, broken_count = status.root.summary.checkpoint_count, status.broken_count
    if not count:
        return "-"
    broken = f"{broken_count} broken" if broken_count else ""
    if count == broken_count:
        return broken
    pending = status.root.required_level if status.is_pending else None
    reached = output.level(status.lowest_level, status.device, pending)
    return f"{reached}, {broken}" if broken else reached
