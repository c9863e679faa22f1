"""Channels and hooks as the agent uses them: who is told what, once, again after a failure, and across restarts."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

import pytest

from bot_server import bot_server
from doubles.recording_monitor import RecordingMonitor
from mlsync.app.pass_result import PassResult
from mlsync.cli.reports.live_report import channel_lines
from mlsync.config.model import HookSettings, NotifySettings
from mlsync.errors import ConfigInvalid, StoreUnavailable
from mlsync.service.conditions import Conditions, full_disks, knows_of
from mlsync.service.run_record import LastEvaluation, RunRecord
from mlsync.service.status import RunStatus
from mlsync.service.talk.metrics import exposition
from mlsync.service.talk.place import AgentPlace
from mlsync.service.telling.channels import letter_for
from mlsync.service.telling.news import News
from mlsync.service.telling.telling import Telling, TellOptions
from mlsync.service.worker import RunState
from mlsync.tell.choices import KINDS
from mlsync.tell.event import NoticeEvent
from mlsync.tell.letter import Receipt
from mlsync.upkeep.version_seen import VersionSeen

TAKEN = Receipt(is_taken=True, said="ok")
REFUSED = Receipt(is_taken=False, said="errcode 93000: no such bot")


class Service:
    """Stands for all services: notes what each channel was told, and answers in turn; the last answer stays."""

    def __init__(self, *answers):
        self.answers = list(answers) or [TAKEN]
        self.told = []
        self.changed = threading.Condition()

    def __call__(self, channel, events):
        """Take events."""
        with self.changed:
            self.told += [(channel.name, event.kind, event.is_over) for event in events]
            self.changed.notify_all()
            return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def wait(self, count):
        """Return what was told once there is so much."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.told) >= count, 30), self.told
            return self.told


def channel(name="team", **more):
    """A channel."""
    return NotifySettings(channel="wecom", name=name, **more)


def telling(tmp_path, service, *channels, monitor=None, hooks=None, **more):
    """What tells *channels*, or one."""
    options = TellOptions(channels or (channel(),), hooks or HookSettings())
    return Telling(options, AgentPlace(tmp_path), monitor or RecordingMonitor(), ["yolo"], send=service, **more)


def test_each_channel_is_told_of_its_events_alone(tmp_path):
    """A channel gets the kinds that it names, another one what it gets by default, and neither waits for the other."""
    service = Service()
    told = telling(tmp_path, service, channel("a", events=("broken",)), channel("b"))
    with told.going_on():
        for kind in ("best", "broken", "version"):
            told.event(NoticeEvent(kind, "yolo", 1, at_s=1e12))
        service.wait(3)
    assert sorted(service.told) == [("a", "broken", False), ("b", "best", False), ("b", "broken", False)]
    assert [one["sent"] for one in told.as_json()] == [1, 2]


def test_what_was_not_taken_is_named_once_and_told_by_the_next_agent(tmp_path):
    """A refusal is one warning; the event waits in a file of mode 0600, and an agent that starts later tells it."""
    service, monitor = Service(REFUSED), RecordingMonitor()
    told = telling(tmp_path, service, monitor=monitor, wall=lambda: 1000.0)
    with told.going_on():
        told.event(NoticeEvent("best", "yolo", 7, at_s=1000.0))
        service.wait(1)
    assert monitor.notices == [
        ("warning", "a notice did not reach team: errcode 93000: no such bot; tried again later")
    ]
    assert told.as_json()[0] | {"last_failure": ""} == {
        "name": "team", "channel": "wecom", "waiting": 1, "sent": 0, "failed": 1, "dropped": 0, "failures": 1,
        "last_failure": "",
    }  # fmt: skip
    assert (tmp_path / "notices.json").stat().st_mode & 0o777 == 0o600
    later = Service()
    with telling(tmp_path, later, wall=lambda: 2000.0).going_on():
        assert later.wait(1) == [("team", "best", False)]
    assert json.loads((tmp_path / "notices.json").read_text())["waiting"] == {"team": []}


def test_an_event_is_kept_before_anybody_is_asked(tmp_path):
    """An agent that is killed right after an event leaves it, and the next one tells it."""
    telling(tmp_path, Service()).event(NoticeEvent("best", "yolo", 7, at_s=1e12))
    service = Service()
    with telling(tmp_path, service, wall=lambda: 1e12).going_on():
        assert service.wait(1) == [("team", "best", False)]


