"""Requests that another thread can cancel: the waiting thread gets an error at once.

botocore has no call for that, so each connection notes which call it serves.
"""

from __future__ import annotations

import contextlib
import fcntl
import select
import socket
import sys
import termios
import threading
import time
from typing import Any, Final, Self

from botocore import awsrequest

# Sent at a time: the patience is for one piece, so that a slow line may take as long as it needs for a whole part.
_PIECE_BYTES: Final = 128 << 10
_LOOK_AGAIN_S: Final = 1.0


class CutOff(ConnectionError):
    """Another thread cancelled this request before it was sent."""


class CancellableCall:
    """The request of the thread that is in its ``with``; other threads call :meth:`cut`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._is_cut = False

    def __enter__(self) -> Self:
        """Make this thread's requests belong to this call."""
        _calling.call = self
        return self

    def __exit__(self, *exc: object) -> None:
        """Forget the connection, which may serve another request by now."""
        _calling.call = None
        self.forget_socket()

    def cut(self) -> None:
        """Shut down the call's connection, now or as soon as it has one; do nothing if the call is over."""
        with self._lock:
            self._is_cut = True
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    # Not the method of SSLSocket, which removes state that the reading thread uses.
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def use_socket(self, connected: socket.socket | None) -> None:
        """Note the call's socket; raise ``CutOff`` if another thread cancelled the call."""
        with self._lock:
            if self._is_cut:
                raise CutOff
            self._socket = connected

    def forget_socket(self) -> None:
        """Forget the connection."""
        with self._lock:
            self._socket = None


class _Calling(threading.local):
    call: CancellableCall | None = None


_calling = _Calling()


class _CallAware:
    """A connection that gives its socket to the call that it serves, and takes it from the call before.

    A body may be slow: it is given up when nothing of it moves for *stalled_s*. Without this all of it would have to be
    sent within the time that a connection may take to be made.
    """

    sock: socket.socket | None
    stalled_s: float
    _call: CancellableCall | None = None

    def request(self, *arguments: Any, **more: Any) -> None:
        if self._call is not None:
            # The call before is over, or its connection would not be reused; cutting it now would hit another request.
            self._call.forget_socket()
        call = self._call = _calling.call
        if call is not None:
            call.use_socket(self.sock)
        super().request(*arguments, **more)  # type: ignore[misc]  # of the connection class that this mixes into
        if call is not None:
            call.use_socket(self.sock)  # it may have connected only now

    def send(self, data: Any) -> None:
        if self.sock is None or not isinstance(data, bytes | memoryview) or len(data) <= _PIECE_BYTES:
            super().send(data)  # type: ignore[misc]  # as above
            return
        view = memoryview(data).cast("B")
        self.sock.settimeout(self.stalled_s)
        for start in range(0, len(view), _PIECE_BYTES):
            super().send(view[start : start + _PIECE_BYTES])  # type: ignore[misc]  # as above
        _wait_while_it_drains(self.sock, self.stalled_s)


class _Connection(_CallAware, awsrequest.AWSHTTPConnection):  # type: ignore[misc]  # botocore is without types here
    pass


class _SecureConnection(_CallAware, awsrequest.AWSHTTPSConnection):  # type: ignore[misc]  # as above
    pass


def _wait_while_it_drains(connected: socket.socket, stalled_s: float) -> None:
    """Wait while the kernel still sends: it takes megabytes at once, and the server's time to answer begins afterwards.

    Return also when the answer comes early, and when nothing moves for *stalled_s*.
    """
    poll = select.poll()
    poll.register(connected, select.POLLIN)
    before_bytes, moved_s = -1, time.monotonic()
    while unsent_bytes := _unsent_bytes(connected):
        now_s = time.monotonic()
        if unsent_bytes != before_bytes:
            before_bytes, moved_s = unsent_bytes, now_s
        if poll.poll(min(_LOOK_AGAIN_S, stalled_s) * 1000) or now_s >= moved_s + stalled_s:
            return


def _unsent_bytes(connected: socket.socket) -> int:
    """Return how much of what was sent the other side has not confirmed; 0 if that cannot be told."""
    try:
        return int.from_bytes(fcntl.ioctl(connected, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except OSError:
        return 0


def make_cuttable(client: Any, stalled_s: float) -> None:
    """Make *client*'s requests cancellable, direct ones and those through proxies.

    Bodies may be slow as long as they move within *stalled_s*.
    """

    class Connection(_Connection):
        pass

    class SecureConnection(_SecureConnection):
        pass

    class Pool(awsrequest.AWSHTTPConnectionPool):  # type: ignore[misc]  # as above
        ConnectionCls = Connection

    class SecurePool(awsrequest.AWSHTTPSConnectionPool):  # type: ignore[misc]  # as above
        ConnectionCls = SecureConnection

    Connection.stalled_s = SecureConnection.stalled_s = stalled_s
    # The client makes all its pools by this mapping. If a later botocore does not have it, nothing is cancelled: an
    # abandoned request then runs until it times out.
    pools = getattr(client._endpoint.http_session, "_pool_classes_by_scheme", {})  # noqa: SLF001 - no other way in
    pools |= {"http": Pool, "https": SecurePool}
