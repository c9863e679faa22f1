"""What waits to be told to one channel: several events in one message, so many messages a minute, failures again."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import Any, Final

from mlsync.tell.event import NoticeEvent
from mlsync.tell.letter import Receipt

#: WeCom, DingTalk and Feishu take so many messages a minute, and shut out who sends more.
PER_MINUTE: Final = 20
_MINUTE_S: Final = 60.0
_IN_ONE_MAX: Final = 20
_WAITING_MAX: Final = 200
_RETRY_FIRST_S: Final = 10.0
_RETRY_MAX_S: Final = 900.0
# Older news are none.
_AGE_S_MAX: Final = 24 * 3600.0


class Outbox:
    """The events for one channel; its caller locks. Moments are on the monotonic clock, ages on the wall clock."""

    def __init__(self, waiting: Iterable[NoticeEvent] = ()) -> None:
        self._waiting: deque[NoticeEvent] = deque(waiting)
        self._sent_s: deque[float] = deque(maxlen=PER_MINUTE)
        self._not_before_s = -math.inf
        self._under_way = 0
        self._drop_over()
        self.sent_count = 0
        self.failed_count = 0
        self.dropped_count = 0
        #: Failures in a row, and what the last one was.
        self.failures = 0
        self.last_failure = ""

    @property
    def waiting(self) -> tuple[NoticeEvent, ...]:
        """The events that were not told yet, oldest first."""
        return tuple(self._waiting)

    def put(self, event: NoticeEvent) -> None:
        """Add an event; what is too much leaves without a word, the oldest first."""
        self._waiting.append(event)
        self._drop_over()

    def due_s(self) -> float:
        """Return when the next message may go; infinity if nothing waits or one is under way."""
        if not self._waiting or self._under_way:
            return math.inf
        is_full = len(self._sent_s) == PER_MINUTE
        return max(self._not_before_s, self._sent_s[0] + _MINUTE_S if is_full else -math.inf)

    def take(self, now_s: float, wall_s: float) -> tuple[NoticeEvent, ...]:
        """Return what is to be told in one message now, if anything is; ``done`` has to follow."""
        if now_s < self.due_s():
            return ()
        while self._waiting and not wall_s - self._waiting[0].at_s <= _AGE_S_MAX:
            self._waiting.popleft()
            self.dropped_count += 1
        batch = tuple(self._waiting)[:_IN_ONE_MAX]
        if batch:
            self._under_way = len(batch)
            self._sent_s.append(now_s)
        return batch

    def done(self, answer: Receipt, now_s: float) -> bool:
        """Note what became of the message; return whether this begins or ends a row of failures."""
        count, self._under_way = self._under_way, 0
        was_failing = self.failures > 0
        if answer.is_taken:
            for _ in range(count):
                self._waiting.popleft()
            self.sent_count += count
            self.failures, self.last_failure, self._not_before_s = 0, "", -math.inf
        else:
            self.failed_count += 1
            delay_s = min(_RETRY_MAX_S, _RETRY_FIRST_S * 2.0 ** min(self.failures, 16))
            self.failures += 1
            self.last_failure = answer.said
            self._not_before_s = now_s + max(delay_s, answer.wait_s)
        return was_failing != (self.failures > 0)

    def as_json(self) -> dict[str, Any]:
        """Return what is shown of the channel."""
        return {
            "waiting": len(self._waiting),
            "sent": self.sent_count,
            "failed": self.failed_count,
            "dropped": self.dropped_count,
            "failures": self.failures,
            "last_failure": self.last_failure or None,
        }

    def _drop_over(self) -> None:
        while len(self._waiting) > _WAITING_MAX:
            if self._under_way:
                # What is being told stays, until it is known what became of it.
                del self._waiting[self._under_way]
            else:
                self._waiting.popleft()
            self.dropped_count += 1
