"""``mlsync.now``: a training tells the running agent that what it saved is whole."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import quote

from mlsync.config.places import state_directories
from mlsync.errors import AgentAway, CheckpointBroken, ConfigInvalid, Error, NotProvedYet, PathUnwatched
from mlsync.python.ranks import rank_here
from mlsync.python.values import SavedRun, ToldSave
from mlsync.service.talk.ask_now import AskedPass, passes_in
from mlsync.service.talk.client import AgentAt, agents

_LOG: Final = logging.getLogger("mlsync")
# So long at most a call without *wait* keeps a training, all agents together.
TELL_S: Final = 2.0
# After an agent that did not answer in time the next calls say so at once.
_SPARED_S: Final = 60.0
# What ``wait=True`` means.
WAIT_S: Final = 600.0
_POLL_FIRST_S, _POLL_MAX_S = 0.01, 0.25
_LEVEL_MAX: Final = 5
_OK, _ACCEPTED, _NOT_FOUND = 200, 202, 404


class _Memory:
    """What this process remembers from call to call; a fork may copy it at any time, so there is no lock."""

    def __init__(self) -> None:
        self.warned: set[str] = set()
        self.spared_until_s: dict[Path, float] = {}


_MEMORY: Final = _Memory()


class Finishing(Protocol):
    """A save that goes on, as ``torch.distributed.checkpoint.async_save`` returns it."""

    def add_done_callback(self, fn: Callable[[Future[Any]], object], /) -> None:
        """Have *fn* called once it has ended."""


def now(
    path: str | os.PathLike[str] | None = None,
    *,
    wait: bool | float = False,
    level: int | None = None,
    run: str | None = None,
    required: bool = False,
    every_rank: bool = False,
    after: Finishing | None = None,
) -> ToldSave:
    """Tell the agent on this machine that the save at *path* is whole; it begins to store it within milliseconds.

    Nothing is copied here, and the call returns at once. A missing agent costs one warning and never an exception.

    Args:
        path: The file or directory that was saved; without one, all that the agent watches.
        wait: Return when the version is stored: ``True`` for ten minutes at most, or a number of seconds.
        level: Wait until the version is proved to this level, 1 to 5.
        run: Only this run.
        required: Raise an error of ``mlsync.errors`` where there would be a warning.
        every_rank: Tell from each process of a distributed training, and not only from rank 0: where each machine has
            an agent and files of its own.
        after: A save that goes on, as ``async_save`` returns it: the agent is told when it has ended well.

    """
    try:
        if after is not None:
            return _put_off(after, path, wait, level, run, every_rank=every_rank)
        saved, error = _Call(path, wait, level, run, every_rank=every_rank).saved()
        if error is None:
            return saved
        if required:
            raise error
        return replace(saved, problem=_warn_once(error))
    except Exception as error:
        if required:
            raise
        # Whatever is wrong with backups, the training goes on.
        return ToldSave(problem=_warn_once(error))


def _put_off(
    after: Finishing,
    path: str | os.PathLike[str] | None,
    wait: float,
    level: int | None,
    run: str | None,
    *,
    every_rank: bool,
) -> ToldSave:
    if wait or level is not None:
        raise ConfigInvalid(
            "wait and level are for a save that has ended", advice="leave them out, or wait for it first"
        )

    # The directory of the process may be another one by then.
    place = None if path is None else os.path.abspath(path)

    def ended(future: Future[Any]) -> None:
        if not future.cancelled() and future.exception() is None:
            now(place, run=run, every_rank=every_rank)

    # torch's newer answer to async_save has two of them: for the copy in memory, and for the file.
    getattr(after, "upload_completion", after).add_done_callback(ended)
    return ToldSave(skipped="the agent is told when the save has ended")


class _Call:
    """One call: tells all agents, and waits for what they make."""

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        wait: float,
        level: int | None,
        run: str | None,
        *,
        every_rank: bool,
    ) -> None:
        if level is not None and not 0 <= level <= _LEVEL_MAX:
            raise ConfigInvalid(f"level must be a number from 0 to {_LEVEL_MAX}, not {level!r}")
        if wait is not True and not wait >= 0:
            raise ConfigInvalid(f"wait must be True or a number of seconds, not {wait!r}")
        self._rank = 0 if every_rank else rank_here()
        self._path = None if path is None else os.path.abspath(os.fspath(path))
        self._level = level
        self._wait_s = WAIT_S if wait is True or (not wait and level is not None) else float(wait)
        self._query = "&".join(self._parameters(run))

    def _parameters(self, run: str | None) -> Iterator[str]:
        if self._path is not None:
            for one in dict.fromkeys((self._path, os.path.realpath(self._path))):
                yield f"path={os.fsencode(one).hex()}"
        if run is not None:
            yield f"run={quote(run, safe='')}"
        if self._wait_s:
            yield "waits=1"

    def saved(self) -> tuple[ToldSave, Error | None]:
        """Return what became of the save, and what did not go as it was asked for."""
        if self._rank:
            return ToldSave(skipped=f"rank {self._rank}: rank 0 tells the agent"), None
        began_s = time.monotonic()
        told = self._tell(began_s + TELL_S)
        if not self._wait_s:
            return ToldSave(tuple(map(_run_of, told))), None
        passes = self._awaited(told, began_s + self._wait_s)
        problems = (self._problem(one) for one in passes)
        return ToldSave(tuple(map(_run_of, passes))), next((one for one in problems if one is not None), None)

    def _tell(self, deadline_s: float) -> list[AskedPass]:
        """Return the passes that will read the save; raise an ``Error`` if no agent makes one."""
        told: list[AskedPass] = []
        refused: Error | None = None
        for agent in _agents_here(deadline_s):
            began_s = time.monotonic()
            try:
                answer = agent.ask(f"/saved?{self._query}", method="POST")
                if answer.status == _NOT_FOUND:
                    refused = refused or PathUnwatched("no agent here keeps watch over this", where=self._path)
                else:
                    told += passes_in(agent, answer.status_checked(_ACCEPTED, agent))
            except AgentAway as away:
                # A socket that an agent left behind says nothing of the others.
                refused = refused if away.is_gone else away
                if time.monotonic() - began_s > TELL_S / 4:
                    _MEMORY.spared_until_s[agent.path] = time.monotonic() + _SPARED_S
        if not told:
            advice = "mlsync agent, the service, or mlsync run starts one"
            raise refused or AgentAway("no agent that answers runs here", advice=advice)
        return told

    def _awaited(self, told: Sequence[AskedPass], deadline_s: float) -> list[AskedPass]:
        """Return the passes as they are when nothing more is to come, at the latest at *deadline_s*."""
        passes = {(one.agent.path, one.id): one for one in told}
        pause_s = _POLL_FIRST_S
        while left := [one for one in passes.values() if not self._is_over(one)]:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                break
            time.sleep(min(pause_s, left_s))
            pause_s = min(_POLL_MAX_S, 1.5 * pause_s)
            for agent in {one.agent: None for one in left}:
                for one in _ask_again(agent, [one.id for one in left if one.agent is agent]):
                    passes[one.agent.path, one.id] = one
        return list(passes.values())

    def _is_over(self, one: AskedPass) -> bool:
        """Return whether no later answer can say more."""
        if not one.has_ended:
            return False
        is_reached = self._level is None or (one.level is not None and one.level >= self._level)
        return is_reached or one.is_pending is not True or one.stored_version is None or bool(one.kept_out)

    def _problem(self, one: AskedPass) -> Error | None:
        """Return what did not go as it was asked for."""
        if one.error is not None:
            return one.error
        if not one.has_ended:
            return NotProvedYet("the save is not stored yet", where=one.run, advice="the agent goes on; wait longer")
        if one.kept_out:
            kind = CheckpointBroken if any(": broken: " in text for text in one.kept_out) else NotProvedYet
            return kind("files of the save are not in the version", where=one.kept_out[0])
        if one.stored_version is None:
            return AgentAway("the agent ended before the save was stored", where=one.run)
        if self._level is not None and (one.level is None or one.level < self._level):
            nothing = "not proved" if one.is_pending else "without a proved checkpoint"
            reached = nothing if one.level is None else f"proved to level {one.level}"
            what = f"version {one.stored_version} is {reached}, and level {self._level} was asked for"
            return NotProvedYet(what, where=one.run, advice="mlsync show says why")
        return None


def _agents_here(deadline_s: float) -> Iterator[AgentAt]:
    """Yield the agents of this user and of the machine; each may take what is left of the time."""
    seen: set[str] = set()
    for directory in state_directories():
        real = os.path.realpath(directory)
        if real in seen:
            continue
        seen.add(real)
        for agent in agents(directory):
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                return
            if time.monotonic() >= _MEMORY.spared_until_s.get(agent.path, 0.0):
                yield agent.within(left_s)


def _ask_again(agent: AgentAt, ids: Sequence[int]) -> list[AskedPass]:
    target = "/passes?" + "&".join(f"id={number}" for number in ids)
    found = passes_in(agent, agent.ask(target).status_checked(_OK, agent))
    if len(found) != len(ids):
        raise AgentAway("the agent does not know the save any more: it was started anew", where=str(agent.path))
    return found


def _run_of(one: AskedPass) -> SavedRun:
    is_proved = one.stored_version is not None and one.is_pending is False
    return SavedRun(one.run, one.stored_version, one.level, is_proved, one.summary, one.kept_out, one.error)


def _warn_once(error: Exception) -> str:
    """Log a problem if it is the first one of its kind, and return it; logging raises nothing, whatever is set."""
    text = str(error) or type(error).__name__
    # By its kind: the words name the version and the path, which are others each time.
    kind = type(error).__name__
    if kind not in _MEMORY.warned:
        _MEMORY.warned.add(kind)
        with suppress(Exception):
            _LOG.warning("mlsync.now: %s; the training goes on, and this is said once", text)
    return text
