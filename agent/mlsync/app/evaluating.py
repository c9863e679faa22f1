"""How a run is evaluated, by the configuration and by what a command line adds to it."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mlsync.app.flow_options import LOADING_DIRECTORY, environment_of
from mlsync.app.proof_user import evaluates_as
from mlsync.config.model import Config, EvaluateSettings
from mlsync.errors import ConfigInvalid

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
    from mlsync.proving.evaluate import EvaluationOptions, label_of, ultralytics_words  # late, with all parsers

    if not settings.measures:
        advice = 'set command = ["python", "evaluate.py", "{checkpoint}"] under [evaluate], or say --command'
        raise ConfigInvalid(f"nothing is there that evaluates run {run!r}", advice=advice)
    device = settings.device or config.proof.device
    words, identity = settings.command, settings.command
    label = settings.label or (settings.builtin or label_of(words))
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
