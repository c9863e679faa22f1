"""How each service is spoken to: the request for some events, and what its answer means.

WeCom and DingTalk say what went wrong in an answer with status 200, and Feishu often does: the status alone says
nothing.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote, quote_plus, urlsplit

from mlsync.tell.event import NoticeEvent, clean
from mlsync.tell.letter import Letter, Receipt
from mlsync.tell.texts import markdown, message, plain, title

_OK, _REDIRECTS, _TOO_MANY, _SUCCESSES = 200, range(300, 400), 429, range(200, 300)
# What a bot's token or key may look like when it stands alone.
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{8,200}")
_NATIVE: Final[Mapping[str, str]] = {
    "wecom": "https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=",
    "dingtalk": "https://oapi.dingtalk.com/robot/send?access_token=",
    "feishu": "https://open.feishu.cn/open-apis/bot/v2/hook/",
}
_LIMIT_BYTES: Final[Mapping[str, int]] = {"wecom": 2048, "dingtalk": 18_000, "feishu": 16_000, "slack": 8000}
# DingTalk shuts a bot that said too much out for ten minutes; the others count by the minute.
_RATE_CODES: Final[Mapping[str, Mapping[int, float]]] = {
    "wecom": {45009: 60.0, 45033: 60.0},
    "dingtalk": {130101: 600.0, 130103: 600.0},
    "feishu": {11232: 60.0, 99991400: 60.0},
}
_WAIT_S_MAX: Final = 3600.0
_COLORS: Final = {"info": "green", "warning": "orange", "error": "red"}
_JSON: Final = "application/json; charset=utf-8"


class AddressWrong(Exception):
    """What is configured is no address of such a service; the text holds nothing of it."""


@dataclass(frozen=True, slots=True)
class Post:
    """What is posted."""

    url: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def request_of(letter: Letter, now_s: float) -> Post:
    """Return the request that tells the letter's events; raise ``AddressWrong`` if its address is none."""
    return _MAKERS[letter.channel](letter, _address(letter), now_s)


def judge(channel: str, status: int, body: bytes, headers: Mapping[str, str]) -> Receipt:
    """Return what a service's answer means."""
    if status in _REDIRECTS:
        return Receipt(is_taken=False, said=f"status {status}: redirects are not followed; give the address itself")
    if status not in _SUCCESSES:
        asked = headers.get("retry-after", "")
        wait_s = min(float(asked), _WAIT_S_MAX) if asked.isascii() and asked.isdigit() and len(asked) < 8 else 0.0  # noqa: PLR2004
        if status == _TOO_MANY:
            wait_s = max(wait_s, 60.0)
        return Receipt(is_taken=False, said=_said(f"status {status}", body), wait_s=wait_s)
    return _JUDGES.get(channel, _by_status)(channel, status, body)


# ------------------------------------------------------------ addresses


def _address(letter: Letter) -> str:
    url = letter.url.strip()
    if letter.channel in _NATIVE and _TOKEN.fullmatch(url):
        return _NATIVE[letter.channel] + url
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_address = False
    if not is_address or not url.isascii() or not url.isprintable() or " " in url:
        raise AddressWrong("its address is no URL with http or https")
    return url


# ------------------------------------------------------------ requests


def _wecom(letter: Letter, url: str, _now_s: float) -> Post:
    text = message(letter.events, letter.language, markdown, _LIMIT_BYTES["wecom"])
    return _json(url, {"msgtype": "markdown", "markdown": {"content": text}})


def _dingtalk(letter: Letter, url: str, now_s: float) -> Post:
    # Its Markdown joins lines unless there is an empty one between them.
    text = message(letter.events, letter.language, _apart, _LIMIT_BYTES["dingtalk"])
    if letter.secret:
        stamp = str(round(now_s * 1000))
        sign = quote_plus(base64.b64encode(_hmac(letter.secret, f"{stamp}\n{letter.secret}")))
        url += ("&" if "?" in url else "?") + f"timestamp={stamp}&sign={sign}"
    return _json(url, {"msgtype": "markdown", "markdown": {"title": _headline(letter), "text": text}})


def _apart(event: NoticeEvent, language: str) -> str:
    return markdown(event, language).replace("\n", "\n\n")


def _feishu(letter: Letter, url: str, now_s: float) -> Post:
    text = message(letter.events, letter.language, markdown, _LIMIT_BYTES["feishu"])
    head = {
        "title": {"tag": "plain_text", "content": _headline(letter)},
        "template": _COLORS[max((one.level for one in letter.events), key=list(_COLORS).index)],
    }
    content: dict[str, Any] = {
        "msg_type": "interactive",
        "card": {"header": head, "elements": [{"tag": "markdown", "content": text}]},
    }
    if letter.secret:
        stamp = str(round(now_s))
        # Here the text to sign is the key, and nothing is signed.
        sign = base64.b64encode(_hmac(f"{stamp}\n{letter.secret}", "")).decode()
        content |= {"timestamp": stamp, "sign": sign}
    return _json(url, content)


