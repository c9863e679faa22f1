"""A monitor that keeps its notices."""

from __future__ import annotations

from mlsync.monitor import Severity, SilentMonitor


class RecordingMonitor(SilentMonitor):
    """Keeps notices in order, for tests to look at."""

    def __init__(self) -> None:
        self.notices: list[tuple[Severity, str]] = []

    def notice(self, severity: Severity, text: str) -> None:
        """Keep the notice."""
        self.notices.append((severity, text))
