"""The shipped units under a real systemd, which boots in a container over an overlay of this machine and goes again.

They take minutes, and change nothing of this machine: ``MLSYNC_TEST_SYSTEMD=1 pytest tests/systemd`` runs them.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from container import CODE, COMMAND, PACKAGES, PATIENCE_S, RUN, Container

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not os.environ.get("MLSYNC_TEST_SYSTEMD"),
        reason="booting a systemd takes minutes; MLSYNC_TEST_SYSTEMD=1 runs these tests",
    ),
]

torch = pytest.importorskip("torch")

CONFIGURATION = "/etc/mlsync/mlsync.toml"
PASSPHRASE = "/etc/mlsync/passphrase"
USERS_PYTHON = "/usr/bin/python3.11"
ENVIRONMENT = f"Environment=PYTHONPATH={CODE}"
# As on a machine that has nothing else to do: the tests beside would starve it. Its rights stay as they are.
AT_FULL_SPEED = ("Nice=0", "CPUSchedulingPolicy=other", "IOSchedulingClass=best-effort")


def save(run: Path, epoch: int, megabytes: int = 0) -> None:
    content = {"epoch": epoch, "model": {"weight": torch.full((64, 64), float(epoch)) + torch.arange(64)}}
    if megabytes:
        content["model"]["large"] = torch.randn(megabytes << 18)
    torch.save(content, run / "saved")
    (run / "saved").replace(run / "last.pt")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training directory with one checkpoint."""
    directory = tmp_path_factory.mktemp("yolo")
    save(directory, 1)
    return directory


@pytest.fixture(scope="module")
def container(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """A container in which the unit has made version 1, with the passphrase as a credential."""
    place = tmp_path_factory.mktemp("container")
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(place)], check=True)
    started = None
    try:
        started = Container(place, run)
        started.boot()
        started.write(PASSPHRASE, "correct horse battery staple")
        (started.root / "srv/mlsync").mkdir(mode=0o700, parents=True, exist_ok=True)
        words = f"{COMMAND} init file:///srv/mlsync --watch {RUN} --config {CONFIGURATION}".split()
        words += ["--passphrase-file", PASSPHRASE]
        said = started.inside("env", f"PYTHONPATH={CODE}", *words)
        assert "repository id" in said, said
        # The secret comes as a credential alone.
        configuration = started.root / CONFIGURATION.lstrip("/")
        lines = configuration.read_text().splitlines(keepends=True)
        configuration.write_text("".join(line for line in lines if not line.startswith("passphrase_file")))
        said = started.inside("env", f"PYTHONPATH={CODE}", *COMMAND.split(), "service", "install")
        assert f"runs     {COMMAND} agent --config {CONFIGURATION}" in said, said
        started.drop_in("test", ENVIRONMENT, "RestartSec=100ms", *AT_FULL_SPEED)
        started.drop_in("secret", f"LoadCredential=mlsync-passphrase:{PASSPHRASE}")
        started.inside("systemctl", "start", "mlsync-agent")
        started.until("StatusText", "yolo/1")
        yield started
    finally:
        if started is not None:
            started.end()
        subprocess.run(["umount", "--recursive", "--lazy", str(place)], check=False, capture_output=True)


def wait(is_so, container: Container) -> None:
    """Until *is_so*; the unit's log tells why not."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline_s, container.log()
        time.sleep(0.1)


def test_a_checkpoint_is_proved_under_the_whole_hardening(container):
    """Under the unit as it ships the first version's checkpoint is loaded and its numbers are counted."""
    assert "1 checkpoint proved to L4 on cpu" in container.log()


def test_the_unit_stands_beside_all_slices(container):
    """The unit's weight counts against system.slice and user.slice, and is a tenth of theirs."""
    assert (container.unit("ControlGroup"), container.unit("CPUWeight")) == ("/mlsync-agent.service", "10")
    beside = container.inside("systemctl", "show", "--property", "ControlGroup,CPUWeight", "user.slice", "system.slice")
    assert beside.count("CPUWeight=[not set]") == 2  # 100
    assert "ControlGroup=/system.slice" in beside


