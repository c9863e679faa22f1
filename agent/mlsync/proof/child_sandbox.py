"""What the proof's child may do: all that it takes to find its device, and then only compute and answer its parent.

Loaded by path, from beside ``device.py``, in whatever Python has torch: 3.9 and its standard library are enough.

Three bans, each taken up for good and none able to be undone from inside:

- Landlock: no file may be read but the libraries, and none written but the devices of a GPU.
- No capability is left: the agent may read every user's files, and its child inherits that.
- seccomp: a list of system calls that are refused, in all threads at once.

The list says what is refused and not what is allowed, because what torch, glibc and above all CUDA's driver call later
differs from release to release and is written down nowhere: threads, futexes, maps, ioctls on open devices. A list of
what is allowed would be wrong on the next machine, and each mistake in it would look like a device that failed. What a
thief needs is short and known: a connection, a program, another process, a file. Calls that are newer than this list
are answered as by a kernel that has not got them, which is what glibc expects of older kernels.

A refused call fails with EPERM instead of killing the process: libraries try what they may not do and go on without,
and what cannot go on says in its own words what failed, where a kill would only tell of a signal. An attacker wins
nothing by it. Only calls of another processor's kind, which no honest library makes, kill.
"""

from __future__ import annotations

import ctypes
import errno
import glob
import os
import platform
import resource
import signal
import struct
import sys

_ABSENT = -1  # not among the calls of this processor

# Name: (number on x86_64, number on aarch64). From 424 on all processors count alike.
REFUSED = {
    # Connections: without a socket there is nothing to send on. Sending stays allowed on sockets that are open, for
    # CUDA's own way to its multi-process server. io_uring does everything past this filter.
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    # Programs, and processes of others: the trainer's may belong to the same user.
    "execve": (59, 221),
    "execveat": (322, 281),
    "fork": (57, _ABSENT),
    "vfork": (58, _ABSENT),
    "kill": (62, 129),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "setpriority": (141, 140),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    # Files: what exists stays as it is. Handles open files past every path.
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "openat2": (437, 437),
    "creat": (85, _ABSENT),
    "truncate": (76, 45),
    "ftruncate": (77, 46),
    "fallocate": (285, 47),
    "mkdir": (83, _ABSENT),
    "mkdirat": (258, 34),
    "mknod": (133, _ABSENT),
    "mknodat": (259, 33),
    "unlink": (87, _ABSENT),
    "unlinkat": (263, 35),
    "rmdir": (84, _ABSENT),
    "rename": (82, _ABSENT),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "link": (86, _ABSENT),
    "linkat": (265, 37),
    "symlink": (88, _ABSENT),
    "symlinkat": (266, 36),
    "chmod": (90, _ABSENT),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, _ABSENT),
    "lchown": (94, _ABSENT),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "utime": (132, _ABSENT),
    "utimes": (235, _ABSENT),
    "futimesat": (261, _ABSENT),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    # The machine.
    "mount": (165, 40),
    "umount2": (166, 39),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "iopl": (172, _ABSENT),
    "ioperm": (173, _ABSENT),
    # Doors into the kernel that were found open more than once.
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
}
# Looked at by what they are asked for.
_CLONE = (56, 220)
_CLONE3 = (435, 435)
_OPEN = (2, _ABSENT)
_OPENAT = (257, 56)
_TGKILL = (234, 131)
_RT_TGSIGQUEUEINFO = (297, 240)
_PRLIMIT64 = (302, 261)
_SECCOMP = (317, 277)
_LANDLOCK = (444, 445, 446)  # create_ruleset, add_rule, restrict_self
_NEWER_THAN_THIS_LIST = 463
_X32 = 0x40000000
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

_CLONE_THREAD = 0x10000
_O_TMPFILE = 0o20000000
_OPENS_ANEW = os.O_CREAT | os.O_TRUNC | _O_TMPFILE
_OPENS_FOR_WRITING = os.O_WRONLY | os.O_RDWR | os.O_APPEND | _OPENS_ANEW

# Classic BPF: how an instruction reads, compares, and ends with an answer.
_LOAD, _IF_EQUAL, _IF_NOT_LESS, _IF_ANY_BIT, _ANSWER = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL_PROCESS, _FAIL_WITH = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER_AT, _MACHINE_AT, _ARGUMENTS_AT = 0, 4, 16

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_TSYNC = 1, 1
_CAPABILITIES_VERSION_3 = 0x20080522

# Landlock's rights by the version of its interface; that of ioctl stays free, which is how one speaks to a GPU.
_WRITE_FILE, _READ_FILE, _READ_DIRECTORY = 1 << 1, 1 << 2, 1 << 3
_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1}
_RULE_PATH_BENEATH = 1

