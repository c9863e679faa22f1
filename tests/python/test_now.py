"""``mlsync.now`` against a real agent and its real sockets; and against none."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import pytest

import mlsync
from doubles.told_agent import ToldAgent, ToldJob
from mlsync import errors
from mlsync.config.places import runtime_directory
from mlsync.python import now as module
from mlsync.python.values import ToldSave

AGENT = Path(mlsync.__file__).parents[1]


@pytest.fixture(autouse=True)
def memory(monkeypatch):
    """No test remembers what another one met."""
    monkeypatch.setattr(module, "_MEMORY", module._Memory())


@pytest.fixture
def job(tmp_path):
    (tmp_path / "runs").mkdir()
    return ToldJob("yolo", tmp_path / "runs")


@pytest.fixture
def state(tmp_path, monkeypatch):
    """The agent's state directory, which the environment names, as mlsync run does."""
    (tmp_path / "state").mkdir(mode=0o700)
    monkeypatch.setenv("MLSYNC_SOCKETS", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def agent(job, state):
    with ToldAgent([job], state) as agent:
        yield agent


def save(job, name="last.pt", content="1"):
    path = job.directory / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    return path


def wait_until(condition):
    deadline_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


# ---------------------------------------------------------------- an agent that is there


def test_a_save_that_is_told_of_is_read_at_once(agent, job):
    """No watcher and no clock is there: the call alone has the agent read, and it returns before that has ended."""
    job.may_end.clear()
    began_s = time.monotonic()
    saved = mlsync.now(save(job))
    assert time.monotonic() - began_s < 1.0
    assert (saved.told, bool(saved), saved.version) == (True, True, None)
    wait_until(lambda: job.passes == 2)


def test_who_waits_learns_the_version_and_its_level(agent, job):
    """The result says in which version the save is, and how far it was proved."""
    saved = mlsync.now(save(job), wait=True)
    assert (bool(saved), saved.version, saved.level) == (True, 1, 4)
    assert saved.runs[0].is_proved
    assert saved.runs[0].summary == "version 1"


def test_a_save_that_is_in_a_version_already_is_found_there(agent, job):
    """An agent that was quicker made the version; the call says which."""
    path = save(job)
    mlsync.now(path, wait=True)
    saved = mlsync.now(path, wait=10)
    assert (bool(saved), saved.version, saved.level, saved.runs[0].is_proved) == (True, 1, 4, True)


def test_a_path_by_a_link_is_the_same_run(agent, job, tmp_path, monkeypatch):
    """A relative path and one through a link lie in the watched directory as well, and so does what is above it."""
    path = save(job)
    (tmp_path / "link").symlink_to(job.directory)
    monkeypatch.chdir(tmp_path)
    for name in ("link/last.pt", "runs/../runs/last.pt", "runs", ".", path):
        assert mlsync.now(name).told, name


def test_without_a_path_every_run_is_told_of(job, state, tmp_path):
    """A call that names nothing is for all that the agent watches, and run= for one."""
    other = ToldJob("other", tmp_path / "other")
    with ToldAgent([job, other], state):
        assert [one.run for one in mlsync.now().runs] == ["yolo", "other"]
        assert [one.run for one in mlsync.now(run="other").runs] == ["other"]
        assert mlsync.now(save(job), run="yolo", wait=True).version == 1


@pytest.mark.expected_warnings("level 1, and level 4")
def test_a_level_is_waited_for_as_long_as_its_proof_may_come(agent, job):
    """While the proof is pending the call waits; a proof of less than was asked for, with no other to come, ends it."""
    job.level, job.is_pending = 1, True
    began_s = time.monotonic()
    assert "level 1, and level 4" in mlsync.now(save(job), level=4, wait=0.3, required=False).problem
    assert time.monotonic() - began_s >= 0.3
    job.level, job.is_pending = 2, False
    with pytest.raises(errors.NotProvedYet, match="version 2 is proved to level 2, and level 4 was asked for"):
        mlsync.now(save(job, content="2"), level=4, required=True)
    assert mlsync.now(save(job, content="3"), level=2).level == 2


def test_a_save_that_was_kept_out_is_told(agent, job):
    """A version that holds the last good content in place of the broken one does not pass for a save."""
    job.troubles = (
        "other.pt: broken: cut; left out",
        "last.pt: broken: 0 bytes; version 1's content is kept",
    )
    path = save(job)
    with pytest.raises(errors.CheckpointBroken, match=r"last\.pt: broken: 0 bytes"):
        mlsync.now(path, wait=True, required=True)
    # A proof that is still to come does not bring the file back.
    job.is_pending = True
    began_s = time.monotonic()
    with pytest.raises(errors.CheckpointBroken):
        mlsync.now(save(job, content="2"), level=5, wait=60, required=True)
    assert time.monotonic() - began_s < 30
    job.troubles = job.troubles[:1]
    assert mlsync.now(save(job, content="3"), wait=True)


def test_an_error_of_the_pass_is_the_callers(agent, job):
    """What kept the save from being stored is in the result, and raised if it is required."""
    job.error = errors.StoreUnavailable("the store is away")
    with pytest.raises(errors.StoreUnavailable, match="the store is away"):
        mlsync.now(save(job), wait=True, required=True)


def test_a_wait_ends_in_time(agent, job):
    """A pass that takes longer than the caller has is left to the agent."""
    job.may_end.clear()
    with pytest.raises(errors.NotProvedYet, match="not stored yet"):
        mlsync.now(save(job), wait=0.2, required=True)


def test_a_save_that_goes_on_is_told_of_at_its_end(agent, job):
    """With after= nothing is told until the save has ended, and nothing at all if it failed."""
    done, failed, both = Future(), Future(), Future()
    path = save(job)
    for future in (done, failed):
        assert mlsync.now(path, after=future).skipped
    assert mlsync.now(path, after=type("Response", (), {"upload_completion": both})).skipped
    failed.set_exception(OSError("no space"))
    assert agent.told_count == 0
    done.set_result(None)
    wait_until(lambda: job.passes == 2)
    both.set_result(None)
    wait_until(lambda: job.passes == 3)


def test_a_forked_process_tells_too(agent, job):
    """A worker that was forked, as a DataLoader's, shares no socket and no lock with the training."""
    mlsync.now(save(job))
    pid = os.fork()
    if not pid:
        os._exit(0 if mlsync.now(save(job, content="2"), wait=True).version else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# ---------------------------------------------------------------- ranks


@pytest.mark.parametrize(("rank", "every_rank", "told"), [("0", False, True), ("3", False, False), ("3", True, True)])
def test_rank_0_alone_tells(agent, job, monkeypatch, rank, every_rank, told):
    """The other processes of a training say why they told nothing, which is no problem."""
    monkeypatch.setenv("RANK", rank)
    saved = mlsync.now(save(job), every_rank=every_rank)
    assert (saved.told, bool(saved)) == (told, True)
    assert (saved.skipped is None) == told


def test_torch_knows_the_rank_better(monkeypatch):
    """An initialised process group counts before the environment; torch is not imported for it."""
    torch = type("Distributed", (), {})
    torch.is_available = torch.is_initialized = staticmethod(lambda: True)
    torch.get_rank = staticmethod(lambda: 2)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setitem(sys.modules, "torch.distributed", torch)
    assert "rank 2" in mlsync.now("x").skipped


# ---------------------------------------------------------------- none, or one that does not answer


@pytest.mark.expected_warnings("mlsync.now: no agent that answers runs here")
def test_a_missing_agent_costs_one_warning(caplog, tmp_path):
    """The training goes on, and hears of it once, however often it saves."""
    for _ in range(3):
        saved = mlsync.now(tmp_path / "last.pt", wait=True, level=4)
        assert (saved.told, bool(saved)) == (False, False)
        assert "no agent that answers runs here" in saved.problem
    assert len(caplog.records) == 1


def test_who_needs_the_agent_can_have_an_error():
    """required= raises what would be a warning."""
    with pytest.raises(errors.AgentAway, match="no agent that answers runs here"):
        mlsync.now("last.pt", required=True)


def test_a_path_that_nobody_watches_is_an_error_of_its_own(agent, tmp_path):
    """A directory beside the watched one, whose name begins alike, is in no run."""
    with pytest.raises(errors.PathUnwatched, match="no agent here keeps watch over this"):
        mlsync.now(tmp_path / "runs2" / "last.pt", required=True)
    with pytest.raises(errors.PathUnwatched):
        mlsync.now(run="unknown", required=True)


def test_a_socket_that_was_left_over_is_as_none(state):
    """An agent that was killed leaves its socket, which says nothing."""
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(state / "agent-0.sock"))
    left.close()
    with pytest.raises(errors.AgentAway, match="no agent that answers runs here"):
        mlsync.now("last.pt", required=True)


@pytest.mark.expected_warnings("has not answered")
def test_an_agent_that_hangs_keeps_the_training_once(state, monkeypatch):
    """The call returns within its bound, and the next ones do not ask that agent for a while."""
    monkeypatch.setattr(module, "TELL_S", 0.3)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(state / "agent-0.sock"))
        silent.listen()
        began_s = time.monotonic()
        assert "has not answered" in mlsync.now("last.pt").problem
        assert time.monotonic() - began_s < 2.0
        monkeypatch.setattr(module.AgentAt, "ask", None)
        assert "no agent that answers" in mlsync.now("last.pt", required=False).problem


