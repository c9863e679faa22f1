"""What the proof's child may do: all that it takes to find its device, and then only compute and answer its parent.

Loaded by path, from beside ``device.py``, in whatever Python has numpy or torch: 3.9 and its standard library do.

Three bans, each taken up for good and none able to be undone from inside:

- Landlock: on the CPU no file may be opened; for a GPU none be read but the libraries, and none written but its
  devices. No signal reaches a process outside, whatever sends it.
- No capability is left: the agent may read every user's files, and its child inherits that.
- seccomp: a list of system calls that are refused, in all threads at once, some by what they are asked for.

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

import contextlib
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
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    "get_robust_list": (274, 100),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "setpgid": (109, 154),
    "setsid": (112, 157),
    # Segments, semaphores and queues of the same user, whose numbers can be guessed.
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "semget": (64, 190),
    "semop": (65, 193),
    "semctl": (66, 191),
    "semtimedop": (220, 192),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    # Another identity: a change of it would also undo that this process dies with its parent.
    "setuid": (105, 146),
    "setgid": (106, 144),
    "setreuid": (113, 145),
    "setregid": (114, 143),
    "setresuid": (117, 147),
    "setresgid": (119, 149),
    "setfsuid": (122, 151),
    "setfsgid": (123, 152),
    "setgroups": (116, 159),
    "personality": (135, 92),
    "modify_ldt": (154, _ABSENT),
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
    # What happens to files of others, and what there is a number of for all processes of a user together.
    "inotify_init": (253, _ABSENT),
    "inotify_init1": (294, 26),
    "inotify_add_watch": (254, 27),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "io_setup": (206, 0),
    # The machine. A sync of all disks makes everybody wait who writes.
    "sync": (162, 81),
    "syncfs": (306, 267),
    "mount": (165, 40),
    "umount2": (166, 39),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "statmount": (457, 457),
    "listmount": (458, 458),
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
    "quotactl_fd": (443, 443),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "vhangup": (153, 58),
    "syslog": (103, 116),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "iopl": (172, _ABSENT),
    "ioperm": (173, _ABSENT),
    # Doors into the kernel that were found open more than once.
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "memfd_secret": (447, 447),
    "splice": (275, 76),
    "tee": (276, 77),
    "vmsplice": (278, 75),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
}
# On the CPU all that numpy needs is loaded by now: no path is looked up any more, nothing opened, no thread started and
# no device spoken to. A GPU's driver goes on to do all of that, so there these calls stay free.
REFUSED_ON_THE_CPU = {
    "open": (2, _ABSENT),
    "openat": (257, 56),
    "clone": (56, 220),
    "ioctl": (16, 29),
    "stat": (4, _ABSENT),
    "lstat": (6, _ABSENT),
    "newfstatat": (262, 79),
    "statx": (332, 291),
    "access": (21, _ABSENT),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "readlink": (89, _ABSENT),
    "readlinkat": (267, 78),
    "statfs": (137, 43),
    "getxattr": (191, 8),
    "lgetxattr": (192, 9),
    "listxattr": (194, 11),
    "llistxattr": (195, 12),
    "chdir": (80, 49),
    "memfd_create": (319, 279),
}
# Looked at by what they are asked for.
_CLONE3 = (435, 435)
_TGKILL = (234, 131)
_RT_TGSIGQUEUEINFO = (297, 240)
_PRLIMIT64 = (302, 261)
_SCHED_SETAFFINITY = (203, 122)
_FCNTL = (72, 25)
_MMAP = (9, 222)
_MPROTECT = (10, 226)
_PKEY_MPROTECT = (329, 288)
_PRCTL = (157, 167)
_SECCOMP = (317, 277)
_LANDLOCK = (444, 445, 446)  # create_ruleset, add_rule, restrict_self
_NEWER_THAN_THIS_LIST = 463
_X32 = 0x40000000
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

_CLONE_THREAD = 0x10000
_O_TMPFILE = 0o20000000
_OPENS_ANEW = os.O_CREAT | os.O_TRUNC | _O_TMPFILE
_PROT_EXEC = 4
# Commands of fcntl. The kernel sends a signal to whoever is named as the owner of a descriptor, by F_SETOWN and others,
# and keeps others from opening a file that somebody has a lease on.
_F_SETFL = 4
_REFUSED_FCNTL = {
    "F_SETOWN": 8,
    "F_SETSIG": 10,
    "F_SETOWN_EX": 15,
    "F_SETLEASE": 1024,
    "F_NOTIFY": 1026,
    "F_SETPIPE_SZ": 1031,
    "F_SETDELEG": 1040,
}
_O_ASYNC = 0o20000
# The same by ioctl, and what types into a terminal or takes it.
_REFUSED_IOCTL = {
    "FIOSETOWN": 0x8901,
    "SIOCSPGRP": 0x8902,
    "FIOASYNC": 0x5452,
    "TIOCSTI": 0x5412,
    "TIOCSCTTY": 0x540E,
    "TIOCSPGRP": 0x5410,
    "TIOCLINUX": 0x541C,
}
# It is to die with its parent and to be looked into by nobody, and its memory is to stay what the kernel made of it.
_REFUSED_PRCTL = {
    "PR_SET_PDEATHSIG": 1,
    "PR_SET_DUMPABLE": 4,
    "PR_SET_KEEPCAPS": 8,
    "PR_SET_SECUREBITS": 28,
    "PR_SET_MM": 35,
    "PR_SET_CHILD_SUBREAPER": 36,
    "PR_SCHED_CORE": 62,
    "PR_SET_PTRACER": 0x59616D61,
}

# Classic BPF: how an instruction reads, compares, and ends with an answer.
_LOAD, _IF_EQUAL, _IF_NOT_LESS, _IF_ANY_BIT, _ANSWER = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL_PROCESS, _FAIL_WITH = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER_AT, _MACHINE_AT, _ARGUMENTS_AT = 0, 4, 16

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_TSYNC = 1, 1
_CAPABILITIES_VERSION_3 = 0x20080522

# Landlock's rights by the version of its interface. That of ioctl is taken on the CPU alone: it is how one speaks to a
# GPU. TCP came with version 4; abstract sockets and signals to processes outside of the ban with version 6.
_WRITE_FILE, _READ_FILE, _READ_DIRECTORY, _IOCTL_DEVICE = 1 << 1, 1 << 2, 1 << 3, 1 << 15
_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1}
_VERSION_OF_TCP, _VERSION_OF_IOCTL, _VERSION_OF_SCOPES = 4, 5, 6
_TCP_BIND_AND_CONNECT, _SCOPE_SOCKETS_AND_SIGNALS = 3, 3
_RULE_PATH_BENEATH = 1

# What a GPU's libraries open late: other libraries, facts about machine, process and driver.
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
_GPU_DEVICES = ("/dev/nvidia*", "/dev/nvhost*", "/dev/nvmap", "/dev/nvgpu", "/dev/kfd", "/dev/dri", "/dev/dxg")
CPU_SPARE_BYTES = 512 << 20
_CPU_DESCRIPTORS_MAX, _GPU_DESCRIPTORS_MAX = 64, 1024


# One instruction: what it does, how many to leap over if true and if not, and what it compares with or answers.
_Step = tuple[int, int, int, int]


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
    with contextlib.suppress(OSError):  # a service manager may have set it and let nobody change it
        # Not lower than a pass that has this already: its version waits for this process.
        os.nice(max(0, 10 - os.getpriority(os.PRIO_PROCESS, 0)))


def allow_cpu(seconds: int) -> None:
    """Let this process use *seconds* more of a processor, then be killed."""
    times = os.times()
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = int(times.user + times.system) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard < 0 else min(soft, hard), hard))


def confine(is_cuda: bool, home: str) -> str:
    """Take the bans up, for good; tells which could not be had on this kernel, nothing if all could.

    On a GPU the ban on files holds for this thread and those that it starts: the driver's own, which are older, cannot
    be reached. For the driver opens its devices anew whenever it maps memory, only there files may be opened for
    writing at all, and Landlock says that it is the devices alone.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)  # without it neither Landlock nor seccomp is for everybody
    _limit(is_cuda)
    is_alone = len(os.listdir("/proc/self/task")) == 1
    lacking = [_ban_files(libc, home, is_cuda)]
    lacking.append(_drop_capabilities(libc))
    lacking.append(_ban_calls(libc, is_cuda, is_alone))
    return "; ".join(text for text in lacking if text)