# What libraries open late: other libraries, facts about machine, process and driver.
_READABLE = (
    "/usr",
    "/lib",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/proc/self",
    "/proc/meminfo",
    "/proc/cpuinfo",
    "/proc/stat",
    "/proc/driver/nvidia",
    "/proc/sys/vm",
    "/sys",
    "/dev/urandom",
    "/dev/null",
)
_GPU_DEVICES = ("/dev/nvidia*", "/dev/kfd", "/dev/dri", "/dev/dxg")
CPU_SPARE_BYTES = 2 << 30
_CPU_DESCRIPTORS_MAX, _GPU_DESCRIPTORS_MAX = 64, 1024


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("program", ctypes.c_char_p))


def tie_to_parent(parent_pid: int) -> None:
    """Die with the parent, gain no rights, leave no core, stand behind the trainer."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.getppid() != parent_pid:
        raise SystemExit(0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(10)


def allow_cpu(seconds: int) -> None:
    """Let this process use *seconds* more of a processor, then be killed."""
    times = os.times()
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = int(times.user + times.system) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard < 0 else min(soft, hard), hard))


def confine(is_cuda: bool, home: str, threads: int) -> str:
    """Take the bans up, for good; tells which could not be had on this kernel, nothing if all could.

    On a GPU the ban on files holds for this thread and those that it starts: the driver's own, which are older, cannot
    be reached. For the driver opens its devices anew whenever it maps memory, only there files may be opened for
    writing at all, and Landlock says that it is the devices alone.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)  # without it neither Landlock nor seccomp is for everybody
    _limit(is_cuda, threads)
    lacking = [_ban_files(libc, home, is_cuda)]
    lacking.append(_drop_capabilities(libc))
    lacking.append(_ban_calls(libc, is_cuda))
    return "; ".join(text for text in lacking if text)


def _limit(is_cuda: bool, threads: int) -> None:
    """No file that grows, few descriptors; on the CPU an end to memory, and no thread or process more.

    CUDA's address space is too large for a limit, and its driver starts threads when it likes. The kernel counts the
    threads of all of the user's processes together, the trainer's too: any bound but none at all would hit at random.
    """
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if is_cuda:
        _lower(resource.RLIMIT_NOFILE, _GPU_DESCRIPTORS_MAX)
        return
    _lower(resource.RLIMIT_NOFILE, _CPU_DESCRIPTORS_MAX)
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    _lower(resource.RLIMIT_AS, used + CPU_SPARE_BYTES)
    if threads == 1:
        _lower(resource.RLIMIT_NPROC, 0)


def _lower(limit: int, bound: int) -> None:
    hard = resource.getrlimit(limit)[1]
    bound = bound if hard < 0 else min(bound, hard)
    resource.setrlimit(limit, (bound, bound))


def _ban_files(libc: ctypes.CDLL, home: str, is_cuda: bool) -> str:
    """Let no file be opened but the libraries and a GPU's devices."""
    create, add, restrict = _LANDLOCK
    version = libc.syscall(create, None, ctypes.c_size_t(0), ctypes.c_uint(1))
    if version < 1:
        return f"files can be read, for this kernel has no Landlock ({_last_error()})"
    handled = struct.pack("Q", _RIGHTS[min(version, max(_RIGHTS))])
    rules = libc.syscall(create, handled, ctypes.c_size_t(len(handled)), ctypes.c_uint(0))
    if rules < 0:
        return f"files can be read, for Landlock is refused ({_last_error()})"
    try:
        for place in _readable_places(home):
            _let(libc, add, rules, place, _READ_FILE | _READ_DIRECTORY)
        for pattern in _GPU_DEVICES if is_cuda else ():
            for place in glob.glob(pattern):
                _let(libc, add, rules, place, _READ_FILE | _READ_DIRECTORY | _WRITE_FILE)
        if libc.syscall(restrict, rules, ctypes.c_uint(0)) != 0:
            return f"files can be read, for Landlock is refused ({_last_error()})"
    finally:
        os.close(rules)
    return ""


def _readable_places(home: str) -> set[str]:
    """Where libraries lie: the system's, this Python's, torch's; no place that the user's home lies in."""
    places = {os.path.realpath(place) for place in (*_READABLE, *sys.path, sys.prefix, sys.base_prefix)}
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as file:
        mapped = [line.rstrip("\n").split(None, 5)[5:] for line in file]
    places |= {os.path.dirname(path[0]) for path in mapped if path and path[0].startswith("/") and ".so" in path[0]}
    home = os.path.join(os.path.realpath(home), "")
    return {place for place in places if not home.startswith(os.path.join(place, ""))}


