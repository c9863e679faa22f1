"""``mlsync backup``: one version of each watched run, now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from mlsync.app.passes import back_up, summary, trouble_text
from mlsync.app.refusals import refuse_locked, refuse_unreadable
from mlsync.app.run_lock import RunLock
from mlsync.app.session import Session
from mlsync.backup.request import BackupResult
from mlsync.cli.arguments import candidates
from mlsync.cli.arguments.gently import gently_option
from mlsync.cli.arguments.limits import limit_upload_option, limited
from mlsync.cli.arguments.options import Common, common_options, pick_watches
from mlsync.cli.arguments.parsing import Command
from mlsync.cli.arguments.stopping import stopping
from mlsync.cli.terminal import output
from mlsync.config.model import Config, WatchSettings
from mlsync.courtesy.timetable import Timetable
from mlsync.errors import ChangedWhileReading, CheckpointBroken, ConfigInvalid, Error, RunLocked, SourceUnreadable
from mlsync.monitor import Monitor
from mlsync.repository.encoding.tokens import TroubleKind
from mlsync.repository.manifest import Trouble
from mlsync.source.scan import LeftOut
from mlsync.source.takeover import allow_takeover

if TYPE_CHECKING:
    from mlsync.backup.preview import Preview

_LEFT_OUT_SHOWN = 10
_STATUS: dict[TroubleKind, type[Error]] = {
    TroubleKind.BROKEN: CheckpointBroken,
    TroubleKind.TORN: ChangedWhileReading,
    TroubleKind.UNREADABLE: SourceUnreadable,
}

_EXAMPLES = """\b
Examples:
  mlsync backup --dry-run
  mlsync backup yolo
"""


@click.command("backup", cls=Command, short_help="Make a version of each run that changed, now.", epilog=_EXAMPLES)
@click.argument("run", required=False, shell_complete=candidates.runs)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Show what a backup would read, store and leave out, by directory, and change nothing.",
)
@click.option(
    "--take-over",
    is_flag=True,
    help="Continue a run that another machine or directory wrote until now, and refuse that one from now on.",
)
@click.option(
    "--accept-loss",
    is_flag=True,
    help="Make the version at once although most checkpoints of the last one are gone.",
)
@limit_upload_option
@common_options
@gently_option
def backup_command(
    common: Common,
    run: str | None,
    dry_run: bool,
    take_over: bool,
    accept_loss: bool,
    limit_upload: Timetable | None,
) -> None:
    """Make a version of each watched run that changed, or of RUN alone, now.

    When it ends, the version exists, and its checkpoints were read back from the repository and proved. A file that is
    torn or does not load keeps its last good content; it is named, and the exit status is 42 or 50.

    With framework or command under [proof] it also loads new checkpoints, WHICH RUNS CODE OUT OF THEM.
    """
    config = limited(common.watching_configuration(), upload=limit_upload)
    watches = pick_watches(config, run)
    if dry_run and take_over:
        raise ConfigInvalid("--take-over changes who writes the run, and --dry-run changes nothing", advice="give one")
    if take_over and len(watches) > 1:
        names = ", ".join(watch.run for watch in watches)
        raise ConfigInvalid("--take-over is for one run", advice=f"name it: {names}")
    monitor = common.monitor()
    if dry_run:
        _look_ahead(common, config, watches, monitor)
        return
    refuse_unreadable(config, watches)

    def found_id(repository_id: bytes) -> None:
        if not take_over:
            refuse_locked(config, repository_id, watches)

    results: list[BackupResult] = []
    failed: list[tuple[str, Error]] = []
    with common.session(config, monitor, found_id, writes_only=True) as session, stopping() as stop:
        for watch in watches:
            try:
                with _locked(session, watch, take_over=take_over):
                    results.append(back_up(session, watch, monitor, stop, accept_loss=accept_loss))
            except Error as error:
                # One run that cannot be backed up must not cost the others their version.
                if len(watches) == 1 or stop.is_set():
                    raise
                monitor.notice("error", f"{watch.run}: {error}")
                failed.append((watch.run, error))
    _show(common, results, failed)
    _leave(failed, [trouble for result in results for trouble in result.troubles])


def _look_ahead(common: Common, config: Config, watches: Sequence[WatchSettings], monitor: Monitor) -> None:
    """Print what a backup would do; a run that cannot be looked at does not keep the others from being shown."""
    from mlsync.app.look_ahead import look_ahead  # late, as what shows it: a backup needs neither
    from mlsync.cli.reports.dry_run import show

    previews: list[Preview] = []
    failed: list[tuple[str, Error]] = []
    for watch in watches:
        try:
            previews.append(look_ahead(config, watch, monitor))
        except Error as error:
            if len(watches) == 1:
                raise
            monitor.notice("error", f"{watch.run}: {error}")
            failed.append((watch.run, error))
    if common.as_json:
        from mlsync.cli.reports.json import previews_json  # late, as below: most ask for text

        common.emit(previews_json(previews, failed))
    else:
        show(previews, verbose=bool(common.verbose))
    _leave(failed, [])


def _locked(session: Session, watch: WatchSettings, *, take_over: bool) -> RunLock:
    """Return the run's lock; record a takeover before it, since an agent may hold the lock all the time."""
    lock = RunLock(session.config.state_directory, session.repository.repository_id.hex(), watch.run)
    if not take_over:
        return lock
    allow_takeover(session.state_directory, watch.run, bytes(watch.directory), 0)
    try:
        lock.acquire()
    except RunLocked as error:
        advice = "that process continues the run at its next try: an agent within ten minutes, or at once after SIGUSR1"
        raise RunLocked(f"taken over, but {error.what}", where=error.where, advice=advice) from None
    lock.release()
    return lock


