"""The whole line, with real parts: a training is kept, proved, evaluated, registered, told of, pulled back and resumed.

Ultralytics trains beside ``mlsync run``, and the registry is a real MLflow server behind a gate that wants a token, as
most are; only the two chats are played. ``transcript`` is what a person at the terminals would have seen.
"""

from __future__ import annotations

import http.server
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import mlsync

HERE = Path(__file__).parent
AGENT = Path(mlsync.__file__).parents[1]
MLSYNC = [sys.executable, "-m", "mlsync"]
PATIENCE_S = 900.0
# After it the registry is there.
WAITED_EPOCH = 6
KEY, SIGN, TOKEN = "bot-key-of-the-test", "SEC0123456789", "token-of-the-test"
EVENTS = ["first_proved", "best", "registered"]


class _Gate(http.server.BaseHTTPRequestHandler):
    """Hands requests with the token on to the server behind, and its answers back."""

    def _pass(self):
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer(401, "text/plain", b"who are you?")
        body = self.rfile.read(int(self.headers.get("Content-Length", "0"))) or None
        kept = {"Content-Type": self.headers.get("Content-Type", "application/json")}
        request = urllib.request.Request(self.server.behind + self.path, body, kept, method=self.command)
        try:
            with urllib.request.urlopen(request, timeout=60) as got:
                return self._answer(got.status, got.headers["Content-Type"], got.read())
        except urllib.error.HTTPError as error:
            return self._answer(error.code, error.headers["Content-Type"], error.read())

    do_GET = do_POST = do_PATCH = do_DELETE = _pass  # noqa: N815 - http.server's names

    def _answer(self, status, content_type, body):
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args):
        """Say nothing."""


class MlflowServer:
    """A real server with a database of its own, and the gate in front of it; ``url`` is the gate's."""

    def __init__(self, python: Path, base: Path) -> None:
        self._command = [python.with_name("mlflow"), "server", "--backend-store-uri", f"sqlite:///{base}/m.db"]
        self._base = base
        self._behind = f"http://127.0.0.1:{_free_port()}"
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._gate: http.server.ThreadingHTTPServer | None = None
        base.mkdir()

    def start(self) -> None:
        """It answers."""
        where = ["--host", "127.0.0.1", "--port", self._behind.rpartition(":")[2], "--workers", "1"]
        with (self._base / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, *where], stdout=log, stderr=log, cwd=self._base, start_new_session=True
            )
        deadline = time.monotonic() + PATIENCE_S
        while not self._is_up():
            assert self._process.poll() is None, (self._base / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.5)
        self.open()

    def _is_up(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._behind}/health", timeout=5):
                return True
        except OSError:
            return False

    def open(self) -> None:
        """The gate is there."""
        self._gate = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), _Gate)
        self._gate.daemon_threads = True
        self._gate.behind = self._behind
        threading.Thread(target=self._gate.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def shut(self) -> None:
        """Nobody listens at the gate's address."""
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.shutdown()
            gate.server_close()

    def stop(self) -> None:
        """All of it is gone."""
        self.shut()
        process, self._process = self._process, None
        if process is not None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def champion(self) -> dict:
        """The model's version that has the alias, as MLflow says; empty if there is none."""
        url = f"{self._behind}/api/2.0/mlflow/registered-models/alias?name=squares&alias=champion"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["model_version"]
        except OSError:
            return {}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


class LineMachine:
    """A machine of the line: a home, a state, a configuration, and nothing of the other one's but the repository."""

    def __init__(self, name: str, line: Line) -> None:
        self.name = name
        self.base = line.base / name
        self.runs, self.state, self.config = self.base / "runs", self.base / "state", self.base / "mlsync.toml"
        self.token = self.base / "token"
        self._line = line
        for one in ("home", "runs"):
            (self.base / one).mkdir(parents=True)
        self.write_token(TOKEN)
        self.config.write_text(_CONFIGURATION.format(line=line, machine=self, events=json.dumps(EVENTS)))
        self.config.chmod(0o600)

    def write_token(self, token: str) -> None:
        """The token that the machine shows to the registry."""
        self.token.write_text(token + "\n")
        self.token.chmod(0o600)

    def environment(self, **more: str) -> dict[str, str]:
        """What a program of this machine sees."""
        kept = {name: os.environ[name] for name in ("PATH", "TMPDIR", "PYTHONPATH") if name in os.environ}
        home = str(self.base / "home")
        chats = {"WECOM_URL": f"{self._line.wecom.url}/send?key={KEY}", "DINGTALK_SIGN": SIGN}
        chats["DINGTALK_URL"] = f"{self._line.dingtalk.url}/send?access_token={KEY}"
        own = {"HOME": home, "XDG_CONFIG_HOME": home, "MLSYNC_CONFIG": str(self.config), "COLUMNS": "118"}
        return kept | own | chats | more

    def mlsync(self, *words: object, status: int = 0, is_shown: bool = True) -> str:
        """What a command said; it has to end with *status*."""
        command = [*MLSYNC, *map(str, words)]
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True, check=False)
        said = done.stdout + done.stderr
        if is_shown:
            ended = [f"(exit status {status})"] if status else []
            typed = " ".join(map(str, words)).replace(" --quickly", "")
            self._line.say("", f"{self.name}$ mlsync {typed}", said, *ended)
        assert done.returncode == status, (words, done.returncode, said)
        return said


