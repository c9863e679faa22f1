"""Asks ``warm.py`` at a socket for a process, which gets this one's descriptors, and ends as that ends.

``asking.py SOCKET ARGUMENTS...``
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys


def main():
    """Ask, wait, and end."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(sys.argv[1])
    descriptors = [int(name) for name in os.listdir("/proc/self/fd") if is_open(int(name), connection)]
    asked = {
        "arguments": sys.argv[2:],
        "descriptors": descriptors,
        "environment": dict(os.environ),
        "place": os.getcwd(),
        "parent": os.getppid(),
    }
    socket.send_fds(connection, [json.dumps(asked).encode()], descriptors)
    # The other end of a pipe is to learn of its end from the process alone.
    for descriptor in descriptors:
        os.close(descriptor)
    code = int(connection.recv(16) or b"1")
    if code < 0:
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def is_open(number, connection):
    """Whether that is a descriptor which somebody gave to this process."""
    try:
        os.fstat(number)
    except OSError:  # it was that of the list
        return False
    return number != connection.fileno()


if __name__ == "__main__":
    main()
