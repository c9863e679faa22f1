"""``mlsync check``: look at every object and reference of the repository."""

from __future__ import annotations

import socket
import time
from hashlib import blake2b

import click

from mlsync.app.locking import extend, refuse_without_lock, sentences
from mlsync.cli.arguments.gently import gently_option
from mlsync.cli.arguments.options import Common, common_options
from mlsync.cli.arguments.parsing import Command
from mlsync.cli.arguments.rollback import accept_rollback_option, look_for_rollback
from mlsync.cli.reports.json import check_json
from mlsync.cli.terminal import output
from mlsync.errors import LockNotExtended, ProblemsFound
from mlsync.service.telling.told_by_command import CommandNews, tell_news
from mlsync.tell.event import NoticeEvent
from mlsync.upkeep.check import CheckResult, Problem, check

_VERSIONS_SHOWN = 8

_EXAMPLES = """\b
Examples:
  mlsync check
  mlsync check --read-data --gently
"""


@click.command("check", cls=Command, short_help="Check every object of the repository.", epilog=_EXAMPLES)
@click.option("--read-data", is_flag=True, help="Also read and decrypt every byte of every pack.")
@click.option(
    "--extend-lock", is_flag=True, help="Lock what versions use for another period, by object_lock under [s3]."
)
@accept_rollback_option
@common_options
@gently_option
def check_command(common: Common, read_data: bool, extend_lock: bool, accept_rollback: bool) -> None:
    """Check the repository: every version, every link between versions, every pack that they need.

    Lists all problems, with the versions that each affects, and then ends with 33. Changes nothing but locks, if asked.
    """
    monitor = common.monitor()
    config = common.configuration()
    if extend_lock:
        refuse_without_lock(config)
    with common.session(config, monitor) as session:
        look_for_rollback(session, None, monitor, accept=accept_rollback)
        result = check(session.repository, monitor, read_data=read_data)
        extended = extend(session, monitor) if extend_lock else None
    if common.as_json:
        common.emit(check_json(result, extended, read_data=read_data))
    else:
        _print(result, quiet=common.quiet)
    for level, text in sentences(extended) if extended is not None else ():
        if level != "info":
            monitor.notice(level, text)
        elif not (common.quiet or common.as_json):
            output.say_wrapped(text)
    _tell(common, result, read_data=read_data)
    if result.problems:
        raise ProblemsFound(
            f"{output.count(len(result.problems), 'problem')} found", where=session.repository.store.url
        )
    if result.left_open is not None:
        raise result.left_open
    if extended is not None and (extended.denied or extended.lost):
        raise LockNotExtended("not all that versions use could be locked", where=session.repository.store.url)


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


def _touches(problem: Problem) -> str:
    if not problem.versions:
        return ""
    shown = [f"{run}/{number}" for run, number in problem.versions[:_VERSIONS_SHOWN]]
    more = len(problem.versions) - len(shown)
    return f" (touches {', '.join(shown)}{f' and {more} more' if more else ''})"
