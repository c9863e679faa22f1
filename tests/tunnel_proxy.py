"""An HTTP proxy that forwards everything, as a company's does: requests for http, tunnels for https."""

from __future__ import annotations

import contextlib
import socket
import threading
from urllib.parse import urlsplit

_PIECE_BYTES = 64 << 10


class TunnelProxy:
    """Listens on *host* from ``start`` to ``stop``; ``asked`` is the first line of each connection.

    With *server* it is no proxy to be asked, but a way to that server under another address.
    """

    def __init__(self, host: str = "127.0.0.1", server: tuple[str, int] | None = None) -> None:
        self.asked: list[str] = []
        self._server = server
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family, backlog=64)
        self.port = self._listener.getsockname()[1]

    @property
    def url(self) -> str:
        """The value for ``HTTP_PROXY`` and ``HTTPS_PROXY``."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start."""
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        """Stop."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            head = client.recv(_PIECE_BYTES)
            line = head.partition(b"\r\n")[0].decode()
            self.asked.append(line)
            method, target = line.split()[:2]
            with socket.create_connection(self._server or _address(method, target)) as server:
                if method == "CONNECT":
                    client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                else:
                    # Requests to a proxy have whole addresses, which every server must accept too.
                    server.sendall(head)
                back = threading.Thread(target=_pass_on, args=(server, client), daemon=True)
                back.start()
                _pass_on(client, server)
                back.join()


def _address(method: str, target: str) -> tuple[str, int]:
    parts = urlsplit(f"//{target}" if method == "CONNECT" else target)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(_PIECE_BYTES):
            target.sendall(piece)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
