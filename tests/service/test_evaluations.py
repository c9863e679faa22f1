"""What an agent evaluates after the proof, in which order, and what becomes of failures; once with the real process."""

from __future__ import annotations

import dataclasses
import threading
import time

import pytest

from doubles.recording_monitor import RecordingMonitor
from flow_parts import uniform_checkpoint
from mlsync.cli.reports.live_report import live_lines
from mlsync.config.model import Config, EvaluateSettings, ProofSettings, WatchSettings
from mlsync.errors import EvaluationFailed, Stopped
from mlsync.repository.keys.keyslot import Passphrase, Stretching
from mlsync.repository.repository import Repository
from mlsync.service.afterwards.evaluations import RETRY_S, TRIES_MAX, AgentEvaluations
from mlsync.service.backup_job import BackupJob, RepositoryOpener
from mlsync.service.passes.pass_process import Opened
from mlsync.service.run_record import LastEvaluation, RunRecord
from mlsync.store.directory.store import DirectoryStore
from mlsync.upkeep.version_seen import VersionSeen

NOTHING = {"numbers": {}, "label": "", "notes": [], "is_new": False, "tells_nothing": False}
SECRET = Passphrase(b"open sesame")


def version(number, **more):
    """A proved version with one checkpoint."""
    return VersionSeen(number, 1000.0 + number, checkpoint_count=1, level=4, **more)


class Process:
    """Stands for the process that evaluates: notes what is asked, and answers with *answer*."""

    def __init__(self, answer):
        self.answer = answer
        self.asked = []
        self.closed = 0

    def ask(self, request, _stop):
        """Answer."""
        self.asked.append(request)
        return self.answer(request)

    def close(self):
        """Note it."""
        self.closed += 1


class Agent:
    """The evaluations of an agent, at a time that the test says."""

    def __init__(self, answer, *, on="every", **more):
        settings = EvaluateSettings(command=("measure",), on=on, **more)
        watch = WatchSettings(directory="/data", run="yolo", evaluate=settings)
        config = Config("file:///r", "/s", watches=(watch,))
        self.now_s, self.monitor, self.ended = 0.0, RecordingMonitor(), []
        self.known = [version(4)]
        opened = Opened(None, conditional_create=True, slot="")
        self.evaluations = AgentEvaluations(
            config, lambda: opened, self.monitor, clock=lambda: self.now_s, wall=lambda: 5.0
        )
        self.process = self.evaluations._process = Process(answer)
        self.evaluations.versions = lambda _run: self.known
        self.evaluations.measured = lambda run, measured: self.ended.append((run, measured))

    def pass_ends(self):
        """A pass ended; what it began has ended too. The versions that were asked for since the last one."""
        before = len(self.process.asked)
        self.evaluations.passed("yolo")
        self.evaluations.wait()
        return [request.number for request in self.process.asked[before:]]


def measured(request):
    """Say a number."""
    return NOTHING | {"numbers": {"accuracy": request.number / 10}, "label": "measure", "is_new": True}


def test_each_proved_version_is_evaluated_once_from_the_newest_on():
    """The newest one at the start, and each that comes, the newest first; none before it, and none twice."""
    agent = Agent(measured)
    agent.known = [version(3), version(4)]
    assert agent.pass_ends() == [4]
    assert agent.pass_ends() == []
    agent.known += [
        version(5),
        version(6, is_pending=True),
        version(7),
        dataclasses.replace(version(8), broken_count=1),
    ]
    assert agent.pass_ends() == [7, 5]
    agent.known[4] = version(6)
    assert agent.pass_ends() == [6]
    assert agent.ended[0] == ("yolo", LastEvaluation(4, 5.0, {"accuracy": 0.4}))
    assert agent.monitor.notices[0] == ("info", "yolo: version 4 evaluated by measure: accuracy 0.4")
    assert agent.process.closed == 3


