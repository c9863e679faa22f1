"""Turns botocore's errors into ours, by the table in ``error_table``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from botocore import exceptions as aws
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError, NameResolutionError, NewConnectionError

from mlsync import errors
from mlsync.store.s3.error_table import (
    BUSY,
    BY_CLASS,
    BY_CODE,
    BY_STATUS,
    CERTIFICATE,
    FORBIDDEN,
    FORBIDDEN_OR_PROXY,
    NO_HOST,
    PATH_FORM_REFUSED,
    PROXY,
    PROXY_REFUSES,
    REGION,
    RIGHTS,
    UNKNOWN_ANSWER,
    Explained,
    Translation,
)

# In an answer's metadata: the request did not say that its sender pays, and the server may have wanted that.
MAY_LACK_PAYER = "MlsyncMayLackPayer"
_PAYER = "; if the bucket makes requesters pay, set requester_pays = true under [s3]"
_RIGHT = re.compile(r"not authorized to perform: ((?:s3|kms):[A-Za-z]{1,60})\b")
_WHAT = {errors.NotFound: "no such object", errors.AlreadyExists: "the object exists already"}


def translation_of(error: BaseException | None) -> Translation | None:
    """Return our error for *error*, or ``None`` if it is not botocore's."""
    if isinstance(error, aws.ClientError):
        return _translation_of_answer(error)
    if isinstance(error, Explained):
        return error.translation
    found = _by_reason(error)
    if found is not None:
        return found
    for kind, result in BY_CLASS:
        if isinstance(error, kind):
            return result
    return UNKNOWN_ANSWER if isinstance(error, aws.BotoCoreError) else None


def _by_reason(error: BaseException | None) -> Translation | None:
    """Return our error for an error whose class alone does not tell, or ``None``."""
    # The same class stands for a connection that broke during the TLS handshake, which is transient.
    if isinstance(error, aws.SSLError) and "CERTIFICATE" in str(error).upper():
        return CERTIFICATE
    if isinstance(error, aws.ProxyConnectionError):
        return PROXY_REFUSES if "407" in reason_of(error) else PROXY
    return NO_HOST if isinstance(_inner(error), NameResolutionError) else None


def code_of(error: aws.ClientError) -> str:
    """Return the code in the answer's body; for a HEAD, its status in digits."""
    return str(error.response.get("Error", {}).get("Code") or "")


def status_of(error: aws.ClientError) -> int:
    """Return the answer's HTTP status."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def answer_text(error: aws.ClientError) -> str:
    """Return what the server answered: its code, and its message if it has one."""
    # botocore parses an empty element as None.
    message = str(error.response.get("Error", {}).get("Message") or "").strip().rstrip(".")
    return f"{code_of(error) or status_of(error)}" + (f": {message}" if message else "")


def is_transient(error: Exception) -> bool:
    """Return whether the error of botocore behind *error* is transient."""
    found = translation_of(error.__cause__)
    # A conflict that a later look settled is AlreadyExists, although its cause alone would be worth a retry.
    return found is not None and found.is_transient and isinstance(error, found.kind)


def asks_for_less(error: Exception) -> bool:
    """Return whether *error* says that the store is overloaded: explicitly, or by not answering in time."""
    cause = error.__cause__
    if isinstance(cause, (aws.ReadTimeoutError, aws.ConnectTimeoutError)):
        return True
    return isinstance(cause, aws.ClientError) and translation_of(cause) is BUSY


def refuses_path_form(error: aws.ClientError) -> bool:
    """Return whether the server wants the bucket's name in the host name and not in the path."""
    return code_of(error) in PATH_FORM_REFUSED


def hides_its_reason(error: aws.ClientError) -> bool:
    """Return whether a HEAD was refused for a reason that its answer, which has no body, cannot contain."""
    status = status_of(error)
    return code_of(error) == str(status) and (status in (400, 401, 403, 405, 501) or BY_STATUS.get(status) is None)


