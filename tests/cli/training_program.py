"""A training for ``mlsync run``: it counts on from its checkpoint, one step at a time, as its words say.

``training_program.py DIRECTORY [WORD]...``: ``until=N`` ends at step N, with status ``status=S``; ``kill`` ends by
SIGKILL then; ``saves`` saves a step on SIGUSR1; ``deaf`` takes no notice of the first SIGTERM; ``report=FILE`` has a
line for each step and each signal.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
import time
from pathlib import Path

DIRECTORY = Path(sys.argv[1])
WORDS = dict(word.partition("=")[::2] for word in sys.argv[2:])
CHECKPOINT = DIRECTORY / "last.safetensors"


def report(text):
    """The report has a line more."""
    with open(WORDS["report"], "a") as stream:
        stream.write(f"{text}\n")


def save(step):
    """The checkpoint is that of the step, in one rename."""
    content = struct.pack("<2f", step, 0.5)
    header = json.dumps(
        {"__metadata__": {"step": str(step)}, "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, len(content)]}}
    ).encode()
    header += b" " * (-len(header) % 8)
    temporary = DIRECTORY / ".tmpABCDEF"
    temporary.write_bytes(struct.pack("<Q", len(header)) + header + content)
    os.replace(temporary, CHECKPOINT)
    report(f"step {step}")


def saved_step():
    """The step of the checkpoint, 0 without one."""
    if not CHECKPOINT.exists():
        return 0
    body = CHECKPOINT.read_bytes()
    (length,) = struct.unpack("<Q", body[:8])
    return int(json.loads(body[8 : 8 + length])["__metadata__"]["step"])


def main():
    """Train."""
    terminated, asked = [], []

    def terminate(number, _frame):
        report(f"signal {number}")
        terminated.append(number)
        if len(terminated) > ("deaf" in WORDS):
            sys.exit(128 + number)

    def ask(number, _frame):
        report(f"signal {number}")
        asked.append(number)

    signal.signal(signal.SIGTERM, terminate)
    signal.signal(signal.SIGINT, terminate)
    if "saves" in WORDS:
        signal.signal(signal.SIGUSR1, ask)
    DIRECTORY.mkdir(exist_ok=True)
    step = saved_step()
    report(f"begins at {step}, {sorted(name for name in os.environ if 'MLSYNC' in name or 'BLAS' in name)}")
    until = int(WORDS.get("until", 1_000_000))
    while step < until:
        if "saves" not in WORDS or asked or not step:
            asked.clear()
            step += 1
            save(step)
        time.sleep(0.05)
    if "kill" in WORDS:
        os.kill(os.getpid(), signal.SIGKILL)
    sys.exit(int(WORDS.get("status", 0)))


if __name__ == "__main__":
    main()
