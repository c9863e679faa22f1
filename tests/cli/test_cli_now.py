"""``mlsync now``: a real agent on a socket, asked by the real command."""

from __future__ import annotations

import dataclasses
import json
import threading

import pytest

from doubles.recording_monitor import RecordingMonitor
from mlsync.app.pass_result import PassResult
from mlsync.cli.arguments.invocation import Invocation
from mlsync.cli.main import _run
from mlsync.config.every import Never
from mlsync.errors import StoreUnavailable
from mlsync.service.agent import Agent, AgentOptions
from mlsync.service.job import Heartbeat
from mlsync.service.talk import ask_now
from mlsync.service.unit.notify import Notifier
from mlsync.service.worker import Timing

PATIENCE_S = 30.0


class Job:
    """A job whose first pass finds nothing, and each further one what *then* says."""

    holds = None

    def __init__(self, name, directory, then):
        self.name, self.directory, self.heartbeat = name, directory, Heartbeat()
        self.passes = threading.Semaphore(0)
        self._then = [PassResult(name, None, None, (), "nothing changed"), *then]

    def prepare(self):
        """Nothing to get ready."""

    def rests_until_s(self, since_s):
        """Nobody else needs the processors."""
        return float("-inf")

    def run(self, stop, **_how):
        """One pass."""
        self.passes.release()
        then = self._then.pop(0) if len(self._then) > 1 else self._then[0]
        if isinstance(then, Exception):
            raise then
        return then


@pytest.fixture
def keeping(tmp_path, monkeypatch, capsys):
    """Starts an agent that keeps runs by name, and asks it with ``mlsync now``."""
    monkeypatch.setattr(ask_now, "_POLL_S", 0.01)
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    (tmp_path / "mlsync.toml").write_text(f'repository = "file:///nowhere"\nstate_directory = "{state}"\n')
    agents = []

    def keep(**runs):
        jobs = [Job(name, tmp_path / "absent", then) for name, then in runs.items()]
        timing = Timing(on_change=False)
        options = AgentOptions("file:///nowhere", state / "status.json", every=Never(), timing=timing)
        agent = Agent(jobs, options, RecordingMonitor(), notifier=Notifier(None))
        thread = threading.Thread(target=agent.run, kwargs={"signals": False})
        thread.start()
        agents.append((agent, thread))
        assert all(job.passes.acquire(timeout=PATIENCE_S) for job in jobs)

    def now(*arguments):
        words = ("now", *arguments, "--config", str(tmp_path / "mlsync.toml"))
        status = _run(Invocation("mlsync", words))
        return status, *capsys.readouterr()

    yield keep, now
    for agent, thread in agents:
        agent.stop()
        thread.join(PATIENCE_S)


def made(name, version, *, is_proved=True):
    return PassResult(name, version, version if is_proved else None, (), f"version {version} in 0.1 s")


def test_it_waits_for_the_version(keeping):
    """With --wait it ends when the version is there, says what it is, and ends with 0."""
    keep, now = keeping
    keep(a=[made("a", 4)], b=[made("b", 9)])
    assert now("a", "--wait") == (0, "a: version 4 in 0.1 s\n", "")
    assert now("--wait")[:2] == (0, "a: version 4 in 0.1 s\nb: version 9 in 0.1 s\n")


def test_without_wait_it_only_asks(keeping):
    """It ends at once, and the agent makes a pass over each run that was named."""
    keep, now = keeping
    keep(a=[made("a", 4)], b=[made("b", 9)])
    assert now("b") == (0, "b: asked for\n", "")


def test_a_version_that_is_not_proved_is_told(keeping):
    """A version that is stored alone ends with 79."""
    keep, now = keeping
    keep(a=[made("a", 4, is_proved=False)])
    status, out, err = now("--wait")
    assert (status, out) == (79, "a: version 4 in 0.1 s\n")
    assert "version 4 is stored, and not proved yet: a" in err


def test_a_failure_ends_with_its_own_status(keeping):
    """What the agent met is the command's error, in words, status and JSON; the other runs are shown all the same."""
    keep, now = keeping
    keep(a=[StoreUnavailable("the store is away")], b=[made("b", 9)])
    status, out, err = now("--wait")
    assert (status, out) == (73, "b: version 9 in 0.1 s\n")
    assert "the store is away" in err
    status, out, _ = now("--wait", "--json")
    value = json.loads(out.splitlines()[0])
    assert [one["error"] and one["error"]["exit_status"] for one in value["runs"]] == [73, None]


def test_without_an_agent_it_says_what_to_do(keeping):
    """Nobody there ends with 82 and names both ways on; an agent of another repository counts for nothing."""
    keep, now = keeping
    assert now()[0] == 82
    status, _, err = now("--wait")
    assert status == 82
    assert "mlsync agent" in err
    assert "mlsync backup" in err
    keep(a=[made("a", 4)])
    assert now("--repo", "file:///elsewhere")[0] == 82


def test_a_run_that_the_agent_does_not_keep_is_told(keeping):
    """An unknown run ends with 14 and names those that there are; nothing is asked for."""
    keep, now = keeping
    keep(a=[made("a", 4)])
    status, _, err = now("nope", "a")
    assert status == 14
    assert "it keeps: a" in err


def test_answers_that_make_no_sense_are_refused(keeping):
    """A pass that lacks fields or names an error that there is none of is no crash."""
    one = dataclasses.asdict(made("a", 4))
    with pytest.raises(ask_now.AgentAway, match="makes no sense"):
        ask_now.AskedPass.of_json(ask_now.AgentAt("/socket", []), one)
    error = ask_now._error({"kind": "os", "what": "w", "where": None, "advice": None})
    assert (type(error).__name__, error.what) == ("Error", "w")


def test_the_end_of_the_machine_is_told(keeping):
    """With --preempt it ends with 0 once the last backup is committed, although its proof is to come."""
    keep, now = keeping
    keep(a=[made("a", 4, is_proved=False)])
    assert now("--preempt", "--within", "20s") == (0, "a: version 4 in 0.1 s\n", "")


def test_a_last_backup_that_comes_too_late_is_told(keeping):
    """When the time is over it ends with 100, and says what was in the way."""
    keep, now = keeping
    keep(a=[StoreUnavailable("the store is away")])
    status, out, err = now("--preempt", "--within", "100ms")
    assert (status, out) == (100, "")
    assert "the last backup of a is not committed: the store is away" in err


@pytest.mark.parametrize("words", [("--within", "5s"), ("--preempt", "--within", "0s"), ("--preempt", "--within", "x")])
def test_a_time_until_the_end_that_means_nothing_is_refused(keeping, words):
    """It belongs to --preempt, and is a length of time above zero."""
    assert keeping[1](*words)[0] == 2
