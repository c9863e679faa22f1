"""``mlsync versions``: the versions of a run, or of all runs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import click

from mlsync.cli import output
from mlsync.cli.options import Command, Common, common_options
from mlsync.flows.select import find_run
from mlsync.repository.manifest import Root
from mlsync.repository.repository import Repository

# Manifests are small and far away: what a listing waits for is the way there and back.
_AT_ONCE = 16


@click.command("versions", cls=Command, short_help="List versions and how far they were proved.")
@click.argument("run", required=False)
@common_options
def versions_command(common: Common, run: str | None) -> None:
    """List the versions of RUN, or of all runs, oldest first.

    PROOF is the level that every checkpoint of the version reached: L1 the container is whole, L2 its content makes
    sense, L3 its bytes were on the device that is named as they were in the file, L4 its numbers were looked
    at, L5 a framework or command of yours loaded it.
    "pending" stands beside what was committed below the level that the configuration requires.
    """
    monitor = common.monitor()
    with common.session(common.configuration(), monitor) as session:
        names = [find_run(session.repository, run)] if run else [item.name for item in session.repository.runs()]
        roots = [root for name in names for root in _roots(session.repository, name)]
    if common.as_json:
        output.emit({"versions": [version_json(root) for root in roots]})
        return
    if not roots:
        output.say("no version yet")
        return
    rows = [_row(root) for root in roots]
    output.table(
        ("RUN", "VERSION", "MADE", "FILES", "SIZE", "NEW", "STORED", "PROOF", "NOTES"), rows, right=(1, 3, 4, 5, 6)
    )


def _roots(repository: Repository, run: str) -> list[Root]:
    with ThreadPoolExecutor(_AT_ONCE) as executor:
        return list(executor.map(lambda number: repository.stored(run, number).root, repository.numbers(run)))


def _row(root: Root) -> tuple[str, ...]:
    summary = root.summary
    proof = output.level(summary.lowest_level, root.required_level, summary.device) if summary.checkpoint_count else "-"
    return (
        root.run,
        str(root.number),
        output.moment(root.created_ns),
        str(summary.file_count),
        output.size(summary.size_bytes),
        output.size(summary.new_bytes),
        output.size(summary.stored_bytes),
        proof,
        ", ".join(f"{trouble.kind.name.lower()}: {output.path(trouble.path)}" for trouble in root.troubles),
    )


def version_json(root: Root) -> dict[str, object]:
    """Return a version as docs/json.md describes it."""
    summary = root.summary
    has_checkpoints = summary.checkpoint_count > 0
    return {
        "run": root.run,
        "version": root.number,
        "previous": root.previous.number if root.previous else None,
        "made": output.iso(root.created_ns),
        "host": root.host,
        "directory": output.path(root.directory),
        "writer": root.writer,
        "file_count": summary.file_count,
        "size_bytes": summary.size_bytes,
        "new_bytes": summary.new_bytes,
        "stored_bytes": summary.stored_bytes,
        "checkpoint_count": summary.checkpoint_count,
        "lowest_level": summary.lowest_level if has_checkpoints else None,
        "required_level": root.required_level,
        "pending": has_checkpoints and summary.lowest_level < root.required_level,
        "device": summary.device or None,
        "trouble_count": len(root.troubles),
    }
