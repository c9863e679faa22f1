"""MiniStack with what AWS looks at besides when it holds somebody to a policy; ``aws_emulator.py`` starts it.

MiniStack knows rights and resources, but not every condition and not every right that S3 asks for. As AWS documents:

- ``s3:if-none-match`` is there with a create that has the header, and ``s3:ObjectCreationOperation`` says whether a
  request with ``s3:PutObject`` makes an object (a put, a completion) or not (the begin of an upload, a part);
- who may not list the bucket is refused when he asks for an object that is missing, as if it were there. The key that
  he asked for counts as the prefix of that listing;
- headers of a put that tag an object or lock it need rights of their own, and a key of KMS for its encryption too;
- a request to KMS has the keys ``kms:EncryptionContext:…``.
"""

from __future__ import annotations

import contextvars
import json
from typing import NamedTuple

from ministack import app
from ministack.core import iam_actions, iam_evaluator
from ministack.services import s3

HEADER_RIGHTS = {
    "x-amz-tagging": "s3:PutObjectTagging",
    "x-amz-object-lock-mode": "s3:PutObjectRetention",
    "x-amz-acl": "s3:PutObjectAcl",
}
KMS_KEY = "x-amz-server-side-encryption-aws-kms-key-id"


class Asked(NamedTuple):
    """The request that is being judged."""

    service: str
    method: str
    path: str
    headers: dict
    body: bytes
    parameters: dict

    @property
    def place(self) -> tuple[str, str]:
        """The bucket and the key."""
        bucket, _, key = self.path.lstrip("/").partition("/")
        return bucket, key

    @property
    def makes_object(self) -> bool:
        """Whether an object is there after it."""
        if self.method == "POST":
            return "uploadId" in self.parameters
        return "partNumber" not in self.parameters


_asked: contextvars.ContextVar[Asked | None] = contextvars.ContextVar("asked", default=None)
_arn_of, _more_checks, _enforce = (
    iam_actions.extract_resource_arn,
    iam_actions.s3_additional_checks,
    iam_evaluator.enforce,
)


def extract_resource_arn(service, method, path, headers, body, parameters, region, account):
    """As MiniStack's, which is called first for each request."""
    _asked.set(Asked(service, method, path, headers, body, parameters))
    return _arn_of(service, method, path, headers, body, parameters, region, account)


def s3_additional_checks(method, path, headers, body, parameters):
    """Rights that the request needs besides its first one."""
    checks = _more_checks(method, path, headers, body, parameters)
    asked = Asked("s3", method, path, headers, body, parameters)
    bucket, key = asked.place
    if not key:
        return checks
    arn = f"arn:aws:s3:::{bucket}/{key}"
    stored = s3._buckets.get(bucket, {}).get("objects", {}).get(key)
    if method in ("GET", "HEAD") and not parameters.keys() & {"uploadId", "tagging", "retention"}:
        if stored is None:
            checks.append(("s3:ListBucket", f"arn:aws:s3:::{bucket}"))
        elif used := stored.get("preserved_headers", {}).get(KMS_KEY):
            checks.append(("kms:Decrypt", used))
    elif method in ("PUT", "POST") and "uploadId" not in parameters and "tagging" not in parameters:
        checks += [(right, arn) for header, right in HEADER_RIGHTS.items() if headers.get(header)]
        if used := headers.get(KMS_KEY):
            checks.append(("kms:GenerateDataKey", used))
    elif method in ("PUT", "POST") and "uploadId" in parameters:
        # As AWS: a part is sealed with the upload's own key, which is unsealed for it.
        used = s3._multipart_uploads.get(_one(parameters["uploadId"]), {}).get("preserved_headers", {}).get(KMS_KEY)
        checks += [("kms:Decrypt", used), ("kms:GenerateDataKey", used)] if used else []
    return checks


def enforce(access_key, action, service, region, resource_arn="*", service_context=None):
    """As MiniStack's, with more of what conditions ask for."""
    asked, more = _asked.get(), {}
    if asked is not None and asked.service == "s3" and action == "s3:PutObject":
        more["s3:ObjectCreationOperation"] = str(asked.makes_object).lower()
        if asked.headers.get("if-none-match"):
            more["s3:if-none-match"] = asked.headers["if-none-match"]
    elif asked is not None and asked.service == "s3" and action == "s3:ListBucket" and asked.place[1]:
        more["s3:prefix"] = asked.place[1]
    elif asked is not None and asked.service == "kms":
        context = json.loads(asked.body or b"{}").get("EncryptionContext") or {}
        more = {f"kms:EncryptionContext:{name}": value for name, value in context.items()}
    return _enforce(access_key, action, service, region, resource_arn, {**(service_context or {}), **more})


def _one(value):
    return value[0] if isinstance(value, list) else value


if __name__ == "__main__":
    iam_actions.extract_resource_arn = extract_resource_arn
    iam_actions.s3_additional_checks = s3_additional_checks
    iam_evaluator.enforce = enforce
    app.main()
