"""How long a task still takes, measured while it runs: in a bar, or in a line of its own for a log."""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import Final

from mlsync.app.wording import size
from mlsync.monitor import Monitor

# The first seconds fill buffers and say little of what follows.
_MEASURED_S: Final = 5.0
_WINDOW_S: Final = 60.0
_SAMPLE_S: Final = 0.5
# Who waits for less needs no line.
_LONG_S: Final = 60.0
_AGAIN_S: Final = 60.0
_OFF: Final = 1.5
# What goes on for so little of the time that it is said to take is no measure of it: a start beside a training that
# leaves no processor would be said to take weeks.
_MEASURED_SHARE: Final = 1 / 500
_MINUTE_S: Final = 60
_HOUR_S: Final = 3600
_DAY_S: Final = 24 * _HOUR_S


class Speed:
    """How fast something goes, over the last *window_s* seconds."""

    def __init__(self, window_s: float = _WINDOW_S) -> None:
        self._window_s = window_s
        self._samples: deque[tuple[float, int]] = deque()

    def sample(self, done: int, now_s: float) -> None:
        """Note how much is done by now; only so often that few samples are kept."""
        samples = self._samples
        if not samples or now_s >= samples[-1][0] + min(_SAMPLE_S, self._window_s / 20):
            samples.append((now_s, done))
            # One sample older than the window stays: the rate is measured from it.
            while len(samples) > 2 and samples[1][0] <= now_s - self._window_s:  # noqa: PLR2004 - first and last
                samples.popleft()

    def rate(self, done: int, now_s: float, *, after_s: float = 1.0) -> float | None:
        """Return units per second, or ``None`` until *after_s* seconds were measured."""
        if not self._samples:
            return None
        began_s, before = self._samples[0]
        return (done - before) / (now_s - began_s) if now_s >= began_s + after_s else None


class Forecast:
    """Says how long a task of *total* bytes takes, when that is known, and again each time that this proved wrong.

    It says nothing of a task that takes less than a minute.
    """

    def __init__(self, name: str, total: int) -> None:
        self._name = name
        self._total = total
        self._done = 0
        self._speed = Speed()
        self._began_s: float | None = None
        self._said_s = 0.0  # when; 0 for never
        self._end_s = 0.0  # the moment that was said to be the end

    def advanced(self, amount: int, now_s: float) -> str | None:
        """Return what to say after *amount* more bytes, if there is anything."""
        self._done += amount
        if not self._done:
            return None
        self._began_s = now_s if self._began_s is None else self._began_s
        self._speed.sample(self._done, now_s)
        rate = self._speed.rate(self._done, now_s, after_s=_MEASURED_S)
        if not rate:
            return None
        left_s = (self._total - self._done) / rate
        if not self._is_news(left_s, now_s):
            return None
        more = f" more, {size(self._done)} of {size(self._total)} done" if self._said_s else ""
        self._said_s, self._end_s = now_s, now_s + left_s
        return f"{self._name}: about {duration(left_s)}{more}, at {size(rate)}/s"

    def _is_news(self, left_s: float, now_s: float) -> bool:
        if not self._said_s:
            assert self._began_s is not None
            return left_s >= _LONG_S and now_s - self._began_s >= left_s * _MEASURED_SHARE
        expected_s = self._end_s - now_s
        is_off = left_s > max(expected_s, 0) * _OFF or left_s * _OFF < expected_s
        return is_off and abs(left_s - expected_s) >= _LONG_S and now_s >= self._said_s + _AGAIN_S


class ForecastTask:
    """A task whose forecasts are notices of *monitor*."""

    def __init__(self, monitor: Monitor, name: str, total: int | None, unit: str) -> None:
        self._monitor = monitor
        self._forecast = Forecast(name, total) if total and unit == "B" else None

    def advance(self, amount: int) -> None:
        """Say how long the rest takes, if that is news."""
        text = None if self._forecast is None else self._forecast.advanced(amount, monotonic())
        if text is not None:
            self._monitor.notice("status", text)

    def say(self, what: str) -> None:
        """Drop it: a log has no line that changes."""


def duration(seconds: float) -> str:
    """Return a length of time as a person says it: no more exact than a forecast can be."""
    if seconds < 2 * _MINUTE_S:
        return f"{max(round(seconds / 10) * 10, 10)} seconds"
    if seconds < 2 * _HOUR_S:
        return f"{round(seconds / _MINUTE_S)} minutes"
    if seconds < 2 * _DAY_S:
        return f"{seconds / _HOUR_S:.1f} hours"
    return f"{seconds / _DAY_S:.1f} days"
