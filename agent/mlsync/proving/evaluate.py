"""Evaluate a checkpoint of a version: a command of the user's gets a private restored copy of it, and says numbers.

The numbers are stored beside the version's manifest. What is refused, killed or not understood is an error that says
why, and stores nothing: a version is never the worse for its evaluation.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import stat
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

import mlsync
from mlsync.errors import (
    CommandUnavailable,
    EvaluationFailed,
    EvaluationUnavailable,
    ProofTimedOut,
    TargetError,
)
from mlsync.monitor import Monitor
from mlsync.proof.framework import DESCRIBED, SEVERAL_FILES, Framework
from mlsync.proof.running import As, Program, Running, run
from mlsync.proving.load import PrivateCopies, PrivateCopy
from mlsync.proving.measures import BYTES_MAX, Measures, MeasuresUnreadable, read_measures
from mlsync.repository.encoding.tokens import EntryKind
from mlsync.repository.evaluation import LABEL_BYTES_MAX, Evaluation, Measure
from mlsync.repository.manifest import Entry
from mlsync.repository.reader import ChunkReader
from mlsync.repository.repository import Repository, StoredVersion
from mlsync.source.paths import display
from mlsync.values import Fact, storable
from mlsync.versions.best import named_best
from mlsync.versions.hidden_proofs import report_hidden
from mlsync.versions.loaded_directories import LoadedDirectory, loaded_directories
from mlsync.versions.proof_status import with_proofs
from mlsync.versions.resumable import has_weights
from mlsync.versions.run_proofs import proofs_of
from mlsync.versions.units import Entries

#: The words of a command that are replaced in it.
CHECKPOINT, DIRECTORY, RESULT, DEVICE = "{checkpoint}", "{directory}", "{result}", "{device}"
#: The exit status of a command that could not try (EX_TEMPFAIL of sysexits.h).
CANNOT_TELL: Final = 75
_VARIABLE: Final = "MLSYNC_EVALUATE_"
_PROGRAM: Final = Path(mlsync.__file__).parent / "proof" / "programs" / "evaluate_ultralytics.py"
_BEST: Final = re.compile(rb"(?:^|[^a-z])best(?:[^a-z]|$)", re.IGNORECASE)
_NOT_FOUND: Final = (126, 127)
_SCRIPT: Final = re.compile(r"[\w.-]{1,60}\.(?:py|sh|pl|js|r)", re.IGNORECASE)
_INTERPRETER: Final = re.compile(r"(python|pypy|bash|sh|zsh|perl|node|uv|env)[0-9.]*")
# Settings and logs that a command may need beside the checkpoint: small ones, in its directory and those above it.
_BESIDE_BYTES_MAX: Final = 1 << 20
_BESIDE_COUNT_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """What measures: *words* are the command's, *label* is what the numbers are recorded under.

    *path* is a pattern for the checkpoint; without one it is what the trainer calls the best, or else the newest.
    *directory* is below which the checkpoint is restored for that time.
    """

    label: str
    words: tuple[str, ...]
    directory: Path
    path: str | None = None
    device: str = "auto"
    environment: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = 3600.0
    who: As = field(default_factory=As)
    identity: tuple[str, ...] = ()

    @property
    def digest(self) -> bytes:
        """A digest of the command, or of the *identity* of a built-in one: equal for equal ones."""
        return hashlib.sha256(json.dumps(self.identity or self.words).encode()).digest()


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What an evaluation came to; *notes* say what was not taken as the command said it."""

    evaluation: Evaluation
    notes: tuple[str, ...] = ()
    as_root: str = ""
    read_bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Chosen:
    """A checkpoint: a file, or a directory that is one, with the entries to restore."""

    path: bytes
    entries: tuple[Entry, ...]
    facts: Mapping[str, Fact]


def ultralytics_words(python: str) -> tuple[str, ...]:
    """Return the command that runs ``model.val`` of Ultralytics on the dataset of the training."""
    return (python, "-B", str(_PROGRAM), CHECKPOINT, DIRECTORY, RESULT, DEVICE)


def label_of(words: tuple[str, ...]) -> str:
    """Return what a command is called: its program, or the script that an interpreter runs; no argument."""
    names = [os.path.basename(word) for word in words]
    name = names[0] if names else ""
    if _INTERPRETER.fullmatch(name):
        # Nothing that may be an argument: such a word may hold a secret.
        name = next(filter(_SCRIPT.fullmatch, names[1:]), name)
    return clean_label(name)


def clean_label(text: str) -> str:
    """Return a text as a label: printable, not empty, and no longer than labels are."""
    clean = storable("".join(char if char.isprintable() else "?" for char in text)) or "command"
    return clean.encode()[:LABEL_BYTES_MAX].decode("utf-8", "ignore")


