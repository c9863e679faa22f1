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

from soaking import causes  # noqa: E402 - it lies with the benchmarks
from soaking.memory import Memory, growth, memory_in, memory_of  # noqa: E402 - as above
from soaking.record import Record, Save, Version  # noqa: E402 - as above

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


@pytest.mark.parametrize(
    ("gone_s", "made_s", "periods", "cause"),
    [
        (104.0, [90.0, 103.0, 106.0], [], causes.UNEXPLAINED),
        (100.5, [90.0, 103.0], [], causes.UNSEEN),
        (104.0, [90.0, 125.0], [], causes.THINNED),
        (104.0, [90.0, 106.0], [(101.0, 102.0, "agent")], causes.AGENT),
        # It was held when the agent was killed, and deleted by then.
        (104.0, [90.0, 110.0], [(105.0, 107.0, "agent")], causes.AGENT),
        (104.0, [90.0, 106.0], [(107.0, 108.0, "agent")], causes.UNEXPLAINED),
        (104.0, [90.0, 106.0], [(91.0, 95.0, "store")], causes.STORE),
        (104.0, [90.0, 96.0, 106.0], [(91.0, 95.0, "store")], causes.UNEXPLAINED),
        (104.0, [20.0, 106.0], [(21.0, 30.0, "store")], causes.UNEXPLAINED),
        (104.0, [90.0, 106.0], [(101.0, 101.0, "pass")], causes.PASS),
        (104.0, [90.0, 106.0], [(101.0, 102.0, "store"), (101.0, 102.0, "agent")], causes.AGENT),
        (104.0, [90.0, 106.0], [(101.0, 102.0, "yolo")], causes.UNEXPLAINED),
        (104.0, [], [], causes.THINNED),
    ],
)
def test_the_judge_finds_the_cause_of_a_missed_save(gone_s, made_s, periods, cause):
    """Only what overlaps the time until the next version explains anything, and until the agent is over it."""
    assert causes.cause_of(Save({"a": "A"}, 99.0, 100.0, gone_s), made_s, periods) == cause


MAPPINGS = """55e000000000-55e000021000 rw-p 00000000 00:00 0                          [heap]
Rss:                 100 kB
Pss:                 100 kB
7f4000000000-7f4000100000 rw-p 00000000 00:00 0
Rss:                  10 kB
Pss:                  10 kB
7f4100001000-7f4100800000 rw-p 00000000 00:00 0
Rss:                1000 kB
Pss:                1000 kB
7f5000000000-7f5000800000 rw-p 00000000 00:00 0
Rss:                   8 kB
Pss:                   8 kB
7f6000000000-7f6000001000 r-xp 00000000 08:01 1234   /usr/lib/libc (deleted) 12
Rss:                   4 kB
Pss:                   2 kB
"""


def test_memory_is_told_by_what_it_is():
    """The heap, arenas of threads, stacks, files and the rest add up to all of it; of what is shared a part is ours."""
    found = memory_in(MAPPINGS)
    assert found == Memory(rss=1122, pss=1120, heap=100, arenas=10, anonymous=1000, stacks=8, files=4)
    assert memory_in("") is None
    mine = memory_of(os.getpid())
    assert mine.rss == mine.heap + mine.arenas + mine.anonymous + mine.stacks + mine.files


def test_growth_is_told_for_each_kind():
    """What grows by a MiB in a minute grows by sixty in an hour."""
    found = growth([(60.0 * number, Memory(heap=1024 * number)) for number in range(5)])
    assert found["heap"] == {"first": 0.0, "last": 4.0, "max": 4.0, "per_hour": 60.0}
    assert found["files"]["per_hour"] == 0.0
