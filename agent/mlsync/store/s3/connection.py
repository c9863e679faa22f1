"""Requests that another thread can cancel: the waiting thread gets an error at once.

botocore has no call for that, so each connection notes which call it serves.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any, Self

from botocore import awsrequest


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
    """A connection that gives its socket to the call that it serves, and takes it from the call before."""

    sock: socket.socket | None
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


class _Connection(_CallAware, awsrequest.AWSHTTPConnection):  # type: ignore[misc]  # botocore is without types here
    pass


class _SecureConnection(_CallAware, awsrequest.AWSHTTPSConnection):  # type: ignore[misc]  # as above
    pass


class _Pool(awsrequest.AWSHTTPConnectionPool):  # type: ignore[misc]  # as above
    ConnectionCls = _Connection


class _SecurePool(awsrequest.AWSHTTPSConnectionPool):  # type: ignore[misc]  # as above
    ConnectionCls = _SecureConnection


def make_cuttable(client: Any) -> None:
    """Make *client*'s requests cancellable, direct ones and those through proxies."""
    # The client makes all its pools by this mapping. If a later botocore does not have it, nothing is cancelled: an
    # abandoned request then runs until it times out.
    pools = getattr(client._endpoint.http_session, "_pool_classes_by_scheme", {})  # noqa: SLF001 - no other way in
    pools |= {"http": _Pool, "https": _SecurePool}
