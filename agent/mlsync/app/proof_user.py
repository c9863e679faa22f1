"""The user that the proof's processes run as under root, and the refusal to run programs that others can change."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlsync.config.model import Config, EvaluateSettings
from mlsync.config.trust import is_trusted, program_at, refuse_untrusted
from mlsync.proof.user import NOBODY, User, cannot_change_user


@dataclass(frozen=True, slots=True)
class RunsAs:
    """The user that the proof's processes run as: *user*, or this process's own user without one.

    *may_be_root* is whether they may run as root if that user cannot start them, *as_root* why they run as root anyway,
    *is_roots* whether the checkpoints themselves are root's, so that code in them is nobody else's.
    """

    user: User | None = None
    may_be_root: bool = True
    as_root: str = ""
    is_roots: bool = True


OWN: Final = RunsAs()


def evaluates_as(config: Config, run: str, settings: EvaluateSettings) -> RunsAs:
    """Return the user that evaluates the checkpoints of a run: the same as proves them, and under the same rule."""
    return _runs_as(config, run, list(_evaluating(config, settings)))


def runs_as(config: Config, run: str | None) -> RunsAs:
    """Return the user that proves the checkpoints of a run: the owner of its directory, or nobody.

    Raises ``Untrusted`` for a program that somebody other than root and that user can change.
    """
    return _runs_as(config, run, list(_programs(config)))


def _runs_as(config: Config, run: str | None, programs: list[tuple[Path, str]]) -> RunsAs:
    if os.geteuid() != 0:
        return OWN
    user, lacking = _user_of(config, run), cannot_change_user()
    # Files that belong to nobody's number may be anybody's, so owning them proves nothing.
    is_nobodys = user.name == NOBODY
    own: tuple[set[int], set[int]] = (set(), set()) if lacking or is_nobodys else ({user.uid}, {user.gid})
    for file, what in programs:
        refuse_untrusted(file, what, uids={0} | own[0], gids={0} | own[1])
    if lacking:
        return RunsAs(as_root=lacking, is_roots=is_nobodys)
    return RunsAs(user, all(is_trusted(file) for file, _ in programs), is_roots=is_nobodys)


def refuse_untrusted_programs(config: Config) -> None:
    """Raise ``Untrusted`` now if the proof of any watched run would later, or for a hook that others can change."""
    hooks = config.hooks
    for command in (hooks.on_version, hooks.on_best, hooks.on_broken, hooks.on_preemption):
        for at, word in enumerate(command):
            if file := program_at(word, "" if at else os.environ.get("PATH", os.defpath)):
                refuse_untrusted(file, "a hook")
    for watch in config.watches:
        runs_as(config, watch.run)
        evaluates_as(config, watch.run, watch.evaluate)


def _user_of(config: Config, run: str | None) -> User:
    """Return the owner of a run's directory, or of all; nobody if that is root, or not known here."""
    owners = set()
    for watch in config.watches:
        if run in (None, watch.run):
            with suppress(OSError):
                owners.add(watch.directory.stat().st_uid)
    return User.of(owners.pop()) if len(owners) == 1 else User.nobody()


def _programs(config: Config) -> Iterator[tuple[Path, str]]:
    """Yield the files that the configuration makes mlsync run: its Python, its command, and programs in its words."""
    proof = config.proof
    if proof.python is not None:
        yield proof.python, "a proof's Python"
    yield from _words(proof.command, "a proof's command")


def _evaluating(config: Config, settings: EvaluateSettings) -> Iterator[tuple[Path, str]]:
    """Yield the files that an evaluation makes mlsync run, likewise."""
    python = settings.python or config.proof.python
    if settings.builtin and python is not None:
        yield python, "an evaluation's Python"
    yield from _words(settings.command, "an evaluation's command")


def _words(command: tuple[str, ...], what: str) -> Iterator[tuple[Path, str]]:
    for word in command:
        if file := program_at(word, os.environ.get("PATH", os.defpath) if word == command[0] else ""):
            yield file, what