@pytest.mark.parametrize("text", ["", "[]", '{"format":1}', '{"format":1,"told":{"a":1},"waiting":{}}', "[" * 5000])
def test_a_file_that_is_none_is_no_fault(tmp_path, text):
    """A damaged file of notices counts as empty."""
    (tmp_path / "notices.json").write_text(text)
    service = Service()
    with telling(tmp_path, service).going_on() as _:
        pass
    assert service.told == []


def test_nothing_is_done_without_channels_and_hooks(tmp_path):
    """No file, and no thread."""
    before = threading.active_count()
    told = Telling(TellOptions(), AgentPlace(tmp_path), RecordingMonitor())
    with told.going_on():
        told.event(NoticeEvent("best"))
        assert threading.active_count() == before
    assert list(tmp_path.iterdir()) == []
    assert not told.is_on


def test_a_hook_runs_and_its_failure_is_a_warning(tmp_path):
    """The command of an event gets it; how it fails is in the log, with its output."""
    monitor, service = RecordingMonitor(), Service()
    program = "import json, sys; print(json.load(sys.stdin)['version']); sys.exit(3)"
    hooks = HookSettings(on_best=(sys.executable, "-c", program))
    told = telling(tmp_path, service, monitor=monitor, hooks=hooks)
    with told.going_on():
        told.event(NoticeEvent("best", "yolo", 7, at_s=1e12))
        told.event(NoticeEvent("broken", "yolo", 7, at_s=1e12))
    name = Path(sys.executable).name
    assert monitor.notices == [("warning", f"on_best ({name}): it ended with status 3; no version depends on it: 7")]


def test_a_real_service_is_told_by_a_process(tmp_path):
    """With nothing in between replaced, a bot gets the event in Chinese; its address is in no notice and no status."""
    with bot_server() as server:
        (tmp_path / "url").write_text(f"{server.url}/send?key=secret-key\n")
        (tmp_path / "url").chmod(0o600)
        options = TellOptions((channel(url_file=tmp_path / "url", language="zh"),))
        monitor = RecordingMonitor()
        told = Telling(options, AgentPlace(tmp_path / "state"), monitor)
        with told.going_on():
            told.event(NoticeEvent("store_away", "yolo", 3, at_s=1e12))
        assert (monitor.notices, [path for path, _, _ in server.posts]) == ([], ["/send?key=secret-key"])
        assert "存储不可用" in json.loads(server.posts[0][2])["markdown"]["content"]
        assert "secret" not in json.dumps(told.as_json()) + (tmp_path / "state" / "notices.json").read_text()


