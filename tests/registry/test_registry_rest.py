"""Requests to an MLflow server: what its refusals mean, what is bounded, and that nobody else gets the credentials."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from mlsync.errors import ConfigInvalid, RegistryAway, RegistryDenied, RegistryRefused
from mlsync.registry import rest as rest_module
from mlsync.registry.address import Given, Tracking, address_of, checked_url
from mlsync.registry.mlflow import Registry
from mlsync.registry.names import refuse_alias, refuse_model, tag
from mlsync.registry.rest import Rest
from mlsync.registry.source import ModelSource

DIGEST = bytes(range(32))
SECRET = "s3cret-token-of-mlflow"


def registry(url: str, **more) -> Registry:
    """The registry at a URL."""
    return Registry(Rest(Tracking(url, **more), timeout_s=0.5), sleep=lambda _seconds: None)


def make(found: Registry, source: str = "mlsync:///yolo/1?id=0", digest: bytes = DIGEST):
    """A version of the model yolo."""
    found.make_model("yolo")
    return found.create("yolo", source, {"mlsync.manifest": digest.hex()})


def test_a_model_is_made_once(mlflow):
    """A model that is there is no error."""
    found = registry(mlflow.url)
    assert [found.has_model("yolo"), found.make_model("yolo"), found.make_model("yolo"), found.has_model("yolo")] == [
        *(False, True, False, True)
    ]


def test_a_version_is_found_by_its_tag_and_its_source(mlflow):
    """One with our tag and another source is somebody else's, and of two the newest counts."""
    found = registry(mlflow.url)
    make(found), make(found), make(found, "mlsync:///evil/1?id=0")
    assert found.find("yolo", "mlsync:///yolo/1?id=0", "mlsync.manifest", DIGEST).number == 2
    assert found.find("yolo", "mlsync:///yolo/2?id=0", "mlsync.manifest", DIGEST) is None
    assert found.find("other", "mlsync:///yolo/1?id=0", "mlsync.manifest", DIGEST) is None


def test_a_version_is_awaited(mlflow):
    """One that is not ready yet is asked for again; one that never is counts as a fault of the server."""
    found = registry(mlflow.url)
    mlflow.pending = 3
    assert found.await_ready(make(found)).status == "READY"
    mlflow.pending = 10**6
    clock = iter(range(0, 1000, 10))
    with pytest.raises(RegistryAway, match="not ready yet"):
        Registry(found.rest, lambda _seconds: None, lambda: next(clock)).await_ready(make(found))


def test_what_is_deleted_is_not_there(mlflow):
    """A version that was deleted is no error for who asks for it or deletes it."""
    found = registry(mlflow.url)
    make(found)
    assert [found.delete("yolo", 1), found.delete("yolo", 1), found.get("yolo", 1)] == [True, False, None]


@pytest.mark.parametrize(
    ("instead", "kind", "said"),
    [
        ((503, {}, b"busy"), RegistryAway, "status 503"),
        ((200, {}, b"<html>sign in</html>"), RegistryRefused, "none of MLflow: status 200"),
        ((200, {}, b"[" * 100_000), RegistryRefused, "none of MLflow"),
        ((200, {}, b'{"model_version": {"name": "x", "version": "-1"}}'), RegistryRefused, "none of MLflow's registry"),
        ((200, {}, b'{"model_version": []}'), RegistryRefused, "none of MLflow's registry"),
        ((404, {}, b"not found"), RegistryRefused, "status 404"),
        (
            (302, {"Location": "http://user:pass@elsewhere.example/x?t=1"}, b""),
            RegistryRefused,
            "http://elsewhere.example",
        ),
        ((400, {}, b'{"error_code": "X", "message": "a\\u001b[31m\\nb"}'), RegistryRefused, r"\(X\): a \[31m b"),
        ((400, {}, b'{"error_code": "X", "message": ' + b'"' + b"y" * 10_000 + b'"}'), RegistryRefused, "y…"),
    ],
)
def test_an_answer_that_is_none_is_told(mlflow, instead, kind, said):
    """A fault that may pass is told from a refusal, and what a stranger says is one short line."""
    mlflow.instead = instead
    with pytest.raises(kind, match=said) as caught:
        registry(mlflow.url).get("yolo", 1)
    assert len(str(caught.value)) < 900
    assert "pass@" not in str(caught.value)
    assert str(caught.value).isprintable()


