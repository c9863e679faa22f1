"""The agent's socket: real sockets and a real server, asked by the real client and by hostile ones."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import threading

import pytest

from doubles.recording_monitor import RecordingMonitor
from mlsync.errors import AgentAway
from mlsync.service.talk import client, local_socket
from mlsync.service.talk.answers import Answers
from mlsync.service.talk.http import BODY_BYTES_MAX, HEAD_BYTES_MAX, HttpAnswer, HttpRequest, parse_request
from mlsync.service.talk.local_socket import LocalSocket
from mlsync.service.talk.place import AgentPlace
from mlsync.service.talk.server import CONNECTIONS_MAX, Door, TalkServer
from mlsync.service.talk.talk import Talk


class FakeAgent:
    """An agent with the runs a and b."""

    def __init__(self):
        self.requests = []
        self.passes = {}
        self.trouble = None
        self.not_yet = None

    def as_json(self):
        """Some state."""
        return {"runs": ["a", "b"]}

    def request_backup(self, runs, query):
        """Note the request."""
        for run in runs:
            if run not in ("a", "b"):
                raise KeyError(run)
        self.requests.append((list(runs), dict(query)))
        return {"requested": list(runs) or ["a", "b"]}

    def requested(self, ids, uid=None):
        """What the test says."""
        return {"passes": [self.passes[one] for one in ids if one in self.passes]}

    def unhealthy(self):
        """What the test says."""
        return self.trouble

    def unready(self):
        """What the test says."""
        return self.not_yet


@pytest.fixture
def agent():
    return FakeAgent()


@pytest.fixture
def at(agent, tmp_path):
    """The client of a talking agent."""
    with Talk(agent, AgentPlace(tmp_path), RecordingMonitor()).going_on():
        yield next(client.agents(tmp_path))


# ---------------------------------------------------------------- what is answered


def test_the_state_is_answered(at):
    """GET /status is the agent's state in JSON."""
    answer = at.ask("/status")
    assert (answer.status, answer.as_json()) == (200, {"runs": ["a", "b"]})


def test_a_backup_is_requested_by_name(at, agent):
    """POST /backup requests a pass over the runs that it names, and hands all parameters on."""
    answer = at.ask("/backup?run=a&run=b&preempt=1", method="POST")
    assert (answer.status, answer.as_json()) == (202, {"requested": ["a", "b"]})
    assert agent.requests == [(["a", "b"], {"run": ["a", "b"], "preempt": ["1"]})]


def test_a_backup_of_an_unknown_run_is_refused(at, agent):
    """A run that the agent does not keep is named, and nothing is requested."""
    answer = at.ask("/backup?run=a&run=other", method="POST")
    assert (answer.status, answer.body) == (404, b"the agent keeps no run 'other'\n")
    assert agent.requests == []


def test_reading_a_path_that_acts_does_nothing(at, agent):
    """A GET of /backup, as a link would cause, requests nothing."""
    assert at.ask("/backup?run=a").status == 405
    assert agent.requests == []


def test_health_and_readiness_say_why_not(at, agent):
    """/healthz fails while a run hangs, /readyz also before the first pass; both say why."""
    assert (at.ask("/healthz").status, at.ask("/readyz").status) == (200, 200)
    agent.not_yet = "no pass yet: a"
    assert (at.ask("/healthz").status, at.ask("/readyz").body) == (200, b"no pass yet: a\n")
    agent.trouble = "hangs: b"
    assert (at.ask("/healthz").status, at.ask("/readyz").body) == (503, b"hangs: b\n")


def test_acting_is_for_the_private_socket():
    """Without the right to act there is no path that does."""
    post = HttpRequest("POST", "/backup", {}, {})
    assert Answers(FakeAgent(), may_act=False)(post).status == 404


def test_a_bug_in_an_answer_costs_one_answer(at, agent, caplog):
    """An exception becomes status 500 and a traceback in the log; the next request is answered."""
    caplog.set_level("CRITICAL")
    agent.as_json = lambda: {}["missing"]
    assert at.ask("/status").status == 500
    assert at.ask("/healthz").status == 200


# ---------------------------------------------------------------- the socket


def test_the_socket_is_private_and_goes(agent, tmp_path):
    """The socket has mode 0600 while the agent talks, and is gone afterwards."""
    with Talk(agent, AgentPlace(tmp_path), RecordingMonitor()).going_on():
        assert stat.S_IMODE((tmp_path / "agent-0.sock").stat().st_mode) == 0o600
    assert list(client.agents(tmp_path)) == []


