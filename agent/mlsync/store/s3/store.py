"""A store in an S3 bucket, through boto3; imported only for an S3 URL, because boto3 takes a third of a second."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from isal.isal_zlib import crc32 as _crc32

from mlsync import errors
from mlsync.buffers import Buffer
from mlsync.courtesy.limit import DOWNLOAD, UPLOAD
from mlsync.store.base import ObjectInfo, Store, Upload, check_key, check_prefix, is_key, view_of
from mlsync.store.options import OVERWRITES, StoreOptions
from mlsync.store.prices import AWS_LIST, PriceList, Tier
from mlsync.store.s3.archived import days_to_class, info_of_entry, info_of_head
from mlsync.store.s3.client import Client, is_aws
from mlsync.store.s3.concurrency import Concurrency
from mlsync.store.s3.errors import (
    answer_text,
    code_of,
    hides_its_reason,
    refuses_operation,
    status_of,
    translated,
    translating,
)
from mlsync.store.s3.hedge import HedgedReads
from mlsync.store.s3.listing import object_entries, unfinished_uploads, uploaded_parts
from mlsync.store.s3.new_objects import LOCK_MODES, NewObjects, locked_until_s
from mlsync.store.s3.refusals import Heeded, explained
from mlsync.store.s3.transfer import DirectStream, SeekableBody, fill, whole_size
from mlsync.store.s3.upload import S3Upload, SentPart, has_parts, read_token

# Six such parts take the memory of four larger ones, and less is lost when the process dies.
PART_BYTES = 8 << 20
# At first, and at most if more are faster: a connection to a distant store may bring 10 MB/s, or 100. The maximum is
# what fits into the memory that a backup may take.
WRITES_AT_ONCE, WRITES_AT_ONCE_MAX = 6, 10
READS_AT_ONCE, READS_AT_ONCE_MAX = 4, 16
PROBE_KEY = "probe"
# S3 copies up to 5 GiB with one request. A request sends nothing while it copies, and is given up as a dead one is, so
# each has less to do.
COPIED_AT_ONCE_BYTES = 512 << 20

# Answers of servers without conditional create, or without checksums.
_UNKNOWN_FEATURE = {"NotImplemented", "InvalidArgument", "UnsupportedHeader", "InvalidHeader"}
_CONFLICTS = {"ConditionalRequestConflict", "OperationAborted"}
# Of hosts between whose buckets one server copies, whatever the region.
_AWS = ".amazonaws.com"
# Answers to RestoreObject: it was asked for before, or needs no thaw.
_NEED_NO_THAW = {"RestoreAlreadyInProgress", "ObjectAlreadyInActiveTierError"}
_NO_THAW = {"NotImplemented", "MethodNotAllowed"}
_OWN_TOOLS = "thaw it with the store's own tools, and give the command again"
# No such object, or no such range of it.
_NOT_THERE = (404, 416)


class S3Store(Store):
    """Objects of one bucket below one prefix.

    *conditional_create* says whether the server refuses to overwrite when asked (``If-None-Match: *``). The store
    assumes so until the server or :meth:`probe` shows otherwise. Then it looks before each create, which leaves a
    moment in which two writers can both win. Some servers refuse only until a bucket gets versions, so the store probes
    a bucket again once it turns out to have them.
    """

    def __init__(self, bucket: str, prefix: str, options: StoreOptions) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._signs_payload = options.payload_signing == "always"
        # S3 wants a checksum with every part of an object that is locked.
        self._sums_parts = options.payload_signing != "never" or options.object_lock is not None
        self._location = f"s3://{bucket}/{self._prefix}"
        self._conditional_create = True
        self._warn: Callable[[str], None] = lambda _text: None
        self._lock = threading.Lock()
        self._has_versions = False
        self._not_copied_from: set[str] = set()
        self._client = Client(options, self._location)
        self._options = options
        self._new_objects = NewObjects(options, self._client.now_s)
        self._heeded = Heeded(options)
        self._reads = HedgedReads(self._fetch)
        self._write_concurrency = Concurrency(WRITES_AT_ONCE, WRITES_AT_ONCE_MAX)
        self._read_concurrency = Concurrency(READS_AT_ONCE, READS_AT_ONCE_MAX)

    @property
    def url(self) -> str:
        """The location as a URL."""
        return self._location.rstrip("/")

    @property
    def endpoint(self) -> str:
        """The server's host and port."""
        return self._client.endpoint

    def names_of(self, key: str) -> dict[str, str]:
        """Return bucket and name of an object, as a request to copy it says them."""
        return self._names(key)

    @property
    def part_bytes(self) -> int:
        """The length of an upload's parts."""
        return PART_BYTES

    @property
    def writes_at_once(self) -> int:
        """How many concurrent uploads keep the store busy, by what was measured so far."""
        return UPLOAD.at_once(self._write_concurrency.at_once)

    @property
    def reads_at_once(self) -> int:
        """How many concurrent reads keep the store busy, by what was measured so far."""
        return DOWNLOAD.at_once(self._read_concurrency.at_once)

    @property
    def conditional_create(self) -> bool:
        """Whether the server refuses to overwrite when asked, as far as is known."""
        return self._conditional_create

    def configure(self, *, conditional_create: bool, warn: Callable[[str], None]) -> None:
        """Look before each create if the server does not refuse to overwrite; call *warn* if it stops refusing."""
        self._conditional_create = conditional_create
        self._warn = warn

    def probe(self) -> bool:
        """Return whether conditional create works, by two puts; only `init` asks, because it has the right to write.

        If the credentials cannot delete, the object stays; it is always the same one.
        """
        self._conditional_create = True
        for _ in range(2):
            with contextlib.suppress(errors.AlreadyExists):
                self.put(PROBE_KEY, secrets.token_bytes(8))
                continue
            break
        else:
            self._conditional_create = False
        # In a bucket with versions it stays: each deletion would leave a marker and a version, and with an existing
        # object one put is enough to know.
        if not self._has_versions:
            with contextlib.suppress(errors.StoreDenied):
                self.delete(PROBE_KEY)
        return self._conditional_create

    def _note_versions(self, answer: Mapping[str, Any]) -> None:
        """Probe once when the answer to a create shows that the bucket keeps versions; that costs no request."""
        with self._lock:
            if self._has_versions or "VersionId" not in answer:
                return
            self._has_versions = True
        if self._conditional_create:
            # Without the right to write, nothing changes; a backup reads its manifest back in any case.
            with contextlib.suppress(errors.StoreError):
                if not self.probe():
                    self._warn(OVERWRITES)

    def put(self, key: str, body: Buffer) -> None:
        """Create the object *key*; the server compares the body with its MD5, the checksum that every server knows."""
        digest = _base64(hashlib.md5(view_of(body), usedforsecurity=False).digest())
        arguments = {
            **self._names(key),
            "Body": self._body(body),
            "ContentMD5": digest,
            **self._new_objects.arguments(key),
        }
        with self._write_concurrency.request(view_of(body).nbytes):
            answer = self._create(key, "put_object", arguments)
        self._note_created(key, answer)

    def replace(self, key: str, body: Buffer) -> None:
        """Put *body* in the place of the object *key*: an unconditional put, which S3 does in one step."""
        digest = _base64(hashlib.md5(view_of(body), usedforsecurity=False).digest())
        arguments = {
            **self._names(key),
            "Body": self._body(body),
            "ContentMD5": digest,
            **self._new_objects.arguments(key),
        }
        with self._write_concurrency.request(view_of(body).nbytes), self._creating(key):
            self._client.call("put_object", arguments)

    def upload(self, key: str) -> Upload:
        """Begin an object in parts; the server learns of it with the first part."""
        return S3Upload(self, check_key(key))

    def copies_from(self, source: Store) -> bool:
        """Return whether *source* is at the same server, which has not refused to copy from there yet."""
        other = source.innermost
        if not isinstance(other, S3Store) or other.url in self._not_copied_from:
            return False
        here, there = self.endpoint, other.endpoint
        return here == there or all(host.endswith(_AWS) for host in (here, there))

    def copy_from(self, source: Store, key: str, size_bytes: int) -> bool:
        """Have the server copy an object of another bucket or prefix; ``False`` if it refuses that to this user."""
        other = source.innermost
        if not isinstance(other, S3Store):
            return False
        try:
            if size_bytes <= COPIED_AT_ONCE_BYTES:
                self._copy_at_once(other, key)
            else:
                self._copy_in_parts(other, key, size_bytes)
        except errors.StoreError as error:
            if not refuses_operation(error) and not isinstance(error, errors.StoreDenied):
                raise
            self._not_copied_from.add(other.url)
            return False
        return True

    def _copy_at_once(self, other: S3Store, key: str) -> None:
        arguments = {**self._names(key), "CopySource": other.names_of(key), **self._new_objects.arguments(key)}
        if "Tagging" in arguments:
            arguments["TaggingDirective"] = "REPLACE"
        operation = self._client.botocore.meta.service_model.operation_model("CopyObject")
        # An older botocore cannot say it.
        if self._conditional_create and "IfNoneMatch" in operation.input_shape.members:
            try:
                self._note_created(key, self._client.call("copy_object", {**arguments, "IfNoneMatch": "*"}))
            except ClientError as error:
                # Servers learned it for copies later than for puts, and it says nothing about those.
                if not _lacks_feature(error):
                    raise self._create_error(key, error) from error
            except BotoCoreError as error:
                raise translated(error, self._where(key)) from error
            else:
                return
        # The key is random: whoever else makes that object meanwhile makes the same one.
        self._raise_if_taken(key)
        with translating(self._where(key)):
            self._note_created(key, self._client.call("copy_object", arguments))

    def _copy_in_parts(self, other: S3Store, key: str, size_bytes: int) -> None:
        upload_id = self._begin_multipart(key)
        parts: dict[int, SentPart] = {}
        try:
            for number, start in enumerate(range(0, size_bytes, COPIED_AT_ONCE_BYTES), 1):
                end = min(start + COPIED_AT_ONCE_BYTES, size_bytes) - 1
                part = {"UploadId": upload_id, "PartNumber": number, "CopySourceRange": f"bytes={start}-{end}"}
                with translating(self._where(key)):
                    arguments = {**self._names(key), **part, "CopySource": other.names_of(key)}
                    answer = self._client.call("upload_part_copy", arguments)
                parts[number] = SentPart(answer["CopyPartResult"]["ETag"])
            self.complete_multipart(key, upload_id, parts)
        except BaseException:
            self.abort_multipart(key, upload_id)
            raise

    def resume(self, key: str, token: str) -> Upload:
        """Continue a multipart upload, after a comparison with the parts that the server has."""
        gone = errors.NotFound("the uploaded parts are gone", where=self._where(key))
        known = read_token(token)
        if known is None:
            raise gone
        try:
            names = {**self._names(key), "UploadId": known.upload_id}
            listed = uploaded_parts(self._client, names, self._where(key))
        except errors.StoreError as error:
            if not refuses_operation(error):
                raise
            # No reason to fail a backup: it sends the parts again.
            self.abort_multipart(key, known.upload_id)
            what = f"the upload cannot be resumed: {error.what}"
            raise errors.NotFound(what, where=self._where(key), advice=error.advice) from error
        if known.part_bytes != self.part_bytes or not has_parts(known, listed):
            self.abort_multipart(key, known.upload_id)
            raise gone
        return S3Upload(self, key, known)

    def remove_stale_uploads(self, age_s: float) -> int:
        """Abort multipart uploads below the prefix that are older than *age_s*: their parts cost money until then."""
        uploads = unfinished_uploads(self._client, self._bucket, self._prefix, self._where(""))
        stale = [(name, upload_id) for name, upload_id, old_s in uploads if old_s > age_s and self._is_ours(name)]
        for name, upload_id in stale:
            with translating(self._where("")), contextlib.suppress(self._client.botocore.exceptions.NoSuchUpload):
                self._client.call(
                    "abort_multipart_upload", {"Bucket": self._bucket, "Key": name, "UploadId": upload_id}
                )
        return len(stale)

    def read(self, key: str, offset: int, into: memoryview) -> None:
        """Fill *into* with the object's bytes from *offset*."""
        if not len(into):
            return
        with self._read_concurrency.request(into.nbytes):
            if DOWNLOAD.rate is None:
                self._reads.read(key, offset, into)
            else:
                # A read that waits for its turn does not straggle, and a second one would take the turns of others.
                self._fetch(key, offset, into)

    def _fetch(self, key: str, offset: int, into: memoryview) -> None:
        where = self._where(key)
        wanted = f"bytes={offset}-{offset + len(into) - 1}"
        with translating(where):
            try:
                answer = self._client.call("get_object", {**self._names(key), "Range": wanted})
            except ClientError as error:
                if status_of(error) in _NOT_THERE:
                    self._raise_if_it_exists(key, offset + len(into), error)
                raise
            with contextlib.closing(answer["Body"]) as stream:
                fill(into, offset, answer, DirectStream(stream), where)

    def _raise_if_it_exists(self, key: str, end_bytes: int, error: ClientError) -> None:
        """Raise ``StoreBroken`` if the object exists, although the store answered *error* to a read up to *end_bytes*.

        Either the object is too short, which is damage, or the store contradicts itself.
        """
        try:
            size_bytes = self.stat(key).size_bytes
        except errors.NotFound:
            return
        where = self._where(key)
        if size_bytes < end_bytes:
            what = "the object ends before what was to be read"
            raise errors.StoreBroken(what, where=where, is_of_object=True) from error
        what = f"the store answered {answer_text(error)}, but says that the object has {size_bytes} bytes"
        advice = "check for a proxy or gateway in between, and that the endpoint answers range requests"
        raise errors.StoreBroken(what, where=where, advice=advice) from error

    def get(self, key: str, *, limit_bytes: int) -> bytes:
        """Return a small object."""
        where = self._where(key)
        with translating(where):
            answer = self._client.call("get_object", self._names(key))
            with contextlib.closing(answer["Body"]) as stream:
                if answer["ContentLength"] > limit_bytes:
                    what = f"the object is longer than {limit_bytes} bytes"
                    raise errors.StoreBroken(what, where=where, is_of_object=True)
                DOWNLOAD.admit_all(answer["ContentLength"])
                content: bytes = stream.read()
        if len(content) != answer["ContentLength"]:
            raise errors.StoreBroken("the store sent another length than it announced", where=where)
        return content

    def stat(self, key: str) -> ObjectInfo:
        """Return the object's size and time."""
        with translating(self._where(key)):
            try:
                answer = self._client.call("head_object", self._names(key))
            except ClientError as error:
                if not hides_its_reason(error):
                    raise
                return self._stat_by_read(key)
        return info_of_head(key, answer)

    def _stat_by_read(self, key: str) -> ObjectInfo:
        """Return the same by a read of one byte, because an answer to HEAD has no body that says why it was refused."""
        answer = self._client.call("get_object", {**self._names(key), "Range": "bytes=0-0"})
        answer["Body"].close()
        return ObjectInfo(key, whole_size(answer, self._where(key)), answer["LastModified"].timestamp())

    def keep_for(self, key: str, period_s: float, left_s: float) -> bool:
        """Lock the object for *period_s* from now on, by the server's clock; its mode stays as it is.

        A server that shows no lock may have none, or may not show it to these credentials.
        """
        mode = self._new_objects.lock_mode
        if mode is None:
            return False
        with translating(self._where(key)):
            found = self._client.call("head_object", self._names(key))
            now_s = self._client.now_s()
            if locked_until_s(found) - now_s > left_s:
                return False
            shown = found.get("ObjectLockMode")
            wanted = {
                "Mode": shown if shown in LOCK_MODES else mode,
                "RetainUntilDate": datetime.fromtimestamp(now_s + period_s, UTC),
            }
            # The very version that was looked at: somebody may put another one over it meanwhile.
            names = self._names(key) | ({"VersionId": found["VersionId"]} if found.get("VersionId") else {})
            try:
                self._client.call("put_object_retention", {**names, "Retention": wanted})
            except ClientError:
                # Another machine may have locked it for a second longer just now.
                if locked_until_s(self._client.call("head_object", names)) - now_s > left_s:
                    return False
                raise
        return True

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """Yield every object under *prefix* after *after*, page by page."""
        check_prefix(prefix)
        where = self._where(prefix)
        arguments = {"Bucket": self._bucket, "Prefix": self._prefix + prefix}
        last = self._prefix + after if after else ""
        if after:
            arguments["StartAfter"] = last
        for entry in object_entries(self._client, arguments, where):
            name = entry["Key"]
            # A server that does not sort may skip objects at the end of a page, and prune would take them for deleted.
            if name <= last or not name.startswith(self._prefix + prefix):
                advice = "this store cannot hold a repository: its listings are not in order"
                raise errors.StoreBroken(f"the listing returned {name!r} out of order", where=where, advice=advice)
            last = name
            key = name[len(self._prefix) :]
            if is_key(key):
                yield info_of_entry(key, entry)

    @property
    def may_freeze(self) -> bool:
        """A bucket's lifecycle may move objects to an archive."""
        return True

    @property
    def price_list(self) -> PriceList | None:
        """AWS's own list at AWS's own endpoints, and none for other servers."""
        return AWS_LIST if is_aws(self._client.endpoint) else None

    def days_to_class(self, prefix: str) -> Mapping[str, int]:
        """Return what the bucket's lifecycle says: it needs the right ``s3:GetLifecycleConfiguration``."""
        with translating(self._where(prefix)):
            try:
                answer = self._client.call("get_bucket_lifecycle_configuration", {"Bucket": self._bucket})
            except ClientError as error:
                if code_of(error) == "NoSuchLifecycleConfiguration":
                    return {}
                raise
        return days_to_class(answer.get("Rules", []), self._prefix + prefix)

    def thaw(self, key: str, *, days: int | None, tier: Tier) -> bool:
        """Send S3's RestoreObject; the server answers at once and takes minutes or hours."""
        request: dict[str, object] = {"GlacierJobParameters": {"Tier": tier.capitalize()}}
        if days is not None:
            request["Days"] = days
        with translating(self._where(key)):
            try:
                self._client.call("restore_object", {**self._names(key), "RestoreRequest": request})
            except ClientError as error:
                if code_of(error) in _NEED_NO_THAW:
                    return False
                if status_of(error) in (405, 501) or code_of(error) in _NO_THAW:
                    what = f"this store thaws nothing by S3's own request: it answered {answer_text(error)}"
                    raise errors.ThawRefused(what, where=self._where(key), advice=_OWN_TOOLS) from error
                raise
        return True

    def delete(self, key: str) -> None:
        """Delete the object."""
        with translating(self._where(key)), contextlib.suppress(self._client.botocore.exceptions.NoSuchKey):
            self._client.call("delete_object", self._names(key))

    def is_transient(self, error: Exception) -> bool:
        """Return whether botocore's error behind *error* may pass."""
        return self._client.is_transient(error)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def begin_multipart(self, key: str) -> str:
        """Return the id of a new multipart upload, whose parts get checksums if the server supports them."""
        if self._sums_parts:
            try:
                return self._begin_multipart(key, ChecksumAlgorithm="CRC32")
            except errors.StoreError as error:
                if not isinstance(error.__cause__, ClientError) or not _lacks_feature(error.__cause__):
                    raise
            # It may be something else that the server refuses.
            upload_id = self._begin_multipart(key)
            self._sums_parts = False
            return upload_id
        return self._begin_multipart(key)

    def _begin_multipart(self, key: str, **sums: str) -> str:
        with self._creating(key):
            upload_id: str = self._client.call(
                "create_multipart_upload", {**self._names(key), **sums, **self._new_objects.arguments(key)}
            )["UploadId"]
        return upload_id

    def send_part(self, key: str, upload_id: str, number: int, part: Buffer) -> SentPart:
        """Send a part; return the server's tag for it, and the checksum that the server compared."""
        names = {**self._names(key), "UploadId": upload_id, "PartNumber": number}
        # This CRC-32 costs a tenth of a second for a gigabyte; botocore's costs five times that.
        crc32 = _base64(_crc32(view_of(part)).to_bytes(4, "big")) if self._sums_parts else None
        sums = {"ChecksumCRC32": crc32} if crc32 is not None else {}
        with self._write_concurrency.request(view_of(part).nbytes), self._creating(key):
            answer = self._client.call("upload_part", {**names, **sums, "Body": self._body(part)})
        return SentPart(answer["ETag"], crc32)

    def complete_multipart(self, key: str, upload_id: str, parts: Mapping[int, SentPart]) -> None:
        """Create the object from its parts, unless the key exists."""
        listed = [_listed(number, parts[number]) for number in sorted(parts)]
        arguments = {**self._names(key), "UploadId": upload_id, "MultipartUpload": {"Parts": listed}}
        self._note_created(key, self._create(key, "complete_multipart_upload", arguments))

    def abort_multipart(self, key: str, upload_id: str) -> None:
        """Discard the upload's parts; never raises."""
        with contextlib.suppress(BotoCoreError, ClientError):
            self._client.call("abort_multipart_upload", {**self._names(key), "UploadId": upload_id})

    @contextmanager
    def _creating(self, key: str) -> Iterator[None]:
        """Raise our errors of a create, with the setting that the server refuses, if it is one."""
        try:
            with translating(self._where(key)):
                yield
        except errors.StoreError as error:
            found = explained(error, self._options)
            if found is error:
                raise
            raise found from error.__cause__

    def _note_created(self, key: str, answer: Mapping[str, Any]) -> None:
        """Learn from the first creates what the bucket keeps, and what the server does not heed."""
        self._note_versions(answer)
        for text in self._heeded.warnings(self._client, self._names(key), key):
            self._warn(text)

    def _create(self, key: str, operation: str, arguments: dict[str, Any]) -> Mapping[str, Any]:
        """Return the answer to a create; raise ``AlreadyExists`` if the key exists."""
        if self._conditional_create:
            with self._creating(key):
                try:
                    answer: Mapping[str, Any] = self._client.call(operation, {**arguments, "IfNoneMatch": "*"})
                except ClientError as error:
                    if not _lacks_feature(error):
                        raise self._create_error(key, error) from error
                else:
                    return answer
        self._raise_if_taken(key)
        with self._creating(key):
            answer = self._client.call(operation, arguments)
        # Not before: it may have been something else that the server refused.
        self._conditional_create = False
        return dict(answer)

    def _create_error(self, key: str, error: ClientError) -> errors.StoreError:
        """Return the error for a refused create; if two creates conflict, look whether the other one has won."""
        if code_of(error) in _CONFLICTS:
            with contextlib.suppress(errors.NotFound):
                self.stat(key)
                return errors.AlreadyExists("the object exists already", where=self._where(key))
        return translated(error, self._where(key))

    def _raise_if_taken(self, key: str) -> None:
        with contextlib.suppress(errors.NotFound):
            self.stat(key)
            raise errors.AlreadyExists("the object exists already", where=self._where(key))

    def _names(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + check_key(key)}

    def _body(self, body: Buffer) -> object:
        """Return *body* as botocore sends it without a copy: plain memory, or a file if it is signed or limited."""
        limit = None if UPLOAD.rate is None else UPLOAD
        if self._signs_payload or limit is not None:
            return SeekableBody(view_of(body), limit, is_hashed_first=self._signs_payload)
        return view_of(body)

    def _where(self, key: str) -> str:
        return f"{self._location}{key} at {self._client.endpoint}"

    def _is_ours(self, name: str) -> bool:
        return name.startswith(self._prefix) and is_key(name.removeprefix(self._prefix))


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def _listed(number: int, part: SentPart) -> dict[str, object]:
    """Return a part as a completion lists it."""
    listed: dict[str, object] = {"PartNumber": number, "ETag": part.tag}
    if part.crc32 is not None:
        listed["ChecksumCRC32"] = part.crc32
    return listed


def _lacks_feature(error: ClientError) -> bool:
    return status_of(error) in (400, 501) and code_of(error) in _UNKNOWN_FEATURE