def _limit(is_cuda: bool) -> None:
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
    # Counted for all of a user's processes together: what this one took, the trainer would not get.
    for limit in (resource.RLIMIT_SIGPENDING, resource.RLIMIT_MSGQUEUE, resource.RLIMIT_MEMLOCK):
        _lower(limit, 0)
    _lower(resource.RLIMIT_NPROC, 0)


def _lower(limit: int, bound: int) -> None:
    hard = resource.getrlimit(limit)[1]
    bound = bound if hard < 0 else min(bound, hard)
    resource.setrlimit(limit, (bound, bound))


def _ban_files(libc: ctypes.CDLL, home: str, is_cuda: bool) -> str:
    """Let no file be opened; for a GPU none but the libraries and its devices."""
    create, add, restrict = _LANDLOCK
    version = libc.syscall(create, None, ctypes.c_size_t(0), ctypes.c_uint(1))
    if version < 1:
        return f"files can be read, for this kernel has no Landlock ({_last_error()})"
    handled = _handled(version, is_cuda)
    rules = libc.syscall(create, handled, ctypes.c_size_t(len(handled)), ctypes.c_uint(0))
    if rules < 0:
        return f"files can be read, for Landlock is refused ({_last_error()})"
    try:
        for place in _readable_places(home) if is_cuda else ():
            _let(libc, add, rules, place, _READ_FILE | _READ_DIRECTORY)
        for pattern in _GPU_DEVICES if is_cuda else ():
            for place in glob.glob(pattern):
                _let(libc, add, rules, place, _READ_FILE | _READ_DIRECTORY | _WRITE_FILE)
        if libc.syscall(restrict, rules, ctypes.c_uint(0)) != 0:
            return f"files can be read, for Landlock is refused ({_last_error()})"
    finally:
        os.close(rules)
    return ""


