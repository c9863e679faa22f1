"""The real agent on a machine whose cloud gives notice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from cloud_service import CloudService, http, wait_until
from flow_parts import uniform_checkpoint as checkpoint

pytestmark = pytest.mark.slow

AWS = "/latest/meta-data/"
SECRET = "open sesame and stay open"


@pytest.fixture
def cloud():
    """A spot instance of which nothing is told."""
    service = CloudService()
    service.answers["PUT", "/latest/api/token"] = http("token-of-the-test")
    service.answers[AWS + "instance-life-cycle"] = http("spot")
    yield service
    service.close()


def mlsync(*words, environ):
    """The answer of a command."""
    done = subprocess.run(
        [sys.executable, "-m", "mlsync", *words], env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_notice_leads_to_a_version_whose_proof_is_pending(tmp_path, cloud):
    """What the trainer had just written is committed at once; status and log tell why, and no log has the token."""
    run, state = tmp_path / "run", tmp_path / "state"
    run.mkdir()
    environ = {
        **os.environ,
        "MLSYNC_METADATA_ENDPOINT": f"http://127.0.0.1:{cloud.port}",
        "MLSYNC_PASSPHRASE": SECRET,
        "MLSYNC_STATE_DIRECTORY": str(state),
        "MLSYNC_PREEMPTION_NOTICES": '["aws"]',
        # So that only the notice makes a version.
        "MLSYNC_AGENT_ON_CHANGE": "false",
        "MLSYNC_AGENT_EVERY": "never",
    }
    store = str(tmp_path / "store")
    mlsync("init", store, "--watch", str(run), "--config", str(tmp_path / "mlsync.toml"), environ=environ)
    words = ["agent", "--quickly", "--config", str(tmp_path / "mlsync.toml")]
    process = subprocess.Popen(
        [sys.executable, "-m", "mlsync", *words], env=environ, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:

        def status():
            file = state / "status.json"
            return json.loads(file.read_text())["runs"][0] if file.exists() else {}

        # The first pass comes by itself: it has found nothing.
        wait_until(lambda: status().get("last_pass_s") and AWS + "spot/instance-action" in cloud.asked)
        (run / "last.pt").write_bytes(checkpoint(1.0))
        cloud.answers[AWS + "spot/instance-action"] = http('{"action": "terminate", "time": ""}')

        wait_until(lambda: status()["last_version"] is not None)
        notices = json.loads((state / "status.json").read_text())["notices"]
        assert [one["kind"] for one in notices] == ["termination"]
        process.send_signal(signal.SIGTERM)
        log = process.communicate(timeout=60)[1]
    finally:
        process.kill()
        process.communicate()
    assert "aws: termination in 120 s" in log
    assert "token-of-the-test" not in log
    assert "1 of them pending" in log