# What the whole line takes; the environment of the evaluation is how the test finds Ultralytics.
_CONFIGURATION = """\
repository = "file://{line.repository}"
state_directory = "{machine.state}"

[key]
key_file = "{line.key}"

[[watch]]
directory = "{machine.runs}"
run = "squares"

[proof]
device = "cpu"
python = "{line.trainer[0]}"

[evaluate]
builtin = "ultralytics"
on = "registered"
best_by = "metrics/mAP50-95(B)"
device = "cpu"
environment = {line.evaluation}

[mlflow]
tracking_uri = "{line.mlflow.url}"
token_file = "{machine.token}"
model = "squares"
alias = "champion"
path = "train/weights/best.pt"
on = "best"

[[notify]]
channel = "wecom"
url_variable = "WECOM_URL"
events = {events}

[[notify]]
channel = "dingtalk"
url_variable = "DINGTALK_URL"
secret_variable = "DINGTALK_SIGN"
language = "zh"
events = {events}
"""


class Line:
    """The story; *trainer* is a Python with Ultralytics and its environment, *server* a Python with MLflow."""

    def __init__(self, base: Path, trainer, server: Path, data: Path, wecom, dingtalk) -> None:
        self.base, self.data, self.trainer = base, data, trainer
        self.wecom, self.dingtalk = wecom, dingtalk
        self._server = server
        self.repository, self.key = base / "repository", base / "key"
        self.key.write_bytes(bytes(range(32)))
        self.key.chmod(0o600)
        self.transcript: list[str] = []
        self._read = 0
        self.mlflow = MlflowServer(server, base / "mlflow")
        names = ("PYTHONPATH", "YOLO_OFFLINE", "YOLO_AUTOINSTALL", "YOLO_CONFIG_DIR")
        self.evaluation = json.dumps([f"{name}={trainer[1][name]}" for name in names if name in trainer[1]])
        self.a, self.b = LineMachine("a", self), LineMachine("b", self)

    def say(self, *texts: str) -> None:
        """Add to the transcript, without the places of this test."""
        for text in texts:
            clean = text.replace(str(self.base), "/line").replace(str(self.mlflow.port), "5000")
            self.transcript += [line.rstrip() for line in clean.rstrip().splitlines() or [""]]

    def bodies(self, word: str) -> list[str]:
        """The texts of all messages in both chats that have the word."""
        posts = [post for server in (self.wecom, self.dingtalk) for post in server.posts]
        texts = [json.dumps(json.loads(post[2]), ensure_ascii=False) for post in posts]
        return [text for text in texts if word in text]

    # ------------------------------------------------------------ machine a

    def train(self) -> None:
        """Fourteen of twenty epochs; the registry is away at first, and in the end the machine is taken."""
        self.a.mlsync("init", "--key-file", self.key, is_shown=False)
        self.say("", "a$ mlsync run -- python train.py")
        with self.training(self.a, "train", self.data, self.a.runs) as (process, log):
            self.go_on_after(6, process, log)
            self.wait(lambda: "not registered in MLflow yet" in self.a.mlsync("status", is_shown=False), process, log)
            self.follow(log)
            self.a.mlsync("status")
            self.mlflow.start()
            self.say("", "(MLflow's server is there. The training goes on.)")
            self.go_on_after(10, process, log)
            self.wait(lambda: "epoch 14 of 20 is saved" in log.read_text(), process, log)
            self.wait(self.is_settled, process, log)
            self.follow(log)
            self.say("", "(The machine is taken: SIGTERM.)")
            process.send_signal(signal.SIGTERM)
            self.status = process.wait(PATIENCE_S)
            self.follow(log)
        self.log = log.read_text()
        self.a.mlsync("versions")

    def has_numbers(self) -> bool:
        """Whether a version was evaluated while the training ran."""
        listed = json.loads(self.a.mlsync("versions", "--json", is_shown=False))["versions"]
        return any(one["numbers"] for one in listed)

    def go_on_after(self, epoch: int, process, log: Path) -> None:
        """The next epochs begin once this one is in a version."""
        self.wait(lambda: f"epoch {epoch} of 20 is saved" in log.read_text(), process, log)
        process.stdin.write(b"\n")
        process.stdin.flush()

    def follow(self, log: Path) -> None:
        """Add to the transcript what the training and mlsync have said since."""
        text = log.read_text()
        self.say(*told_lines(text[self._read :]))
        self._read = len(text)

    def is_settled(self) -> bool:
        """Whether a good checkpoint is the champion and has numbers, both chats know of it, and nothing waits."""
        tags = {tag["key"]: tag["value"] for tag in self.mlflow.champion().get("tags", [])}
        is_told = all(map(self.bodies, ("Registered in MLflow", "已注册到 MLflow", "New best", "新的最佳")))
        if not is_told or int(float(tags.get("mlsync.epoch", "0"))) < WAITED_EPOCH:
            return False
        return "not registered" not in self.a.mlsync("status", is_shown=False) and self.has_numbers()

    @contextmanager
    def training(self, machine: LineMachine, what: str, *places: Path):
        """A training beside ``mlsync run``, and the file with what both said."""
        python, environment = self.trainer
        # mlsync has a Python of its own; the training sees what it needs, and mlsync for its callback.
        environment = environment | {"PYTHONPATH": f"{environment['PYTHONPATH']}{os.pathsep}{AGENT}"}
        own = ["env", *(f"{name}={value}" for name, value in environment.items() if name not in ("PATH", "HOME"))]
        program = [python, "-s", str(HERE / "line_trainer.py"), what, *map(str, places)]
        log = self.base / f"{what}.log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [*MLSYNC, "run", "--quickly", "--grace", "60s", "--", *own, *program],
                env=machine.environment(),
                cwd=machine.base,
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=stream,
            )
        try:
            yield process, log
        finally:
            process.stdin.close()
            # Killed, it would leave the training behind, which is to outlive it.
            process.terminate()
            process.wait()

    def wait(self, condition, process, log: Path) -> None:
        """Wait until something is so, while the training runs."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)

    # ------------------------------------------------------------ what goes wrong

    def go_wrong(self) -> None:
        """A wrong token, a name that is refused, a server that is away, numbers that are cut: each says so."""
        self.a.write_token("another one")
        self.a.mlsync("register", "best", status=116)
        self.a.write_token(TOKEN)
        self.a.mlsync("register", "best", "--model", "squares/small", status=2)
        self.mlflow.shut()
        self.a.mlsync("register", "best", status=115)
        self.mlflow.open()
        self.a.mlsync("register", "best")
        cut = """sh -c 'printf "{\\"mAP50\\": 0.9" > "{result}"'"""
        self.a.mlsync("evaluate", "best", "--quickly", "--command", cut, status=110)
        self.wecom.answer = (200, {}, b'{"errcode":93000,"errmsg":"invalid webhook url"}')
        self.a.mlsync("notify", "test", "wecom", status=106)
        self.wecom.answer = (200, {}, b'{"errcode":0,"errmsg":"ok"}')

    # ------------------------------------------------------------ machine b

    def pull(self) -> Path:
        """The champion, by MLflow's client on another machine."""
        program = "import sys, mlflow; print(mlflow.artifacts.download_artifacts(sys.argv[1], dst_path=sys.argv[2]))"
        target = self.b.base / "champion"
        target.mkdir()
        environment = self.b.environment(MLFLOW_TRACKING_URI=self.mlflow.url, MLFLOW_TRACKING_TOKEN=TOKEN)
        environment.pop("PYTHONPATH", None)
        done = subprocess.run(
            [self._server, "-c", program, "models:/squares@champion", str(target)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        self.say("", 'b>>> mlflow.artifacts.download_artifacts("models:/squares@champion")', done.stdout)
        return target / "best.pt"

    def resume(self, checkpoint: Path) -> str:
        """The training goes on from it beside ``mlsync run``, and ends."""
        with self.training(self.b, "resume", checkpoint, self.b.runs / "train") as (process, log):
            self.status = process.wait(PATIENCE_S)
        self.say("", "b$ mlsync run -- python resume.py champion/best.pt", *told_lines(log.read_text()))
        self.b.mlsync("versions")
        return log.read_text()


def told_lines(log: str) -> list[str]:
    """What the training and mlsync said, without Ultralytics' tables and the time of day."""
    ours = re.compile(r"(line: |mlsync: |\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ (?:INFO|WARNING|ERROR) +)(.*)")
    found = [match for match in map(ours.fullmatch, log.splitlines()) if match]
    return [match[2] if match[1][0].isdigit() else match[0] for match in found]
