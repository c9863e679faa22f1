"""The last backup that a command asks a running agent for, over its real socket."""

from __future__ import annotations

import pytest

from doubles.recording_monitor import RecordingMonitor
from mlsync.app.pass_result import PassResult
from mlsync.errors import AgentAway, LastBackupLate, RunMissing, Stopped
from mlsync.service.agent import Agent, AgentOptions
from mlsync.service.job import Heartbeat
from mlsync.service.preemption_watch import within_s
from mlsync.service.talk.last_backup import back_up_for_the_end
from mlsync.service.talk.place import AgentPlace
from mlsync.service.talk.talk import Talk

STORE = "file:///r"


class PlayedAgent:
    """An agent with the runs a and b; *ends* says how their passes end, each in its turn, and ``None`` not at all."""

    def __init__(self):
        self.queries = []
        self.ends = {"a": ["made 7"], "b": ["made 3"]}
        self.passes = []

    def as_json(self):
        """The runs."""
        return {"repository": STORE, "runs": [{"run": "a"}, {"run": "b"}]}

    def request_backup(self, runs, query):
        """Note the request."""
        self.queries.append(dict(query))
        ids = []
        for run in runs:
            self.passes.append((run, self.ends[run].pop(0)))
            ids.append(len(self.passes) - 1)
        return self.requested(ids)

    def requested(self, ids, uid=None):
        """How the passes ended."""
        return {"passes": [self._pass(number, *self.passes[number]) for number in ids]}

    def _pass(self, number, run, end):
        error = {"kind": "StoreUnavailable", "what": (end or "")[1:], "where": None, "advice": None}
        is_error = bool(end) and end[0] == "!"
        made = bool(end) and end.startswith("made")
        return {
            "id": number,
            "run": run,
            "has_ended": end is not None,
            "version": int(end.removeprefix("made ")) if made else None,
            "is_proved": False,
            "summary": end if made else None,
            "troubles": [],
            "error": error if is_error else None,
        }

    def unhealthy(self):
        """Nothing is wrong."""

    def unready(self):
        """Nothing is wrong."""


@pytest.fixture
def agent(tmp_path):
    """An agent that talks."""
    agent = PlayedAgent()
    with Talk(agent, AgentPlace(tmp_path), RecordingMonitor()).going_on():
        yield agent


class Time:
    """A clock that sleep moves."""

    now_s = 0.0

    def __call__(self):
        """The time."""
        return self.now_s

    def sleep(self, seconds):
        """Move on."""
        self.now_s += seconds


def wait_for(place, time, runs=(), within_s=30.0, stop=lambda: False):
    """What the command does."""
    return back_up_for_the_end(place, STORE, runs, within_s, stop, clock=time, sleep=time.sleep)


def test_it_returns_when_the_last_backup_of_every_run_is_committed(agent, tmp_path):
    """The agent is told how long there is, and a proof that is pending is no failure."""
    made = wait_for(tmp_path, Time())
    assert [(one.run, one.version, one.is_proved) for one in made] == [("a", 7, False), ("b", 3, False)]
    assert agent.queries == [{"run": ["a", "b"], "preempt": ["1"], "within": ["30.000"]}]


def test_a_backup_that_fails_is_asked_for_again(agent, tmp_path):
    """As long as there is time: a store may come back within the last seconds."""
    agent.ends["b"] = ["!the store is away", "!the store is away", "made 3"]
    time = Time()
    assert [one.version for one in wait_for(tmp_path, time)] == [7, 3]
    assert agent.queries[1:] == [{"run": ["b"]}, {"run": ["b"]}]
    assert time.now_s == 2.0


@pytest.mark.parametrize(
    ("end", "why"),
    [("!the store is away", "is not committed: the store is away "), (None, "is not committed .what was uploaded")],
)
def test_it_ends_when_the_time_is_over(agent, tmp_path, end, why):
    """The error names the runs whose last backup is missing, and why."""
    agent.ends["b"] = [end] * 100
    time = Time()
    with pytest.raises(LastBackupLate, match=f"the last backup of b {why}"):
        wait_for(tmp_path, time, within_s=5.0)
    assert 5 <= time.now_s < 5.5


def test_a_signal_ends_the_wait(agent, tmp_path):
    """The agent goes on."""
    agent.ends["a"] = [None]
    with pytest.raises(Stopped):
        wait_for(tmp_path, Time(), stop=lambda: True)


def test_an_agent_that_ends_first_is_told(agent, tmp_path):
    """Nobody can say any more what is committed."""
    agent.ends["a"] = [""]
    with pytest.raises(AgentAway, match="before the last backup"):
        wait_for(tmp_path, Time())


def test_a_run_that_no_agent_keeps_is_told(agent, tmp_path):
    """It is no reason to wait."""
    with pytest.raises(RunMissing):
        wait_for(tmp_path, Time(), ["c"])
    assert agent.queries == []


class Job:
    """A job of which only the name counts."""

    heartbeat = Heartbeat()

    def __init__(self, name, directory):
        self.name, self.directory = name, directory
        self.holds = None

    def prepare(self):
        """Nothing."""

    def rests_until_s(self, since_s):
        """Nobody else needs the processors."""
        return float("-inf")

    def run(self, _stop, **_how):
        """Nothing."""
        return PassResult(self.name, None, None, (), "")


def test_the_agent_hurries_the_runs_that_are_named(tmp_path):
    """It asks the trainer to save before the end; the other runs go on as ever."""
    saves, monitor = [], RecordingMonitor()
    agent = Agent(
        [Job("a", tmp_path), Job("b", tmp_path)],
        AgentOptions(STORE, tmp_path / "status.json"),
        monitor,
        request_save=saves.append,
        clock=lambda: 5000.0,
    )
    agent.request_backup(["b"], {"preempt": ["1"], "within": ["20"]})
    assert saves == [5018.0]
    assert [worker._hurry_until_s for worker in agent._workers] == [None, 5018.0]
    assert monitor.notices[-1][1].startswith("a command says that this machine ends in 20 s")
    agent.request_backup([], {"preempt": [""]})
    assert saves == [5018.0, 5028.0]


@pytest.mark.parametrize("text", ["", "-5", "1e9", "nan", "inf", "123456", "5 s", "٣"])
def test_a_time_that_cannot_be_is_none(text):
    """What a signal leaves here holds then."""
    assert within_s({"within": [text]}) is None
    assert within_s({}) is None
    assert within_s({"within": ["12.5"]}) == 12.5
