"""A monitor that keeps its notices."""

from __future__ import annotations

from mlsync.monitor import NoticeLevel, SilentMonitor


class RecordingMonitor(SilentMonitor):
    """Keeps notices in order, for tests to look at."""

    def __init__(self) -> None:
        self.notices: list[tuple[NoticeLevel, str]] = []

    def notice(self, level: NoticeLevel, text: str) -> None:
        """Keep the notice."""
        self.notices.append((level, text))