def _show(common: Common, results: list[BackupResult], failed: list[tuple[str, Error]]) -> None:
    if common.as_json:
        from mlsync.cli.reports.json import backups_json

        common.emit(backups_json(results, failed))
    elif not common.quiet:
        for result in results:
            output.say_wrapped(f"{result.run}: {summary(result)}")
            if common.verbose:
                _say_differences(result)
                _say_left_out(result)
    for result in results:
        for trouble in result.troubles:
            output.tell(f"warning: {result.run}: {trouble_text(trouble)}")


def _say_differences(result: BackupResult) -> None:
    """Say what differences took, and what the same tensors would take as a whole: about as much as their bases."""
    found = result.differences
    if found.size_bytes:
        whole = output.size(found.stored_bytes + found.saved_bytes)
        what = f"{output.size(found.size_bytes)} of tensors stored as differences in {output.size(found.stored_bytes)}"
        output.say_wrapped(f"{result.run}: {what}, which would take about {whole} as a whole")


def _say_left_out(result: BackupResult) -> None:
    """Name what is not in the version, which a user would otherwise notice only at a restore."""
    what = "left out, as their names are those of unfinished files"
    _say_paths(result.run, what, result.left_out)
    _say_paths(result.run, "extended attributes that no version keeps", result.unkept)


def _say_paths(run: str, what: str, which: LeftOut) -> None:
    if which.count:
        shown = ", ".join(map(output.path, sorted(which.paths)[:_LEFT_OUT_SHOWN]))
        more = f" and {which.count - _LEFT_OUT_SHOWN} more" if which.count > _LEFT_OUT_SHOWN else ""
        output.say_wrapped(f"{run}: {what}: {shown}{more}")


def _leave(failed: list[tuple[str, Error]], troubles: list[Trouble]) -> None:
    if failed:
        raise click.exceptions.Exit(failed[0][1].exit_code)
    # The most serious one first.
    for kind, error in _STATUS.items():
        if any(trouble.kind is kind for trouble in troubles):
            raise click.exceptions.Exit(error.exit_code)
