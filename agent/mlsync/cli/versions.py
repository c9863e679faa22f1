"""``mlsync versions``: the versions of a run, or of all runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import click

from mlsync.cli.arguments import candidates
from mlsync.cli.arguments.options import Common, common_options
from mlsync.cli.arguments.parsing import Command
from mlsync.cli.arguments.rollback import accept_rollback_option, look_for_rollback
from mlsync.cli.reports.json import versions_json
from mlsync.cli.reports.show_report import pinned, registered_as
from mlsync.cli.terminal import output
from mlsync.cli.terminal.table import TextTable
from mlsync.repository.ahead import ahead
from mlsync.repository.evaluation import newest_numbers
from mlsync.repository.listing import runs
from mlsync.repository.manifest import ManifestRoot
from mlsync.repository.repository import Repository
from mlsync.retention.direction import named_number
from mlsync.source.paths import natural
from mlsync.versions.decided import by_rule
from mlsync.versions.evaluated import RunEvaluations
from mlsync.versions.proof_status import ProofStatus, RunVersions, run_versions
from mlsync.versions.select import find_run

_RIGHT: Final = (0, 2, 3, 4, 5, 7)
_EXAMPLES = """\b
Examples:
  mlsync versions
  mlsync versions yolo --all
"""


@click.command("versions", cls=Command, short_help="List versions and how far they were proved.", epilog=_EXAMPLES)
@click.argument("run", required=False, shell_complete=candidates.runs)
@click.option("--all", "is_all", is_flag=True, help="Forgotten versions too, which can still be brought back.")
@accept_rollback_option
@common_options
def versions_command(common: Common, run: str | None, is_all: bool, accept_rollback: bool) -> None:
    """List the versions of RUN, or of all runs, oldest first.

    PROOF is the level that every checkpoint of a version reached: L1 its container is whole, L2 its content makes
    sense, L3 its bytes were the same on the device, L4 its numbers were looked at, L5 a framework loaded it. Times are
    local; the heading names the time zone. The last column, if there is one, is a number that was measured of versions:
    the one that best_by under [evaluate] names, or the commonest.
    """
    monitor, config = common.monitor(), common.configuration()
    with common.session(config, monitor, reads_mirrors=True) as session:
        look_for_rollback(session, run, monitor, accept=accept_rollback)
        names = [find_run(session.repository, run)] if run else [item.name for item in runs(session.repository)]
        found = ahead(lambda name: _listed(session.repository, name, is_all=is_all), names)
        listed = {name: versions() for name, versions in found}
        unreadable = sorted(session.repository.skipped.items())
        if not any(one.statuses for one in listed.values()):
            session.repository.refuse_unreadable()
    if common.as_json:
        common.emit(versions_json(listed.values(), unreadable))
        return
    if not any(one.statuses for one in listed.values()):
        output.say("no version yet")
        return
    by = {name: config.evaluate_of(name).best_by for name in listed}
    ordered = sorted(listed, key=lambda name: natural(name.encode()))
    _print([listed[name] for name in ordered if listed[name].statuses], by)


def _listed(repository: Repository, run: str, *, is_all: bool) -> RunVersions:
    """Return the versions of a run, and what was measured of them."""
    found = run_versions(repository, run, with_forgotten=is_all)
    evaluations = RunEvaluations(repository, run).of_all(status.stored for status in found.statuses)
    return replace(found, measured={number: newest_numbers(some) for number, some in evaluations.items()})


def _print(listed: list[RunVersions], by: Mapping[str, str | None]) -> None:
    for number, one in enumerate(listed):
        if number:
            output.say()
        statuses = one.statuses
        output.say_wrapped(_heading(one))
        named = _named(one, by.get(statuses[0].root.run))
        made = _table(one, named, is_narrow=False)
        is_narrow = not made.fits(output.width())
        output.print_table(_table(one, named, is_narrow=True) if is_narrow else made)
        levels = sorted({status.root.required_level for status in statuses if status.is_pending})
        if is_narrow and levels:
            output.say_wrapped(f"pending: {' or '.join(f'L{level}' for level in levels)} is required")


def _heading(one: RunVersions) -> str:
    """Return the run, and how many versions it has; forgotten ones are counted apart."""
    forgotten = one.decided.forgotten
    kept = sum(status.root.number not in forgotten for status in one.statuses)
    count = output.count(kept, "version")
    return f"{one.statuses[0].root.run}: {count}" + (f", {len(forgotten)} forgotten" if forgotten else "")


def _named(one: RunVersions, best_by: str | None) -> str | None:
    """Return which of the measured numbers is shown, if there are any: the one that is compared, or the commonest."""
    if best_by is not None:
        name = named_number(best_by)[0]
        if any(name in numbers for numbers in one.measured.values()):
            return name
    counts = Counter(name for numbers in one.measured.values() for name in numbers)
    return min(counts, key=lambda name: (-counts[name], name)) if counts else None


def _table(one: RunVersions, named: str | None, *, is_narrow: bool) -> TextTable:
    """Return the versions of a run; a narrow table leaves out which level a pending one requires."""
    statuses = one.statuses
    zone = output.zone(status.root.created_ns for status in statuses)
    measured = () if named is None else (output.number_name(named, is_heading=True),)
    headers = ("VERSION", f"MADE ({zone})", "FILES", "SIZE", "NEW", "STORED", "PROOF", *measured)
    table = TextTable(headers, _RIGHT, "; ")
    for status, new_writer in zip(statuses, _new_writers(statuses), strict=True):
        root, summary = status.root, status.root.summary
        table.row(
            str(root.number),
            output.moment(root.created_ns),
            str(summary.file_count),
            output.size(summary.size_bytes),
            output.size(summary.new_bytes),
            output.size(summary.stored_bytes),
            _proof(status, is_narrow=is_narrow),
            *([] if named is None else [_value(one, root.number, named)]),
            remarks=(*_decided(one, status), _hidden(status), new_writer, *root.notes, *_troubles(root)),
        )
    return table


def _value(one: RunVersions, number: int, named: str) -> str:
    value = one.measured.get(number, {}).get(named)
    return "-" if value is None else f"{value:.6g}"


def _new_writers(statuses: list[ProofStatus]) -> list[str]:
    """Return for each version where it came from, if the version before it came from another place."""
    texts = []
    last: ManifestRoot | None = None
    for root in (status.root for status in statuses):
        is_new = last is not None and last.origin.id != root.origin.id
        moved = last is not None and (last.host, last.directory) != (root.host, root.directory)
        texts.append(f"now from {output.path(root.directory)} on {root.host}" if is_new and moved else "")
        last = root
    return texts


def _decided(one: RunVersions, status: ProofStatus) -> list[str]:
    """Return that a version is pinned or registered, or by what it is forgotten."""
    pin = one.decided.pins.get(status.root.number)
    dropped = one.decided.dropped(status.root.number, status.stored.digest)
    registered = [registered_as(item) for item in one.decided.registered.get(status.root.number, ())]
    return ([] if pin is None else [pinned(pin)]) + registered + ([] if dropped is None else [by_rule(dropped)])


def _hidden(status: ProofStatus) -> str:
    return "" if status.hidden is None else str(status.hidden)


def _troubles(root: ManifestRoot) -> list[str]:
    return [f"{trouble.kind.name.lower()}: {output.path(trouble.path)}" for trouble in root.troubles]


def _proof(status: ProofStatus, *, is_narrow: bool) -> str:
    if status.hidden is not None:
        return "hidden"
    count, broken_count = status.root.summary.checkpoint_count, status.broken_count
    if not count:
        return "-"
    broken = f"{broken_count} broken" if broken_count else ""
    if count == broken_count:
        return broken
    if is_narrow and status.is_pending:
        reached = f"L{status.lowest_level} pending"
    else:
        pending = status.root.required_level if status.is_pending else None
        reached = output.level(status.lowest_level, status.device, pending)
    return f"{reached}, {broken}" if broken else reached
