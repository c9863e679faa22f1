"""What the demo prints when it is done."""

from __future__ import annotations

import pytest

from mlsync.cli import demo
from mlsync.demo.report import EpochLosses, Report, Restored, Resumed, Torn, VersionMade

SIZE = 999 << 20
LAST = "weights/last.safetensors"


@pytest.fixture
def report():
    """A demo with names and numbers that are as long as they may be."""
    made = [VersionMade(number, "agent", number, 10, SIZE, SIZE, SIZE, SIZE, 3, 10.5, 4, "cuda") for number in range(6)]
    losses = tuple(EpochLosses(number, 1.2 if number < 11 else None, 1.2) for number in range(12))
    return Report(
        "/tmp/demo",
        kept=False,
        trainer="numpy",
        versions=made,
        torn=Torn(LAST, 10, SIZE, SIZE, "torn", "cut short", 10, 9, 10),
        restored=Restored(10, 10, SIZE, 10.5, 12.0, 10),
        resumed=Resumed(10, losses, identical=True),
        seconds=100.0,
    )


def test_the_last_screen_fits_a_terminal(report, capsys):
    """The result, from the first version to the next commands, has at most 23 lines of 80 columns, and the prompt."""
    demo._print(report, "mlsync")
    lines = capsys.readouterr().out.strip().splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 23
    assert lines[0].startswith("VERSION")


def test_the_last_lines_are_the_next_commands(report, capsys):
    """The result ends with what to type for a training of one's own, by the name that was typed."""
    demo._print(report, ".venv/bin/mlsync")
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == ["  .venv/bin/mlsync init s3://BUCKET/runs --watch DIRECTORY", "  .venv/bin/mlsync backup"]


def test_a_demo_that_was_kept_says_how_to_look_at_it(report, capsys):
    """With --keep, commands that look at the demo's own versions and remove it come before the next ones."""
    report.kept = True
    demo._print(report, "mlsync")
    out = capsys.readouterr().out
    assert "\n  mlsync versions --config /tmp/demo/mlsync.toml\n" in out
    assert "\n  rm -r /tmp/demo\n\nNext" in out
