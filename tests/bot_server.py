"""A server that plays the services of notices: it notes what is posted, and answers as it is told to."""

from __future__ import annotations

import http.server
import threading
from contextlib import contextmanager


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        """Note the request and answer."""
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.server.posts.append((self.path, dict(self.headers.items()), body))
        status, headers, answer = self.server.answer
        self.server.hold.wait(10)
        try:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer)
        except OSError:
            pass

    def log_message(self, *_args):
        """Say nothing."""


@contextmanager
def bot_server():
    """A server with ``posts``, an ``answer`` to give, a ``hold`` that delays it, and its ``url``."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.posts, server.answer, server.hold = [], (200, {}, b'{"errcode":0,"errmsg":"ok"}'), threading.Event()
    server.hold.set()
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.hold.set()
        server.shutdown()
        thread.join()
        server.server_close()
