"""The agent as a process of its own, with real signals, files, locks and a real manager's socket."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from doubles.recording_monitor import RecordingMonitor
from mlsync.app.pass_result import PassResult
from mlsync.app.run_lock import RunLock
from mlsync.config.every import Interval, Never
from mlsync.config.load import load
from mlsync.config.model import Config
from mlsync.errors import ConfigInvalid
from mlsync.service.agent import Agent, AgentOptions
from mlsync.service.job import Heartbeat
from mlsync.service.unit.notify import Notifier

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("agent_process.py")
PATIENCE_S = 30.0


class Running:
    """An agent's process, and what it has reported."""

    def __init__(self, process, report, state):
        self.process = process
        self.report = report
        self.state = state

    def lines(self):
        """What was reported so far."""
        return self.report.read_text().splitlines() if self.report.exists() else []

    def wait_for(self, line, times=1):
        """*line* was reported so often."""
        deadline = time.monotonic() + PATIENCE_S
        while self.lines().count(line) < times:
            assert time.monotonic() < deadline, (line, self.lines())
            assert self.process.poll() is None, self.process.stderr.read()
            time.sleep(0.02)

    def status(self, run, **wanted):
        """The run's status as soon as it says what is wanted."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            file = self.state / "status.json"
            runs = json.loads(file.read_text())["runs"] if file.exists() else []
            for status in runs:
                if status["run"] == run and all(status[key] == value for key, value in wanted.items()):
                    return status
            assert time.monotonic() < deadline, (wanted, runs)
            time.sleep(0.02)

    def end(self, number=signal.SIGTERM):
        """Exit status and log after the signal."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self):
        """Exit status and log."""
        _, log = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, log


@pytest.fixture
def agent(tmp_path):
    running = []

    def start(*jobs, report="report", **environ):
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(tmp_path / "state"), str(tmp_path / report), *jobs],
            env={**os.environ, **environ},
            stderr=subprocess.PIPE,
            text=True,
        )
        one = Running(process, tmp_path / report, tmp_path / "state")
        running.append(one)
        return one

    yield start
    for one in running:
        if one.process.poll() is None:
            one.process.kill()
            one.process.communicate()


@pytest.fixture
def runs(tmp_path):
    """Three training directories."""
    places = [tmp_path / "runs" / name for name in "abc"]
    for place in places:
        place.mkdir(parents=True)
    return places


def test_a_change_makes_a_version(agent, runs):
    """A file that a trainer finished is in a version soon, and its run alone is looked at."""
    running = agent(f"a=count:{runs[0]}", f"b=count:{runs[1]}")
    running.wait_for("a version 1 of 0 files")
    running.wait_for("b version 1 of 0 files")
    running.status("a", watched=True)
    (runs[0] / "last.pt").write_bytes(b"x")
    running.wait_for("a version 2 of 1 files")
    status = running.status("a", last_version=2)
    assert (status["last_proved_version"], status["last_error"], status["phase"]) == (2, None, "waiting")
    assert (running.end()[0], running.lines().count("b begins")) == (0, 1)


def test_many_changes_make_one_pass(agent, runs):
    """Files that are saved one after the other are backed up together."""
    running = agent(f"a=count:{runs[0]}", SETTLE="0.5")
    running.wait_for("a version 1 of 0 files")
    running.status("a", watched=True, phase="waiting")
    for number in range(20):
        (runs[0] / f"epoch{number}.pt").write_bytes(b"x")
    running.wait_for("a version 2 of 20 files")
    assert running.end()[0] == 0
    assert running.lines().count("a begins") == 2


def test_rescans_find_what_no_event_told(agent, runs):
    """A change without an event, as through a mapping of the file, is found by the next rescan."""
    file = runs[0] / "mapped"
    file.write_bytes(b"old")
    running = agent(f"a=count:{runs[0]}", RESCAN="0.2")
    running.wait_for("a version 1 of 1 files")
    os.utime(file, ns=(1, 1))
    running.wait_for("a version 2 of 1 files")
    assert running.end()[0] == 0