def evaluate(
    repository: Repository,
    stored: StoredVersion,
    options: EvaluationOptions,
    monitor: Monitor,
    *,
    tick: Callable[[], None] = lambda: None,
) -> Evaluated:
    """Measure a checkpoint of a version, and store the numbers beside it.

    Raises ``EvaluationUnavailable`` before anything runs, ``EvaluationFailed``, ``Damage`` if a byte does not come
    back, and what *tick* raises, which is called regularly.
    """
    root = stored.root
    later, hidden = proofs_of(repository, stored)
    if hidden is not None:
        report_hidden(hidden, root.run, root.number, monitor)
    entries = {entry.path: entry for entry in with_proofs(repository.entries(stored), later.proofs)}
    began_s = time.monotonic()
    with repository.reader() as reader:
        chosen = _choose(repository, stored, entries, options.path, reader)
        name = f"{root.run} version {root.number}: evaluating {display(chosen.path) or 'the directory'}"
        with monitor.task(name, None) as task:

            def beat() -> None:
                tick()
                task.advance(0)

            copies = PrivateCopies(options.directory, reader, repository.chunk_name)
            measures, seconds, as_root = _measure(copies, stored, chosen, options, beat)
        read_bytes = reader.read_bytes
    numbers = [Measure(name, value) for name, value in measures.numbers.items()]
    made = Evaluation(
        run=root.run,
        number=root.number,
        manifest=stored.digest,
        made_ns=time.time_ns(),
        writer=f"mlsync {mlsync.__version__}",
        host=storable(socket.gethostname()),
        label=options.label,
        command=options.digest,
        path=chosen.path,
        device=options.device,
        seconds=round(min(seconds, time.monotonic() - began_s), 3),
        numbers=numbers,
    )
    repository.add_evaluation(made)
    return Evaluated(made, tuple(measures.notes), as_root, read_bytes)


# ---------------------------------------------------------------- the checkpoint


def _choose(
    repository: Repository, stored: StoredVersion, entries: Entries, pattern: str | None, reader: ChunkReader
) -> _Chosen:
    """Return the checkpoint of a version that is evaluated; raise ``EvaluationUnavailable`` if there is none."""
    where = f"{stored.root.run} version {stored.root.number}"
    known = {path: proof.facts for path, entry in entries.items() if (proof := _content(entry, entries).proof)}
    sound = [path for path in known if not _is_broken(_content(entries[path], entries))]
    if not known:
        raise EvaluationUnavailable("there is no checkpoint in the version", where=where)
    if not sound:
        raise EvaluationUnavailable("no checkpoint of the version loads, so there is nothing to evaluate", where=where)
    if pattern is None:
        sound = [path for path in sound if has_weights(known[path])] or sound
    patterns = () if pattern is None else (pattern,)
    finder = Framework("evaluation", (), patterns, kinds=SEVERAL_FILES | {DESCRIBED})
    wholes = loaded_directories(finder, sound, entries, reader)
    found = [_whole(one, entries, known) for one in wholes.found if one.lacking is None]
    found += [
        _Chosen(path, (_content(entries[path], entries),), known[path])
        for path in sound
        if not wholes.hold(path) and (pattern is None or finder.is_meant_for(path, "", {}))
    ]
    if not found:
        asked = "no whole checkpoint" if pattern is None else f"no checkpoint that path = {pattern!r} means"
        raise EvaluationUnavailable(f"there is {asked} in the version", where=where, advice="mlsync show has them")
    best = named_best(repository, stored, entries)
    chosen = max(found, key=lambda one: _rank(one, best))
    return _Chosen(chosen.path, _with_beside(chosen, entries), chosen.facts)


def _content(entry: Entry, entries: Entries) -> Entry:
    """Return a file, or the file that a hard link is one with, under the link's path."""
    if entry.kind is not EntryKind.HARD_LINK or entry.target not in entries:
        return entry
    return msgspec.structs.replace(entries[entry.target], path=entry.path)


def _is_broken(entry: Entry) -> bool:
    return entry.proof is None or entry.proof.is_broken


def _rank(one: _Chosen, best: bytes | None) -> tuple[bool, bool, int, bytes]:
    """Order checkpoints, the one that the trainer calls the best last, and else the newest."""
    newest_ns = max((entry.mtime_ns for entry in one.entries if entry.proof is not None), default=0)
    return one.path == best, _BEST.search(one.path.rpartition(b"/")[2]) is not None, newest_ns, one.path


def _whole(one: LoadedDirectory, entries: Entries, known: Mapping[bytes, Mapping[str, Fact]]) -> _Chosen:
    above = one.path + b"/" if one.path else b""
    inside = tuple(msgspec.structs.replace(entry, path=above + entry.path) for entry in one.entries(entries))
    facts: dict[str, Fact] = {}
    for entry in inside:
        facts |= known.get(entry.path, {})
    return _Chosen(one.path, inside, facts)


def _with_beside(chosen: _Chosen, entries: Entries) -> tuple[Entry, ...]:
    """Return what is restored: the checkpoint, small files beside and above it, and the directories of all these."""
    place = chosen.path.rpartition(b"/")[0]
    places = [b""]
    while place:
        places.append(place)
        place = place.rpartition(b"/")[0]
    held = {entry.path: entry for entry in chosen.entries}
    beside = [
        entry
        for path, entry in sorted(entries.items())
        if entry.kind is EntryKind.FILE
        and entry.proof is None
        and path not in held
        and path.rpartition(b"/")[0] in places
        and entry.size_bytes <= _BESIDE_BYTES_MAX
    ]
    held |= {entry.path: entry for entry in beside[:_BESIDE_COUNT_MAX]}
    for path in list(held):
        while path := path.rpartition(b"/")[0]:
            if path in entries:
                held.setdefault(path, entries[path])
    return tuple(held[path] for path in sorted(held))


