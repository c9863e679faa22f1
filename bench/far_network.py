"""A network to a server that is far away: each request waits, each connection carries so many bytes a second.

``far_network.py HOST PORT DELAY_MS MB_PER_S LINE_MB_PER_S`` prints its address and passes on; the last is what all
connections carry together, 0 for no such bound.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

PIECE_BYTES = 64 << 10


class FarNetwork:
    """The network in a process of its own, from ``start`` to ``stop``."""

    def __init__(self, url: str, *, delay_ms: float, mb_per_s: float, line_mb_per_s: float = 0) -> None:
        parts = urlsplit(url)
        self._words = [parts.hostname, str(parts.port), str(delay_ms), str(mb_per_s), str(line_mb_per_s)]

    def start(self) -> str:
        words = [sys.executable, str(Path(__file__)), *self._words]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        return self._process.stdout.readline().strip()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


class Bound:
    """So many bytes a second: whoever passes some waits until they are through."""

    def __init__(self, mb_per_s: float) -> None:
        self.bytes_per_s = mb_per_s * 1e6
        self.free_s = 0.0
        self.lock = threading.Lock()

    def through_s(self, count: int) -> float:
        """When *count* bytes are through that come now."""
        if not self.bytes_per_s:
            return 0.0
        with self.lock:
            self.free_s = max(self.free_s, time.monotonic()) + count / self.bytes_per_s
            return self.free_s


class Connection:
    """Passes both ways; what comes after an answer is the next request, and waits."""

    def __init__(self, client: socket.socket, server: tuple[str, int], delay_s: float, bounds: list[Bound]) -> None:
        self.delay_s, self.bounds = delay_s, bounds
        self.is_answered = True
        self.client, self.server = client, socket.create_connection(server)
        for one in (self.client, self.server):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for source, target in ((self.client, self.server), (self.server, self.client)):
            threading.Thread(target=self.carry, args=(source, target), daemon=True).start()

    def carry(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(PIECE_BYTES):
                if source is self.client and self.is_answered:
                    time.sleep(self.delay_s)
                self.is_answered = source is self.server
                time.sleep(max(0.0, max(bound.through_s(len(piece)) for bound in self.bounds) - time.monotonic()))
                target.sendall(piece)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


def main(host: str, port: str, delay_ms: str, mb_per_s: str, line_mb_per_s: str) -> None:
    line = Bound(float(line_mb_per_s))
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    while True:
        client, _ = listener.accept()
        Connection(client, (host, int(port)), float(delay_ms) / 1000, [Bound(float(mb_per_s)), line])


if __name__ == "__main__":
    main(*sys.argv[1:])
