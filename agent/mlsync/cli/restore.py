"""``mlsync restore``: bring a version back."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from mlsync.app.refusals import refuse_target, refuse_unwritable_config
from mlsync.app.session import Session
from mlsync.backup.shrunk import earlier_loss
from mlsync.cli.arguments import candidates
from mlsync.cli.arguments.limits import limit_download_option, limited
from mlsync.cli.arguments.options import Common, common_options, run_option, version_option
from mlsync.cli.arguments.parsing import Command
from mlsync.cli.arguments.rollback import accept_rollback_option, look_for_rollback
from mlsync.cli.arguments.stopping import stopping
from mlsync.cli.arguments.thawing import Thawing, thaw_options, thaw_request
from mlsync.cli.new_config import (
    NewConfig,
    asked_place,
    existing_config,
    how_to_continue,
    prepared,
    shown_lines,
    written_line,
)
from mlsync.cli.reports.json import restore_json
from mlsync.cli.reports.resuming import closing_lines, resumes
from mlsync.cli.terminal import output
from mlsync.cli.then_agent import KEEPING_WATCH, agent_option, become_agent, refuse_json
from mlsync.cold.find import packs_of_list
from mlsync.config.model import Config
from mlsync.courtesy.timetable import Timetable
from mlsync.errors import ConfigInvalid, Damage, Error, FormatUnsupported, StateError, StoreError
from mlsync.monitor import Monitor
from mlsync.repository.keys.keyslot import Unlock
from mlsync.repository.readable import newest_maker
from mlsync.repository.repository import StoredVersion
from mlsync.restore.restore import RestoreOptions, RestoreResult, restore
from mlsync.source.takeover import NewestWriter, allow_takeover
from mlsync.versions.hidden_proofs import report_hidden
from mlsync.versions.rollback import refuse_older
from mlsync.versions.run_proofs import proofs_of
from mlsync.versions.select import LATEST, find_run, find_version

_EXAMPLES = """\b
Examples:
  mlsync restore --repo s3://bucket/runs --to ~/runs/train --agent
  mlsync restore --version 12 'weights/*.pt' --to /tmp/look
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
    help="Where to; default: the directory that the version was made from.",
)
@click.option(
    "--write-config",
    type=click.Path(),
    is_flag=False,
    flag_value="",
    metavar="[FILE]",
    help="Also write the configuration with which this machine continues the run; replaces no file.",
)
@agent_option("Then keep watch here, as mlsync agent does; writes the configuration too.")
@click.option(
    "--delete",
    is_flag=True,
    help="Delete what is in DIR and not in the version, but not excluded files; not with PATH.",
)
@click.option("--delete-excluded", is_flag=True, help="With --delete: excluded and unfinished files too.")
@click.option("--yes", is_flag=True, help="With --delete: even most of a directory that no restore made.")
@click.option(
    "--at-least",
    type=click.IntRange(min=1),
    metavar="N",
    help="End with 16 if the run's newest version is older than version N.",
)
@thaw_options
@accept_rollback_option
@limit_download_option
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
    tier: str | None,
    thaw_days: int | None,
    no_wait: bool,
    ask_again: bool,
    write_config: str | None,
    then_agent: bool,
    accept_rollback: bool,
    limit_download: Timetable | None,
) -> None:
    """Bring a version back: all of it, or only the files and directories PATH.

    PATH is relative to the run's directory, or a pattern in quotes. A fresh machine needs only --repo URL and the
    passphrase. Files that are right already are left alone, so a killed restore continues. At the end it prints how to
    resume the training.
    """
    write_config = _with_agent(common, write_config) if then_agent else write_config
    _refuse_contradictions(paths, delete=delete, delete_excluded=delete_excluded, yes=yes, writes=write_config)
    request = thaw_request(tier, thaw_days, no_wait=no_wait, ask_again=ask_again)
    monitor = common.monitor()
    config = limited(common.configuration(), download=limit_download)
    place, existing = _place_to_write(common, config, write_config)
    if target is not None:
        asked = os.fsencode(os.path.abspath(target))
        _refuse_own_places(config, asked, delete=delete)
        refuse_target(asked)
    secrets: list[Unlock] = []
    with (
        common.session(config, monitor, found_secret=secrets.append, reads_mirrors=True) as session,
        stopping() as stop,
    ):
        look_for_rollback(session, run, monitor, accept=accept_rollback, version=version)
        run = find_run(session.repository, run)
        if at_least is not None:
            refuse_older(session.repository, run, at_least)
        stored = find_version(session.repository, run, version)
        if version == LATEST and (loss := earlier_loss(session.repository, stored)) is not None:
            monitor.notice("warning", f"{run}: {loss}")
        _warn_of_hidden(session, stored, monitor)
        thawing = Thawing(session.repository, common.invocation, monitor, request, stop.is_set)
        thawing.ready_list(packs_of_list(stored))
        manifest = session.repository.manifest(stored)
        directory = manifest.root.directory if target is None else os.fsencode(os.path.abspath(target))
        _refuse_own_places(config, directory, delete=delete)
        options = RestoreOptions(
            paths=tuple(map(os.fsencode, paths)),
            delete=delete,
            delete_excluded=delete_excluded,
            confirmed=yes,
            exclude=tuple(pattern for watch in config.watches if watch.run == run for pattern in watch.exclude),
            stop=stop.is_set,
            ready=thawing.ready,
        )
        new = NewConfig(config, run, directory, common.asked_key.over(config.key))
        with prepared(place, existing, new) as draft:
            result = restore(session.repository, manifest, directory, options, monitor)
            if result.is_whole and result.fault is None:
                _hand_over(session, result, stored if version == LATEST else None, monitor)
                if draft is not None:
                    draft.keep()
    found = resumes(result.entries, directory, manifest.root.directory)
    if common.as_json:
        common.emit(restore_json(result, found, place if result.fault is None else None, common.invocation.cold))
    elif not common.quiet:
        _print([_text(result), *closing_lines(found, result.entries, version)])
        _print(_continuing(result, new, place, existing, then_agent=then_agent))
    if result.fault is not None:
        raise result.fault
    if then_agent:
        assert place is not None  # _with_agent asks for it
        become_agent(common, place, secrets[0])