@pytest.mark.expected_warnings("makes no sense")
@pytest.mark.parametrize("answer", [b'{"passes": 1}', b'{"passes": [{"id": "x"}]}', b"[]"])
def test_an_answer_of_anything_is_no_exception(state, answer):
    """Whatever listens there: the training goes on."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(state / "agent-0.sock"))
        listening.listen()

        def serve():
            connection, _ = listening.accept()
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 202 Accepted\r\nContent-Length: %d\r\n\r\n%s" % (len(answer), answer))
            connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        assert not mlsync.now("last.pt")
        thread.join()


@pytest.mark.expected_warnings("mlsync.now: ")
@pytest.mark.parametrize("wrong", [{"level": 9}, {"wait": float("nan")}, {"wait": -1}, {"wait": "long"}, {"path": 7}])
def test_wrong_arguments_do_not_end_a_training(wrong):
    """A slip in a line that runs after hours of training is a warning; with required= it is found at once."""
    assert not mlsync.now(**wrong)
    with pytest.raises((errors.ConfigInvalid, TypeError)):
        mlsync.now(**wrong, required=True)


# ---------------------------------------------------------------- where agents are found


def test_a_configuration_names_the_state_directory(job, tmp_path, monkeypatch):
    """Without a variable, the usual configuration says where the agent is."""
    config = Path(os.environ["XDG_CONFIG_HOME"]) / "mlsync" / "mlsync.toml"
    config.parent.mkdir()
    config.write_text('state_directory = "../elsewhere"\n')
    state = config.parents[1] / "elsewhere"
    state.mkdir(mode=0o700)
    with ToldAgent([job], state):
        assert mlsync.now(save(job)).told
        config.write_text("state_directory = \n")
        with pytest.raises(errors.AgentAway):
            mlsync.now(save(job), required=True)


def test_an_agent_that_is_found_in_two_ways_is_told_once(agent, job, state, monkeypatch):
    """Two names for one state directory are one agent."""
    monkeypatch.setenv("MLSYNC_STATE_DIRECTORY", f"{state}/../state")
    assert len(mlsync.now(save(job)).runs) == 1


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("/run/mlsync", "/run/mlsync"),
        ("/run/mlsync-yolo:/run/x", "/run/mlsync-yolo"),
        ("/run/trainer", None),
        ("", None),
    ],
)
def test_a_service_of_ours_alone_has_a_socket_in_its_runtime_directory(given, found):
    """``mlsync run`` within another service leaves that one's directory alone."""
    directory = runtime_directory({"RUNTIME_DIRECTORY": given})
    assert (None if directory is None else str(directory)) == found