def test_an_address_comes_from_a_file_a_variable_or_a_credential(tmp_path):
    """Each place is read when a letter is written; a file that others can read, and no place at all, are refused."""
    (tmp_path / "mlsync-notify-team").write_text("from-systemd\n")
    (tmp_path / "mlsync-notify-team-secret").write_text("its-secret\n")
    letter = letter_for(channel(), [], {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert (letter.url, letter.secret) == ("from-systemd", "its-secret")
    assert letter_for(channel(url_variable="BOT"), [], {"BOT": " from-variable "}).url == "from-variable"
    with pytest.raises(ConfigInvalid, match="the environment has no BOT"):
        letter_for(channel(url_variable="BOT"), [], {})
    with pytest.raises(ConfigInvalid, match="no address for the channel team"):
        letter_for(channel(), [], {"CREDENTIALS_DIRECTORY": str(tmp_path / "none")})


# ---------------------------------------------------------------- what is told of runs


def seen(number, **more):
    """A proved version with one checkpoint."""
    return VersionSeen(number, 1000.0 + number, checkpoint_count=1, level=3, **more)


def passed(record, news, *versions, proved=None, version=None):
    """A pass that told of *versions*."""
    outcome = PassResult("yolo", version, proved, (), "", versions=versions)
    record.passed(outcome, 1000.0, 1.0)
    news.passed("yolo", outcome)


def status(record, now_s=0.0, **more):
    """How the run stands."""
    state = RunState(last_version=3, troubles=more.pop("troubles", ()))
    return RunStatus("yolo", Path("/runs/yolo"), True, state, None, now_s, record, **more)


class Told:
    """Stands for what tells: notes events."""

    is_on = True

    def __init__(self):
        self.events = []
        self.facts = []
        self.keys = set()

    def event(self, event):
        """Note it."""
        self.events.append((event.kind, event.version, event.is_over))
        self.facts.append((event.kind, event.facts))

    def once(self, key, event):
        """Note it once."""
        if key not in self.keys:
            self.keys.add(key)
            self.event(event)


def test_the_first_proved_version_and_each_better_one_are_told():
    """A version that is no better is only a new one; what is pending is nothing; an old run has no first version."""
    told, record = Told(), RunRecord(wall=lambda: 0.0)
    news = News(told, {"yolo": record}, {})
    passed(record, news, seen(1, fitness=0.5), version=1, proved=1)
    passed(record, news, seen(2, fitness=0.4), version=2, proved=2)
    passed(record, news, seen(3, fitness=0.9, is_pending=True), version=3)
    passed(record, news, seen(3, fitness=0.9), proved=3)
    assert told.events == [
        ("version", 1, False), ("first_proved", 1, False), ("version", 2, False),
        ("version", 3, False), ("best", 3, False),
    ]  # fmt: skip
    told, record = Told(), RunRecord(wall=lambda: 0.0)
    passed(record, News(told, {"yolo": record}, {}), seen(56), seen(57), version=57, proved=57)
    assert told.events == [("version", 57, False)]


def test_the_best_version_is_told_with_what_was_measured():
    """Where versions are evaluated the event waits for that, goes by the compared number, and has the numbers."""
    told, record = Told(), RunRecord(wall=lambda: 0.0)
    news = News(told, {"yolo": record}, {})
    news.evaluates = lambda _run: True

    def ends(version, fitness, numbers, error="", **more):
        passed(record, news, seen(version, fitness=fitness), version=version, proved=version)
        measured = LastEvaluation(version, 0.0, numbers, error, **more)
        record.evaluated(measured)
        news.evaluated("yolo", measured)
        return [number for kind, number, _ in told.events if kind == "best"]

    assert ends(1, 0.5, {"loss": 2.0}) == []
    assert ends(2, 0.6, {}, "no", is_final=False) == []
    assert ends(3, 0.7, {}, "no") == [3]
    news.best_by = lambda _run: "loss min"
    assert ends(4, 0.1, {"loss": 1.0, "accuracy": 0.5}) == [3, 4]
    assert ends(5, 0.9, {"loss": 1.5}) == [3, 4]
    assert [facts.get("numbers") for kind, facts in told.facts if kind == "best"] == [None, "loss 1, accuracy 0.5"]


def test_damage_and_the_end_of_the_machine_are_told():
    """Damaged packs are an event; a notice is one, and another once every run had a pass after it."""
    told, record = Told(), RunRecord(wall=lambda: 0.0)
    told.look, told.daily = lambda *_args, **_more: None, lambda *_args: None
    news = News(told, {"yolo": record}, {})
    news.passed("yolo", PassResult("yolo", None, None, (), "", damaged_count=2))
    news.preempted("aws", 120.0)
    news.look([status(record)])
    record.passed(PassResult("yolo", None, None, (), ""), 0.0, 1.0)
    news.look([status(record)])
    news.look([status(record)])
    assert told.events == [("damage", None, False), ("preemption", None, False), ("preemption", None, True)]


def test_what_lasts_is_told_after_its_time():
    """A store that is away for five minutes, a file unfinished for ten, a proof pending for an hour, a broken file."""
    now_s = 0.0
    record = RunRecord(wall=lambda: now_s)
    conditions = Conditions("gpu1")

    def kinds(**more):
        return [one.event.kind for one in conditions.of([status(record, now_s, **more)])]

    record.failed(StoreUnavailable("away", where="s3://bucket/secret"))
    now_s = 299.0
    assert kinds() == []
    now_s = 300.0
    (away,) = conditions.of([status(record, now_s)])
    assert (away.event.kind, away.event.facts) == (
        "store_away",
        {"what": "StoreUnavailable", "status": 73, "since_s": 300.0},
    )
    record.failed(PermissionError("/data"))
    assert kinds() == ["failing"]
    record.passed(PassResult("yolo", 3, None, (), "", versions=(seen(3, is_pending=True),)), 300.0, 1.0)
    torn = ("a.pt: torn: cut off; no earlier content, left out",)
    assert kinds(troubles=torn) == []
    now_s = 900.0
    assert kinds(troubles=torn) == ["torn"]
    assert kinds(troubles=torn, changed_s=0.0) == ["torn"]
    now_s = 4603.0
    broken = ("weights/last.pt: broken: 3 NaN at /x; version 2's content is kept",)
    pending, found = conditions.of([status(record, now_s, troubles=broken)])
    assert pending.event.kind == "pending"
    assert found.event.facts == {"path": "weights/last.pt", "what": "3 NaN at …", "kept": 2}
    record.passed(PassResult("yolo", None, 3, (), ""), now_s, 1.0)
    assert kinds() == []
    assert kinds(changed_s=2803.0) == ["behind"]
    assert Conditions("gpu1", behind_s=7200.0).of([status(record, now_s, changed_s=2803.0)]) == []


def test_nothing_is_over_before_it_is_known_to_be():
    """Before the first pass of an agent, and while passes fail again, a store that was away has not come back."""
    record = RunRecord(wall=lambda: 0.0)
    runs = [status(record)]
    assert not knows_of("broken\0yolo\0a.pt", runs)
    record.passed(PassResult("yolo", None, None, (), ""), 0.0, 1.0)
    assert knows_of("broken\0yolo\0a.pt", runs)
    assert knows_of("store_away\0yolo\0", runs)
    record.failed(StoreUnavailable("away"))
    assert not knows_of("store_away\0yolo\0", runs)
    assert not knows_of("store_away\0other\0", runs)
    assert not any(knows_of(f"{kind}\0yolo\0", runs) for kind in ("first_proved", "digest", "disk_full", "junk"))
    assert not knows_of("junk", runs)


def test_a_nearly_full_disk_is_named_by_the_run(tmp_path, monkeypatch):
    """With less than 5 % and 20 GiB free a disk is nearly full; one that is not there is passed over."""

    class Info:
        f_frsize, f_blocks, f_bavail = 4096, 1_000_000, 49_000

    monkeypatch.setattr("os.statvfs", lambda place: Info if place == tmp_path else 1 / 0)
    (full,) = full_disks({"yolo": tmp_path}, "gpu1")
    assert full.event.facts == {"disk": "yolo", "free_bytes": 49_000 * 4096}
    Info.f_bavail = 50_001
    assert full_disks({"yolo": tmp_path}, "gpu1") == []
    monkeypatch.undo()
    assert full_disks({"yolo": tmp_path / "none"}, "gpu1") == []


def test_a_day_is_told_once_a_day(tmp_path):
    """The first look starts the clock; a day later the digest is told, to channels that want it."""
    service, record, now_s = Service(), RunRecord(wall=lambda: 0.0), 0.0
    told = telling(tmp_path, service, channel("a", events=("digest",)), channel("b"), wall=lambda: now_s)
    news = News(told, {"yolo": record}, {}, wall=lambda: now_s)
    with told.going_on():
        for now_s in (0.0, 1.0, 86_399.0, 86_401.0, 90_000.0):
            news.look([status(record, now_s)])
        service.wait(1)
    assert service.told == [("a", "digest", False)]


def test_a_condition_is_not_repeated_by_a_restart(tmp_path):
    """What was told before a restart is told again only as over."""
    record = RunRecord(wall=lambda: 1e12)
    record.passed(PassResult("yolo", None, None, (), ""), 0.0, 1.0)
    broken = ("a.pt: broken: NaN; version 2's content is kept",)
    for looks, said in ((2, [False]), (1, []), (0, [True])):
        service = Service()
        told = telling(tmp_path, service, wall=lambda: 1e12)
        news = News(told, {"yolo": record}, {}, wall=lambda: 1e12)
        with told.going_on():
            for _ in range(looks):
                news.look([status(record, 1e12, troubles=broken)])
            if not looks:
                news.look([status(record, 1e12)])
        assert [is_over for _, kind, is_over in service.told if kind == "broken"] == said


def test_a_channel_that_takes_nothing_is_in_status_and_metrics(tmp_path):
    """A line of ``mlsync status`` names it, with what it said and how much waits; the metrics count each channel."""
    service = Service(REFUSED)
    told = telling(tmp_path, service, wall=lambda: 1000.0)
    with told.going_on():
        told.event(NoticeEvent("best", "yolo", 7, at_s=1000.0))
        service.wait(1)
    (line,) = channel_lines({"channels": told.as_json()})
    assert line == "notices do not reach team (1 waiting): errcode 93000: no such bot"
    assert list(channel_lines({})) == []
    metrics = exposition([], 0.0, told.as_json()).decode()
    assert 'mlsync_notify_failures_total{channel="team"} 1.0\n' in metrics
    assert 'mlsync_notify_waiting{channel="team"} 1.0\n' in metrics
    assert "mlsync_notify" not in exposition([], 0.0).decode()


def test_every_kind_that_is_made_is_known():
    """No module makes an event of a kind that has no words."""
    with pytest.raises(KeyError):
        _ = NoticeEvent("other").level
    assert {"damage", "digest", "pruned", "ephemeral_disk"} <= KINDS.keys()
