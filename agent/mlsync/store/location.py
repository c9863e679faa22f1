"""Opens the store of a URL: the one place that knows which kinds of stores there are."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mlsync import errors
from mlsync.store.base import Store
from mlsync.store.directory.store import DirectoryStore
from mlsync.store.options import StoreOptions

__all__ = ["StoreOptions", "open_store"]

_EXAMPLES = "give file:///backups/training, /backups/training, or s3://bucket/prefix"
_NO_SECRETS = "give keys in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) or in a profile"
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
# The prefix's share of the 1024 bytes that an S3 key may have.
_PREFIX_BYTES_MAX = 500
# Some servers take a question mark for the beginning of a query, and a backslash for a slash.
_NOT_IN_PREFIX = frozenset("?\\")


def open_store(url: str, options: StoreOptions, *, create: bool = False, group: int | None = None) -> Store:
    """Return the store at *url*, which may also be an absolute path, without wrappers.

    With *create* it makes a missing directory, and gives it to *group* if there is one. Nothing is asked of a bucket.
    """
    if url.startswith("s3:"):
        return _open_s3(url, options)
    return DirectoryStore(_directory_of(url), create=create, group=group)


def _directory_of(url: str) -> Path:
    if url.startswith("file:"):
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
            raise errors.StoreLocationInvalid("not a file URL of this machine", where=_redacted(url), advice=_EXAMPLES)
        text = unquote(parts.path, errors="surrogateescape")
    elif url.startswith("~"):
        text = _without_tilde(url)
    else:
        text = url
    if not text.startswith("/") or "\0" in text:
        raise errors.StoreLocationInvalid("not the location of a repository", where=_redacted(url), advice=_EXAMPLES)
    return Path(text)


def _without_tilde(path: str) -> str:
    try:
        return str(Path(path).expanduser())
    except RuntimeError as error:
        raise errors.StoreLocationInvalid("no such user", where=path, advice=_EXAMPLES) from error


def _open_s3(url: str, options: StoreOptions) -> Store:
    bucket, prefix = bucket_and_prefix(url)
    _check_endpoint(options.endpoint_url)
    from mlsync.store.s3.store import S3Store

    return S3Store(bucket, prefix, options)


def bucket_and_prefix(url: str) -> tuple[str, str]:
    """Return the bucket of an S3 URL, and the prefix without slashes around it; raise ``StoreLocationInvalid``."""
    place = url.removeprefix("s3://")
    if "@" in place.partition("/")[0]:
        raise errors.StoreLocationInvalid("the URL contains credentials", where=_redacted(url), advice=_NO_SECRETS)
    bucket, _, prefix = place.partition("/")
    prefix = prefix.rstrip("/")
    if place == url or not _BUCKET.fullmatch(bucket):
        raise errors.StoreLocationInvalid("not a bucket and prefix", where=_redacted(url), advice=_EXAMPLES)
    fault = _fault_of_prefix(prefix)
    if fault is not None:
        raise errors.StoreLocationInvalid(fault, where=_redacted(url), advice=_EXAMPLES)
    return bucket, prefix


def _fault_of_prefix(prefix: str) -> str | None:
    """Return what is wrong with a prefix, or ``None``. The prefix is literal: ``%20`` is not a space."""
    for letter in prefix:
        if letter in _NOT_IN_PREFIX or not letter.isprintable():
            return f"the prefix may not contain the character {letter!r}"
    # Some servers resolve these like a file system.
    for part in prefix.split("/") if prefix else ():
        if part in ("", ".", ".."):
            return f"the prefix may not have the part {part!r}"
    if len(prefix.encode()) > _PREFIX_BYTES_MAX:
        return f"the prefix is longer than {_PREFIX_BYTES_MAX} bytes"
    return None


def _check_endpoint(endpoint_url: str | None) -> None:
    if endpoint_url is None:
        return
    try:
        parts = urlsplit(endpoint_url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is not a number, brackets around no address
        is_url = False
    if "@" in endpoint_url:
        raise errors.StoreLocationInvalid("the endpoint contains credentials", advice=_NO_SECRETS)
    if not is_url:
        advice = "give it as https://host or http://host:port"
        raise errors.StoreLocationInvalid("the endpoint is not a URL", where=endpoint_url, advice=advice)


def _redacted(url: str) -> str:
    """Return *url* without anything before an ``@``, which may be a secret."""
    return re.sub(r"(?<=//)[^/]*@|^[^/]*@", "…@", url)