def test_a_reload_backs_up_now(container, run):
    """``systemctl reload`` makes a version of what changed."""
    save(run, 2)
    container.inside("systemctl", "reload", "mlsync-agent")
    container.until("StatusText", "yolo/2")


def test_a_broken_configuration_is_refused_by_a_reload(container, run):
    """A reload with a configuration that cannot be used leaves the old one, and names what is wrong."""
    configuration = container.root / CONFIGURATION.lstrip("/")
    good = configuration.read_text()
    configuration.write_text("nonsense = true\n" + good)
    container.inside("systemctl", "reload", "mlsync-agent")
    wait(lambda: "the old one stays" in container.log(), container)
    configuration.write_text(good)
    save(run, 21)
    container.until("StatusText", "yolo/3")


def test_a_killed_agent_comes_back(container, run):
    """SIGKILL is survived: systemd starts the agent again, and it goes on."""
    before = container.unit("MainPID")
    container.inside("kill", "-KILL", before)
    container.until("NRestarts", "1")
    container.until("ActiveState", "active")
    save(run, 3)
    container.until("StatusText", "yolo/4")
    assert container.unit("MainPID") != before


def test_a_frozen_agent_is_replaced(container, run):
    """An agent that stands still is silent: the watchdog ends it, and the next one goes on."""
    container.drop_in("watchdog", "WatchdogSec=10s", "TimeoutAbortSec=1s")
    container.inside("systemctl", "restart", "mlsync-agent")
    container.until("StatusText", "yolo/")
    frozen, restarts = container.unit("MainPID"), int(container.unit("NRestarts"))
    container.inside("kill", "-STOP", frozen)
    wait(lambda: int(container.unit("NRestarts")) > restarts, container)
    assert "watchdog" in container.inside("journalctl", "-u", "mlsync-agent").lower()
    container.drop_in("watchdog")
    container.inside("systemctl", "restart", "mlsync-agent")
    container.until("ActiveState", "active")
    save(run, 4)
    container.until("StatusText", "yolo/5")
    assert container.unit("MainPID") != frozen


def test_the_secret_may_be_encrypted(container, run):
    """A passphrase that only this machine can decrypt opens the repository, with no other copy of it there."""
    sealed = "/etc/credstore.encrypted/mlsync-passphrase"
    container.inside("mkdir", "-p", "-m", "0700", "/etc/credstore.encrypted")
    said = container.inside(
        "systemd-creds", "encrypt", "--with-key=host", "--name=mlsync-passphrase", PASSPHRASE, sealed
    )
    assert (container.root / sealed.lstrip("/")).is_file(), said
    container.drop_in("secret", f"LoadCredentialEncrypted=mlsync-passphrase:{sealed}")
    kept = (container.root / PASSPHRASE.lstrip("/")).read_text()
    (container.root / PASSPHRASE.lstrip("/")).unlink()
    container.inside("systemctl", "restart", "mlsync-agent")
    save(run, 5)
    container.until("StatusText", "yolo/6")
    container.write(PASSPHRASE, kept)


def test_a_stop_is_in_time_while_an_upload_runs(container, run):
    """``systemctl stop`` in the middle of an upload ends in good order; the next start has the checkpoint."""
    packs = container.root / "srv/mlsync"
    before = sum(file.stat().st_size for file in packs.rglob("*") if file.is_file())
    save(run, 6, megabytes=600)

    def has_begun() -> bool:
        now = sum(file.stat().st_size for file in packs.rglob("*") if file.is_file())
        return now > before + (64 << 20)

    wait(has_begun, container)
    container.inside("systemctl", "stop", "mlsync-agent")
    assert (container.unit("ActiveState"), container.unit("Result")) == ("inactive", "success"), container.log()
    container.inside("systemctl", "start", "mlsync-agent")
    container.until("StatusText", "yolo/7")


