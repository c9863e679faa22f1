"""``mlsync status`` with an agent that answers, for monitors, and of all machines from the repository alone."""

from __future__ import annotations

import time

import pytest
from answering_agent import answering
from test_cli_json import compare, one_value

from mlsync.cli import status as command
from mlsync.cli.reports.live_report import live_lines
from mlsync.service import status


def test_what_an_agent_answers_is_shown(saved):
    """Work, waits, risk, silence, hidden proofs and the last error of a run are said, each in a line."""
    with answering(saved, proved_s=time.time() - 500):
        shown = " ".join(saved.good("status", COLUMNS="200").out.split())
    for text in (
        "yolo: version 17, made 1 min ago, not fully proved",
        "no progress for 2 minutes: is its process stopped, or its disk away?",
        "now: yolo: saving, 3.0 GiB of 4.0 GiB, about 100 seconds left (last.pt)",
        "waits for the store: put failed, trying again in 2.0 s: away",
        "not yet proved elsewhere: the last 8 minutes of training",
        "no new checkpoint for 115 minutes, and usually one comes after 60 seconds",
        "later proofs are missing of version 3; mlsync check names them",
        "last error 5 min ago, 2 times: the store was away",
    ):
        assert text in shown, text


def test_a_run_that_is_well_has_one_line():
    """Nothing is said of what is as it should be but when the run is looked at again."""
    well = {"phase": "waiting", "next_try_s": 1040.0, "unproved_s": 0.0, "errors": []}
    assert list(live_lines(well, 1000.0)) == ["looks again in 40 s"]


def test_a_pass_that_leaves_the_processors_to_others_says_so():
    """Nobody wonders why a checkpoint waits."""
    resting = {"phase": "waiting", "next_try_s": 1040.0, "rests": True}
    (line,) = live_lines(resting, 1000.0)
    assert line == "looks again in 40 s, or once a processor is idle: others need all of them (processor_share)"


def test_an_error_that_goes_on_is_said_once():
    """What is wrong now stands above: of it there is only how often it came, and when it did last."""
    error = {"text": "the store was away", "last_s": 700.0, "count": 3}
    going_on = {"phase": "retrying", "last_error": "the store was away", "errors": [error]}
    assert list(live_lines(going_on, 1000.0)) == ["last error 5 min ago, 3 times"]


def test_what_is_behind_is_said_with_its_seconds():
    """A save that is not stored has a line, and an old proof another one; what is pending for a moment has none."""
    behind = {"phase": "running", "lag_s": 45.0, "proof_lag_s": 7500.0}
    assert list(live_lines(behind, 0.0))[1:] == [
        "the newest checkpoint is not stored yet; the last stored one is 45 s older",
        "the last proved checkpoint is 2.1 hours older than the newest",
    ]
    assert list(live_lines({"phase": "running", "lag_s": 0.0, "proof_lag_s": 30.0}, 0.0))[1:] == []


def test_answers_are_as_documented(saved):
    """With an agent the JSON has its whole answer, all the way down as documented."""
    with answering(saved, proved_s=time.time()) as agent:
        value = one_value(saved.good("status", "--json"))
    compare("mlsync status", value, "status")
    assert value["live"] == [agent.value]
    assert (value["runs"][0]["version"], value["agent"]["running"]) == (17, True)


def test_a_monitor_learns_of_old_proofs_by_the_exit_status(saved):
    """A proof older than --max-age ends with 83 and names the run; a younger one with 0; both without an agent too."""
    never = saved.run("status", "--max-age", "1h", "-q")
    assert (never.status, "yolo never" in never.err, never.out) == (83, True, "")
    with answering(saved, proved_s=time.time() - 3000) as agent:
        assert saved.run("status", "--max-age", "2h").status == 0
        stale = saved.run("status", "--max-age", "30m", "--json")
        assert (stale.status, one_value(stale)["runs"][0]["run"]) == (83, "yolo")
        status.write_status(saved.state / "status.json", agent.value)
    assert saved.run("status", "--max-age", "2h").status == 0
    done = saved.run("status", "--max-age", "30m", "-q")
    assert (done.status, "no proved version is as young as 30 min: yolo 50 min ago" in done.err) == (83, True)
    assert saved.run("status", "--max-age", "soon").status == 2


def test_an_agent_that_does_not_answer_is_named(saved):
    """A socket on which nobody answers in time is said, with what its status file says and how old that is."""
    with answering(saved, proved_s=time.time()) as agent:
        old = agent.value | {"written_s": time.time() - 4000}
        status.write_status(saved.state / "status.json", old)
        agent.value = {"runs": 5}
        shown = " ".join(saved.good("status", COLUMNS="200").out.split())
    assert "an agent of another version of mlsync answers" in shown
    assert "what it wrote is of 1 h ago" in shown


def test_the_fleet_is_shown_from_the_repository_alone(saved):
    """All runs with host, age, proof and sizes come out of the store, as documented, where no agent ever ran."""
    saved.good("backup")
    for file in saved.state.iterdir():
        file.rename(saved.base / file.name)
    shown = saved.good("status", "--fleet", COLUMNS="200").out
    assert "yolo" in shown
    assert "1 run, " in shown
    value = one_value(saved.good("status", "--fleet", "--json"))
    compare("mlsync status --fleet", value, "fleet")
    assert [run["run"] for run in value["runs"]] == ["yolo"]
    assert saved.run("status", "--fleet", "--max-age", "1h").status in (0, 83)


def test_watching_shows_it_again_until_it_is_stopped(monkeypatch):
    """--watch shows the status each two seconds, and goes on when a monitor's age is exceeded."""
    shown = []

    def pause(seconds):
        assert seconds == 2.0
        if len(shown) == 3:
            raise KeyboardInterrupt

    def show():
        shown.append(1)
        raise command.VersionStale("old")

    monkeypatch.setattr(command.time, "sleep", pause)
    with pytest.raises(KeyboardInterrupt):
        command._watch(show)
    assert len(shown) == 3


def test_an_end_that_is_announced_is_shown(saved):
    """What a platform told the agent of this machine's end stands beside the agent, with the time that is left."""
    told = {"platform": "aws", "kind": "stop", "effect": "ends", "certain": True, "deadline_s": time.time() + 95.5}
    with answering(saved, proved_s=time.time()) as agent:
        agent.value["notices"] = [told, told | {"effect": "risk", "deadline_s": None}, told | {"effect": "pause"}]
        shown = " ".join(saved.good("status", COLUMNS="200").out.split())
    assert "aws announces: stop; THIS MACHINE ENDS IN 9" in shown
    assert "aws announces: stop; this machine may end soon" in shown
    assert "aws announces: stop, a pause of seconds" in shown
