"""Metrics, alerts, dashboard and status page: parsed by Prometheus' own library and by a real parser of HTML."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import urllib.error
import urllib.request
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from doubles.recording_monitor import RecordingMonitor
from mlsync.app.pass_result import PassResult
from mlsync.config.address import Address, parse_address
from mlsync.service.job import Heartbeat
from mlsync.service.passes.doing import Doing
from mlsync.service.run_record import RunRecord
from mlsync.service.status import RunStatus
from mlsync.service.talk.metrics import exposition
from mlsync.service.talk.page import status_page
from mlsync.service.talk.place import AgentPlace
from mlsync.service.talk.talk import Talk, TalkOptions
from mlsync.service.worker import RunState
from mlsync.upkeep.version_seen import VersionSeen

DEPLOY = Path(__file__).parents[2] / "deploy"
NOW_S = 1_800_000_000.0
CHANNELS = ({"name": "team", "sent": 3, "failed": 2, "dropped": 1, "waiting": 4},)
HOSTILE = "a\"\\\n<script>alert(1)</script>&'{}"


def run(name="yolo"):
    """A run at work, with versions, an error and all."""
    record = RunRecord(wall=lambda: NOW_S)
    versions = tuple(
        VersionSeen(
            n, NOW_S - 60 * (9 - n), HOSTILE, 3, 1000, 300, 200, 1, level=4, epoch=n, fitness=n / 9, checkpoint_s=n
        )
        for n in range(1, 9)
    )
    record.passed(PassResult(name, 8, 8, (), "", versions), NOW_S - 40, 2.5)
    heartbeat = Heartbeat(wall=lambda: NOW_S)
    heartbeat.beat(Doing(f"saving {HOSTILE}", "", 1, 2, "B", 3.0, f"store: {HOSTILE}", 2))
    state = RunState("running", 8, NOW_S - 60, 8, NOW_S - 60, last_error=HOSTILE, troubles=(HOSTILE,))
    return RunStatus(name, Path("/runs", HOSTILE), True, state, None, NOW_S, record, heartbeat, 3.0, NOW_S - 20, 5.0)


REGISTRY = {"waiting": [{"run": "a", "version": 1}], "registered": 2, "failed": 3}


MIRROR = {
    "name": "far",
    "failures": 1,
    "copied_versions": 3,
    "copied_bytes": 300,
    "runs": [{"run": HOSTILE, "version": 2, "behind_versions": 6, "behind_s": None}],
}


def families(*runs):
    """What Prometheus reads."""
    text = exposition(runs, 1.5, CHANNELS, REGISTRY, [MIRROR]).decode()
    return {one.name: one for one in text_string_to_metric_families(text)}


def names():
    """Every name of a sample that an agent exports."""
    return {sample.name for family in families(run()).values() for sample in family.samples}


def test_prometheus_reads_the_metrics():
    """Its own parser finds each metric once, with type, help and the run's name whatever is in it."""
    found = families(run(HOSTILE), run("b"))
    unproved = found["mlsync_run_unproved_seconds"]
    assert [(one.labels["run"], one.value) for one in unproved.samples] == [(HOSTILE, 20.0), ("b", 20.0)]
    assert (found["mlsync_run_stored_bytes"].type, found["mlsync_run_stored_bytes"].samples[0].value) == (
        "counter",
        200.0,
    )
    assert all(one.documentation for one in found.values())


def test_what_is_not_known_has_no_sample():
    """A run without a version exports no moment of one, which would be read as 1970."""
    found = families(RunStatus("new", Path("/new"), True, RunState(), None, NOW_S))
    assert found["mlsync_run_last_proved_timestamp_seconds"].samples == []
    assert found["mlsync_run_failures"].samples[0].value == 0.0


def used(text):
    """The metrics that an expression names."""
    return set(re.findall(r"\bmlsync_\w+", text))


def test_alerts_name_what_is_exported():
    """Each alert rule asks for metrics that the agent has, and says what is wrong."""
    rules = yaml.safe_load((DEPLOY / "prometheus-alerts.yml").read_text())["groups"][0]["rules"]
    assert len(rules) == 13
    for rule in rules:
        assert used(rule["expr"])
        assert used(rule["expr"]) <= names()
        assert rule["annotations"]["summary"]


def test_the_dashboard_names_what_is_exported():
    """Each panel asks for metrics that the agent has."""
    panels = json.loads((DEPLOY / "grafana-dashboard.json").read_text())["panels"]
    asked = [used(target["expr"]) for panel in panels for target in panel["targets"]]
    assert all(asked)
    assert set().union(*asked) <= names()


