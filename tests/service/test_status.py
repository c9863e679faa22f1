"""The status of an agent: its line names what is worst, its file says when it was written, also on a full disk."""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path

import pytest

from mlsync.app.pass_result import PassResult
from mlsync.errors import StoreUnavailable
from mlsync.service import replaced_file, status
from mlsync.service.job import Heartbeat
from mlsync.service.passes.doing import Doing, DoingNow
from mlsync.service.run_record import RecordedJob, RunRecord, usual_interval_s
from mlsync.service.status import RunStatus
from mlsync.service.worker import RunState
from mlsync.upkeep.version_seen import VersionSeen

NOW_S = 1_800_000_000.0


def run(name, *, record=None, heartbeat=None, silent_s=None, changed_s=None, factor=5.0, **state):
    """A run with version 7, proved a minute ago unless *state* says otherwise."""
    known = {"last_version": 7, "last_version_s": NOW_S - 60, "last_proved_version": 7, "last_proved_s": NOW_S - 60}
    return RunStatus(
        name,
        Path("/runs", name),
        True,
        RunState(**known | state),
        None,
        NOW_S,
        record or RunRecord(),
        heartbeat or Heartbeat(),
        silent_s,
        changed_s,
        factor,
    )


def beating(**doing):
    """A heartbeat that says what is done."""
    heartbeat = Heartbeat(wall=lambda: NOW_S)
    heartbeat.beat(Doing(**doing))
    return heartbeat


def line(*runs):
    """What systemd shows."""
    return status.as_line(runs, NOW_S)


# ---------------------------------------------------------------- the line


def test_the_run_that_is_worst_is_shown():
    """Each kind of trouble comes before the lesser ones, whatever the order of the runs and the age of versions."""
    well = run("well", last_version_s=NOW_S - 5, last_proved_s=NOW_S - 5)
    older = run("older", last_version_s=NOW_S - 7200, last_proved_s=NOW_S - 7200)
    pending = run("pending", last_proved_version=6)
    none = run("none", last_version=None, last_version_s=None, last_proved_version=None)
    waits = run("waits", heartbeat=beating(what="saving", waits="store: get failed, trying again in 2.0 s: away"))
    fails = run("fails", failures=2, last_error="no key")
    stopped = run("stopped", heartbeat=beating(what="stopped: reading"), silent_s=125.0)
    ranked = [
        (well, "last version well/7 proved less than a minute ago"),
        (older, "last version older/7 proved 2 h ago"),
        (pending, "last version pending/7 not proved, made 1 min ago"),
        (none, "no version yet of none"),
        (waits, "waits waits for the store: get failed, trying again in 2.0 s: away"),
        (fails, "last version fails/7 proved 1 min ago, failing: fails"),
        (stopped, "stopped makes no progress since 2 min ago (stopped: reading)"),
    ]
    for count in range(1, len(ranked) + 1):
        runs = [one for one, _ in ranked[:count]]
        for order in (runs, runs[::-1]):
            shown = line(*order).partition(", ")[2]
            assert shown.startswith(ranked[count - 1][1]), shown


def test_a_line_without_runs_is_short():
    """No run is no error."""
    assert line() == "0 runs"


def test_a_silence_is_short_while_a_pass_is_alive():
    """A pass that beat within a minute is at work."""
    assert not run("a", silent_s=59.0).is_silent
    assert run("a", silent_s=60.0).is_silent


# ---------------------------------------------------------------- what a loss would cost


def test_the_risk_counts_from_what_is_proved():
    """Nothing new costs nothing; a change costs since it came; what is pending or failing since the last proof."""
    record = RunRecord()
    assert run("a", record=record).unproved_s is None
    record.proved_until_s = NOW_S - 300
    assert run("a", record=record).unproved_s == 0.0
    assert run("a", record=record, changed_s=NOW_S - 20).unproved_s == 20.0
    # A change that came while the pass ran is counted from the beginning of that pass at most.
    assert run("a", record=record, changed_s=NOW_S - 900).unproved_s == 300.0
    assert run("a", record=record, last_proved_version=6).unproved_s == 300.0
    assert run("a", record=record, failures=1).unproved_s == 300.0


