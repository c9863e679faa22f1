"""A directory or bucket with a second bucket as its mirror, on a real S3 server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time

import pytest
from machine import MLSYNC, content, write_training

pytestmark = pytest.mark.slow


@pytest.fixture
def near(machine, s3_server):
    """A machine with a repository in a directory and a mirror in a bucket that is empty yet."""
    machine.bucket = s3_server.make_bucket()
    machine.keys = s3_server.environment()
    machine.server = s3_server
    machine.configure(
        "[proof]\ndevice = 'cpu'\n[agent]\nsettle = '50ms'\n"
        f"[[mirror]]\nurl = 's3://{machine.bucket}/far'\nname = 'far'\n"
        f"endpoint_url = '{s3_server.endpoint_url}'\n"
    )
    write_training(machine.training)
    return machine


def mirror_of(machine):
    """What the agent's status says of the mirror."""
    for _ in range(400):
        try:
            told = json.loads((machine.state / "status.json").read_text())["mirrors"][0]
            if told["phase"] == "idle" and told["runs"] and told["runs"][0]["version"] is not None:
                return told
        except (OSError, IndexError, ValueError):
            pass
        time.sleep(0.05)
    raise AssertionError((machine.state / "status.json").read_text())


def test_the_agent_copies_each_version_and_the_last_one_at_its_end(near):
    """A version restores from the bucket after the directory is gone, also the one that was made at the agent's end."""
    environment = near.environment(**near.keys)
    with subprocess.Popen(
        [MLSYNC, "agent", "--quickly"], env=environment, cwd=near.base, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as agent:
        try:
            assert mirror_of(near)["runs"][0]["version"] == 1
            run = json.loads((near.state / "status.json").read_text())["runs"][0]
            assert (run["safe"], run["last_proved_version"]) == ("mirror", 1)
            assert run["safe_until_s"] is not None
            assert "mirror far: has all, yolo/1" in near.good("status", COLUMNS="200").out
            (near.training / "results.csv").write_text("epoch,loss\n1,0.125\n")
            os.kill(agent.pid, signal.SIGTERM)
            said = agent.communicate(timeout=60)[0].decode()
        finally:
            agent.kill()
    assert "version 2" in said
    shutil.rmtree(near.repository)
    done = near.good("--json", "restore", "--to", "back", **near.keys)
    assert content(near.base / "back") == content(near.training)
    assert json.loads(done.out)["version"] == 2
    assert json.loads(done.out)["from_mirror"]["stand_in"] == "far"


def test_a_bucket_that_was_emptied_is_filled_again_from_its_mirror(near):
    """Versions restore meanwhile; then a copy the other way round brings the repository back, whole."""
    bucket, options = near.server.make_bucket(), ("--endpoint-url", near.server.endpoint_url)
    first, second = f"s3://{bucket}/near", f"s3://{near.bucket}/far"
    near.configuration.write_text(
        near.configuration.read_text().replace(near.url, first) + f"[s3]\nendpoint_url = '{near.server.endpoint_url}'\n"
    )
    near.good("init", "--repo", first, *options, "--config", "unused.toml", **near.keys)
    near.good("backup", **near.keys)
    near.good("copy", "--to", "far", "--create", **near.keys)
    client = near.server.client()
    for one in client.list_objects_v2(Bucket=bucket)["Contents"]:
        client.delete_object(Bucket=bucket, Key=one["Key"])
    near.good("restore", "--to", "back", **near.keys)
    assert content(near.base / "back") == content(near.training)
    near.good("copy", "--repo", second, *options, "--to", first, "--create", MLSYNC_CONFIG="", **near.keys)
    near.good("check", "--read-data", **near.keys)
    near.good("backup", **near.keys)
