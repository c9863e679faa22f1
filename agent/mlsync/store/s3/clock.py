"""The server's clock, where this machine's is wrong: requests are signed by the time that the server told.

A signature names its moment, and S3 refuses one that is more than a quarter of an hour from its own time. A node whose
clock was never set must not go without backups for that; what its clock says otherwise (times of versions) stays.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

from botocore import auth
from botocore.exceptions import ClientError

SIGNER: Final = "mlsync-s3v4"
# What the server's answer says to a signature of another time; a HEAD has no body that could say it.
_TOO_FAR: Final = frozenset({"RequestTimeTooSkewed", "RequestExpired", "403"})
# Of S3's quarter of an hour; a clock that is less wrong is not what a request was refused for.
_DIFFERS_FROM_S: Final = 300.0
_CONTEXT: Final = "mlsync_ahead_s"
_CORRECTED: Final = "MlsyncClockCorrected"


class ServerClock:
    """Learns from refusals how far the server's clock is ahead, and has *client* sign by that from then on."""

    def __init__(self, client: Any) -> None:
        self.ahead_s = 0.0
        auth.AUTH_TYPE_MAPS[SIGNER] = _SignsByServerClock
        client.meta.events.register("after-call.s3", self._heard)
        client.meta.events.register("choose-signer.s3", self._choose)

    def explains(self, error: Exception) -> bool:
        """Whether *error* was a refusal from which the clock was learned: the same request is taken now."""
        cause = error.__cause__
        return isinstance(cause, ClientError) and _CORRECTED in cause.response.get("ResponseMetadata", {})

    def _heard(self, parsed: dict[str, Any], **_more: object) -> None:
        code = str(parsed.get("Error", {}).get("Code", ""))
        metadata = parsed.get("ResponseMetadata", {})
        text = metadata.get("HTTPHeaders", {}).get("date")
        if code not in _TOO_FAR or text is None:
            return
        try:
            ahead_s = parsedate_to_datetime(text).timestamp() - time.time()
        except ValueError:
            return
        if abs(ahead_s - self.ahead_s) > _DIFFERS_FROM_S:
            self.ahead_s = ahead_s
            metadata[_CORRECTED] = True

    def _choose(self, context: dict[str, Any], **_more: object) -> str | None:
        """Name our signer, once there is something to correct; botocore's own until then."""
        if not self.ahead_s:
            return None
        context[_CONTEXT] = self.ahead_s
        return SIGNER


class _SignsByServerClock(auth.S3SigV4Auth):  # type: ignore[misc]  # botocore is without types here
    """Signature version 4 of the moment that it is at the server."""

    def _modify_request_before_signing(self, request: Any) -> None:
        moment = datetime.fromtimestamp(time.time() + request.context[_CONTEXT], UTC)
        request.context["timestamp"] = moment.strftime(auth.SIGV4_TIMESTAMP)
        super()._modify_request_before_signing(request)