def test_one_run_never_blocks_another(agent, runs):
    """While one run's pass goes on and on, another run gets its versions."""
    running = agent(f"a=slow:{runs[0]}", f"b=count:{runs[1]}")
    running.wait_for("a begins")
    running.status("b", watched=True, last_version=1)
    (runs[1] / "x").write_text("x")
    running.wait_for("b version 2 of 1 files")
    assert running.status("a")["phase"] == "running"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_a_pass_save_its_place(number, agent, runs):
    """On SIGTERM and SIGINT a pass ends at its next safe point, a last one is made, and the agent ends with 0."""
    running = agent(f"a=slow:{runs[0]}")
    running.wait_for("a begins")
    status, log = running.end(number)
    assert (status, running.lines()[1:3]) == (0, ["a saved its place", "a begins the last pass"])
    assert "cut short" not in log


def test_the_last_pass_holds_what_no_event_told_yet(agent, runs):
    """What changed a moment before SIGTERM is in a version, although the files have not settled."""
    running = agent(f"a=count:{runs[0]}", SETTLE="3600")
    running.status("a", watched=True, last_version=1)
    (runs[0] / "last.pt").write_text("x")
    assert running.end()[0] == 0
    assert running.lines()[-2:] == ["a begins the last pass", "a version 2 of 1 files"]
    assert running.status("a")["last_version"] == 2


def test_a_deaf_pass_does_not_hold_the_end_up(agent, runs):
    """A pass that does not heed the end is left behind when the time is over, and that is told."""
    running = agent(f"a=deaf:{runs[0]}", STOP_WITHIN="0.3")
    running.wait_for("a begins")
    status, log = running.end()
    assert status == 0
    assert "WARNING a: cut short" in log


def test_a_second_signal_ends_at_once(agent, runs, manager):
    """Whoever signals twice does not want to wait for stop_within."""
    address, listening = manager
    running = agent(f"a=deaf:{runs[0]}", STOP_WITHIN="3600", NOTIFY_SOCKET=address)
    running.wait_for("a begins")
    running.process.send_signal(signal.SIGINT)
    # Two signals at once are one signal to the kernel: the second one only when the first one was heard.
    hear(listening, "STOPPING=1")
    assert running.end(signal.SIGINT)[0] == 0


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_backs_all_runs_up(number, agent, runs):
    """SIGUSR1, and SIGHUP, begins a pass for every run at once, and the agent stays."""
    running = agent(f"a=count:{runs[0]}", f"b=count:{runs[1]}")
    running.wait_for("a version 1 of 0 files")
    running.wait_for("b version 1 of 0 files")
    running.status("b", phase="waiting")
    running.process.send_signal(number)
    running.wait_for("a unchanged")
    running.wait_for("b unchanged")
    assert running.end()[0] == 0


def test_a_store_that_is_away_is_waited_for(agent, runs):
    """A failing run is retried with its error in the status, and other runs do not notice."""
    running = agent(f"a=away:{runs[0]}", f"b=count:{runs[1]}", RETRY="0.1")
    running.wait_for("a begins", times=3)
    status = running.status("a", last_error="the store is away")
    assert (status["phase"], status["last_version"]) == ("retrying", None)
    running.wait_for("b version 1 of 0 files")
    code, log = running.end()
    assert code == 0
    assert "ERROR   a: the store is away; next try in" in log


def test_a_bug_does_not_end_the_agent(agent, runs):
    """An unexpected exception leaves its traceback in the log, and the run is tried again."""
    running = agent(f"a=bug:{runs[0]}", RETRY="0.1")
    running.wait_for("a begins", times=2)
    code, log = running.end()
    assert (code, "Traceback" in log, "ZeroDivisionError: a bug" in log) == (0, True, True)


def test_the_second_agent_on_a_run_says_so_and_stops(agent, runs):
    """Two agents on one run: the second one ends with RunLocked's status and names the first one's process."""
    first = agent(f"a=lock:{runs[0]}")
    first.wait_for("a version 1 of 0 files")
    second = agent(f"a=lock:{runs[0]}", report="second")
    status, log = second.wait()
    assert status == 13
    assert f"another mlsync works on run a: process {first.process.pid} on " in log.splitlines()[-1]
    assert first.process.poll() is None


