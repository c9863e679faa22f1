"""All that an agent says while it runs, opened and closed with it; nothing here ends a backup."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlsync.config.address import Address
from mlsync.errors import ListenFailed
from mlsync.monitor import Monitor
from mlsync.service.talk.answers import Answers, TalkingAgent
from mlsync.service.talk.listening import OwnHost, listening_at
from mlsync.service.talk.local_socket import LocalSocket, admits_own
from mlsync.service.talk.metrics import write_metrics
from mlsync.service.talk.place import AgentPlace
from mlsync.service.talk.server import Door, TalkServer

_AGAIN_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class TalkOptions:
    """Where an agent talks besides its socket: an address, by which *names* too, and a file for node exporter.

    *trainings* is a directory that all users can look into: trainings of any of them tell there what they have saved.
    """

    listen: Address | None = None
    names: Collection[str] = ()
    metrics_file: Path | None = None
    trainings: Path | None = None


class _Hall:
    """A socket at a place, made anew when somebody deletes it, and who may come in and is answered; *use* is of it."""

    def __init__(
        self, place: AgentPlace, mode: int, admits: Callable[[socket.socket], bool], answers: Answers, use: str
    ) -> None:
        self._place, self._mode, self._admits, self._answers, self._use = place, mode, admits, answers, use
        self._is_own = not place.is_held
        self._local: LocalSocket | None = None
        self._door: Door | None = None
        self._has_failed = False

    def look(self, server: TalkServer, monitor: Monitor) -> None:
        """Open it, if it is not open or nobody finds it any more; an agent that can have none works without."""
        if self._local is not None and not self._local.is_lost and not self._place.is_lost:
            return
        if self._local is not None and self._door is not None:
            # Whatever has the name by now stays.
            server.remove(self._door)
            self._local = self._door = None
        try:
            if self._place.is_lost:
                self._place.claim()
            self._local = LocalSocket.bind(self._place, self._mode)
        except OSError as error:
            if not self._has_failed:
                why = error.strerror or str(error)
                text = f"{self._use} cannot ask this agent: no socket in {self._place.directory}: {why}"
                monitor.notice("warning", text)
            self._has_failed = True
            return
        self._has_failed = False
        self._door = Door(self._local.listening, self._admits, self._answers)
        server.add(self._door)

    def close(self) -> None:
        """Remove the socket, and let the next agent have the place if it was taken for this."""
        if self._local is not None:
            self._local.close()
        if self._is_own:
            self._place.release()


class Talk:
    """The socket of an agent at its *place*, and its port if one is wanted."""

    def __init__(
        self,
        agent: TalkingAgent,
        place: AgentPlace,
        monitor: Monitor,
        options: TalkOptions | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._agent = agent
        self._monitor = monitor
        self._options = options or TalkOptions()
        self._clock = clock
        self._server = TalkServer()
        #: Why the port cannot be had, if it cannot.
        self.failed: ListenFailed | None = None
        self._is_listening = self._options.listen is None
        self._again_s = 0.0
        self._file_failed = False
        self._halls = [_Hall(place, 0o600, admits_own, Answers(agent, may_act=True), "mlsync status")]
        if self._options.trainings is not None:
            everybody, answers = AgentPlace(self._options.trainings), Answers.for_trainings(agent)
            self._halls.append(_Hall(everybody, 0o666, lambda _anybody: True, answers, "mlsync.now() of other users"))

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Answer at the socket, and the port, until the context ends; an agent that can have none works without."""
        self._open_halls()
        self._listen()
        self._server.start()
        try:
            yield
        finally:
            self._server.stop()
            for hall in self._halls:
                hall.close()

    def tick(self) -> None:
        """Write the file of metrics, and try the port again if it was taken; the agent calls this now and then.

        A socket that was deleted, with the state directory, is made anew.
        """
        self._open_halls()
        self._listen()
        file = self._options.metrics_file
        if file is None:
            return
        try:
            write_metrics(file, self._agent.metrics())
            self._file_failed = False
        except OSError as error:
            if not self._file_failed:
                self._monitor.notice("warning", f"the metrics cannot be written: {file}: {error.strerror}")
            self._file_failed = True

    def _open_halls(self) -> None:
        for hall in self._halls:
            hall.look(self._server, self._monitor)

    def _listen(self) -> None:
        address = self._options.listen
        if address is None or self._is_listening or self._clock() < self._again_s:
            return
        self._again_s = self._clock() + _AGAIN_S
        try:
            listening = listening_at(address)
        except ListenFailed as error:
            if self.failed is None:
                advice = f"{error.usual_advice}; backups go on, and this is tried again"
                self._monitor.notice("error", f"{error} ({advice})")
            self.failed = error
            return
        answers = OwnHost(Answers(self._agent, may_act=False), self._options.names)
        self._server.add(Door(listening, lambda _connection: True, answers))
        self._is_listening, self.failed = True, None
        self._monitor.notice("info", f"metrics and status page: http://{address}/")
