"""What an agent makes of a save that a training tells of: whose it is, which run, and when it is read."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from doubles.told_agent import ToldAgent, ToldJob
from mlsync.service.talk import client
from mlsync.service.talk.answers import Answers
from mlsync.service.talk.http import HttpRequest
from mlsync.service.talk.told_saves import may_tell, told_below
from mlsync.service.watching.trigger import Changes, ChangeTimes, RunPlace, SaveTimes, Trigger
from mlsync.service.worker import Timing, Worker
from mlsync.source.finished import place_of_save

PLACE = RunPlace(b"/real/runs", 1000)


@pytest.mark.parametrize(
    ("paths", "below"),
    [
        ([], b""),
        ([b"/data/runs/last.pt"], b"last.pt"),
        ([b"/data/runs/exp/weights/"], b"exp/weights"),
        ([b"/elsewhere/last.pt", b"/real/runs/last.pt"], b"last.pt"),
        ([b"/data/runs"], b""),
        ([b"/data"], b""),
        ([b"/"], b""),
        ([b"/data/runs2/last.pt"], None),
        ([b"/data/runs/../other/last.pt"], None),
        ([b"last.pt"], None),
        ([b""], None),
        ([b"/data/runs/\xff.pt"], b"\xff.pt"),
    ],
)
def test_a_path_belongs_to_the_run_whose_directory_holds_it(paths, below):
    """By the configured path and by the real one; a directory above means all of it, and names alone decide."""
    assert told_below(Path("/data/runs"), PLACE, paths) == below


def test_a_user_speaks_for_his_own_directories():
    """The owner and root; and whoever comes by the private socket, for all."""
    assert [may_tell(PLACE, uid) for uid in (None, 0, 1000, 1001, -1)] == [True, True, True, False, False]
    assert [may_tell(None, uid) for uid in (None, 0, 1000, -1)] == [True, True, False, False]


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (b"exp/weights/last.pt", b"exp/weights"),
        (b"exp/weights", b"exp/weights"),
        (b"checkpoint-500", b"checkpoint-500"),
        (b"checkpoint-500/trainer_state.json", b"checkpoint-500"),
        (b"notes.txt", b"notes.txt"),
        (b"last.pt.tmp", b"last.pt.tmp"),
        (b"", b""),
    ],
)
def test_a_told_save_is_the_one_that_the_watcher_sees(path, place):
    """Both come to the same place, so that one save makes one pass."""
    assert place_of_save(path) == place


# ---------------------------------------------------------------- when it is read


def worker(job, **timing):
    return Worker(job, Timing(**timing), None, lambda: None, clock=lambda: 100.0)


def test_a_told_save_does_not_settle(tmp_path):
    """It is due after the moment in which the watcher's news of the same files come, whatever settle says."""
    one = worker(ToldJob("yolo", tmp_path), settle_s=60.0, on_change=False)
    one._rescan_at_s = math.inf
    told = Changes({b"w": SaveTimes(ChangeTimes(90.0, 120.0), told_s=100.0)})
    assert one.due(told, False) == pytest.approx(100.02)
    one._told_in_vain_s = 99.5
    assert one.due(told, False) == 100.5, "who calls again and again, with nothing new, is not read each time"
    one._retry_at_s = 500.0
    assert one.due(told, False) == 500.0, "a store that is away is not asked for each save"


def test_a_save_whose_training_waits_leaves_the_processors_to_nobody(tmp_path):
    """The training stands still meanwhile; whether news of the same files came before or after is all the same."""
    one = worker(ToldJob("yolo", tmp_path), settle_s=60.0)
    one.job.rests_until_s = lambda since_s: 500.0
    for is_awaited, due_s in ((False, 500.0), (True, 100.02)):
        trigger = Trigger(lambda: 100.0)
        trigger.tell_saved(b"w", b"w/last.pt", is_awaited=is_awaited)
        trigger.note_save(b"w", has_ended=False, is_alone=True)
        assert one.due(trigger.changes, False) == pytest.approx(due_s)


