"""What ``mlsync key reseal`` and ``mlsync key rotate --reseal`` ask and print."""

from __future__ import annotations

import time

from mlsync.cli.arguments.options import Common
from mlsync.cli.arguments.stopping import stopping
from mlsync.cli.terminal import output
from mlsync.errors import ProblemsFound, Stopped
from mlsync.monitor import Monitor
from mlsync.repository import names
from mlsync.repository.repository import Repository
from mlsync.upkeep.compaction import Compacted
from mlsync.upkeep.resealing import ResealingPlan, reseal

_SHOWN_MAX = 20


def cost(planned: ResealingPlan) -> str:
    """Return what it moves, reads and writes, as a sentence without its end."""
    packs = planned.packs
    return (
        f"{output.count(len(packs.packs), 'pack')} under older keys to move: about {output.size(packs.read_bytes)} "
        f"to read and {output.size(packs.written_bytes)} to write"
    )


def is_nothing(planned: ResealingPlan) -> bool:
    """Return whether there is nothing to do."""
    return not (planned.packs.packs or planned.packs.unburied)


def carry_out(repository: Repository, planned: ResealingPlan, monitor: Monitor) -> Compacted:
    """Move the packs; the first Ctrl-C stops it between two of them."""
    try:
        with stopping() as stop:
            return reseal(repository, planned, monitor, now_ns=time.time_ns(), stop=stop.is_set)
    except Stopped as error:
        raise Stopped(error.what, advice="mlsync key reseal goes on from there") from error


def print_plan(planned: ResealingPlan, *, epoch: int) -> None:
    """Print what would be moved, and what was moved before."""
    if is_nothing(planned):
        output.say_wrapped(f"nothing to move: what versions need lies in packs of epoch {epoch}")
    else:
        output.say_wrapped(cost(planned))
        output.say_wrapped("the store holds both until old packs are deleted")
    if planned.later:
        packs = f"{output.count(len(planned.later), 'pack')} ({output.size(sum(planned.later.values()))})"
        output.say_wrapped(f"{packs} more stay under older keys until mlsync key reseal is given again")
    if planned.waiting:
        packs = f"{output.count(len(planned.waiting), 'pack')} ({output.size(sum(planned.waiting.values()))})"
        output.say_wrapped(f"{packs} moved before: mlsync prune deletes them after its grace period")


def print_done(done: Compacted) -> None:
    """Print what was moved, and what is to be done next."""
    output.say_wrapped(
        f"{output.count(len(done.moved), 'pack')} moved to {output.count(done.new_pack_count, 'new one')}, "
        f"{output.size(done.read_bytes)} read, {output.size(done.written_bytes)} written"
    )
    if done.moved:
        output.say_wrapped(
            "The old packs are still there, under the old key: mlsync prune deletes them once its grace period is over."
            " Manifests of older versions stay under the old key; docs/keys.md says what that shows."
        )


def reasons(planned: ResealingPlan, done: Compacted) -> dict[str, str]:
    """Return the names of packs that stay under an older key, and why."""
    stuck = dict.fromkeys(planned.stuck, "it was moved as often as readers follow; it goes with the versions in it")
    return {names.pack(pack_id): why for pack_id, why in (stuck | done.left).items()}


def refuse_left(common: Common, planned: ResealingPlan, done: Compacted) -> None:
    """Name the packs that stay under an older key, and raise ``ProblemsFound`` if there are any."""
    left = reasons(planned, done)
    for key, why in list(left.items())[:_SHOWN_MAX]:
        if not common.as_json:
            output.say_wrapped(f"{key}: stays: {why}")
    if left:
        what = f"{output.count(len(left), 'pack')} that versions need could not be moved, and stay under an older key"
        raise ProblemsFound(what, advice="mlsync check --read-data says what is damaged")
