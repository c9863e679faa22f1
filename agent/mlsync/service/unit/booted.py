"""Whether systemd manages this machine, so that a unit can be enabled here; in containers it rarely does."""

from __future__ import annotations

from pathlib import Path
from typing import Final

#: The directory that systemd makes when it has booted the machine, as ``sd_booted(3)`` says.
SYSTEMD_RUNS: Final = Path("/run/systemd/system")


def has_systemd() -> bool:
    """Return whether systemd is the manager of this machine."""
    return SYSTEMD_RUNS.is_dir()
