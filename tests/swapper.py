"""A neighbour who owns a directory and exchanges names in it, over and over, while root works there."""

import os
import subprocess
import sys
import textwrap
from contextlib import contextmanager

NEIGHBOUR = 65_534
# Exchanges two names in one step, over and over, as the user that owns the tree; begins when it says so.
SWAPPER = textwrap.dedent("""
    import ctypes, os, sys, time
    os.chdir(sys.argv[2])
    os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))
    renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    pairs = [(a.encode(), b.encode()) for a, b in zip(sys.argv[3::2], sys.argv[4::2])]
    print("ready", flush=True)
    turn = 0
    while True:
        for one, other in pairs:
            renameat2(-100, one, -100, other, 2)
        turn += 1
        if turn % 64 == 0:
            with open("log", "ab") as log:
                log.write(b"x")
            time.sleep(0.0003)  # the other one is to get on, too, where there are two processors
""")


@contextmanager
def swapping(directory, *names):
    """Have the neighbour, whose the directory is, swap these names pair by pair meanwhile."""
    command = [sys.executable, "-S", "-c", SWAPPER, str(NEIGHBOUR), os.fspath(directory), *names]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"ready\n"
        yield
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()
