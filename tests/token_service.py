"""A token service (AWS STS) for botocore: callers assume roles by a signature or by a web identity's token."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

ROLE = "arn:aws:iam::123456789012:role/training"
TOKEN = "a-web-identity"


class TokenService:
    """Returns *keys*, valid for *lasts_s*, to whoever assumes ``ROLE``; ``asked`` has the requested actions."""

    def __init__(self, keys: tuple[str, str]) -> None:
        self.keys = keys
        self.lasts_s = 3600.0
        self.asked: list[str] = []
        self.refusal: tuple[int, str] | None = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.service = self
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.host}"

    def stop(self) -> None:
        """Stop, and refuse connections."""
        self._server.shutdown()
        self._server.server_close()

    def answer(self, form: dict[str, str], authorization: str) -> tuple[int, str]:
        """Return status and body."""
        action = form["Action"]
        self.asked.append(action)
        if self.refusal is not None:
            return self.refusal[0], _error(self.refusal[1], "as asked for")
        if action == "AssumeRole" and f"Credential={self.keys[0]}/" not in authorization:
            return 403, _error("InvalidClientTokenId", "The security token included in the request is invalid")
        if action == "AssumeRoleWithWebIdentity" and form["WebIdentityToken"] != TOKEN:
            return 400, _error("InvalidIdentityToken", "The token is not one of this issuer")
        if form["RoleArn"] != ROLE:
            return 403, _error("AccessDenied", f"Not authorized to perform sts:{action} on {form['RoleArn']}")
        return 200, self._credentials(action)

    def _credentials(self, action: str) -> str:
        expires = datetime.now(UTC) + timedelta(seconds=self.lasts_s)
        return (
            f"<{action}Response><{action}Result><AssumedRoleUser><AssumedRoleId>A:mlsync</AssumedRoleId>"
            f"<Arn>{ROLE}</Arn></AssumedRoleUser><Credentials><AccessKeyId>{self.keys[0]}</AccessKeyId>"
            f"<SecretAccessKey>{self.keys[1]}</SecretAccessKey><SessionToken></SessionToken>"
            f"<Expiration>{expires:%Y-%m-%dT%H:%M:%SZ}</Expiration></Credentials></{action}Result></{action}Response>"
        )


def _error(code: str, message: str) -> str:
    return f"<ErrorResponse><Error><Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        form = {name: values[0] for name, values in parse_qs(body).items()}
        status, text = self.server.service.answer(form, self.headers.get("Authorization", ""))
        self.send_response(status)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_arguments):
        """Say nothing."""