def _handled(version: int, is_cuda: bool) -> bytes:
    """What Landlock is to ban, as far as its *version* knows it: files, TCP, and signals to processes outside."""
    files = _RIGHTS[min(version, max(_RIGHTS))]
    if version >= _VERSION_OF_IOCTL and not is_cuda:
        files |= _IOCTL_DEVICE
    handled = struct.pack("Q", files)
    if version >= _VERSION_OF_TCP:
        handled += struct.pack("Q", _TCP_BIND_AND_CONNECT)
    if version >= _VERSION_OF_SCOPES:
        handled += struct.pack("Q", _SCOPE_SOCKETS_AND_SIGNALS)
    return handled


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


def _ban_calls(libc: ctypes.CDLL, is_cuda: bool, is_alone: bool) -> str:
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
    refused = [*REFUSED.values(), *(() if is_cuda else REFUSED_ON_THE_CPU.values())]
    for numbers in refused:
        if numbers[column] != _ABSENT:
            steps += [(_IF_EQUAL, 0, 1, numbers[column]), (_ANSWER, 0, 0, refuse)]
    for numbers, looks in _looked_at(is_cuda, pid, refuse):
        if numbers[column] != _ABSENT:
            steps += [(_IF_EQUAL, 0, len(looks), numbers[column]), *looks]
    steps.append((_ANSWER, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def _looked_at(is_cuda: bool, pid: int, refuse: int) -> list[tuple[tuple[int, int], list[_Step]]]:
    """The calls that are judged by what they are asked for, each with the steps that end in its answer."""

    def argument(place: int) -> _Step:
        return (_LOAD, 0, 0, _ARGUMENTS_AT + 8 * place)

    def allow_only(compare: int, *values: int) -> list[_Step]:
        tests = [step for value in values for step in ((compare, 0, 1, value), (_ANSWER, 0, 0, _ALLOW))]
        return [*tests, (_ANSWER, 0, 0, refuse)]

    def refuse_only(compare: int, *values: int) -> list[_Step]:
        tests = [step for value in values for step in ((compare, 0, 1, value), (_ANSWER, 0, 0, refuse))]
        return [*tests, (_ANSWER, 0, 0, _ALLOW)]

    # Of flags only the one by which a descriptor sends signals; whether a read waits is everybody's business.
    flags = [argument(2), *refuse_only(_IF_ANY_BIT, _O_ASYNC)]
    commands = refuse_only(_IF_EQUAL, *_REFUSED_FCNTL.values())
    # Threads, and no processes; only there, for on the CPU neither these calls nor code that comes later is allowed.
    of_a_gpu = [
        (REFUSED_ON_THE_CPU["clone"], [argument(0), *allow_only(_IF_ANY_BIT, _CLONE_THREAD)]),
        (REFUSED_ON_THE_CPU["open"], [argument(1), *refuse_only(_IF_ANY_BIT, _OPENS_ANEW)]),
        (REFUSED_ON_THE_CPU["openat"], [argument(2), *refuse_only(_IF_ANY_BIT, _OPENS_ANEW)]),
        (REFUSED_ON_THE_CPU["ioctl"], [argument(1), *refuse_only(_IF_EQUAL, *_REFUSED_IOCTL.values())]),
    ]
    code = [argument(2), *refuse_only(_IF_ANY_BIT, _PROT_EXEC)]
    of_the_cpu = [(_MMAP, code), (_MPROTECT, code), (_PKEY_MPROTECT, code)]
    return [
        *(of_a_gpu if is_cuda else of_the_cpu),
        (_TGKILL, [argument(0), *allow_only(_IF_EQUAL, pid)]),  # abort() and raise() do that to their own process
        (_RT_TGSIGQUEUEINFO, [argument(0), *allow_only(_IF_EQUAL, pid)]),
        (_PRLIMIT64, [argument(0), *allow_only(_IF_EQUAL, 0)]),  # its own limits, and nobody else's
        (_SCHED_SETAFFINITY, [argument(0), *allow_only(_IF_EQUAL, 0, pid)]),  # its own place, likewise
        (_FCNTL, [argument(1), (_IF_EQUAL, 0, len(flags), _F_SETFL), *flags, *commands]),
        (_PRCTL, [argument(0), *refuse_only(_IF_EQUAL, *_REFUSED_PRCTL.values())]),
    ]


def _last_error() -> str:
    return os.strerror(ctypes.get_errno())
