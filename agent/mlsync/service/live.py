"""What the agents say that run on this machine just now, and how old the last proof of each run is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mlsync.config.model import Config
from mlsync.errors import AgentAway, VersionStale
from mlsync.service.status import AgentSeen, safe_s
from mlsync.service.talk.client import agents

_NAMED_MAX: Final = 5


@dataclass(frozen=True, slots=True)
class Live:
    """The answers of the agents that keep runs of the repository, and why one did not answer, if one did not."""

    agents: tuple[Mapping[str, Any], ...] = ()
    problem: str | None = None

    @property
    def runs(self) -> dict[str, Mapping[str, Any]]:
        """What is said of each run, by name."""
        return {str(run["run"]): run for agent in self.agents for run in agent["runs"]}


def live_status(config: Config) -> Live:
    """Ask every agent that has a socket in the state directory; one that is gone is no problem."""
    answers: list[Mapping[str, Any]] = []
    problem = None
    for agent in agents(config.state_directory):
        try:
            answer = agent.ask("/status")
            value = answer.as_json()
            if value["repository"] == config.repository and all("run" in run for run in value["runs"]):
                answers.append(value)
        except AgentAway as error:
            problem = problem if error.is_gone else str(error)
        except (ValueError, KeyError, TypeError):
            problem = f"an agent of another version of mlsync answers: {agent.path}"
    return Live(tuple(answers), problem)


def proved_s(runs: Sequence[str], live: Live, agent: AgentSeen | None) -> dict[str, float | None]:
    """Return for each run the last moment at which all of it was safe, as far as this machine knows.

    Safe is what is in a proved version, or in one that is in a mirror too, as ``safe`` under ``[agent]`` says.
    """
    seen = {} if agent is None else {run.run: run.proved_s for run in agent.runs}
    told = live.runs
    return {run: safe_s(told[run]) if run in told else seen.get(run) for run in runs}


def refuse_stale(proved: Mapping[str, float | None], max_age_s: float, now_s: float) -> None:
    """Raise ``VersionStale`` if a run was last proved more than *max_age_s* ago, or never."""
    stale = {run: at_s for run, at_s in proved.items() if at_s is None or now_s - at_s > max_age_s}
    if not stale:
        return
    texts = [_age(run, at_s, now_s) for run, at_s in sorted(stale.items())]
    more = f", and {len(texts) - _NAMED_MAX} more" if len(texts) > _NAMED_MAX else ""
    what = f"no proved version is as young as {_length(max_age_s)}: {', '.join(texts[:_NAMED_MAX])}{more}"
    raise VersionStale(what)


def _age(run: str, at_s: float | None, now_s: float) -> str:
    return f"{run} never" if at_s is None else f"{run} {_length(now_s - at_s)} ago"


def _length(seconds: float) -> str:
    for unit_s, name in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.0f} {name}"
    return f"{seconds:.0f} s"
