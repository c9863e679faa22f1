"""What the agent copies to mirrors: when, that nothing waits for it, and what it then calls safe."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import pytest

from doubles.recording_monitor import RecordingMonitor
from mlsync.app.pass_result import PassResult
from mlsync.cli.reports.live_report import live_lines, mirror_lines
from mlsync.codec.keys import Keys
from mlsync.config.model import AgentSettings, Config, MirrorSettings
from mlsync.errors import StoreUnavailable
from mlsync.service.afterwards.mirrors import AgentMirrors
from mlsync.service.passes.pass_process import Opened
from mlsync.service.status import RunStatus, safe_s
from mlsync.service.talk.metrics import exposition
from mlsync.service.worker import RunState

OPENED = Opened(Keys(bytes(32), bytes(16)), conditional_create=True, slot="keys/00")


class Copier:
    """Stands for the process that copies: what it was asked, and what it answers."""

    def __init__(self):
        self.asked, self.raises, self.behind, self.newest, self.faults = [], None, 0, 1, []
        self.changed = threading.Condition()
        self.may_go = threading.Event()
        self.may_go.set()

    def __call__(self, request, stop):
        """Copy all of it, or fail; end when asked to stop."""
        with self.changed:
            self.asked.append(request)
            self.changed.notify_all()
        while not self.may_go.wait(0.01):
            if stop.is_set():
                raise StoreUnavailable("ended")
        if self.raises is not None:
            raise self.raises
        copied = {"copied": self.newest, "newest": self.newest, "behind": self.behind}
        return {"runs": dict.fromkeys(request.runs, copied), "versions": 1, "bytes": 100, "faults": self.faults}

    def wait(self, count):
        """What was asked, once it was asked so often."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.asked) >= count, 10), self.asked
        return self.asked


class Parts:
    """The mirrors of an agent, with a clock that stands still until a test moves it."""

    def __init__(self, tmp_path, *, repository="file:///fast", mirrors=None, safe=None):
        self.now_s, self.proved_s, self.safe = 1000.0, 500.0, []
        mirrors = mirrors or (MirrorSettings("s3://far/x", "far"),)
        self.config = Config(repository, tmp_path, mirrors=mirrors, agent=AgentSettings(safe=safe))
        self.monitor, self.copier = RecordingMonitor(), Copier()
        self.mirrors = self.new()

    def new(self):
        """Another agent's mirrors."""
        made = AgentMirrors(
            self.config,
            lambda: OPENED,
            self.monitor,
            ask=self.copier,
            clock=lambda: self.now_s,
            wall=lambda: self.now_s,
        )
        made.proved_until = lambda _run: self.proved_s
        made.safe = self.safe.append
        return made

    def passed(self, run="yolo", version=None, proved=None):
        """A pass ends."""
        self.mirrors.passed(run, PassResult(run, version, proved, (), ""))

    def settled(self):
        """How the first mirror stands, once nothing is copied."""
        with self.mirrors._changed:
            done = self.mirrors._changed.wait_for(
                lambda: not any(one.is_copying or (one.due and not one.failures) for one in self.mirrors._mirrors), 10
            )
        assert done
        return self.mirrors.as_json()[0]


@pytest.fixture
def parts(tmp_path):
    made = Parts(tmp_path)
    yield made
    made.copier.may_go.set()
    made.mirrors.close()


def test_each_version_is_copied_and_then_safe(parts):
    """What was proved when a copy began is safe when it ended; a pass without a change asks nobody."""
    parts.passed(version=1, proved=1)
    told = parts.settled()
    assert (told["phase"], told["copied_versions"], told["runs"][0]["behind_versions"]) == ("idle", 1, 0)
    assert (parts.mirrors.safe_until_s("yolo"), parts.safe) == (500.0, ["yolo"])
    parts.proved_s = 600.0
    parts.passed()
    assert parts.settled()["runs"][0]["safe_until_s"] == 600.0
    assert len(parts.copier.asked) == 1
    parts.passed(proved=1)
    assert parts.copier.wait(2)[1].runs == ("yolo",)


def test_the_first_pass_has_the_mirror_looked_at(parts):
    """An agent that starts does not know what its last one left: a pass that changed nothing begins a copy too."""
    parts.passed()
    assert parts.copier.wait(1)[0].runs == ("yolo",)


def test_nothing_waits_for_a_mirror_that_is_away(parts):
    """Passes go on, it is said once, what waits is counted, and the first try afterwards copies all of it."""
    parts.copier.raises = StoreUnavailable("no route to host")
    for version in range(1, 200):
        parts.passed(version=version, proved=version)
    told = parts.settled()
    assert (told["phase"], told["runs"][0]["behind_versions"]) == ("failing", 199)
    parts.now_s += 60
    assert parts.mirrors.as_json()[0]["runs"][0]["behind_s"] == 60
    assert parts.mirrors.safe_until_s("yolo") is None
    assert "mirror far: fails: no route to host" in list(mirror_lines({"mirrors": parts.mirrors.as_json()}))
    parts.copier.raises, parts.copier.newest = None, 199
    with parts.mirrors._changed:
        parts.mirrors._changed.notify_all()
    parts.copier.wait(2)
    told = parts.settled()
    assert (told["phase"], told["runs"][0]["version"], told["runs"][0]["behind_versions"]) == ("idle", 199, 0)
    texts = [text for _, text in parts.monitor.notices]
    assert sum("no route to host" in text for text in texts) == 1
    assert texts[-1] == "mirror 'far': versions are copied again"


