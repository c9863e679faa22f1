"""Places: several agents share a state directory, and each finds again what one with its runs left there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mlsync.service import status
from mlsync.service.talk import client, place
from mlsync.service.talk.place import NOTICES_FILE, STATUS_FILE, AgentPlace, status_files

STORE = "file:///nowhere"  # as agent_process has it


class Agent:
    """What of an agent uses a place: it claims it, and writes its two files."""

    def __init__(self, directory, *runs, repository=STORE):
        self.place = AgentPlace(directory, repository, runs)
        self.place.claim()
        self.kept = self.told()
        self.value = status.as_json([], repository, 0.0, 0.0)
        self.value["runs"] = [{"run": run, **dict.fromkeys(status._KEPT)} for run in runs]
        self.write()

    def write(self):
        """It has something to say."""
        status.write_status(self.place.file(STATUS_FILE), self.value)
        self.place.file(NOTICES_FILE).write_text(json.dumps([run["run"] for run in self.value["runs"]]))

    def told(self):
        """What was told by an agent that had the place, or one like it."""
        file = self.place.file(NOTICES_FILE)
        return json.loads(file.read_text()) if file.exists() else None

    def end(self):
        """It ends, or is killed: nothing but the lock goes."""
        self.place.release()


@pytest.fixture
def agents(tmp_path):
    """What starts agents; those that still live end with the test."""
    started = []

    def start(*runs, repository=STORE):
        started.append(Agent(tmp_path, *runs, repository=repository))
        return started[-1]

    yield start
    for one in started:
        one.end()


def names(directory):
    return sorted(file.name for file in directory.iterdir() if file.suffix == ".json")


def test_an_agent_alone_has_the_names_without_a_number(agents, tmp_path):
    """One agent after the other, whatever its runs: programs read status.json."""
    for run in ("a", "b", "a"):
        one = agents(run)
        assert one.place.file(STATUS_FILE) == tmp_path / STATUS_FILE
        assert json.loads((tmp_path / STATUS_FILE).read_text())["runs"][0]["run"] == run
        one.end()


def test_two_agents_have_files_of_their_own(agents, tmp_path):
    """Neither overwrites what the other one writes."""
    first, second = agents("a"), agents("b")
    first.write()
    second.write()
    assert names(tmp_path) == ["notices-1.json", "notices.json", "status-1.json", "status.json"]
    assert (first.told(), second.told()) == (["a"], ["b"])
    assert set(status.read_states(tmp_path, STORE)) == {"a", "b"}


def test_each_finds_what_it_left_in_any_order(agents):
    """Two agents that end and start again, the other one first, have what they told and nothing of the other."""
    agents("a").end()
    agents("b").end()
    for runs in ("ba", "ab", "bb", "aa"):
        started = [agents(run) for run in dict.fromkeys(runs)]
        assert [one.kept for one in started] == [[run] for run in dict.fromkeys(runs)]
        for one in started:
            one.end()


def test_what_a_living_agent_has_is_not_taken(agents, tmp_path):
    """A second agent with the same runs starts with nothing, and what it wrote goes with it."""
    first = agents("a")
    second = agents("a")
    assert (second.kept, second.place.number) == (None, 1)
    second.place.discard()
    assert names(tmp_path) == ["notices.json", "status.json"]
    assert first.told() == ["a"]


def test_an_agent_with_one_run_more_goes_on(agents):
    """A configuration that gained a run is the same agent's, and another repository's with the same name is not."""
    agents("a", "b").end()
    again = agents("b", "c")
    assert again.kept == ["a", "b"]
    again.end()
    assert agents("b", repository="file:///other").kept is None


def test_discarding_leaves_what_was_there_before(agents, tmp_path):
    """An agent that could not keep its runs leaves what the one before knew."""
    agents("a").end()
    again = agents("a")
    again.place.discard()
    assert names(tmp_path) == ["notices.json", "status.json"]


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"repository": "file:///r"}', b"[" * 100_000])
def test_a_status_that_is_none_belongs_to_nobody(agents, tmp_path, content):
    """Whatever a file holds, an agent starts, and has a file of its own name."""
    (tmp_path / STATUS_FILE).write_bytes(content)
    assert agents("a").place.file(STATUS_FILE) == tmp_path / STATUS_FILE
    assert status.read_agents(tmp_path, "file:///x") == []


def test_the_oldest_makes_room(agents, tmp_path, monkeypatch):
    """No more files come together than there are places, and the oldest goes."""
    monkeypatch.setattr(place, "PLACES", 4)
    for number, run in enumerate("abcdef"):
        agents(run).end()
        for file in tmp_path.glob("*.json"):
            if f'"{run}"' in file.read_text():
                os.utime(file, ns=(number, number))
    assert len(status_files(tmp_path)) == 4
    assert set(status.read_states(tmp_path, STORE)) == set("cdef")


def test_all_places_taken_is_an_error(agents, monkeypatch):
    """One agent more than there are places has none, and says so."""
    monkeypatch.setattr(place, "PLACES", 2)
    agents("a")
    agents("b")
    with pytest.raises(OSError, match="2 agents have places there"):
        agents("c")


def test_a_place_is_lost_with_its_directory(agents, tmp_path):
    """An agent whose directory was deleted claims a place in the new one."""
    one = agents("a")
    assert not one.place.is_lost
    shutil.rmtree(tmp_path)
    assert one.place.is_lost
    one.place.claim()
    assert not one.place.is_lost


def test_an_agent_lives_while_it_has_its_place(agents, tmp_path):
    """What an agent left behind is no agent, whatever process has its number."""
    assert not place.has_living_agent(tmp_path)
    first, second = agents("a"), agents("b")
    assert place.has_living_agent(tmp_path)
    first.end()
    assert place.has_living_agent(tmp_path)
    second.end()
    assert not place.has_living_agent(tmp_path)


@pytest.mark.slow
def test_two_real_agents_show_both(tmp_path):
    """Two processes in one state directory: each has its socket and status, and a third with the same runs gets 13."""
    state = tmp_path / "state"
    started = [agent(state, tmp_path, run) for run in ("a", "b")]
    try:
        for one in started:
            assert one.stdout.readline().endswith(b" begins\n")
            one.stdout.readline()
            one.send_signal(signal.SIGUSR1)
            assert one.stdout.readline().endswith(b" begins\n")
        told = [at.ask("/status").as_json() for at in client.agents(state)]
        assert sorted(run["run"] for one in told for run in one["runs"]) == ["a", "b"]
        seen = status.read_agents(state, STORE)
        assert {one.pid for one in seen} == {one.pid for one in started}
        third = agent(state, tmp_path, "a")
        started.append(third)
        third.stdout.read()
        assert third.wait(60) == 13
        assert {one.pid for one in status.read_agents(state, STORE)} == {one.pid for one in started[:2]}
    finally:
        for one in started:
            one.kill()
            one.communicate()


def agent(state, base, run):
    """An agent in a process, which writes a line for each pass."""
    code = Path(__file__).with_name("agent_process.py")
    directory = base / run
    directory.mkdir(exist_ok=True)
    words = [sys.executable, code, state, "/dev/stdout", f"{run}=lock:{directory}"]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
