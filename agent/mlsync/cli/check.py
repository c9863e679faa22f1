"""``mlsync check``: look at every object and reference of the repository."""

from __future__ import annotations

import dataclasses
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from hashlib import blake2b

import click

from mlsync.app.locking import extend, needed_lock, sentences
from mlsync.app.mirrors import opened_mirrors
from mlsync.app.session import Session
from mlsync.cli.arguments.gently import gently_option
from mlsync.cli.arguments.options import Common, common_options
from mlsync.cli.arguments.parsing import Command
from mlsync.cli.arguments.rollback import accept_rollback_option, look_for_rollback
from mlsync.cli.arguments.thawing import Thawing
from mlsync.cli.reports.json import check_json
from mlsync.cli.terminal import output
from mlsync.config.model import Config
from mlsync.errors import ConfigInvalid, HealingIncomplete, LockNotExtended, ProblemsFound, StoreError
from mlsync.monitor import Monitor
from mlsync.repository import names
from mlsync.service.telling.told_by_command import CommandNews, tell_news
from mlsync.tell.event import NoticeEvent
from mlsync.upkeep.check import CheckResult, Problem, check
from mlsync.upkeep.extend_lock import Extended
from mlsync.upkeep.healing.heal import HealResult, Mirror, heal

_VERSIONS_SHOWN = 8
_ROUNDS = 3
_LOOKED_FOR_MAX = 1000

_EXAMPLES = """\b
Examples:
  mlsync check --read-data --gently
  mlsync check --read-data --repair-from-mirror --dry-run
"""


@click.command("check", cls=Command, short_help="Check every object of the repository.", epilog=_EXAMPLES)
@click.option("--read-data", is_flag=True, help="Also read and decrypt every byte of every pack.")
@click.option(
    "--extend-lock", is_flag=True, help="Lock what versions use for another period, by object_lock under [s3]."
)
@click.option("--repair-from-mirror", "heals", is_flag=True, help="Put back from a mirror what is lost or damaged.")
@click.option("--dry-run", is_flag=True, help="With --repair-from-mirror: show what a mirror has, and change nothing.")
@accept_rollback_option
@common_options
@gently_option
def check_command(
    common: Common, *, read_data: bool, extend_lock: bool, heals: bool, dry_run: bool, accept_rollback: bool
) -> None:
    """Check the repository: every version, every link between versions, every pack that they need.

    Lists all problems, with the versions that each affects, and then ends with 33. Changes nothing, but for locks if
    asked, and what is put back from a mirror; it ends with 66 if not all of that was to be had.
    """
    config, monitor = common.configuration(), common.monitor()
    _refuse_contradictions(config, heals=heals, dry_run=dry_run)
    lock = needed_lock(config) if extend_lock else None
    healed: HealResult | None = None
    with common.session(config, monitor) as session:
        # What only a mirror has is put back.
        look_for_rollback(session, None, monitor, accept=accept_rollback or heals)
        if read_data:
            Thawing(session.repository, common.invocation, monitor).tell_all()
        result = check(session.repository, monitor, read_data=read_data)
        if heals:
            healed, result = _heal(session, result, monitor, read_data=read_data, dry_run=dry_run)
        elif result.problems and config.mirrors:
            result = _with_mirrors(session, result, monitor)
        extended = None if lock is None else extend(session.repository, lock, monitor)
    if common.as_json:
        common.emit(check_json(result, extended, healed, read_data=read_data, dry_run=dry_run))
    else:
        _print_healed(healed, dry_run=dry_run, quiet=common.quiet)
        _print(result, quiet=common.quiet)
    for level, text in sentences(extended) if extended is not None else ():
        if level != "info":
            monitor.notice(level, text)
        elif not (common.quiet or common.as_json):
            output.say_wrapped(text)
    _tell(common, result, read_data=read_data)
    _refuse(result, extended, None if dry_run else healed, session.repository.store.url)


def _refuse_contradictions(config: Config, *, heals: bool, dry_run: bool) -> None:
    if dry_run and not heals:
        raise click.UsageError("--dry-run goes with --repair-from-mirror.")
    if heals and not config.mirrors:
        advice = 'name one under [[mirror]]: url = "s3://bucket/prefix"'
        raise ConfigInvalid("the configuration has no mirror", advice=advice)


def _refuse(result: CheckResult, extended: Extended | None, healed: HealResult | None, where: str) -> None:
    """Raise the error that the command ends with, if there is one."""
    if healed is not None and (result.problems or healed.failed):
        left = len({problem.key for problem in result.problems} | healed.failed.keys())
        raise HealingIncomplete(f"{output.count(left, 'object')} not healed", where=where)
    if result.problems:
        raise ProblemsFound(f"{output.count(len(result.problems), 'problem')} found", where=where)
    if result.left_open is not None:
        raise result.left_open
    if extended is not None and (extended.denied or extended.lost):
        raise LockNotExtended("not all that versions use could be locked", where=where)


