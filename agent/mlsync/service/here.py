"""The watched runs as this machine knows them, without a passphrase and without a look into the repository."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlsync.app.session import known_versions
from mlsync.config.model import Config
from mlsync.service.status import AgentSeen


@dataclass(frozen=True, slots=True)
class RunHere:
    """A watched run; *is_proved* is ``None`` if that is not known here."""

    run: str
    directory: Path
    version: int | None = None
    made_s: float | None = None
    is_proved: bool | None = None
    problems: tuple[str, ...] = ()


def runs_here(config: Config, agent: AgentSeen | None) -> Iterator[RunHere]:
    """Yield the watched runs, with the newer of what the agent and the last backup noted."""
    made = known_versions(config)
    seen = {} if agent is None else {run.run: run for run in agent.runs}
    for watch in config.watches:
        known, told = made.get(watch.run), seen.get(watch.run)
        problems = () if told is None else (*([told.last_error] if told.last_error else ()), *told.troubles)
        if told is not None and told.last_version and (known is None or told.last_version >= known.number):
            proved = told.last_proved_version == told.last_version
            yield RunHere(watch.run, watch.directory, told.last_version, told.last_version_s, proved, problems)
        elif known is not None:
            made_s = known.created_ns / 1e9 or None
            yield RunHere(watch.run, watch.directory, known.number, made_s, problems=problems)
        else:
            yield RunHere(watch.run, watch.directory, problems=problems)
