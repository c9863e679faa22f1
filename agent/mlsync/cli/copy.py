"""``mlsync copy``: copy versions to a second place."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import click

from mlsync.app.mirrors import in_place_of
from mlsync.app.second_copy import opened_target, target_of
from mlsync.app.secrets import find_secret
from mlsync.app.session import Session
from mlsync.cli.arguments import candidates
from mlsync.cli.arguments.gently import gently_option
from mlsync.cli.arguments.limits import limit_download_option, limit_upload_option, limited
from mlsync.cli.arguments.options import VERSION_WORDS, Common, common_options
from mlsync.cli.arguments.parsing import Command
from mlsync.cli.arguments.rollback import accept_rollback_option, look_for_rollback
from mlsync.cli.arguments.stopping import stopping
from mlsync.cli.reports.json import copy_json
from mlsync.cli.terminal import output
from mlsync.config.model import Config, KeySettings
from mlsync.config.units import format_age
from mlsync.courtesy.timetable import Timetable
from mlsync.errors import ConfigInvalid, MirrorConflict, MirrorIncomplete
from mlsync.mirror.account import CopyOptions, CopyResult
from mlsync.mirror.copying import copy_versions
from mlsync.mirror.rekey import copy_rekeyed
from mlsync.monitor import Monitor
from mlsync.repository.ahead import ahead
from mlsync.repository.listing import run_names
from mlsync.repository.repository import Repository
from mlsync.retention.grammar import parse_rules
from mlsync.retention.policy import KeepPolicy
from mlsync.retention.rules import Rule
from mlsync.store.counting import CountingStore
from mlsync.upkeep.retained import retained
from mlsync.versions.select import find_run, find_version, refuse_nonsense

_EXAMPLES = """\b
Examples:
  mlsync copy --to s3://other-region/yolo --create
  mlsync copy --to /mnt/usb/mlsync --run yolo --policy "last 5" --verify
"""
_SHOWN_MAX = 20
_PATH = click.Path(path_type=Path)
_RANGE = re.compile(r"(\d{1,10})-(\d{1,10})", re.ASCII)


@dataclass(frozen=True, slots=True)
class CopyChoice:
    """Which versions the command line chooses: all of some runs, single ones, or what a policy keeps."""

    runs: tuple[str, ...]
    versions: tuple[str, ...]
    policy: tuple[Rule, ...]
    create: bool = False
    rekey: bool = False


@dataclass(frozen=True, slots=True)
class MirrorServer:
    """What the command line says of the mirror's server."""

    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None


