"""Commands that are started by events: what they get, and that nothing of them stays."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

from mlsync.tell.event import NoticeEvent
from mlsync.tell.hooks import run_hook

BEST = NoticeEvent("best", "yolo", 3, {"path": "best.pt"})


def test_a_hook_gets_the_event_and_no_secrets(tmp_path):
    """Stdin has the event as JSON; variables of mlsync and AWS, and of channels, are not there."""
    program = "import json, os, sys; print(json.dumps([json.load(sys.stdin), sorted(os.environ)]))"
    given = {"PATH": os.environ["PATH"], "AWS_SECRET_ACCESS_KEY": "s", "MLSYNC_PASSPHRASE": "s", "BOT": "s", "X": "1"}
    why, said = run_hook([sys.executable, "-c", program], BEST, 30, given, without=["BOT"])
    event, names = json.loads(said)
    assert (why, event) == ("", BEST.as_json())
    assert {"X", "MLSYNC_EVENT"} <= set(names)
    assert not {"AWS_SECRET_ACCESS_KEY", "MLSYNC_PASSPHRASE", "BOT"} & set(names)


def test_a_hook_that_takes_too_long_is_killed_with_its_children(tmp_path):
    """At the time-out the command and what it started are gone, although the child holds its output open."""
    file = tmp_path / "pid"
    why, _ = run_hook(["sh", "-c", f"sleep 60 & echo $! > {file}.new; mv {file}.new {file}; sleep 60"], BEST, 0.5)
    assert why == "not done after 0.5 s, and killed"
    child = Path(f"/proc/{int(file.read_text())}/stat")
    for _ in range(100):
        if not child.exists() or child.read_text().split()[2] == "Z":
            break
        time.sleep(0.02)
    else:
        raise AssertionError("the child lives")


def test_a_hook_ends_with_the_agent():
    """Once the agent says so, a hook is killed long before its time-out."""
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    assert run_hook(["sleep", "60"], BEST, 60, stop=stop) == ("killed, since the agent ends", "")


def test_how_a_hook_fails_is_told():
    """A status, a signal and a program that is not there are named; output is the last few kilobytes on one line."""
    assert run_hook(["sh", "-c", "echo a; echo b >&2; exit 3"], BEST, 30) == ("it ended with status 3", "a b")
    assert run_hook(["sh", "-c", "kill -9 $$"], BEST, 30)[0] == "SIGKILL ended it"
    assert run_hook(["/nonexistent/program"], BEST, 30) == ("it cannot be started: No such file or directory", "")
    assert run_hook(["a\0b"], BEST, 30)[0] == "it cannot be started: ValueError"
    why, said = run_hook(["sh", "-c", "head -c 9000000 /dev/zero | tr '\\0' x; exit 0"], BEST, 30)
    assert (why, len(said)) == ("", 4096)
