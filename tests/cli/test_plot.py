"""Small plots in characters, and which metrics are shown first."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsync.cli.reports.metric_names import in_order, is_better_low, matching, of_the_model, one_of_each
from mlsync.cli.reports.metrics_picture import Box, padded, ticks
from mlsync.cli.reports.metrics_report import column, number, places_of, plot_lines, spans
from mlsync.cli.terminal.plot import BRAILLE, PLAIN, NumberRange, axis, curve
from mlsync.cli.terminal.table import TextTable
from mlsync.errors import MetricMissing
from mlsync.formats.logs.rows import LogRow, TrainingLog
from mlsync.versions.logs.marks import VersionMark

floats = st.floats(allow_nan=True, allow_infinity=True)


def log(*names, rows=3):
    """A log in which each metric has so many numbers."""
    values = [LogRow(float(at), None, dict.fromkeys(names, float(at))) for at in range(rows)]
    return TrainingLog("csv", tuple(values), names)


def plain(points, width=8, height=4):
    """A curve in stars."""
    across, along = (NumberRange.over([point[place] for point in points]) for place in (0, 1))
    return curve(points, across, along, width, height, PLAIN)


def test_a_curve_goes_from_the_first_point_to_the_last():
    """The highest number is on the first line, and points that are far apart are joined."""
    assert plain([(0, 0), (7, 3)]) == ["      **", "    **  ", "  **    ", "**      "]
    assert plain([(0, 3), (4, 3), (4, 0), (7, 0)]) == ["*****   ", "    *   ", "    *   ", "    ****"]


def test_braille_has_eight_dots_in_a_character():
    """Two columns and four rows of dots make a letter."""
    assert curve([(0, 0), (1, 1)], NumberRange(0, 1), NumberRange(0, 1), 1, 1, BRAILLE) == ["⡸"]
    assert curve([(0, 1)], NumberRange(0, 1), NumberRange(0, 1), 1, 1, BRAILLE) == ["⠁"]
    assert curve([(1, 0)], NumberRange(0, 1), NumberRange(0, 1), 1, 1, BRAILLE) == ["⢀"]


@given(st.lists(st.tuples(st.integers(-(10**18), 10**18), floats), max_size=40), st.integers(1, 60), st.integers(1, 9))
def test_any_numbers_fill_their_place(points, width, height):
    """A curve has its lines and its columns whatever the numbers: huge, equal, not finite, none at all."""
    across = NumberRange.over([float(x) for x, _ in points])
    for style in (PLAIN, BRAILLE):
        drawn = curve(
            [(float(x), y) for x, y in points], across, NumberRange.over([y for _, y in points]), width, height, style
        )
        assert [len(line) for line in drawn] == [width] * height
        has_points = any(math.isfinite(y) for _, y in points)
        assert any(line.strip() for line in drawn) == has_points


@given(st.lists(st.tuples(st.integers(1, 10**6), st.floats(0, 1)), max_size=60), st.integers(10, 80))
def test_marks_have_names_where_there_is_room(marks, width):
    """Each version is marked, and no name of one runs into another."""
    marks = sorted(marks, key=lambda mark: mark[1])
    bottom, names = axis([(str(version), at) for version, at in marks], NumberRange(0, 1), width, PLAIN)
    assert len(bottom) == width + 1
    assert len(names) <= width
    assert ("^" in bottom) == bool(marks)
    assert set(names.split()) <= {str(version) for version, _ in marks}


def test_versions_of_one_row_are_told_as_one():
    """Those that follow one another are a span."""
    assert spans([3, 1, 2, 7]) == "1-3, 7"
    assert spans([]) == ""


def test_a_version_between_two_rows_is_at_the_earlier():
    """Its log ended there: what came later is in the next version. One before all rows is at none."""
    marks = [
        VersionMark(1, -1.0, None),
        VersionMark(2, 0.5, None),
        VersionMark(3, 2.0, None),
        VersionMark(4, 9.0, None),
    ]
    places = places_of(log("a"), marks)
    assert places.versions_at() == {0.0: [2], 2.0: [3, 4]}
    assert places_of(TrainingLog("csv", (LogRow(None, None, {"a": 1.0}),), ("a",)), marks).versions_at() == {}


def test_one_number_is_a_plot_too():
    """A log that has just begun has a plot with one dot."""
    lines = list(plot_lines(places_of(log("a", rows=1), ()), ["a"], 40, PLAIN))
    assert sum(line.count("*") for line in lines) == 1
    assert all(len(line) <= 40 for line in lines)


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([1.0, 25.0, None], ["1", "25", ""]),
        ([0.5, 0.25], ["0.50", "0.25"]),
        ([0.57612, 0.00303], ["0.5761", "0.0030"]),
        ([3e-05, 1e-3], ["3e-05", "0.001"]),
        ([71592.4, 1344.1], ["71592", "1344"]),
        ([math.nan, 0.5, -math.inf], ["nan", "0.5", "-inf"]),
        ([math.nan], ["nan"]),
        ([1e300, 1.0], ["1e+300", "1"]),
        ([], []),
    ],
)
def test_numbers_in_a_column_have_as_many_places(values, texts):
    """They stand under one another; what would be lost so is written by itself."""
    assert column(values) == texts


@given(st.lists(floats | st.none(), max_size=9))
def test_any_column_is_written(values):
    """No number is too large, too small, or none."""
    assert len(column(values)) == len(values)
    assert all(len(number(value)) < 12 for value in values if value is not None)


def test_quality_comes_first_and_the_machine_last():
    """mAP, losses on other data, losses, learning rates, the rest, times; a name with one number after all others."""
    names = ["time", "lr/pg0", "train/box_loss", "val/box_loss", "metrics/recall(B)", "metrics/mAP50-95(B)", "beta"]
    ordered = ["metrics/mAP50-95(B)", "metrics/recall(B)", "val/box_loss", "train/box_loss", "lr/pg0", "beta", "time"]
    assert in_order(log(*names)) == ordered
    assert of_the_model(ordered) == ordered[:-1]
    assert of_the_model(["time"]) == ["time"]
    assert one_of_each(ordered, 3) == ["metrics/mAP50-95(B)", "val/box_loss", "train/box_loss"]
    assert in_order(log("eval_runtime", "loss", "eval_loss", "learning_rate"))[:3] == [
        "eval_loss",
        "loss",
        "learning_rate",
    ]


def test_a_name_that_was_logged_once_is_last():
    """A sum at the end of a training has no curve."""
    rows = (LogRow(1.0, None, {"val_loss": 1.0, "x": 1.0}), LogRow(2.0, None, {"x": 2.0}))
    assert in_order(TrainingLog("csv", rows, ("val_loss", "x"))) == ["x", "val_loss"]


def test_a_whole_name_means_no_other():
    """A name that is a part of others is still one."""
    assert matching(log("val_loss", "loss"), ["loss"], "x.csv") == ["loss"]


def test_headers_of_several_lines_end_together():
    """The last lines stand right above the numbers."""
    table = TextTable(["A", "metrics/\nmAP50"], (0, 1))
    table.row("1", "0.5")
    assert list(table.lines(80)) == ["   metrics/", "A     mAP50", "1       0.5"]


def test_less_is_better_of_losses():
    """And of errors and perplexities, not of accuracies."""
    assert all(map(is_better_low, ("val_loss", "eval/wer", "perplexity", "rmse")))
    assert not any(map(is_better_low, ("accuracy", "metrics/mAP50(B)", "reward")))


def test_a_name_with_brackets_is_no_pattern_of_letters():
    """What is written as it was logged matches, also where it has a bracket."""
    assert matching(log("a[0]", "a[1]"), ["a[1]"], "x.csv") == ["a[1]"]
    with pytest.raises(MetricMissing, match="no metric is called"):
        matching(log("a"), ["b"], "x.csv")


def test_rows_that_do_not_say_where_they_are_belong_to_the_one_before():
    """A log with steps may have rows with an epoch alone; none is lost."""
    said = TrainingLog(
        "json-lines",
        (LogRow(1.0, None, {"a": 1.0}), LogRow(None, 5.0, {"b": 2.0}), LogRow(1.0, None, {"c": 3.0})),
        ("a", "b", "c"),
    )
    places = places_of(said, ())
    assert [at for at, _ in places.rows] == [5.0, 5.0, 5.0]
    assert [places.points(name) for name in "abc"] == [[(5.0, 1.0)], [(5.0, 2.0)], [(5.0, 3.0)]]


@given(
    st.lists(
        st.tuples(
            st.none() | st.floats(allow_nan=False, allow_infinity=False),
            st.dictionaries(st.sampled_from("abc"), floats, min_size=1),
        ),
        min_size=1,
        max_size=9,
    )
)
def test_any_log_is_drawn(rows):
    """Whatever is logged at whatever place, there are lines of plots, and a picture if Pillow is there."""
    names = tuple({name: None for _, values in rows for name in values})
    said = TrainingLog("csv", tuple(LogRow(None, step, values) for step, values in rows), names)
    places = places_of(said, [VersionMark(number, None, step) for number, (step, _) in enumerate(rows, 1)])
    for style in (PLAIN, BRAILLE):
        assert max(map(len, plot_lines(places, names, 60, style))) <= 60
    for name in names:
        box = Box(name, 0, NumberRange.over([at for at, _ in places.rows]), padded(places, name))
        assert len(list(ticks(box.up))) < 20
        for at, value in places.points(name):
            assert math.isfinite(box.x(at))
            assert math.isfinite(box.y(value)) or not math.isfinite(value)