def test_news_of_a_told_save_change_nothing(tmp_path):
    """The watcher's event for the same place comes before or after; the save stays told of until a pass begins."""
    trigger = Trigger(lambda: 100.0)
    asked = trigger.tell_saved(b"w", b"w/last.pt")
    trigger.note_save(b"w", has_ended=False, is_alone=True)
    assert trigger.changes.saves[b"w"].told_s == 100.0
    assert trigger.clear() == [asked]
    assert trigger.changes.saves == {}
    trigger.close()
    assert trigger.tell_saved(b"w", b"").wait(0)


# ---------------------------------------------------------------- the socket for all users


@pytest.fixture
def agent(tmp_path):
    """An agent with a socket for all users; the runs belong to this user."""
    for name in ("a", "b", "state", "run"):
        (tmp_path / name).mkdir()
    with ToldAgent([ToldJob("a", tmp_path / "a"), ToldJob("b", tmp_path / "b")], tmp_path / "state", tmp_path / "run"):
        yield next(client.agents(tmp_path / "run"))


def test_the_socket_for_all_users_is_open_to_all(agent, tmp_path):
    """Any user can connect; the private one beside the state stays private."""
    assert (tmp_path / "run/agent-0.sock").stat().st_mode & 0o777 == 0o666
    assert (tmp_path / "state/agent-0.sock").stat().st_mode & 0o777 == 0o600


def test_it_takes_saves_and_nothing_else(agent, tmp_path):
    """No state, no metrics, no backup of all runs: a save in one's own directory, and what became of it."""
    for method, target in (
        ("GET", "/status"),
        ("POST", "/backup"),
        ("GET", "/metrics"),
        ("GET", "/"),
        ("GET", "/saved"),
    ):
        assert agent.ask(target, method=method).status in (404, 405), target
    path = bytes(tmp_path / "a" / "last.pt").hex()
    answer = agent.ask(f"/saved?path={path}", method="POST")
    assert (answer.status, [one["run"] for one in answer.as_json()["passes"]]) == (202, ["a"])
    assert agent.ask("/saved?path=nothex", method="POST").status == 400
    assert agent.ask(f"/saved?path={b'/elsewhere'.hex()}", method="POST").status == 404
    assert agent.ask("/saved?path=", method="POST").status == 404


class OfUser:
    """An agent that notes who asked."""

    def __init__(self):
        self.asked = []

    def tell_saved(self, paths, runs, uid, *, is_awaited=False):
        """Note it."""
        self.asked.append((uid, is_awaited))
        return {}

    requested = tell_saved


def test_the_kernel_says_who_asks():
    """By the public socket a request counts for its user, or for nobody; by the private one, for all."""
    agent = OfUser()
    public, private = Answers.for_trainings(agent), Answers(agent, may_act=True)
    for answers, uid in ((public, 1000), (public, None), (private, 1000)):
        answers(HttpRequest("POST", "/saved", {}, {}, uid))
    assert agent.asked == [(1000, False), (-1, False), (None, False)]


def test_a_request_says_whether_its_training_waits():
    """By a parameter of its own, whatever its value."""
    agent = OfUser()
    Answers.for_trainings(agent)(HttpRequest("POST", "/saved", {"waits": ["1"]}, {}, 1000))
    assert agent.asked == [(1000, True)]


def test_a_user_learns_nothing_of_anothers_passes(tmp_path):
    """Numbers can be guessed; the answer holds only what the same user asked for."""
    from mlsync.service.passes.asked_passes import AskedPasses
    from mlsync.service.watching.trigger import Asked

    passes = AskedPasses()
    numbers = [passes.add("a", Asked(), 1000), passes.add("b", Asked(), 1001), passes.add("c", Asked())]
    assert [one["run"] for one in passes.as_json(numbers, 1000)] == ["a"]
    assert [one["run"] for one in passes.as_json(numbers)] == ["a", "b", "c"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_tells_nothing(agent, tmp_path):
    """A real process of another user is refused for a directory that is not his."""
    path = bytes(tmp_path / "a" / "last.pt").hex()
    pid = os.fork()
    if not pid:
        try:
            # He cannot look into the test's directories above this one.
            os.chdir(tmp_path / "run")
            os.setresuid(4711, 4711, 4711)
            answer = client.AgentAt(Path("agent-0.sock"), {0}).ask(f"/saved?path={path}", method="POST")
            os._exit(answer.status - 400)
        finally:
            os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 4
