"""Whether the kernel says what others wait for, without which mlsync cannot see that it disturbs them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from mlsync.courtesy.pressure import files, recent_share
from mlsync.doctor.findings import Diagnosis, Grade

SUBJECT: Final = "pressure"


def diagnose_pressure(found: Mapping[str, Path] | None = None) -> Iterator[Diagnosis]:
    """Yield where it is read, or that it is absent, which is fine."""
    found = files() if found is None else found
    if all(recent_share(file) is None for file in found.values()):
        what = "the kernel does not tell what others wait for (no /proc/pressure)"
        means = "mlsync yields by priority alone, and waits for no stalled machine"
        yield Diagnosis(SUBJECT, Grade.FINE, what, means, "psi=1 among the kernel's parameters switches it on")
        return
    yield Diagnosis(SUBJECT, Grade.FINE, f"mlsync sees what others wait for, by {found['disk']}")