def _with_agent(common: Common, write_config: str | None) -> str:
    """Return what ``--write-config`` is with ``--agent``: the usual place, if it names none."""
    refuse_json(common)
    return write_config or ""


def _place_to_write(common: Common, config: Config, asked: str | None) -> tuple[Path | None, Config | None]:
    """Return where the configuration goes, if anywhere, and what is there; refuse a place where none can be made."""
    place = asked_place(asked, common.config)
    existing = None if place is None else existing_config(place, config)
    if place is not None and existing is None:
        refuse_unwritable_config(place)
    return place, existing


def _warn_of_hidden(session: Session, stored: StoredVersion, monitor: Monitor) -> None:
    """Warn if later proofs of the version are hidden; a restore does not depend on them."""
    root = stored.root
    try:
        hidden = proofs_of(session.repository, stored)[1]
    except (StoreError, Damage, FormatUnsupported) as error:
        text = f"the later proofs of version {root.number} cannot be read, so nobody knows what they say: {error}"
        monitor.notice("warning", f"{root.run}: {text}")
        return
    if hidden is not None:
        report_hidden(hidden, root.run, root.number, monitor)


def _print(lines: Iterable[str]) -> None:
    """Print sentences as wide as the terminal; what is to be copied, and begins with a blank, stays on its line."""
    for line in lines:
        (output.say_wrapped if line[:1].strip() else output.say)(line)


def _continuing(
    result: RestoreResult, new: NewConfig, place: Path | None, existing: Config | None, *, then_agent: bool
) -> Iterator[str]:
    """Yield how backups of the directory continue here, once all of the version is in it."""
    if not result.is_whole or result.fault is not None:
        return
    if place is None:
        yield from shown_lines(new)
        return
    yield written_line(place, new, is_new=existing is None)
    if then_agent:
        yield f"{KEEPING_WATCH}: resume the training in another terminal. Ctrl-C ends it."
    else:
        yield from how_to_continue(place)


def _refuse_contradictions(
    paths: tuple[str, ...], *, delete: bool, delete_excluded: bool, yes: bool, writes: str | None
) -> None:
    if "" in paths:
        raise ConfigInvalid("an empty PATH", advice="give no PATH for the whole version")
    if writes is not None and paths:
        what = "--write-config is for whole versions: a run does not continue from single paths"
        raise ConfigInvalid(what, advice="leave one of them out")
    if delete and paths:
        raise ConfigInvalid("--delete is for whole versions, not for single paths", advice="leave one of them out")
    if not delete and (delete_excluded or yes):
        what = "--delete-excluded and --yes only apply to --delete"
        raise ConfigInvalid(what, advice="give --delete too, or leave them out")


def _refuse_own_places(config: Config, directory: bytes, *, delete: bool) -> None:
    """Raise ``ConfigInvalid`` if a restore would write into the repository, or delete what mlsync itself needs."""
    target = os.path.realpath(directory)
    repository = config.repository_directory
    own = {"the repository": repository, "the local state": config.state_directory}
    for what, place in own.items():
        if place is None:
            continue
        real = os.path.realpath(bytes(place))
        if place == repository and os.path.commonpath((target, real)) == real:
            raise ConfigInvalid(
                "the target is inside the repository", where=output.path(target), advice="give --to DIR"
            )
        if delete and os.path.commonpath((target, real)) == target:
            raise ConfigInvalid(f"--delete would delete {what}", where=str(place), advice="restore without --delete")


def _hand_over(session: Session, result: RestoreResult, latest: StoredVersion | None, monitor: Monitor) -> None:
    """Let the next backup of this directory, on this machine, continue the run without --take-over."""
    try:
        try:
            newest = NewestWriter(*newest_maker(session.repository, result.run, latest))
        except Error:
            # The restore is done, whatever else the store does not show.
            newest = None
        allow_takeover(session.state_directory, result.run, result.directory, result.version, newest)
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