def test_an_agent_keeps_the_runs_that_are_its_own(agent, runs, tmp_path):
    """With one run locked elsewhere the agent goes on with the other one, and shows the first as locked."""
    with RunLock(tmp_path / "state", "0" * 16, "a"):
        running = agent(f"a=lock:{runs[0]}", f"b=lock:{runs[1]}")
        running.wait_for("b version 1 of 0 files")
        assert running.status("a", phase="locked")["failures"] == 1
        assert running.end()[0] == 0


def test_an_agent_stays_for_runs_that_others_write(agent, runs):
    """Refused as another writer, even for all of its runs, it lives, shows why, and cares for the rest."""
    running = agent(f"a=other:{runs[0]}")
    shown = running.status("a", phase="refused")
    assert (shown["last_error"], shown["failures"]) == ("run is written by another one", 1)
    both = agent(f"a=other:{runs[0]}", f"b=count:{runs[1]}", report="second")
    both.wait_for("b version 1 of 0 files")
    assert both.status("a", phase="refused")["failures"] == 1
    assert (running.end()[0], both.end()[0]) == (0, 0)


def test_the_status_is_private_and_kept_over_a_restart(agent, runs):
    """The status file is its owner's alone, and a new agent knows the last version from it."""
    running = agent(f"a=count:{runs[0]}")
    before = running.status("a", last_version=1, phase="waiting")
    assert (running.state / "status.json").stat().st_mode & 0o777 == 0o600
    assert running.end()[0] == 0
    assert running.status("a")["phase"] == "stopped"
    again = agent(f"a=away:{runs[0]}", report="second")
    status = again.status("a", last_error="the store is away")
    assert (status["last_version"], status["last_proved_s"]) == (1, before["last_proved_s"])


def test_an_idle_agent_is_small(agent, runs):
    """An idle agent has imported neither torch nor numpy nor boto3, and does nothing."""
    running = agent(f"a=count:{runs[0]}")
    running.wait_for("a version 1 of 0 files")
    running.status("a", phase="waiting")
    maps = Path(f"/proc/{running.process.pid}/maps").read_text()
    assert not re.search("torch|numpy|boto", maps)
    code = (
        f"import sys; sys.path.insert(0, {str(PROGRAM.parent)!r}); import agent_process\n"
        "import mlsync.service.watching.schedule, mlsync.service.watching.watch; print(*sys.modules)"
    )
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "boto3", "botocore", "rich", "zstandard"} & set(modules)


