"""SIGHUP reads the configuration again: what is new takes effect, and what is broken changes nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from doubles.recording_monitor import RecordingMonitor
from mlsync.app.pass_result import PassResult
from mlsync.config.every import Never
from mlsync.errors import ConfigInvalid
from mlsync.service.agent import Agent, AgentOptions
from mlsync.service.job import Heartbeat
from mlsync.service.unit.notify import Notifier
from mlsync.service.worker import Timing

PATIENCE_S = 60.0
# A gentle process would wait for all other tests.
AT_FULL_SPEED = {"PYTHONPATH": str(Path(__file__).parents[1] / "cli" / "at_full_speed")}
MLSYNC = (sys.executable, "-P", "-m", "mlsync")


class Job:
    """A job that counts its passes."""

    holds = None

    def __init__(self, directory: Path) -> None:
        self.name, self.directory, self.heartbeat = "a", directory, Heartbeat()
        self.passes = threading.Semaphore(0)

    def run(self, stop, **_more):
        """One more pass."""
        self.passes.release()
        return PassResult(self.name, None, None, (), "")

    def close(self):
        """Nothing is held."""


class Watch:
    """An agent in a thread, with one job; *answer* is what reading the configuration again comes to."""

    def __init__(self, tmp_path: Path, answer) -> None:
        self.job, self.monitor = Job(tmp_path), RecordingMonitor()
        timing = Timing(on_change=False, rescan_s=3600.0)
        options = AgentOptions("file:///nowhere", tmp_path / "status.json", every=Never(), timing=timing)
        self.agent = Agent([self.job], options, self.monitor, notifier=Notifier(None), read_again=answer)
        self.thread = threading.Thread(target=lambda: self.agent.run(signals=False))
        self.thread.start()
        assert self.job.passes.acquire(timeout=PATIENCE_S)

    def end(self) -> None:
        """The agent ends, if it has not."""
        self.agent.stop()
        self.thread.join(PATIENCE_S)


def test_a_broken_configuration_leaves_the_old_one(tmp_path):
    """What is wrong is named, and the agent goes on with a pass over each run."""

    def broken() -> bool:
        raise ConfigInvalid("no such key", where="mlsync.toml:3")

    watch = Watch(tmp_path, broken)
    watch.agent.heed(b"r")
    assert watch.job.passes.acquire(timeout=PATIENCE_S)
    watch.end()
    assert not watch.agent.is_superseded
    said = [text for _, text in watch.monitor.notices]
    assert any("the old one stays" in text and "mlsync.toml:3" in text for text in said), said


def test_an_unchanged_configuration_is_a_request(tmp_path):
    """Nothing new to read: each run gets a pass, as before."""
    watch = Watch(tmp_path, lambda: False)
    watch.agent.heed(b"r")
    assert watch.job.passes.acquire(timeout=PATIENCE_S)
    watch.end()
    assert not watch.agent.is_superseded


def test_a_changed_configuration_ends_the_agent_for_another_one(tmp_path):
    """The agent ends without a last pass, its workers too, and what it did not heed is there for the next one."""
    watch = Watch(tmp_path, lambda: True)
    watch.agent.heed(b"r")
    watch.thread.join(PATIENCE_S)
    assert not watch.thread.is_alive()
    assert watch.agent.is_superseded
    assert not watch.job.passes.acquire(blocking=False)
    assert b"s" not in watch.agent.unheard


def test_a_stop_that_comes_too_late_reaches_the_next_agent(tmp_path):
    """An agent that gives way hands on the signal that came meanwhile, and the next one ends by it."""
    read, go_on = threading.Event(), threading.Event()

    def changed() -> bool:
        read.set()
        return go_on.wait(PATIENCE_S)

    first = Watch(tmp_path, changed)
    first.agent.heed(b"r")
    assert read.wait(PATIENCE_S)
    # While the configuration is read.
    first.agent.heed(b"s")
    go_on.set()
    first.thread.join(PATIENCE_S)
    assert first.agent.is_superseded
    assert b"s" in first.agent.unheard
    second = Watch(tmp_path, lambda: False)
    second.agent.heed(first.agent.unheard)
    second.thread.join(PATIENCE_S)
    assert not second.thread.is_alive()


class Real:
    """``mlsync agent`` as a process, with a configuration that a test writes anew."""

    def __init__(self, base: Path) -> None:
        self.base, self.log = base, base / "log"
        (base / "key").write_bytes(bytes(range(32)))
        (base / "key").chmod(0o600)
        for run in ("one", "two"):
            (base / run).mkdir()
            (base / run / "args.yaml").write_text(f"{run}\n")
        self.configure("one")
        words = [*MLSYNC, "init", f"file://{base}/repo", "--config", base / "none.toml", "--key-file", base / "key"]
        subprocess.run(words, check=True, capture_output=True)
        with self.log.open("wb") as log:
            words = [*MLSYNC, "agent", "--quickly", "--config", base / "mlsync.toml"]
            self.process = subprocess.Popen(words, stderr=log, env=os.environ | AT_FULL_SPEED)

    def configure(self, *runs: str, more: str = "") -> None:
        """The configuration watches these runs."""
        watches = "".join(f'[[watch]]\ndirectory = "{self.base / run}"\nrun = "{run}"\n' for run in runs)
        (self.base / "mlsync.toml").write_text(
            f'repository = "file://{self.base}/repo"\nstate_directory = "{self.base}/state"\n{more}'
            f'[key]\nkey_file = "{self.base}/key"\n[proof]\ndevice = "none"\n[agent]\nsettle = "10ms"\n{watches}'
        )
        (self.base / "mlsync.toml").chmod(0o600)

    def until(self, text: str, times: int = 1) -> str:
        """The log, once *text* is in it."""
        deadline_s = time.monotonic() + PATIENCE_S
        while (said := self.log.read_text()).count(text) < times:
            assert time.monotonic() < deadline_s, said
            assert self.process.poll() is None, said
            time.sleep(0.02)
        return said

    def reload(self) -> None:
        """As ``systemctl reload`` does."""
        self.process.send_signal(signal.SIGHUP)


@pytest.fixture
def real(tmp_path):
    """A real agent that watches run "one" and has made its first version."""
    running = Real(tmp_path)
    try:
        running.until("one: version 1")
        yield running
    finally:
        running.process.kill()
        running.process.wait()


def test_watches_come_and_go_with_a_reload(real):
    """A new directory is watched and an old one no more, and a broken file in between changes nothing."""
    (real.base / "mlsync.toml").write_text("repository = 7\n")
    real.reload()
    real.until("the old one stays")
    real.configure("one", more='nonsense = "x"\n')
    real.reload()
    real.until("the old one stays", times=2)
    real.configure("two")
    real.reload()
    real.until("two: version 1")
    (real.base / "one" / "args.yaml").write_text("changed\n")
    (real.base / "two" / "args.yaml").write_text("changed\n")
    said = real.until("two: version 2")
    assert "one: version 2" not in said
    assert '"two"' in (real.base / "state" / "status.json").read_text()
    real.process.send_signal(signal.SIGTERM)
    assert real.process.wait(PATIENCE_S) == 0


def test_another_repository_waits_for_a_start(real):
    """What opens the repository was asked for one place: another one is refused with what to do."""
    text = (real.base / "mlsync.toml").read_text()
    (real.base / "mlsync.toml").write_text(text.replace(f"{real.base}/repo", f"{real.base}/other"))
    real.reload()
    assert "another repository takes effect at the next start" in real.until("the old one stays")
