"""``mlsync`` alone and ``mlsync status``: what to do next, by what is set up on this machine."""

from __future__ import annotations

import os
import socket
import time

import pytest

from mlsync.cli.terminal.steps import Step, step_lines
from mlsync.service import status as agent_status


def write_agent(machine, *, pid, started_s, host=None, last_error=None):
    """The status file as an agent of that process left it."""
    run = {"run": "yolo", "last_version": 2, "last_version_s": time.time() - 7300, "last_proved_version": 2}
    content = {
        "format": agent_status.FORMAT,
        "repository": machine.url,
        "pid": pid,
        "host": host or socket.gethostname(),
        "started_s": started_s,
        "runs": [run | {"last_error": last_error, "troubles": []}],
    }
    agent_status.write_status(machine.state / "status.json", content)


@pytest.mark.parametrize("words", [("--no-such",), ("status", "--no-such")])
def test_an_unknown_option_is_refused(fresh, words):
    """What is no option ends with 2, with a command and without."""
    assert fresh.run(*words).status == 2


def test_a_machine_with_nothing_is_shown_the_first_commands(fresh):
    """Without a configuration, mlsync says where it looked, and how to see, to begin and to restore, in 80 columns."""
    done = fresh.good("--quiet")
    assert str(fresh.configuration) in done.out
    for command in ("mlsync demo", "mlsync init URL --watch DIRECTORY", "mlsync restore --repo URL"):
        assert command in done.out
    assert done.err == ""
    assert max(map(len, done.out.replace(str(fresh.configuration), "").splitlines())) <= 80


def test_mlsync_alone_is_status(saved):
    """The command without a name does what ``status`` does, with the options of all commands."""
    words = ("--config", saved.configuration)
    assert saved.good(*words).out == saved.good("status", *words).out
    assert saved.good("--json").json() == saved.good("status", "--json").json()


def test_status_shows_the_last_version_without_a_passphrase(saved):
    """Run, last version, repository and configuration are shown, where no secret is, and no store."""
    saved.good("backup")  # the local state is a copy of another machine's
    saved.repository.rename(saved.base / "elsewhere")
    done = saved.good("status", CREDENTIALS_DIRECTORY="")
    assert "yolo: version 2, made " in done.out
    assert "never ran" in done.out
    for shown in (saved.url, str(saved.configuration), str(saved.training), "mlsync backup", "mlsync show"):
        assert shown in done.out


def test_a_repository_that_is_new_here_has_no_version(saved):
    """What the local state knows of one repository is not said of another one."""
    saved.configuration.write_text(saved.configuration.read_text().replace(saved.url, saved.url + "-2"))
    assert "yolo: no version yet" in saved.good("status").out


def test_an_agent_that_runs_is_shown_with_its_runs(saved):
    """A living process that began before the status's agent did is the agent, and needs no command to be started."""
    write_agent(saved, pid=os.getpid(), started_s=time.time())
    done = saved.good("status")
    assert f"runs (process {os.getpid()}, started less than a minute ago)" in done.out
    assert "yolo: version 2, made 2 h ago, proved" in done.out
    assert "mlsync agent" not in done.out


def test_a_process_with_the_agents_number_is_not_the_agent(saved):
    """A process that began after the agent started only took its number over."""
    write_agent(saved, pid=os.getpid(), started_s=time.time() - 10**6)
    done = saved.good("status")
    assert "does not run (last started 11 d ago)" in done.out
    assert "mlsync agent " in done.out


@pytest.mark.parametrize("systemd", [True, False])
def test_a_service_is_advised_only_where_systemd_runs(saved, systemd):
    """Where a unit cannot be enabled, as in a container, the agent is among the next commands and the service not."""
    done = saved.good("status", systemd=systemd)
    assert "mlsync agent " in done.out
    assert ("mlsync service install" in done.out) is systemd
    commands = saved.good("status", "--json", systemd=systemd).json()["next"]
    assert (
        any(words.endswith(f"mlsync service install --config {saved.configuration}") for words in commands) is systemd
    )


def test_an_agent_of_another_machine_is_not_judged(saved):
    """Whether a process of another host runs is not known here."""
    write_agent(saved, pid=1, started_s=time.time(), host="elsewhere")
    assert "belongs to elsewhere" in saved.good("status").out
    assert saved.good("status", "--json").json()["agent"]["running"] is None


def test_what_an_agent_failed_at_is_shown(saved):
    """The error of a run's last pass is among what is shown of the run."""
    write_agent(saved, pid=os.getpid(), started_s=time.time(), last_error="the store is away: https://minio")
    assert "the store is away: https://minio" in saved.good("status").out


def test_a_configuration_that_is_wrong_is_shown_with_its_line(saved):
    """File, line and what was probably meant are shown, and the command ends with 0: it did what it is for."""
    saved.configuration.write_text("repositor = 1\n")
    done = saved.good("status")
    assert f"{saved.configuration}:1" in done.out
    assert "did you mean repository?" in done.out


def test_a_status_file_of_nobody_changes_nothing(saved):
    """What is no status, or another repository's, counts for nothing."""
    for content in (b"{}", b"\xff", b'{"format": 1, "repository": "x"}'):
        (saved.state / "status.json").write_bytes(content)
        assert "never ran" in saved.good("status").out


def test_a_long_command_costs_only_itself_its_purpose():
    """Purposes stand in a column, as far as the longest command goes that leaves them room; longer ones stand alone."""
    long = Step("mlsync service install --user --config /home/anna/projects/yolo/mlsync.toml", "or as a service")
    steps = [Step("mlsync backup", "make a version"), Step("mlsync agent -v", "keep watch"), long]
    assert step_lines(steps) == [
        "  mlsync backup    make a version",
        "  mlsync agent -v  keep watch",
        f"  {long.words}",
    ]
