"""Ask the running agents of a repository for passes now, and wait until they have ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote

from mlsync import errors
from mlsync.errors import AgentAway, Error, RunMissing
from mlsync.service.talk.client import AgentAt, agents

_NO_AGENT: Final = "no agent keeps watch over this repository here"
_ADVICE: Final = "mlsync agent, or the service, starts one; without it: mlsync backup"
_POLL_S: Final = 0.25
_OK: Final = 200
_ACCEPTED: Final = 202


@dataclass(frozen=True, slots=True)
class AskedPass:
    """A pass over a run that an agent was asked for, as far as it is: see ``AskedPasses``.

    *stored_version* holds what the pass found, whether it made the version or not, and has reached *level* by now;
    *is_pending* if its proof is still to come.
    """

    agent: AgentAt
    id: int
    run: str
    has_ended: bool
    version: int | None
    is_proved: bool
    summary: str | None
    troubles: tuple[str, ...]
    error: Error | None
    stored_version: int | None = None
    level: int | None = None
    is_pending: bool | None = None
    kept_out: tuple[str, ...] = ()

    @classmethod
    def of_json(cls, agent: AgentAt, one: dict[str, Any]) -> Self:
        """Return what an agent says of a pass; raise ``AgentAway`` if it makes no sense."""
        try:
            version = None if one["version"] is None else int(one["version"])
            summary = None if one["summary"] is None else str(one["summary"])
            troubles, error = tuple(map(str, one["troubles"])), None if one["error"] is None else _error(one["error"])
            number, run = int(one["id"]), str(one["run"])
            # An agent that was started before an update does not say these.
            stored, level = (None if one.get(key) is None else int(one[key]) for key in ("stored_version", "level"))
            has_ended, is_proved = bool(one["has_ended"]), bool(one["is_proved"])
            is_pending = None if one.get("is_pending") is None else bool(one["is_pending"])
            kept_out = tuple(map(str, one.get("kept_out", ())))
            return cls(
                agent,
                number,
                run,
                has_ended,
                version,
                is_proved,
                summary,
                troubles,
                error,
                stored,
                level,
                is_pending,
                kept_out,
            )
        except (KeyError, TypeError, ValueError) as fault:
            raise AgentAway("the agent's answer makes no sense", where=str(agent.path)) from fault


def ask_for_passes(
    state_directory: Path, repository: str, runs: Sequence[str], *, within_s: float | None = None
) -> list[AskedPass]:
    """Ask for a pass over each of *runs*, or over all that agents of *repository* here keep watch over.

    With *within_s* they are told that the machine ends then.

    Raises ``AgentAway`` if there is no such agent, and ``RunMissing`` if none keeps one of the runs; nothing was asked
    for then.
    """
    kept = dict(_kept(state_directory, repository))
    if not kept:
        raise AgentAway(_NO_AGENT, where=str(state_directory), advice=_ADVICE)
    for run in runs:
        if not any(run in names for names in kept.values()):
            known = ", ".join(sorted({name for names in kept.values() for name in names}))
            raise RunMissing(f"no agent here keeps watch over run {run!r}", advice=f"it keeps: {known}")
    asked: list[AskedPass] = []
    for agent, names in kept.items():
        wanted = [name for name in names if name in runs or not runs]
        query = "&".join(f"run={quote(name, safe='')}" for name in wanted)
        if within_s is not None:
            query += f"&preempt=1&within={within_s:.3f}"
        if wanted:
            asked += passes_in(agent, agent.ask(f"/backup?{query}", method="POST").status_checked(_ACCEPTED, agent))
    return asked


def wait_for_passes(
    asked: Sequence[AskedPass],
    stop: Callable[[], bool],
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[AskedPass]:
    """Yield each pass once it has ended; those that have not when *stop* says so are left out.

    Raises ``AgentAway`` if an agent ends or forgets a pass before.
    """
    left = list(asked)
    while left and not stop():
        for agent in {one.agent: None for one in left}:
            ids = [one.id for one in left if one.agent is agent]
            target = "/passes?" + "&".join(f"id={number}" for number in ids)
            now = passes_in(agent, agent.ask(target).status_checked(_OK, agent))
            if [one.id for one in now] != ids:
                raise AgentAway("the agent does not know the pass any more", where=str(agent.path))
            ended = [one for one in now if one.has_ended]
            yield from ended
            done = {one.id for one in ended}
            left = [one for one in left if one.agent is not agent or one.id not in done]
        if left:
            sleep(_POLL_S)


def _kept(state_directory: Path, repository: str) -> Iterator[tuple[AgentAt, tuple[str, ...]]]:
    """Yield each agent of the repository that answers, with the runs that it keeps watch over."""
    for agent in agents(state_directory):
        try:
            about = agent.ask("/status").status_checked(_OK, agent)
        except AgentAway:
            continue  # a socket that an agent left behind
        if isinstance(about, dict) and about.get("repository") == repository:
            yield agent, tuple(str(run["run"]) for run in about["runs"])


def passes_in(agent: AgentAt, answer: Any) -> list[AskedPass]:
    """Return the passes of which an agent's answer tells; raise ``AgentAway`` if it makes no sense."""
    passes = answer.get("passes") if isinstance(answer, dict) else None
    if not isinstance(passes, list):
        raise AgentAway("the agent's answer makes no sense", where=str(agent.path))
    return [AskedPass.of_json(agent, one) for one in passes]


def _error(one: dict[str, Any]) -> Error:
    """Return an error as the agent met it."""
    kind = getattr(errors, str(one["kind"]), Error)
    if not (isinstance(kind, type) and issubclass(kind, Error)):
        kind = Error
    where, advice = one["where"], one["advice"]
    return kind(str(one["what"]), where=where and str(where), advice=advice and str(advice))
