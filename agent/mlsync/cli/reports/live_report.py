"""What a person reads of a run that an agent keeps: what it does, what it waits for, what is at risk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from mlsync.app.forecast import duration
from mlsync.app.wording import count, size
from mlsync.config.units import format_age
from mlsync.service.status import SILENT_S

# Of so few seconds of training nobody wants to read.
_AT_RISK_S: Final = 60.0
_NUMBERS_SHOWN: Final = 3
# Of what ends so soon each second counts.
_SECONDS_S: Final = 300.0


def live_lines(run: Mapping[str, Any], now_s: float) -> Iterator[str]:
    """Yield a line for each thing that is worth one, and at last when the run is looked at again."""
    yield from _work_lines(run, now_s)
    yield from _risk_lines(run)
    if (evaluation := run.get("evaluation")) is not None:
        yield _evaluation_line(evaluation, now_s)
    for error in run.get("errors", ())[-1:]:
        times = f", {error['count']} times" if error["count"] > 1 else ""
        # What is wrong now stands above already.
        said = "" if error["text"] == run.get("last_error") else f": {error['text']}"
        yield f"last error {_ago(error['last_s'], now_s)}{times}{said}"
    if run.get("next_try_s") is not None and run.get("phase") != "running":
        left_s = max(0.0, run["next_try_s"] - now_s)
        span = f"{left_s:.0f} s" if left_s < _AT_RISK_S else duration(left_s)
        why = ", or once a processor is idle: others need all of them (processor_share)" if run.get("rests") else ""
        yield f"looks again in {span}{why}"


def notice_lines(agent: Mapping[str, Any], now_s: float) -> Iterator[str]:
    """Yield a line for each event that a platform has announced to this machine."""
    for notice in agent.get("notices", ()):
        what = f"{notice['platform']} announces: {notice['kind']}"
        if notice["effect"] == "pause":
            yield f"{what}, a pause of seconds"
        elif notice["deadline_s"] is None:
            yield f"{what}; this machine may end soon"
        else:
            left_s = max(0.0, notice["deadline_s"] - now_s)
            yield f"{what}; THIS MACHINE ENDS IN {_span(left_s)}"


def mirror_lines(agent: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each mirror: what it has, how far it is behind, and why it fails."""
    for mirror in agent.get("mirrors", ()):
        behind = [run for run in mirror["runs"] if run["behind_versions"]]
        if mirror["failures"]:
            yield f"mirror {mirror['name']}: fails: {mirror['last_failure']}"
        for run in behind:
            missing = f"{count(run['behind_versions'], 'version')}, {_span(run['behind_s'] or 0.0)} behind"
            has = "no version known there" if run["version"] is None else f"has version {run['version']}"
            yield f"mirror {mirror['name']}: {run['run']}: {has}, {missing}"
        for run in mirror["runs"]:
            if run.get("differing"):
                others = count(run["differing"], "version")
                yield f"mirror {mirror['name']}: {run['run']}: {others} there of the same number, and another one"
            if run.get("ahead"):
                yield f"mirror {mirror['name']}: {run['run']}: {count(run['ahead'], 'version')} only there"
        if not behind and not mirror["failures"]:
            has = ", ".join(f"{run['run']}/{run['version']}" for run in mirror["runs"] if run["version"] is not None)
            yield f"mirror {mirror['name']}: " + (f"has all, {has}" if has else "nothing copied yet")


def channel_lines(agent: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each channel that does not take its notices, and one for a registry that takes no versions."""
    registry = agent.get("registry") or {}
    if registry.get("failures"):
        waiting = count(len(registry["waiting"]), "version")
        yield f"not registered in MLflow yet ({waiting}): {registry['last_failure']}"
    for channel in agent.get("channels", ()):
        if channel["failures"]:
            waiting = f"{channel['waiting']} waiting"
            yield f"notices do not reach {channel['name']} ({waiting}): {channel['last_failure']}"


def _work_lines(run: Mapping[str, Any], now_s: float) -> Iterator[str]:
    silent_s = run.get("silent_s")
    if silent_s is not None and silent_s >= SILENT_S:
        yield f"no progress for {duration(silent_s)}: is its process stopped, or its disk away?"
    if (doing := run.get("doing")) is not None:
        yield f"now: {_doing(doing)}"
        if doing.get("slowed"):
            yield f"slowed: {doing['slowed']}"
    elif run.get("phase") == "running":
        yield "now: a pass begins"
    if run.get("waits"):
        yield f"waits for the {run['waits']}"
    elif (waited := run.get("waited")) is not None:
        yield f"{run['retry_count']} requests to the store were repeated, the last {_ago(waited['last_s'], now_s)}"
    if run.get("missed_saves"):
        yield f"{count(run['missed_saves'], 'checkpoint')} deleted by the trainer before a backup could read them"


def _risk_lines(run: Mapping[str, Any]) -> Iterator[str]:
    lag_s, proof_lag_s = run.get("lag_s") or 0.0, run.get("proof_lag_s") or 0.0
    if lag_s >= 1:
        yield f"the newest checkpoint is not stored yet; the last stored one is {_span(lag_s)} older"
    if proof_lag_s >= max(_AT_RISK_S, lag_s + 1):
        yield f"the last proved checkpoint is {_span(proof_lag_s)} older than the newest"
    unproved_s = run.get("unproved_s")
    if unproved_s is not None and unproved_s >= _AT_RISK_S:
        yield f"not yet proved elsewhere: the last {duration(unproved_s)} of training"
    if run.get("safe") == "mirror":
        unsafe_s = run.get("unsafe_s")
        if unsafe_s is None:
            yield "nothing is known to be safe in a mirror yet"
        elif unsafe_s >= max(_AT_RISK_S, (unproved_s or 0.0) + 1):
            yield f"not yet safe in a mirror: the last {duration(unsafe_s)} of training"
    if run.get("no_checkpoint_s") is not None:
        usual = duration(run["usual_interval_s"])
        yield f"no new checkpoint for {duration(run['no_checkpoint_s'])}, and usually one comes after {usual}"
    if run.get("hidden"):
        numbers = ", ".join(map(str, run["hidden"][:5]))
        yield f"later proofs are missing of version {numbers}; mlsync check names them"


def _evaluation_line(evaluation: Mapping[str, Any], now_s: float) -> str:
    """Return what the last evaluation came to."""
    when = _ago(evaluation["when_s"], now_s)
    if evaluation["error"]:
        return f"version {evaluation['version']} is not evaluated, {when}: {evaluation['error']}"
    numbers = [f"{name} {value:.6g}" for name, value in evaluation["numbers"].items()]
    more = f" and {len(numbers) - _NUMBERS_SHOWN} more" if len(numbers) > _NUMBERS_SHOWN else ""
    return f"version {evaluation['version']} evaluated {when}: {', '.join(numbers[:_NUMBERS_SHOWN])}{more}"


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < _SECONDS_S else duration(seconds)


def _doing(doing: Mapping[str, Any]) -> str:
    text = str(doing["what"])
    if doing["done"] and doing["unit"] == "B":
        total = "" if doing["total"] is None else f" of {size(doing['total'])}"
        text += f", {size(doing['done'])}{total}"
    if doing["left_s"] is not None:
        text += f", about {duration(doing['left_s'])} left"
    return text + (f" ({doing['said']})" if doing["said"] else "")


def _ago(moment_s: float, now_s: float) -> str:
    return format_age(now_s - moment_s)
