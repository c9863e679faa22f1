"""Tells channels and hooks what happens; nobody waits for it, and what fails costs no backup.

Each channel has a thread and an outbox, so that one which hangs delays no other. What was told and what waits is in a
file, so that a restart repeats nothing and loses nothing.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from mlsync.config.model import Config, HookSettings, NotifySettings
from mlsync.monitor import Monitor
from mlsync.service.replaced_file import replace_file
from mlsync.service.talk.place import NOTICES_FILE, AgentPlace
from mlsync.service.telling.channels import tell
from mlsync.tell.event import NoticeEvent
from mlsync.tell.hooks import HOOKS, run_hook
from mlsync.tell.letter import Receipt
from mlsync.tell.onsets import Condition, Onsets
from mlsync.tell.outbox import Outbox

_FORMAT: Final = 1
_FILE_BYTES_MAX: Final = 16 << 20
_HOOKS_WAITING_MAX: Final = 100
_HOOKS: Final = "hooks"
_CLOSE_S: Final = 5.0
_KILL_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class TellOptions:
    """Who is told: channels, and commands."""

    channels: tuple[NotifySettings, ...] = ()
    hooks: HookSettings = field(default_factory=HookSettings)

    @classmethod
    def of(cls, config: Config) -> TellOptions:
        """Return what the configuration says."""
        return cls(config.channels, config.hooks)

    def command_of(self, event: NoticeEvent) -> tuple[str, ...]:
        """Return the command that an event starts, if there is one; the end of something starts none."""
        name = HOOKS.get(event.kind)
        return () if name is None or event.is_over else getattr(self.hooks, name)

    @property
    def is_anybody_told(self) -> bool:
        """Whether there is any channel or command."""
        return bool(self.channels) or any(getattr(self.hooks, name) for name in HOOKS.values())


class Telling:
    """Takes events from any thread, and tells them while it goes on."""

    def __init__(
        self,
        options: TellOptions,
        place: AgentPlace,
        monitor: Monitor,
        runs: Collection[str] = (),
        *,
        send: Callable[[NotifySettings, Sequence[NoticeEvent]], Receipt] = tell,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._options = options
        self._place = place
        self._monitor = monitor
        self._send = send
        self._clock = clock
        self._wall = wall
        self._changed = threading.Condition()
        self._is_closing = False
        self._end_of_hooks = threading.Event()
        self._hooks: deque[tuple[tuple[str, ...], NoticeEvent]] = deque()
        self._has_save_failed = False
        told, waiting = self._read() if options.is_anybody_told else ({}, {})
        kept = {key: event for key, event in told.items() if not event.run or not runs or event.run in runs}
        self._onsets = Onsets(kept)
        self._boxes = {one.name: Outbox(waiting.get(one.name, ())) for one in options.channels}
        self._threads: list[threading.Thread] = []

    @property
    def is_on(self) -> bool:
        """Whether anybody is told anything."""
        return self._options.is_anybody_told

    def event(self, event: NoticeEvent) -> None:
        """Tell an event; returns at once."""
        self._tell([event])

    def once(self, key: str, event: NoticeEvent) -> None:
        """Tell an event that is told at most once under that key, also across restarts."""
        with self._changed:
            is_new = self.is_on and self._onsets.once(key, event)
        if is_new:
            self._tell([event])

    def daily(self, key: str, event: NoticeEvent, period_s: float) -> None:
        """Tell an event if the last one under that key is so long ago; the first call only starts the clock."""
        if not any(event.kind in channel.events for channel in self._options.channels):
            return
        with self._changed:
            is_due = self._onsets.is_due(key, event, period_s)
        if is_due:
            self._tell([event])

    def look(self, now: Sequence[Condition], *, covers: Callable[[str], bool]) -> None:
        """Tell what began and what ended, given all that holds *now* of the keys that this look *covers*."""
        if not self.is_on:
            return
        with self._changed:
            events = self._onsets.update(now, self._wall(), covers=covers)
        self._tell(events)

    def as_json(self) -> list[dict[str, Any]]:
        """Return how each channel stands."""
        with self._changed:
            return [
                {"name": one.name, "channel": one.channel, **self._boxes[one.name].as_json()}
                for one in self._options.channels
            ]

    @contextmanager
    def going_on(self, *, close_s: float = _CLOSE_S) -> Iterator[None]:
        """Tell until the context ends; what is left by then is tried for *close_s* more, and by the next agent."""
        for channel in self._options.channels:
            self._start(partial(self._serve, channel), f"tell {channel.name}")
        if any(getattr(self._options.hooks, name) for name in HOOKS.values()):
            self._start(self._run_hooks, _HOOKS)
        try:
            yield
        finally:
            with self._changed:
                self._is_closing = True
                self._changed.notify_all()
            until_s = time.monotonic() + close_s
            for thread in self._threads:
                thread.join(max(0.0, until_s - time.monotonic()))
            # Nobody would end a hook that the agent left behind.
            self._end_of_hooks.set()
            for thread in self._threads:
                if thread.name == _HOOKS:
                    thread.join(_KILL_S)

    def _start(self, work: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=work, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _tell(self, events: Sequence[NoticeEvent]) -> None:
        if not events or not self.is_on:
            return
        with self._changed:
            for event in events:
                for channel in self._options.channels:
                    if event.kind in channel.events:
                        self._boxes[channel.name].put(event)
                command = self._options.command_of(event)
                if command and len(self._hooks) < _HOOKS_WAITING_MAX:
                    self._hooks.append((command, event))
            self._save()
            self._changed.notify_all()

    # ------------------------------------------------------------ channels

    def _serve(self, channel: NotifySettings) -> None:
        box = self._boxes[channel.name]
        while True:
            with self._changed:
                while not (batch := box.take(self._clock(), self._wall())):
                    if self._is_closing:
                        return
                    due_s = box.due_s() - self._clock()
                    self._changed.wait(None if due_s == math.inf else max(due_s, 0.0))
            answer = self._send(channel, batch)
            with self._changed:
                is_news = box.done(answer, self._clock())
                self._save()
            if is_news and answer.is_taken:
                self._monitor.notice("info", f"notices reach {channel.name} again")
            elif is_news:
                self._monitor.notice(
                    "warning", f"a notice did not reach {channel.name}: {answer.said}; tried again later"
                )

    # ------------------------------------------------------------ hooks

    def _run_hooks(self) -> None:
        hooks = self._options.hooks
        secret = [name for one in self._options.channels for name in (one.url_variable, one.secret_variable) if name]
        while True:
            with self._changed:
                while not self._hooks or self._end_of_hooks.is_set():
                    if self._is_closing:
                        return
                    self._changed.wait()
                command, event = self._hooks.popleft()
            why, said = run_hook(command, event, hooks.hook_timeout_s, without=secret, stop=self._end_of_hooks)
            name = f"{HOOKS[event.kind]} ({os.path.basename(command[0])})"
            told = f": {said}" if said else ""
            if why:
                self._monitor.notice("warning", f"{name}: {why}; no version depends on it{told}")
            elif said:
                self._monitor.notice("info", f"{name}{told}")

    # ------------------------------------------------------------ file

    def _read(self) -> tuple[dict[str, NoticeEvent], dict[str, list[NoticeEvent]]]:
        """Return what was told and what waits; a file that is none counts as empty."""
        try:
            with self._file().open("rb") as stream:
                content = json.loads(stream.read(_FILE_BYTES_MAX))
            if content["format"] != _FORMAT:
                return {}, {}
            told = {str(key): NoticeEvent.of_json(one) for key, one in content["told"].items()}
            waiting = {
                str(name): [NoticeEvent.of_json(one) for one in events] for name, events in content["waiting"].items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return {}, {}
        return told, waiting

    def _save(self) -> None:
        waiting = {name: [event.as_json() for event in box.waiting] for name, box in self._boxes.items()}
        content = {"format": _FORMAT, "told": self._onsets.as_json(), "waiting": waiting}
        try:
            self._write(json.dumps(content).encode())
            self._has_save_failed = False
        except OSError as error:
            if not self._has_save_failed:
                text = f"what is told cannot be noted, and may be told again after a restart: {error.strerror}"
                self._monitor.notice("warning", text)
            self._has_save_failed = True

    def _file(self) -> Path:
        return self._place.file(NOTICES_FILE)

    def _write(self, text: bytes) -> None:
        file = self._file()
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(file, text)
