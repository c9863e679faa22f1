"""Google Cloud: whether the instance is preempted, and maintenance of its host.

The question whether it is preempted is answered when that changes: an agent that asks all the time costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from urllib.parse import quote

from mlsync.preemption.metadata import NOT_FOUND, OK, Answer, Endpoint, MetadataFault, ask
from mlsync.preemption.notice import Effect, PlatformNotice
from mlsync.preemption.platform import Description, described_service

SERVICE: Final = Endpoint("169.254.169.254")
_INSTANCE: Final = "/computeMetadata/v1/instance/"
_HEADERS: Final = {"Metadata-Flavor": "Google"}
_WAIT_S: Final = 20
_ETAG_MAX: Final = 64
_ADVICE: Final = "the metadata service of this instance must be reachable; a GKE pod may be kept from it"


class Google:
    """Asks Google's metadata service."""

    name = "gcp"
    grace_s = 30.0
    lead_s = 30.0
    # A server that does not wait must not be asked without a pause.
    poll_s = 1.0
    patience_s = 0.0

    def __init__(self, endpoint: Endpoint = SERVICE, *, wait_s: int = _WAIT_S) -> None:
        self._endpoint = endpoint
        self._wait_s = wait_s
        self._etag = ""
        self._since_s: float | None = None

    def notices(self, now_s: float) -> list[PlatformNotice]:
        """Return what the service tells of this instance; this waits for a change for up to 20 seconds."""
        return [*self._preempted(), *self._maintenance(now_s)]

    def describe(self, now_s: float) -> Description:
        """Return how notices come here."""
        told_by = "instance/preempted and instance/maintenance-event"
        return described_service(self, told_by, self._endpoint, now_s, _ADVICE)

    def _preempted(self) -> Iterator[PlatformNotice]:
        # With the mark of the last answer no change is missed that came between two questions.
        wait = f"?wait_for_change=true&timeout_sec={self._wait_s}&last_etag={self._etag}" if self._etag else ""
        answer = self._get("preempted" + wait, self._wait_s if self._etag else 0)
        said = answer.text.upper()
        if answer.status == NOT_FOUND or said not in ("TRUE", "FALSE"):
            raise MetadataFault(f"instance/preempted: status {answer.status}, neither TRUE nor FALSE")
        self._etag = quote(answer.headers.get("etag", "")[:_ETAG_MAX], safe="")
        if said == "TRUE":
            # A second change would be news; this one is told at once, each time.
            self._etag = ""
            yield PlatformNotice(self.name, "termination", Effect.ENDS, None, certain=True, ident="gcp preempted")

    def _maintenance(self, now_s: float) -> Iterator[PlatformNotice]:
        said = self._get("maintenance-event", 0).text
        if said.startswith("TERMINATE"):
            self._since_s = now_s if self._since_s is None else self._since_s
            # A minute without GPU, an hour with one; nobody says when.
            ident = f"gcp maintenance {self._since_s:.0f}"
            yield PlatformNotice(self.name, "maintenance", Effect.ENDS, self._since_s + 60.0, certain=True, ident=ident)
        elif said.startswith("MIGRATE"):
            yield PlatformNotice(self.name, "migration", Effect.PAUSE, None, certain=True, ident="gcp migration")
        else:
            self._since_s = None

    def _get(self, path: str, wait_s: float) -> Answer:
        answer = ask(self._endpoint, _INSTANCE + path, _HEADERS, wait_s=wait_s)
        if answer.status not in (OK, NOT_FOUND):
            raise MetadataFault(f"{path.partition('?')[0]}: status {answer.status}")
        return answer
