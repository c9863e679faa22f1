"""A Python that has imported torch already: whoever asks gets a process that was forked from it.

``warm.py LISTENER``, the descriptor of a listening socket, at which ``asking.py`` asks. What the process does is what
``stand_in.py`` would do in a Python of its own, which would take two seconds of a processor to import torch.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import os
import select
import signal
import socket
import sys

import stand_in
import tensors  # noqa: F401 - what else takes long

ASKED_BYTES_MAX = 256 << 10
DESCRIPTORS_MAX = 64


def serve(listener):
    """Wait for somebody to ask; returns in the process that is for him, with what he asked for."""
    while True:
        try:
            connection = listener.accept()[0]
        except OSError:  # it was shut down
            reap(0)
            raise SystemExit(0) from None
        if os.fork() == 0:
            listener.close()
            return take_care(connection)
        connection.close()
        reap(os.WNOHANG)


def reap(options):
    """Wait for those who ended."""
    try:
        while os.waitpid(-1, options)[0]:
            pass
    except ChildProcessError:
        pass


def take_care(connection):
    """Fork the process, which returns; meanwhile see to it that it ends with whoever asked, who learns how it ended."""
    text, descriptors = socket.recv_fds(connection, ASKED_BYTES_MAX, DESCRIPTORS_MAX)[:2]
    child = os.fork()
    if child == 0:
        connection.close()
        return json.loads(text), descriptors
    for descriptor in descriptors:
        os.close(descriptor)
    ended = os.pidfd_open(child)
    poller = select.poll()
    poller.register(ended, select.POLLIN)
    poller.register(connection, select.POLLIN)
    if ended not in dict(poller.poll()):
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    with contextlib.suppress(BrokenPipeError):
        connection.sendall(str(code).encode())
    os._exit(0)


def become(asked, descriptors):
    """Take on what is the asking process's own: descriptors, variables, place, session and parent."""
    above = max(asked["descriptors"]) + 1
    moved = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, above) for descriptor in descriptors]
    os.closerange(0, above)
    for source, number in zip(moved, asked["descriptors"]):  # noqa: B905 - 3.9
        os.dup2(source, number)
        os.close(source)
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["place"])
    os.setsid()
    os.getppid = lambda: asked["parent"]
    sys.path[1:1] = [part for part in asked["environment"].get("PYTHONPATH", "").split(":") if part]


if __name__ == "__main__":
    gc.freeze()
    ASKED, DESCRIPTORS = serve(socket.socket(fileno=int(sys.argv[1])))
    become(ASKED, DESCRIPTORS)
    stand_in.main(ASKED["arguments"])