def made(number, *, proved=True, checkpoint_s=None, **more):
    """The outcome of a pass that made a version."""
    version = VersionSeen(number, NOW_S, checkpoint_s=checkpoint_s, is_pending=not proved, **more)
    return PassResult("a", number, number if proved else None, (), "", (version,))


def test_only_a_proof_moves_what_is_proved():
    """A pending version leaves the mark where it is, also while nothing changes, until its proof comes."""
    record = RunRecord()
    record.passed(made(1), 10.0, 1.0)
    record.passed(made(2, proved=False), 20.0, 1.0)
    record.passed(PassResult("a", None, None, (), ""), 30.0, 1.0)
    assert record.proved_until_s == 10.0
    record.passed(PassResult("a", None, 2, (), ""), 40.0, 1.0)
    record.passed(PassResult("a", None, None, (), ""), 50.0, 1.0)
    assert record.proved_until_s == 50.0


def test_a_version_of_an_earlier_agent_may_be_pending():
    """An agent that starts learns from the history that the newest version is not proved."""
    record = RunRecord()
    told = VersionSeen(4, NOW_S, is_pending=True)
    record.passed(PassResult("a", None, None, (), "", (told,)), 10.0, 1.0)
    assert record.proved_until_s is None


# ---------------------------------------------------------------- silence


def test_the_usual_interval_is_that_of_new_checkpoints():
    """Versions without a newer checkpoint count for nothing, and three intervals are needed."""
    assert usual_interval_s([0, 10, 20]) is None
    assert usual_interval_s([0, 10, 10, None, 20, 5, 30, 1000]) == 10


def test_a_silent_training_is_told_by_its_own_rhythm():
    """A checkpoint each ten minutes, and none for an hour: that is said with both numbers; factor 0 says nothing."""
    record = RunRecord()
    for number in range(6):
        record.passed(made(number + 1, checkpoint_s=NOW_S - 3600 - 600 * (5 - number)), NOW_S, 1.0)
    assert run("a", record=record, factor=7).no_checkpoint_s is None
    assert run("a", record=record, factor=0).no_checkpoint_s is None
    assert status.silence_in_words(run("a", record=record)) == (
        "a: no new checkpoint for 60 minutes, and usually one comes after 10 minutes; does the training go on?"
    )
    assert "its last checkpoint 1 h ago" in line(run("a", record=record))


# ---------------------------------------------------------------- what is remembered


class Failing:
    """A job that fails with what it is given."""

    holds = None

    name, directory = "a", Path("/a")

    def __init__(self):
        self.heartbeat = Heartbeat()
        self.error = None

    def run(self, stop, *, may_join=False, deadline_s=None):
        """Fail, or not."""
        if self.error:
            raise self.error
        return made(1, new_bytes=5, stored_bytes=3)


def test_errors_stay_after_a_success_and_are_counted():
    """The last errors are remembered, the same one once with its count, and an end cut short is none."""
    now = [NOW_S]
    record = RunRecord(wall=lambda: now[0])
    job = Failing()
    recorded = RecordedJob(job, record)
    for what in ("away", "away", "no key"):
        job.error = StoreUnavailable(what)
        now[0] += 10
        with pytest.raises(StoreUnavailable):
            recorded.run(threading.Event())
    stop = threading.Event()
    stop.set()
    with pytest.raises(StoreUnavailable):
        recorded.run(stop)
    job.error = None
    recorded.run(threading.Event())
    assert [(one.text, one.count, one.last_s - one.first_s) for one in record.errors] == [
        ("away", 2, 10.0),
        ("no key", 1, 0.0),
    ]
    assert (record.counts.passed, record.counts.failed, record.counts.stored_bytes) == (1, 3, 3)


