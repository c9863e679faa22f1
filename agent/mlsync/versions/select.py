"""Find the version that a person asks for: a number, a word, ``best by`` a number, a time, or a pin's name."""

from __future__ import annotations

import difflib
import re
import shlex
from datetime import datetime, timedelta

from mlsync.errors import ConfigInvalid, RunMissing, VersionAmbiguous, VersionMissing
from mlsync.repository.history.decision import is_pin_name
from mlsync.repository.history.seen_decision import half
from mlsync.repository.listing import run_names
from mlsync.repository.readable import opened
from mlsync.repository.repository import Repository, StoredVersion
from mlsync.retention.direction import named_number
from mlsync.source.paths import natural
from mlsync.versions.decided import decided_of, kept_before, newest_kept, note_forgotten, refuse_gone
from mlsync.versions.run_proofs import RunProofs

LATEST = "latest"
RESUMABLE = "resumable"
BEST = "best"
#: Before the name of a number.
BEST_BY = "best by "
WORDS = (LATEST, RESUMABLE, BEST)
ADVICE = (
    "give a number, latest, resumable, best, 'best by NAME', a time such as 2026-11-23T14:00 (local) or "
    "2026-11-23T14:00Z, or the name of a pin"
)
# Names of runs in one message.
_NAMES_SHOWN = 10
_SHOWN_BY = "mlsync show says what each checkpoint is"
_SECONDS = re.compile(r":\d\d:\d\d(?:[.,](\d+))?")


def find_run(repository: Repository, run: str | None) -> str:
    """Return *run*, or the only run if *run* is ``None``; raise ``RunMissing``, which names the runs that exist."""
    if run is not None:
        if repository.has_versions(run):
            return run
        raise _missing(f"no run named {run!r}", _names(repository), repository, asked=run)
    names = _names(repository)
    if len(names) == 1:
        return names[0]
    if not names:
        repository.refuse_unreadable()
    what = "which run? name one with --run" if names else "the repository holds no version yet"
    raise _missing(what, names, repository)


def find_version(repository: Repository, run: str, text: str) -> StoredVersion:
    """Return the version of *run* that *text* means, or raise ``VersionMissing``."""
    if text.isdecimal():
        return _numbered(repository, run, int(text))
    by = repository.best_by(run) if text == BEST else None
    if by is not None or text.startswith(BEST_BY):
        return _best_by(repository, run, by or text.removeprefix(BEST_BY))
    find = {LATEST: _latest, RESUMABLE: _resumable, BEST: _best}.get(text)
    if find is not None:
        return find(repository, run)
    if is_pin_name(text):
        return _pinned(repository, run, text)
    return _version_at_one_of(repository, run, text, _parse_time(text))


def _latest(repository: Repository, run: str) -> StoredVersion:
    newest = newest_kept(repository, run)
    if newest is None:
        repository.refuse_unreadable()
        raise VersionMissing(f"run {run!r} has no version", where=repository.store.url)
    return newest


def _best(repository: Repository, run: str) -> StoredVersion:
    from mlsync.versions.best import best_number  # late, as below

    return repository.stored(run, best_number(repository, run))


def refuse_nonsense(text: str) -> None:
    """Raise ``ConfigInvalid`` for a text that means a version of no repository."""
    if not _is_word_or_number(text):
        _parse_time(text)


def is_version(text: str) -> bool:
    """Return whether *text* is a word, number, time or name of a pin that can mean a version."""
    if _is_word_or_number(text):
        return True
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _is_word_or_number(text: str) -> bool:
    return text.isdecimal() or is_pin_name(text) or (text.startswith(BEST_BY) and _is_number(text))


def _is_number(text: str) -> bool:
    """Return whether the name of a number stands behind "best by"."""
    try:
        named_number(text.removeprefix(BEST_BY))
    except ValueError:
        return False
    return text.isprintable()


def _best_by(repository: Repository, run: str, name: str) -> StoredVersion:
    from mlsync.versions.evaluated import best_number_by  # late, as above

    return repository.stored(run, best_number_by(repository, run, name))


def version_before(repository: Repository, run: str, number: int) -> StoredVersion:
    """Return the version of *run* before *number*, or raise ``VersionMissing`` if there is none."""
    earlier = kept_before(repository, run, number)
    if earlier is None:
        what = f"version {number} of run {run!r} is the first: there is none before it to compare it with"
        raise VersionMissing(what, where=repository.store.url)
    return earlier


def _numbered(repository: Repository, run: str, number: int) -> StoredVersion:
    """Return a version by its number, forgotten or not; if it is missing, say why, or list the versions."""
    decided = decided_of(repository, run)
    refuse_gone(decided, number, repository.store.url)
    try:
        stored = repository.stored(run, number)
    except VersionMissing:
        numbers = [one for one in repository.numbers(run) if decided.dropped(one) is None]
        what = f"run {run!r} has no version" + (f" {number}, only {_span(numbers)}" if numbers else "")
        raise VersionMissing(what, where=repository.store.url, advice=f"mlsync versions {shlex.quote(run)}") from None
    note_forgotten(repository, decided, stored)
    return stored