# ---------------------------------------------------------------- the command


def _measure(
    copies: PrivateCopies,
    stored: StoredVersion,
    chosen: _Chosen,
    options: EvaluationOptions,
    tick: Callable[[], None],
) -> tuple[Measures, float, str]:
    """Return what the command said of a copy of the checkpoint, how long it took, and why it ran as root if it did."""
    try:
        with copies.restored(chosen.entries, options.who.user, tick) as copy:
            checkpoint = copy.files / os.fsdecode(chosen.path)
            began_s = time.monotonic()
            running, as_root = run(_command(options, stored, chosen, copy), checkpoint, copy.home, tick, options.who)
            seconds = time.monotonic() - began_s
            _refuse_failure(options.label, running)
            return _said(options, running, copy.home / _FILE), seconds, as_root
    except CommandUnavailable as error:
        raise EvaluationUnavailable(error.what, where=error.where, advice=error.advice) from error
    except ProofTimedOut as error:
        raise EvaluationFailed(error.what, advice="set timeout under [evaluate] if it may take longer") from error
    except (OSError, TargetError) as error:
        raise EvaluationUnavailable(f"no place for a copy of the checkpoint: {error}") from error


_FILE: Final = "result"


def _command(options: EvaluationOptions, stored: StoredVersion, chosen: _Chosen, copy: PrivateCopy) -> Program:
    root = stored.root
    places = {
        CHECKPOINT: str(copy.files / os.fsdecode(chosen.path)),
        DIRECTORY: str(copy.files),
        RESULT: str(copy.home / _FILE),
        DEVICE: options.device,
    }
    told = {
        "RUN": root.run,
        "VERSION": str(root.number),
        "CHECKPOINT": places[CHECKPOINT],
        "DIRECTORY": places[DIRECTORY],
        "RESULT": places[RESULT],
        "DEVICE": options.device,
        "RUN_DIRECTORY": os.fsdecode(root.directory),
    }
    for name in ("epoch", "step"):
        if isinstance(chosen.facts.get(name), (int, float)):
            told[name.upper()] = str(chosen.facts[name])
    words = tuple(_replaced(word, places) for word in options.words)
    environment = {**options.environment, **{_VARIABLE + name: value for name, value in told.items()}}
    return Program(options.label, words, environment, options.device, options.timeout_s, BYTES_MAX)


def _replaced(word: str, places: Mapping[str, str]) -> str:
    """Replace what stands in braces, once: a path may have such a word in it."""
    return re.sub("|".join(map(re.escape, places)), lambda found: places[found[0]], word)


def _refuse_failure(label: str, running: Running) -> None:
    """Raise an error for a command that did not end well."""
    status, output = running.status, running.last_lines()
    last_words = f": {output}" if output else ""
    if status == 0:
        return
    if status in _NOT_FOUND:
        raise EvaluationUnavailable(f"{label} does not start{last_words}")
    if status == CANNOT_TELL:
        raise EvaluationUnavailable(f"{label} could not evaluate{last_words}")
    if status > 0:
        raise EvaluationFailed(f"{label} ended with {status}{last_words}")
    number = -status
    how = f"was ended by signal {number}"
    if number == signal.SIGKILL:
        how = "was killed, for want of memory it seems"
    elif number == signal.SIGXCPU:
        how = "took more of the processors than twice its time"
    raise EvaluationFailed(f"{label} {how}{last_words}")


def _said(options: EvaluationOptions, running: Running, file: Path) -> Measures:
    """Return the numbers in the file that the command wrote, or else on its standard output."""
    try:
        data = _read_result(file, {os.geteuid()} | ({options.who.user.uid} if options.who.user else set()))
        if data is not None:
            try:
                return read_measures(data, is_cut=len(data) > BYTES_MAX)
            except MeasuresUnreadable as error:
                raise EvaluationFailed(f"the result that {options.label} wrote cannot be read: {error}") from None
        return read_measures(bytes(running.said), is_cut=running.is_cut, may_say_more=True)
    except MeasuresUnreadable as error:
        advice = "it prints JSON or lines like accuracy 0.93, or writes them to the file {result}"
        raise EvaluationFailed(f"what {options.label} said cannot be read: {error}", advice=advice) from None


def _read_result(file: Path, owners: Collection[int]) -> bytes | None:
    """Return what the command wrote; ``None`` if it wrote nothing.

    Whoever runs the command may put anything in its place: a link to a file that only mlsync may read, or a pipe.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise MeasuresUnreadable(f"the file is no plain one: {error.strerror}") from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or found.st_uid not in owners:
            raise MeasuresUnreadable("the file is no plain one of the command's own")
        with open(descriptor, "rb", closefd=False) as opened:
            return opened.read(BYTES_MAX + 1) or None
    finally:
        os.close(descriptor)