def test_the_doing_of_a_process_is_that_of_its_newest_step():
    """The innermost step is shown with the time that it still takes; a retry is counted until work goes on."""
    now = [0.0]
    doing = DoingNow(lambda: now[0])
    outer, inner = doing.begin("backing up", None, "B"), doing.begin("sending", 1000, "B")
    for _ in range(5):
        now[0] += 1
        inner.advance(100)
    assert (doing.now.what, doing.now.done, doing.now.left_s) == ("sending", 500, pytest.approx(5.0))
    assert doing.notice("store: put failed, trying again in 1.0 s: away")
    assert not doing.notice("other news")
    assert (doing.now.waits[:10], doing.now.retry_count) == ("store: put", 1)
    inner.advance(1)
    assert (doing.now.waits, doing.now.retry_count) == ("", 1)
    doing.end(inner)
    assert doing.now.what == "backing up"
    doing.end(outer)
    assert doing.now == Doing(retry_count=1)


def test_retries_are_counted_over_all_processes():
    """A new process counts from zero, and the agent goes on from its own count; the last wait is kept."""
    heartbeat = Heartbeat(wall=lambda: NOW_S)
    for count in (0, 2, 2, 3, 0, 1):
        heartbeat.beat(Doing(waits="store: get failed" if count else "", retry_count=count))
    heartbeat.beat()
    assert (heartbeat.retry_count, heartbeat.waited, heartbeat.doing) == (4, (NOW_S, "store: get failed"), None)


# ---------------------------------------------------------------- the file


def content(now_s=NOW_S, **state):
    """What the file says of one run."""
    return status.as_json([run("a", **state)], "file:///r", NOW_S - 100, now_s)


def test_the_file_is_written_for_news_and_once_a_minute():
    """A file that is a minute old is written again, so that its age tells whether the agent lives."""
    first = content()
    assert status.is_news(first, {})
    assert not status.is_news(content(NOW_S + 59, silent_s=9.0), first)
    assert status.is_news(content(NOW_S + 60), first)
    assert status.is_news(content(NOW_S + 1, last_version=8), first)
    assert status.is_news(content(NOW_S - 1000), first)


def test_a_full_disk_does_not_freeze_the_status(tmp_path, monkeypatch):
    """Without room for a second file the one that is there gets the new content, and is still one value of JSON."""
    file = tmp_path / "status.json"
    status.write_status(file, content())
    size_bytes = file.stat().st_size

    def full(*_args, **_more):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(replaced_file.tempfile, "mkstemp", full)
    status.write_status(file, content(last_error="x" * 500))
    assert json.loads(file.read_bytes())["runs"][0]["last_error"] == "x" * 500
    assert file.stat().st_size == size_bytes
    status.write_status(file, content())
    assert json.loads(file.read_bytes()) == content()
    # What does not fit leaves the old one, and says so.
    with pytest.raises(OSError, match="No space"):
        status.write_status(file, content(last_error="x" * 9000))
    assert json.loads(file.read_bytes()) == content()


def test_what_was_proved_is_known_after_a_restart(tmp_path):
    """The moment until which everything is proved comes back from the file; a file that is none says nothing."""
    record = RunRecord()
    record.proved_until_s = NOW_S - 10
    file = tmp_path / "status.json"
    status.write_status(file, content(record=record))
    assert status.read_proved_until(tmp_path, "file:///r") == {"a": NOW_S - 10}
    assert status.read_proved_until(tmp_path, "file:///other") == {}
    file.write_text('{"format": 1, "repository": "file:///r", "runs": 5}')
    assert status.read_proved_until(tmp_path, "file:///r") == {}


def test_the_line_of_a_version_says_its_lag():
    """The version of a new checkpoint tells how long after its save it was there; others do not."""

    class Making(Failing):
        """Its passes make versions of the checkpoints that it is given."""

        def run(self, stop, *, deadline_s=None):
            """Make a version."""
            number, saved_s = self.error
            version = VersionSeen(number, NOW_S, checkpoint_s=saved_s)
            return PassResult("a", number, number, (), "version", (version,))

    job = Making()
    recorded = RecordedJob(job, RunRecord())
    said = []
    for job.error in ((1, NOW_S - 2.5), (2, NOW_S - 2.5), (3, NOW_S - 9000), (4, NOW_S + 5)):
        said.append(recorded.run(threading.Event()).summary)
    assert said == ["version, 2.5 s after the checkpoint was saved", *["version"] * 3]