class Page(HTMLParser):
    """What a browser makes of a page: its tags, attributes and texts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts = set(), set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        """Note tag and attributes."""
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        """Note the text."""
        self.texts.append(data)


def test_hostile_names_are_text_on_the_page():
    """No name of a run, file, host or error becomes markup; the page loads nothing and runs nothing."""
    text = status_page([run(HOSTILE)], HOSTILE, HOSTILE, NOW_S).decode()
    page = Page(text)
    assert page.tags.isdisjoint({"script", "link", "img", "iframe", "a", "form", "base", "object"})
    assert not {name for name in page.attributes if name.startswith("on") or name in ("src", "href")}
    assert "url(" not in text
    assert HOSTILE in page.texts
    for shown in ("L4", "80 % of 7.8 KiB", "20 s", "0.8889", "polyline"):
        assert shown in text, shown


class FakeAgent:
    """An agent whose answers stand for themselves."""

    def statuses(self):
        """One run."""
        return [run()]

    def metrics(self):
        """Its metrics."""
        return exposition([run()], 1.5)

    def page(self):
        """Its page."""
        return status_page([run()], "file:///r", "vm", NOW_S)

    def unhealthy(self):
        """All is well."""

    unready = unhealthy


@pytest.fixture
def port():
    """A port that is free."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def ask(port, path="/", **fields):
    """Status, header and body of the answer at the port."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=fields)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        with contextlib.closing(error):
            return error.code, error.headers, error.read()


def test_the_port_shows_and_does_nothing(port, tmp_path):
    """Page, metrics and versions are there, with a policy without scripts; backups can only be requested privately."""
    options = TalkOptions(Address("127.0.0.1", port))
    with Talk(FakeAgent(), AgentPlace(tmp_path), RecordingMonitor(), options).going_on():
        status, headers, body = ask(port)
        assert (status, body[:15]) == (200, b"<!doctype html>")
        assert headers["Content-Security-Policy"].startswith("default-src 'none';")
        assert ask(port, "/metrics")[1]["Content-Type"].startswith("text/plain; version=0.0.4")
        assert json.loads(ask(port, "/versions")[2])["yolo"][-1]["version"] == 8
        assert ask(port, "/backup")[0] == 404
        assert ask(port, "/healthz")[2] == b"ok\n"


def test_another_sites_name_is_refused(port, tmp_path):
    """A name that somebody has point here gets nothing; addresses, the machine's and chosen names are answered."""
    options = TalkOptions(Address("127.0.0.1", port), ("gpu1.example.org",))
    with Talk(FakeAgent(), AgentPlace(tmp_path), RecordingMonitor(), options).going_on():
        for host in ("evil.example", "evil.example:9417", "localhost.evil.example", "[evil]:1", ""):
            assert ask(port, "/metrics", Host=host)[0] in (400, 421), host
        for host in (
            "localhost",
            "LOCALHOST:9417",
            "[::1]:9417",
            "10.0.0.5:1",
            socket.gethostname(),
            "gpu1.example.org.",
        ):
            assert ask(port, "/metrics", Host=host)[0] == 200, host


def test_a_port_in_use_is_told_once_and_tried_again(port, tmp_path):
    """While the port is taken the agent says so, and works; once it is free the page is there."""
    now, monitor = [100.0], RecordingMonitor()
    talk = Talk(
        FakeAgent(), AgentPlace(tmp_path), monitor, TalkOptions(Address("127.0.0.1", port)), clock=lambda: now[0]
    )
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with talk.going_on():
            now[0] += 30
            talk.tick()
            assert [level for level, _ in monitor.notices] == ["error"]
            assert f"Address already in use: 127.0.0.1:{port}" in monitor.notices[0][1]
            assert talk.failed.exit_code == 84
            taken.close()
            now[0] += 30
            talk.tick()
            assert talk.failed is None
            assert ask(port, "/healthz")[0] == 200


def test_the_file_for_node_exporter_is_whole(tmp_path):
    """The file has all metrics and can be read by others; where it cannot be written that is said once."""
    monitor = RecordingMonitor()
    file = tmp_path / "mlsync.prom"
    talk = Talk(FakeAgent(), AgentPlace(tmp_path), monitor, TalkOptions(metrics_file=file))
    with talk.going_on():
        talk.tick()
        assert (file.read_bytes(), file.stat().st_mode & 0o777) == (FakeAgent().metrics(), 0o644)
        file.unlink()
        file.mkdir()
        talk.tick()
        talk.tick()
    assert [text for _, text in monitor.notices] == [f"the metrics cannot be written: {file}: Is a directory"]
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith(".")] == []


@pytest.mark.parametrize(
    "text", ["localhost:1", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536", "::1:9417", "[127.0.0.1]:1"]
)
def test_only_an_address_with_a_port_is_one(text):
    """Names, ports out of range and addresses without brackets are refused."""
    with pytest.raises(ValueError, match="an address with a port"):
        parse_address(text)
    assert str(parse_address("[::1]:9417")) == "[::1]:9417"
