"""The agent's metrics in the text format of Prometheus, written by hand: its library would cost an idle agent 9 MiB."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import mlsync
from mlsync.service.replaced_file import replace_file
from mlsync.service.status import RunStatus

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
# The exporter that reads the file is another user, and nothing in it is a secret.
_FILE_MODE: Final = 0o644


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric of each run; *value* returns ``None`` where nothing is known, and no sample is shown then."""

    name: str
    kind: str
    about: str
    value: Callable[[RunStatus], float | None]


RUN_METRICS: Final = (
    Metric("mlsync_run_last_version", "gauge", "Number of the last version.", lambda run: run.state.last_version),
    Metric(
        "mlsync_run_last_version_timestamp_seconds",
        "gauge",
        "When the last version was made.",
        lambda run: run.state.last_version_s,
    ),
    Metric(
        "mlsync_run_last_proved_timestamp_seconds",
        "gauge",
        "When the last version was proved.",
        lambda run: run.state.last_proved_s,
    ),
    Metric(
        "mlsync_run_proved_until_timestamp_seconds",
        "gauge",
        "Everything that the directory held then is in a proved version.",
        lambda run: run.record.proved_until_s,
    ),
    Metric(
        "mlsync_run_unproved_seconds",
        "gauge",
        "Seconds of training that are in no proved version yet.",
        lambda run: run.unproved_s,
    ),
    Metric(
        "mlsync_run_safe_until_timestamp_seconds",
        "gauge",
        "Everything that the directory held then is safe: proved, and in a mirror if safe under [agent] says so.",
        lambda run: run.safe_until_s,
    ),
    Metric(
        "mlsync_run_unsafe_seconds",
        "gauge",
        "Seconds of training that are not safe yet.",
        lambda run: run.unsafe_s,
    ),
    Metric(
        "mlsync_run_lag_seconds",
        "gauge",
        "By how much the newest stored checkpoint is older than the newest one that was seen.",
        lambda run: run.lag_s,
    ),
    Metric(
        "mlsync_run_proof_lag_seconds",
        "gauge",
        "By how much the newest proved checkpoint is older than the newest one that was seen.",
        lambda run: run.proof_lag_s,
    ),
    Metric("mlsync_run_failures", "gauge", "Failed passes in a row.", lambda run: run.state.failures),
    Metric(
        "mlsync_run_silent_seconds",
        "gauge",
        "For how long the pass under way made no progress; 0 while none runs.",
        lambda run: run.silent_s or 0.0,
    ),
    Metric(
        "mlsync_run_no_checkpoint_seconds",
        "gauge",
        "The age of the newest checkpoint, if that is far above the usual interval; else 0.",
        lambda run: run.no_checkpoint_s or 0.0,
    ),
    Metric(
        "mlsync_run_store_waiting",
        "gauge",
        "1 while a request to the store failed and is made again.",
        lambda run: bool(run.waits),
    ),
    Metric(
        "mlsync_run_troubles",
        "gauge",
        "Files whose content in the last version is not that of the directory.",
        lambda run: len(run.state.troubles),
    ),
    Metric(
        "mlsync_run_hidden_proofs",
        "gauge",
        "Versions of which later proofs are missing.",
        lambda run: len(run.hidden),
    ),
    Metric("mlsync_run_passes_total", "counter", "Passes that went through.", lambda run: run.record.counts.passed),
    Metric("mlsync_run_pass_failures_total", "counter", "Passes that failed.", lambda run: run.record.counts.failed),
    Metric(
        "mlsync_run_pass_seconds_total",
        "counter",
        "Time that passes took which went through.",
        lambda run: run.record.counts.seconds,
    ),
    Metric("mlsync_run_versions_total", "counter", "Versions made.", lambda run: run.record.counts.versions),
    Metric(
        "mlsync_run_new_bytes_total",
        "counter",
        "Content that the repository did not have.",
        lambda run: run.record.counts.new_bytes,
    ),
    Metric(
        "mlsync_run_stored_bytes_total",
        "counter",
        "What the repository grew by.",
        lambda run: run.record.counts.stored_bytes,
    ),
    Metric(
        "mlsync_run_store_retries_total",
        "counter",
        "Requests to the store that were made again.",
        lambda run: run.heartbeat.retry_count,
    ),
    Metric(
        "mlsync_run_missed_saves_total",
        "counter",
        "Finished checkpoints that the trainer deleted before a pass could read them.",
        lambda run: run.state.missed_saves,
    ),
)


