"""What a configuration chooses from: events and how grave they are, services, and languages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

#: All kinds of events, and how grave each is.
KINDS: Final[Mapping[str, str]] = {
    "version": "info",
    "first_proved": "info",
    "best": "info",
    "registered": "info",
    "broken": "error",
    "torn": "warning",
    "pending": "warning",
    "store_away": "error",
    "failing": "error",
    "behind": "warning",
    "silence": "warning",
    "preemption": "warning",
    "disk_full": "error",
    "ephemeral_disk": "warning",
    "pruned": "info",
    "damage": "error",
    "digest": "info",
    "test": "info",
}
#: What is told where the configuration does not choose: all but what comes with each version, and once a day.
USUAL: Final = tuple(kind for kind in KINDS if kind not in ("version", "digest", "test"))
#: The services that are known; ``apprise`` stands for those that its library knows.
CHANNELS: Final = ("wecom", "dingtalk", "feishu", "slack", "webhook", "apprise")
LANGUAGES: Final = ("en", "zh")
