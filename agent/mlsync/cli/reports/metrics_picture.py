"""Draw metrics as a picture: a small plot for each, one under another, with the versions on their common axis."""

from __future__ import annotations

import importlib
import io
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mlsync.cli.reports.metric_names import in_order, one_of_each
from mlsync.cli.reports.metrics_report import PLOTS_MAX, Places, heading, number, places_of, title
from mlsync.cli.terminal.plot import NumberRange
from mlsync.errors import ConfigInvalid
from mlsync.versions.logs.run_metrics import RunMetrics

_PLOTS_BY_DEFAULT: Final = 4
# Of the whole picture and of one plot, in pixels
_WIDTH, _HEIGHT = 1200, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 92, 28, 56, 70
_TITLE_HEIGHT: Final = 34
_FONT, _SMALL = 17, 14
# Lines are drawn this much larger, and so come out smooth.
_LARGER: Final = 2
_TICKS: Final = 5
_WHITE, _INK, _FAINT, _GRID, _MARK, _CURVE = "#ffffff", "#24292f", "#6e7781", "#d8dee4", "#d4a72c", "#0969da"
_DOTS_MAX: Final = 60
_DASH: Final = 5


@dataclass(frozen=True, slots=True)
class Box:
    """Where a plot is in the picture, and what it shows."""

    name: str
    top: int
    across: NumberRange
    up: NumberRange

    def x(self, at: float) -> float:
        """Return the pixel of a place along the training."""
        return _LEFT + self.across.part(at) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        """Return the pixel of a number."""
        return self.top + _HEIGHT - self.up.part(value) * _HEIGHT


def write_picture(metrics: RunMetrics, asked: Sequence[str], file: Path) -> None:
    """Write the picture of the metrics that were *asked* for, or of a few, as PNG; a file that is there is replaced."""
    try:
        drawing = [importlib.import_module(f"PIL.{name}") for name in ("Image", "ImageDraw", "ImageFont")]
    except ImportError:
        what = "a picture needs Pillow, which is not installed beside mlsync"
        raise ConfigInvalid(what, advice="pip install 'mlsync-agent[plot]', or leave out --png") from None
    places = places_of(metrics.said, metrics.marks)
    names = list(asked[:PLOTS_MAX]) or one_of_each(in_order(metrics.said), _PLOTS_BY_DEFAULT)
    data = _drawn(places, names, heading(metrics, places), *drawing)
    making = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        making.write_bytes(data)
        making.replace(file)
    except OSError as error:
        making.unlink(missing_ok=True)
        raise ConfigInvalid(f"the picture cannot be written: {error.strerror}", where=str(file)) from error


def _drawn(places: Places, names: Sequence[str], head: str, images: Any, drawing: Any, fonts: Any) -> bytes:
    """Return the picture: first the lines, larger and then made small, on which the words are written."""
    across = NumberRange.over([at for at, _ in places.rows])
    step = _TITLE_HEIGHT + _HEIGHT
    boxes = [
        Box(name, _TOP + number * step + _TITLE_HEIGHT, across, padded(places, name))
        for number, name in enumerate(names)
    ]
    size = _WIDTH, _TOP + step * len(names) + _BOTTOM
    picture = images.new("RGB", (size[0] * _LARGER, size[1] * _LARGER), _WHITE)
    lines = _Pen(drawing.Draw(picture), _LARGER)
    for box in boxes:
        _draw_frame(lines, box, places)
        _draw_curve(lines, box, places.points(box.name))
    picture = picture.resize(size, images.Resampling.LANCZOS)
    words = drawing.Draw(picture)
    font, small = fonts.load_default(_FONT), fonts.load_default(_SMALL)
    words.text((_LEFT, _TOP / 2), _fitting(words, head, font), fill=_INK, font=font, anchor="lm")
    for box in boxes:
        words.text(
            (_LEFT, box.top - 8), _fitting(words, title(box.name, places), font), fill=_INK, font=font, anchor="ls"
        )
        for tick in ticks(box.up):
            words.text((_LEFT - 10, box.y(tick)), number(tick), fill=_FAINT, font=small, anchor="rm")
    _write_axis(words, boxes[-1], places, small)
    written = io.BytesIO()
    picture.quantize(128, method=images.Quantize.FASTOCTREE, dither=images.Dither.NONE).save(
        written, "PNG", optimize=True
    )
    return written.getvalue()


