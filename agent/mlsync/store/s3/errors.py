"""What botocore's errors mean for a store: the one table, with a reason for each line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from botocore import exceptions as aws
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError, NameResolutionError, NewConnectionError

from mlsync import errors
from mlsync.store.base import ARCHIVED_ADVICE


@dataclass(frozen=True, slots=True)
class Meaning:
    """What an error is to us: its class, whether another try may help, and what a person can do."""

    kind: type[errors.StoreError]
    is_transient: bool
    advice: str | None = None


class SignInFailed(aws.BotoCoreError):  # type: ignore[misc]  # botocore is without types here
    """Keys could not be had: *what* says how it was tried, and *means* what that is to us."""

    def __init__(self, what: str, means: Meaning) -> None:
        Exception.__init__(self, what)
        self.means = means


_AWAY = "check the network and the endpoint; nothing was lost"
_PROXY = Meaning(errors.StoreUnavailable, True, "check the proxy that HTTPS_PROXY or HTTP_PROXY names, and NO_PROXY")
_PROXY_REFUSES = Meaning(
    errors.StoreUnavailable, False, "give the proxy's user and password in HTTPS_PROXY or HTTP_PROXY, or fix NO_PROXY"
)
_BUSY = Meaning(errors.StoreUnavailable, True, "the store asks for fewer requests; try later")
_FAULT = Meaning(errors.StoreUnavailable, True, "the store has an internal fault; see its status page or log")
_DAMAGED_ON_THE_WAY = Meaning(errors.StoreUnavailable, True, "check the network: it damages what mlsync sends")
_CONFLICT = Meaning(errors.StoreUnavailable, True, "another writer creates the same object; run only one of them")
_TAKEN = Meaning(errors.AlreadyExists, False)
_MISSING = Meaning(errors.NotFound, False)
_BAD_KEYS = Meaning(
    errors.StoreDenied, False, "check the access key and the secret key, and that they are this store's"
)
_BAD_KEY_ID = Meaning(errors.StoreDenied, False, "check the access key (AWS_ACCESS_KEY_ID) and that it is this store's")
_BAD_SECRET = Meaning(
    errors.StoreDenied, False, "check the secret key (AWS_SECRET_ACCESS_KEY): it does not fit the access key"
)
_EXPIRED = Meaning(errors.StoreDenied, False, "get new temporary credentials, or use a profile that renews them")
_FORBIDDEN = Meaning(
    errors.StoreDenied, False, "check that the credentials allow GetObject, PutObject and ListBucket there"
)
_FORBIDDEN_OR_PROXY = Meaning(errors.StoreDenied, False, f"{_FORBIDDEN.advice}, and that no proxy in between refuses")
# What an operation needs, as policies name it. Without the right to list, what is not there is refused as well.
_RIGHTS = {
    "ListObjectsV2": "s3:ListBucket",
    "GetObject": "s3:GetObject and s3:ListBucket",
    "HeadObject": "s3:GetObject and s3:ListBucket",
    "PutObject": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "ListParts": "s3:ListMultipartUploadParts",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "DeleteObject": "s3:DeleteObject",
}
_CLOCK = Meaning(errors.StoreDenied, False, "set this machine's clock: it differs too much from the store's")
_REGION = Meaning(errors.StoreLocationInvalid, False, "set the bucket's own region")
_FULL = Meaning(errors.StoreFull, False, "free some room, have the quota raised, or prune old versions")
_NO_BUCKET = Meaning(errors.StoreLocationInvalid, False, "make the bucket first, or check its name and the endpoint")
_PROFILE = Meaning(errors.StoreLocationInvalid, False, "fix the profile in ~/.aws/config, or name another one")
_NEEDS_CHECKSUM = (
    "if the bucket demands checksums or signed bodies, set payload_signing = always; if it is set already, the "
    "store's answer says what it wants"
)
_ADDRESSING = Meaning(errors.StoreLocationInvalid, False, "set addressing = virtual: this store wants the bucket's "
                      "name in the host's")  # fmt: skip
# Of servers that want the bucket's name in the host's: Aliyun OSS, Tencent COS, Volcengine TOS, Huawei OBS.
_PATH_FORM_REFUSED = frozenset(
    {"SecondLevelDomainForbidden", "PathStyleDomainForbidden", "InvalidPathAccess", "VirtualHostDomainRequired"}
)
_UNKNOWN_ANSWER = Meaning(errors.StoreBroken, False, "check that the endpoint speaks S3")

# By the code in the answer's body.
_BY_CODE: dict[str, Meaning] = {
    "InternalError": _FAULT,  # AWS asks for another try
    "ServiceUnavailable": _BUSY,
    "SlowDown": _BUSY,
    "Throttling": _BUSY,
    "ThrottlingException": _BUSY,
    "TooManyRequests": _BUSY,
    "RequestLimitExceeded": _BUSY,
    "BandwidthLimitExceeded": _BUSY,
    "SlowDownRead": _BUSY,  # MinIO's names for it
    "SlowDownWrite": _BUSY,
    "RequestTimeout": _FAULT,  # our bytes came too slowly; a 400, yet it passes
    "PriorRequestNotComplete": _FAULT,
    "IncompleteBody": _DAMAGED_ON_THE_WAY,  # the connection was cut in the middle of a body
    "BadDigest": _DAMAGED_ON_THE_WAY,  # the body differs from its checksum: not ours, it was summed as it was sent
    "XAmzContentSHA256Mismatch": _DAMAGED_ON_THE_WAY,
    "ConditionalRequestConflict": _CONFLICT,  # two conditional creates at once; who won is not known yet
    "OperationAborted": _CONFLICT,
    "PreconditionFailed": _TAKEN,  # If-None-Match: * was not met
    "ObjectAlreadyExists": _TAKEN,
    "FileAlreadyExists": _TAKEN,  # Aliyun OSS
    "NoSuchKey": _MISSING,
    "NoSuchUpload": _MISSING,  # aborted, or completed by a try whose answer was lost
    "NoSuchBucket": _NO_BUCKET,
    "InvalidBucketName": _NO_BUCKET,
    "InvalidAccessKeyId": _BAD_KEY_ID,
    "SignatureDoesNotMatch": _BAD_SECRET,
    "AuthorizationHeaderMalformed": _REGION,  # signed for another region
    "PermanentRedirect": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "ExpiredToken": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
    "InvalidToken": _EXPIRED,
    "RequestTimeTooSkewed": _CLOCK,
    "RequestExpired": _CLOCK,
    "AccessDenied": _FORBIDDEN,
    "AllAccessDisabled": _FORBIDDEN,
    "AccountProblem": _FORBIDDEN,
    "MethodNotAllowed": Meaning(errors.StoreDenied, False, "the store or an object lock does not allow this"),
    "InvalidObjectState": Meaning(errors.ObjectArchived, False, ARCHIVED_ADVICE),
    **dict.fromkeys(_PATH_FORM_REFUSED, _ADDRESSING),
    "QuotaExceeded": _FULL,
    "InsufficientStorage": _FULL,
    "XMinioStorageFull": _FULL,
    "XMinioAdminBucketQuotaExceeded": _FULL,
    "InvalidRange": Meaning(errors.StoreBroken, False, "the object is shorter than what was written"),
    "InvalidPart": Meaning(errors.StoreBroken, False, "the store lost a part of an upload; begin it again"),
    "InvalidRequest": Meaning(errors.StoreBroken, False, _NEEDS_CHECKSUM),
    "MissingContentLength": Meaning(errors.StoreBroken, False, "something in between drops Content-Length"),
}

# By the answer's status, where the code says nothing: HEAD has no body, and proxies have words of their own.
_BY_STATUS: dict[int, Meaning] = {
    400: Meaning(errors.StoreBroken, False, "check region and endpoint, and whether temporary keys have expired"),
    401: _BAD_KEYS,
    403: _FORBIDDEN_OR_PROXY,
    404: _MISSING,
    407: _PROXY_REFUSES,
    408: _FAULT,
    409: _CONFLICT,
    412: _TAKEN,
    429: _BUSY,
    500: _FAULT,
    502: Meaning(errors.StoreUnavailable, True, "something between here and the store does not reach it"),
    503: _BUSY,
    504: Meaning(errors.StoreUnavailable, True, "something between here and the store does not reach it"),
    507: _FULL,
    509: _BUSY,
}

# By class, the first that fits: the special before the general.
_BY_CLASS: tuple[tuple[type[Exception], Meaning], ...] = (
    (aws.NoCredentialsError, Meaning(errors.StoreDenied, False, "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                                     "or name a profile")),
    (aws.PartialCredentialsError, Meaning(errors.StoreDenied, False, "give the access key and the secret key")),
    # Instance roles and single sign-on ask a service, which may be away for a moment.
    (aws.CredentialRetrievalError, Meaning(errors.StoreDenied, True, "check the profile or the instance's role")),
    (aws.MetadataRetrievalError, Meaning(errors.StoreDenied, True, "check the instance's role")),
    (aws.TokenRetrievalError, Meaning(errors.StoreDenied, False, "sign in again: aws sso login")),
    (aws.SSOError, Meaning(errors.StoreDenied, False, "sign in again: aws sso login")),
    (aws.ProfileNotFound, _PROFILE),
    (aws.InvalidConfigError, _PROFILE),  # a role without a source, a source that is not there
    (aws.InfiniteLoopConfigError, _PROFILE),
    (aws.UnknownCredentialError, _PROFILE),
    (aws.ConfigParseError, _PROFILE),
    (aws.NoRegionError, _REGION),
    (aws.InvalidRegionError, _REGION),
    (aws.ParamValidationError, _NO_BUCKET),
    (aws.ConnectionError, Meaning(errors.StoreUnavailable, True, _AWAY)),  # no name, no route, refused, too slow
    (aws.HTTPClientError, Meaning(errors.StoreUnavailable, True, _AWAY)),  # reset, silent, cut in the middle
    (aws.IncompleteReadError, Meaning(errors.StoreUnavailable, True, _AWAY)),  # fewer bytes than were announced
    (HTTPError, _DAMAGED_ON_THE_WAY),  # what botocore lets through: TLS that finds a body changed on the way
    # An error page of a proxy in place of XML.
    (ResponseParserError, Meaning(errors.StoreUnavailable, True, _UNKNOWN_ANSWER.advice)),
    # A redirect to the bucket's region after a body was sent: the region is known now and the next try goes there.
    (aws.UnseekableStreamError, Meaning(errors.StoreLocationInvalid, True, _REGION.advice)),
)  # fmt: skip

_NO_HOST = Meaning(errors.StoreUnavailable, True, "check how the endpoint is spelled, and this machine's DNS")
_CERTIFICATE = Meaning(errors.StoreUnavailable, False, "name the authority that signed its certificate: ca_file")


_WHAT = {errors.NotFound: "no such object", errors.AlreadyExists: "the object exists already"}


def meaning(error: BaseException | None) -> Meaning | None:
    """What *error* means, or None if it is not botocore's."""
    if isinstance(error, aws.ClientError):
        return _meaning_of_answer(error)
    if isinstance(error, SignInFailed):
        return error.means
    found = _by_reason(error)
    if found is not None:
        return found
    for kind, result in _BY_CLASS:
        if isinstance(error, kind):
            return result
    return _UNKNOWN_ANSWER if isinstance(error, aws.BotoCoreError) else None


