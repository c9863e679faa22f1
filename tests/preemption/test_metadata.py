"""One request to a metadata service, against servers that answer well, badly, slowly and not at all."""

from __future__ import annotations

import pytest

from cloud_service import CloudService, http
from mlsync.errors import ConfigInvalid
from mlsync.preemption.metadata import Answer, Endpoint, MetadataFault, NoAnswer, ask


@pytest.fixture
def cloud():
    """A service that gives up its clients after a moment."""
    service = CloudService(timeout_s=0.2)
    yield service
    service.close()


def test_an_answer_has_status_headers_and_body(cloud):
    """What comes back is whole, whatever its status, and the request carries the headers that were given."""
    cloud.answers["/a"] = http("FALSE\n", 404, ETag="12ab")
    answer = ask(cloud.endpoint, "/a?b=c", {"Metadata": "true"})
    assert (answer.status, answer.text, answer.headers["etag"]) == (404, "FALSE", "12ab")
    request = cloud.requests[0]
    assert (request.method, request.target, request.headers["metadata"]) == ("GET", "/a?b=c", "true")


def test_proxies_of_the_environment_are_not_asked(cloud, monkeypatch):
    """A proxy would answer for its own machine, if at all."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    cloud.answers["/"] = http("here")
    assert ask(cloud.endpoint, "/", {}).text == "here"


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\nabcde",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcdefgh",
    ],
    ids=["chunked", "until the end", "by length"],
)
def test_bodies_come_in_three_ways(cloud, raw):
    """Chunks, a length, or all that comes until the connection ends."""
    cloud.answers["/"] = raw
    assert ask(cloud.endpoint, "/", {}).body == b"abcde"


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "cut short"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", "cut short"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "no HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * (1 << 17), "too long a head"),
        (http(b"", Content_Length=1 << 40), "too long"),
        (http(b"", Content_Length="-5"), "too long"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (1 << 18), "too long"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFF\r\n", "too long"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "chunks"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "cut short"),
    ],
)
def test_what_is_no_answer_is_a_fault(cloud, raw, said):
    """Cut, endless, huge and foreign answers end with a fault that says which, and with bounded memory."""
    cloud.answers["/"] = raw
    with pytest.raises(MetadataFault, match=said):
        ask(cloud.endpoint, "/", {})


@pytest.mark.parametrize("how", ["hang", "drip"])
def test_a_service_that_takes_its_time_is_given_up(cloud, how):
    """The time-out is for the whole answer: neither silence nor slow drops make it longer."""
    cloud.answers["/"] = getattr(cloud, how)
    with pytest.raises(NoAnswer, match=r"no answer within 0\.2 s"):
        ask(cloud.endpoint, "/", {})


def test_nobody_there_is_no_answer(cloud):
    """A refused connection is the same fault."""
    cloud.close()
    with pytest.raises(NoAnswer):
        ask(Endpoint("127.0.0.1", cloud.port, 0.2), "/", {})


def test_a_redirect_is_not_followed(cloud):
    """It comes back as what it is: the token must not go elsewhere."""
    cloud.answers["/"] = http(b"", 302, Location="http://192.0.2.1/")
    assert ask(cloud.endpoint, "/", {}).status == 302
    assert cloud.asked == ["/"]


@pytest.mark.parametrize("body", [b"a\r\nX-Other: 1", b"", b"x" * 5000, "ключ".encode(), b"a b"])
def test_a_token_that_could_forge_a_header_is_none(body):
    """A token is a word of printable characters, and its text is not in the fault."""
    with pytest.raises(MetadataFault) as fault:
        Answer(200, {}, body).token()
    assert str(fault.value) == "no token, but status 200"


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[" * 100_000])
def test_json_that_does_not_parse_is_a_fault(body):
    """So are bytes that are no text, and nesting without end."""
    with pytest.raises(MetadataFault, match="no JSON"):
        Answer(200, {}, body).json()


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("http://127.0.0.1:8080", "127.0.0.1", 8080),
        ("http://[::1]:81/", "::1", 81),
        ("http://169.254.169.254", "169.254.169.254", 80),
    ],
)
def test_the_environment_may_name_a_service_on_this_machine(text, host, port):
    """For tests, an address of loopback or of the machine's own link takes the place of the cloud's."""
    assert Endpoint.overridden(Endpoint("1.2.3.4"), {"MLSYNC_METADATA_ENDPOINT": text}) == Endpoint(host, port)
    assert Endpoint.overridden(Endpoint("1.2.3.4"), {}) == Endpoint("1.2.3.4")


@pytest.mark.parametrize(
    "text",
    [
        "http://192.0.2.1",
        "http://8.8.8.8:80",
        "http://localhost:80",
        "https://127.0.0.1",
        "http://me@127.0.0.1",
        "http://127.0.0.1/path",
        "http://127.0.0.1:99999",
        "127.0.0.1",
        "http://[::ffff:8.8.8.8]",
    ],
)
def test_the_environment_may_not_name_another_machine(text):
    """A notice from elsewhere could stop proofs; a name could lead anywhere."""
    with pytest.raises(ConfigInvalid, match="MLSYNC_METADATA_ENDPOINT"):
        Endpoint.overridden(Endpoint("1.2.3.4"), {"MLSYNC_METADATA_ENDPOINT": text})
