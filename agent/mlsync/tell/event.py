"""What is told: an event of a run or the machine, as a small value without secrets, URLs and paths of the machine."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from mlsync.tell.choices import KINDS

_TEXT_CHARS_MAX: Final = 300
_FACTS_MAX: Final = 12
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S*")
# An absolute path, or one from somebody's home; a slash inside a word belongs to a path of the run.
_PATH: Final = re.compile(r"(?<![\w.~/\]-])~?/[^\s:;,()'\"]+")
_HIDDEN: Final = "…"


def clean(text: str) -> str:
    """Return *text* on one line, without URLs, paths of the machine and what channels take for markup; shortened."""
    text = "".join(one if one.isprintable() else " " for one in text[: 4 * _TEXT_CHARS_MAX])
    text = _PATH.sub(_HIDDEN, _URL.sub(_HIDDEN, text))
    # A file's name may mention everybody in a chat, or show a link as something else.
    text = text.replace("<", "(").replace(">", ")").replace("](", "] (").replace("`", "'")
    return text if len(text) <= _TEXT_CHARS_MAX else text[: _TEXT_CHARS_MAX - 1] + _HIDDEN


@dataclass(frozen=True, slots=True)
class NoticeEvent:
    """One thing that happened, or with *is_over* one that has ended; *at_s* is in seconds since 1970.

    *run* is empty where it is about the machine or the repository. *facts* are numbers, and texts that were cleaned.
    """

    kind: str
    run: str = ""
    version: int | None = None
    facts: Mapping[str, float | str] = field(default_factory=dict)
    at_s: float = 0.0
    is_over: bool = False
    host: str = ""
    id: str = field(default_factory=lambda: os.urandom(8).hex())

    def __post_init__(self) -> None:
        facts = {
            name: clean(value) if isinstance(value, str) else value
            for name, value in list(self.facts.items())[:_FACTS_MAX]
        }
        object.__setattr__(self, "facts", facts)
        object.__setattr__(self, "run", clean(self.run))

    @property
    def level(self) -> str:
        """How grave it is: info, warning or error."""
        return "info" if self.is_over else KINDS[self.kind]

    def as_json(self) -> dict[str, Any]:
        """Return the event as JSON shows it, to hooks and between processes."""
        return {
            "id": self.id,
            "kind": self.kind,
            "level": self.level,
            "is_over": self.is_over,
            "run": self.run or None,
            "version": self.version,
            "at_s": round(self.at_s, 3),
            "host": self.host,
            "facts": dict(self.facts),
        }

    @classmethod
    def of_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the event that ``as_json`` showed; raise ``ValueError``, ``KeyError`` or ``TypeError`` otherwise."""
        facts = {
            str(name): one
            for name, one in dict(value["facts"]).items()
            if isinstance(one, str | int | float) and not isinstance(one, bool)
        }
        version = value["version"]
        if value["kind"] not in KINDS or (version is not None and not isinstance(version, int)):
            raise ValueError("no event")
        return cls(
            str(value["kind"]),
            str(value["run"] or ""),
            version,
            facts,
            float(value["at_s"]),
            value["is_over"] is True,
            str(value["host"]),
            str(value["id"]),
        )
