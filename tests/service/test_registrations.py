"""What the agent has registered: which versions, that nothing waits for it, and that nothing is lost."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

import pytest

from doubles.recording_monitor import RecordingMonitor
from mlsync.app.pass_result import PassResult
from mlsync.cli.reports.live_report import channel_lines
from mlsync.codec.keys import Keys
from mlsync.config.model import Config, MlflowSettings
from mlsync.errors import StoreUnavailable
from mlsync.service.afterwards.registrations import BEST, Registrations
from mlsync.service.passes.pass_process import Opened
from mlsync.service.talk.metrics import exposition
from mlsync.upkeep.version_seen import VersionSeen

OPENED = Opened(Keys(bytes(32), bytes(16)), conditional_create=True, slot="keys/00")
AWAY = "MLflow is not reached: Connection refused"


class Server:
    """Stands for the process that registers: what it was asked, and what it answers."""

    def __init__(self) -> None:
        self.asked = []
        self.failure = ""
        self.raises = None
        self.dropped = ()
        self.changed = threading.Condition()
        self.held = threading.Event()
        self.held.set()

    def __call__(self, request, _stop):
        """Register all of it, or fail."""
        self.held.wait(10)
        with self.changed:
            self.asked.append(request.wanted)
            self.changed.notify_all()
            if self.raises is not None:
                raise self.raises
            failed = bool(self.failure)
            done = [
                {"run": run, "version": number or 7, "model": run, "number": 1, "aliases": ["champion"], "is_new": True}
                for run, number in request.wanted
                if not failed and (run, number) not in {one[:2] for one in self.dropped}
            ]
            left = list(request.wanted) if failed else []
            return {"done": done, "left": left, "dropped": list(self.dropped), "failure": self.failure}

    def wait(self, count):
        """What was asked, once it was asked so often."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.asked) >= count, 10), self.asked
        return self.asked


@pytest.fixture
def server():
    """The process."""
    return Server()


def config(tmp_path, on="proved"):
    """A configuration that registers."""
    settings = MlflowSettings(tracking_uri="http://127.0.0.1:1", on=on)
    return replace(Config("file:///r", tmp_path), mlflow=settings)


@pytest.fixture
def made(tmp_path, server):
    """Makes registrations, and closes them."""
    all_of_them = []

    def make(on="proved", monitor=None, **more):
        found = Registrations(config(tmp_path, on), monitor or RecordingMonitor(), ask=server, **more)
        all_of_them.append(found)
        return found

    yield make
    for one in all_of_them:
        one.close()


def proved(version, fitness=None, **more):
    """The outcome of a pass that proved a version."""
    seen = VersionSeen(version, 0.0, checkpoint_count=1, fitness=fitness, **more)
    return PassResult("yolo", version, version, (), "", (seen,))


def settled(registrations):
    """Wait until its thread is at rest."""
    thread = registrations._thread
    if thread is not None:
        thread.join(10)


def test_each_proved_version_is_registered(made, server):
    """One after the other, and told; a pass that proved nothing leaves nothing."""
    found = made()
    told = []
    found.told = told.append
    for version in (1, 2):
        found.passed(OPENED, "yolo", proved(version))
        settled(found)
    found.passed(OPENED, "yolo", PassResult("yolo", 3, None, (), ""))
    found.passed(OPENED, "yolo", PassResult("yolo", 4, 4, (), "", (VersionSeen(4, 0.0),)))  # logs alone
    settled(found)
    assert server.asked == [(("yolo", 1),), (("yolo", 2),)]
    assert [one["version"] for one in told] == [1, 2]
    assert found.as_json()["registered"] == 2


def test_no_pass_waits_for_it(made, server):
    """A server that hangs holds a thread of its own; more waits meanwhile, and goes next."""
    server.held.clear()
    found = made()
    for version in (1, 2, 3):
        found.passed(OPENED, "yolo", proved(version))
    assert [one["version"] for one in found.as_json()["waiting"]] == [1, 2, 3]
    server.held.set()
    settled(found)
    assert [number for wanted in server.asked for _, number in wanted] in ([1, 2, 3], [1, 2, 3, 2, 3])
    assert found.as_json()["waiting"] == []


def test_only_what_may_be_the_best_is_looked_at(made, server):
    """A version that is worse than one before starts nothing; one of which nothing is known is looked at."""
    found = made("best")
    history = (VersionSeen(1, 0.0, checkpoint_count=1, fitness=0.5),)
    found.passed(OPENED, "yolo", PassResult("yolo", None, None, (), "", history))
    found.passed(OPENED, "yolo", proved(2, 0.4))
    settled(found)
    assert server.asked == []
    for version, fitness in ((3, 0.6), (4, None), (5, 0.6)):
        found.passed(OPENED, "yolo", proved(version, fitness))
        settled(found)
    found.passed(OPENED, "yolo", proved(6, 0.55))
    settled(found)
    assert server.asked == [(("yolo", BEST),)] * 3


@pytest.mark.parametrize(("on", "wanted"), [("best", [BEST]), ("proved", [3])])
def test_what_a_last_pass_proved_is_registered_by_the_next_agent(made, server, tmp_path, on, wanted):
    """A last pass tells nothing of its version but that it is proved; it waits in the file all the same."""
    server.held.clear()
    found = made(on)
    found.passed(OPENED, "yolo", PassResult("yolo", 3, 3, (), "", newest_checkpoint_ns=1))
    (file,) = tmp_path.rglob("registrations-*.json")
    assert json.loads(file.read_text())["waiting"] == wanted
    server.held.set()


