"""All that an agent says while it runs, opened and closed with it; nothing here ends a backup."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlsync.monitor import Monitor
from mlsync.service.talk.answers import Answers, TalkingAgent
from mlsync.service.talk.local_socket import LocalSocket, admits_own
from mlsync.service.talk.server import Door, TalkServer


class Talk:
    """The socket of an agent in its state *directory*."""

    def __init__(self, agent: TalkingAgent, directory: Path, monitor: Monitor) -> None:
        self._agent = agent
        self._directory = directory
        self._monitor = monitor

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Answer at the socket until the context ends; an agent that can have none works without."""
        try:
            local = LocalSocket.bind(self._directory)
        except OSError as error:
            why = error.strerror or str(error)
            text = f"mlsync status cannot ask this agent: no socket in {self._directory}: {why}"
            self._monitor.notice("warning", text)
            yield
            return
        server = TalkServer()
        server.add(Door(local.listening, admits_own, Answers(self._agent, may_act=True)))
        server.start()
        try:
            yield
        finally:
            server.stop()
            local.close()