# Of each channel that is told of events: the field of its state, and what is shown of it.
_CHANNEL_METRICS: Final = (
    ("sent", "mlsync_notify_events_total", "counter", "Events that the channel took."),
    ("failed", "mlsync_notify_failures_total", "counter", "Notices that failed; each is tried again."),
    ("dropped", "mlsync_notify_dropped_total", "counter", "Events that were never told: too many, or a day old."),
    ("waiting", "mlsync_notify_waiting", "gauge", "Events that wait to be told."),
)


# Of each mirror, and of each run in each mirror.
_MIRROR_METRICS: Final = (
    ("failures", "mlsync_mirror_failures", "gauge", "Failed copies to the mirror in a row."),
    ("copied_versions", "mlsync_mirror_copied_versions_total", "counter", "Versions that were copied to the mirror."),
    ("copied_bytes", "mlsync_mirror_copied_bytes_total", "counter", "Bytes that were copied to the mirror."),
)
_MIRRORED_METRICS: Final = (
    ("behind_versions", "mlsync_mirror_behind_versions", "gauge", "Versions that are to be in the mirror and are not."),
    ("behind_s", "mlsync_mirror_behind_seconds", "gauge", "For how long the mirror lacks a version; 0 if it has all."),
)


def exposition(
    runs: Sequence[RunStatus],
    started_s: float,
    channels: Sequence[Mapping[str, Any]] = (),
    registry: Mapping[str, Any] | None = None,
    mirrors: Sequence[Mapping[str, Any]] = (),
) -> bytes:
    """Return all metrics; counters count since the agent started."""
    info = f'mlsync_agent_info{{version="{_escaped(mlsync.__version__)}",host="{_escaped(socket.gethostname())}"}} 1'
    lines = [
        *_head("mlsync_agent_info", "gauge", "The agent's version and machine."),
        info,
        *_head("mlsync_agent_start_time_seconds", "gauge", "When the agent started."),
        f"mlsync_agent_start_time_seconds {started_s!r}",
        *(line for metric in RUN_METRICS for line in _of_runs(metric, runs)),
        *(line for one in _CHANNEL_METRICS if channels for line in _of_channels(*one, channels)),
        *(() if registry is None else _of_registry(registry)),
        *(line for one in _MIRROR_METRICS if mirrors for line in _of_mirrors(*one, mirrors)),
        *(line for one in _MIRRORED_METRICS if mirrors for line in _of_mirrored_runs(*one, mirrors)),
    ]
    return ("\n".join(lines) + "\n").encode("utf-8", "replace")


def write_metrics(file: Path, content: bytes) -> None:
    """Replace the file for node exporter's textfile collector in one step; raise ``OSError`` if that fails."""
    replace_file(file, content, mode=_FILE_MODE)


def _of_runs(metric: Metric, runs: Sequence[RunStatus]) -> Iterable[str]:
    yield from _head(metric.name, metric.kind, metric.about)
    for run in runs:
        value = metric.value(run)
        if value is not None:
            yield f'{metric.name}{{run="{_escaped(run.run)}"}} {float(value)!r}'


def _of_channels(field: str, name: str, kind: str, about: str, channels: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    yield from _head(name, kind, about)
    for channel in channels:
        yield f'{name}{{channel="{_escaped(channel["name"])}"}} {float(channel[field])!r}'


def _of_registry(registry: Mapping[str, Any]) -> Iterable[str]:
    about = "Versions that wait to be registered in MLflow."
    yield from _head("mlsync_registrations_waiting", "gauge", about)
    yield f"mlsync_registrations_waiting {len(registry['waiting'])}"
    yield from _head("mlsync_registrations_total", "counter", "Versions that were registered in MLflow.")
    yield f"mlsync_registrations_total {registry['registered']}"
    yield from _head("mlsync_registration_failures_total", "counter", "Tries to register versions that failed.")
    yield f"mlsync_registration_failures_total {registry['failed']}"


def _of_mirrors(field: str, name: str, kind: str, about: str, mirrors: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    yield from _head(name, kind, about)
    for mirror in mirrors:
        yield f'{name}{{mirror="{_escaped(mirror["name"])}"}} {float(mirror[field])!r}'


def _of_mirrored_runs(
    field: str, name: str, kind: str, about: str, mirrors: Sequence[Mapping[str, Any]]
) -> Iterable[str]:
    yield from _head(name, kind, about)
    for mirror in mirrors:
        for run in mirror["runs"]:
            labels = f'mirror="{_escaped(mirror["name"])}",run="{_escaped(run["run"])}"'
            yield f"{name}{{{labels}}} {float(run[field] or 0.0)!r}"


def _head(name: str, kind: str, about: str) -> tuple[str, str]:
    return f"# HELP {name} {about}", f"# TYPE {name} {kind}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