def test_the_process_learns_what_was_known_before():
    """It gets the version with a checkpoint before, and the highest fitness of all before."""
    agent = Agent(measured, on="best")
    agent.known = [version(1, fitness=0.9), version(2, fitness=0.5), VersionSeen(3, 1.0), version(4, fitness=0.6)]
    agent.pass_ends()
    (request,) = agent.process.asked
    assert (request.number, request.previous, request.fitness_before) == (4, 2, 0.9)


def test_a_failure_is_told_tried_again_and_given_up():
    """It costs no version, waits longer each time, and ends with what a person can do."""

    def fails(_request):
        raise EvaluationFailed("measure ended with 3")

    agent = Agent(fails)
    assert [agent.pass_ends(), agent.pass_ends()] == [[4], []]
    for number in range(1, TRIES_MAX):
        agent.now_s += RETRY_S * 2 ** (number - 1)
        assert agent.pass_ends() == [4]
    agent.now_s += 1e9
    assert agent.pass_ends() == []
    texts = [text for _, text in agent.monitor.notices]
    assert "version 4 is not evaluated: measure ended with 3" in texts[0]
    assert texts[0].endswith("; next try in 10 min")
    assert texts[-1].endswith("; given up after 3 tries: mlsync evaluate 4 --run yolo tries it again")
    assert [one.is_final for _, one in agent.ended] == [False, False, True]
    assert all(one.error.startswith("measure ended with 3; ") for _, one in agent.ended)


def test_another_version_does_not_wait_for_one_that_fails():
    """While one waits for its next try, newer ones are evaluated."""

    def answer(request):
        if request.number == 4:
            raise EvaluationFailed("no")
        return measured(request)

    agent = Agent(answer)
    agent.pass_ends()
    agent.known.append(version(5))
    assert agent.pass_ends() == [5]


def test_a_trainer_that_tells_nothing_is_told_of_once():
    """On = "best" without anything to go by says so once, and evaluates nothing."""
    agent = Agent(lambda _request: NOTHING | {"tells_nothing": True}, on="best")
    agent.pass_ends()
    agent.known.append(version(5))
    agent.pass_ends()
    ((level, text),) = agent.monitor.notices
    assert (level, 'on = "every" evaluates each' in text) == ("warning", True)
    assert agent.ended == []


@pytest.mark.parametrize("on", ["registered", "never"])
def test_nothing_is_evaluated_unless_it_is_wanted(on):
    """What is only for registered versions, or for a person, begins nothing after a pass."""
    agent = Agent(measured, on=on)
    assert agent.pass_ends() == []
    assert not agent.evaluations.evaluates("yolo")


def test_an_agent_that_ends_says_nothing_of_what_it_stops():
    """A stop is no failure, and nothing begins after it."""

    def stops(_request):
        agent.evaluations._stop.set()
        raise Stopped("stopped")

    agent = Agent(stops)
    agent.pass_ends()
    agent.evaluations.close()
    assert (agent.monitor.notices, agent.ended, agent.pass_ends()) == ([], [], [])


def test_a_record_keeps_numbers_when_a_pass_tells_of_the_version_again():
    """A later proof tells of a version without its numbers, which stay; a second evaluation adds to them."""
    from mlsync.app.pass_result import PassResult

    record = RunRecord(wall=lambda: 0.0)
    record.passed(PassResult("yolo", 4, 4, (), "", (version(4),)), 0.0, 1.0)
    record.evaluated(LastEvaluation(4, 5.0, {"a": 1.0}))
    record.passed(PassResult("yolo", None, 4, (), "", (version(4),)), 0.0, 1.0)
    record.evaluated(LastEvaluation(4, 6.0, {"b": 2.0}))
    assert record.versions[0].numbers == {"a": 1.0, "b": 2.0}
    record.evaluated(LastEvaluation(99, 6.0, {"b": 2.0}))


def test_status_has_the_last_evaluation():
    """A person reads its numbers, or why there are none."""
    one = {"version": 7, "when_s": 940.0, "numbers": {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}, "error": None}
    assert list(live_lines({"evaluation": one}, 1000.0)) == ["version 7 evaluated 1 min ago: a 1, b 2, c 3 and 1 more"]
    (line,) = live_lines({"evaluation": one | {"error": "no; next try in 10 min"}}, 1000.0)
    assert line == "version 7 is not evaluated, 1 min ago: no; next try in 10 min"