def _let(libc: ctypes.CDLL, add: int, rules: int, place: str, rights: int) -> None:
    """Except *place* and all below it from the ban; what is not there needs no exception."""
    try:
        descriptor = os.open(place, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not os.path.isdir(place):
            rights &= ~_READ_DIRECTORY
        rule = struct.pack("=Qi", rights, descriptor)
        libc.syscall(add, rules, ctypes.c_int(_RULE_PATH_BENEATH), rule, ctypes.c_uint(0))
    finally:
        os.close(descriptor)


def _drop_capabilities(libc: ctypes.CDLL) -> str:
    """Be an ordinary user's process, also where the agent may read the files of all users."""
    done = libc.capset(struct.pack("=Ii", _CAPABILITIES_VERSION_3, 0), bytes(24))
    return "" if done == 0 else f"capabilities are kept, for capset is refused ({_last_error()})"


def _ban_calls(libc: ctypes.CDLL, is_cuda: bool) -> str:
    """Refuse the calls of the list in all threads."""
    machine = _MACHINES.get(platform.machine())
    if machine is None or sys.maxsize < 1 << 32:
        return f"system calls are not filtered, for the list knows no {platform.machine()}"
    column, audited = machine
    code = program(column, audited, is_cuda, os.getpid())
    filter_ = _Filter(len(code) // 8, code)
    number = ctypes.c_long(_SECCOMP[column])
    flags = ctypes.c_uint(_SECCOMP_FILTER_FLAG_TSYNC)
    done = libc.syscall(number, ctypes.c_uint(_SECCOMP_SET_MODE_FILTER), flags, ctypes.byref(filter_))
    if done == 0:
        return ""
    why = _last_error() if done < 0 else f"thread {done} has a filter of its own"
    # Older than seccomp(2), or refused by a filter around this one; it does for this thread and those that it starts.
    is_alone = len(os.listdir("/proc/self/task")) == 1
    if is_alone and libc.prctl(_PR_SET_SECCOMP, 2, ctypes.byref(filter_), 0, 0) == 0:
        return ""
    return f"system calls are not filtered, for seccomp is refused ({why})"


def program(column: int, audited: int, is_cuda: bool, pid: int) -> bytes:
    """The filter for the processor whose numbers stand in that *column* of the list, as the kernel reads it."""
    refuse, unknown = _FAIL_WITH | errno.EPERM, _FAIL_WITH | errno.ENOSYS
    steps = [
        (_LOAD, 0, 0, _MACHINE_AT),
        (_IF_EQUAL, 1, 0, audited),
        (_ANSWER, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_IF_NOT_LESS, 0, 1, _X32),
        (_ANSWER, 0, 0, refuse),
        (_IF_NOT_LESS, 0, 1, _NEWER_THAN_THIS_LIST),
        (_ANSWER, 0, 0, unknown),
        # What it is asked for lies behind a pointer, where no filter looks; without it glibc asks clone.
        (_IF_EQUAL, 0, 1, _CLONE3[column]),
        (_ANSWER, 0, 0, unknown),
    ]
    for numbers in REFUSED.values():
        if numbers[column] != _ABSENT:
            steps += [(_IF_EQUAL, 0, 1, numbers[column]), (_ANSWER, 0, 0, refuse)]
    writing = _OPENS_ANEW if is_cuda else _OPENS_FOR_WRITING
    looked_at = [
        (_CLONE, 0, (_IF_ANY_BIT, _CLONE_THREAD), _ALLOW, refuse),  # threads, and no processes
        (_OPEN, 1, (_IF_ANY_BIT, writing), refuse, _ALLOW),
        (_OPENAT, 2, (_IF_ANY_BIT, writing), refuse, _ALLOW),
        (_TGKILL, 0, (_IF_EQUAL, pid), _ALLOW, refuse),  # abort() and raise() do that to their own process
        (_RT_TGSIGQUEUEINFO, 0, (_IF_EQUAL, pid), _ALLOW, refuse),
        (_PRLIMIT64, 0, (_IF_EQUAL, 0), _ALLOW, refuse),  # its own limits, and nobody else's
    ]
    for numbers, argument, (compare, value), then, otherwise in looked_at:
        if numbers[column] != _ABSENT:
            steps += [
                (_IF_EQUAL, 0, 4, numbers[column]),
                (_LOAD, 0, 0, _ARGUMENTS_AT + 8 * argument),
                (compare, 0, 1, value),
                (_ANSWER, 0, 0, then),
                (_ANSWER, 0, 0, otherwise),
            ]
    steps.append((_ANSWER, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def _last_error() -> str:
    return os.strerror(ctypes.get_errno())
