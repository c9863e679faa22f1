"""One request to an MLflow server, and what its refusals mean: HTTP by Python's own library.

Credentials go to the address that was given and nowhere else: no redirect is followed. Answers are bounded in size and
time, and nothing that a server says is taken for more than text.
"""

from __future__ import annotations

import base64
import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from email.message import Message
from http.client import HTTPException
from typing import IO, Any, Final
from urllib.parse import urlencode, urlsplit

from mlsync.errors import ConfigInvalid, RegistryAway, RegistryDenied, RegistryError, RegistryRefused
from mlsync.registry.address import Tracking

# A server on a busy machine takes seconds for a password alone.
TIMEOUT_S: Final = 30.0
# A list of model versions with all their tags.
_BODY_BYTES_MAX: Final = 16 << 20
_PIECE_BYTES: Final = 64 << 10
_SAID_CHARS_MAX: Final = 300
_API: Final = "/api/2.0/mlflow/"
_DENIED: Final = frozenset({401, 403})
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_REDIRECTS: Final = range(300, 400)
_OK: Final = 200
_NOT_THERE: Final = 404


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Leaves redirects alone: the credentials are for the address that was given."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        """Follow none."""


class Rest:
    """Asks one server."""

    def __init__(self, address: Tracking, *, timeout_s: float = TIMEOUT_S) -> None:
        self.address = address
        self._timeout_s = timeout_s
        https = urllib.request.HTTPSHandler(context=_context(address))
        self._opener = urllib.request.build_opener(_NoRedirects, https)

    def get(self, what: str, **query: str | int) -> Any:
        """Return the answer to a question, as JSON; raise a ``RegistryError``."""
        return self._ask("GET", f"{what}?{urlencode(query)}", None)

    def send(self, method: str, what: str, body: Mapping[str, Any]) -> Any:
        """Have something changed, and return the answer as JSON; raise a ``RegistryError``."""
        return self._ask(method, what, json.dumps(body).encode())

    def _ask(self, method: str, what: str, body: bytes | None) -> Any:
        url = self.address.url + _API + what
        request = urllib.request.Request(url, body, {"User-Agent": "mlsync"}, method=method)  # noqa: S310 - checked
        if body is not None:
            request.add_header("Content-Type", "application/json")
        for name, value in _credentials(self.address).items():
            request.add_unredirected_header(name, value)
        try:
            with self._opener.open(request, timeout=self._timeout_s) as answer:
                return self._judge(answer.status, self._read(answer), answer.headers)
        except urllib.error.HTTPError as error:
            with error:
                return self._judge(error.code, self._read(error), error.headers)
        except urllib.error.URLError as error:
            raise self._away(error.reason) from None
        except (OSError, HTTPException) as error:
            raise self._away(error) from None

    def _read(self, answer: Any) -> bytes:
        """Return the body of an answer, in time and of a size that any of MLflow's has."""
        until_s = time.monotonic() + 2 * self._timeout_s
        body = bytearray()
        while piece := answer.read1(_PIECE_BYTES):
            body += piece
            if len(body) > _BODY_BYTES_MAX:
                raise RegistryRefused("the answer is larger than any of MLflow", where=self.address.url)
            if time.monotonic() > until_s:
                raise RegistryAway("the answer comes too slowly", where=self.address.url)
        return bytes(body)

    def _judge(self, status: int, body: bytes, headers: Message) -> Any:
        """Return the JSON of an answer that says yes; raise what its refusal means."""
        where = self.address.url
        if status in _REDIRECTS:
            to = urlsplit(headers.get("Location", ""))
            named = f" to {to.scheme}://{to.hostname}" if to.hostname else ""
            what = f"the server sends requests elsewhere{named}, where no credentials go"
            raise RegistryRefused(
                what, where=where, advice="give that address as the tracking URI, if it is the right one"
            )
        try:
            said = json.loads(body)
        except (ValueError, RecursionError):
            said = None
        if status == _OK and isinstance(said, dict):
            return said
        code, text = _said(said)
        if status in _DENIED:
            raise RegistryDenied(_denied(status, self.address), where=where)
        if status in _PASSING:
            raise RegistryAway(f"MLflow answers with status {status}{text}", where=where)
        if code == "RESOURCE_DOES_NOT_EXIST" or (status == _NOT_THERE and code):
            missing = RegistryRefused(f"MLflow has no such thing{text}", where=where)
            missing.is_missing = True
            raise missing
        if not code:
            what = f"the answer is none of MLflow: status {status}"
            advice = "check the tracking URI: it ends before /api, and a proxy's sign-in page is no server"
            raise RegistryRefused(what, where=where, advice=advice)
        raise RegistryRefused(f"MLflow refuses ({code}){text}", where=where, advice=_advice(text))

    def _away(self, why: object) -> RegistryError:
        if isinstance(why, ssl.SSLCertVerificationError):
            what = f"the server's certificate is not trusted: {why.verify_message}"
            advice = "name its authority: ca_file under [mlflow], or MLFLOW_TRACKING_SERVER_CERT_PATH"
            return RegistryRefused(what, where=self.address.url, advice=advice)
        said = getattr(why, "strerror", None) or str(why) or type(why).__name__
        said = f"no answer within {self._timeout_s:g} s" if isinstance(why, TimeoutError) else said
        return RegistryAway(f"MLflow is not reached: {_plain(said)}", where=self.address.url)


def _context(address: Tracking) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=None if address.ca_file is None else str(address.ca_file))
        if address.client_file is not None:
            context.load_cert_chain(str(address.client_file))
    except (OSError, ssl.SSLError) as error:
        where = str(address.ca_file or address.client_file)
        said = getattr(error, "strerror", None) or type(error).__name__
        raise ConfigInvalid(f"a certificate for MLflow cannot be used: {said}", where=where) from None
    if address.is_unchecked:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _credentials(address: Tracking) -> dict[str, str]:
    if address.user:
        pair = base64.b64encode(f"{address.user}:{address.password}".encode()).decode()
        return {"Authorization": f"Basic {pair}"}
    # Text as it is: a header takes no other characters than those of Latin 1.
    token = address.token.encode().decode("latin-1")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _denied(status: int, address: Tracking) -> str:
    if not address.has_credentials:
        return f"MLflow wants to know who asks (status {status}), and there are no credentials"
    if status == 401:  # noqa: PLR2004 - of HTTP: who asks is not known
        return f"MLflow does not accept {'the user and password' if address.user else 'the token'}"
    return f"MLflow knows who asks, and does not allow it to {'this user' if address.user else 'this token'}"


def _said(said: object) -> tuple[str, str]:
    """Return the code in a refusal, and its text to add to a message."""
    if not isinstance(said, dict) or not isinstance(said.get("error_code"), str):
        return "", ""
    text = said.get("message")
    return _plain(said["error_code"])[:80], f": {_plain(text)}" if isinstance(text, str) and text else ""


def _plain(text: str) -> str:
    """Return what a server said as one line of bounded length."""
    line = " ".join("".join(one if one.isprintable() else " " for one in text[: 4 * _SAID_CHARS_MAX]).split())
    return line if len(line) <= _SAID_CHARS_MAX else line[: _SAID_CHARS_MAX - 1] + "…"


def _advice(said: str) -> str | None:
    """Return what helps against refusals that are known."""
    if "scheme" in said or "source" in said.lower():
        return "this server takes no sources such as mlsync's; docs/mlflow.md names what its administrator can allow"
    return None
