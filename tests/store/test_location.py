"""Which URLs name a store, and what the errors for other URLs say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlsync import errors
from mlsync.store.location import StoreOptions, open_store

NO_OPTIONS = StoreOptions()


@pytest.mark.parametrize("form", ["file://{}", "file://localhost{}", "{}", "{}/"])
def test_directory_is_named_by_url_or_path(tmp_path, form):
    """A file URL and a plain absolute path lead to the same directory."""
    store = open_store(form.format(tmp_path / "repository"), NO_OPTIONS, create=True)
    store.put("a", b"x")
    assert store.url == (tmp_path / "repository").as_uri()
    assert (tmp_path / "repository" / "a").read_bytes() == b"x"
    store.close()


def test_percent_signs_of_a_file_url_are_decoded_and_of_a_path_are_not(tmp_path):
    """%20 is a space in a URL and literal in a path, and the store's own URL opens it again."""
    by_url = open_store(f"file://{tmp_path}/a%20b", NO_OPTIONS, create=True)
    by_path = open_store(f"{tmp_path}/a%20b", NO_OPTIONS, create=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a b", "a%20b"]
    for store in (by_url, by_path):
        store.put("probe", store.url.encode())
        assert open_store(store.url, NO_OPTIONS).get("probe", limit_bytes=999) == store.url.encode()


def test_tilde_is_the_home(tmp_path):
    """A path may begin at the user's home."""
    store = open_store("~/repository", NO_OPTIONS, create=True)
    assert store.url == (Path(os.environ["HOME"]) / "repository").as_uri()
    store.close()


@pytest.mark.parametrize(
    "url",
    [
        "", "repository", "./repository", "file:repository", "file://host/path", "file:///a?b", "http://host/x",
        "sftp://host/x", "gs://bucket/x", "s3:", "s3://", "s3:///x", "s3:/bucket/x", "s3://b", "s3://buck et/x",
        "s3://bucket/a//b", "s3://bucket//a", "s3://bucket/../x", "s3://bucket/./x", "s3://bucket/x?y=1",
        "s3://bucket/a\\b", "s3://bucket/a\nb", "~nobody-of-that-name/x", "file:///a%00b",
    ],
)  # fmt: skip
def test_other_urls_are_refused_with_examples(url):
    """A URL that names no store raises StoreLocationInvalid with examples."""
    with pytest.raises(errors.StoreLocationInvalid) as caught:
        open_store(url, NO_OPTIONS)
    assert "s3://bucket/prefix" in str(caught.value)


def test_credentials_in_a_url_are_refused_and_not_repeated():
    """URL and endpoint must not contain a secret, and no message shows it."""
    for url, options in [
        ("s3://AKIAEXAMPLE:geheim@bucket/x", NO_OPTIONS),
        ("sftp://me:geheim@host/x", NO_OPTIONS),
        ("me:geheim@host:/x", NO_OPTIONS),
        ("s3://bucket/x", StoreOptions(endpoint_url="https://me:geheim@host")),
    ]:
        with pytest.raises(errors.StoreLocationInvalid) as caught:
            open_store(url, options)
        assert "geheim" not in str(caught.value)


@pytest.mark.parametrize("endpoint_url", ["localhost:9000", "ftp://host", "http://", "http://host:port", "http://[::1"])
def test_wrong_endpoint_is_refused(endpoint_url):
    """An endpoint that is not an http URL raises StoreLocationInvalid before any request."""
    with pytest.raises(errors.StoreLocationInvalid, match="endpoint"):
        open_store("s3://bucket/x", StoreOptions(endpoint_url=endpoint_url))


def test_unknown_profile_is_told():
    """An unknown profile raises StoreLocationInvalid with advice."""
    with pytest.raises(errors.StoreLocationInvalid, match="profile"):
        open_store("s3://bucket/x", StoreOptions(profile="nobody"))


def test_directory_needs_no_boto3(tmp_path):
    """Opening a directory does not import boto3, which would cost the idle agent 30 MB."""
    program = (
        "import sys; from mlsync.store.location import *; "
        f"open_store({str(tmp_path)!r}, StoreOptions()); "
        "sys.exit(any(name in sys.modules for name in ('boto3', 'botocore')))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", program], env=environment, check=False).returncode == 0