def _slack(letter: Letter, url: str, _now_s: float) -> Post:
    text = message(letter.events, letter.language, plain, _LIMIT_BYTES["slack"])
    return _json(url, {"text": text.replace("&", "&amp;")})


def _webhook(letter: Letter, url: str, now_s: float) -> Post:
    events = [cloud_event(event, letter.language) for event in letter.events]
    body = json.dumps(events[0] if len(events) == 1 else events, ensure_ascii=False).encode()
    kind = "cloudevents" if len(events) == 1 else "cloudevents-batch"
    headers = {"Content-Type": f"application/{kind}+json; charset=utf-8"}
    if letter.secret:
        stamp = str(round(now_s))
        mark = hmac.new(letter.secret.encode(), stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
        headers |= {"Mlsync-Timestamp": stamp, "Mlsync-Signature": f"v1={mark}"}
    return Post(url, body, headers)


def cloud_event(event: NoticeEvent, language: str) -> dict[str, Any]:
    """Return an event in the form of CloudEvents 1.0."""
    at = datetime.fromtimestamp(event.at_s, UTC).isoformat().replace("+00:00", "Z")
    shown: dict[str, Any] = {
        "specversion": "1.0",
        "id": event.id,
        "source": "urn:mlsync:" + quote(f"{event.host}:{event.run}" if event.run else event.host, safe=":"),
        "type": f"mlsync.{event.kind}" + (".over" if event.is_over else ""),
        "time": at,
        "datacontenttype": "application/json",
        "data": event.as_json() | {"title": title(event, language)},
    }
    if event.version is not None:
        shown["subject"] = f"{event.run}/{event.version}"
    return shown


def _headline(letter: Letter) -> str:
    first = title(letter.events[0], letter.language)
    return first if len(letter.events) == 1 else f"{first} (+{len(letter.events) - 1})"


def _json(url: str, content: Mapping[str, Any]) -> Post:
    return Post(url, json.dumps(content, ensure_ascii=False).encode("utf-8", "replace"), {"Content-Type": _JSON})


def _hmac(key: str, text: str) -> bytes:
    return hmac.new(key.encode(), text.encode(), hashlib.sha256).digest()


_MAKERS: Final[Mapping[str, Callable[[Letter, str, float], Post]]] = {
    "wecom": _wecom,
    "dingtalk": _dingtalk,
    "feishu": _feishu,
    "slack": _slack,
    "webhook": _webhook,
}


# ------------------------------------------------------------ answers


def _by_code(channel: str, _status: int, body: bytes) -> Receipt:
    """Judge by the code that the service puts into its answer: 0 is the only one that means success."""
    value = _parsed(body)
    names = ("errcode",) if channel in ("wecom", "dingtalk") else ("code", "StatusCode")
    code = next((value[name] for name in names if name in value), None)
    if not isinstance(code, int) or isinstance(code, bool):
        return Receipt(is_taken=False, said="an answer that is none of this service: no code in it")
    why = next((value[name] for name in ("errmsg", "msg", "StatusMessage") if isinstance(value.get(name), str)), "")
    said = clean(f"{names[0]} {code}" + (f": {why}" if why else ""))
    return Receipt(is_taken=code == 0, said=said, wait_s=_RATE_CODES[channel].get(code, 0.0))


def _as_slack(_channel: str, status: int, body: bytes) -> Receipt:
    """Judge by what Slack and those that imitate it say: ``ok``, nothing, or JSON that does not say otherwise."""
    value = _parsed(body)
    is_refused = value.get("ok") is False or value.get("success") is False or "error" in value
    text = body.strip()
    is_taken = not is_refused and (bool(value) or text in (b"", b"ok"))
    return Receipt(is_taken, _said(f"status {status}", body))


def _by_status(_channel: str, status: int, _body: bytes) -> Receipt:
    return Receipt(is_taken=True, said=f"status {status}")


_JUDGES: Final[Mapping[str, Callable[[str, int, bytes], Receipt]]] = {
    "wecom": _by_code,
    "dingtalk": _by_code,
    "feishu": _by_code,
    "slack": _as_slack,
}


def _parsed(body: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _said(what: str, body: bytes) -> str:
    """Return what a service answered, where it is a short text and no page."""
    value = _parsed(body)
    told: Sequence[object] = [value.get(name) for name in ("error", "errmsg", "msg", "message")]
    text = next((one for one in told if isinstance(one, str)), body.decode("utf-8", "replace") if not value else "")
    text = text.strip()
    return what if not text or text.startswith("<") else clean(f"{what}: {text}")