def _checked_versions(_context: click.Context, _option: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    for word in value:
        if not _RANGE.fullmatch(word):
            refuse_nonsense(word)
    return value


def _checked_rules(_context: click.Context, _option: click.Parameter, value: tuple[str, ...]) -> tuple[Rule, ...]:
    try:
        return parse_rules(value) if value else ()
    except ValueError as error:
        raise ConfigInvalid(f"--policy: {error}") from None


@click.command("copy", cls=Command, short_help="Copy versions to a second place, a mirror.", epilog=_EXAMPLES)
@click.option("--to", "target", required=True, metavar="URL", help="A directory, s3://bucket/prefix, or mirror's name.")
@click.option("--create", is_flag=True, help="Make the mirror if there is none: the first time.")
@click.option(
    "--run", "runs", multiple=True, metavar="NAME", shell_complete=candidates.runs, help="Only this run; repeatable."
)
@click.option(
    "--version",
    "versions",
    multiple=True,
    callback=_checked_versions,
    metavar="VERSION",
    shell_complete=candidates.words(*VERSION_WORDS),
    help="Only this version, or a range such as 5-20; repeatable.",
)
@click.option(
    "--policy",
    multiple=True,
    callback=_checked_rules,
    metavar="RULE",
    help='Only what rules keep, as "last 5"; repeatable.',
)
@click.option("--verify", is_flag=True, help="Read each copied pack back and open all of it.")
@click.option("--dry-run", is_flag=True, help="Show what would be copied, and write nothing.")
@click.option("--to-endpoint-url", metavar="URL", help="The mirror's S3 server, if it is another; '' for AWS.")
@click.option("--to-region", metavar="NAME", help="The mirror's S3 region.")
@click.option("--to-profile", metavar="NAME", help="Profile in ~/.aws with the mirror's S3 keys.")
@click.option("--rekey", is_flag=True, help="Into another repository with another key, made by mlsync init.")
@click.option("--to-passphrase-file", type=_PATH, metavar="FILE", help="With --rekey: what opens that repository.")
@click.option("--to-key-file", type=_PATH, metavar="FILE", help="The same, a key file.")
@accept_rollback_option
@limit_upload_option
@limit_download_option
@common_options
@gently_option
def copy_command(
    common: Common,
    *,
    target: str,
    create: bool,
    runs: tuple[str, ...],
    versions: tuple[str, ...],
    policy: tuple[Rule, ...],
    verify: bool,
    dry_run: bool,
    to_endpoint_url: str | None,
    to_region: str | None,
    to_profile: str | None,
    rekey: bool,
    to_passphrase_file: Path | None,
    to_key_file: Path | None,
    accept_rollback: bool,
    limit_upload: Timetable | None,
    limit_download: Timetable | None,
) -> None:
    """Copy versions to a second place: another bucket, provider, or directory.

    Sealed objects are copied as they are; the same secrets open the mirror, as for mlsync restore --repo URL. Whatever
    it lists restores, wherever a copy ends; the next one goes on there. Nothing is overwritten. Ends with 121 if a
    version could not be copied, and with 122 if the mirror has another object under a name of the repository.
    """
    monitor = common.monitor()
    config = limited(common.configuration(), upload=limit_upload, download=limit_download)
    server = MirrorServer(to_endpoint_url, to_region, to_profile)
    secret = KeySettings(to_passphrase_file, to_key_file) if to_passphrase_file or to_key_file else None
    choice = _checked(CopyChoice(runs, versions, policy, create=create, rekey=rekey), secret)
    place, choice = _place(config, target, server, choice)
    with common.session(config, monitor) as session, stopping() as stop:
        for run in choice.runs or (None,):
            look_for_rollback(session, run, monitor, accept=accept_rollback)
        options = CopyOptions(
            now_ns=time.time_ns(),
            host=socket.gethostname(),
            runs=choice.runs or None,
            versions=_chosen(session, choice),
            create=create,
            verify=verify,
            dry_run=dry_run,
            stop=stop.is_set,
        )
        began_s = time.monotonic()
        result, store = _copied(session.repository, place, secret, options, monitor)
        took_s = time.monotonic() - began_s
    if common.as_json:
        common.emit(copy_json(result, session.counted, store, took_s))
    else:
        _print(result, store, took_s, quiet=common.quiet)
    _refuse_incomplete(result, target)


def _checked(choice: CopyChoice, secret: KeySettings | None) -> CopyChoice:
    """Refuse options that contradict each other."""
    if choice.rekey != (secret is not None) or (choice.rekey and choice.create):
        what = "--rekey goes with --to-passphrase-file or --to-key-file, which open a repository that is there"
        raise ConfigInvalid(what, advice="make it first: mlsync init")
    if choice.versions and choice.policy:
        raise ConfigInvalid("--version and --policy both say which versions are copied", advice="give one of them")
    return choice


def _place(config: Config, target: str, server: MirrorServer, choice: CopyChoice) -> tuple[Config, CopyChoice]:
    """Return the second place as a configuration, and what is copied there: by the command line, else as configured."""
    mirror = next((one for one in config.mirrors if one.name == target), None)
    if mirror is None:
        if config.mirrors and "/" not in target:
            known = ", ".join(one.name for one in config.mirrors)
            advice = f"the configuration has {known}; or give a URL"
            raise ConfigInvalid(f"no mirror is called {target!r}", advice=advice)
        return target_of(
            config, target, endpoint_url=server.endpoint_url, region=server.region, profile=server.profile
        ), choice
    if server != MirrorServer():
        raise ConfigInvalid(f"the configuration says how the mirror {target!r} is reached", advice="leave out --to-…")
    policy = choice.policy or (() if choice.versions else mirror.keep)
    return in_place_of(config, mirror), replace(choice, runs=choice.runs or mirror.runs, policy=policy)


def _copied(
    repository: Repository, place: Config, secret: KeySettings | None, options: CopyOptions, monitor: Monitor
) -> tuple[CopyResult, CountingStore]:
    """Copy to a mirror or, with the *secret* of one, into another repository; return the store that counted too."""
    if secret is None:
        with opened_target(place, monitor, create=options.create, dry_run=options.dry_run) as store:
            return copy_versions(repository, store, options, monitor), store
    with Session.open(place, lambda: find_secret(KeySettings(), secret), monitor) as other:
        return copy_rekeyed(repository, other.repository, options, monitor), other.counted


def _chosen(session: Session, choice: CopyChoice) -> dict[str, set[int]]:
    """Return the numbers that were chosen of each run; a run that is not in it is copied whole."""
    repository = session.repository
    if choice.versions:
        runs = choice.runs or (find_run(repository, None),)
        return {run: _numbers(repository, find_run(repository, run), choice.versions) for run in runs}
    if not choice.policy:
        return {}
    found = ahead(partial(_kept, session, choice.policy), choice.runs or sorted(run_names(repository)))
    return {run: kept() for run, kept in found}


def _kept(session: Session, rules: tuple[Rule, ...], run: str) -> set[int]:
    """Return the versions of a run that rules keep."""
    policy = KeepPolicy(rules, session.config.retention_of(run).floor, 0.0)
    found = retained(session.repository, run, policy, time.time_ns(), with_all_reasons=True)
    return {one.version.number for one in found.evaluation.judged if one.is_kept}


def _numbers(repository: Repository, run: str, words: Sequence[str]) -> set[int]:
    found: set[int] = set()
    there = repository.numbers(run)
    for word in words:
        span = _RANGE.fullmatch(word)
        if span is None:
            found.add(find_version(repository, run, word).root.number)
            continue
        inside = {number for number in there if int(span[1]) <= number <= int(span[2])}
        if not inside:
            raise ConfigInvalid(f"no such version: {word}", advice="mlsync versions --all lists all")
        found |= inside
    return found


def _refuse_incomplete(result: CopyResult, target: str) -> None:
    """Raise the error that the copy ends with, if something was left out or is another one there."""
    if result.conflicts:
        first = result.conflicts[0]
        more = f", and {len(result.conflicts) - 1} more" if len(result.conflicts) > 1 else ""
        raise MirrorConflict(f"{first.why}{more}: {first.key}", where=target)
    if result.ahead:
        run, numbers = next(iter(result.ahead.items()))
        what = f"the mirror has {output.count(len(numbers), 'version')} of run {run!r} that the repository lost"
        raise MirrorConflict(what, where=target)
    if result.left_out:
        what = f"{output.count(len(result.left_out), 'version')} could not be copied"
        raise MirrorIncomplete(what, where=target)


def _print(result: CopyResult, store: CountingStore, took_s: float, *, quiet: bool) -> None:
    _print_faults(result)
    if quiet:
        return
    if result.is_new:
        output.say("the mirror would be made" if result.is_dry else "the mirror was made")
    for run, numbers in result.removed.items():
        output.say_wrapped(f"{run}: removed in the mirror itself, and not copied again: {_named(numbers)}")
    for run in result.decided_apart:
        what = "pins or forgotten versions were decided in the mirror itself, so it may lack some of the repository"
        output.say_wrapped(f"{run}: {what}")
    for run, numbers in result.omitted.items():
        output.say_wrapped(f"{run}: left in the repository alone: {_named(numbers)}")
    output.say_wrapped(_summary(result, sum(store.calls.values()), took_s))
    if result.is_dry:
        return
    for run, lag in result.lag.items():
        behind = f"{output.count(lag.version_count, 'version')} and {format_age(lag.age_s)} behind"
        up_to_date = f"up to date with version {lag.newest}"
        output.say_wrapped(f"{run}: {behind if lag.version_count else up_to_date}")


def _print_faults(result: CopyResult) -> None:
    for conflict in result.conflicts[:_SHOWN_MAX]:
        output.say_wrapped(f"{conflict.key}: {conflict.why}")
    for one in result.left_out[:_SHOWN_MAX]:
        output.say_wrapped(f"{one.run}/{one.number}: not copied: {one.why}")
    for run, numbers in result.ahead.items():
        output.say_wrapped(f"{run}: only the mirror has {_named(numbers)}")
    for key in result.stale_slots:
        output.say_wrapped(f"{key}: the repository has this key slot no more, and it still opens the mirror")


def _summary(result: CopyResult, call_count: int, took_s: float) -> str:
    copied = output.count(len(result.versions), "version")
    packs = f"{output.count(result.pack_count, 'pack')}, {output.size(result.size_bytes)}"
    if result.is_dry:
        return f"{copied} to copy ({packs}), {result.there_count} there already"
    if result.server_side_bytes:
        packs += f", {output.size(result.server_side_bytes)} of it without passing through here"
    if result.size_bytes and took_s > 0:
        packs += f", {output.size(int(result.size_bytes / took_s))}/s"
    if result.verified_bytes:
        packs += ", each read back"
    calls = output.count(call_count, "request")
    return f"{copied} copied ({packs}), {result.there_count} there already, {calls} to the mirror"


def _named(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:_SHOWN_MAX]))
    more = f" and {len(numbers) - _SHOWN_MAX} more" if len(numbers) > _SHOWN_MAX else ""
    return f"{'version' if len(numbers) == 1 else 'versions'} {shown}{more}"
