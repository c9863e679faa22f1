"""Register versions by the configuration, as the agent asks for it: what can wait stays, and what never can is told."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from mlsync.app.evaluating import evaluate_registered
from mlsync.app.models import model_of, registry_of
from mlsync.app.session import Session
from mlsync.errors import (
    CheckpointBroken,
    ConfigInvalid,
    NotProvedYet,
    PathMissing,
    RegistryError,
    RunMissing,
    Stopped,
    VersionMissing,
)
from mlsync.monitor import Monitor
from mlsync.publish.chosen import as_path
from mlsync.publish.register import RegisterOptions, RegisterResult, best_unless_registered, register
from mlsync.registry.mlflow import Registry

# Nothing of these gets better by itself: the version, or the configuration, is as it is.
_FOR_GOOD = (CheckpointBroken, ConfigInvalid, NotProvedYet, PathMissing, RunMissing, VersionMissing)


@dataclass(slots=True)
class Registering:
    """What became of versions that were to be registered: *left* are to be tried again, and *dropped* never are."""

    done: list[RegisterResult] = field(default_factory=list)
    left: list[tuple[str, int]] = field(default_factory=list)
    dropped: list[tuple[str, int, str]] = field(default_factory=list)
    failure: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "done": [
                {
                    "run": one.run,
                    "version": one.version,
                    "model": one.model,
                    "number": one.number,
                    "aliases": list(one.aliases),
                    "is_new": one.is_new,
                }
                for one in self.done
            ],
            "left": [list(one) for one in self.left],
            "dropped": [list(one) for one in self.dropped],
            "failure": self.failure,
        }


def register_wanted(
    session: Session, wanted: Iterable[tuple[str, int]], monitor: Monitor, stop: threading.Event
) -> Registering:
    """Register versions, by run and number, in this order; the number 0 is the best version of the run by now.

    After a registry that is away, or refuses, the rest is left: its words would be the same. What fails by itself does
    not keep the others. Raises what the store raises.
    """
    found, left = Registering(), list(wanted)
    try:
        registry = registry_of(session.config.mlflow, monitor)
        while left:
            run, number = left[0]
            try:
                _register(session, registry, (run, number), monitor, stop, found)
            except _FOR_GOOD as error:
                found.dropped.append((run, number, str(error)))
            del left[0]
    except (RegistryError, ConfigInvalid) as error:
        found.failure = str(error)
    except Stopped:
        pass
    found.left = left
    return found


def _register(
    session: Session,
    registry: Registry,
    wanted: tuple[str, int],
    monitor: Monitor,
    stop: threading.Event,
    found: Registering,
) -> None:
    run, number = wanted
    repository, settings = session.repository, session.config.mlflow
    model = model_of(session.config, run)
    if number == 0:
        best = best_unless_registered(
            repository, run, (registry.place, model), as_path(settings.path), session.config.evaluate_of(run).best_by
        )
        if best is None:
            # Who moved the alias elsewhere since meant it.
            return
        number = best

    def refuse_stopped() -> None:
        if stop.is_set():
            raise Stopped("nothing was registered")

    refuse_stopped()
    options = RegisterOptions(
        model, session.config.repository, settings.alias, as_path(settings.path), stop=refuse_stopped
    )
    stored = repository.stored(run, number)
    evaluate_registered(session, stored, monitor, refuse_stopped)
    found.done.append(register(repository, registry, stored, options, monitor))
