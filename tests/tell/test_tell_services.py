"""Each service of notices against a server that answers as it does: what is posted, and which answers are believed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import sys
import types
from urllib.parse import parse_qs, urlsplit

import pytest

from bot_server import bot_server
from mlsync.tell.choices import CHANNELS
from mlsync.tell.event import NoticeEvent
from mlsync.tell.letter import Letter, send
from mlsync.tell.send import deliver
from mlsync.tell.services import request_of

BEST = NoticeEvent("best", "yolo", 7, {"path": "weights/best.pt", "fitness": 0.75}, at_s=1_800_000_000.0, host="gpu1")
KEY = "693a91f6-7xxx-4bc4-97a0-0ec2sifa5aaa"
SECRET = "SEC0123456789abcdef"


@pytest.fixture
def server():
    """A server that plays the services."""
    with bot_server() as serving:
        yield serving


def letter(channel, url, *events, secret="", language="en"):
    """A letter with one event, or those."""
    return Letter(channel, url, secret, language, events or (BEST,))


def test_wecom_gets_markdown_and_is_believed_by_its_code(server):
    """The body is WeCom's Markdown message; errcode 0 is success."""
    answer = deliver(letter("wecom", f"{server.url}/send?key={KEY}"))
    assert (answer.is_taken, answer.said) == (True, "errcode 0: ok")
    (path, headers, body), *_ = server.posts
    assert path == f"/send?key={KEY}"
    assert headers["Content-Type"].startswith("application/json")
    content = json.loads(body)
    assert content["msgtype"] == "markdown"
    assert content["markdown"]["content"].startswith("**✅ New best checkpoint · yolo/7**\n> file: weights/best.pt\n")


@pytest.mark.parametrize(
    ("channel", "answer", "said", "wait_s"),
    [
        ("wecom", b'{"errcode":45009,"errmsg":"api freq out of limit"}', "errcode 45009: api freq out of limit", 60),
        ("wecom", b'{"errcode":93000,"errmsg":"invalid webhook url"}', "errcode 93000: invalid webhook url", 0),
        ("dingtalk", b'{"errcode":310000,"errmsg":"sign not match"}', "errcode 310000: sign not match", 0),
        ("dingtalk", b'{"errcode":130101,"errmsg":"send too fast"}', "errcode 130101: send too fast", 600),
        ("feishu", b'{"code":19021,"msg":"sign match fail"}', "code 19021: sign match fail", 0),
        ("slack", b"invalid_payload", "status 200: invalid_payload", 0),
        ("slack", b'{"ok":false,"error":"channel_not_found"}', "status 200: channel_not_found", 0),
        ("wecom", b"<html>login first</html>", "an answer that is none of this service: no code in it", 0),
        ("wecom", b'{"errcode":true}', "an answer that is none of this service: no code in it", 0),
        ("dingtalk", b"[" * 9000, "an answer that is none of this service: no code in it", 0),
        ("feishu", b"\xff\x00" * 50_000, "an answer that is none of this service: no code in it", 0),
    ],
)
def test_an_error_in_an_answer_with_status_200_is_one(server, channel, answer, said, wait_s):
    """What the services say with status 200 is looked at, also where it is a page, deep, huge or no text."""
    server.answer = 200, {}, answer
    found = deliver(letter(channel, f"{server.url}/{KEY}"))
    assert (found.is_taken, found.said, found.wait_s, found.was_reached) == (False, said, wait_s, True)


@pytest.mark.parametrize(
    ("channel", "answer"),
    [("dingtalk", b'{"errcode":0}'), ("feishu", b'{"code":0}'), ("feishu", b'{"StatusCode":0}'), ("slack", b"ok")],
)
def test_what_each_service_says_of_success_is_believed(server, channel, answer):
    """Each word for success is one."""
    server.answer = 200, {}, answer
    assert deliver(letter(channel, f"{server.url}/{KEY}")).is_taken


def test_dingtalks_sign_is_the_keyed_hash_encoded_once(server):
    """The sign on the wire decodes at once to the base64 of HMAC-SHA256 over the time and the secret."""
    deliver(letter("dingtalk", f"{server.url}/robot/send?access_token={KEY}", secret=SECRET), now_s=1_800_000_000.5)
    raw = urlsplit(server.posts[0][0]).query
    stamp, sign = parse_qs(raw)["timestamp"][0], parse_qs(raw)["sign"][0]
    wanted = base64.b64encode(hmac.digest(SECRET.encode(), f"{stamp}\n{SECRET}".encode(), hashlib.sha256)).decode()
    assert (stamp, sign) == ("1800000000500", wanted)
    assert "%25" not in raw


def test_feishu_gets_a_card_with_its_kind_of_sign(server):
    """Feishu's sign is keyed with the time and the secret, over nothing."""
    deliver(letter("feishu", f"{server.url}/hook/{KEY}", secret=SECRET), now_s=1_800_000_000.0)
    content = json.loads(server.posts[0][2])
    wanted = base64.b64encode(hmac.digest(f"1800000000\n{SECRET}".encode(), b"", hashlib.sha256)).decode()
    assert (content["msg_type"], content["timestamp"], content["sign"]) == ("interactive", "1800000000", wanted)


