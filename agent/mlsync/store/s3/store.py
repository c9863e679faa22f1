"""A store in an S3 bucket, through boto3; imported only when a URL asks for it: boto3 takes a third of a second."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from isal.isal_zlib import crc32 as _crc32

from mlsync import errors
from mlsync.buffers import Buffer
from mlsync.store.base import ObjectInfo, Store, Upload, check_key, check_prefix, is_key, view_of
from mlsync.store.options import OVERWRITES, StoreOptions
from mlsync.store.s3.clock import ServerClock
from mlsync.store.s3.cold import is_archived_entry, is_archived_head, is_cold
from mlsync.store.s3.connection import make_cuttable
from mlsync.store.s3.errors import (
    code_of,
    hides_its_reason,
    is_transient,
    refuses_operation,
    refuses_path_form,
    said,
    status_of,
    translated,
    translating,
)
from mlsync.store.s3.hedge import HedgedReads
from mlsync.store.s3.keys import SignIn, are_renewed
from mlsync.store.s3.pace import Pace
from mlsync.store.s3.transfer import SeekableBody, fill, whole_size
from mlsync.store.s3.upload import S3Upload, SentPart, has_parts, read_token

# Six of these are under way in the memory that four larger ones would take, and less is lost when the process dies.
PART_BYTES = 8 << 20
# At first, and at most where more pays: a connection to a store far away may bring 10 MB/s, or 100. The most is what
# fits into the memory that a backup may take.
WRITES_AT_ONCE, WRITES_AT_ONCE_MAX = 6, 10
READS_AT_ONCE, READS_AT_ONCE_MAX = 4, 16
PROBE_KEY = "probe"

_CONNECT_TIMEOUT_S = 10
# A transfer that moves no byte for so long is cut and tried again: what hangs may hang for ever.
_READ_TIMEOUT_S = 30
_CONNECTIONS_MAX = 32
_DEFAULT_REGION = "us-east-1"

# What servers answer that have no conditional create, or no checksums, and say so.
_UNKNOWN_FEATURE = {"NotImplemented", "InvalidArgument", "UnsupportedHeader", "InvalidHeader"}
_CONFLICTS = {"ConditionalRequestConflict", "OperationAborted"}
# No such object; no such range of it.
_SAYS_NOT_THERE = (404, 416)


class S3Store(Store):
    """Objects of one bucket below one prefix.

    *conditional_create* says whether the server refuses to overwrite when it is asked to (``If-None-Match: *``). It
    is believed to until it says otherwise or :meth:`probe` finds otherwise; then a look comes before each create,
    which leaves a moment in which two writers can both win. Some servers heed it until a bucket gets versions, so a
    bucket that turns out to have them is probed again. *on_finding* is told what a person should know.
    """

    def __init__(self, bucket: str, prefix: str, options: StoreOptions) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._options = options
        self._signs_payload = options.payload_signing == "always"
        self._sums_parts = options.payload_signing != "never"
        self._place = f"s3://{bucket}/{self._prefix}"
        self._conditional_create = True
        self._warn: Callable[[str], None] = lambda _text: None
        self._lock = threading.Lock()
        self._has_versions = False
        self._has_other_form = False
        with translating(self._place):
            self._client: Any = _client(options, self._place)
        self._clock = ServerClock(self._client)
        self._endpoint = urlsplit(self._client.meta.endpoint_url).netloc
        self._reads = HedgedReads(self._fetch)
        self._write_pace = Pace(WRITES_AT_ONCE, WRITES_AT_ONCE_MAX)
        self._read_pace = Pace(READS_AT_ONCE, READS_AT_ONCE_MAX)

    @property
    def url(self) -> str:
        """The place as a URL."""
        return self._place.rstrip("/")

    @property
    def part_bytes(self) -> int:
        """The length of an upload's parts."""
        return PART_BYTES

    @property
    def writes_at_once(self) -> int:
        """How many uploads at a time keep the store busy, by what was learned of it so far."""
        return self._write_pace.at_once

    @property
    def reads_at_once(self) -> int:
        """How many reads at a time keep the store busy, by what was learned of it so far."""
        return self._read_pace.at_once

    @property
    def conditional_create(self) -> bool:
        """Whether the server refuses to overwrite when it is asked to, as far as it showed until now."""
        return self._conditional_create

    def configure(self, *, conditional_create: bool, warn: Callable[[str], None]) -> None:
        """Look before each create if the server does not refuse to overwrite; call *warn* if it stops refusing."""
        self._conditional_create = conditional_create
        self._warn = warn

    def probe(self) -> bool:
        """Find out by two puts whether conditional create works; needs the right to write, so ``init`` asks, once.

        The object may stay if the credentials cannot delete; being always the same one, it stays once.
        """
        self._conditional_create = True
        for _ in range(2):
            with contextlib.suppress(errors.AlreadyExists):
                self.put(PROBE_KEY, secrets.token_bytes(8))
                continue
            break
        else:
            self._conditional_create = False
        # Among versions it stays: deleting would leave a marker and one version more with each probe, and of an object
        # that is there one put tells all.
        if not self._has_versions:
            with contextlib.suppress(errors.StoreDenied):
                self.delete(PROBE_KEY)
        return self._conditional_create

    def _note_versions(self, answer: Mapping[str, Any]) -> None:
        """Probe, once, when the answer to a create tells that the bucket keeps versions: no request asks for that."""
        with self._lock:
            if self._has_versions or "VersionId" not in answer:
                return
            self._has_versions = True
        if self._conditional_create:
            # Who may not write there goes on as before; the manifest is read back in any case.
            with contextlib.suppress(errors.StoreError):
                if not self.probe():
                    self._warn(OVERWRITES)

    def put(self, key: str, body: Buffer) -> None:
        """Create the object *key*, which the server has as it was sent or not at all."""
        # A part that a network or a server damages is found when the proof reads it back, and is stored again. What
        # is put at once may be a manifest, which nobody reads back; MD5 is the sum that every server knows.
        digest = _base64(hashlib.md5(view_of(body), usedforsecurity=False).digest())
        arguments = {**self._names(key), "Body": self._body(body), "ContentMD5": digest}
        with self._write_pace.request(view_of(body).nbytes):
            answer = self._create(key, "put_object", arguments)
        self._note_versions(answer)

    def upload(self, key: str) -> Upload:
        """Begin an object in parts; the server hears of it when the first part is sent."""
        return S3Upload(self, check_key(key))

    def resume(self, key: str, token: str) -> Upload:
        """Go on with a multipart upload, after a look at what the server has of it."""
        gone = errors.NotFound("the uploaded parts are gone", where=self._where(key))
        known = read_token(token)
        if known is None:
            raise gone
        try:
            listed = self._listed_parts(key, known.upload_id)
        except errors.StoreError as error:
            if not refuses_operation(error):
                raise
            # Not worth a backup: what was sent is sent again.
            self.abort_multipart(key, known.upload_id)
            what = f"the upload cannot be resumed: {error.what}"
            raise errors.NotFound(what, where=self._where(key), advice=error.advice) from error
        if known.part_bytes != self.part_bytes or not has_parts(known, listed):
            self.abort_multipart(key, known.upload_id)
            raise gone
        return S3Upload(self, key, known)

    def remove_stale_uploads(self, age_s: float) -> int:
        """Abort multipart uploads below the prefix that are older than *age_s*: their parts cost money until then."""
        old = [(name, upload_id) for name, upload_id, since_s in self._multipart_uploads() if since_s > age_s]
        for name, upload_id in old:
            with translating(self._where("")), contextlib.suppress(self._client.exceptions.NoSuchUpload):
                self._call("abort_multipart_upload", {"Bucket": self._bucket, "Key": name, "UploadId": upload_id})
        return len(old)

    def read(self, key: str, offset: int, into: memoryview) -> None:
        """Fill *into* with the object's bytes from *offset*."""
        if len(into):
            with self._read_pace.request(into.nbytes):
                self._reads.read(key, offset, into)

    def _fetch(self, key: str, offset: int, into: memoryview) -> None:
        where = self._where(key)
        wanted = f"bytes={offset}-{offset + len(into) - 1}"
        with translating(where):
            try:
                answer = self._call("get_object", {**self._names(key), "Range": wanted})
            except ClientError as error:
                if status_of(error) in _SAYS_NOT_THERE:
                    self._check_really(key, offset + len(into), error)
                raise
            with contextlib.closing(answer["Body"]) as stream:
                fill(into, offset, answer, stream, where)

    def _check_really(self, key: str, end_bytes: int, error: ClientError) -> None:
        """Raise what is the matter with a store that denies bytes which it has by its own word.

        Return where the object is not there; raise that it is short where it is.
        """
        try:
            size_bytes = self.stat(key).size_bytes
        except errors.NotFound:
            return
        where = self._where(key)
        if size_bytes < end_bytes:
            what = "the object ends before what was to be read"
            raise errors.StoreBroken(what, where=where, is_of_object=True) from error
        what = f"the store answered {said(error)}, but says that the object has {size_bytes} bytes"
        advice = "check for a proxy or gateway in between, and that the endpoint answers range requests"
        raise errors.StoreBroken(what, where=where, advice=advice) from error

    def get(self, key: str, *, limit_bytes: int) -> bytes:
        """The whole of a small object."""
        where = self._where(key)
        with translating(where):
            answer = self._call("get_object", self._names(key))
            with contextlib.closing(answer["Body"]) as stream:
                if answer["ContentLength"] > limit_bytes:
                    what = f"the object is longer than {limit_bytes} bytes"
                    raise errors.StoreBroken(what, where=where, is_of_object=True)
                content: bytes = stream.read()
        if len(content) != answer["ContentLength"]:
            raise errors.StoreBroken("the store sent another length than it announced", where=where)
        return content

    def stat(self, key: str) -> ObjectInfo:
        """The object's size and time."""
        with translating(self._where(key)):
            try:
                answer = self._call("head_object", self._names(key))
            except ClientError as error:
                if not hides_its_reason(error):
                    raise
                return self._stat_by_read(key)
        modified_s = answer["LastModified"].timestamp()
        return ObjectInfo(key, answer["ContentLength"], modified_s, is_archived_head(answer))

    def _stat_by_read(self, key: str) -> ObjectInfo:
        """The same by a read of one byte: an answer to HEAD has no body that could say why it was refused."""
        answer = self._call("get_object", {**self._names(key), "Range": "bytes=0-0"})
        answer["Body"].close()
        return ObjectInfo(key, whole_size(answer, self._where(key)), answer["LastModified"].timestamp())

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """Every object under *prefix* after *after*, page by page."""
        check_prefix(prefix)
        where = self._where(prefix)
        last = self._prefix + after if after else ""
        for page in self._pages(prefix, after):
            for entry in page:
                name = entry["Key"]
                # A server that does not sort may skip at a page's end, and what is skipped would be pruned as gone.
                if name <= last or not name.startswith(self._prefix + prefix):
                    advice = "this store cannot hold a repository: its listings are not in order"
                    raise errors.StoreBroken(f"the listing returned {name!r} out of order", where=where, advice=advice)
                last = name
                key = name[len(self._prefix) :]
                if is_key(key):
                    modified_s = entry["LastModified"].timestamp()
                    yield ObjectInfo(key, entry["Size"], modified_s, is_archived_entry(entry))

    def delete(self, key: str) -> None:
        """The object is gone."""
        with translating(self._where(key)), contextlib.suppress(self._client.exceptions.NoSuchKey):
            self._call("delete_object", self._names(key))

    def is_transient(self, error: Exception) -> bool:
        """Whether botocore's error behind *error* may pass, or was one of clock or keys that are mended now."""
        return is_transient(error) or self._clock.explains(error) or are_renewed(error)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def begin_multipart(self, key: str) -> str:
        """Give the id of a new multipart upload, whose parts are summed if the server can."""
        if self._sums_parts:
            try:
                return self._begin_multipart(key, ChecksumAlgorithm="CRC32")
            except errors.StoreError as error:
                if not isinstance(error.__cause__, ClientError) or not _lacks_feature(error.__cause__):
                    raise
                self._sums_parts = False
        return self._begin_multipart(key)

    def _begin_multipart(self, key: str, **sums: str) -> str:
        with translating(self._where(key)):
            upload_id: str = self._call("create_multipart_upload", {**self._names(key), **sums})["UploadId"]
        return upload_id

    def send_part(self, key: str, upload_id: str, number: int, part: Buffer) -> SentPart:
        """Give the server's tag of the part that it now has, as it was sent."""
        names = {**self._names(key), "UploadId": upload_id, "PartNumber": number}
        # CRC-32 here costs a tenth of a second for a gigabyte, and of botocore five times that.
        crc32 = _base64(_crc32(view_of(part)).to_bytes(4, "big")) if self._sums_parts else None
        sums = {"ChecksumCRC32": crc32} if crc32 is not None else {}
        with self._write_pace.request(view_of(part).nbytes), translating(self._where(key)):
            answer = self._call("upload_part", {**names, **sums, "Body": self._body(part)})
        return SentPart(answer["ETag"], crc32)

    def complete_multipart(self, key: str, upload_id: str, parts: Mapping[int, SentPart]) -> None:
        """Make the object of its parts appear, unless the key is taken."""
        listed = [_listed(number, parts[number]) for number in sorted(parts)]
        arguments = {**self._names(key), "UploadId": upload_id, "MultipartUpload": {"Parts": listed}}
        self._note_versions(self._create(key, "complete_multipart_upload", arguments))

    def abort_multipart(self, key: str, upload_id: str) -> None:
        """The upload's parts are gone, or soon will be; never raises."""
        with contextlib.suppress(BotoCoreError, ClientError):
            self._call("abort_multipart_upload", {**self._names(key), "UploadId": upload_id})

    def _call(self, operation: str, arguments: Mapping[str, Any]) -> Any:
        """The answer of botocore, asked with the bucket's name in the host's where a server wants it there.

        With *addressing* ``auto`` it stands in the path at first at all endpoints but AWS's own, as most want it there.
        """
        client = self._client
        try:
            return getattr(client, operation)(**arguments)
        except ClientError as error:
            if not (self._options.addressing == "auto" and refuses_path_form(error)):
                raise
            self._take_other_form()
            if self._client is client:
                raise
        body: Any = arguments.get("Body")
        if hasattr(body, "seek"):
            body.seek(0)
        return getattr(self._client, operation)(**arguments)

    def _take_other_form(self) -> None:
        """Name the bucket in the host from now on."""
        with self._lock:
            if not self._has_other_form:
                self._has_other_form = True
                client = _client(replace(self._options, addressing="virtual"), self._place)
                # Who is under way with the old one goes on with it; its connections go with it.
                self._client, self._clock = client, ServerClock(client)

    def _create(self, key: str, operation: str, arguments: dict[str, Any]) -> Mapping[str, Any]:
        """The answer to a create; ``AlreadyExists`` if the key was taken."""
        where = self._where(key)
        if self._conditional_create:
            try:
                answer: Mapping[str, Any] = self._call(operation, {**arguments, "IfNoneMatch": "*"})
            except ClientError as error:
                if not _lacks_feature(error):
                    raise self._create_error(key, error) from error
                self._conditional_create = False
            except BotoCoreError as error:
                raise translated(error, where) from error
            else:
                return answer
        self._raise_if_taken(key)
        with translating(where):
            answer = self._call(operation, arguments)
        return dict(answer)

    def _create_error(self, key: str, error: ClientError) -> errors.StoreError:
        """What a refused create means; in a conflict of two creates the winner is there, or the next try will tell."""
        if code_of(error) in _CONFLICTS:
            with contextlib.suppress(errors.NotFound):
                self.stat(key)
                return errors.AlreadyExists("the object exists already", where=self._where(key))
        return translated(error, self._where(key))

    def _raise_if_taken(self, key: str) -> None:
        with contextlib.suppress(errors.NotFound):
            self.stat(key)
            raise errors.AlreadyExists("the object exists already", where=self._where(key))

    def _pages(self, prefix: str, after: str) -> Iterator[Iterable[dict[str, Any]]]:
        """The pages of a listing, none missing: whether there is another is told alike by flag and token."""
        where = self._where(prefix)
        arguments: dict[str, Any] = {"Bucket": self._bucket, "Prefix": self._prefix + prefix}
        if after:
            arguments["StartAfter"] = self._prefix + after
        token: str | None = None
        while True:
            with translating(where):
                page = self._with_thawed(self._call("list_objects_v2", arguments), arguments)
            entries = page.get("Contents", [])
            if page.get("KeyCount", len(entries)) != len(entries):
                raise errors.StoreBroken("a page of the listing has fewer objects than it says", where=where)
            yield entries
            next_token = page.get("NextContinuationToken")
            if not page.get("IsTruncated"):
                return
            if not next_token or next_token == token:
                raise errors.StoreBroken("the listing says that it continues, but not where", where=where)
            arguments["ContinuationToken"] = token = next_token

    def _with_thawed(self, page: dict[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
        """*page*, or the same page with what is thawed, where something on it is cold and the server tells that."""
        if not any(map(is_cold, page.get("Contents", []))):
            return page
        try:
            told: dict[str, Any] = self._call(
                "list_objects_v2", {**arguments, "OptionalObjectAttributes": ["RestoreStatus"]}
            )
        except ClientError:
            return page
        is_same = [entry["Key"] for entry in told.get("Contents", [])] == [entry["Key"] for entry in page["Contents"]]
        return told if is_same else page

    def _listed_parts(self, key: str, upload_id: str) -> dict[int, tuple[str, int]]:
        """Tag and size of each part that the server has of an upload, by number; ``NotFound`` if it has no such one."""
        arguments: dict[str, Any] = {**self._names(key), "UploadId": upload_id}
        listed: dict[int, tuple[str, int]] = {}
        while True:
            with translating(self._where(key)):
                page = self._call("list_parts", arguments)
            listed |= {part["PartNumber"]: (part["ETag"], part["Size"]) for part in page.get("Parts", [])}
            marker = page.get("NextPartNumberMarker")
            if not page.get("IsTruncated"):
                return listed
            self._check_goes_on(marker, arguments.get("PartNumberMarker"))
            arguments["PartNumberMarker"] = marker

    def _multipart_uploads(self) -> Iterator[tuple[str, str, float]]:
        """Key in the bucket, id and age of each upload below the prefix that was not finished, by the server's clock.

        In any order: some servers sort by nothing.
        """
        arguments: dict[str, Any] = {"Bucket": self._bucket, "Prefix": self._prefix}
        while True:
            with translating(self._where("")):
                page = self._call("list_multipart_uploads", arguments)
            now_s = _date_s(page)
            for entry in page.get("Uploads", []):
                if is_key(entry["Key"].removeprefix(self._prefix)) and entry["Key"].startswith(self._prefix):
                    yield entry["Key"], entry["UploadId"], now_s - entry["Initiated"].timestamp()
            if not page.get("IsTruncated"):
                return
            markers = {"KeyMarker": page.get("NextKeyMarker"), "UploadIdMarker": page.get("NextUploadIdMarker")}
            self._check_goes_on(markers, {name: arguments.get(name) for name in markers})
            arguments |= {name: marker for name, marker in markers.items() if marker}

    def _check_goes_on(self, marker: object, last: object) -> None:
        """A listing that says that it goes on, and not how, would be asked for ever."""
        if not marker or marker == last:
            raise errors.StoreBroken("the listing says that it continues, but not where", where=self._where(""))

    def _names(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + check_key(key)}

    def _body(self, body: Buffer) -> object:
        """*body* as botocore sends it without a copy.

        Plain memory goes to the socket as it is. Signing and summing want a file, which they read in pieces.
        """
        return SeekableBody(view_of(body)) if self._signs_payload else view_of(body)

    def _where(self, key: str) -> str:
        return f"{self._place}{key} at {self._endpoint}"


def _date_s(answer: dict[str, Any]) -> float:
    """When the server gave *answer*, by its own clock; by ours if it does not tell."""
    text = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    try:
        return parsedate_to_datetime(text).timestamp()
    except ValueError:
        return time.time()


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def _listed(number: int, part: SentPart) -> dict[str, object]:
    """A part as a completion lists it."""
    listed: dict[str, object] = {"PartNumber": number, "ETag": part.tag}
    if part.crc32 is not None:
        listed["ChecksumCRC32"] = part.crc32
    return listed


def _lacks_feature(error: ClientError) -> bool:
    return status_of(error) in (400, 501) and code_of(error) in _UNKNOWN_FEATURE


def _client(options: StoreOptions, place: str) -> Any:
    """A client that tries once, does not wait for ever, and hashes bodies only if it was told to."""
    s3: dict[str, object] = {"payload_signing_enabled": options.payload_signing == "always"}
    # Where it is "auto", the profile may say more: s3 = addressing_style = ... in ~/.aws/config.
    if options.addressing != "auto":
        s3["addressing_style"] = options.addressing
    session = boto3.session.Session(profile_name=options.profile, region_name=options.region)
    # Of all clients, those of services that give keys included: one layer retries, and it is RetryingStore.
    tries_once = Config(
        retries={"total_max_attempts": 1, "mode": "standard"},
        connect_timeout=_CONNECT_TIMEOUT_S,
        read_timeout=_READ_TIMEOUT_S,
    )
    session._session.set_default_client_config(tries_once)  # noqa: SLF001 - public in botocore, hidden by boto3
    sign_in = SignIn(session)
    config = Config(
        max_pool_connections=_CONNECTIONS_MAX,
        tcp_keepalive=True,
        # The sums are ours and stand in headers; botocore would send them behind the body, which some servers refuse.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        # botocore would refuse a memoryview as a body, though everything below it takes one.
        parameter_validation=False,
        s3=s3,
    )
    try:
        client = session.client(
            "s3",
            region_name=session.region_name or _DEFAULT_REGION,
            endpoint_url=options.endpoint_url,
            verify=options.ca_file,
            config=config,
        )
    except ValueError as error:
        raise errors.StoreLocationInvalid(f"the endpoint is not a URL: {options.endpoint_url}", where=place) from error
    sign_in.watch(client)
    make_cuttable(client)
    return client
