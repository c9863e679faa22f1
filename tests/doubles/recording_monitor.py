"""A monitor that remembers what it was told."""

from __future__ import annotations

from mlsync.monitor import Severity, SilentMonitor


class RecordingMonitor(SilentMonitor):
    """Keeps notices in order: what tests look at."""

    def __init__(self) -> None:
        self.notices: list[tuple[Severity, str]] = []

    def notice(self, severity: Severity, text: str) -> None:
        """Keep it."""
        self.notices.append((severity, text))
