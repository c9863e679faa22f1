"""How a task in progress looks in a line of a given width: a name, a bar, how much, how fast, how long, and of what."""

from __future__ import annotations

from typing import Final, NamedTuple

from mlsync.app.wording import scaled, size
from mlsync.app.wrapping import cells

_BAR_MIN: Final = 8
_BAR_MAX: Final = 28
_NAME_MIN: Final = 16
# "999.9 MiB/s" and "1:23:45 left": kept free while they are not known, so that nothing jumps.
_SPEED_COLUMNS: Final = 11
_LEFT_COLUMNS: Final = 9
# Fewer columns of a path say nothing.
_WHAT_MIN: Final = 12
# Two before the bar, two behind it.
_GAPS: Final = 4
_MINUTE_S: Final = 60
_HOUR_S: Final = 3600


class Signs(NamedTuple):
    """The characters of bars and cuts, as far as the terminal's encoding has them."""

    spinner: str
    done: str
    left: str
    cut: str
    dot: str


FINE: Final = Signs("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "━", "─", "…", " · ")
PLAIN: Final = Signs("|/-\\", "#", "-", "...", " - ")


class View(NamedTuple):
    """A task at one moment; *rate* is in units per second, ``None`` while it is not known."""

    name: str
    what: str = ""
    done: int = 0
    total: int | None = None
    unit: str = "B"
    rate: float | None = None
    turn: int = 0


def progress_line(view: View, columns: int, signs: Signs = FINE) -> str:
    """Return the line, at most *columns* wide.

    Until something is done there is no bar, but a sign that turns, and what is waited for.
    """
    if not view.total or not view.done:
        return _waiting(view, columns, signs)
    facts = _facts(view)
    name = cut(view.name, max(columns - len(facts) - _GAPS - _BAR_MIN, _NAME_MIN), signs)
    room = columns - cells(name) - len(facts) - _GAPS
    if room < _BAR_MIN:
        texts = (f"{name}  {facts}".rstrip(), f"{name}  {_amount(view)}", name)
        return next((text for text in texts if cells(text) <= columns), _beginning(name, columns))
    what = room - _BAR_MIN - len(signs.dot)
    what_text = cut_path(view.what, what, signs) if view.what and what >= _WHAT_MIN else ""
    tail = signs.dot + what_text if what_text else ""
    bar = min(room - cells(tail), _BAR_MAX)
    full = min(bar * view.done // view.total, bar)
    return f"{name}  {signs.done * full}{signs.left * (bar - full)}  {facts}{tail}".rstrip()


def cut(text: str, columns: int, signs: Signs = FINE) -> str:
    """Return *text*, cut in the middle if it is too long: its beginning and its end say most."""
    if cells(text) <= columns:
        return text
    room = columns - len(signs.cut)
    if room <= 0:
        return _beginning(text, columns)
    begin = _beginning(text, room // 2)
    return begin + signs.cut + _end(text, room - cells(begin))


def cut_path(path: str, columns: int, signs: Signs = FINE) -> str:
    """Return *path*, without as many of its first directories as make it fit; a name alone is cut in the middle."""
    if cells(path) <= columns:
        return path
    parts = path.split("/")
    for count in range(1, len(parts)):
        shorter = "/".join((signs.cut, *parts[count:]))
        if cells(shorter) <= columns:
            return shorter
    return cut(parts[-1], columns, signs)


def _waiting(view: View, columns: int, signs: Signs) -> str:
    turning = signs.spinner[view.turn % len(signs.spinner)]
    name = cut(view.name, max(columns - 2, 0), signs)
    room = columns - cells(name) - 2 - len(signs.dot)
    tail = signs.dot + cut_path(view.what, room, signs) if view.what and room >= _WHAT_MIN else ""
    return _beginning(f"{turning} {name}{tail}", columns)


def _facts(view: View) -> str:
    """Return how much is done, how fast it goes and how long it takes; what is not known yet takes its columns."""
    total = view.total or 0
    if view.unit != "B" or view.done >= total:
        return _amount(view)
    speed = "" if view.rate is None else f"{size(view.rate)}/s"
    left = f"{_clock((total - view.done) / view.rate)} left" if view.rate else ""
    return f"{_amount(view)}  {speed:>{_SPEED_COLUMNS}}  {left:>{_LEFT_COLUMNS}}"


def _amount(view: View) -> str:
    total = view.total or 0
    if view.unit != "B":
        return f"{view.done}/{total} {view.unit}"
    return f"{scaled(min(view.done, total), total)}/{size(total)}"


def _clock(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = whole // _HOUR_S, whole % _HOUR_S // _MINUTE_S
    return f"{hours}:{minutes:02}:{whole % _MINUTE_S:02}" if hours else f"{minutes}:{whole % _MINUTE_S:02}"


def _beginning(text: str, columns: int) -> str:
    while cells(text) > columns:
        text = text[:-1]
    return text


def _end(text: str, columns: int) -> str:
    while cells(text) > columns:
        text = text[1:]
    return text
