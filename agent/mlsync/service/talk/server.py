"""Serves bounded requests in one thread: a slow or hostile client costs a slot for a few seconds, and nothing else."""

from __future__ import annotations

import errno
import logging
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from mlsync.service.talk.http import HttpAnswer, HttpRequest, parse_request
from mlsync.service.talk.local_socket import peer_uid

_LOG: Final = logging.getLogger(__name__)
CONNECTIONS_MAX: Final = 32
# For a request to come in and its answer to go out: everything is on this machine or in its network.
PATIENCE_S: Final = 5.0
_READ_BYTES: Final = 16 << 10
# While no connection can be taken, as when the process is out of descriptors.
_PAUSE_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Door:
    """A listening socket, who may come in by it, and what answers there."""

    listening: socket.socket
    admits: Callable[[socket.socket], bool]
    answer: Callable[[HttpRequest], HttpAnswer]


class _Guest:
    """A connection under way."""

    def __init__(self, connection: socket.socket, door: Door, deadline_s: float) -> None:
        self.connection = connection
        self.door = door
        self.deadline_s = deadline_s
        self.received = b""
        self.to_send = memoryview(b"")


class TalkServer:
    """Answers what comes in by its doors, until ``stop``; ``start`` begins the thread."""

    def __init__(self, *, patience_s: float = PATIENCE_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience_s = patience_s
        self._clock = clock
        self._selector = selectors.DefaultSelector()
        self._guests: set[_Guest] = set()
        self._doors: list[Door] = []
        self._removed: list[Door] = []
        self._are_open = True
        self._lock = threading.Lock()
        self._wakeup_read, self._wakeup_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._selector.register(self._wakeup_read, selectors.EVENT_READ)
        self._is_stopped = False
        self.thread = threading.Thread(target=self._live, name="talk", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self.thread.start()

    def add(self, door: Door) -> None:
        """Answer at another door too; any thread may call this."""
        door.listening.setblocking(False)
        with self._lock:
            self._doors.append(door)
        self._wake()

    def remove(self, door: Door) -> None:
        """Answer at this door no longer, and close it; any thread may call this."""
        with self._lock:
            self._doors.remove(door)
            self._removed.append(door)
        self._wake()

    def stop(self) -> None:
        """End the thread and close all sockets."""
        self._is_stopped = True
        self._wake()
        if self.thread.is_alive():
            self.thread.join(self._patience_s)

    def _wake(self) -> None:
        with suppress(OSError):
            os.write(self._wakeup_write, b"w")

    def _live(self) -> None:
        try:
            while not self._is_stopped:
                self._round()
        finally:
            for guest in tuple(self._guests):
                self._dismiss(guest)
            for door in (*self._doors, *self._removed):
                door.listening.close()
            self._selector.close()

    def _round(self) -> None:
        self._open_doors(len(self._guests) < CONNECTIONS_MAX)
        deadline_s = min((guest.deadline_s for guest in self._guests), default=None)
        timeout_s = None if deadline_s is None else max(0.0, deadline_s - self._clock())
        for key, _ in self._selector.select(timeout_s):
            if isinstance(key.data, Door):
                self._welcome(key.data)
            elif isinstance(key.data, _Guest):
                self._attend(key.data)
            else:
                os.read(self._wakeup_read, 4096)
        now_s = self._clock()
        for guest in [guest for guest in self._guests if guest.deadline_s <= now_s]:
            self._dismiss(guest)

    def _open_doors(self, are_open: bool) -> None:
        """Listen while there is room; the kernel's queue holds the others meanwhile."""
        known = self._selector.get_map()
        with self._lock:
            doors = tuple(self._doors)
            removed, self._removed = self._removed, []
        for door in removed:
            if door.listening in known:
                self._selector.unregister(door.listening)
            door.listening.close()
        for door in doors:
            if are_open and door.listening not in known:
                self._selector.register(door.listening, selectors.EVENT_READ, door)
            elif not are_open and door.listening in known:
                self._selector.unregister(door.listening)

    def _welcome(self, door: Door) -> None:
        try:
            connection, _ = door.listening.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                time.sleep(_PAUSE_S)
            return
        if len(self._guests) >= CONNECTIONS_MAX or not door.admits(connection):
            connection.close()
            return
        connection.setblocking(False)
        guest = _Guest(connection, door, self._clock() + self._patience_s)
        self._guests.add(guest)
        self._selector.register(connection, selectors.EVENT_READ, guest)

    def _attend(self, guest: _Guest) -> None:
        try:
            if guest.to_send:
                self._send(guest)
            else:
                self._receive(guest)
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self._dismiss(guest)

    def _receive(self, guest: _Guest) -> None:
        block = guest.connection.recv(_READ_BYTES)
        guest.received += block
        parsed = parse_request(guest.received)
        if parsed is None:
            if not block:
                self._dismiss(guest)
            return
        is_head = isinstance(parsed, HttpRequest) and parsed.method == "HEAD"
        if isinstance(parsed, HttpRequest) and guest.connection.family == socket.AF_UNIX:
            parsed = replace(parsed, uid=peer_uid(guest.connection))
        answer = parsed if isinstance(parsed, HttpAnswer) else _answered(guest.door, parsed)
        guest.to_send = memoryview(answer.encoded(is_head=is_head))
        self._selector.modify(guest.connection, selectors.EVENT_WRITE, guest)
        self._send(guest)

    def _send(self, guest: _Guest) -> None:
        sent = guest.connection.send(guest.to_send)
        guest.to_send = guest.to_send[sent:]
        if not guest.to_send:
            with suppress(OSError):
                guest.connection.shutdown(socket.SHUT_WR)
            self._dismiss(guest)

    def _dismiss(self, guest: _Guest) -> None:
        with suppress(KeyError, ValueError):
            self._selector.unregister(guest.connection)
        guest.connection.close()
        self._guests.discard(guest)


def _answered(door: Door, request: HttpRequest) -> HttpAnswer:
    try:
        return door.answer(request)
    except Exception:  # noqa: BLE001 - logged and answered
        # A bug here must cost no backup, and no later answer.
        _LOG.exception("unexpected error while a request was answered")
        return HttpAnswer.of_text("unexpected error; the agent's log has it", 500)