def test_a_socket_that_is_left_over_is_replaced(agent, tmp_path):
    """After SIGKILL the next agent takes the place, and the client gets its answer from there."""
    code = (
        "import os, sys; from pathlib import Path; from mlsync.service.talk.local_socket import LocalSocket\n"
        "from mlsync.service.talk.place import AgentPlace\n"
        "LocalSocket.bind(AgentPlace(Path(sys.argv[1]))); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path], check=False).returncode == -9
    (left,) = client.agents(tmp_path)
    with pytest.raises(AgentAway, match="does not answer"):
        left.ask("/status")
    with Talk(agent, AgentPlace(tmp_path), RecordingMonitor()).going_on():
        (one,) = client.agents(tmp_path)
        assert one.ask("/status").status == 200


def test_agents_share_a_state_directory(tmp_path):
    """A second agent has a socket of its own beside the first one, and takes nothing from it."""
    place = AgentPlace(tmp_path)
    first, second = LocalSocket.bind(place), LocalSocket.bind(AgentPlace(tmp_path))
    assert [one.path.name for one in client.agents(tmp_path)] == ["agent-0.sock", "agent-1.sock"]
    first.close()
    place.release()
    third = LocalSocket.bind(AgentPlace(tmp_path))
    assert (third.path, second.path.exists()) == (first.path, True)
    second.close()
    third.close()


def test_what_is_no_socket_is_left_alone(agent, tmp_path):
    """A file in the place of the socket stays; the agent says that it has none, and works."""
    (tmp_path / "agent-0.sock").write_text("mine")
    monitor = RecordingMonitor()
    with Talk(agent, AgentPlace(tmp_path), monitor).going_on():
        assert (tmp_path / "agent-0.sock").read_text() == "mine"
    assert "is in the way, and is no socket" in monitor.notices[0][1]


def test_a_deep_directory_has_a_socket_too(agent, tmp_path):
    """A path longer than a socket's address can hold works."""
    deep = tmp_path.joinpath(*["d" * 100] * 3)
    with Talk(agent, AgentPlace(deep), RecordingMonitor()).going_on():
        assert next(client.agents(deep)).ask("/healthz").status == 200


def test_another_users_socket_is_not_asked(at, tmp_path, monkeypatch):
    """A socket on which neither this user, root nor the directory's owner listens gets no request."""
    monkeypatch.setattr(local_socket, "peer_uid", lambda _connection: 4242)
    with pytest.raises(AgentAway, match="another user: user 4242 listens there"):
        at.ask("/status")


def test_another_user_gets_no_answer(at, monkeypatch):
    """A connection of another user is closed before a byte of it is read."""
    monkeypatch.setattr(local_socket, "peer_uid", lambda _connection: os.geteuid())
    door = Door(None, local_socket.admits_own, None)
    left, right = socket.socketpair()
    with left, right:
        assert door.admits(left)
        monkeypatch.setattr(local_socket, "peer_uid", lambda _connection: 4242)
        assert not door.admits(left)


# ---------------------------------------------------------------- hostile clients


@pytest.fixture
def served(tmp_path):
    """How to connect to a server with little patience, and whose answers are long."""
    local = LocalSocket.bind(AgentPlace(tmp_path))
    server = TalkServer(patience_s=0.3)
    server.add(Door(local.listening, lambda _connection: True, lambda _request: HttpAnswer(200, b"x" * 1_000_000)))
    server.start()

    def connect():
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(os.fspath(local.path))
        connection.settimeout(10)
        return connection

    yield connect
    server.stop()
    local.close()


def heard(connection):
    """All that comes until the other end closes."""
    received = b""
    with connection:
        while block := connection.recv(1 << 20):
            received += block
    return received


def test_who_sends_nothing_is_sent_away(served):
    """A client that never finishes its request is closed, and those that come meanwhile are answered."""
    slow = served()
    slow.sendall(b"GET /status HT")
    quick = served()
    quick.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert heard(quick).startswith(b"HTTP/1.1 200 OK\r\n")
    assert heard(slow) == b""


def test_who_does_not_read_is_sent_away(served):
    """A client that reads nothing of a long answer loses its connection before the end."""
    deaf = served()
    deaf.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    other = served()
    assert heard(other) == b""  # sent nothing: closed by the deadline, which came after that of the deaf one
    assert len(heard(deaf)) < 1_000_000


def test_a_crowd_waits_for_its_turn(served):
    """More connections than there are slots are all answered in the end."""
    idle = [served() for _ in range(CONNECTIONS_MAX)]
    late = served()
    late.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert len(heard(late)) > 1_000_000
    for one in idle:
        one.close()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/2\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET http://elsewhere/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"GET /%ff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /?run=%ff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /?" + b"a&" * 200 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 21 + b"\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (BODY_BYTES_MAX + 1), 413),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * HEAD_BYTES_MAX, 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: 1\r\n" * 200 + b"\r\n", 431),
    ],
)
def test_what_is_no_request_is_refused(sent, status):
    """Malformed, ambiguous and oversized requests get a refusal of their own."""
    assert parse_request(sent).status == status


def test_a_request_is_whole_with_its_body():
    """A request counts once all of its header and body are there, and not before."""
    sent = b"POST /a%20b?run=x%26y HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
    assert all(parse_request(sent[:length]) is None for length in range(len(sent)))
    assert parse_request(sent) == HttpRequest("POST", "/a b", {"run": ["x&y"]}, {"host": "a", "content-length": "3"})


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", b"SSH-2.0\r\n\r\n"])
def test_half_an_answer_is_none(answer, tmp_path):
    """A client that got no whole answer says so, whatever it got."""
    local = LocalSocket.bind(AgentPlace(tmp_path))

    def serve():
        connection, _ = local.listening.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    with pytest.raises(AgentAway, match="cut short"):
        next(client.agents(tmp_path)).ask("/status")
    thread.join()
    local.close()


def test_a_stopped_agent_is_told_from_none(tmp_path):
    """An agent that accepts and says nothing is named as one that does not answer in time."""
    local = LocalSocket.bind(AgentPlace(tmp_path))
    with pytest.raises(AgentAway, match="has not answered for 0 s"):
        next(client.agents(tmp_path, timeout_s=0.05)).ask("/status")
    local.close()
