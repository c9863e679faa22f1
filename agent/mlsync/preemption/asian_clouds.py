"""Alibaba Cloud and Tencent Cloud: when a spot instance is released."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mlsync.preemption.metadata import NOT_FOUND, OK, Answer, Endpoint, MetadataFault, ask
from mlsync.preemption.notice import Effect, PlatformNotice, time_of, word
from mlsync.preemption.platform import Description, described_service

ALIBABA_SERVICE: Final = Endpoint("100.100.100.200")
# What metadata.tencentyun.com stands for.
TENCENT_SERVICE: Final = Endpoint("169.254.0.23")
_TOKEN_TTL_S: Final = 21_600
_TOKEN_EARLY_S: Final = 15.0
_BEIJING_H: Final = 8


class Alibaba:
    """Asks Alibaba Cloud's metadata service."""

    name = "alibaba"
    grace_s = 30.0
    lead_s = 300.0
    poll_s = 5.0
    patience_s = 0.0

    def __init__(self, endpoint: Endpoint = ALIBABA_SERVICE) -> None:
        self._endpoint = endpoint
        self._token: str | None = None
        self._token_ends_s = 0.0

    def notices(self, now_s: float) -> list[PlatformNotice]:
        """Return the release of this instance, if it is to come."""
        if self._token is None or not 0 <= self._token_ends_s - now_s <= _TOKEN_TTL_S:
            self._renew(now_s)
        headers = {"X-aliyun-ecs-metadata-token": self._token} if self._token else {}
        answer = ask(self._endpoint, "/latest/meta-data/instance/spot/termination-time", headers)
        if answer.status not in (OK, NOT_FOUND):
            self._token = None
        return list(_release(self.name, answer, 0))

    def describe(self, now_s: float) -> Description:
        """Return how notices come here."""
        advice = "the metadata service of this instance must be reachable at 100.100.100.200"
        return described_service(self, "instance/spot/termination-time", self._endpoint, now_s, advice)

    def _renew(self, now_s: float) -> None:
        headers = {"X-aliyun-ecs-metadata-token-ttl-seconds": str(_TOKEN_TTL_S)}
        answer = ask(self._endpoint, "/latest/api/token", headers, method="PUT")
        # An older service has no tokens, and needs none.
        self._token = "" if answer.status == NOT_FOUND else answer.token()
        self._token_ends_s = now_s + _TOKEN_TTL_S - _TOKEN_EARLY_S


class Tencent:
    """Asks Tencent Cloud's metadata service, whose times are those of Beijing."""

    name = "tencent"
    grace_s = 30.0
    lead_s = 120.0
    poll_s = 5.0
    patience_s = 0.0

    def __init__(self, endpoint: Endpoint = TENCENT_SERVICE) -> None:
        self._endpoint = endpoint

    def notices(self, now_s: float) -> list[PlatformNotice]:  # noqa: ARG002 - the protocol's
        """Return the release of this instance, if it is to come."""
        answer = ask(self._endpoint, "/latest/meta-data/spot/termination-time", {})
        return list(_release(self.name, answer, _BEIJING_H))

    def describe(self, now_s: float) -> Description:
        """Return how notices come here."""
        advice = "the metadata service of this instance must be reachable at 169.254.0.23"
        return described_service(self, "spot/termination-time", self._endpoint, now_s, advice)


def _release(platform: str, answer: Answer, east_of_utc_h: int) -> Iterator[PlatformNotice]:
    if answer.status not in (OK, NOT_FOUND):
        raise MetadataFault(f"spot/termination-time: status {answer.status}")
    if answer.status == NOT_FOUND or not answer.text:
        return
    deadline_s = time_of(answer.text, east_of_utc_h=east_of_utc_h)
    if deadline_s is None:
        # A page of a proxy, say: no word of the cloud's.
        raise MetadataFault("a termination time that does not parse")
    yield PlatformNotice(
        platform, "termination", Effect.ENDS, deadline_s, certain=True, ident=f"{platform} {word(answer.text)}"
    )
