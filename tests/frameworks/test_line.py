"""The whole line with real parts, from the training to the resumed one: see ``line.py``."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from line import SIGN, TOKEN, Line

from bot_server import bot_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def line(tmp_path_factory, ultralytics_python, mlflow_python, data):
    """The story, played once; its transcript goes to the file that MLSYNC_TEST_TRANSCRIPT names."""
    with bot_server() as wecom, bot_server() as dingtalk:
        line = Line(tmp_path_factory.mktemp("line"), ultralytics_python, mlflow_python, data, wecom, dingtalk)
        try:
            line.train()
            line.trained = line.status
            line.go_wrong()
            line.tags = {tag["key"]: tag["value"] for tag in line.mlflow.champion()["tags"]}
            line.pulled = line.pull()
            line.digest = hashlib.sha256(line.pulled.read_bytes()).hexdigest()
            line.resumed = line.resume(line.pulled)
            line.say(
                "", "(What WeCom was told:)", *(json.loads(post[2])["markdown"]["content"] for post in wecom.posts)
            )
            yield line
        finally:
            line.mlflow.stop()
            if os.environ.get("MLSYNC_TEST_TRANSCRIPT"):
                Path(os.environ["MLSYNC_TEST_TRANSCRIPT"]).write_text("\n".join(line.transcript).strip() + "\n")


def test_the_champion_is_the_best_proved_checkpoint(line):
    """MLflow has it with what is known of it; it was evaluated before it was registered."""
    assert line.trained == 128 + 15
    assert line.tags["mlsync.proof"] == "L4"
    assert line.tags["mlsync.path"] == "train/weights/best.pt"
    assert float(line.tags["mlsync.metric.metrics/mAP50-95_B_"]) > 0
    best = json.loads(line.b.mlsync("versions", "--json", is_shown=False))["versions"]
    assert any(one["registered"] for one in best)
    assert any(one["numbers"] for one in best)


def test_nothing_was_lost_while_the_registry_was_away(line):
    """The registration waited, and was made when the server came; the training had gone on."""
    assert any("not registered in MLflow yet" in text for text in line.transcript)
    assert line.log.index("epoch 6 of 20 is saved") < line.log.index("epoch 14 of 20 is saved")


def test_both_chats_were_told_in_their_words(line):
    """First proved version, new best, registered: in English and in Chinese, the latter signed."""
    for server, words in (
        (line.wecom, ("First proved version", "New best checkpoint", "Registered in MLflow")),
        (line.dingtalk, ("首个已验证的版本", "新的最佳检查点", "已注册到 MLflow")),
    ):
        told = [json.loads(body)["markdown"] for _, _, body in server.posts]
        texts = "\n".join(one.get("content") or one["text"] for one in told)
        assert all(word in texts for word in words), texts
    query = parse_qs(urlsplit(line.dingtalk.posts[0][0]).query)
    stamp = f"{query['timestamp'][0]}\n{SIGN}".encode()
    assert query["sign"] == [base64.b64encode(hmac.digest(SIGN.encode(), stamp, "sha256")).decode()]


def test_the_other_machine_got_the_same_bytes_and_went_on(line):
    """What MLflow's client brought is the registered file; the training resumed after its epoch, and ended."""
    assert line.digest == line.tags["mlsync.sha256"]
    begun = int(re.search(r"begins with epoch (\d+) of 20", line.resumed)[1])
    assert begun > 6
    assert "epoch 20 of 20 is saved" in line.resumed
    assert line.status == 0


def test_no_secret_was_shown(line):
    """Neither the token nor a bot's key is in what was printed, logged or told."""
    shown = "\n".join(line.transcript) + line.log + line.resumed
    shown += "".join(body.decode() for server in (line.wecom, line.dingtalk) for _, _, body in server.posts)
    assert TOKEN not in shown
    assert "bot-key-of-the-test" not in shown
