"""``mlsync run`` around real trainings: whatever ends them, the last version holds what was on the disk."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from machine import MLSYNC

from cloud_service import CloudService, http
from mlsync.errors import CommandMissing, CommandNotExecutable, DirectoryNewer, LastBackupFailed

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("training_program.py")
PATIENCE_S = 60.0


def wait_until(is_so, *what):
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, [one() for one in what]
        time.sleep(0.02)


class Training:
    """A machine whose repository is empty, without a configuration, and trainings on it."""

    def __init__(self, machine):
        self.machine = machine
        self.report = machine.base / "report"
        self.directory = machine.base / "runs"
        self.errors = machine.base / "errors"
        self.running = []
        self.log_format = "text"

    def command(self, *words, options=()):
        """The words of a command that trains."""
        program = [sys.executable, str(PROGRAM), str(self.directory), f"report={self.report}", *words]
        return [
            str(MLSYNC),
            "run",
            "--watch",
            str(self.directory),
            "--run",
            "yolo",
            "--quickly",
            *options,
            "--",
            *program,
        ]

    @property
    def environment(self):
        """What it sees: no configuration, quick settling, no device."""
        return self.machine.environment(
            MLSYNC_CONFIG="",
            MLSYNC_REPOSITORY=self.machine.url,
            MLSYNC_STATE_DIRECTORY=str(self.machine.state),
            MLSYNC_PROOF_DEVICE="none",
            MLSYNC_AGENT_SETTLE="100ms",
            MLSYNC_AGENT_LOG_FORMAT=self.log_format,
        )

    def start(self, *words, options=(), **streams):
        """Start it in the background."""
        with self.errors.open("ab") as errors:
            process = subprocess.Popen(
                self.command(*words, options=options),
                env=self.environment,
                cwd=self.machine.base,
                **{"stderr": errors, "stdin": subprocess.DEVNULL, **streams},
            )
        self.running.append(process)
        return process

    def lines(self):
        """The report."""
        return self.report.read_text().splitlines() if self.report.exists() else []

    def wait_for(self, line):
        """The report has that line."""
        wait_until(lambda: line in self.lines(), self.lines, self.errors.read_text)

    def stored(self):
        """The bytes of the checkpoint in the last version."""
        target = self.machine.base / "restored"
        self.machine.run("restore", "--repo", self.machine.url, "--run", "yolo", "--to", target, MLSYNC_CONFIG="")
        file = target / "last.safetensors"
        return file.read_bytes() if file.exists() else None

    def on_disk(self):
        """Those on the disk."""
        return (self.directory / "last.safetensors").read_bytes()


@pytest.fixture
def training(machine):
    """A training; at the end, its processes end."""
    one = Training(machine)
    yield one
    for process in one.running:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    ("words", "status"), [(("until=3",), 0), (("until=3", "status=3"), 3), (("until=3", "kill"), 137)]
)
def test_a_training_that_ends_by_itself_is_stored_to_its_end(training, words, status):
    """Well, failed or killed: the exit status is the training's, and the last version is what was on the disk."""
    process = training.start(*words)
    assert process.wait(PATIENCE_S) == status
    assert training.lines()[-1] == "step 3"
    assert training.stored() == training.on_disk()
    assert "everything is stored" in training.errors.read_text()
    # The passphrase's file is not given to it, nor what mlsync sets for itself.
    assert "BLAS" not in training.lines()[0]


def test_the_log_beside_a_training_is_json_on_demand(training):
    """Each line of the log is an object, those of a pass too; the last line, for people, is none."""
    training.log_format = "json"
    assert training.start("until=3").wait(PATIENCE_S) == 0
    *log, last = training.errors.read_text().splitlines()
    assert any("version 1" in json.loads(line)["message"] for line in log)
    assert last.startswith("mlsync: everything is stored")


@pytest.mark.parametrize("words", [(), ("deaf",)])
def test_sigterm_reaches_the_training_and_what_it_left_is_stored(training, words):
    """The signal goes on at once, a second one too, and the exit status is 128 and its number."""
    process = training.start(*words)
    training.wait_for("step 3")
    process.send_signal(signal.SIGTERM)
    training.wait_for("signal 15")
    if words:
        training.wait_for(f"step {len(training.lines()) + 3}")
        process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 143
    assert training.lines().count("signal 15") == 1 + len(words)
    assert training.stored() == training.on_disk()


def test_ctrl_c_reaches_the_training_once(training):
    """At a terminal the training is in the foreground, and ends by one SIGINT; then comes the last backup."""
    parent, child = pty.openpty()
    program = (
        "import os, sys, fcntl, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, *training.command()],
        env=training.environment,
        cwd=training.machine.base,
        **dict.fromkeys(("stdin", "stdout", "stderr"), child),
    )
    training.running.append(process)
    os.close(child)
    training.wait_for("step 2")
    os.write(parent, b"\x03")
    shown = b""
    while True:
        try:
            shown += os.read(parent, 4096)
        except OSError:
            break
    os.close(parent)
    assert process.wait(PATIENCE_S) == 130
    assert training.lines().count("signal 2") == 1
    assert b"everything is stored" in shown
    assert training.stored() == training.on_disk()


