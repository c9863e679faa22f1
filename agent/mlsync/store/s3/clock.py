"""The server's clock: if this machine's is wrong, requests are signed by the server's time.

A signature contains its time, and S3 refuses one that differs from its own by more than a quarter of an hour. A node
whose clock was never set must still get backups. Only signatures and the ends of locks use the server's time; times of
versions do not.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

from botocore import auth
from botocore.exceptions import ClientError

SIGNER: Final = "mlsync-s3v4"
# Codes in answers to a signature of another time; a HEAD has no body, so it has only its status.
_WRONG_TIME: Final = frozenset({"RequestTimeTooSkewed", "RequestExpired", "403"})
# Of S3's quarter of an hour; a smaller difference is not why a request was refused.
_DIFFERS_FROM_S: Final = 300.0
_AHEAD_MAX_S: Final = 40 * 365 * 86400.0
_CONTEXT: Final = "mlsync_ahead_s"
_CORRECTED: Final = "MlsyncClockCorrected"


class ServerClock:
    """Learns from refusals how far the server's clock is ahead, and makes *client* sign by it from then on."""

    def __init__(self, client: Any) -> None:
        self.ahead_s = 0.0
        self._told_ahead_s = 0.0
        auth.AUTH_TYPE_MAPS[SIGNER] = _SignsByServerClock
        client.meta.events.register("after-call.s3", self._learn)
        client.meta.events.register("choose-signer.s3", self._choose_signer)

    def explains(self, error: Exception) -> bool:
        """Return whether *error* corrected the clock: the server accepts the same request now."""
        cause = error.__cause__
        return isinstance(cause, ClientError) and _CORRECTED in cause.response.get("ResponseMetadata", {})

    def now_s(self) -> float:
        """Return the server's time by its last answer, to some seconds; this machine's before there is one."""
        # No clock is so wrong: that is a store that lies, and its date would be past the end of time.
        return time.time() + (self._told_ahead_s if abs(self._told_ahead_s) < _AHEAD_MAX_S else 0.0)

    def _learn(self, parsed: dict[str, Any], **_more: object) -> None:
        code = str(parsed.get("Error", {}).get("Code", ""))
        metadata = parsed.get("ResponseMetadata", {})
        text = metadata.get("HTTPHeaders", {}).get("date")
        if text is None:
            return
        try:
            ahead_s = parsedate_to_datetime(text).timestamp() - time.time()
        except ValueError:
            return
        self._told_ahead_s = ahead_s
        if code not in _WRONG_TIME:
            return
        if abs(ahead_s - self.ahead_s) > _DIFFERS_FROM_S:
            self.ahead_s = ahead_s
            metadata[_CORRECTED] = True

    def _choose_signer(self, context: dict[str, Any], **_more: object) -> str | None:
        """Return our signer if there is something to correct, else ``None`` for botocore's own."""
        if not self.ahead_s:
            return None
        context[_CONTEXT] = self.ahead_s
        return SIGNER


class _SignsByServerClock(auth.S3SigV4Auth):  # type: ignore[misc]  # botocore is without types here
    """Signature version 4 with the server's time."""

    def _modify_request_before_signing(self, request: Any) -> None:
        moment = datetime.fromtimestamp(time.time() + request.context[_CONTEXT], UTC)
        request.context["timestamp"] = moment.strftime(auth.SIGV4_TIMESTAMP)
        super()._modify_request_before_signing(request)
