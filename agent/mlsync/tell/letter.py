"""What is handed to the process that sends, and what it answers: plain values, and the start of that process."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from mlsync.tell.event import NoticeEvent

#: A service that raises the alarm when nobody asks for its URL: a letter to it has no events.
HEARTBEAT: Final = "heartbeat"
_COMMAND: Final = (sys.executable, "-P", "-m", "mlsync.tell.send")
# Above what the request may take, with the start of a process on a busy machine.
TIMEOUT_S: Final = 40.0
_ANSWER_BYTES_MAX: Final = 16 << 10


@dataclass(frozen=True, slots=True)
class Letter:
    """Events for one channel; *url* and *secret* go to the process by its standard input alone."""

    channel: str
    url: str
    secret: str
    language: str
    events: tuple[NoticeEvent, ...]

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON, secrets included."""
        return {
            "channel": self.channel,
            "url": self.url,
            "secret": self.secret,
            "language": self.language,
            "events": [event.as_json() for event in self.events],
        }

    @classmethod
    def of_json(cls, value: dict[str, Any]) -> Self:
        """Return what ``as_json`` showed."""
        events = tuple(NoticeEvent.of_json(one) for one in value["events"])
        return cls(value["channel"], value["url"], value["secret"], value["language"], events)

    def __repr__(self) -> str:
        return f"Letter({self.channel}, {len(self.events)} events)"


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a letter: *said* is what the service answered or why it could not be asked, without secrets.

    *was_reached*: the service answered, whatever it said. *wait_s* is how long it wants to be left alone.
    """

    is_taken: bool
    said: str
    was_reached: bool = True
    wait_s: float = 0.0


def send(letter: Letter, *, timeout_s: float = TIMEOUT_S, command: Sequence[str] = _COMMAND) -> Receipt:
    """Send a letter by a process of its own, which is ended after *timeout_s*; never raises."""
    import json  # late, as below: each configuration names the channels, and few have news
    import subprocess

    try:
        done = subprocess.run(  # noqa: S603 - our own program, by our own interpreter
            command,
            input=json.dumps(letter.as_json()).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=timeout_s,
            check=False,
            # Of its own, so that it can give way, and Ctrl-C is for the agent alone.
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        return Receipt(is_taken=False, said=f"no answer within {timeout_s:.0f} s", was_reached=False)
    except OSError as error:
        return Receipt(is_taken=False, said=error.strerror or "no process starts", was_reached=False)
    try:
        if len(done.stdout) > _ANSWER_BYTES_MAX:
            raise ValueError
        value = json.loads(done.stdout)
        return Receipt(
            value["is_taken"] is True, str(value["said"]), value["was_reached"] is True, float(value["wait_s"])
        )
    except (ValueError, KeyError, TypeError):
        return Receipt(is_taken=False, said="its process failed", was_reached=False)


def answer_as_json(answer: Receipt) -> dict[str, Any]:
    """Return an answer as the process writes it."""
    return asdict(answer)
