"""A command that loads a checkpoint: what its end says of the file, and what it may and may not."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from load_here import load_here
from proof_python import PROOF_PYTHON

from mlsync.errors import CommandUnavailable, ProofOutOfMemory, ProofTimedOut
from mlsync.proof import running
from mlsync.proof.framework import Framework, Loaded, load, state_dict_command, ultralytics_command

pytestmark = pytest.mark.slow

PATIENCE_S = 30.0


def never() -> None:
    """Nothing to do meanwhile."""


@pytest.fixture
def run(tmp_path):
    """Have a shell command "load" a small file; it finds its path in $1."""
    file = tmp_path / "best.pt"
    file.write_bytes(b"content")
    home = tmp_path / "home"
    home.mkdir()

    def run(script, tick=never, **options):
        framework = Framework("check", ("sh", "-c", script, "sh", "{path}"), **options)
        return load(framework, file, home, tick)

    return run


def told(refused):
    """Why a load was refused."""
    assert not refused.skipped
    return refused.refused


# ---------------------------------------------------------------- what the end says


def test_a_command_that_ends_well_has_loaded_the_file(run):
    """Exit status 0 says that the file loads, whatever was printed; the command got the file's path."""
    assert run('test "$(cat "$1")" = content && echo error') == Loaded()


def test_a_command_that_fails_speaks_against_the_file(run):
    """Any other status does, and the end of what was printed says why, on one line."""
    script = "for i in 1 2 3 4 5; do echo line $i; done; printf 'bad \\033[31mkey\\n' >&2; exit 3"
    assert told(run(script)) == "check ended with 3: line 4 | line 5 | bad ?[31mkey"


@pytest.mark.parametrize("name", ["SEGV", "ABRT", "BUS"])
def test_a_crash_speaks_against_the_file(run, name):
    """A process that dies by its own fault while it loads has not loaded."""
    assert told(run(f"kill -{name} $$")) == f"check crashed with signal {getattr(signal, 'SIG' + name):d}"


@pytest.mark.parametrize(
    ("script", "error", "said"),
    [
        ("echo no GPU here; exit 75", CommandUnavailable, "check could not tell: no GPU here"),
        ("no-such-program-as-this", CommandUnavailable, "check does not start: .*not found"),
        ("exit 126", CommandUnavailable, "check does not start"),
        ("kill -TERM $$", CommandUnavailable, "check was ended by signal 15"),
        ("kill -KILL $$", ProofOutOfMemory, "check was killed, for want of memory it seems"),
        ("sh -c 'kill -KILL $$'; exit $?", ProofOutOfMemory, "check was killed, for want of memory it seems"),
        ("echo torch.OutOfMemoryError: CUDA out of memory >&2; exit 1", ProofOutOfMemory, "check ran out of memory: t"),
        ("echo MemoryError; exit 1", ProofOutOfMemory, "check ran out of memory: MemoryError"),
    ],
)
def test_what_could_not_be_had_says_nothing_of_the_file(run, script, error, said):
    """A load that somebody ended, that had no memory, no program or no answer is unavailable, never broken."""
    with pytest.raises(error, match=said):
        run(script)


def test_a_file_that_the_command_is_not_meant_for_is_skipped(run):
    """Exit status 77 says nothing at all."""
    assert run("exit 77") == Loaded(skipped=True)


def test_a_program_that_is_not_there_says_nothing_of_the_file(tmp_path):
    """A command that cannot be started is unavailable."""
    (tmp_path / "x.pt").write_bytes(b"")
    with pytest.raises(CommandUnavailable, match="check does not start: No such file or directory"):
        load(Framework("check", ("/absent/python", "{path}")), tmp_path / "x.pt", tmp_path, never)


def test_the_deadline_ends_the_command_and_all_that_it_started(run, tmp_path):
    """After the time-out nothing of the command's session runs any more."""
    pids = tmp_path / "pids"
    with pytest.raises(ProofTimedOut, match="check did not end within 1 s"):
        run(f"sleep 1000 & echo $! $$ > {pids}; wait", timeout_s=1.0)
    wait_for(lambda: not [pid for pid in pids.read_text().split() if is_running(int(pid))])


def test_a_process_that_stays_behind_does_not_hold_the_load_up(run, tmp_path):
    """Who goes on after the command has ended, its output still open, is killed."""
    pid = tmp_path / "pid"
    assert run(f"sleep 1000 & echo $! > {pid}") == Loaded()
    wait_for(lambda: not is_running(int(pid.read_text())))


@pytest.mark.timeout(60)
def test_what_leaves_the_session_does_not_hold_the_load_up(run, tmp_path):
    """A process that made itself a session of its own is out of reach, and nobody waits for it."""
    pid = tmp_path / "pid"
    leave = f"setsid sh -c 'echo $$ > {pid}; exec sleep 1000' & while test ! -s {pid}; do sleep 0.05; done"
    assert run(leave) == Loaded()
    assert is_running(int(pid.read_text()))
    os.kill(int(pid.read_text()), signal.SIGKILL)


class GivenUp(Exception):
    """Somebody does not want to wait any longer."""