def test_a_version_that_is_made_while_one_is_copied_comes_next(parts):
    """It is behind until then, and safe is only what the copy began with."""
    parts.copier.may_go.clear()
    parts.passed(version=1, proved=1)
    parts.copier.wait(1)
    parts.proved_s = 600.0
    parts.passed(version=2, proved=2)
    assert parts.mirrors.as_json()[0]["runs"][0]["behind_versions"] == 2
    parts.copier.newest = 2
    parts.copier.may_go.set()
    parts.copier.wait(2)
    assert parts.settled()["runs"][0]["behind_versions"] == 0
    assert parts.mirrors.safe_until_s("yolo") == 600.0


def test_what_could_not_be_copied_is_told_and_tried_again(parts):
    """A copy that left something out is no success, and nothing of it is safe."""
    parts.copier.behind, parts.copier.faults = 1, ["yolo: version 1 is not copied: a pack is missing"]
    parts.passed(version=1, proved=1)
    told = parts.settled()
    assert (told["phase"], told["failures"]) == ("failing", 1)
    assert "a pack is missing" in told["last_failure"]
    assert parts.mirrors.safe_until_s("yolo") is None


def test_each_mirror_has_its_runs(tmp_path):
    """A run that a mirror does not copy is never asked for, and two mirrors do not wait for each other."""
    two = (MirrorSettings("s3://a/x", "a", runs=("bert",)), MirrorSettings("s3://b/x", "b"))
    parts = Parts(tmp_path, mirrors=two)
    parts.passed(version=1, proved=1)
    parts.passed("bert", version=1, proved=1)
    parts.settled()
    asked = {(one.mirror, run) for one in parts.copier.asked for run in one.runs}
    assert asked == {("a", "bert"), ("b", "yolo"), ("b", "bert")}
    parts.mirrors.close()


def test_a_notice_has_the_newest_version_copied_at_once(parts):
    """What copies behind the trainer ends, and a process that hurries copies the newest version first."""
    parts.copier.may_go.clear()
    for version in (1, 2, 3):
        parts.passed(version=version, proved=version)
    parts.copier.wait(1)
    parts.mirrors.hurry()
    request = parts.copier.wait(2)[1]
    assert (request.hurries, dict(request.newest_only)) == (True, {"yolo": 3})
    parts.mirrors.hurry()
    parts.copier.newest = 3
    parts.copier.may_go.set()
    assert not parts.copier.wait(3)[2].newest_only or len(parts.copier.asked) > 3
    parts.settled()
    assert not parts.mirrors.is_busy


def test_an_agent_takes_over_what_the_last_one_knew(parts):
    """What was safe stays so; a status of another place, or a broken one, says nothing."""
    parts.passed(version=1, proved=1)
    parts.settled()
    known = parts.mirrors.as_json()
    fresh = parts.new()
    fresh.restore(known)
    assert fresh.safe_until_s("yolo") == 500.0
    other = parts.new()
    other.restore([{**known[0], "url": "s3://elsewhere/x"}, {"name": "far"}, {}])
    assert other.safe_until_s("yolo") is None


@pytest.mark.parametrize(("repository", "safe", "decides"), [("file:///r", None, True), ("s3://a/r", None, False)])
def test_safe_is_what_the_configuration_says(tmp_path, repository, safe, decides):
    """Where the mirror decides, ``status --max-age``, its words and the metrics go by the mirror, not by the proof."""
    parts = Parts(tmp_path, repository=repository, safe=safe)
    assert parts.mirrors.decides == decides
    run = RunStatus("yolo", Path("/t"), True, RunState(last_version=2, last_proved_version=2), None, 1000.0)
    run.record.proved_until_s = 990.0
    run = dataclasses.replace(run, safe_in_mirror=decides, mirrored_until_s=400.0)
    told = {"safe": "mirror" if decides else "repository", "safe_until_s": 400.0, "proved_until_s": 990.0}
    assert safe_s(told) == (400.0 if decides else 990.0)
    assert run.unsafe_s == (600.0 if decides else 0.0)
    lines = list(live_lines({**told, "unsafe_s": run.unsafe_s, "unproved_s": 0.0}, 1000.0))
    assert any("not yet safe in a mirror" in line for line in lines) == decides
    parts.passed(version=2, proved=2)
    parts.settled()
    shown = exposition([run], 0.0, (), None, parts.mirrors.as_json()).decode()
    assert f'mlsync_run_unsafe_seconds{{run="yolo"}} {600.0 if decides else 0.0}\n' in shown
    assert 'mlsync_mirror_behind_versions{mirror="far",run="yolo"} 0.0\n' in shown
    assert 'mlsync_mirror_copied_bytes_total{mirror="far"} 100.0\n' in shown
    parts.mirrors.close()