@pytest.fixture
def manager(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(PATIENCE_S)
        yield str(tmp_path / "notify"), listening


def hear(listening, pattern):
    """What was heard until *pattern* was."""
    heard = []
    deadline = time.monotonic() + PATIENCE_S
    while not heard or not re.search(pattern, heard[-1]):
        assert time.monotonic() < deadline, (pattern, heard)
        heard.append(listening.recv(4096).decode())
    return heard


def test_systemd_hears_the_agents_life(agent, runs, manager):
    """Readiness, then status and signs of life, a reload, and the end."""
    address, listening = manager
    running = agent(f"a=count:{runs[0]}", NOTIFY_SOCKET=address, WATCHDOG_USEC="900000")
    assert hear(listening, "READY=1") == ["READY=1"]
    heard = hear(listening, "STATUS=1 run, last version a/1 proved less than a minute ago")
    assert "WATCHDOG=1" in heard
    hear(listening, "WATCHDOG=1")
    running.process.send_signal(signal.SIGHUP)
    hear(listening, "RELOADING=1")
    assert hear(listening, "READY=1")
    running.process.send_signal(signal.SIGTERM)
    hear(listening, "STOPPING=1")
    assert running.wait()[0] == 0


def test_a_hung_worker_stops_the_signs_of_life(agent, runs, manager):
    """When one run's pass does not go forward any more systemd hears no life, so that it starts the agent anew."""
    address, listening = manager
    running = agent(f"a=deaf:{runs[0]}", f"b=count:{runs[1]}", NOTIFY_SOCKET=address, WATCHDOG_USEC="300000", HUNG="1")
    hear(listening, "WATCHDOG=1")
    silent_rounds = 0
    # Each round of the agent ends with a status; three of them without a sign of life say that none comes any more.
    deadline = time.monotonic() + PATIENCE_S
    while silent_rounds < 3:
        assert time.monotonic() < deadline, "signs of life go on"
        message = listening.recv(4096).decode()
        silent_rounds = 0 if message == "WATCHDOG=1" else silent_rounds + message.startswith("STATUS=")
    running.wait_for("b version 1 of 0 files")
    running.process.kill()
    assert "a: no progress for 1 s; it hangs" in running.wait()[1]


class Counting:
    """A job that makes a version with each pass."""

    holds = None

    def __init__(self, name, directory):
        self.name = name
        self.directory = directory
        self.heartbeat = Heartbeat()
        self.passes = threading.Semaphore(0)

    def prepare(self):
        """Nothing to get ready."""

    def rests_until_s(self, since_s):
        """Nobody else needs the processors."""
        return float("-inf")

    def run(self, stop, *, may_join=False, deadline_s=None):
        """One pass, counted."""
        self.passes.release()
        return PassResult(self.name, 1, 1, (), "version 1")


def test_an_agent_in_a_thread_is_stopped_by_a_call(tmp_path):
    """Without signals the agent is driven by calls: backup now, stop; and the schedule drives it too."""
    job = Counting("a", tmp_path / "absent")
    options = AgentOptions("file:///r", tmp_path / "status.json", every=Interval(1.0))
    agent = Agent([job], options, RecordingMonitor(), notifier=Notifier(None))
    thread = threading.Thread(target=agent.run, kwargs={"signals": False})
    thread.start()
    try:
        for _ in range(3):
            assert job.passes.acquire(timeout=PATIENCE_S)
        agent._wake(b"n")
        assert job.passes.acquire(timeout=PATIENCE_S)
    finally:
        agent.stop()
        thread.join(PATIENCE_S)
    assert not thread.is_alive()


def test_a_status_that_cannot_be_written_is_told_once(tmp_path):
    """A full disk under the status file is a notice, not an end."""
    (tmp_path / "file").write_text("")
    job = Counting("a", tmp_path / "absent")
    monitor = RecordingMonitor()
    options = AgentOptions("file:///r", tmp_path / "file/status.json", every=Never())
    agent = Agent([job], options, monitor, notifier=Notifier(None))
    thread = threading.Thread(target=agent.run, kwargs={"signals": False})
    thread.start()
    for _ in range(3):
        assert job.passes.acquire(timeout=PATIENCE_S)
        agent._wake(b"n")
    agent.stop()
    thread.join(PATIENCE_S)
    assert [text for severity, text in monitor.notices if severity != "info"] == [
        f"mlsync status cannot ask this agent: no socket in {tmp_path / 'file'}: File exists",
        "the status file cannot be written: File exists",
    ]


def test_options_say_what_the_configuration_says(tmp_path):
    """Every key of [agent] reaches the agent."""
    file = tmp_path / "mlsync.toml"
    file.write_text(
        'repository = "file:///r"\nstate_directory = "/s"\n[agent]\nevery = "2h"\non_change = false\nsettle = "3s"\n'
        'settle_max = "4s"\nrescan = "5s"\nstop_within = "6s"\n[proof]\ntimeout = "2h"\n'
    )
    options = AgentOptions.of(load(file))
    timing = options.timing
    assert (options.repository, options.status_file) == ("file:///r", Path("/s/status.json"))
    assert (options.every, timing.on_change, options.stop_within_s) == (Interval(7200.0), False, 6.0)
    assert (timing.settle_s, timing.settle_max_s, timing.rescan_s, options.hung_after_s) == (3.0, 4.0, 5.0, 14400.0)


def test_an_agent_without_runs_is_refused():
    """A configuration without [[watch]] is told instead of waited on for ever."""
    config = Config.for_repository("file:///r")
    with pytest.raises(ConfigInvalid, match="nothing to watch"):
        Agent([], AgentOptions.of(config), RecordingMonitor(), notifier=Notifier(None))