def test_an_answer_without_end_is_not_read(mlflow, monkeypatch):
    """More than any answer of MLflow has is refused."""
    monkeypatch.setattr(rest_module, "_BODY_BYTES_MAX", 1000)
    mlflow.instead = 200, {}, b" " * 100_000
    with pytest.raises(RegistryRefused, match="larger than any"):
        registry(mlflow.url).get("yolo", 1)


def test_a_server_that_is_silent_is_away(mlflow):
    """After the time-out the server counts as away, as does one that is not there."""
    held = threading.Event()
    mlflow.before = lambda _method, _what: held.wait(5)
    with pytest.raises(RegistryAway, match=r"no answer within 0\.5 s"):
        registry(mlflow.url).get("yolo", 1)
    held.set()
    with pytest.raises(RegistryAway, match="Connection refused"):
        registry("http://127.0.0.1:1").get("yolo", 1)


@pytest.mark.parametrize("credentials", [{"token": SECRET}, {"user": "me", "password": SECRET}])
def test_credentials_are_sent_and_never_said(mlflow, credentials):
    """The server gets them with each request; a refusal does not repeat them, and says which were wrong."""
    if "token" in credentials:
        mlflow.token = SECRET
    else:
        mlflow.login = "me", SECRET
    assert registry(mlflow.url, **credentials).make_model("yolo")
    wrong = {name: value + "x" for name, value in credentials.items()}
    with pytest.raises(RegistryDenied) as caught:
        registry(mlflow.url, **wrong).make_model("yolo")
    assert SECRET not in str(caught.value) + repr(Tracking(mlflow.url, **wrong))
    assert "token" in caught.value.what or "user and password" in caught.value.what
    with pytest.raises(RegistryDenied, match="there are no credentials"):
        registry(mlflow.url).make_model("yolo")
    mlflow.may_write = False
    with pytest.raises(RegistryDenied, match="does not allow it to this"):
        registry(mlflow.url, **credentials).make_model("yolo2")


def test_credentials_do_not_follow_a_redirect(mlflow):
    """A server that sends elsewhere gets an error, and elsewhere gets nothing."""
    from fake_mlflow import FakeMlflow

    other = FakeMlflow()
    mlflow.instead = 307, {"Location": f"{other.url}/api/2.0/mlflow/registered-models/create"}, b""
    with pytest.raises(RegistryRefused, match="elsewhere"):
        registry(mlflow.url, token=SECRET).make_model("yolo")
    other.stop()
    assert other.asked == []


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("databricks", "keeps models itself"),
        ("databricks-uc://x", "keeps models itself"),
        ("https://adb-1.2.azuredatabricks.net", "keeps models itself"),
        ("sqlite:///m.db", "mlflow server"),
        ("/srv/mlruns", "mlflow server"),
        ("http://", "no URL"),
        ("http://h:99999", "no URL"),
        ("http://h/ x", "no URL"),
        ("http://h/?a=1", "query"),
        ("https://" + "x" * 600, "no URL"),
    ],
)
def test_what_is_no_server_is_refused(url, said):
    """What names no MLflow server is refused before anything is sent."""
    with pytest.raises(ConfigInvalid, match=said):
        checked_url(url)


