"""What an attacker would try in the proof's child: ``sandboxed.py SANDBOX KIND HOME``; tells what came of it.

KIND is ``cpu``, ``cuda`` or ``free``, which takes no ban up and shows that the deeds can be done at all.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import importlib.util
import json
import mmap
import os
import platform
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long  # an address may be what comes back
PARENT = os.getppid()


# What was open, or its own, before the bans.
READER, WRITER = os.pipe()
SOCKET, OTHER = socket.socketpair()


def syscall(name, *arguments):
    known = {**SANDBOX.REFUSED, **SANDBOX.REFUSED_ON_THE_CPU}
    numbers = known.get(name) or getattr(SANDBOX, f"_{name.upper()}")
    # A plain int is passed as 32 bits, and whatever was on the stack stands in the upper half of the last one.
    whole = (ctypes.c_long(one) if isinstance(one, int) else one for one in arguments)
    return checked(LIBC.syscall(ctypes.c_long(numbers[COLUMN]), *whole))


def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def own(command, owner):
    """Have a descriptor's signals sent to somebody; nothing happens on it before it is taken back."""
    fcntl.fcntl(READER, command, owner)
    fcntl.fcntl(READER, fcntl.F_SETOWN, 0)


def lease():
    fcntl.fcntl(FILE, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    fcntl.fcntl(FILE, fcntl.F_SETLEASE, fcntl.F_UNLCK)


def send_signals(flags):
    fcntl.fcntl(READER, fcntl.F_SETFL, flags | os.O_ASYNC)
    fcntl.fcntl(READER, fcntl.F_SETFL, flags)


def lock():
    fcntl.lockf(FILE, fcntl.LOCK_SH)
    fcntl.lockf(FILE, fcntl.LOCK_UN)


def wait_or_not():
    fcntl.fcntl(READER, fcntl.F_SETFL, os.O_NONBLOCK)
    os.close(fcntl.fcntl(READER, fcntl.F_DUPFD_CLOEXEC, 10))
    fcntl.fcntl(READER, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    assert not os.get_blocking(READER)


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
    # Signals that the kernel sends for whoever owns a descriptor.
    "name the parent as owner": lambda: own(fcntl.F_SETOWN, PARENT),
    "name the parent as owner, in full": lambda: own(15, struct.pack("ii", 1, PARENT)),
    "choose the owner's signal": lambda: fcntl.fcntl(READER, fcntl.F_SETSIG, signal.SIGURG),
    "have signals sent": lambda: send_signals(0),
    "have signals sent, and not wait": lambda: send_signals(os.O_NONBLOCK),
    "have signals sent, by ioctl": lambda: fcntl.ioctl(READER, 0x5452, struct.pack("i", 0)),
    "name a socket's owner": lambda: fcntl.ioctl(SOCKET, 0x8901, struct.pack("i", PARENT)),
    "name a socket's owner, by its other name": lambda: fcntl.ioctl(SOCKET, 0x8902, struct.pack("i", PARENT)),
    "keep a file from being opened": lease,
    # What takes something from others of the same user, or from all.
    "place the parent": lambda: os.sched_setaffinity(PARENT, os.sched_getaffinity(PARENT)),
    "slow the parent's disk": lambda: syscall("ioprio_set", 1, PARENT, 2 << 13 | 4),
    "read the parent's locks": lambda: syscall(
        "get_robust_list", PARENT, ctypes.byref(ctypes.c_ulong()), ctypes.byref(ctypes.c_ulong())
    ),
    "use a segment by its number": lambda: syscall("shmat", SEGMENT, None, 0),
    "delete a segment by its number": lambda: syscall("shmctl", SEGMENT, 0, None),
    "take the places of others in a queue": lambda: syscall("io_setup", 1, ctypes.byref(ctypes.c_ulong())),
    "write all disks": lambda: syscall("sync"),
    "watch": lambda: syscall("inotify_init1", 0),
    "watch a directory": lambda: syscall("inotify_add_watch", WATCHER, b"/tmp", 1),
    "be another kind of program": lambda: syscall("personality", 0xFFFFFFFF),
    "hide memory": lambda: syscall("memfd_secret", 0),
    "change segments": lambda: syscall("modify_ldt", 0, ctypes.create_string_buffer(16), 16),
    "move memory between pipes": lambda: syscall("tee", READER, OTHER_WRITER, 1, 2),
    "be another user": lambda: os.setresuid(-1, os.getuid(), -1),
    "outlive the parent": lambda: checked(LIBC.prctl(1, 0, 0, 0, 0)),
    "be looked into": lambda: checked(LIBC.prctl(4, 1, 0, 0, 0)),
    # Only on the CPU.
    "look at a file": lambda: os.stat(HOME / ".ssh/id_ed25519"),
    "look at a link": lambda: os.lstat("/proc/self/exe"),
    "look at a file past Landlock": lambda: os.close(os.open(HOME / ".ssh/id_ed25519", os.O_PATH)),
    "ask whether a file may be read": lambda: checked(LIBC.access(b"/etc/passwd", 4)),
    "follow a link": lambda: os.readlink("/proc/self/exe"),
    "look at a disk": lambda: os.statvfs("/"),
    "read a label": lambda: os.listxattr(HOME),
    "go to a directory": lambda: os.chdir("/"),
    "make a file of memory": lambda: os.memfd_create("x"),
    "ask a device": lambda: fcntl.ioctl(SOCKET, 0x5411, struct.pack("i", 0)),
    "read a library": lambda: Path(os.__file__).read_bytes(),
    "read its own maps": lambda: Path("/proc/self/maps").read_bytes(),
    "map code": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC).close(),
    "turn memory into code": lambda: checked(LIBC.mprotect(ctypes.c_void_p(PAGE), ctypes.c_size_t(4096), 7)),
    "import a module": lambda: __import__("colorsys"),
    "use a key": lambda: syscall("keyctl", 0, -3, 1),
    "leave the namespace": lambda: syscall("unshare", 0),
    "clone with a structure": lambda: syscall("clone3", None, 0),
    "a call of tomorrow": lambda: syscall("tomorrow"),
    # What libraries go on to do.
    "start a thread": start_a_thread,
    "map memory": lambda: mmap.mmap(-1, 1 << 20).close(),
    "lock a file": lock,
    "set flags of a descriptor": wait_or_not,
    "ask for a terminal": lambda: os.isatty(READER),
    "name itself": lambda: checked(LIBC.prctl(15, b"child", 0, 0, 0)),
    "limit itself": lambda: SANDBOX.allow_cpu(1000),
}


def done(deed):
    """``done``, or the name of the error."""
    try:
        deed()
    except OSError as error:
        return errno.errorcode[error.errno]
    except ImportError:
        return "ImportError"
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
    if platform.machine() != "x86_64":
        del DEEDS["change segments"]
    FILE = os.open(HOME / "weights.pt", os.O_RDONLY)
    PAGE = ctypes.addressof(ctypes.c_char.from_buffer(mmap.mmap(-1, 4096)))
    WATCHER = LIBC.inotify_init1(0)
    SEGMENT = LIBC.shmget(0, 4096, 0o1600)
    LIBC.shmat(SEGMENT, None, 0)
    LIBC.shmctl(SEGMENT, 0, None)  # it goes with this process
    _, OTHER_WRITER = os.pipe()
    os.write(WRITER, b"x")
    lacking = SANDBOX.confine(kind == "cuda", str(HOME)) if kind != "free" else ""
    sys.stdout.write(json.dumps({"lacking": lacking, "came of it": {name: done(deed) for name, deed in DEEDS.items()}}))
