"""bench/scale.py: it runs, and the tables of docs/scale.md are what it writes from its results and list prices."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent.parent / "bench"
sys.path.insert(0, str(BENCH))

import scale_page  # noqa: E402 - it lies with the benchmarks
from scale_prices import PROVIDERS, TEAMS, Team, backup_requests, month  # noqa: E402

RESULT = json.loads((BENCH / "results" / "scale.json").read_text())
SIZES = {
    1: {"put": 3, "list": 8, "get": 13},
    101: {"put": 23, "list": 8, "get": 63},
    201: {"put": 123, "list": 8, "get": 263},
}
MIB = 2**20 / 1e9


def test_the_tables_of_the_page_are_as_the_script_writes_them():
    """``bench/scale.py --write`` was run after its results, or the prices, were changed."""
    text = scale_page.PAGE.read_text()
    assert scale_page.written(text, RESULT) == text


def test_a_quick_run_counts_the_requests_of_commands(tmp_path):
    """One short history: each command runs, and costs at least a request."""
    options = ("--quick", "--parts", "one_run", "--versions", "6", "--directory", tmp_path, "--results", tmp_path)
    done = subprocess.run([sys.executable, BENCH / "scale.py", *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    costs = json.loads((tmp_path / "scale.json").read_text())["one_run"]["6"]
    assert {*scale_page.ONE_RUN, *scale_page.MANY_RUNS} <= costs.keys()
    assert all(one["put"] + one["list"] + one["get"] > 0 for one in costs.values())
    assert "$ of 1,000" in done.stdout


@pytest.mark.parametrize(("mib", "put", "get"), [(1, 3, 13), (51, 13, 38), (201, 123, 263), (301, 223, 463)])
def test_requests_lie_on_the_lines_between_what_was_measured(mib, put, get):
    """Between two sizes, and behind the largest, a backup costs what the line through both says."""
    found = backup_requests(mib * MIB, SIZES)
    assert (round(found["put"]), round(found["list"]), round(found["get"])) == (put, 8, get)


def test_a_month_is_its_requests_what_stays_and_the_mirror():
    """Retention keeps what its rules keep or the grace holds, and a mirror costs its traffic and the same once more."""
    prices, team = PROVIDERS[0], Team("some", 300, 201 * MIB, 2)
    one = month(team, prices, SIZES)
    assert one.requests == pytest.approx(300 * (123 * 0.005 + 8 * 0.005 + 263 * 0.0004) / 1000)
    assert (team.kept, team.kept_with_grace) == (100, 210)
    assert one.total == pytest.approx(one.requests + 210 * team.gb * 0.023)
    assert one.total_with_mirror == pytest.approx(one.total + 300 * team.gb * 0.02 + 210 * team.gb * 0.023)


def test_differences_store_less_and_read_twice():
    """A share of the bytes is stored; what changed is read twice to prove it."""
    team = TEAMS[1]
    whole, less = (month(team, PROVIDERS[0], SIZES, share) for share in (None, 0.5))
    assert less.kept == pytest.approx(whole.kept / 2)
    assert less.read_back_outside == pytest.approx(whole.read_back_outside)


@pytest.mark.parametrize(("amount", "text"), [(0, "$0"), (0.001, "under $0.01"), (1.234, "$1.23"), (1234.5, "$1,230")])
def test_amounts_have_three_digits(amount, text):
    """As many as a plan needs."""
    assert scale_page.dollars(amount) == text
