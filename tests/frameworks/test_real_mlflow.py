"""A real MLflow server and its real client: registered there, loaded back through the plugin on another machine."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "registry"))
import record_mlflow

MLSYNC = Path(sys.executable).with_name("mlsync")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get("MLSYNC_TEST_MLFLOW"), reason="MLSYNC_TEST_MLFLOW=1 installs MLflow, 850 MB"),
    # Its installation and its start take minutes on a busy machine.
    pytest.mark.timeout(1500),
]
_CLIENT = """
import json, sys, hashlib, pathlib, mlflow
path = pathlib.Path(mlflow.artifacts.download_artifacts("models:/yolo@champion"))
files = {one.name: hashlib.sha256(one.read_bytes()).hexdigest() for one in path.rglob("*") if one.is_file()}
model = mlflow.pyfunc.load_model("models:/yolo@champion")
tensors = {name: list(value.shape) for name, value in model.get_raw_model().items()}
whole = sorted(one.path for one in mlflow.artifacts.list_artifacts("models:/whole/1"))
one = mlflow.artifacts.download_artifacts("models:/whole/1/weights/best.safetensors")
print(json.dumps([files, tensors, whole, hashlib.sha256(open(one, "rb").read()).hexdigest()]))
"""


@pytest.fixture(scope="module")
def server(mlflow_python, tmp_path_factory):
    """A server with an empty database."""
    base = tmp_path_factory.mktemp("mlflow")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [mlflow_python.with_name("mlflow"), "server", "--backend-store-uri", f"sqlite:///{base}/m.db"]
    command += ["--workers", "1", "--artifacts-destination", base / "artifacts"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    with (base / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=base, start_new_session=True)
        url = f"http://127.0.0.1:{port}"
        try:
            _await(url, process)
            yield url
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()


def _await(url: str, process: subprocess.Popen) -> None:
    for _ in range(600):
        assert process.poll() is None
        with suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5):
            return
        time.sleep(1)
    pytest.fail("the server did not start")


def test_the_server_answers_as_it_was_recorded(server):
    """Each answer is the recorded one: what the stand-in plays is what this server says."""
    recorded = json.loads(record_mlflow.ANSWERS.read_text())
    # Its models are not those of the other test.
    for one in recorded:
        assert record_mlflow.answer(server, one["method"], one["what"], one["body"]) == one
    record_mlflow.answer(server, "DELETE", "registered-models/delete", {"name": "yolo"})


def test_a_model_goes_to_the_server_and_comes_back(server, mlflow_python, tmp_path):
    """Registered twice it is there once; the client downloads the same bytes, and loads tensors."""
    import torch
    from safetensors.torch import save_file

    weights = tmp_path / "run/weights"
    weights.mkdir(parents=True)
    save_file({"layer.weight": torch.randn(64, 8)}, weights / "best.safetensors")
    (tmp_path / "run/results.csv").write_text("epoch,loss\n1,0.5\n")
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
    environ = kept | {
        "HOME": str(tmp_path),
        "MLSYNC_PASSPHRASE": "correct-horse-battery",
        "STATE_DIRECTORY": str(tmp_path / "state"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "MLFLOW_TRACKING_URI": server,
    }

    def mlsync(*arguments: str) -> str:
        done = subprocess.run([MLSYNC, *arguments], env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done
        return done.stdout

    mlsync("init", str(tmp_path / "repo"), "--watch", str(tmp_path / "run"))
    mlsync("backup", "--quickly")
    first = json.loads(mlsync("register", "--model", "yolo", "--alias", "champion", "--tag", "data=coco", "--json"))
    again = json.loads(mlsync("register", "--model", "yolo", "--json"))
    assert (first["is_new"], again["is_new"], again["model_version"]) == (True, False, first["model_version"])
    mlsync("register", "--model", "whole", "--path", ".")
    # Another machine: no configuration, no state.
    other = {**environ, "HOME": str(tmp_path / "other"), "XDG_CONFIG_HOME": str(tmp_path / "none")}
    done = subprocess.run([mlflow_python, "-c", _CLIENT], env=other, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    files, tensors, whole, digest = json.loads(done.stdout.splitlines()[-1])
    sha256 = hashlib.sha256((weights / "best.safetensors").read_bytes()).hexdigest()
    assert files["best.safetensors"] == first["sha256"] == digest == sha256
    assert "MLmodel" in files
    assert tensors == {"layer.weight": [64, 8]}
    assert {"results.csv", "weights", "MLmodel"} <= set(whole)
    mlsync("unregister", "1", "--model", "whole", "--delete")