def _heal(
    session: Session, found: CheckResult, monitor: Monitor, *, read_data: bool, dry_run: bool
) -> tuple[HealResult, CheckResult]:
    """Heal until a check finds nothing more that a mirror has: a manifest that is back names packs."""
    total = HealResult()
    with opened_mirrors(session.config, session.repository, monitor) as mirrors:
        for _ in range(_ROUNDS):
            done = heal(session.repository, mirrors, found.problems, monitor, dry_run=dry_run)
            total.healed += done.healed
            total.failed = done.failed
            if dry_run or not done.healed:
                break
            found = check(session.repository, monitor, read_data=read_data)
    return total, found


def _with_mirrors(session: Session, result: CheckResult, monitor: Monitor) -> CheckResult:
    """Say of each problem which mirror has an object of that name."""
    with opened_mirrors(session.config, session.repository, monitor) as mirrors:
        problems = [_with_mirror(problem, mirrors) for problem in result.problems[:_LOOKED_FOR_MAX]]
    return dataclasses.replace(result, problems=[*problems, *result.problems[_LOOKED_FOR_MAX:]])


def _with_mirror(problem: Problem, mirrors: Sequence[Mirror]) -> Problem:
    for name, mirror in mirrors if names.is_object(problem.key) else ():
        with suppress(StoreError):
            mirror.store.stat(problem.key)
            text = f"{problem.text}; the mirror {name!r} has it (mlsync check --repair-from-mirror)"
            return dataclasses.replace(problem, text=text)
    return problem


def _print_healed(healed: HealResult | None, *, dry_run: bool, quiet: bool) -> None:
    if healed is None:
        return
    for one in () if quiet else healed.healed:
        did = "would be put back" if dry_run else "put back"
        was = "damaged" if one.was_damaged else "missing"
        output.say_wrapped(f"{one.key}: {was}, {did} from the mirror {one.mirror!r} ({output.size(one.size_bytes)})")
    for key, why in healed.failed.items():
        output.say_wrapped(f"{key}: not healed: {why}")


def _tell(common: Common, result: CheckResult, *, read_data: bool) -> None:
    """Tell channels of damage that they were not told of, and that it is healed once all was read and is well."""
    facts = {"problems": len(result.problems)}
    event = NoticeEvent("damage", facts=facts, at_s=time.time(), host=socket.gethostname())
    found = "\0".join(sorted(problem.key for problem in result.problems))
    key = blake2b(found.encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()
    is_well = read_data and not result.problems and not result.unchecked and result.left_open is None
    if result.problems or is_well:
        tell_news(common.configuration(), CommandNews(event, key, heals=is_well), common.monitor())


def _print(result: CheckResult, *, quiet: bool) -> None:
    for problem in (*result.problems, *result.unchecked):
        output.say_wrapped(f"{problem.key}: {problem.text}{_touches(problem)}")
    if quiet:
        return
    for oddity in result.oddities:
        output.say_wrapped(f"{oddity.key}: {oddity.text}")
    _print_omitted(result)
    read = f", {output.size(result.read_bytes)} read" if result.read_bytes else ""
    unused = f", {output.count(result.unused_packs, 'pack')} unused" if result.unused_packs else ""
    verdict = output.count(len(result.problems), "problem") if result.problems else "no problem"
    if result.uncopied:
        verdict += f", {output.count(len(result.uncopied), 'manifest')} without a second copy (mlsync repair makes it)"
    if result.unchecked:
        verdict += f", {output.count(len(result.unchecked), 'object')} not checked"
    output.say_wrapped(
        f"{output.count(result.run_count, 'run')}, {output.count(result.version_count, 'version')}, "
        f"{output.count(result.pack_count, 'pack')} ({output.size(result.pack_bytes)}), "
        f"{output.count(result.chunk_count, 'chunk')}{read}{unused}: {verdict}"
    )


def _print_omitted(result: CheckResult) -> None:
    """Say which versions whoever made this mirror left out."""
    for run, ranges in result.omitted.items():
        shown = [str(first) if first == last else f"{first}-{last}" for first, last in ranges[:_VERSIONS_SHOWN]]
        more = len(ranges) - len(shown)
        output.say_wrapped(f"{run}: not copied to this mirror: {', '.join(shown)}{f' and {more} more' if more else ''}")


def _touches(problem: Problem) -> str:
    if not problem.versions:
        return ""
    shown = [f"{run}/{number}" for run, number in problem.versions[:_VERSIONS_SHOWN]]
    more = len(problem.versions) - len(shown)
    return f" (touches {', '.join(shown)}{f' and {more} more' if more else ''})"
