"""An agent beside three trainings, all of them disturbed, as bench/soak_agent.py plays it; and its judge."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "bench"))

from soaking.record import Record, Version  # noqa: E402 - it lies with the benchmarks

SOAK = ROOT / "bench" / "soak_agent.py"
ASKED_FOR = "MLSYNC_TEST_SOAK"


def soaked(tmp_path, *arguments):
    """What came of a soak with these arguments."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    command = [sys.executable, SOAK, "--quick", "--directory", scratch, "--results", tmp_path, *arguments]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    (result,) = tmp_path.glob("soak_agent_*.json")
    return json.loads(result.read_text())


@pytest.mark.slow
def test_a_short_soak_loses_nothing(tmp_path):
    """Agent and trainer killed, the store away: each version is what was saved, and the newest saves are in."""
    found = soaked(tmp_path, "--store", "directory", "--every", "2", "--story")
    assert (found["wrong"], found["wrong_first"]) == (0, [])
    assert found["disturbances"] == {"agent killed": 1, "store away": 1, "trainer killed": 1}
    assert found["agent"]["lives"] == 2
    assert found["versions_compared"] >= 3
    assert found["saves_captured"] >= 3


@pytest.mark.slow
@pytest.mark.parametrize("store", ["directory", "s3"])
def test_two_minutes_of_it(tmp_path, store):
    """The same for two minutes, with everything that the soak has, at random."""
    if ASKED_FOR not in os.environ:
        pytest.skip(f"takes four minutes; set {ASKED_FOR}=1 for it")
    found = soaked(tmp_path, "--store", store, "--minutes", "2", "--every", "4")
    assert found["wrong"] == 0
    assert sum(found["disturbances"].values()) > 5


# ---------------------------------------------------------------- the judge


@pytest.fixture
def record(tmp_path):
    """Saves of ``last.pt``, from 1 to 2 and 11 to 12 seconds, and of ``checkpoint-1``, from 5 to 6 and from 7 on."""
    begin, end = {"what": "begin"}, {"what": "end"}
    events = [
        {**begin, "save": "a", "at_s": 1, "files": {"last.pt": "A"}},
        {**end, "save": "a", "at_s": 2},
        {**begin, "save": "b", "at_s": 5, "files": {"checkpoint-1/x": "X", "checkpoint-1/y": "Y"}},
        {**end, "save": "b", "at_s": 6},
        {**begin, "save": "c", "at_s": 7, "files": {"checkpoint-1/x": "X2", "checkpoint-1/y": "Y2"}},
        {**begin, "save": "d", "at_s": 11, "files": {"last.pt": "D"}},
        {**end, "save": "d", "at_s": 12},
    ]
    file = tmp_path / "record"
    file.write_text("".join(json.dumps(event) + "\n" for event in events))
    return Record(file, tmp_path)


WHOLE = {"last.pt": "A", "checkpoint-1/x": "X", "checkpoint-1/y": "Y"}


@pytest.mark.parametrize(
    ("version", "before_s", "said"),
    [
        (Version(1, 6.5, WHOLE), 6.2, None),
        (Version(1, 6.5, WHOLE | {"last.pt": "half"}), 0, "no whole file"),
        (Version(1, 6.5, WHOLE | {"last.pt": "X"}), 0, "no whole file"),
        (Version(1, 8.0, WHOLE | {"checkpoint-1/x": "X2"}), 0, "a mix of 2"),
        (Version(1, 6.5, {"last.pt": "A"}), 6.2, "checkpoint-1/x is not as it was"),
        (Version(1, 6.5, {"last.pt": "A"}, {"checkpoint-1/x", "checkpoint-1/y"}), 6.2, None),
        (Version(1, 6.5, {"last.pt": "A"}), 5.5, None),
        (Version(1, 14.0, {"last.pt": "A"}), 13.0, "older than it has to be"),
        (Version(1, 14.0, {"last.pt": "A"}, {"last.pt"}), 13.0, None),
        (Version(1, 14.0, {"last.pt": "A"}), 11.5, None),
    ],
)
def test_the_judge_sees_what_is_wrong(record, version, before_s, said):
    """Half a file, a mix, a save that is missing or old though it was whole before the pass; not what is told."""
    faults = record.faults(version, before_s)
    assert (faults == []) if said is None else any(said in fault for fault in faults)
