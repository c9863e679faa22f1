"""``mlsync restore``: bring a version back."""

from __future__ import annotations

import os
from pathlib import Path

import click

from mlsync.app.session import Session
from mlsync.backup.shrunk import earlier_loss
from mlsync.cli import candidates, output
from mlsync.cli.json import restore_json
from mlsync.cli.options import Common, common_options, run_option, version_option
from mlsync.cli.parsing import Command
from mlsync.cli.resuming import closing_lines, resumes
from mlsync.cli.rollback import accept_rollback_option, look_for_rollback
from mlsync.cli.stopping import stopping
from mlsync.errors import ConfigInvalid, StateError
from mlsync.monitor import Monitor
from mlsync.restore.restore import RestoreOptions, RestoreResult, restore
from mlsync.source.takeover import allow_takeover
from mlsync.versions.rollback import refuse_older
from mlsync.versions.select import LATEST, find_run, find_version

_EXAMPLES = """\b
Examples:
  mlsync restore
  mlsync restore --repo s3://bucket/runs --to ~/runs/train
  mlsync restore --version 12 'weights/*.pt' --to /tmp/look
  mlsync restore --version 2026-11-23T14:00 --run yolo
"""


@click.command("restore", cls=Command, short_help="Bring a version back.", epilog=_EXAMPLES)
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@version_option
@run_option
@click.option(
    "--to",
    "target",
    type=click.Path(path_type=Path),
    metavar="DIR",
    shell_complete=candidates.directories,
    help="Where to restore to; default: the directory that the version was made from.",
)
@click.option(
    "--delete",
    is_flag=True,
    help="Delete what is in DIR and not in the version; not with PATH. Excluded files, unfinished files of others and "
    "other file systems below DIR stay.",
)
@click.option("--delete-excluded", is_flag=True, help="With --delete: delete excluded and unfinished files too.")
@click.option(
    "--yes", is_flag=True, help="With --delete: delete even most of a directory that was not restored before."
)
@click.option(
    "--at-least",
    type=click.IntRange(min=1),
    metavar="N",
    help="End with 16 if the run's newest version is older than version N, which a fresh machine cannot know.",
)
@accept_rollback_option
@common_options
def restore_command(
    common: Common,
    paths: tuple[str, ...],
    version: str,
    run: str | None,
    target: Path | None,
    delete: bool,
    delete_excluded: bool,
    yes: bool,
    at_least: int | None,
    accept_rollback: bool,
) -> None:
    """Bring a version back: all of it, or only the files and directories PATH.

    PATH is relative to the run's directory, as "mlsync show" lists it, and comes back at the same place below DIR. It
    may be a pattern in quotes: 'weights/*.pt', '**/last.ckpt', 'checkpoint-*/'. In an existing directory,
    files that are already right are left alone, and others are replaced atomically: at any moment the name holds the
    old file or the whole new one. Run a killed restore again, and it continues. Files that cannot be restored, because
    a pack is damaged or something is in the way, are named, and everything else is restored. On a fresh machine
    restore needs only --repo URL and the passphrase.

    Training and backups continue from the restored directory: the first version that is made of it, on this machine,
    takes the run over. Until then the old writer continues the run, so restoring an old version just to look at it
    changes nothing.
    """
    _refuse_contradictions(paths, delete=delete, delete_excluded=delete_excluded, yes=yes)
    monitor = common.monitor()
    config = common.configuration()
    with common.session(config, monitor) as session, stopping() as stop:
        look_for_rollback(session, run, monitor, accept=accept_rollback, version=version)
        run = find_run(session.repository, run)
        if at_least is not None:
            refuse_older(session.repository, run, at_least)
        stored = find_version(session.repository, run, version)
        if version == LATEST and (loss := earlier_loss(session.repository, stored)) is not None:
            monitor.notice("warning", f"{run}: {loss}")
        manifest = session.repository.manifest(stored)
        directory = manifest.root.directory if target is None else os.fsencode(os.path.abspath(target))
        options = RestoreOptions(
            paths=tuple(os.fsencode(path) for path in paths),
            delete=delete,
            delete_excluded=delete_excluded,
            confirmed=yes,
            exclude=tuple(
                pattern for watch in config.watches if watch.run == manifest.root.run for pattern in watch.exclude
            ),
            stop=stop.is_set,
        )
        result = restore(session.repository, manifest, directory, options, monitor)
        found = resumes(result.entries, directory, manifest.root.directory)
        if result.is_whole and result.fault is None:
            _hand_over(session, result, monitor)
    if common.as_json:
        common.emit(restore_json(result, found))
    elif not common.quiet:
        output.say(_text(result))
        for line in closing_lines(found, result.entries, version):
            output.say(line)
    if result.fault is not None:
        raise result.fault


def _refuse_contradictions(paths: tuple[str, ...], *, delete: bool, delete_excluded: bool, yes: bool) -> None:
    if delete and paths:
        raise ConfigInvalid("--delete is for whole versions, not for single paths", advice="leave one of them out")
    if not delete and (delete_excluded or yes):
        what = "--delete-excluded and --yes only apply to --delete"
        raise ConfigInvalid(what, advice="give --delete too, or leave them out")


def _hand_over(session: Session, result: RestoreResult, monitor: Monitor) -> None:
    """Let the next backup of this directory, on this machine, continue the run without --take-over."""
    try:
        allow_takeover(session.state_directory, result.run, result.directory, result.version)
    except StateError as error:
        text = f"the local state cannot be written, so a backup from there may need --take-over: {error}"
        monitor.notice("warning", text)


def _text(result: RestoreResult) -> str:
    place = output.path(result.directory)
    text = f"{result.run}: version {result.version} restored to {place} in {result.seconds:.1f} s: "
    text += f"{output.count(result.written_count, 'file')} written ({output.size(result.written_bytes)}, "
    text += f"{output.size(result.read_bytes)} fetched)"
    if result.unchanged_count:
        text += f", {result.unchanged_count} right already"
    if result.deleted_count:
        text += f", {result.deleted_count} deleted"
    return text + (f", {len(result.failures)} could not be" if result.failures else "")
