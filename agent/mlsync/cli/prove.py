"""``mlsync prove``: prove later what a version was committed without, and put the proof beside it."""

from __future__ import annotations

import click

from mlsync.app.flow_options import loading_options, prover_of
from mlsync.cli.arguments import candidates
from mlsync.cli.arguments.gently import gently_option
from mlsync.cli.arguments.options import (
    VERSION_WORDS,
    Common,
    checked_version,
    common_options,
    device_option,
    run_option,
)
from mlsync.cli.arguments.parsing import Command
from mlsync.cli.arguments.rollback import accept_rollback_option, look_for_rollback
from mlsync.cli.arguments.share import ShareChoice, share_option
from mlsync.cli.arguments.stopping import stopping
from mlsync.cli.reports.json import prove_json
from mlsync.cli.terminal import output
from mlsync.errors import CheckpointBroken, ConfigInvalid, Damage, Error, ObjectArchived
from mlsync.monitor import Monitor
from mlsync.proving.prove_later import LaterProver, LaterResult
from mlsync.proving.shares import Share
from mlsync.repository.listing import run_names
from mlsync.values import Level
from mlsync.versions.select import find_run, find_version

_EXAMPLES = """\b
Examples:
  mlsync prove --pending --device cuda --repo s3://bucket/runs
  torchrun --no-python --nproc-per-node 8 mlsync prove --pending --device cuda
"""


@click.command("prove", cls=Command, short_help="Prove versions that lack a full proof.", epilog=_EXAMPLES)
@click.argument("version", required=False, callback=checked_version, shell_complete=candidates.words(*VERSION_WORDS))
@click.option("--pending", "is_pending", is_flag=True, help="All pending versions, of one run or of all.")
@run_option
@device_option
@click.option(
    "--level",
    type=click.IntRange(1, Level.FRAMEWORK),
    metavar="N",
    help="The level to reach, instead of the one that each version requires.",
)
@share_option
@accept_rollback_option
@common_options
@gently_option
def prove_command(
    common: Common,
    version: str | None,
    is_pending: bool,
    run: str | None,
    device: str | None,
    level: int | None,
    part: ShareChoice,
    accept_rollback: bool,
) -> None:
    """Prove VERSION again, or with --pending everything that was committed below the required level.

    The checkpoints are read back and loaded, and the result is stored beside the version. Any machine that opens the
    repository can do it, and several processes can share the work. Level 5 RUNS CODE OUT OF THE CHECKPOINT.
    """
    if is_pending == (version is not None):
        raise click.UsageError("name a version, or say --pending")
    share = part.share
    if share is not None and version is not None and not version.isdecimal():
        raise click.UsageError(f"{version!r} may not be the same version to all shares: give its number")
    config, monitor = common.configuration(), common.monitor(bars=share is None)
    if level == Level.FRAMEWORK and not config.proof.loads:
        raise ConfigInvalid("level 5 needs a framework or a command that loads checkpoints", advice="set it in [proof]")
    with common.session(config, monitor) as session, stopping() as stop:
        repository = session.repository
        look_for_rollback(session, run, monitor, accept=accept_rollback)
        names = [find_run(repository, run)] if run or version else sorted(run_names(repository))
        whose = names[0] if len(names) == 1 else None
        with (
            prover_of(config, part.device(device or config.proof.device), run=whose) as prover,
            LaterProver(
                repository,
                prover,
                monitor,
                level=level,
                loading=loading_options(config, session.state_directory, device, run=whose),
                share=share,
                stop=stop.is_set,
            ) as later,
        ):
            if version is not None:
                results, damaged = [later.anew(find_version(repository, names[0], version))], None
            else:
                results, damaged = _prove_pending(later, names, monitor)
    _show(common, share, results)
    _leave(results, damaged)


def _prove_pending(later: LaterProver, names: list[str], monitor: Monitor) -> tuple[list[LaterResult], Error | None]:
    """Prove what is pending of these runs; continue with the others where one run or version cannot be read."""
    results: list[LaterResult] = []
    damaged: Error | None = None
    for name, lacking in later.lacking_of(names):
        try:
            waiting = lacking()
        except (Damage, ObjectArchived) as error:
            monitor.notice("error", f"{name}: {error}")
            damaged = damaged or error
            continue
        for stored in waiting:
            try:
                results.append(later.pending(stored))
            except (Damage, ObjectArchived) as error:
                monitor.notice("error", f"{stored.root.run}: version {stored.root.number}: {error}")
                damaged = damaged or error
    return results, damaged


def _show(common: Common, share: Share | None, results: list[LaterResult]) -> None:
    if common.as_json:
        common.emit(prove_json(share, results))
        return
    if common.quiet:
        return
    # On each line: the lines of all processes usually come to one terminal.
    whose = "" if share is None else f"{share}: "
    if not results:
        output.say_wrapped(f"{whose}nothing was pending")
    for result in results:
        output.say_wrapped(whose + _line(result))
        for path, why in sorted(result.refused.items()):
            output.say_wrapped(f"{whose}  broken: {output.path(path)}: {why}")


def _line(result: LaterResult) -> str:
    is_pending = result.is_pending or result.unavailable is not None
    reached = output.level(result.lowest_level, result.device, result.required_level if is_pending else None)
    read = f"{output.count(len(result.verdicts), 'checkpoint')} read back ({output.size(result.read_bytes)})"
    return f"{result.run}: version {result.version}: {reached}, {read}, {result.seconds:.1f} s"


def _leave(results: list[LaterResult], damaged: Error | None) -> None:
    """End with the most serious of what was found."""
    if damaged is not None:
        raise damaged
    broken = [result for result in results if result.refused]
    if broken:
        number = sum(len(result.refused) for result in broken)
        raise CheckpointBroken(
            output.not_loading(number), where=", ".join(f"{r.run} version {r.version}" for r in broken)
        )
    for result in results:
        if result.unavailable is not None:
            raise result.unavailable