def test_too_little_memory_ends_a_pass_and_not_the_agent(container, run):
    """Where MemoryMax= is too little for a pass the agent lives on, and makes the version once there is enough."""
    before = container.unit("MainPID")
    assert container.unit("MemoryMax") == str(12 << 30)
    # What an agent takes that waits, and no pass with a proof.
    container.inside("systemctl", "set-property", "--runtime", "mlsync-agent", "MemoryMax=100M", "MemoryHigh=infinity")
    events = ["cat", f"/sys/fs/cgroup{container.unit('ControlGroup')}/memory.events"]
    if "oom_kill" not in container.inside(*events):
        pytest.skip("this container's control groups count no memory")
    save(run, 7, megabytes=150)
    wait(lambda: "oom_kill 0" not in container.inside(*events), container)
    assert container.unit("ActiveState") == "active"
    container.inside("systemctl", "set-property", "--runtime", "mlsync-agent", "MemoryMax=12G")
    container.inside("systemctl", "reload", "mlsync-agent")
    container.until("StatusText", "yolo/8")
    assert container.unit("MainPID") == before


def test_a_stop_is_in_good_order(container):
    """``systemctl stop`` ends the agent before its time is over, and leaves no process behind."""
    container.inside("systemctl", "stop", "mlsync-agent")
    assert (container.unit("ActiveState"), container.unit("Result")) == ("inactive", "success")
    assert container.inside("systemctl", "status", "mlsync-agent").count("mlsync.service") == 0


def test_the_users_unit(container):
    """A user without rights installs the unit for himself, and his own manager keeps the agent."""
    home, data = "/home/mlsync-trainer", "/home/mlsync-trainer/runs"
    python = f"{USERS_PYTHON} -m mlsync"
    container.inside("useradd", "--create-home", "--home-dir", home, "--uid", "4711", "mlsync-trainer")
    environment = [f"PYTHONPATH={CODE}:{PACKAGES}", f"HOME={home}", "XDG_RUNTIME_DIR=/run/user/4711"]

    def as_user(*words: str) -> str:
        return container.inside(
            "setpriv",
            "--reuid=4711",
            "--regid=4711",
            "--clear-groups",
            "env",
            "-i",
            "PATH=/usr/bin:/bin",
            *environment,
            *words,
        )

    if "mlsync" not in as_user(*python.split(), "--version"):
        pytest.skip(f"no {USERS_PYTHON} that every user may start and that imports mlsync")
    for words in (
        ["mkdir", "-p", data],
        ["sh", "-c", f"echo 1 > {data}/args.yaml; umask 077; echo geheimnis > {home}/p"],
    ):
        as_user(*words)
    said = as_user(*python.split(), "init", f"{home}/repo", "--watch", data, "--passphrase-file", f"{home}/p")
    assert "repository id" in said, said
    assert "written" in as_user(*python.split(), "service", "install", "--user")
    unit = f"{home}/.config/systemd/user/mlsync-agent.service.d"
    as_user("mkdir", "-p", unit)
    settings = "\\n".join(AT_FULL_SPEED)
    as_user("sh", "-c", f"printf '[Service]\nEnvironment={environment[0]}\n{settings}\n' > {unit}/test.conf")
    container.inside("systemctl", "start", "user@4711.service")
    as_user("systemctl", "--user", "daemon-reload")
    started = as_user("systemctl", "--user", "start", "mlsync-agent")
    assert started == "", started + as_user("systemctl", "--user", "status", "mlsync-agent")

    def text() -> str:
        return as_user("systemctl", "--user", "show", "--property", "StatusText", "--value", "mlsync-agent")

    wait(lambda: "/1" in text(), container)
    as_user("systemctl", "--user", "stop", "mlsync-agent")
    ended = as_user("systemctl", "--user", "show", "--property", "Result", "--value", "mlsync-agent")
    assert ended.strip() == "success", started