def test_whoever_waits_can_give_up(run, tmp_path):
    """What is called meanwhile may raise, and the command is gone then."""
    pid = tmp_path / "pid"

    def give_up():
        if pid.exists() and pid.read_text():
            raise GivenUp

    with pytest.raises(GivenUp):
        run(f"echo $$ > {pid}; sleep 1000", tick=give_up, timeout_s=20)
    assert not is_running(int(pid.read_text()))


def test_of_endless_output_only_the_end_is_kept(run):
    """A hundred megabytes of output neither stop the command nor take memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert told(run("yes | head -c 100000000; echo; echo the end; exit 1")).endswith("y | the end")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 50_000


def is_running(pid: int) -> bool:
    """Whether a process is there and not just waiting to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# ---------------------------------------------------------------- what it may


def test_the_environment_holds_nothing_that_opens_a_door(run, tmp_path, monkeypatch):
    """Of all variables the command sees the ones that find programs and GPUs, its own home, and what was given."""
    for name in ("MLSYNC_PASSPHRASE", "AWS_SECRET_ACCESS_KEY", "SSH_AUTH_SOCK", "HF_TOKEN"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    run(f"env > {tmp_path}/env; pwd > {tmp_path}/pwd", environment={"PYTHONPATH": "/x"}, device="cpu")
    found = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines())
    assert not {name for name, value in found.items() if value == "secret"}
    assert found["HOME"] == found["TMPDIR"] == (tmp_path / "pwd").read_text().strip() == str(tmp_path / "home")
    assert (found["PYTHONPATH"], found["CUDA_DEVICE_ORDER"], found["CUDA_VISIBLE_DEVICES"]) == ("/x", "PCI_BUS_ID", "")


def test_the_command_is_bound(run, tmp_path):
    """It gains no rights, leaves no core, is the first to go if memory ends, stands back, and writes no huge files."""
    run(f"cat /proc/self/status /proc/self/limits /proc/self/oom_score_adj > {tmp_path}/seen; nice > {tmp_path}/nice")
    seen = (tmp_path / "seen").read_text()
    assert "NoNewPrivs:\t1" in seen
    assert [line.split()[4] for line in seen.splitlines() if line.startswith(("Max core", "Max file size"))] == [
        str(1 << 30),
        "0",
    ]
    assert seen.splitlines()[-1] == "1000"
    assert int((tmp_path / "nice").read_text()) >= 10


def test_signals_that_python_ignores_reach_the_command(run):
    """A pipeline in it ends as in any shell: ``yes`` dies of SIGPIPE instead of complaining."""
    assert run("yes 2>errors | head -n 1; test ! -s errors") == Loaded()


def test_the_command_dies_with_mlsync(tmp_path):
    """When the process that waits for it is killed the command does not go on."""
    (tmp_path / "x.pt").write_bytes(b"")
    program = f"""
        from pathlib import Path
        from mlsync.proof.framework import Framework, load
        place = Path({str(tmp_path)!r})
        command = ("sh", "-c", "echo $$ > pid; exec sleep 1000", "{{path}}")
        load(Framework("check", command), place / "x.pt", place, lambda: None)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)]) as process:
        pid = tmp_path / "pid"
        wait_for(lambda: pid.exists() and pid.read_text())
        process.kill()
    wait_for(lambda: not is_running(int(pid.read_text())))


def wait_for(condition):
    """Wait until something is so."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# ---------------------------------------------------------------- for which files


@pytest.mark.parametrize(
    ("patterns", "framework", "path", "container", "facts", "is_meant"),
    [
        ((), None, b"a/last.pt", "torch-zip", {}, True),
        ((), None, b"a/model.safetensors", "safetensors", {}, True),
        ((), None, b"a/x.npz", "npz", {}, False),
        ((), "ultralytics", b"a/last.pt", "torch-zip", {"framework": "ultralytics"}, True),
        ((), "ultralytics", b"a/rng_state.pth", "torch-zip", {"framework": "plain"}, False),
        (("*.pt",), None, b"a/last.pt", "torch-zip", {}, True),
        (("*.pt",), None, b"a/last.pth", "torch-zip", {}, False),
        (("last.pt", "best.pt"), None, b"weights/best.pt", "torch-zip", {}, True),
        (("weights/*.pt",), None, b"weights/best.pt", "torch-zip", {}, True),
        (("weights/*.pt",), None, b"other/best.pt", "torch-zip", {}, False),
        (("*.npz",), "ultralytics", b"x.npz", "npz", {}, True),
    ],
)
def test_the_command_is_meant_for_some_files(patterns, framework, path, container, facts, is_meant):
    """Patterns go by name, or by path where they have a slash; without them all torch and safetensors files count."""
    one = Framework("check", ("true", "{path}"), patterns=patterns, framework=framework)
    assert one.is_meant_for(path, container, facts) is is_meant


# ---------------------------------------------------------------- the built-in commands