@pytest.fixture
def place(tmp_path):
    """A run in a directory, its repository, and the job of an agent."""
    training = tmp_path / "run"
    training.mkdir()
    store = DirectoryStore(tmp_path / "repository", create=True)
    Repository.create(store, SECRET, stretching=Stretching(64, 1, 1)).close()
    script = 'test -f "$1" && echo accuracy 0.5 && echo epoch "$MLSYNC_EVALUATE_EPOCH"'
    settings = EvaluateSettings(command=("sh", "-c", script, "sh", "{checkpoint}"), on="best")
    watch = WatchSettings(directory=training, run="yolo", evaluate=settings)
    url = f"file://{tmp_path}/repository"
    return Config(url, tmp_path / "state", watches=(watch,), proof=ProofSettings(device="cpu"))


@pytest.mark.slow
def test_a_real_process_evaluates_what_a_real_pass_proved(place, monkeypatch):
    """A new best version is evaluated in the background, one that is no better is not, and an agent anew finds both."""
    monkeypatch.setenv("MLSYNC_PASSPHRASE", "never seen")
    (watch,) = place.watches
    monitor, record, ended = RecordingMonitor(), RunRecord(), []
    opener = RepositoryOpener(place, SECRET)
    job = BackupJob(opener, watch)

    def agent():
        evaluations = AgentEvaluations(place, lambda: opener.opened(threading.Event()), monitor)
        evaluations.versions = lambda _run: record.versions
        evaluations.measured = lambda _run, measured: ended.append((measured.version, dict(measured.numbers)))
        return evaluations

    evaluations = agent()
    for number, best in ((1, 0.1), (2, 0.1), (3, 0.3)):
        (watch.directory / "last.pt").write_bytes(uniform_checkpoint(number, epoch=number, best_fitness=best))
        record.passed(job.run(threading.Event()), 0.0, 1.0)
        evaluations.passed("yolo")
        evaluations.wait()
    evaluations.close()
    assert ended == [(1, {"accuracy": 0.5, "epoch": 1.0}), (3, {"accuracy": 0.5, "epoch": 3.0})], monitor.notices
    assert list(place.state_directory.glob("*/loading/*")) == []
    before = list(monitor.notices)
    evaluations = agent()
    evaluations.passed("yolo")
    evaluations.wait()
    evaluations.close()
    assert ended[2:] == [(3, {"accuracy": 0.5, "epoch": 3.0})]  # as it is stored, and not measured again
    assert monitor.notices == before
    job.close()


@pytest.mark.slow
def test_an_agent_that_ends_kills_the_command_and_removes_its_copy(place):
    """A command in the middle of its work is gone with all that it started, and so is its copy."""
    script = "touch $DIR/began; sleep 1000"
    settings = dataclasses.replace(
        place.watches[0].evaluate,
        command=("sh", "-c", script),
        on="every",
        environment=(f"DIR={place.watches[0].directory.parent}",),
    )
    watch = dataclasses.replace(place.watches[0], evaluate=settings)
    config = dataclasses.replace(place, watches=(watch,))
    record, opener = RunRecord(), RepositoryOpener(config, SECRET)
    job = BackupJob(opener, watch)
    (watch.directory / "last.pt").write_bytes(uniform_checkpoint(1))
    record.passed(job.run(threading.Event()), 0.0, 1.0)
    monitor = RecordingMonitor()
    evaluations = AgentEvaluations(config, lambda: opener.opened(threading.Event()), monitor)
    evaluations.versions = lambda _run: record.versions
    evaluations.passed("yolo")
    deadline_s = time.monotonic() + 60
    while not (watch.directory.parent / "began").exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    evaluations.close()
    job.close()
    assert list(config.state_directory.glob("*/loading/*")) == []
    assert monitor.notices == []
