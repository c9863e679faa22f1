"""How a run is evaluated, by the configuration and by what a command line adds to it."""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mlsync.app.flow_options import LOADING_DIRECTORY, clear_leftovers, environment_of
from mlsync.app.proof_user import evaluates_as
from mlsync.app.session import Session
from mlsync.config.model import Config, EvaluateSettings
from mlsync.errors import ConfigInvalid, Error, Stopped
from mlsync.monitor import Monitor
from mlsync.repository.evaluation import newest_numbers
from mlsync.repository.repository import StoredVersion

if TYPE_CHECKING:
    from mlsync.proving.evaluate import EvaluationOptions

_ULTRALYTICS = "ultralytics"


def settings_of(
    config: Config, run: str, *, command: tuple[str, ...] = (), builtin: str | None = None, **given: object
) -> EvaluateSettings:
    """Return how a run is evaluated: as is *given*, as its ``[[watch]]`` says, or as is said for all runs."""
    settings = config.evaluate_of(run)
    if command or builtin:
        settings = dataclasses.replace(settings, command=command, builtin=builtin, label=None)
    said = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(settings, **said)  # type: ignore[arg-type]  # fields of it, by name


def evaluation_options(
    config: Config, run: str, settings: EvaluateSettings, state_directory: Path
) -> EvaluationOptions:
    """Return what measures the checkpoints of a run; raise ``ConfigInvalid`` if nothing is there that does."""
    from mlsync.proof.running import As
    from mlsync.proving.evaluate import (  # late, with all parsers
        EvaluationOptions,
        clean_label,
        label_of,
        ultralytics_words,
    )

    if not settings.measures:
        advice = 'set command = ["python", "evaluate.py", "{checkpoint}"] under [evaluate], or say --command'
        raise ConfigInvalid(f"nothing is there that evaluates run {run!r}", advice=advice)
    device = settings.device or config.proof.device
    words, identity = settings.command, settings.command
    label = clean_label(settings.label or settings.builtin or label_of(words))
    if settings.builtin == _ULTRALYTICS:
        python = settings.python or config.proof.python
        words, identity = ultralytics_words(sys.executable if python is None else str(python)), (_ULTRALYTICS,)
    runs = evaluates_as(config, run, settings)
    return EvaluationOptions(
        label=label,
        words=words,
        identity=identity,
        directory=state_directory / LOADING_DIRECTORY,
        path=settings.path,
        device="auto" if device == "none" else device,
        environment=environment_of(settings.environment, os.environ),
        timeout_s=settings.timeout_s,
        # As at level 5: code in a user's checkpoint would get root's rights.
        who=As(runs.user, runs.may_be_root and runs.is_roots, runs.as_root),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class ChosenEvaluation:
    """What became of a version that may be evaluated: no *numbers* if it was not chosen.

    *is_new* unless it had been evaluated before. *tells_nothing*: nothing tells whether the version is a best one.
    """

    numbers: Mapping[str, float] = dataclasses.field(default_factory=dict)
    label: str = ""
    notes: tuple[str, ...] = ()
    is_new: bool = False
    tells_nothing: bool = False


def evaluate_chosen(
    session: Session,
    run: str,
    number: int,
    monitor: Monitor,
    stop: threading.Event,
    *,
    previous: int | None,
    fitness_before: float | None,
) -> ChosenEvaluation:
    """Evaluate a version, unless the same command did before, or it is to be a best one and is none.

    *previous* is the last version with a checkpoint before it, *fitness_before* the highest known fitness of all.
    """
    from mlsync.proving.best_so_far import is_best_so_far  # late, as above
    from mlsync.proving.evaluate import evaluate

    repository, settings = session.repository, session.config.evaluate_of(run)
    clear_leftovers(session.state_directory)
    stored = repository.stored(run, number)
    options = evaluation_options(session.config, run, settings, session.state_directory)
    before = repository.evaluations(stored)
    if any(one.command == options.digest for one in before):
        return ChosenEvaluation(newest_numbers(before), options.label)
    if settings.on == "best":
        is_best = is_best_so_far(repository, stored, previous, fitness_before)
        if not is_best:
            return ChosenEvaluation(tells_nothing=is_best is None)

    def tick() -> None:
        if stop.is_set():
            raise Stopped(f"{run}: stopped while evaluating version {number}")

    done = evaluate(repository, stored, options, monitor, tick=tick)
    return ChosenEvaluation(done.evaluation.by_name, options.label, done.notes, is_new=True)


def evaluate_registered(
    session: Session, stored: StoredVersion, monitor: Monitor, tick: Callable[[], None] = lambda: None
) -> None:
    """Evaluate a version that is about to be registered, if that is wanted and was not done; a failure is told."""
    from mlsync.proving.evaluate import evaluate  # late, as above

    run, repository = stored.root.run, session.repository
    settings = session.config.evaluate_of(run)
    if settings.on != "registered" or not settings.measures:
        return
    try:
        options = evaluation_options(session.config, run, settings, session.state_directory)
        if not any(one.command == options.digest for one in repository.evaluations(stored)):
            evaluate(repository, stored, options, monitor, tick=tick)
    except Stopped:
        raise
    except Error as error:
        monitor.notice("warning", f"{run}: version {stored.root.number} is not evaluated: {error}")