# ---------------------------------------------------------------- what it costs


def loaded(program):
    """The modules beyond the bare interpreter's after a program, in an environment without site-packages."""
    program = f"import sys; sys.path.insert(0, {str(AGENT)!r}); {program}; print(*sys.modules)"
    command = [sys.executable, "-I", "-S", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_an_import_loads_nothing():
    """``import mlsync`` brings one module, its own."""
    assert loaded("import mlsync") - loaded("pass") == {"mlsync"}
    assert "mlsync.errors" in loaded("import mlsync; mlsync.errors.AgentAway")
    assert "now" in dir(mlsync)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mlsync.nothing


def test_a_package_of_the_same_name_takes_no_function_away():
    """``mlsync.versions`` and ``mlsync.restore`` are called as before when packages of these names are loaded."""
    program = (
        "import mlsync\n"
        "first = mlsync.versions\n"
        "import mlsync.versions.select, mlsync.restore.restore\n"
        "for call in (mlsync.versions, mlsync.restore):\n"
        "    try: call('x', no_such=1)\n"
        "    except TypeError as error: assert 'no_such' in str(error), error\n"
        "from mlsync.versions.select import find_run\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


def test_telling_needs_the_standard_library_alone():
    """A trainer's Python needs none of what the agent is made of: mlsync without its dependencies will do."""
    ours = loaded("import mlsync; mlsync.now; mlsync.versions") - loaded("pass")
    foreign = {name.partition(".")[0] for name in ours} - sys.stdlib_module_names - {"mlsync"}
    assert foreign == set()
    assert len([name for name in ours if name.startswith("mlsync")]) <= 20
    assert not ours & {"asyncio", "ssl", "http", "sqlite3", "multiprocessing", "unittest"}


USER = """
import mlsync
from mlsync.errors import AgentAway

def save(path: str) -> int | None:
    try:
        saved = mlsync.now(path, wait=30.0, level=4, required=True)
    except AgentAway:
        return None
    reveal_type(saved)
    return saved.version if saved else None

back = mlsync.restore("runs", version="best", repository="s3://bucket/runs", passphrase="secret")
reveal_type(back.checkpoint)
for one in mlsync.versions("yolo"):
    reveal_type(one.level)
"""


def test_a_program_that_uses_it_is_checked_strictly(tmp_path):
    """The types are there for mypy --strict, although the modules are loaded late."""
    program = tmp_path / "program.py"
    program.write_text(USER)
    command = [sys.executable, "-m", "mypy", "--strict", f"--cache-dir={tmp_path}/cache", str(program)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"MYPYPATH": str(AGENT)}, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout
    revealed = re.findall(r'Revealed type is "(.+)"', done.stdout)
    assert revealed == ["mlsync.python.values.ToldSave", "pathlib.Path | None", "int | None"]
    assert ToldSave.__name__ == "ToldSave"