MODELS = """
import torch

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)
    def forward(self, x, y=0):
        return self.layer(x) + y

def alone():
    return Model()

def with_tensor():
    return Model(), torch.zeros(1, 4)

def with_arguments():
    return Model(), (torch.zeros(1, 4), torch.ones(1))

def with_names():
    return Model(), {"x": torch.zeros(1, 4), "y": torch.ones(1)}

def with_example():
    model = Model()
    model.example_input_array = torch.zeros(1, 4)
    return model

def of_another_width():
    return Model(), torch.zeros(1, 5)
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A package of models, and files with and without a state for them."""
    import torch
    from safetensors.torch import save_file

    place = tmp_path_factory.mktemp("state")
    (place / "verdict.py").write_text(MODELS)  # a name that a neighbour of the program has too
    state = torch.nn.Module()
    state.layer = torch.nn.Linear(4, 2)
    good = state.state_dict()
    torch.save(good, place / "bare.pt")
    torch.save({"epoch": 1, "model": good, "optimizer": {"state": {}, "param_groups": []}}, place / "whole.pt")
    torch.save({"epoch": 1, "ema": state}, place / "module.pt")
    torch.save({"state": {0: {"step": torch.ones(1)}}, "param_groups": []}, place / "optimizer.pt")
    torch.save({"model": {"layer.weight": good["layer.weight"]}}, place / "missing.pt")
    torch.save({"model": good | {"layer.bias": torch.zeros(3)}}, place / "shape.pt")
    save_file(good, place / "model.safetensors")
    return place


def load_state(files, name, model, *, as_process=True):
    """What became of loading one of the files; in this process, if that has the Python that is asked for."""
    command = state_dict_command(PROOF_PYTHON, "cpu", f"verdict:{model}")
    framework = Framework("state_dict", command, environment={"PYTHONPATH": str(files)}, device="cpu")
    if as_process or sys.executable != PROOF_PYTHON:
        return load(framework, files / name, files, never)
    return load_here(framework, files / name)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("bare.pt", "with_tensor"),
        ("whole.pt", "with_arguments"),
        ("module.pt", "with_names"),
        ("model.safetensors", "with_example"),
    ],
)
def test_a_state_that_fits_loads_and_runs(files, name, model):
    """A state dict alone, under a usual name, in a whole module or in safetensors loads strictly and runs forward."""
    assert load_state(files, name, model, as_process=name == "whole.pt") == Loaded()


@pytest.mark.parametrize(
    ("name", "model", "said"),
    [
        ("missing.pt", "with_tensor", "Missing key"),
        ("shape.pt", "with_tensor", "size mismatch for layer.bias"),
        ("bare.pt", "of_another_width", "shapes cannot be multiplied"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(files, name, model, said):
    """A key that is missing, a shape that differs, or a model that does not run with it speaks against the file."""
    assert said in told(load_state(files, name, model, as_process=name == "missing.pt"))


def test_a_file_without_a_models_state_is_skipped(files):
    """An optimizer's file is not what this is about."""
    assert load_state(files, "optimizer.pt", "with_tensor", as_process=False) == Loaded(skipped=True)


@pytest.mark.parametrize(("model", "said"), [("alone", "gives no example"), ("absent", "no attribute 'absent'")])
def test_a_model_that_cannot_be_had_says_nothing_of_the_file(files, model, said):
    """What goes wrong before the checkpoint is looked at is not held against it."""
    with pytest.raises(CommandUnavailable, match=said):
        load_state(files, "bare.pt", model, as_process=model == "alone")


def test_a_python_without_ultralytics_says_nothing_of_the_file(tmp_path):
    """The built-in command for Ultralytics ends with "cannot tell" where that is not installed."""
    (tmp_path / "x.pt").write_bytes(b"")
    framework = Framework("ultralytics", ultralytics_command(PROOF_PYTHON, "cpu"), device="cpu")
    with pytest.raises(CommandUnavailable, match="this Python has no Ultralytics"):
        load(framework, tmp_path / "x.pt", tmp_path, never)


def test_a_command_of_a_process_that_stands_back_does_too(tmp_path):
    """The session that a command gets has the last weight if mlsync has it, and an ordinary one if not."""
    if not Path("/proc/self/autogroup").exists():
        pytest.skip("this kernel has no autogroups")
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\nfrom pathlib import Path\nfrom mlsync.courtesy.priority import stand_back\n"
        "from mlsync.proof.framework import Framework, load\n"
        "if sys.argv[1] == 'gently': stand_back()\n"
        "script = 'cat /proc/self/autogroup > ' + sys.argv[2]\n"
        "load(Framework('check', ('sh', '-c', script)), Path(sys.argv[3]), Path(sys.argv[4]), lambda: None)\n"
    )
    seen = {}
    for manner in ("gently", "quickly"):
        words = [sys.executable, str(program), manner, str(tmp_path / manner), str(program), str(tmp_path)]
        subprocess.run(words, check=True)
        seen[manner] = (tmp_path / manner).read_text().split()[-1]
    assert seen == {"gently": "19", "quickly": "0"}


def test_time_in_line_for_the_processor_is_not_counted(run, monkeypatch):
    """A command that stood behind others for longer than its deadline gets that time on top."""
    monkeypatch.setattr(running, "waited_for_processor_s", lambda _pid: PATIENCE_S)
    assert run("sleep 0.6", timeout_s=0.1) == Loaded()
