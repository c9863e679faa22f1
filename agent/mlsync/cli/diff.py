"""``mlsync diff``: what differs between two versions, down to how far each tensor moved."""

from __future__ import annotations

import os

import click

from mlsync.cli import candidates
from mlsync.cli.diff_report import TENSORS_SHOWN, print_report
from mlsync.cli.json import diff_json
from mlsync.cli.options import VERSION_WORDS, Common, common_options, run_option
from mlsync.cli.parsing import Command
from mlsync.cli.rollback import accept_rollback_option, look_for_rollback
from mlsync.diff.diff import diff
from mlsync.repository.repository import Repository, StoredVersion
from mlsync.versions.select import LATEST, find_run, find_version, version_before

_EXAMPLES = """\b
Examples:
  mlsync diff
  mlsync diff 12
  mlsync diff best latest weights/last.pt
  mlsync diff 12 13 --tensors 0
"""


@click.command("diff", cls=Command, short_help="Show what changed from one version to another.", epilog=_EXAMPLES)
@click.argument("before", metavar="[A]", required=False, shell_complete=candidates.words(*VERSION_WORDS))
@click.argument("after", metavar="[B]", default=LATEST, shell_complete=candidates.words(*VERSION_WORDS))
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@run_option
@click.option(
    "--tensors",
    "tensor_count",
    type=click.IntRange(min=0),
    default=TENSORS_SHOWN,
    show_default=True,
    metavar="N",
    help="How many tensors to show of all checkpoints together, those that moved farthest first; 0: all of them, and "
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
    """Show what changed from version A to version B: files, and inside checkpoints facts and tensors.

    A and B are versions as restore takes them: a number, latest, resumable, best, or a time. B defaults to the last
    version, A to the one before B. With PATH only those files and directories are compared.

    For each tensor, diff shows how far its numbers moved, ||B - A|| / ||A||, computed from the stored bytes of both
    versions. It fetches only what differs; tensors that are stored as the same chunks are equal. Nothing is written.
    The exit status is 0 whether or not something differs.
    """
    monitor = common.monitor()
    with common.session(common.configuration(), monitor) as session:
        look_for_rollback(session, run, monitor, accept=accept_rollback, version=after)
        old, new = _versions(session.repository, find_run(session.repository, run), before, after)
        result = diff(session.repository, old, new, tuple(os.fsencode(path) for path in paths), monitor)
    if common.as_json:
        common.emit(diff_json(result))
        return
    print_report(result, tensor_count)


def _versions(repository: Repository, run: str, before: str | None, after: str) -> tuple[StoredVersion, StoredVersion]:
    new = find_version(repository, run, after)
    if before is None:
        return version_before(repository, run, new.root.number), new
    return find_version(repository, run, before), new
