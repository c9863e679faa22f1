"""Sends one letter: read from stdin, with the answer on stdout; a process, so that the agent loads no HTTP.

The address and the secret are in no argument, in no file and in nothing that is said.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.request
from email.message import Message
from typing import IO, Any, Final

from mlsync.courtesy.priority import stand_back
from mlsync.tell.event import clean
from mlsync.tell.letter import HEARTBEAT, Letter, Receipt, answer_as_json
from mlsync.tell.services import AddressWrong, Post, judge, request_of
from mlsync.tell.texts import message, plain, title

TIMEOUT_S: Final = 10.0
_BODY_BYTES_MAX: Final = 16 << 10
_LETTER_BYTES_MAX: Final = 1 << 20
_SECRET_CHARS_MIN: Final = 4
_APPRISE_BYTES_MAX: Final = 2048


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Leaves redirects alone: what is told and its signature are for the address that was given."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        """Follow none."""


def deliver(letter: Letter, *, now_s: float | None = None, timeout_s: float = TIMEOUT_S) -> Receipt:
    """Send a letter and return what became of it; never raises, and says nothing of its address and secret."""
    try:
        if letter.channel == HEARTBEAT:
            answer = _ask_for(letter.url, timeout_s)
        elif letter.channel == "apprise":
            answer = _by_apprise(letter)
        else:
            answer = _post(letter.channel, request_of(letter, time.time() if now_s is None else now_s), timeout_s)
    except AddressWrong as error:
        answer = Receipt(is_taken=False, said=str(error), was_reached=False)
    except Exception as error:  # noqa: BLE001 - whatever it is, its text may hold the address
        answer = Receipt(is_taken=False, said=type(error).__name__, was_reached=False)
    return Receipt(answer.is_taken, _without_secrets(answer.said, letter), answer.was_reached, answer.wait_s)


def _post(channel: str, request: Post, timeout_s: float) -> Receipt:
    asked = urllib.request.Request(request.url, request.body, dict(request.headers), method="POST")  # noqa: S310 - checked
    asked.add_header("User-Agent", "mlsync")
    try:
        with urllib.request.build_opener(_NoRedirects).open(asked, timeout=timeout_s) as answer:
            return judge(channel, answer.status, _read(answer), _lower(answer.headers))
    except urllib.error.HTTPError as error:
        with error:
            return judge(channel, error.code, _read(error), _lower(error.headers))
    except urllib.error.URLError as error:
        why = getattr(error.reason, "strerror", None) or type(error.reason).__name__
        return Receipt(is_taken=False, said=f"not reached: {why}", was_reached=False)
    except TimeoutError:
        return Receipt(is_taken=False, said=f"no answer within {timeout_s:g} s", was_reached=False)


def _ask_for(url: str, timeout_s: float) -> Receipt:
    """Request the URL of a heartbeat; a redirect is followed, since nothing is told by it."""
    if not url.startswith(("http://", "https://")):
        raise AddressWrong("it is no URL with http or https")
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:  # noqa: S310 - http or https, see above
            _read(answer)
    except urllib.error.HTTPError as error:
        with error:
            return Receipt(is_taken=False, said=f"the server answered with status {error.code}")
    except urllib.error.URLError as error:
        why = getattr(error.reason, "strerror", None) or type(error.reason).__name__
        return Receipt(is_taken=False, said=why, was_reached=False)
    return Receipt(is_taken=True, said="")


def _read(answer: Any) -> bytes:
    body: bytes = answer.read(_BODY_BYTES_MAX)
    return body


def _lower(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _by_apprise(letter: Letter) -> Receipt:
    """Send by the library of that name, which is an extra; it says only whether it believes that it went."""
    try:
        import apprise  # type: ignore[import-not-found,unused-ignore]  # late: an extra, of 15 MB
    except ImportError:
        said = "apprise is not installed beside mlsync: pip install 'mlsync[apprise]'"
        return Receipt(is_taken=False, said=said, was_reached=False)
    sender = apprise.Apprise()
    if not sender.add(letter.url):
        return Receipt(is_taken=False, said="its address is no URL that apprise knows", was_reached=False)
    body = message(letter.events, letter.language, plain, _APPRISE_BYTES_MAX)
    is_sent = bool(sender.notify(body=body, title=title(letter.events[0], letter.language)))
    return Receipt(
        is_sent, "apprise says that it went" if is_sent else "apprise says that it failed", was_reached=is_sent
    )


def _without_secrets(said: str, letter: Letter) -> str:
    """Return *said* without any part of the address or the secret, should the service have repeated one."""
    parts = [letter.secret, letter.url, *_words(letter.url)]
    for part in sorted((one for one in parts if len(one) >= _SECRET_CHARS_MIN), key=len, reverse=True):
        said = said.replace(part, "…")
    return clean(said)


def _words(url: str) -> list[str]:
    """Return the parts of an address that may be secret: what stands between its separators, the host left out."""
    rest = url.partition("://")[2].partition("/")[2] or (url if "://" not in url else "")
    for separator in "/?&=:@":
        rest = rest.replace(separator, " ")
    # Short words of an API's path are in every answer, and no token is that short.
    return [word for word in rest.split() if len(word) >= 8]  # noqa: PLR2004


def main() -> None:
    """Send what stdin holds."""
    letter = Letter.of_json(json.loads(sys.stdin.buffer.read(_LETTER_BYTES_MAX)))
    if letter.channel == HEARTBEAT:
        # After each proved version, and nobody waits for it. What it loads came first, or it would take too long.
        stand_back()
    sys.stdout.write(json.dumps(answer_as_json(deliver(letter))))


if __name__ == "__main__":
    main()
