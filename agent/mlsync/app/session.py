"""Open what a command works with: the store with its wrappers, the repository, the local state."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from mlsync.app.flow_options import store_options
from mlsync.app.limits import keep_limits
from mlsync.app.mirrors import AWAY, MirrorReading, in_place_of
from mlsync.app.wording import STORE_WAITS
from mlsync.codec.keys import Keys
from mlsync.codec.write_only import WriteOnlyKeys
from mlsync.config.model import Config
from mlsync.errors import Error, MirrorForeign, ObjectDamaged, RepositoryMissing, WriteOnly
from mlsync.monitor import Monitor
from mlsync.repository import names
from mlsync.repository.keys.keyslot import Unlock
from mlsync.repository.keys.remembered import Remembered
from mlsync.repository.repository import Repository
from mlsync.source.state import Head, Made, State, newest_made, seen_heads
from mlsync.store.base import Store
from mlsync.store.counting import CountingStore
from mlsync.store.location import open_store
from mlsync.store.options import OVERWRITES
from mlsync.store.retry import BUDGET_S, TRIES_MIN, RetryingStore

_LOG: Final = logging.getLogger(__name__)
# A user should not wait a minute to learn of a wrong address; running work is worth more patience.
FIRST_CONTACT_S = 6.0
STATE_FILE = "state.sqlite"
SLOT_FILE = "key-slot"
PLACE_FILE = "repository-place"
_RETIRED: Final = (
    "the repository's key was rotated, or is being rotated: what opened it here reads only what was there before"
)


class Session:
    """An open repository with its configuration."""

    def __init__(self, config: Config, counted: CountingStore, repository: Repository) -> None:
        keep_limits(config)
        self.config = config
        self.repository = repository
        self.counted = counted
        #: What came from mirrors, for a session that reads them.
        self.mirrors: MirrorReading | None = None
        #: The mirror that stands in for the repository, if that is away or gone.
        self.stand_in: str | None = None
        self._state: State | None = None
        self._state_lock = threading.Lock()

    @classmethod
    def open(
        cls,
        config: Config,
        find_unlock: Callable[[], Unlock],
        monitor: Monitor,
        *,
        first_contact_s: float = BUDGET_S,
        found_id: Callable[[bytes], None] = lambda _repository_id: None,
        writes_only: bool = False,
        reads_mirrors: bool = False,
    ) -> Self:
        """Open the repository that *config* names.

        With *reads_mirrors*, for commands that only read: what it has lost comes from a mirror, and a mirror stands in
        for it if it is away or gone altogether.

        *find_unlock* is called once the repository is known to exist, and before it *found_id* with its id. A caller
        that *writes_only* does with a key that opens nothing; for any other such a key raises ``WriteOnly``.
        """
        if reads_mirrors and config.mirrors:
            return cls._open_any(config, find_unlock, monitor, first_contact_s, found_id)
        return cls._open(config, find_unlock, monitor, first_contact_s, found_id, writes_only=writes_only)

    @classmethod
    def _open_any(
        cls,
        config: Config,
        find_unlock: Callable[[], Unlock],
        monitor: Monitor,
        first_contact_s: float,
        found_id: Callable[[bytes], None],
    ) -> Self:
        """Open the repository, or if that is away or gone a mirror."""
        try:
            return cls._open(config, find_unlock, monitor, first_contact_s, found_id, reads_mirrors=True)
        except (*AWAY, ObjectDamaged) as error:
            fault = error
        known = known_id(config)
        for mirror in config.mirrors:
            try:
                instead = in_place_of(config, mirror)
                if known is not None and repository_id_of(instead, monitor) != known:
                    raise MirrorForeign(f"the mirror {mirror.name!r} is another repository", where=mirror.url)
                session = cls._open(instead, find_unlock, monitor, first_contact_s, found_id, reads_mirrors=True)
            except (*AWAY, ObjectDamaged, MirrorForeign) as error:
                monitor.notice("warning", f"the mirror {mirror.name!r} is of no help: {error}")
                continue
            text = f"everything is read from the mirror {mirror.name!r}, which may be older: {fault}"
            monitor.notice("warning", text)
            session.config, session.stand_in = config, mirror.name
            return session
        raise fault

    @classmethod
    def _open(
        cls,
        config: Config,
        find_unlock: Callable[[], Unlock],
        monitor: Monitor,
        first_contact_s: float,
        found_id: Callable[[bytes], None],
        *,
        writes_only: bool = False,
        reads_mirrors: bool = False,
    ) -> Self:
        inner = open_store(config.repository, store_options(config))
        counted = CountingStore(inner)
        reading: MirrorReading | None = None
        try:
            found = Repository.look(_retrying(counted, monitor, first_contact_s))
            found_id(found.repository_id)
            likely_slot = _read_hint(_state_directory(config, found.repository_id) / SLOT_FILE)
            store = _retrying(counted, monitor)
            if reads_mirrors and config.mirrors:
                reading = MirrorReading(store, config, found.repository_id, monitor)
                store = reading.store
            unlock = find_unlock()
            if not writes_only:
                refuse_write_only(unlock)
            for_s = config.key.remember_s
            remembered = None if for_s is None else Remembered(for_s)
            repository = Repository.open(store, unlock, found=found, likely_slot=likely_slot, remembered=remembered)
        except BaseException:
            inner.close()
            raise
        _configure(store, repository, monitor, config)
        if repository.is_retired:
            monitor.notice("warning", _RETIRED)
        session = cls(config, counted, repository)
        session.mirrors = reading
        return session

    @classmethod
    def open_damaged(
        cls, config: Config, find_unlock: Callable[[], Unlock], monitor: Monitor, *, changes: bool
    ) -> tuple[Self, Error | None]:
        """Open a repository whose header may be lost; return it with what is wrong with the header, if anything.

        With *changes*, find out by writing what an S3 server can do, since the header that said so is to be made anew.
        """

        @cache
        def found_unlock() -> Unlock:
            unlock = find_unlock()
            refuse_write_only(unlock)
            return unlock

        try:
            return cls.open(config, found_unlock, monitor, first_contact_s=FIRST_CONTACT_S), None
        except (RepositoryMissing, ObjectDamaged) as error:
            fault = error
        # Without create, a directory's store would do nothing before there is a header.
        directory = config.repository_directory
        if directory is not None and not directory.is_dir():
            raise fault
        inner = open_store(config.repository, store_options(config), create=changes or directory is not None)
        counted = CountingStore(inner)
        try:
            store = _retrying(counted, monitor)
            if changes:
                store.probe()
            if next(store.list(names.KEY_SLOTS), None) is None:
                raise fault
            return cls(config, counted, Repository.without_header(store, found_unlock())), fault
        except BaseException:
            inner.close()
            raise

    @classmethod
    def resume(cls, config: Config, keys: Keys, monitor: Monitor, *, conditional_create: bool, slot: str) -> Self:
        """Continue with a repository that was opened before, without a request to the store."""
        inner = open_store(config.repository, store_options(config))
        counted = CountingStore(inner)
        store = _retrying(counted, monitor)
        repository = Repository(store, keys, conditional_create=conditional_create, slot=slot)
        _configure(store, repository, monitor, config)
        return cls(config, counted, repository)

    @classmethod
    def create(
        cls, config: Config, find_unlock: Callable[[], Unlock], monitor: Monitor, *, group: int | None = None
    ) -> Self:
        """Make the repository that *config* names, for this user or for the members of *group*.

        *find_unlock* is called once it is known that the repository can be made.
        """
        # The probe of a bucket finds out what may be written there, and leaves nothing. A directory would stay.
        unlock = None if config.repository_directory is None else find_unlock()
        inner = open_store(config.repository, store_options(config), create=True, group=group)
        counted = CountingStore(inner)
        try:
            store = _retrying(counted, monitor)
            store.configure(conditional_create=True, warn=lambda text: monitor.notice("warning", text))
            # Through the layer that retries: a store may fail once at the first write to a new bucket.
            conditional_create = store.probe()
            if not conditional_create:
                monitor.notice("warning", OVERWRITES)
            unlock = unlock or find_unlock()
            repository = Repository.create(store, unlock, conditional_create=conditional_create)
            return cls(config, counted, repository)
        except BaseException:
            inner.close()
            raise

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close everything."""
        self.close()

    def close(self) -> None:
        """Close state and store; do not use the session afterwards."""
        if self._state is not None:
            self._state.close()
        self.repository.close()

    @property
    def state_directory(self) -> Path:
        """Where the state of this repository is: under its id, so that two repositories never share one."""
        return _state_directory(self.config, self.repository.repository_id)

    @property
    def state(self) -> State:
        """The local state, opened on first use: a restore on a fresh machine needs none."""
        with self._state_lock:
            if self._state is None:
                self._state = State.open(state_path(self.config, self.repository.repository_id))
                _write_hint(self.state_directory / SLOT_FILE, self.repository.slot)
                _write_hint(self.state_directory / PLACE_FILE, self.config.repository)
            return self._state

    def seen_heads(self) -> dict[str, Head]:
        """Return the newest version of each run that this machine saw; create no local state to find out."""
        return seen_heads(state_path(self.config, self.repository.repository_id))


