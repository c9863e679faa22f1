"""What tests of the kernel's keyring share: whether there is one here, and processes to which the kernel refuses it."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from mlsync import kernel_keyring

TESTS = Path(__file__).parent
AGENT = Path(kernel_keyring.__file__).parents[1]
UID = 54_321  # nobody's, with a quota of its own
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 38, 22, 2
_LOAD, _IF_EQUAL, _ANSWER = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000


def need_keyring() -> None:
    """Skip the test where the kernel, or a filter before it, takes no key of this user's."""
    try:
        kernel_keyring.probe()
    except OSError as error:
        pytest.skip(f"the kernel keeps no key here: {error}")


def refuse_calls(fault: int) -> None:
    """Have the kernel answer add_key and keyctl with *fault* in this process and its children, as a container does."""
    add_key, keyctl = kernel_keyring._CALLS[platform.machine()]
    rows = [(_LOAD, 0, 0, 0), (_IF_EQUAL, 1, 0, add_key), (_IF_EQUAL, 0, 1, keyctl)]
    rows += [(_ANSWER, 0, 0, _ERRNO | fault), (_ANSWER, 0, 0, _ALLOW)]

    class Row(ctypes.Structure):
        _fields_ = (
            ("code", ctypes.c_uint16),
            ("then", ctypes.c_uint8),
            ("otherwise", ctypes.c_uint8),
            ("value", ctypes.c_uint32),
        )

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_uint16), ("rows", ctypes.POINTER(Row)))

    program = Program(len(rows), (Row * len(rows))(*rows))
    library = ctypes.CDLL(None, use_errno=True)
    assert library.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    assert library.prctl(_PR_SET_SECCOMP, _FILTER, ctypes.byref(program), 0, 0) == 0, os.strerror(ctypes.get_errno())


def fill_quota() -> None:
    """Leave this user no room for another key, as long as this process lives."""
    library = ctypes.CDLL(None, use_errno=True)
    add_key = kernel_keyring._CALLS[platform.machine()][0]
    for number in range(1 << 20):
        if library.syscall(add_key, b"user", f"filler {number}".encode(), b"x" * 64, 64, -2) < 0:
            break


def new_session() -> None:
    """Begin a session with a keyring that is not linked to the user's, as systemd does for each service."""
    library = ctypes.CDLL(None, use_errno=True)
    assert library.syscall(kernel_keyring._CALLS[platform.machine()][1], 1, None) > 0


def run_python(code: str, *, uid: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run *code* in a Python of its own, which may import the parts of this folder."""
    places = [str(AGENT), str(TESTS), str(TESTS / "repository"), *(one for one in sys.path if "-packages" in one)]
    lines = f"import os, sys\nsys.path[:0] = {places!r}\n"
    # Before the change of the user, who may not read what this one imports from.
    lines += "import format_parts, keyring_parts, mlsync.repository.keys.remembered\n"
    if uid is not None:
        lines += f"os.setgroups([])\nos.setresgid({uid}, {uid}, {uid})\nos.setresuid({uid}, {uid}, {uid})\n"
    command = [sys.executable, "-c", lines + code]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
