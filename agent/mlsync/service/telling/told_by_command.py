"""What a command that ran by hand or by a timer has to tell: by the agent that runs here, or else by itself."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Self

from mlsync.config.model import Config
from mlsync.errors import AgentAway
from mlsync.monitor import Monitor
from mlsync.service.talk.client import AgentAt, agents
from mlsync.service.talk.place import AgentPlace
from mlsync.service.telling.telling import Telling, TellOptions
from mlsync.tell.event import NoticeEvent

#: How long a command waits for its channels at most; what is left then is told by the next agent, or command.
WITHIN_S: Final = 30.0
_KINDS: Final = ("pruned", "damage")
# Keys of what goes on begin so: no look of the agent itself ends these.
_CHECKED: Final = "checked\0"
_KEY_CHARS_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class CommandNews:
    """An event; with a *key* it is told once, until *heals* says that nothing of the kind goes on any more."""

    event: NoticeEvent
    key: str = ""
    heals: bool = False

    @classmethod
    def of_json(cls, value: Any) -> Self:
        """Return what ``as_json`` returned; raise ``ValueError``, ``KeyError`` or ``TypeError`` for anything else."""
        event, key = NoticeEvent.of_json(value["event"]), str(value["key"])
        if event.kind not in _KINDS or len(key) > _KEY_CHARS_MAX:
            raise ValueError("no news of a command")
        return cls(event, key, value["heals"] is True)

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {"event": self.event.as_json(), "key": self.key, "heals": self.heals}

    def tell(self, telling: Telling) -> None:
        """Tell it, or what it heals."""
        if self.heals:
            telling.look([], covers=lambda key: key.startswith(_CHECKED))
        elif self.key:
            telling.once(_CHECKED + self.key, self.event)
        else:
            telling.event(self.event)


def tell_news(config: Config, news: CommandNews, monitor: Monitor) -> None:
    """Have channels and hooks be told; what fails is a notice of *monitor*, and never the command's end."""
    options = TellOptions.of(config)
    if not options.is_anybody_told or any(_takes(agent, config, news) for agent in agents(config.state_directory)):
        return
    runs = [watch.run for watch in config.watches]
    place = AgentPlace(config.state_directory, config.repository, runs)
    # Without a place it is told all the same, and perhaps again by the next one.
    with suppress(OSError):
        place.claim()
    try:
        telling = Telling(options, place, monitor, runs)
        with telling.going_on(close_s=WITHIN_S):
            news.tell(telling)
    finally:
        place.release()


def _takes(agent: AgentAt, config: Config, news: CommandNews) -> bool:
    """Return whether an agent of the repository tells it."""
    try:
        about = agent.ask("/status").as_json()
        if about["repository"] != config.repository or not about["channels"]:
            return False
        return agent.tell(news.as_json())
    except (AgentAway, ValueError, KeyError, TypeError):
        return False