def test_the_training_goes_on_when_mlsync_is_killed(training):
    """SIGKILL ends mlsync run alone; the training ends by itself, and what it wrote last is stored all the same."""
    process = training.start("until=30")
    training.wait_for("step 3")
    process.kill()
    process.wait()
    training.wait_for("step 30")
    wait_until(lambda: training.stored() == training.on_disk(), training.errors.read_text)
    assert "mlsync run is gone" in training.errors.read_text()


def test_a_fault_of_the_process_that_backs_up_ends_nothing(training):
    """It is named and started again; the exit status is the training's, and everything is stored."""
    process = training.start("until=60", "status=4")
    training.wait_for("step 3")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (companion,) = [int(pid) for pid in children if b"companion_process" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(companion, signal.SIGKILL)
    assert process.wait(PATIENCE_S) == 4
    assert "the process that backs up was killed by signal 9; the training goes on" in training.errors.read_text()
    assert training.lines()[-1] == "step 60"
    assert training.stored() == training.on_disk()


def test_a_new_node_goes_on_and_the_same_one_is_left_alone(training):
    """An empty directory is restored before the start; one that is ahead is not touched."""
    assert training.start("until=2").wait(PATIENCE_S) == 0
    (training.directory / "last.safetensors").unlink()
    assert training.start("until=4").wait(PATIENCE_S) == 0
    begins = [line.partition(",")[0] for line in training.lines() if line.startswith("begins")]
    assert begins == ["begins at 0", "begins at 2"]
    # Written while nobody watched.
    assert (
        subprocess.run(
            [sys.executable, PROGRAM, training.directory, f"report={training.report}", "until=6"], check=False
        ).returncode
        == 0
    )
    assert training.start("until=7").wait(PATIENCE_S) == 0
    assert "ahead of version" in training.errors.read_text()
    assert training.lines()[-2:][0].startswith("begins at 6")
    assert training.stored() == training.on_disk()


def test_nothing_is_restored_over_newer_files(training):
    """A directory that somebody began anew is left as it is, and the training is not started."""
    assert training.start("until=2").wait(PATIENCE_S) == 0
    before = training.lines()
    (training.directory / "last.safetensors").unlink()
    (training.directory / "notes.txt").write_text("mine")
    process = training.start("until=3")
    assert process.wait(PATIENCE_S) == DirectoryNewer.exit_code
    assert "notes.txt is newer than version 1" in training.errors.read_text()
    assert training.lines() == before
    assert os.listdir(training.directory) == ["notes.txt"]
    assert training.start("until=3", options=["--restore", "never"]).wait(PATIENCE_S) == 0


def test_a_training_that_can_save_is_told_first(training):
    """SIGTERM waits until the checkpoint that was saved on request is stored; a shell that catches nothing lives."""
    training.directory.mkdir()
    program = training.command("saves", options=["--save-signal", "USR1"])
    at = program.index("--") + 1
    words = " ".join(program[at:])
    with training.errors.open("ab") as errors:
        process = subprocess.Popen(
            [*program[:at], "/bin/sh", "-c", f"trap 'kill -TERM $!; wait $!; exit 9' TERM; {words} & wait $!; wait $!"],
            env=training.environment,
            cwd=training.machine.base,
            stderr=errors,
        )
    training.running.append(process)
    training.wait_for("step 1")
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 9
    assert training.lines()[1:] == ["step 1", f"signal {signal.SIGUSR1:d}", "step 2", "signal 15"]
    assert "the checkpoint saved on request is stored" in training.errors.read_text()
    assert training.stored() == training.on_disk()


def test_a_last_backup_that_failed_is_told_and_with_strict_is_the_status(training):
    """The exit status is the training's; the last line says what is on this disk only."""
    elsewhere = training.machine.repository.with_name("elsewhere")
    for options, status in (([], 0), (["--strict"], LastBackupFailed.exit_code)):
        process = training.start("until=100000", options=["--restore", "never", *options])
        training.wait_for(f"step {len(training.lines()) + 8}")
        training.machine.repository.rename(elsewhere)
        training.report.with_name("stop").touch()
        os.kill(trainer_of(process), signal.SIGKILL)
        assert process.wait(PATIENCE_S) in (137, status)
        elsewhere.rename(training.machine.repository)
    assert training.errors.read_text().count("THE LAST BACKUP OF yolo FAILED") == 2


def trainer_of(process):
    """The id of a training."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return next(int(pid) for pid in children if b"training_program" in Path(f"/proc/{pid}/cmdline").read_bytes())


def test_a_wrong_start_is_refused_before_anything_is_done(training, tmp_path):
    """Statuses of shells for commands that cannot be started, 2 for a command that does not stand behind dashes."""
    text = tmp_path / "text"
    text.write_text("no program")
    wrong = [
        (["--", "no-such-command-here"], CommandMissing.exit_code),
        (["--", str(tmp_path / "absent")], CommandMissing.exit_code),
        (["--", str(text)], CommandNotExecutable.exit_code),
        (["--", str(tmp_path)], CommandNotExecutable.exit_code),
        (["python", "train.py", "--epochs", "3"], 2),
        (["--"], 2),
        (["--grace", "0s", "--", "true"], 2),
        (["--save-signal", "KILL", "--", "true"], 2),
        (["--save-signal", "NOTHING", "--", "true"], 2),
    ]
    for words, status in wrong:
        done = training.machine.run("run", *words, **said(training))
        assert done.status == status, (words, done)
    text.chmod(0o755)
    done = training.machine.run("run", "--", str(text), **said(training))
    assert done.status == CommandNotExecutable.exit_code, done


def said(training):
    """The variables that replace a configuration."""
    return {name: value for name, value in training.environment.items() if name.startswith("MLSYNC_")} | {
        "MLSYNC_CONFIG": "",
        "MLSYNC_WATCH_DIRECTORY": str(training.directory),
    }


def test_other_processes_of_a_launcher_become_the_training(training):
    """Of srun's processes the first one backs up; a second one is the training, and nothing else."""
    words = [sys.executable, "-c", "import os; print(os.getpid())"]
    slurm = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "1"}
    command = [MLSYNC, "run", "--restore", "never", "--watch", training.directory, "--", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, env=training.environment | slurm, **pipes)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, int(out)) == (0, process.pid)
    assert b"process 2 of 2: only the training runs here" in err


