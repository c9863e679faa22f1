"""The heartbeat URL against a real server: after a proved version, and never a word of the URL."""

from __future__ import annotations

import http.server
import threading
from pathlib import Path

import pytest

from doubles.recording_monitor import RecordingMonitor
from mlsync.app.pass_result import PassResult
from mlsync.service.job import Heartbeat
from mlsync.service.run_record import RecordedJob, RunRecord
from mlsync.service.telling.heartbeat_url import HeartbeatUrl
from mlsync.tell.letter import HEARTBEAT, Letter
from mlsync.tell.send import deliver


@pytest.fixture
def service():
    """A server that notes the paths that were asked for, and answers with its status."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            """Note it."""
            server.asked.append(self.path)
            self.send_response(server.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_args):
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.status = [], 200
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_proved_version_is_told_and_a_failure_once(service, tmp_path):
    """The URL is requested; while the service refuses that is said once, without the secret, and then that it works."""
    file = tmp_path / "url"
    file.write_text(f"http://127.0.0.1:{service.server_port}/secret-token\n")
    file.chmod(0o600)
    monitor = RecordingMonitor()
    url = HeartbeatUrl(file, monitor)
    for status in (200, 500, 500, 200):
        service.status = status
        url.proved()
        url.wait(30)
    assert service.asked == ["/secret-token"] * 4
    assert monitor.notices == [
        ("warning", "the heartbeat URL was not reached: the server answered with status 500; backups go on"),
        ("info", "the heartbeat URL is reached again"),
    ]


def test_a_file_that_others_can_read_is_not_used(tmp_path):
    """A secret with mode 0644 is refused as those of the repository are, and without a file nothing is done."""
    file = tmp_path / "url"
    file.write_text("http://127.0.0.1:1/secret-token")
    file.chmod(0o644)
    monitor = RecordingMonitor()
    url = HeartbeatUrl(file, monitor)
    url.proved()
    url.wait(30)
    assert "other users may read this secret" in monitor.notices[0][1]
    assert "token" not in monitor.notices[0][1]
    HeartbeatUrl(None, monitor).proved()
    assert len(monitor.notices) == 1


def said(url):
    """What is said of a request that fails."""
    answer = deliver(Letter(HEARTBEAT, url, "", "en", ()), timeout_s=1.0)
    assert not answer.is_taken
    return answer.said


def test_no_failure_says_the_url():
    """A server that is away, another scheme and nonsense are named by what is wrong alone."""
    assert said("http://127.0.0.1:1/secret-token") == "Connection refused"
    assert said("file:///etc/passwd") == "it is no URL with http or https"
    for nonsense in ("http://[secret-token", "http://a b/secret-token", "http:///secret-token"):
        assert said(nonsense)
        assert "token" not in said(nonsense)


def test_what_is_no_text_is_no_url(tmp_path):
    """A file with other bytes is named as no URL."""
    file = tmp_path / "url"
    file.write_bytes(b"http://\xff\n")
    file.chmod(0o600)
    monitor = RecordingMonitor()
    url = HeartbeatUrl(file, monitor)
    url.proved()
    url.wait(30)
    assert "it is no URL with http or https" in monitor.notices[0][1]


class Passing:
    """A job whose passes end as they are told to."""

    holds = None

    name, directory = "a", Path("/a")

    def __init__(self):
        self.heartbeat = Heartbeat()
        self.proved_version = None

    def run(self, stop, *, deadline_s=None):
        """A pass."""
        return PassResult("a", 2, self.proved_version, (), "")


def test_only_a_proof_is_a_sign_of_life():
    """A version that is pending is none; one that is proved is."""
    told, job = [], Passing()
    recorded = RecordedJob(job, RunRecord(), lambda: told.append(1))
    recorded.run(threading.Event())
    assert told == []
    job.proved_version = 2
    recorded.run(threading.Event())
    assert told == [1]
