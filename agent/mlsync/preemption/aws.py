"""AWS EC2: spot notices, rebalance recommendations, scheduled maintenance and the end by an Auto Scaling group.

By version 2 of the instance metadata service, whose token does not reach containers if the hop limit is 1. The service
then just does not answer, which looks like a machine outside of AWS.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from mlsync.preemption.metadata import NOT_FOUND, OK, UNAUTHORIZED, Answer, Endpoint, MetadataFault, NoAnswer, ask
from mlsync.preemption.notice import Effect, PlatformNotice, time_of, word
from mlsync.preemption.platform import Description, described_service

SERVICE: Final = Endpoint("169.254.169.254")
HOP_LIMIT: Final = "the metadata service answers, and its token does not come back: the hop limit is 1"
HOP_ADVICE: Final = "aws ec2 modify-instance-metadata-options --http-put-response-hop-limit 2 --instance-id ID"
_ADVICE: Final = "the instance's metadata service must be switched on, and reachable at 169.254.169.254"
_DATA: Final = "/latest/meta-data/"
_TOKEN_TTL_S: Final = 21_600
# A token that ends within a question would cost the answer.
_TOKEN_EARLY_S: Final = 15.0
# After a token that did not come: each try takes the whole time-out.
_TOKEN_AGAIN_S: Final = 300.0
# What is announced days or an hour ahead needs no question every five seconds.
_SELDOM_S: Final = 30.0
_ACTIONS: Final = {"terminate": "termination", "stop": "stop", "hibernate": "hibernation"}


class Aws:
    """Asks EC2's metadata service."""

    name = "aws"
    grace_s = 120.0
    lead_s = 120.0
    poll_s = 5.0
    patience_s = 0.0

    def __init__(self, endpoint: Endpoint = SERVICE) -> None:
        self._endpoint = endpoint
        self._token: str | None = None
        self._token_ends_s = 0.0
        self._life_cycle: str | None = None
        self._seldom: list[PlatformNotice] = []
        self._seldom_at_s = 0.0

    def notices(self, now_s: float) -> list[PlatformNotice]:
        """Return what EC2 tells of this instance; the metadata of one that is no spot instance is asked seldom."""
        if self._life_cycle is None:
            self._life_cycle = self._text("instance-life-cycle", now_s) or "on-demand"
        often = [*self._action(now_s), *self._rebalance(now_s)] if self._life_cycle == "spot" else []
        if not 0 <= now_s - self._seldom_at_s < _SELDOM_S:
            self._seldom = [*self._maintenance(now_s), *self._scaling(now_s)]
            self._seldom_at_s = now_s
        return often + self._seldom

    def describe(self, now_s: float) -> Description:
        """Return how notices come here."""
        told_by = "spot/instance-action, rebalance recommendations, maintenance events and the Auto Scaling state"
        found = described_service(self, told_by, self._endpoint, now_s, _ADVICE)
        return replace(found, advice=HOP_ADVICE) if found.problem == HOP_LIMIT else found

    def _action(self, now_s: float) -> Iterator[PlatformNotice]:
        answer = self._get("spot/instance-action", now_s)
        if answer.status == NOT_FOUND:
            return
        said = answer.json()
        if not isinstance(said, dict):
            raise MetadataFault("an instance action that does not parse")
        kind = _ACTIONS.get(str(said.get("action")), "termination")
        # It begins at once, whatever the date.
        deadline_s = now_s if kind == "hibernation" else time_of(said.get("time"))
        yield PlatformNotice(
            self.name, kind, Effect.ENDS, deadline_s, certain=True, ident=f"aws {kind} {word(said.get('time'))}"
        )

    def _rebalance(self, now_s: float) -> Iterator[PlatformNotice]:
        answer = self._get("events/recommendations/rebalance", now_s)
        if answer.status == NOT_FOUND:
            return
        said = answer.json()
        noticed = word(said.get("noticeTime")) if isinstance(said, dict) else ""
        yield PlatformNotice(self.name, "rebalance", Effect.RISK, None, certain=False, ident=f"aws rebalance {noticed}")

    def _maintenance(self, now_s: float) -> Iterator[PlatformNotice]:
        answer = self._get("events/maintenance/scheduled", now_s)
        said = [] if answer.status == NOT_FOUND else answer.json()
        for event in said if isinstance(said, list) else []:
            if isinstance(event, dict) and event.get("State") == "active":
                ident = f"aws maintenance {word(event.get('EventId'))}"
                deadline_s = time_of(event.get("NotBefore"))
                yield PlatformNotice(self.name, "maintenance", Effect.ENDS, deadline_s, certain=True, ident=ident)

    def _scaling(self, now_s: float) -> Iterator[PlatformNotice]:
        state = self._text("autoscaling/target-lifecycle-state", now_s)
        if state == "Terminated":
            # Until its lifecycle hook ends; nobody tells the instance when that is.
            yield PlatformNotice(self.name, "termination", Effect.ENDS, None, certain=True, ident="aws scaling")

    def _text(self, path: str, now_s: float) -> str:
        answer = self._get(path, now_s)
        return "" if answer.status == NOT_FOUND else word(answer.text)

    def _get(self, path: str, now_s: float) -> Answer:
        """Return the answer to one question, which is either OK or that there is no such thing."""
        answer = ask(self._endpoint, _DATA + path, self._headers(now_s))
        if answer.status == UNAUTHORIZED and self._token:
            # The instance was stopped and started, or the clock was set.
            self._token = None
            answer = ask(self._endpoint, _DATA + path, self._headers(now_s))
        if answer.status == UNAUTHORIZED:
            raise MetadataFault(HOP_LIMIT)
        if answer.status not in (OK, NOT_FOUND):
            raise MetadataFault(f"{path}: status {answer.status}")
        return answer

    def _headers(self, now_s: float) -> dict[str, str]:
        if self._token is None or not 0 <= self._token_ends_s - now_s <= _TOKEN_TTL_S:
            self._renew(now_s)
        return {"X-aws-ec2-metadata-token": self._token} if self._token else {}

    def _renew(self, now_s: float) -> None:
        headers = {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_TTL_S)}
        try:
            self._token = ask(self._endpoint, "/latest/api/token", headers, method="PUT").token()
            self._token_ends_s = now_s + _TOKEN_TTL_S - _TOKEN_EARLY_S
        except NoAnswer:
            # Where version 1 is allowed, an empty token does as well; where it is not, the answer says so.
            self._token, self._token_ends_s = "", now_s + _TOKEN_AGAIN_S
