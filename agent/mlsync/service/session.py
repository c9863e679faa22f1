"""Open what a command works with: the store with its wrappers, the repository, the local state, the prover."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, cast

from mlsync.errors import RepositoryMissing
from mlsync.flows.backup import BackupOptions, Source
from mlsync.monitor import Monitor
from mlsync.repository.keyslot import Unlock
from mlsync.repository.repository import Repository
from mlsync.service.config import Config, WatchSettings
from mlsync.source.state import State
from mlsync.store.base import Store
from mlsync.store.counting import CountingStore
from mlsync.store.location import StoreOptions, open_store
from mlsync.store.retry import BUDGET_S, RetryingStore

if TYPE_CHECKING:
    from mlsync.proof.prove import ProofOptions, Prover

# At a terminal nobody waits a minute to learn of a wrong address; work that has begun is worth more patience.
FIRST_CONTACT_S = 6.0
STATE_FILE = "state.sqlite"
# What the proof must reach where the configuration does not say: numbers on the device are looked at, and policy on
# them is the user's; what must hold is that the bytes are on the device as they were in the file.
REQUIRED_LEVEL = 3


class Session:
    """A repository that is open, with what the configuration says of it."""

    def __init__(self, config: Config, counted: CountingStore, repository: Repository) -> None:
        self.config = config
        self.repository = repository
        self.counted = counted
        self._state: State | None = None
        self._state_lock = threading.Lock()

    @classmethod
    def open(cls, config: Config, unlock: Unlock, monitor: Monitor) -> Self:
        """Open the repository that *config* names."""
        inner = open_store(config.repository, store_options(config))
        counted, store = _wrapped(inner, monitor)
        try:
            repository = Repository.open(store, unlock)
            if not repository.conditional_create and hasattr(inner, "conditional_create"):
                # Found out at init, by writing: a server that ignores the condition gives no sign of it later.
                inner.conditional_create = False
            return cls(config, counted, repository)
        except BaseException:
            store.close()
            raise

    @classmethod
    def create(cls, config: Config, unlock: Unlock, monitor: Monitor) -> Self:
        """Make the repository that *config* names."""
        inner = open_store(config.repository, store_options(config), create=True)
        conditional_create = bool(getattr(inner, "conditional_create", True))
        counted, store = _wrapped(inner, monitor)
        try:
            return cls(config, counted, Repository.create(store, unlock, conditional_create=conditional_create))
        except BaseException:
            store.close()
            raise

    def __enter__(self) -> Self:
        """Be used in a ``with``."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close everything."""
        self.close()

    def close(self) -> None:
        """Close state and store; the session is not used afterwards."""
        if self._state is not None:
            self._state.close()
        self.repository.close()

    @property
    def state_directory(self) -> Path:
        """Where the state of this repository lies: by its id, so that two repositories never share one."""
        return self.config.state_directory / self.repository.repository_id.hex()

    @property
    def state(self) -> State:
        """The local state, opened when first asked for: a restore on a fresh machine needs none."""
        with self._state_lock:
            if self._state is None:
                self._state = State.open(self.state_directory / STATE_FILE)
            return self._state

    def prover(self, device: str | None = None) -> Prover:
        """Return a prover by the configuration; *device* stands above it."""
        from mlsync.proof.prove import Prover  # late, with all parsers of checkpoints

        return Prover(proof_options(self.config, device))

    def backup_options(self) -> BackupOptions:
        """Return how backups are done by the configuration: who names a level would rather wait than have less."""
        required = self.config.proof.require
        if required is None:
            return BackupOptions(required_level=REQUIRED_LEVEL)
        return BackupOptions(required_level=required, wait_for_proof=True)


class SessionOpener:
    """Opens a session once, whenever that works: an agent that starts while its store is away waits for it."""

    def __init__(self, config: Config, unlock: Unlock, monitor: Monitor) -> None:
        self._config = config
        self._unlock = unlock
        self._monitor = monitor
        self._lock = threading.Lock()
        self._session: Session | None = None

    def session(self) -> Session:
        """Return the session, opened now if it is not yet."""
        with self._lock:
            if self._session is None:
                self._session = Session.open(self._config, self._unlock, self._monitor)
            return self._session

    def close(self) -> None:
        """Close the session if there is one."""
        with self._lock:
            if self._session is not None:
                self._session.close()
                self._session = None


def open_missing(config: Config, monitor: Monitor) -> None:
    """Raise what is wrong with the place itself before anybody is asked for a passphrase."""
    _, store = _wrapped(open_store(config.repository, store_options(config)), monitor, FIRST_CONTACT_S)
    try:
        if not Repository.exists(store):
            advice = "make one with: mlsync init"
            raise RepositoryMissing("there is no repository", where=store.url, advice=advice)
    finally:
        store.close()


def refuse_existing(config: Config, monitor: Monitor) -> None:
    """Raise ``RepositoryExists`` before anybody is asked for a new passphrase; a place that is not there is fine."""
    try:
        inner = open_store(config.repository, store_options(config))
    except RepositoryMissing:
        return
    _, store = _wrapped(inner, monitor, FIRST_CONTACT_S)
    try:
        Repository.refuse_existing(store)
    finally:
        store.close()


def source_of(watch: WatchSettings) -> Source:
    """Return what the flows need to know of a watched directory."""
    return Source(watch.run, bytes(watch.directory), watch.exclude)


def store_options(config: Config) -> StoreOptions:
    """Return how the store is reached by the configuration."""
    s3 = config.s3
    return StoreOptions(
        endpoint_url=s3.endpoint_url,
        region=s3.region,
        profile=s3.profile,
        addressing=cast('Literal["auto", "path", "virtual"]', s3.addressing),
        ca_file=None if s3.ca_file is None else str(s3.ca_file),
        payload_signing="always" if s3.payload_signing else "auto",
    )


def proof_options(config: Config, device: str | None) -> ProofOptions:
    """Return how checkpoints are proved by the configuration."""
    from mlsync.proof.prove import ProofOptions  # late, as above

    proof = config.proof
    return ProofOptions(
        device=cast('Literal["auto", "cuda", "cpu", "none"]', device or proof.device),
        python=None if proof.python is None else str(proof.python),
        timeout_s=proof.timeout_s,
        refuse_nan=proof.refuse_nan,
    )


def _wrapped(inner: Store, monitor: Monitor, budget_s: float = BUDGET_S) -> tuple[CountingStore, Store]:
    """Count what really goes over the wire, tries included, so inside of what tries again."""
    counted = CountingStore(inner)

    def tell(call: str, error: Exception, wait_s: float) -> None:
        monitor.notice("info", f"store: {call} failed, trying again in {wait_s:.1f} s: {error}")

    return counted, RetryingStore(counted, budget_s=budget_s, on_wait=tell)