def refuse_write_only(unlock: Unlock) -> None:
    """Raise ``WriteOnly`` for a key that opens nothing."""
    if isinstance(unlock, WriteOnlyKeys):
        what = "this machine has a write-only key: it makes versions, and can read none"
        advice = (
            "do it where the repository opens, or name another key: --passphrase-file FILE, --key-file FILE, --kms KEY"
        )
        raise WriteOnly(what, advice=advice)


def refuse_existing(config: Config, monitor: Monitor) -> None:
    """Raise ``RepositoryExists`` before anybody has to type a new passphrase; a missing place is fine."""
    with suppress(RepositoryMissing), _opened(config) as inner:
        Repository.refuse_existing(_retrying(inner, monitor, FIRST_CONTACT_S))


@contextmanager
def _opened(config: Config) -> Iterator[Store]:
    inner = open_store(config.repository, store_options(config))
    try:
        yield inner
    finally:
        inner.close()


def repository_id_of(config: Config, monitor: Monitor) -> bytes:
    """Return the id of the repository that *config* names: one request, which needs no passphrase.

    Raise ``RepositoryMissing``, or what else can be known to be wrong without the keys.
    """
    with _opened(config) as inner:
        return Repository.look(_retrying(inner, monitor, FIRST_CONTACT_S)).repository_id