@pytest.mark.expected_warnings("what is to be registered could not be noted")
def test_a_bug_here_fails_no_pass(made, monkeypatch):
    """It is logged, and the pass went through."""
    found = made()
    monkeypatch.setattr(found, "_wanted", lambda *_: 1 / 0)
    found.passed(OPENED, "yolo", proved(1))


def test_the_best_waits_for_its_evaluation(made, server):
    """Where versions are evaluated, nobody knows before that which one is best."""
    found = made("best")
    found.evaluates = lambda run: run == "yolo"
    found.evaluated("yolo")  # before any pass
    found.passed(OPENED, "yolo", proved(1, 0.9))
    settled(found)
    assert server.asked == []
    found.evaluated("yolo")
    found.evaluated("nobody")
    settled(found)
    assert server.asked == [(("yolo", BEST),)]
    every = made("proved")
    every.evaluates = found.evaluates
    every.passed(OPENED, "yolo", proved(2))
    settled(every)
    every.evaluated("yolo")
    settled(every)
    assert server.asked[1:] == [(("yolo", 2),)]


def test_nothing_is_registered_unless_it_is_said(made, server, tmp_path):
    """Without on there is no thread, no file, and nothing in the status."""
    found = made("never")
    found.passed(OPENED, "yolo", proved(1))
    assert (found.as_json(), found._thread, list(tmp_path.rglob("registrations*")), server.asked) == (
        None,
        None,
        [],
        [],
    )


@pytest.mark.parametrize("fault", ["answer", "error"])
def test_a_server_that_is_away_loses_nothing(made, server, fault, tmp_path):
    """What waits is in a file, is tried again later and later, and a new agent goes on with it."""
    now = [0.0]
    monitor = RecordingMonitor()
    found = made(monitor=monitor, clock=lambda: now[0])
    server.failure = AWAY
    server.raises = StoreUnavailable(AWAY) if fault == "error" else None
    found.passed(OPENED, "yolo", proved(1))
    server.wait(1)
    (file,) = tmp_path.rglob("registrations-*.json")
    assert json.loads(file.read_text())["waiting"] == [1]
    assert file.stat().st_mode & 0o777 == 0o600
    for _ in range(100):
        if found.as_json()["failures"]:
            break
        threading.Event().wait(0.02)
    assert found.as_json()["last_failure"] == AWAY
    assert found._not_before_s == 10.0
    assert "(1 version): MLflow is not reached" in next(channel_lines({"channels": [], "registry": found.as_json()}))
    assert b"mlsync_registrations_waiting 1\n" in exposition([], 0.0, (), found.as_json())
    found.close()
    server.failure, server.raises = "", None
    again = made()
    again.passed(OPENED, "yolo", PassResult("yolo", None, None, (), ""))
    settled(again)
    assert server.asked[-1] == (("yolo", 1),)
    assert not file.exists()
    assert [text for level, text in monitor.notices if level == "warning"] == [
        f"not registered yet: {AWAY}; tried again later"
    ]


def test_waits_grow_and_end(made, server):
    """Ten seconds at first, a quarter of an hour at most; a success ends the row."""
    found = made(clock=lambda: 0.0)
    waits = []
    for _ in range(9):
        found._note(AWAY)
        waits.append(found._not_before_s)
    assert waits == [10, 20, 40, 80, 160, 320, 640, 900, 900]
    found._note("")
    assert (found.failures, found.last_failure) == (0, "")


def test_what_never_can_be_is_dropped_and_told(made, server):
    """A version that is gone is not tried for ever."""
    monitor = RecordingMonitor()
    server.dropped = (("yolo", 1, "version 1 was removed"),)
    found = made(monitor=monitor)
    found.passed(OPENED, "yolo", proved(1))
    settled(found)
    assert found.as_json()["waiting"] == []
    found.passed(OPENED, "yolo", proved(1))
    settled(found)
    assert [text for _, text in monitor.notices].count("yolo: version 1 is not registered: version 1 was removed") == 1


@pytest.mark.parametrize(
    "content", ["", "[]", '{"format": 2, "waiting": [1]}', '{"format": 1, "waiting": [true, -1]}', "\xff"]
)
def test_a_file_that_is_none_counts_as_empty(made, server, content, tmp_path):
    """Somebody's file, or half of one, stops nothing."""
    found = made()
    found.passed(OPENED, "yolo", PassResult("yolo", None, None, (), ""))
    file = found._runs["yolo"].file
    file.parent.mkdir(parents=True)
    file.write_text(content, "latin-1")
    again = made()
    again.passed(OPENED, "yolo", proved(3))
    settled(again)
    assert server.asked == [(("yolo", 3),)]


def test_the_end_of_a_training_waits_for_it(made, server):
    """For what the last pass left, as long as the server takes it; not for one that is away."""
    found = made()
    server.held.clear()
    found.passed(OPENED, "yolo", proved(1))
    threading.Timer(0.2, server.held.set).start()
    found.finish(10.0)
    assert found.as_json()["waiting"] == []
    server.failure = AWAY
    found.passed(OPENED, "yolo", proved(2))
    found.finish(10.0)
    assert len(found.as_json()["waiting"]) == 1