def test_a_webhook_gets_cloud_events_with_a_signature(server):
    """One event is CloudEvents JSON, several are a batch; the signature is over the time and the body."""
    hook = letter("webhook", f"{server.url}/hook", secret=SECRET)
    assert deliver(hook, now_s=1_800_000_000.0).is_taken
    assert deliver(letter("webhook", f"{server.url}/hook", BEST, NoticeEvent("pruned"))).is_taken
    (_, headers, body), (_, others, batch) = server.posts
    mark = hmac.new(SECRET.encode(), b"1800000000." + body, hashlib.sha256).hexdigest()
    assert headers["Mlsync-Signature"] == f"v1={mark}"
    event = json.loads(body)
    assert {name: event[name] for name in ("specversion", "type", "subject", "time", "source")} == {
        "specversion": "1.0",
        "type": "mlsync.best",
        "subject": "yolo/7",
        "time": "2027-01-15T08:00:00Z",
        "source": "urn:mlsync:gpu1:yolo",
    }
    assert headers["Content-Type"].startswith("application/cloudevents+json")
    assert others["Content-Type"].startswith("application/cloudevents-batch+json")
    assert "Mlsync-Signature" not in others
    assert [one["type"] for one in json.loads(batch)] == ["mlsync.best", "mlsync.pruned"]


def test_redirects_are_not_followed_and_statuses_are_failures(server):
    """A redirect to another place gets nothing; 429 says how long to wait."""
    server.answer = 302, {"Location": f"{server.url}/elsewhere"}, b""
    found = deliver(letter("webhook", f"{server.url}/hook"))
    assert (found.is_taken, found.said) == (
        False,
        "status 302: redirects are not followed; give the address itself",
    )
    server.answer = 429, {"Retry-After": "120"}, b"<html>slow down</html>"
    found = deliver(letter("slack", f"{server.url}/hook"))
    assert (found.is_taken, found.said, found.wait_s) == (False, "status 429", 120)
    server.answer = 404, {"Retry-After": "1" * 30}, b'{"error":"no_team"}'
    assert deliver(letter("slack", f"{server.url}/hook")).said == "status 404: no_team"
    assert [path for path, _, _ in server.posts] == ["/hook"] * 3


def test_a_service_that_does_not_answer_is_not_waited_for(server):
    """One that takes the request and is silent, and one that is not there, are told apart from one that refuses."""
    server.hold.clear()
    found = deliver(letter("webhook", f"{server.url}/hook"), timeout_s=0.05)
    assert (found.is_taken, found.was_reached) == (False, False)
    found = deliver(letter("webhook", "http://127.0.0.1:1/hook"))
    assert (found.said, found.was_reached) == ("not reached: Connection refused", False)


@pytest.mark.parametrize("channel", CHANNELS)
@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "http://[token-token", "http://a b/token-token", "", "http:///x"]
)
def test_nonsense_is_refused_without_a_word_of_it(channel, url):
    """What is no address is not asked, and what is said repeats nothing of it."""
    found = deliver(letter(channel, url, secret=SECRET))
    assert (found.is_taken, found.was_reached) == (False, False)
    assert "token" not in found.said
    assert "passwd" not in found.said


def test_what_a_service_repeats_of_the_secrets_is_not_said(server):
    """A token, an address and a signing secret in the answer are left out of what is said."""
    echoed = f"no bot {KEY} at {server.url}/send?key={KEY} with {SECRET}"
    server.answer = 200, {}, json.dumps({"errcode": 93000, "errmsg": echoed}).encode()
    said = deliver(letter("wecom", f"{server.url}/send?key={KEY}", secret=SECRET)).said
    assert said == "errcode 93000: no bot … at … with …"


def test_a_bare_key_becomes_the_services_own_address():
    """The key of a bot alone is enough; what is no key is refused."""
    assert request_of(letter("wecom", KEY), 0).url == f"https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key={KEY}"
    assert request_of(letter("dingtalk", "a" * 64), 0).url.startswith(
        "https://oapi.dingtalk.com/robot/send?access_token=aa"
    )


def test_a_letter_is_sent_by_a_process_that_gets_its_secrets_on_stdin(server):
    """The process answers as the service did; one that hangs is ended, and one that talks nonsense has failed."""
    answer = send(letter("wecom", f"{server.url}/send?key={KEY}"))
    assert (answer.is_taken, answer.said) == (True, "errcode 0: ok")
    answer = send(letter("wecom", KEY), timeout_s=0.05, command=["sleep", "10"])
    assert (answer.is_taken, answer.was_reached) == (False, False)
    assert send(letter("wecom", KEY), command=["echo", "[]"]).said == "its process failed"
    assert KEY not in repr(letter("wecom", KEY, secret=SECRET))


def test_apprise_is_an_extra(monkeypatch):
    """Without the library the answer says how to get it; with it, its word is taken."""
    monkeypatch.setitem(sys.modules, "apprise", None)
    found = deliver(letter("apprise", "tgram://token-token/chat"))
    assert found.said == "apprise is not installed beside mlsync: pip install 'mlsync[apprise]'"
    sent = []

    class Apprise:
        def add(self, url):
            """Know one scheme."""
            return url.startswith("tgram://")

        def notify(self, **message):
            """Note the message."""
            sent.append(message)
            return len(sent) < 2

    monkeypatch.setitem(sys.modules, "apprise", types.SimpleNamespace(Apprise=Apprise))
    answers = [deliver(letter("apprise", url)) for url in ("tgram://a/b", "tgram://a/b", "odd://a")]
    assert [(one.is_taken, one.was_reached) for one in answers] == [(True, True), (False, False), (False, False)]
    assert sent[0]["title"] == "✅ New best checkpoint · yolo/7"
