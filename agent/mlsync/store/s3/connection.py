"""Requests that another thread can cut off: whoever waits for the answer has an error at once, and the thread is free.

botocore has no word for that, so the connection that a request goes over is told whose request it is.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any, Self

from botocore import awsrequest


class CutOff(ConnectionError):
    """This request was cut off before it was sent."""


class Call:
    """A request of the thread that is in its ``with``; :meth:`cut` is for all other threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._is_cut = False

    def __enter__(self) -> Self:
        """Let requests of this thread be known as this call."""
        _calling.call = self
        return self

    def __exit__(self, *exc: object) -> None:
        """Let go of the connection, which may be another request's by now."""
        _calling.call = None
        self.let_go()

    def cut(self) -> None:
        """End the connection that the call goes over, or will go over; a call that is over is left alone."""
        with self._lock:
            self._is_cut = True
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    # Not the method of an SSLSocket, which takes the state away that its reader is using.
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def goes_over(self, connected: socket.socket | None) -> None:
        """Note the socket; raise ``CutOff`` if the call is not wanted any more."""
        with self._lock:
            if self._is_cut:
                raise CutOff
            self._socket = connected

    def let_go(self) -> None:
        """The connection is not this call's any more."""
        with self._lock:
            self._socket = None


class _Calling(threading.local):
    call: Call | None = None


_calling = _Calling()


class _Told:
    """A connection that tells a call of itself, and the call before that it is over."""

    sock: socket.socket | None
    _call: Call | None = None

    def request(self, *arguments: Any, **more: Any) -> None:
        if self._call is not None:
            # It was answered, or this connection would not be used again; to cut it now would cut somebody else.
            self._call.let_go()
        call = self._call = _calling.call
        if call is not None:
            call.goes_over(self.sock)
        super().request(*arguments, **more)  # type: ignore[misc]  # of the connection that this is mixed into
        if call is not None:
            call.goes_over(self.sock)  # which may have been made only now


class _Connection(_Told, awsrequest.AWSHTTPConnection):  # type: ignore[misc]  # botocore is without types here
    pass


class _SecureConnection(_Told, awsrequest.AWSHTTPSConnection):  # type: ignore[misc]  # as above
    pass


class _Pool(awsrequest.AWSHTTPConnectionPool):  # type: ignore[misc]  # as above
    ConnectionCls = _Connection


class _SecurePool(awsrequest.AWSHTTPSConnectionPool):  # type: ignore[misc]  # as above
    ConnectionCls = _SecureConnection


def make_cuttable(client: Any) -> None:
    """*client*'s requests, directly and through proxies, can be cut off from now on."""
    # One mapping that all its pools are made by. Where a later botocore has it no more, nothing is cut: a request that
    # was given up goes on until it times out.
    pools = getattr(client._endpoint.http_session, "_pool_classes_by_scheme", {})  # noqa: SLF001 - no other way in
    pools |= {"http": _Pool, "https": _SecurePool}
