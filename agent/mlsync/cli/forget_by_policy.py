"""``mlsync forget`` without numbers: what the policy of the configuration, or of ``--keep``, leaves of each run."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import click

from mlsync.cli.arguments.options import Common
from mlsync.cli.reports.json import forget_by_policy_json
from mlsync.cli.terminal import output
from mlsync.cli.terminal.table import TextTable
from mlsync.config.model import Config, RetentionSettings
from mlsync.errors import ConfigInvalid, Error, PolicyRefused, RemovalRefused
from mlsync.repository.ahead import ahead
from mlsync.repository.history.decisions import By
from mlsync.repository.listing import run_names
from mlsync.repository.repository import Repository
from mlsync.retention.limit import refuse_too_many
from mlsync.retention.policy import KeepPolicy
from mlsync.retention.rules import Rule
from mlsync.source.paths import natural
from mlsync.upkeep.forget import forget
from mlsync.upkeep.retained import Retained, retained
from mlsync.versions.select import find_run

_RANGES_MAX = 5
_NO_POLICY = "nothing says which versions to keep"
_NO_POLICY_ADVICE = "set keep under [retention], or give --keep RULE; without a policy all versions stay"


@dataclass(frozen=True, slots=True)
class PolicyChoice:
    """What the command line says of the policy: rules instead of those of the configuration, and a confirmed number."""

    keep: tuple[Rule, ...] = ()
    confirmed_count: int | None = None
    dry_run: bool = False
    yes: bool = False


@dataclass(slots=True)
class Applied:
    """What the policies of several runs say, and why one could not be applied, or carried out."""

    found: list[tuple[Retained, RetentionSettings]] = field(default_factory=list)
    without_policy: list[str] = field(default_factory=list)
    refused: list[tuple[str, Error]] = field(default_factory=list)

    @property
    def removed_count(self) -> int:
        """How many versions would be removed of all these runs."""
        return sum(len(one.evaluation.removed) for one, _ in self.found)


def forget_by_policy(
    common: Common, config: Config, repository: Repository, run: str | None, choice: PolicyChoice
) -> None:
    """Forget what no rule keeps, of one run or of all; raise the first error once the other runs are done."""
    by = By.here()
    applied = _applied(config, repository, run, choice, by)
    if not common.as_json and not common.quiet:
        _print(applied, is_dry_run=choice.dry_run)
    fault = _fault(applied, choice)
    is_done = False
    if fault is None and applied.removed_count and not choice.dry_run:
        if not choice.yes and choice.confirmed_count is None:
            _confirm(applied.removed_count, as_json=common.as_json)
        applied = _carried_out(repository, applied, by)
        is_done = True
    if common.as_json:
        common.emit(forget_by_policy_json(applied.found, applied.refused, is_dry_run=choice.dry_run, is_done=is_done))
    elif not common.quiet:
        _close(applied, fault, choice, is_done=is_done)
    if applied.refused:
        raise applied.refused[0][1]
    if fault is not None and not choice.dry_run:
        raise fault


def _applied(config: Config, repository: Repository, run: str | None, choice: PolicyChoice, by: By) -> Applied:
    names = [find_run(repository, run)] if run else sorted(run_names(repository), key=lambda one: natural(one.encode()))
    if not names:
        repository.refuse_unreadable()
    applied = Applied()
    policies: dict[str, tuple[KeepPolicy, RetentionSettings]] = {}
    for name in names:
        settings = config.retention_of(name)
        rules = choice.keep or settings.keep
        if rules:
            policies[name] = KeepPolicy(rules, settings.floor, settings.grace_s), settings
        else:
            applied.without_policy.append(name)

    def judged(name: str) -> Retained:
        return retained(repository, name, policies[name][0], by.now_ns, with_all_reasons=choice.dry_run)

    for name, result in ahead(judged, policies):
        try:
            applied.found.append((result(), policies[name][1]))
        except PolicyRefused as error:
            applied.refused.append((name, error))
    if len(applied.without_policy) == len(names):
        which = f"of run {names[0]!r}" if len(names) == 1 else "of any run"
        raise ConfigInvalid(f"{_NO_POLICY} {which}", advice=_NO_POLICY_ADVICE)
    return applied


def _fault(applied: Applied, choice: PolicyChoice) -> RemovalRefused | None:
    """Return why so many versions may not be removed, if they may not."""
    try:
        limits = [(one.evaluation, settings.max_remove) for one, settings in applied.found]
        refuse_too_many(limits, choice.confirmed_count)
    except RemovalRefused as error:
        return error
    return None


def _carried_out(repository: Repository, applied: Applied, by: By) -> Applied:
    """Forget what no rule keeps of each run, and return what was done: a run that fails stops no other one."""
    done: list[tuple[Retained, RetentionSettings]] = []
    refused = list(applied.refused)
    with ahead(lambda found: _forget(repository, found[0], by), applied.found) as forgetting:
        for (one, settings), result in forgetting:
            try:
                result()
            except Error as error:
                refused.append((one.evaluation.run, error))
            else:
                done.append((one, settings))
    return Applied(done, applied.without_policy, refused)


def _forget(repository: Repository, one: Retained, by: By) -> None:
    """Forget what no rule keeps of a run; what was pinned meanwhile refuses all of it."""
    rule = f"the policy {one.evaluation.policy_text}"
    items = [(number, rule) for number in one.evaluation.removed]
    if items:
        forget(repository, one.evaluation.run, items, by, known=one.known)


def _print(applied: Applied, *, is_dry_run: bool) -> None:
    """Print what goes and, in a dry run, what stays and why."""
    shown = [one for one, _ in applied.found if one.evaluation.judged and (is_dry_run or one.evaluation.removed)]
    for place, one in enumerate(shown):
        if place:
            output.say()
        evaluation = one.evaluation
        output.say_wrapped(f"{evaluation.run}: {_counts(len(evaluation.removed), evaluation.there_count)}")
        output.print_table(_table(one, with_kept=is_dry_run))
        if is_dry_run:
            output.say()
            rows = [(rule.text, str(rule.seen_count), str(rule.kept_count)) for rule in evaluation.rules]
            output.table(("RULE", "SAW", "KEEPS"), rows, right=(1, 2))


def _counts(removed_count: int, there_count: int) -> str:
    return f"{removed_count} of {output.count(there_count, 'version')} would be forgotten"


def _table(one: Retained, *, with_kept: bool) -> TextTable:
    judged = [item for item in one.evaluation.judged if with_kept or not item.is_kept]
    zone = output.zone(item.version.made_ns for item in judged)
    table = TextTable(("VERSION", f"MADE ({zone})", "STORED", "PROOF", "WHAT"), (0, 2), "; ")
    for item in judged:
        version, summary = item.version, one.roots[item.version.number].summary
        table.row(
            str(version.number),
            output.moment(version.made_ns),
            output.size(summary.stored_bytes),
            "broken" if version.is_broken else f"L{version.level}" if summary.checkpoint_count else "-",
            "keep" if item.is_kept else "forget",
            remarks=item.reasons,
        )
    return table


def _close(applied: Applied, fault: RemovalRefused | None, choice: PolicyChoice, *, is_done: bool) -> None:
    """Print how it ended, run by run."""
    for name in applied.without_policy:
        output.say_wrapped(f"{name}: all versions stay: {_NO_POLICY}")
    # The first one ends the command, and is told there.
    for name, error in applied.refused[1:]:
        output.say_wrapped(f"{name}: nothing is forgotten: {error}")
    for one, _ in applied.found:
        evaluation = one.evaluation
        count = output.count(len(evaluation.removed), "version")
        if not evaluation.removed:
            there = output.count(evaluation.there_count, "version")
            output.say_wrapped(f"{evaluation.run}: nothing to forget: {there} kept")
        elif is_done:
            output.say_wrapped(
                f"{evaluation.run}: {count} forgotten; to bring back: "
                f"mlsync unforget --run {shlex.quote(evaluation.run)} {_ranges(evaluation.removed)}"
            )
    if choice.dry_run and fault is not None:
        output.say_wrapped(f"without --dry-run, this would be refused: {fault}")


def _ranges(numbers: Sequence[int]) -> str:
    """Return rising numbers as a command takes them: ranges where they follow each other, and a few of all."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    named = [str(first) if first == last else f"{first}-{last}" for first, last in ranges[:_RANGES_MAX]]
    return " ".join(named) + (" …" if len(ranges) > _RANGES_MAX else "")


def _confirm(number: int, *, as_json: bool) -> None:
    if as_json or not sys.stdin.isatty():
        what = "nothing was forgotten: there is no terminal to ask on"
        raise RemovalRefused(what, advice="--yes forgets without asking")
    if not click.confirm(f"Forget {output.count(number, 'version')}?", err=True):
        raise RemovalRefused("nothing was forgotten", advice="--dry-run only shows what would be")