def _retrying(store: Store, monitor: Monitor, budget_s: float = BUDGET_S) -> Store:
    """Return a store that retries and reports it; the counting store is inside, so that it counts retries too."""

    def report(call: str, error: Exception, wait_s: float) -> None:
        monitor.notice("info", f"{STORE_WAITS}{call} failed, trying again in {wait_s:.1f} s: {error}")

    if _LOG.isEnabledFor(logging.DEBUG):
        from mlsync.store.slow import SlowRequestLog  # late: only a log of each step has it

        store = SlowRequestLog(store)
    tries_min = TRIES_MIN if budget_s >= BUDGET_S else 1
    return RetryingStore(store, budget_s=budget_s, tries_min=tries_min, on_wait=report)


def _configure(store: Store, repository: Repository, monitor: Monitor, config: Config) -> None:
    """Pass the store what init found out about it, and its warnings to *monitor*; say what is best by *config*."""
    repository.best_by = lambda run: config.evaluate_of(run).best_by
    store.configure(conditional_create=repository.conditional_create, warn=lambda text: monitor.notice("warning", text))


def state_path(config: Config, repository_id: bytes) -> Path:
    """Return where the local state of a repository is."""
    return _state_directory(config, repository_id) / STATE_FILE


def _state_directory(config: Config, repository_id: bytes) -> Path:
    return config.state_directory / repository_id.hex()


def known_id(config: Config) -> bytes | None:
    """Return the id of the repository at this place as this machine last saw it; ``None`` on a fresh machine."""
    newest = _newest_state(config)
    with suppress(ValueError):
        return None if newest is None else bytes.fromhex(newest.name)
    return None


def known_versions(config: Config) -> dict[str, Made]:
    """Return the newest version of each run that the local state knows, without a look into the repository.

    Empty if nothing was done yet with the repository at this place on this machine.
    """
    newest = _newest_state(config)
    with suppress(OSError):
        return {} if newest is None else newest_made(newest / STATE_FILE)
    return {}


def _newest_state(config: Config) -> Path | None:
    """Return the state of the repository at this place; one that was made anew there has another id."""
    with suppress(OSError):
        states = [entry for entry in config.state_directory.iterdir() if _is_state_of(entry, config.repository)]
        return max(states, key=lambda entry: (entry / STATE_FILE).stat().st_mtime, default=None)
    return None


def _is_state_of(directory: Path, place: str) -> bool:
    return _read_hint(directory / PLACE_FILE) == place and (directory / STATE_FILE).is_file()


def _read_hint(path: Path) -> str | None:
    """Return what was noted for the next time, which is no secret; ``None`` for nothing."""
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError):
        return None


def _write_hint(path: Path, text: str) -> None:
    if _read_hint(path) != text:
        with suppress(OSError):
            path.touch(mode=0o600)
            path.write_text(text, "utf-8")
