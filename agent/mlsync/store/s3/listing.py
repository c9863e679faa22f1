"""Listings of a bucket: objects, unfinished multipart uploads and their parts, page by page, with no page missing."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from botocore.exceptions import ClientError

from mlsync import errors
from mlsync.store.s3.archived import is_archive_class
from mlsync.store.s3.client import Client
from mlsync.store.s3.errors import translating


def object_entries(client: Client, arguments: Mapping[str, Any], where: str) -> Iterator[dict[str, Any]]:
    """Yield the entries of ``list_objects_v2``; raise if flag and token disagree on whether there is another page."""
    arguments = dict(arguments)
    while True:
        with translating(where):
            page = _with_restore_status(client, client.call("list_objects_v2", arguments), arguments)
        entries = page.get("Contents", [])
        if page.get("KeyCount", len(entries)) != len(entries):
            raise errors.StoreBroken("a page of the listing has fewer objects than it says", where=where)
        yield from entries
        if not page.get("IsTruncated"):
            return
        token = page.get("NextContinuationToken")
        _check_continues(token, arguments.get("ContinuationToken"), where)
        arguments["ContinuationToken"] = token


def uploaded_parts(client: Client, names: Mapping[str, Any], where: str) -> dict[int, tuple[str, int]]:
    """Return tag and size of each part that the server has of an upload, by number; raise ``NotFound`` without one."""
    arguments = dict(names)
    parts: dict[int, tuple[str, int]] = {}
    while True:
        with translating(where):
            page = client.call("list_parts", arguments)
        parts |= {part["PartNumber"]: (part["ETag"], part["Size"]) for part in page.get("Parts", [])}
        if not page.get("IsTruncated"):
            return parts
        marker = page.get("NextPartNumberMarker")
        _check_continues(marker, arguments.get("PartNumberMarker"), where)
        arguments["PartNumberMarker"] = marker


def unfinished_uploads(client: Client, bucket: str, prefix: str, where: str) -> Iterator[tuple[str, str, float]]:
    """Yield key in the bucket, id and age in seconds of each unfinished upload below *prefix*, in any order.

    The age is by the server's clock. The order is any, because some servers do not sort uploads.
    """
    arguments: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix}
    while True:
        with translating(where):
            page = client.call("list_multipart_uploads", arguments)
        now_s = _date_s(page)
        for entry in page.get("Uploads", []):
            yield entry["Key"], entry["UploadId"], now_s - entry["Initiated"].timestamp()
        if not page.get("IsTruncated"):
            return
        markers = {"KeyMarker": page.get("NextKeyMarker"), "UploadIdMarker": page.get("NextUploadIdMarker")}
        _check_continues(markers, {name: arguments.get(name) for name in markers}, where)
        arguments |= {name: marker for name, marker in markers.items() if marker}


def _with_restore_status(client: Client, page: dict[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return *page*, with the restore status of its objects if one is archived and the server knows that attribute."""
    if not any(map(is_archive_class, page.get("Contents", []))):
        return page
    try:
        more: dict[str, Any] = client.call(
            "list_objects_v2", {**arguments, "OptionalObjectAttributes": ["RestoreStatus"]}
        )
    except ClientError:
        return page
    is_same = [entry["Key"] for entry in more.get("Contents", [])] == [entry["Key"] for entry in page["Contents"]]
    return more if is_same else page


def _check_continues(marker: object, last: object, where: str) -> None:
    """Raise if a truncated listing does not say where it continues: mlsync would ask for the same page forever."""
    if not marker or marker == last:
        raise errors.StoreBroken("the listing says that it continues, but not where", where=where)


def _date_s(answer: dict[str, Any]) -> float:
    """Return when the server sent *answer* by its own clock, or now by ours if it does not say."""
    text = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    try:
        return parsedate_to_datetime(text).timestamp()
    except ValueError:
        return time.time()
