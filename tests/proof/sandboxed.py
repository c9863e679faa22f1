"""What an attacker would try in the proof's child: ``sandboxed.py SANDBOX KIND HOME``; tells what came of it.

KIND is ``cpu``, ``cuda`` or ``free``, which takes no ban up and shows that the deeds can be done at all.
"""

from __future__ import annotations

import ctypes
import errno
import importlib.util
import json
import mmap
import os
import resource
import socket
import subprocess
import sys
import threading
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
PARENT = os.getppid()


def syscall(name, *arguments):
    numbers = SANDBOX.REFUSED.get(name) or getattr(SANDBOX, f"_{name.upper()}")
    if LIBC.syscall(ctypes.c_long(numbers[COLUMN]), *arguments) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def write(path, flags):
    descriptor = os.open(path, flags, 0o600)
    os.write(descriptor, b"mine")
    os.close(descriptor)


def start_a_thread():
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()


def fork():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


DEEDS = {
    "connect": socket.socket,
    "socket pair": socket.socketpair,
    "io_uring": lambda: syscall("io_uring_setup", 1, ctypes.create_string_buffer(120)),
    "fork": fork,
    "start a program": lambda: subprocess.run(["/bin/true"], check=True),
    "become a program": lambda: os.execv("/nonexistent", ["x"]),
    "overwrite": lambda: write(HOME / "weights.pt", os.O_WRONLY),
    "overwrite by reading too": lambda: write(HOME / "weights.pt", os.O_RDWR),
    "append": lambda: write(HOME / "weights.pt", os.O_WRONLY | os.O_APPEND),
    "create": lambda: write(HOME / "new", os.O_WRONLY | os.O_CREAT),
    "create without a name": lambda: write(HOME, os.O_RDWR | os.O_TMPFILE),
    "empty": lambda: os.close(os.open(HOME / "weights.pt", os.O_RDONLY | os.O_TRUNC)),
    "truncate": lambda: os.truncate(HOME / "weights.pt", 1),
    "change the mode": lambda: (HOME / "weights.pt").chmod(0o666),
    "make a directory": lambda: (HOME / "directory").mkdir(0o700),
    "link": lambda: os.link(HOME / "weights.pt", HOME / "linked"),
    "rename": lambda: (HOME / "weights.pt").rename(HOME / "renamed"),
    "delete": lambda: os.unlink(HOME / "renamed"),
    "read a key": lambda: Path(HOME / ".ssh/id_ed25519").read_bytes(),
    "list a directory": lambda: os.listdir(HOME),
    "read the parent's environment": lambda: Path(f"/proc/{PARENT}/environ").read_bytes(),
    "signal the parent": lambda: os.kill(PARENT, 0),
    "hold the parent": lambda: syscall("pidfd_open", PARENT, 0),
    "slow the parent": lambda: os.setpriority(os.PRIO_PROCESS, PARENT, os.getpriority(os.PRIO_PROCESS, PARENT)),
    "limit the parent": lambda: resource.prlimit(PARENT, resource.RLIMIT_CORE),
    "read the parent's memory": lambda: syscall("process_vm_readv", PARENT, None, 0, None, 0, 0),
    "use a key": lambda: syscall("keyctl", 0, -3, 1),
    "leave the namespace": lambda: syscall("unshare", 0),
    "clone with a structure": lambda: syscall("clone3", None, 0),
    "a call of tomorrow": lambda: syscall("tomorrow"),
    # What torch and CUDA go on to do.
    "start a thread": start_a_thread,
    "map memory": lambda: mmap.mmap(-1, 1 << 20).close(),
    "import a module": lambda: __import__("colorsys"),
    "read a library": lambda: Path(os.__file__).read_bytes(),
    "read its own maps": lambda: Path("/proc/self/maps").read_bytes(),
    "limit itself": lambda: SANDBOX.allow_cpu(1000),
}


def done(deed):
    """``done``, or the name of the error."""
    try:
        deed()
    except OSError as error:
        return errno.errorcode[error.errno]
    except RuntimeError as error:  # what threading makes of EAGAIN
        return str(error)
    return "done"


if __name__ == "__main__":
    path, kind, HOME = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    spec = importlib.util.spec_from_file_location("sandbox", path)
    SANDBOX = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(SANDBOX)
    SANDBOX._TOMORROW = (500, 500)
    COLUMN = SANDBOX._MACHINES[os.uname().machine][0]
    lacking = SANDBOX.confine(kind == "cuda", str(HOME), 1) if kind != "free" else ""
    sys.stdout.write(json.dumps({"lacking": lacking, "came of it": {name: done(deed) for name, deed in DEEDS.items()}}))
