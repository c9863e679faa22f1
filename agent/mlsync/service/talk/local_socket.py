"""The agent's socket in its state directory: for the commands of the same user and of root alone.

A service has one more in its runtime directory, for the trainings of all users.
A socket at a place whose lock is free is left over, and is replaced.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Self

from mlsync.service.talk.place import PLACES, AgentPlace

# What sun_path holds, with the zero at its end (unix(7)).
_PATH_BYTES_MAX: Final = 107
_CREDENTIALS: Final = struct.Struct("3i")


class LocalSocket:
    """A listening socket at the *place* of its agent, whose lock says that the agent lives.

    Its mode is 0600 unless it is for all users.
    """

    def __init__(self, place: AgentPlace, listening: socket.socket) -> None:
        self.path = place.socket
        self._place = place
        self.listening = listening

    @classmethod
    def bind(cls, place: AgentPlace, mode: int = 0o600) -> Self:
        """Listen at a place that is claimed, or is now; raise ``OSError`` if no socket can be there."""
        if not place.is_held:
            place.claim()
        return cls(place, _bound(place.socket, mode))

    @property
    def is_lost(self) -> bool:
        """Whether nobody finds it any more: somebody deleted it."""
        try:
            return not stat.S_ISSOCK(self.path.lstat().st_mode)
        except OSError:
            return True

    def close(self) -> None:
        """Remove the socket, unless another one has its name by now."""
        self.listening.close()
        if not self._place.is_lost:
            with suppress(OSError):
                self.path.unlink()


def admits_own(connection: socket.socket) -> bool:
    """Return whether this user or root is at the other end: what the mode says, also where a file system has none."""
    return peer_uid(connection) in (0, os.geteuid())


def peer_uid(connection: socket.socket) -> int:
    """Return the user at the other end, as he was when he connected or listened."""
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(packed)[1]
    return uid


def local_sockets(directory: Path) -> Iterator[Path]:
    """Yield the sockets of agents in *directory*, in the order of their places; some may be left over."""
    for number in range(PLACES):
        path = directory / f"agent-{number}.sock"
        with suppress(OSError):
            if stat.S_ISSOCK(path.lstat().st_mode):
                yield path


def connected(path: Path, timeout_s: float, *, uids: Collection[int]) -> socket.socket:
    """Return a connection to a socket on which one of *uids* listens.

    Raise ``ConnectionRefusedError`` if nobody does, ``PermissionError`` for any other user, and ``OSError``.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connection.settimeout(timeout_s)
        with _short(path) as address:
            connection.connect(address)
        uid = peer_uid(connection)
        if uid not in uids:
            raise PermissionError(f"user {uid} listens there")
    except BaseException:
        connection.close()
        raise
    return connection


def _bound(path: Path, mode: int) -> socket.socket:
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(f"{path} is in the way, and is no socket")
        # Its agent is gone, since its lock was free.
        path.unlink()
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        # Before it has a name: the kernel makes the file with this mode, and at no moment with another one.
        os.fchmod(listening.fileno(), mode)
        with _short(path) as address:
            listening.bind(address)
            if mode & 0o077:
                # The process's umask was taken away from it.
                os.chmod(address, mode)
        listening.listen(16)
    except BaseException:
        listening.close()
        raise
    return listening


@contextmanager
def _short(path: Path) -> Iterator[bytes]:
    """Yield an address of *path* that fits into a socket's address, however deep the directory is."""
    whole = os.fsencode(path)
    if len(whole) <= _PATH_BYTES_MAX:
        yield whole
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield os.fsencode(f"/proc/self/fd/{directory}/{path.name}")
    finally:
        os.close(directory)
