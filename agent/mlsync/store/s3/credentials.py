"""Signing in: keys that expire, from an assumed role, an instance or a command.

botocore signs in, and renews keys before they expire. This module adds two things: a failure says what was tried, at
which host, and what to do; and keys that the store calls expired are renewed at once, even if this machine's clock says
that they are valid.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

from botocore import exceptions as aws
from botocore.credentials import RefreshableCredentials

from mlsync import errors
from mlsync.store.s3.error_table import SignInFailed, Translation
from mlsync.store.s3.errors import answer_text, code_of, translation_of

# Codes in answers to expired keys; a HEAD has no body, so it has only its status.
_EXPIRED: Final = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "400"})
_RENEWED: Final = "MlsyncKeysRenewed"
_BEGUN_S: Final = "mlsync_begun_s"
# Renewing keys again does not help if the store calls keys as new as this expired.
_NEW_S: Final = 60.0
_EXPIRED_BEFORE: Final = datetime(1970, 1, 1, tzinfo=UTC)

_TRUST = "check the role's name (AWS_ROLE_ARN or role_arn) and that its trust policy lets you assume it"
_REFUSED = "the token in AWS_WEB_IDENTITY_TOKEN_FILE was refused: make sure that whatever writes it renews it"
_FILE = "check AWS_WEB_IDENTITY_TOKEN_FILE, or the command of credential_process"
_SERVICE = "check the network, the region, and AWS_ENDPOINT_URL_STS if it is set"
_CLOCK = "set this machine's clock, or get new keys from their provider"
_TOKEN_CODES: Final = frozenset(
    {"ExpiredTokenException", "InvalidIdentityToken", "IDPRejectedClaim", "IDPCommunicationError"}
)


class SignIn:
    """How *session* gets its keys; knows which host it asked last, and for which role."""

    def __init__(self, session: Any) -> None:
        self._asked = ""
        self._renewed_s = -math.inf
        self._source: object = None
        self._lock = threading.Lock()
        # botocore logs, with a traceback, what it also raises.
        logging.getLogger("botocore.credentials").setLevel(logging.CRITICAL)
        session.events.register("before-send.sts", self._note_asked)
        try:
            self._keys = session.get_credentials()
        except Exception as error:
            raise self._failed(error, "a profile", None) from error
        if isinstance(self._keys, RefreshableCredentials):
            refresh = self._keys._refresh_using  # noqa: SLF001 - no other way in
            self._source = getattr(refresh, "__self__", None)
            self._keys._refresh_using = self._explaining(refresh)  # noqa: SLF001 - as above

    def watch(self, client: Any) -> None:
        """Renew keys that the store calls expired."""
        if isinstance(self._keys, RefreshableCredentials):
            client.meta.events.register("before-call.s3", _note_begun)
            client.meta.events.register("after-call.s3", self._renew_if_expired)

    def _note_asked(self, request: Any, **_more: object) -> None:
        self._asked = urlsplit(request.url).netloc

    def _explaining(self, refresh: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
        role = getattr(self._source, "_role_arn", None)

        def refresh_or_explain() -> dict[str, Any]:
            try:
                keys = refresh()
                expires = self._keys._expiry_datetime(keys["expiry_time"])  # noqa: SLF001 - as botocore reads it
            except Exception as error:
                raise self._failed(error, self._keys.method, role) from error
            if expires <= datetime.now(UTC):
                what = f"{_way(self._keys.method, role, self._asked)} returned keys that have already expired"
                raise SignInFailed(what, Translation(errors.StoreDenied, False, _CLOCK))
            return keys

        return refresh_or_explain

    def _failed(self, error: Exception, method: str, role: str | None) -> SignInFailed:
        what = f"{_way(method, role, self._asked)} failed: {_why(error)}"
        return SignInFailed(what, _translation_of_failure(error))

    def _renew_if_expired(self, parsed: dict[str, Any], context: dict[str, Any], **_more: object) -> None:
        if str(parsed.get("Error", {}).get("Code", "")) not in _EXPIRED:
            return
        with self._lock:
            # The store refuses all requests that were under way with the old keys; only the first refusal renews them.
            if context.get(_BEGUN_S, 0.0) >= self._renewed_s:
                now_s = time.monotonic()
                if now_s - self._renewed_s < _NEW_S:
                    return
                self._renewed_s = now_s
                self._forget_keys()
        parsed.setdefault("ResponseMetadata", {})[_RENEWED] = True

    def _forget_keys(self) -> None:
        """Make botocore fetch new keys for the next request, and not take the old ones from its cache."""
        cache, name = getattr(self._source, "_cache", None), getattr(self._source, "_cache_key", None)
        if cache is not None:
            with suppress(KeyError):
                del cache[name]
        self._keys._expiry_time = _EXPIRED_BEFORE  # noqa: SLF001 - no other way in


def _note_begun(context: dict[str, Any], **_more: object) -> None:
    context[_BEGUN_S] = time.monotonic()


def are_renewed(error: Exception) -> bool:
    """Return whether *error* was a refusal of keys that the next request renews."""
    cause = error.__cause__
    return isinstance(cause, aws.ClientError) and _RENEWED in cause.response.get("ResponseMetadata", {})


def _way(method: str, role: str | None, asked: str) -> str:
    of_role = f" for {role}" if role else ""
    return f"signing in by {method}{of_role}{f' at {asked}' if asked else ''}"


def _why(error: Exception) -> str:
    if isinstance(error, aws.ClientError):
        return f"it answered {answer_text(error)}"
    if isinstance(error, OSError):
        return f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
    return str(error).rstrip(".") or type(error).__name__


def _translation_of_failure(error: Exception) -> Translation:
    found = translation_of(error)
    if isinstance(error, aws.ClientError):
        if found is not None and found.is_transient:
            return Translation(errors.StoreUnavailable, True, _SERVICE)
        return Translation(errors.StoreDenied, False, _REFUSED if code_of(error) in _TOKEN_CODES else _TRUST)
    if isinstance(error, (aws.ConnectionError, aws.HTTPClientError)):
        return Translation(errors.StoreUnavailable, True, _SERVICE)
    if found is None:  # about a file, a command, or its output
        return Translation(errors.StoreDenied, False, _FILE)
    return found
