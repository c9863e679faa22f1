"""A command as a process: how long it took, what processor time it and its children used, and how large it grew.

Whoever measures has to stay small itself: a child's peak memory begins with its parent's, so nothing that runs commands
through here imports numpy or torch before it has measured.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Ran:
    """What a command cost. *peak_mib* is its largest process, not the sum of them; *facts* are what it said itself."""

    wall_s: float
    cpu_s: float
    peak_mib: float
    output: str = ""
    notices: str = ""
    facts: Mapping[str, object] = field(default_factory=dict)

    def costs(self) -> dict[str, float]:
        return {"wall_s": round(self.wall_s, 3), "cpu_s": round(self.cpu_s, 3), "peak_mib": round(self.peak_mib, 1)}


def run(command: Sequence[str | Path], *, environment: Mapping[str, str] | None = None, cwd: Path | None = None) -> Ran:
    """Run *command* to its end; one that fails ends the benchmark, with what it said."""
    words = [os.fspath(word) for word in command]
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as notices:
        began_s = time.perf_counter()
        process = subprocess.Popen(
            words,
            cwd=cwd,
            env={**inherited(), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=notices,
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - began_s
        process.returncode = os.waitstatus_to_exitcode(status)
        said, told = (text(stream) for stream in (output, notices))
    if process.returncode != 0:
        sys.exit(f"failed with {process.returncode}: {' '.join(words)}\n{said}{told}")
    return Ran(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, said, told)


def inherited() -> dict[str, str]:
    """This process's environment, without what keeps Python from writing bytecode: each start would compile anew."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def text(stream) -> str:
    stream.seek(0)
    return stream.read().decode(errors="replace")