def _by_reason(error: BaseException | None) -> Meaning | None:
    """What *error* means where its class alone does not say it."""
    # The same class stands for a connection that broke while TLS began, which passes.
    if isinstance(error, aws.SSLError) and "CERTIFICATE" in str(error).upper():
        return _CERTIFICATE
    if isinstance(error, aws.ProxyConnectionError):
        return _PROXY_REFUSES if "407" in _reason(error) else _PROXY
    return _NO_HOST if isinstance(_inner(error), NameResolutionError) else None


def code_of(error: aws.ClientError) -> str:
    """The code in the answer's body; for a HEAD its status in digits."""
    return str(error.response.get("Error", {}).get("Code") or "")


def status_of(error: aws.ClientError) -> int:
    """The answer's HTTP status."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def said(error: aws.ClientError) -> str:
    """What a server answered: its code, and its words if it has any."""
    # An empty element is parsed to None.
    message = str(error.response.get("Error", {}).get("Message") or "").strip().rstrip(".")
    return f"{code_of(error) or status_of(error)}" + (f": {message}" if message else "")


def is_transient(error: Exception) -> bool:
    """Whether the error of botocore behind *error* may pass."""
    found = meaning(error.__cause__)
    # A conflict that a look has settled since is AlreadyExists, though its cause alone would be worth another try.
    return found is not None and found.is_transient and isinstance(error, found.kind)


def asks_for_less(error: Exception) -> bool:
    """Whether *error* says that the store has too much to do: in so many words, or by not answering in time."""
    cause = error.__cause__
    if isinstance(cause, (aws.ReadTimeoutError, aws.ConnectTimeoutError)):
        return True
    return isinstance(cause, aws.ClientError) and meaning(cause) is _BUSY


def refuses_path_form(error: aws.ClientError) -> bool:
    """Whether a server wants the bucket's name in the host's and not in the path."""
    return code_of(error) in _PATH_FORM_REFUSED


def hides_its_reason(error: aws.ClientError) -> bool:
    """Whether a HEAD was refused for a reason that its answer, which has no body, cannot say."""
    status = status_of(error)
    return code_of(error) == str(status) and (status in (400, 401, 403, 405, 501) or _BY_STATUS.get(status) is None)


def refuses_operation(error: errors.StoreError) -> bool:
    """Whether the store does not let us do this one thing, or does not know it: other things may well go on."""
    cause = error.__cause__
    if not isinstance(cause, aws.ClientError):
        return False
    means = meaning(cause)
    return means in (_FORBIDDEN, _UNKNOWN_ANSWER, _BY_CODE["MethodNotAllowed"]) or status_of(cause) in (405, 501)


@contextmanager
def translating(where: str) -> Iterator[None]:
    """Let no error of botocore out: the border of the S3 store."""
    try:
        yield
    except (aws.BotoCoreError, aws.ClientError, ResponseParserError, HTTPError) as error:
        raise translated(error, where) from error


def translated(error: Exception, where: str) -> errors.StoreError:
    """The error of ours that *error* is; raise it ``from`` the original, which :func:`is_transient` looks at."""
    found = meaning(error) or _UNKNOWN_ANSWER
    result = found.kind(_text(error, found), where=where, advice=found.advice)
    if isinstance(error, aws.ClientError):
        if found in (_FORBIDDEN, _FORBIDDEN_OR_PROXY) and (right := _RIGHTS.get(error.operation_name)):
            result.advice = str(found.advice).replace("GetObject, PutObject and ListBucket", right)
        if found is _REGION and (region := _told_region(error)):
            result.advice = f"{found.advice}: region = {region}"
        result.retry_after_s = _retry_after_s(error)
    return result


def _retry_after_s(error: aws.ClientError) -> float:
    """How long the store asks to be left alone (RFC 9110, 10.2.3), 0 if it does not; dates are not taken for it."""
    text = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("retry-after", "")
    return float(text) if text.isdecimal() else 0.0


def _meaning_of_answer(error: aws.ClientError) -> Meaning:
    found = _BY_CODE.get(code_of(error)) or _BY_STATUS.get(status_of(error))
    if found is not None:
        return found
    # 3xx that botocore could not follow, 4xx that no table knows, 501: the same request gets the same answer.
    return _REGION if 300 <= status_of(error) < 400 else _UNKNOWN_ANSWER  # noqa: PLR2004  the redirects of HTTP


def _text(error: Exception, found: Meaning) -> str:
    if found.kind in _WHAT:
        return _WHAT[found.kind]
    if isinstance(error, aws.ClientError):
        return f"the {'proxy' if found is _PROXY_REFUSES else 'store'} answered {said(error)}"
    return _text_without_answer(error, found)


def _text_without_answer(error: Exception, found: Meaning) -> str:
    if isinstance(error, SignInFailed):
        return str(error)
    if isinstance(error, aws.UnseekableStreamError):
        return "the store redirects this request to another region"
    if found.kind is errors.StoreDenied:
        return f"there are no credentials to sign in with: {error}".rstrip(".")
    if isinstance(error, aws.ProxyConnectionError):
        return f"the proxy {error.kwargs.get('proxy_url')} refuses the connection: {_reason(error)}"
    return f"the store did not answer: {_reason(error)}"


def _reason(error: Exception) -> str:
    """Why there was no answer, in the system's own words where botocore keeps them back."""
    inner = _inner(error)
    if isinstance(inner, NameResolutionError):
        return "its host name cannot be resolved"
    cause = getattr(inner, "original_error", None) or getattr(inner, "__cause__", None)
    if isinstance(cause, NewConnectionError):
        cause = cause.__cause__
    if isinstance(error, (aws.EndpointConnectionError, aws.ProxyConnectionError)) and isinstance(cause, OSError):
        return cause.strerror or str(cause)
    return str(error).rstrip(".")


def _inner(error: BaseException | None) -> object:
    """The error of urllib3 that an error of botocore was made from."""
    return getattr(error, "kwargs", {}).get("error")


def _told_region(error: aws.ClientError) -> str:
    """The bucket's region, if the answer tells it."""
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region = str(headers.get("x-amz-bucket-region", ""))
    return region if re.fullmatch("[a-z0-9-]{1,40}", region) else ""