@dataclass(frozen=True, slots=True)
class _Pen:
    """Draws lines in a picture that is larger than its measures."""

    draw: Any
    larger: int

    def line(self, points: Sequence[tuple[float, float]], color: str, width: float = 1) -> None:
        """Draw a line through points."""
        scaled = [(x * self.larger, y * self.larger) for x, y in points]
        self.draw.line(scaled, fill=color, width=round(width * self.larger), joint="curve")

    def dot(self, x: float, y: float, radius: float, color: str) -> None:
        """Draw a full circle."""
        box = [(one + side * radius) * self.larger for side in (-1, 1) for one in (x, y)]
        self.draw.ellipse(box, fill=color)


def _draw_frame(lines: _Pen, box: Box, places: Places) -> None:
    """Draw the ticks' lines, and for each version one from top to bottom, in dashes."""
    for tick in ticks(box.up):
        lines.line([(_LEFT, box.y(tick)), (_WIDTH - _RIGHT, box.y(tick))], _GRID)
    for x in sorted({round(box.x(at)) for _, at in places.marks}):
        for y in range(box.top, box.top + _HEIGHT, 2 * _DASH):
            lines.line([(x, y), (x, min(y + _DASH, box.top + _HEIGHT))], _MARK)
    bottom = box.top + _HEIGHT
    lines.line([(_LEFT, box.top), (_LEFT, bottom), (_WIDTH - _RIGHT, bottom)], _FAINT)


def _draw_curve(lines: _Pen, box: Box, points: Sequence[tuple[float, float]]) -> None:
    """Draw the points of a metric, joined; few of them as dots too."""
    found = [(box.x(at), box.y(value)) for at, value in points if math.isfinite(value)]
    if len(found) > 1:
        lines.line(_thinned(found), _CURVE, 2)
    if len(found) <= _DOTS_MAX:
        for x, y in found:
            lines.dot(x, y, 3, _CURVE)


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return of the points in each column of pixels the first, the lowest, the highest and the last."""
    columns: dict[int, list[tuple[float, float]]] = {}
    for point in points:
        columns.setdefault(round(point[0]), []).append(point)
    found = []
    for some in columns.values():
        found += [some[0], min(some, key=lambda one: one[1]), max(some, key=lambda one: one[1]), some[-1]]
    return found


def _fitting(words: Any, text: str, font: Any) -> str:
    """Return a text, without its end where that is beyond the picture."""
    if words.textlength(text, font=font) <= _WIDTH - _LEFT - _RIGHT:
        return text
    while text and words.textlength(f"{text}...", font=font) > _WIDTH - _LEFT - _RIGHT:
        text = text[:-1]
    return f"{text}..."


def _write_axis(words: Any, box: Box, places: Places, font: Any) -> None:
    """Write the ends of the axis, and the versions for which there is room."""
    bottom = box.top + _HEIGHT
    first, last = places.rows[0][0], places.rows[-1][0]
    words.text((_LEFT, bottom + 8), f"{places.along} {number(first)}", fill=_FAINT, font=font, anchor="la")
    words.text((_WIDTH - _RIGHT, bottom + 8), number(last), fill=_FAINT, font=font, anchor="ra")
    free = float(_LEFT)
    if places.marks:
        words.text((_LEFT - 10, bottom + 34), "version", fill=_FAINT, font=font, anchor="ra")
    for version, at in places.marks:
        half = words.textlength(str(version), font=font) / 2
        x = min(max(box.x(at), _LEFT + half), _WIDTH - _RIGHT - half)
        if x - half >= free:
            words.text((x, bottom + 34), str(version), fill=_FAINT, font=font, anchor="ma")
            free = x + half + 8


def padded(places: Places, name: str) -> NumberRange:
    """Return the span of a metric with some room above and below."""
    span = NumberRange.over([value for _, value in places.points(name)])
    pad = (span.high - span.low) * 0.06
    return NumberRange(span.low - pad, span.high + pad)


def ticks(span: NumberRange) -> Iterator[float]:
    """Yield a few round numbers in a span."""
    rough = (span.high - span.low) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = math.ceil(span.low / step)
    for count in range(first, math.floor(span.high / step) + 1):
        yield round(count * step, 12 - math.floor(math.log10(step)))