def test_json_of_a_training_is_refused(training):
    """What the training prints is its own."""
    done = training.machine.run("run", "--json", "--", "true", **said(training))
    assert (done.status, done.json()["error"]["exit_status"]) == (2, 2)


def test_a_notice_of_the_cloud_has_the_training_save(training, monkeypatch):
    """The training is told, goes on, and the checkpoint that it saves for that is stored before the machine ends."""
    cloud = CloudService()
    cloud.answers["PUT", "/latest/api/token"] = http("token-of-the-test")
    cloud.answers["/latest/meta-data/instance-life-cycle"] = http("spot")
    usual = training.environment | {
        "MLSYNC_METADATA_ENDPOINT": f"http://127.0.0.1:{cloud.port}",
        "MLSYNC_PREEMPTION_NOTICES": '["aws"]',
    }
    monkeypatch.setattr(Training, "environment", usual)
    process = training.start("saves", options=["--save-signal", "USR1"])
    training.wait_for("step 1")
    cloud.answers["/latest/meta-data/spot/instance-action"] = http('{"action": "terminate", "time": ""}')
    training.wait_for("step 2")
    wait_until(lambda: "the checkpoint saved on request is stored" in training.errors.read_text())
    assert training.stored() == training.on_disk()
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 143
    # Once by the notice; SIGTERM finds it done.
    assert training.lines()[1:] == ["step 1", f"signal {signal.SIGUSR1:d}", "step 2", "signal 15"]
    assert "aws: termination in 120 s" in training.errors.read_text()
    cloud.close()


def test_the_others_wait_for_what_the_first_restores(training):
    """Three processes of srun on one machine: no training begins before the directory is whole, and one restores."""
    training.start("until=3").wait(PATIENCE_S)
    saved = training.on_disk()
    training.directory.rename(training.machine.base / "lost")
    sees = ["sh", "-c", f"cat {training.directory}/last.safetensors"]
    started = []
    for number in (2, 1, 0):
        slurm = {"SLURM_PROCID": str(number), "SLURM_LOCALID": str(number), "SLURM_NODEID": "0"}
        environment = training.environment | slurm | {"SLURM_STEP_NUM_TASKS": "3", "SLURM_STEP_ID": "0"}
        command = [MLSYNC, "run", "--watch", training.directory, "--run", "yolo", "--quickly", "--", *sees]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(command, env=environment, cwd=training.machine.base, **pipes))
    said = [one.communicate(timeout=PATIENCE_S) for one in started]
    assert [(one.returncode, out) for one, (out, _) in zip(started, said, strict=True)] == [(0, saved)] * 3, said
    assert [b" restored to " in err for _, err in said] == [False, False, True]


def test_sigterm_during_the_restore_is_143_and_the_next_start_goes_on(training):
    """The training is not started, the status is the signal's, and the next start restores what is missing."""
    training.directory.mkdir()
    (training.directory / "large.bin").write_bytes(os.urandom(6 << 20))
    training.start("until=3").wait(PATIENCE_S)
    training.directory.rename(training.machine.base / "lost")
    usual = training.environment | {"MLSYNC_LIMITS_DOWNLOAD": '["1MB/s"]'}
    command = training.command("until=4")
    process = subprocess.Popen(command, env=usual, cwd=training.machine.base, stderr=subprocess.PIPE)
    training.running.append(process)
    wait_until(lambda: list(training.directory.glob(".mlsync-restore-?????*")))
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 143
    assert b"SIGTERM came before the training was started" in errors
    assert "step 4" not in training.lines()
    assert training.start("until=3").wait(PATIENCE_S) == 0
    assert (training.directory / "large.bin").stat().st_size == 6 << 20
    assert not list(training.directory.glob(".mlsync-restore-*"))
