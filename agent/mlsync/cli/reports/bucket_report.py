"""How a plan for a bucket looks, what became of it, and what a bucket is set to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlsync.cli.terminal import output

if TYPE_CHECKING:
    from mlsync.bucket.apply import BucketApplied
    from mlsync.bucket.facts import BucketFacts
    from mlsync.bucket.plan import Seen
    from mlsync.bucket.providers import Provider
    from mlsync.bucket.steps import BucketPlan, BucketStep

_NAME_CHARS = 14


def print_plan(seen: Seen, plan: BucketPlan, *, quiet: bool) -> None:
    """Print each step under its bucket; *quiet* leaves out what stays."""
    places = {seen.first.bucket: f"bucket {seen.first.bucket}{_in(seen.region)} ({seen.provider.name})"}
    if seen.second is not None:
        places[seen.second.bucket] = f"second bucket {seen.second.bucket}{_in(seen.second_region)}"
    places[""] = "the account"
    is_first = True
    for bucket, heading in places.items():
        steps = [step for step in plan.steps if step.bucket == bucket and (step.is_open or not quiet)]
        if not steps:
            continue
        if not is_first:
            output.say()
        is_first = False
        output.say_wrapped(heading)
        for step in steps:
            _print_step(step, quiet=quiet)
    if plan.notes and not (quiet and not plan.changes):
        output.say()
        for note in plan.notes:
            output.say_wrapped(f"note: {note}", rest="      ")
    if not is_first:
        output.say()


def print_done(applied: BucketApplied | None, after: BucketPlan, *, quiet: bool) -> None:
    """Print what failed, and whether all holds."""
    if applied is not None:
        for step in applied.lacking:
            output.say_wrapped(f"left out: {_where(step)}: the server has none", rest="          ")
        for step, why in applied.failed:
            output.say_wrapped(f"failed: {_where(step)}: {why}", rest="        ")
        came_back = [step for step in after.changes if step.name not in {one.name for one, _ in applied.failed}]
        for step in came_back:
            output.say_wrapped(f"did not hold: {_where(step)}: {step.lines[0].text}", rest="              ")
    if quiet:
        return
    if applied is None:
        output.say("Nothing to change." if not after.open else "Nothing that mlsync can change.")
    elif not applied.failed and not after.changes:
        output.say_wrapped(f"{output.count(len(applied.done), 'setting')} changed. All of it was read back, and holds.")
    else:
        output.say_wrapped(f"{output.count(len(applied.done), 'setting')} changed, {len(applied.failed)} failed.")


def print_shown(facts: BucketFacts, provider: Provider) -> None:
    """Print what a bucket is set to."""
    from mlsync.bucket.shown import shown

    output.say_wrapped(f"bucket {facts.bucket}{_in(facts.region)} ({provider.name})")
    before = ""
    for setting, text in shown(facts):
        name = setting.value if setting.value != before else ""
        before = setting.value
        output.say_wrapped(f"  {name:<{_NAME_CHARS}}  {text}", rest=" " * (_NAME_CHARS + 6))


def _print_step(step: BucketStep, *, quiet: bool) -> None:
    name = step.name
    for line in step.lines:
        if quiet and line.mark.value == "=":
            continue
        output.say_wrapped(f"  {line.mark.value} {name:<{_NAME_CHARS}}  {line.text}", rest=" " * (_NAME_CHARS + 8))
        name = ""


def _where(step: BucketStep) -> str:
    return f"{step.name} of {step.bucket}" if step.bucket else step.name


def _in(region: str | None) -> str:
    return f" in {region}" if region else ""