def test_the_environment_is_read_as_mlflows_client_reads_it():
    """User and password count before a token, and what the configuration says counts before both."""
    environ = {
        "MLFLOW_TRACKING_URI": "https://one:two@mlflow.example/base/",
        "MLFLOW_TRACKING_TOKEN": "token",
        "MLFLOW_TRACKING_SERVER_CERT_PATH": "/ca.pem",
    }
    found = address_of(Given(), environ)
    assert (found.url, found.user, found.password, found.token) == ("https://mlflow.example/base", "one", "two", "")
    assert found.ca_file == Path("/ca.pem")
    environ["MLFLOW_TRACKING_URI"] = "https://mlflow.example"
    assert address_of(Given(), environ).token == "token"
    environ |= {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "word"}
    assert (address_of(Given(), environ).user, address_of(Given(), environ).token) == ("me", "")
    assert address_of(Given(token="own"), environ).token == "own"
    with pytest.raises(ConfigInvalid, match="holds credentials"):
        address_of(Given("https://me:word@h"), {})
    with pytest.raises(ConfigInvalid, match="no MLflow server"):
        address_of(Given(), {})
    with pytest.raises(ConfigInvalid, match="INSECURE_TLS"):
        address_of(Given(), environ | {"MLFLOW_TRACKING_INSECURE_TLS": "true"})


@pytest.mark.parametrize("name", ["a/b", "a:b", "", " ", "a\nb", "x" * 300])
def test_names_of_models_that_mlflow_refuses_are_refused(name):
    """Before anything is sent, with our words."""
    with pytest.raises(ConfigInvalid):
        refuse_model(name)


@pytest.mark.parametrize("alias", ["latest", "Latest", "v1", "V22", "a b", "a/b", "", "é", "x" * 300])
def test_aliases_that_mlflow_keeps_are_refused(alias):
    """The reserved ones, and those with other characters."""
    with pytest.raises(ConfigInvalid):
        refuse_alias(alias)


def test_names_that_mlflow_takes_are_taken():
    """Blanks and letters of any script in models; letters, digits and dashes in aliases."""
    refuse_model("模型 1")
    for alias in ("champion", "a-b_1", "version1", "1"):
        refuse_alias(alias)
    assert tag("a b=c=d") == ("a b", "c=d")


@pytest.mark.parametrize("text", ["a", "=x", "mlsync.run=x", "MLflow.user=x", "a$b=x", "k=" + "x" * 6000])
def test_tags_that_mean_something_else_are_refused(text):
    """A tag has a key of allowed characters, which is not mlsync's or MLflow's own."""
    with pytest.raises(ConfigInvalid):
        tag(text)


@pytest.mark.parametrize("path", [b"", b"weights/best.pt", b"a b/%2f#?\xff", "é/模".encode()])
def test_a_source_is_found_again(path):
    """What a source says is what it was made of, whatever the names."""
    source = ModelSource("run 1", 7, path, "s3://bucket/runs", "ab" * 16, "cd" * 32)
    assert ModelSource.parse(source.uri) == source
    assert source.uri.isascii()


@pytest.mark.parametrize(
    "uri",
    [
        *("", "mlsync:///a", "mlsync:///a/0?repository=r&id=" + "a" * 32 + "&manifest=" + "b" * 64, "s3://b/1"),
        "mlsync://host/a/1?repository=r&id=" + "a" * 32 + "&manifest=" + "b" * 64,
        "mlsync:///a/1/../../x?repository=r&id=" + "a" * 32 + "&manifest=x",
        "mlsync:///%ff/1?repository=r&id=" + "a" * 32 + "&manifest=" + "b" * 64,
        "mlsync:///a/1//b?repository=r&id=" + "a" * 32 + "&manifest=" + "b" * 64,
    ],
)
def test_a_source_that_is_none_is_refused(uri):
    """Whoever may write to the registry may write any source there."""
    with pytest.raises(ConfigInvalid, match="no source"):
        ModelSource.parse(uri)


def test_a_source_that_mlflow_would_cut_is_refused():
    """Databases keep 500 characters of it; and a URL with credentials is no place to show."""
    with pytest.raises(ConfigInvalid, match="keeps 500"):
        _ = ModelSource("run", 7, b"x" * 500, "s3://b", "ab" * 16, "cd" * 32).uri
    with pytest.raises(ConfigInvalid, match="credentials"):
        _ = ModelSource("run", 7, b"x", "s3://key:secret@b", "ab" * 16, "cd" * 32).uri
