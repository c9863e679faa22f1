"""Runs the proof's child without seccomp and Landlock: ``without_sandbox.py SANDBOX -I -B PROGRAM PID``.

A filter of the sandbox's own making refuses the calls, as a container's or an old unit's would.
"""

import ctypes
import errno
import importlib.util
import os
import runpy
import struct
import sys

spec = importlib.util.spec_from_file_location("sandbox", sys.argv[1])
sandbox = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sandbox)
column = sandbox._MACHINES[os.uname().machine][0]
refused = [sandbox._SECCOMP[column], *sandbox._LANDLOCK, (126, 91)[column]]  # the last one is capset
steps = [(sandbox._LOAD, 0, 0, 0)]
for number in refused:
    steps += [(sandbox._IF_EQUAL, 0, 1, number), (sandbox._ANSWER, 0, 0, 0x50000 | errno.EPERM)]
# Of prctl, only what would set a filter.
prctl = (157, 167)[column]
steps += [(sandbox._IF_EQUAL, 0, 4, prctl), (sandbox._LOAD, 0, 0, 16), (sandbox._IF_EQUAL, 0, 1, 22)]
steps += [(sandbox._ANSWER, 0, 0, 0x50000 | errno.EPERM), (sandbox._ANSWER, 0, 0, 0x7FFF0000)]
steps += [(sandbox._ANSWER, 0, 0, 0x7FFF0000)]
code = b"".join(struct.pack("=HBBI", *step) for step in steps)
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(38, 1, 0, 0, 0)
assert libc.prctl(22, 2, ctypes.byref(sandbox._Filter(len(code) // 8, code)), 0, 0) == 0
program, sys.argv = sys.argv[4], sys.argv[4:]
runpy.run_path(program, run_name="__main__")