def _pinned(repository: Repository, run: str, name: str) -> StoredVersion:
    """Return the version that has a pin of that name."""
    decided = decided_of(repository, run)
    pin = decided.named(name)
    if pin is None:
        names = sorted(pin.name for pin in decided.pins.values() if pin.name)
        close = difflib.get_close_matches(name, [*WORDS, *names], n=1)
        question = f"did you mean {close[0]}? " if close else ""
        what = f"not a version: {name!r} is no word for one, and no version of run {run!r} is pinned under that name"
        raise VersionMissing(what, where=repository.store.url, advice=question + (_listed(names) or ADVICE))
    stored = repository.stored(run, pin.version)
    if half(stored.digest) != pin.manifest:
        what = f"version {pin.version} of run {run!r} is another one than was pinned as {name}"
        raise VersionMissing(what, where=repository.store.url, advice="mlsync check tells more")
    return stored


def _listed(names: list[str]) -> str:
    return f"there are: {', '.join(names[:_NAMES_SHOWN])}{', …' if len(names) > _NAMES_SHOWN else ''}" if names else ""


def _resumable(repository: Repository, run: str) -> StoredVersion:
    """Return the newest version from which training can resume, by the facts in the proofs of its checkpoints.

    Some trainers strip their last checkpoint when they end: then it is good for inference only.
    """
    from mlsync.versions.resumable import resumables  # late: its parsers are needed for this word alone

    proofs = RunProofs(repository, run)
    for stored in proofs.trusted(reversed(proofs.numbers)):
        if resumables(proofs.entries(stored)):
            return stored
    what = f"no version of run {run!r} has a checkpoint that training can resume from{proofs.passed_over()}"
    raise VersionMissing(what, where=repository.store.url, advice=_SHOWN_BY)


def _version_at_one_of(repository: Repository, run: str, text: str, moments: list[datetime]) -> StoredVersion:
    """Return the version at that time; raise ``VersionAmbiguous`` if it is two moments with two versions."""
    if len(moments) == 1:
        return _version_at(repository, run, moments[0])
    meant = {}
    for moment in moments:
        try:
            number = _version_at(repository, run, moment).root.number
        except VersionMissing:
            number = 0
        meant[number] = f"{f'version {number}' if number else 'no version'} as {moment.isoformat(timespec='seconds')}"
    if len(meant) == 1:
        return _version_at(repository, run, moments[0])
    what = f"clocks were changed at {text}, and of run {run!r} it can mean {' or '.join(meant.values())}"
    advice = "give the number, or the time with its offset as written here"
    raise VersionAmbiguous(what, where=repository.store.url, advice=advice)


def _version_at(repository: Repository, run: str, moment: datetime) -> StoredVersion:
    """Return the version with the latest date that is not after *moment*; of equals the newest.

    This reads all manifests. A clock that was wrong for a while leaves dates out of order, and a search that relies on
    their order would return a wrong version without an error.
    """
    moment_ns = int(moment.timestamp()) * 10**9 + moment.microsecond * 1000
    decided = decided_of(repository, run)
    listed = [one for one in repository.listed(run) if not one.is_fence and decided.dropped(one.number) is None]
    dates = ((one.root.created_ns, one.root.number) for _, one in opened(repository, run, listed) if one)
    found = max((date for date in dates if date[0] <= moment_ns), default=None)
    if found is None:
        what = f"run {run!r} has no version as old as {moment.isoformat(sep=' ')}"
        raise VersionMissing(what, where=repository.store.url)
    return repository.stored(run, found[1])


def _parse_time(text: str) -> list[datetime]:
    """Return the moment of a time; two moments if a change of clocks made the local time come twice, or never."""
    try:
        said = datetime.fromisoformat(text)
        moments = {said.replace(fold=fold).astimezone() for fold in (0, 1)}
        return sorted(moment + _shown_step(text) for moment in moments)
    except (ValueError, OverflowError):
        raise ConfigInvalid(f"not a version: {text!r}", advice=ADVICE) from None


def _shown_step(text: str) -> timedelta:
    """Return the precision of *text*: a listed time means a version that was made within it."""
    found = _SECONDS.search(text)
    if found is None:
        return timedelta(0)
    step_us = 10 ** max(0, 6 - len(found[1] or ""))
    return timedelta(microseconds=step_us)


def _span(numbers: list[int]) -> str:
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else str(numbers[0])
    return ", ".join(map(str, numbers[-20:]))


def _names(repository: Repository) -> list[str]:
    return sorted(run_names(repository), key=lambda name: natural(name.encode()))


def _missing(what: str, names: list[str], repository: Repository, asked: str | None = None) -> RunMissing:
    if not names:
        return RunMissing(what, where=repository.store.url, advice="make the first version with: mlsync backup")
    close = difflib.get_close_matches(asked, names, n=1) if asked else []
    question = f"did you mean {close[0]}? " if close else ""
    some = ", ".join(names[:_NAMES_SHOWN]) + (", …" if len(names) > _NAMES_SHOWN else "")
    return RunMissing(what, where=repository.store.url, advice=f"{question}there are: {some}; see mlsync versions")
