"""What lives in the state directory beside the database, when somebody deletes that directory under a live agent."""

from __future__ import annotations

import dataclasses
import os
import shutil
import threading
from pathlib import Path

import pytest

from doubles.recording_monitor import RecordingMonitor
from mlsync.app.run_lock import RunLock
from mlsync.config.every import Never
from mlsync.config.model import Config, ProofSettings, WatchSettings
from mlsync.errors import RunLocked
from mlsync.repository.keys.keyslot import Passphrase, Stretching
from mlsync.repository.repository import Repository
from mlsync.service.agent import TICK_S, Agent, AgentOptions
from mlsync.service.backup_job import BackupJob, RepositoryOpener
from mlsync.service.job import Heartbeat
from mlsync.service.talk import client
from mlsync.service.talk.place import AgentPlace
from mlsync.service.talk.talk import Talk
from mlsync.store.directory.store import DirectoryStore

SECRET = Passphrase(b"open sesame")
HUNG_S = 1800.0


class TalkingAgent:
    """An agent that has a state to show."""

    def as_json(self):
        """Some state."""
        return {"runs": ["a"]}


@pytest.fixture
def state(tmp_path):
    """A state directory."""
    return tmp_path / "state"


def answers(state):
    """What the agents of a state directory say."""
    return [at.ask("/status").as_json() for at in client.agents(state)]


@pytest.fixture
def talk(state):
    """What talks for an agent."""
    talk = Talk(TalkingAgent(), AgentPlace(state), RecordingMonitor())
    with talk.going_on():
        yield talk


def test_the_socket_is_made_anew(talk, state):
    """After the directory was deleted the agent answers there again, at its next tick, and lets go of the old one."""
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        shutil.rmtree(state)
        talk.tick()
        assert answers(state) == [{"runs": ["a"]}]
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_socket_that_is_there_stays(talk, state):
    """A tick does not replace a socket that people can find."""
    place = (state / "agent-0.sock").stat().st_ino
    talk.tick()
    assert (state / "agent-0.sock").stat().st_ino == place


def test_a_place_where_no_socket_can_be_is_told_once(talk, state):
    """A file in the directory's place costs one warning, and the socket comes back with the directory."""
    shutil.rmtree(state)
    state.write_bytes(b"")
    for _ in range(3):
        talk.tick()
    assert [level for level, _ in talk._monitor.notices] == ["warning"]
    state.unlink()
    talk.tick()
    assert answers(state) == [{"runs": ["a"]}]


@pytest.fixture
def job(tmp_path, state):
    """A run with a file, and its job."""
    Repository.create(
        DirectoryStore(tmp_path / "repository", create=True), SECRET, stretching=Stretching(64, 1, 1)
    ).close()
    watch = WatchSettings(tmp_path / "run", "yolo")
    watch.directory.mkdir()
    (watch.directory / "a.txt").write_bytes(b"1")
    config = dataclasses.replace(
        Config.for_repository((tmp_path / "repository").as_uri()),
        state_directory=state,
        watches=(watch,),
        proof=ProofSettings(device="none"),
    )
    job = BackupJob(RepositoryOpener(config, SECRET), watch)
    yield job
    job.close()


def test_the_run_stays_locked(job, state):
    """The pass after the deletion makes the next version, and no other process can take the run meanwhile."""
    assert job.run(threading.Event()).version == 1
    (identity,) = [place.name for place in state.iterdir() if place.is_dir()]
    shutil.rmtree(state)
    (job.directory / "a.txt").write_bytes(b"22")
    assert job.run(threading.Event()).version == 2
    with pytest.raises(RunLocked):
        RunLock(state, identity, "yolo").acquire()


def test_a_run_that_another_took_meanwhile_is_left_to_it(job, state):
    """Whoever takes the run in the new directory has it: the agent's next pass is refused, and goes on after that."""
    assert job.run(threading.Event()).version == 1
    (identity,) = [place.name for place in state.iterdir() if place.is_dir()]
    shutil.rmtree(state)
    with RunLock(state, identity, "yolo"), pytest.raises(RunLocked):
        job.run(threading.Event())
    (job.directory / "a.txt").write_bytes(b"22")
    assert job.run(threading.Event()).version == 2


class StoppedWorker:
    """A worker that has not been heard of since the clock stood at zero."""

    def __init__(self, clock, thread):
        self.clock, self.thread = clock, thread
        self.job = dataclasses.make_dataclass("Job", ["name", "directory", "heartbeat", "holds"])(
            "yolo", Path("/run"), Heartbeat(clock), None
        )
        self.state = dataclasses.make_dataclass("State", ["phase"])("waiting")

    def hung(self, limit_s):
        """As a worker says."""
        return self.clock() > limit_s


def test_a_machine_that_slept_has_no_hung_run(state):
    """After an hour in which the agent could not run it does not say that a run hangs; half an hour later it does."""
    now_s = 0.0
    monitor = RecordingMonitor()
    options = AgentOptions(
        repository="file:///nowhere", status_file=state / "status.json", every=Never(), hung_after_s=HUNG_S
    )
    worker = StoppedWorker(lambda: now_s, threading.current_thread())
    agent = Agent([worker.job], options, monitor, clock=lambda: now_s)
    agent._workers = [worker]
    now_s = 3600.0
    agent._check_workers()
    assert agent.unhealthy() is None
    while now_s < 3600.0 + HUNG_S - TICK_S:
        now_s += TICK_S
        agent._check_workers()
    assert (agent.unhealthy(), monitor.notices) == (None, [])
    now_s += TICK_S
    agent._check_workers()
    assert agent.unhealthy() == "hangs: yolo"
