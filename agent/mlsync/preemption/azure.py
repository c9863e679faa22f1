"""Azure: Scheduled Events of this virtual machine.

Asking switches the service on, and the first answer may take two minutes. mlsync never approves an event: an approval
holds for all machines that the event names.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from mlsync.preemption.metadata import OK, Endpoint, MetadataFault, ask
from mlsync.preemption.notice import Effect, PlatformNotice, time_of, word
from mlsync.preemption.platform import Description, described_service

SERVICE: Final = Endpoint("169.254.169.254")
_EVENTS: Final = "/metadata/scheduledevents?api-version=2020-07-01"
_NAME: Final = "/metadata/instance/compute/name?api-version=2021-02-01&format=text"
_HEADERS: Final = {"Metadata": "true"}
# The document names every machine of a scale set.
_DOCUMENT_BYTES_MAX: Final = 256 << 10
_EVENT_COUNT_MAX: Final = 100
_KINDS: Final = {
    "Preempt": ("termination", Effect.ENDS),
    "Terminate": ("termination", Effect.ENDS),
    "Redeploy": ("redeployment", Effect.ENDS),
    "Reboot": ("reboot", Effect.ENDS),
    "Freeze": ("freeze", Effect.PAUSE),
}
_ADVICE: Final = "Scheduled Events must be reachable at 169.254.169.254; the first answer may take two minutes"


class Azure:
    """Asks Azure's metadata service."""

    name = "azure"
    grace_s = 30.0
    lead_s = 30.0
    # As Azure advises: of the 30 seconds none is to be lost, and a question costs 0.1 ms.
    poll_s = 1.0
    patience_s = 180.0

    def __init__(self, endpoint: Endpoint = SERVICE) -> None:
        self._endpoint = endpoint
        self._machine: str | None = None

    def notices(self, now_s: float) -> list[PlatformNotice]:
        """Return the events of this machine that are to come or have begun."""
        answer = ask(self._endpoint, _EVENTS, _HEADERS, limit_bytes=_DOCUMENT_BYTES_MAX)
        if answer.status != OK:
            raise MetadataFault(f"scheduledevents: status {answer.status}")
        said = answer.json()
        events = said.get("Events") if isinstance(said, dict) else None
        if not isinstance(events, list):
            raise MetadataFault("scheduled events that do not parse")
        return [notice for event in events[:_EVENT_COUNT_MAX] for notice in self._notice(event, now_s)]

    def describe(self, now_s: float) -> Description:
        """Return how notices come here."""
        return described_service(self, "Scheduled Events", self._endpoint, now_s, _ADVICE)

    def _notice(self, event: Any, now_s: float) -> Iterator[PlatformNotice]:
        if not isinstance(event, dict) or event.get("EventStatus") not in ("Scheduled", "Started"):
            return
        kind, effect = _KINDS.get(str(event.get("EventType")), ("maintenance", Effect.RISK))
        is_ours = self._concerns_us(event.get("Resources"))
        if is_ours is False:
            return
        # The date is blank once the event has begun: a failed host has no other notice.
        deadline_s = now_s if event["EventStatus"] == "Started" else time_of(event.get("NotBefore"))
        ident = f"azure {word(event.get('EventId'))}"
        yield PlatformNotice(self.name, kind, effect, deadline_s, certain=is_ours is True, ident=ident)

    def _concerns_us(self, resources: Any) -> bool | None:
        """Return whether this machine is named; ``None`` if nobody can tell."""
        if not isinstance(resources, list) or not resources:
            return None
        if not self._machine:
            try:
                answer = ask(self._endpoint, _NAME, _HEADERS)
            except MetadataFault:
                return None
            self._machine = answer.text.lower() if answer.status == OK else None
        return None if not self._machine else self._machine in (str(name).lower() for name in resources)