def refuses_operation(error: errors.StoreError) -> bool:
    """Return whether the store refuses this one operation, or does not know it: others may still work."""
    cause = error.__cause__
    if not isinstance(cause, aws.ClientError):
        return False
    found = translation_of(cause)
    return found in (FORBIDDEN, UNKNOWN_ANSWER, BY_CODE["MethodNotAllowed"]) or status_of(cause) in (405, 501)


@contextmanager
def translating(where: str) -> Iterator[None]:
    """Raise our errors instead of botocore's: the border of the S3 store."""
    try:
        yield
    except (aws.BotoCoreError, aws.ClientError, ResponseParserError, HTTPError) as error:
        raise translated(error, where) from error


def translated(error: Exception, where: str) -> errors.StoreError:
    """Return our error for *error*; raise it ``from`` the original, because :func:`is_transient` looks at that."""
    found = translation_of(error) or UNKNOWN_ANSWER
    result = found.kind(_text(error, found), where=where, advice=found.advice)
    if isinstance(error, aws.ClientError):
        operation = error.operation_name
        if found in (FORBIDDEN, FORBIDDEN_OR_PROXY) and (right := _stated_right(error) or RIGHTS.get(operation)):
            result.advice = str(found.advice).replace("GetObject, PutObject and ListBucket", right)
        if found in (FORBIDDEN, FORBIDDEN_OR_PROXY) and MAY_LACK_PAYER in error.response.get("ResponseMetadata", {}):
            result.advice = f"{result.advice}{_PAYER}"
        if found is REGION and (region := _stated_region(error)):
            result.advice = f"{found.advice}: region = {region}"
        result.retry_after_s = _retry_after_s(error)
    return result


def _retry_after_s(error: aws.ClientError) -> float:
    """Return how long the store asks to wait (RFC 9110, 10.2.3), or 0 if it does not; dates are ignored."""
    text = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("retry-after", "")
    return float(text) if text.isdecimal() else 0.0


def _translation_of_answer(error: aws.ClientError) -> Translation:
    found = BY_CODE.get(code_of(error)) or BY_STATUS.get(status_of(error))
    if found is not None:
        return found
    # 3xx that botocore could not follow, 4xx that no table has, 501: the same request gets the same answer.
    return REGION if 300 <= status_of(error) < 400 else UNKNOWN_ANSWER  # noqa: PLR2004  the redirects of HTTP


def _text(error: Exception, found: Translation) -> str:
    if found.kind in _WHAT:
        return _WHAT[found.kind]
    if isinstance(error, aws.ClientError):
        if found.kind is errors.ObjectArchived:
            return f"it lies in cold storage, and the store does not read it before it is thawed ({code_of(error)})"
        return f"the {'proxy' if found is PROXY_REFUSES else 'store'} answered {answer_text(error)}"
    return _text_without_answer(error, found)


def _text_without_answer(error: Exception, found: Translation) -> str:
    if isinstance(error, Explained):
        return str(error)
    if isinstance(error, aws.UnseekableStreamError):
        return "the store redirects this request to another region"
    if found.kind is errors.StoreDenied:
        return f"there are no credentials to sign in with: {error}".rstrip(".")
    if isinstance(error, aws.ProxyConnectionError):
        return f"the proxy {error.kwargs.get('proxy_url')} refuses the connection: {reason_of(error)}"
    return f"the store did not answer: {reason_of(error)}"


def reason_of(error: Exception) -> str:
    """Return why there was no answer, in the system's own words if botocore hides them."""
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
    """Return the error of urllib3 behind an error of botocore."""
    return getattr(error, "kwargs", {}).get("error")


def _stated_right(error: aws.ClientError) -> str:
    """Return the right that is missing if the answer names it, else an empty string.

    One request may need several: for tags, for the key that encrypts, and for learning that an object is missing.
    """
    found = _RIGHT.search(str(error.response.get("Error", {}).get("Message")))
    return found[1] if found else ""


def _stated_region(error: aws.ClientError) -> str:
    """Return the bucket's region if the answer names it, else an empty string."""
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region = str(headers.get("x-amz-bucket-region", ""))
    return region if re.fullmatch("[a-z0-9-]{1,40}", region) else ""
