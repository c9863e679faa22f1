"""Says which setting a server refuses when it creates no object, and which settings it took and did not heed."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

from botocore.exceptions import ClientError

from mlsync import errors
from mlsync.store.options import StoreOptions
from mlsync.store.s3.client import Client
from mlsync.store.s3.error_table import BY_CODE, BY_STATUS, FORBIDDEN, FORBIDDEN_OR_PROXY, UNKNOWN_ANSWER
from mlsync.store.s3.errors import answer_text, status_of, translating, translation_of
from mlsync.store.s3.new_objects import PACKS, kind_of, tags_of

# What a server calls what it refuses: in its code, in the header or argument that it names, in its words.
_WORDS: Final = (
    ("storage_class", ("storage-class", "storageclass", "storage class")),
    ("object_lock", ("object-lock", "objectlock", "object lock", "retention")),
    ("tags", ("tagging", "invalidtag", "object tags", "tag key", "tag value", "tagset")),
    ("acl", ("x-amz-acl", "accesscontrollist", "canned acl", "acl")),
    ("kms_key_id", ("kms-key-id", "kms key", "key id", "keyid", "arn:aws")),
    ("bucket_key", ("bucket-key",)),
    ("sse", ("server-side-encryption", "serversideencryption", "encryption", "kms", "sse")),
)
_ADVICE: Final = {
    "storage_class": "name a class that this server has, or remove it",
    "object_lock": "the bucket must have been made with object lock; make such a bucket, or remove it",
    "tags": "an object may have ten tags, two of which mlsync adds; change them, or remove them",
    "acl": "the bucket's owner owns all objects, or this server knows no such list; remove it",
    "kms_key_id": "name a key of the bucket's region that these credentials may use",
    "bucket_key": "remove it",
    "sse": "this server does not encrypt so; mlsync has encrypted all that it stores, so it may be removed",
}
# What a create needs besides s3:PutObject where a setting is set.
_RIGHTS: Final = {
    "tags": "s3:PutObjectTagging",
    "object_lock": "s3:PutObjectRetention",
    "acl": "s3:PutObjectAcl",
    "sse": "kms:GenerateDataKey and kms:Decrypt on the key",
}
# Those of which an object shows whether it got them.
_SEEN: Final = ("sse", "storage_class", "storage_class_others", "tags", "object_lock")
_SETTINGS: Final = (*_SEEN, "kms_key_id", "bucket_key", "acl")
_OTHERS: Final = "_others"
_REFUSALS: Final = (400, 405, 409, 501)
# Of servers that do not know such a thing, or of objects that do not have it.
_WITHOUT: Final = (400, 404, 405, 501)
_UNHEEDED: Final = "the store did not refuse, and did not do, what [s3] says of new objects: "


class Heeded:
    """Looks once at a new pack, and once at another new object, for whether the server did what the settings say."""

    def __init__(self, options: StoreOptions) -> None:
        self._options = options
        self._looks = any(getattr(options, name) is not None for name in _SEEN)
        self._looked_at: set[bool] = set()
        self._lock = threading.Lock()

    def warnings(self, client: Client, names: Mapping[str, str], key: str) -> list[str]:
        """Return what a person should know after *key* was created; mostly nothing, without a request."""
        is_pack = kind_of(key) == PACKS
        with self._lock:
            if not self._looks or is_pack in self._looked_at:
                return []
            self._looked_at.add(is_pack)
        said: list[str] = []
        # The object is there: whatever goes wrong here is no error of its creation. Without the right to look nothing
        # is known, and nothing is said.
        with suppress(errors.StoreError), translating(key):
            said.extend(self._unheeded(client, names, key))
        return said

    def _unheeded(self, client: Client, names: Mapping[str, str], key: str) -> Iterator[str]:
        options, answer = self._options, client.call("head_object", names)
        if options.sse is not None and answer.get("ServerSideEncryption") != options.sse:
            shown = answer.get("ServerSideEncryption") or "none"
            yield f"{_UNHEEDED}sse = {options.sse} (it shows {shown}); objects are sealed by mlsync all the same"
        wanted = options.storage_class if kind_of(key) == PACKS else options.storage_class_others
        found = answer.get("StorageClass") or "STANDARD"
        if wanted is not None and found.lower() != wanted.lower():
            yield f"{_UNHEEDED}the storage class {wanted}: a new object is in {found}"
        # A HEAD shows tags and locks only to who may see them, and not at every server.
        if options.tags is not None and "TagCount" not in answer:
            tagging = _shown(client, "get_object_tagging", names)
            if tagging is not None and _tags_in(tagging) != tags_of(key, options.tags):
                yield f"{_UNHEEDED}tags; rules that go by tags do not see new objects"
        if options.object_lock is not None and "ObjectLockRetainUntilDate" not in answer:
            retention = _shown(client, "get_object_retention", names)
            if retention is not None and not retention.get("Retention", {}).get("RetainUntilDate"):
                yield f"{_UNHEEDED}object_lock: NEW OBJECTS ARE NOT LOCKED"


def _shown(client: Client, operation: str, names: Mapping[str, str]) -> Mapping[str, Any] | None:
    """Return what a server shows of an object, nothing if it knows no such thing, ``None`` if it may not be asked."""
    try:
        answer: Mapping[str, Any] = client.call(operation, names)
    except ClientError as error:
        return {} if status_of(error) in _WITHOUT else None
    return answer


def _tags_in(answer: Mapping[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in answer.get("TagSet", ())}


def explained(error: errors.StoreError, options: StoreOptions) -> errors.StoreError:
    """Return the error of a create whose object should get what *options* say, with the setting that it is about."""
    cause = error.__cause__
    sent = tuple(name for name in _SETTINGS if getattr(options, name) is not None)
    if not isinstance(cause, ClientError) or not sent:
        return error
    found = translation_of(cause)
    if found in (FORBIDDEN, FORBIDDEN_OR_PROXY):
        return _with_rights(error, options, cause)
    if found is BY_CODE["InternalError"] and options.sse is not None and options.sse != "AES256":
        return _with(error, type(error), f"{error.advice}; a server without KMS answers so too: sse under [s3]")
    is_open = found in (UNKNOWN_ANSWER, BY_CODE["InvalidRequest"], BY_CODE["MethodNotAllowed"], BY_STATUS[400])
    if not is_open or status_of(cause) not in _REFUSALS:
        return error
    blamed = _blamed(cause, sent)
    if blamed is None:
        advice = f"it may be about what [s3] says of new objects: {', '.join(sent)}; remove one after the other"
        return _with(error, type(error), advice)
    advice = _ADVICE[blamed.removesuffix(_OTHERS)]
    if blamed == "sse" and options.kms_key_id is None and "key" in answer_text(cause).lower():
        advice = "this server wants the key named: set kms_key_id too"
    return _with(error, errors.StoreLocationInvalid, f"{blamed} under [s3]: {advice}")


def _with_rights(error: errors.StoreError, options: StoreOptions, cause: ClientError) -> errors.StoreError:
    """Return a refusal with the rights that settings need, unless the server said which one is missing."""
    advice = str(error.advice)
    if "not authorized to perform" in answer_text(cause) or "s3:PutObject" not in advice:
        return error
    needed = [name for name in _RIGHTS if getattr(options, name) is not None]
    if not str(options.sse).startswith("aws:kms"):
        needed = [name for name in needed if name != "sse"]
    rights = ", ".join(["s3:PutObject", *(f"{_RIGHTS[name]} (for {name})" for name in needed)])
    return _with(error, type(error), advice.replace("s3:PutObject", rights, 1))


def _blamed(cause: ClientError, sent: tuple[str, ...]) -> str | None:
    """Return the setting that an answer names, or else the only one."""
    answer = cause.response.get("Error", {})
    said = " ".join(str(answer.get(name) or "") for name in ("Code", "Header", "ArgumentName", "Message")).lower()
    for name, words in _WORDS:
        found = [one for one in sent if one.removesuffix(_OTHERS) == name]
        if found and any(word in said for word in words):
            return found[0]
    return sent[0] if len(sent) == 1 else None


def _with(error: errors.StoreError, kind: type[errors.StoreError], advice: str) -> errors.StoreError:
    result = kind(error.what, where=error.where, advice=advice)
    result.retry_after_s = error.retry_after_s
    return result
