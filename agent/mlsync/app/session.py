"""Open what a command works with: the store with its wrappers, the repository, the local state, the prover."""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Literal, Self, cast

from mlsync.backup.request import BackupOptions, Source
from mlsync.codec.keys import Keys
from mlsync.config.model import Config, WatchSettings
from mlsync.errors import RepositoryMissing
from mlsync.monitor import Monitor
from mlsync.proving.policy import Policy
from mlsync.repository.keyslot import Unlock
from mlsync.repository.repository import Repository
from mlsync.source.state import Head, Made, State, newest_made, seen_heads
from mlsync.store.base import Store
from mlsync.store.counting import CountingStore
from mlsync.store.location import StoreOptions, open_store
from mlsync.store.options import OVERWRITES
from mlsync.store.retry import BUDGET_S, TRIES_MIN, RetryingStore
from mlsync.store.slow import SlowRequestLog
from mlsync.values import NumberFault

if TYPE_CHECKING:
    from mlsync.app.proof_user import RunsAs
    from mlsync.proof.framework import Framework
    from mlsync.proof.options import ProofOptions
    from mlsync.proof.prover import Prover
    from mlsync.proving.load import LoadingOptions

_LOG: Final = logging.getLogger(__name__)
# A user should not wait a minute to learn of a wrong address; running work is worth more patience.
FIRST_CONTACT_S = 6.0
STATE_FILE = "state.sqlite"
SLOT_FILE = "key-slot"
PLACE_FILE = "repository-place"
UPLOADS_DIRECTORY = "uploads"
LOADING_DIRECTORY = "loading"
# The level that a proof must reach by default: the bytes on the device are those of the file. Level 4 checks the
# numbers, and the policy on them is the user's.
REQUIRED_LEVEL = 3


class Session:
    """An open repository with its configuration."""

    def __init__(self, config: Config, counted: CountingStore, repository: Repository) -> None:
        self.config = config
        self.repository = repository
        self.counted = counted
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
    ) -> Self:
        """Open the repository that *config* names.

        *find_unlock* is called once the repository is known to exist, and before it *found_id* with its id.
        """
        inner = open_store(config.repository, store_options(config))
        counted = CountingStore(inner)
        try:
            found = Repository.look(_retrying(counted, monitor, first_contact_s))
            found_id(found.repository_id)
            likely_slot = _read_hint(_state_directory(config, found.repository_id) / SLOT_FILE)
            store = _retrying(counted, monitor)
            repository = Repository.open(store, find_unlock(), found=found, likely_slot=likely_slot)
        except BaseException:
            inner.close()
            raise
        _configure(store, repository, monitor)
        return cls(config, counted, repository)

    @classmethod
    def resume(cls, config: Config, keys: Keys, monitor: Monitor, *, conditional_create: bool, slot: str) -> Self:
        """Continue with a repository that was opened before, without a request to the store."""
        inner = open_store(config.repository, store_options(config))
        counted = CountingStore(inner)
        store = _retrying(counted, monitor)
        repository = Repository(store, keys, conditional_create=conditional_create, slot=slot)
        _configure(store, repository, monitor)
        return cls(config, counted, repository)

    @classmethod
    def create(
        cls, config: Config, find_unlock: Callable[[], Unlock], monitor: Monitor, *, group: int | None = None
    ) -> Self:
        """Make the repository that *config* names, for this user or for the members of *group*.

        *find_unlock* is called once it is known that the repository can be made.
        """
        # Opening a bucket finds out what may be written there, and leaves nothing. A directory would stay.
        unlock = None if config.repository_directory is None else find_unlock()
        inner = open_store(config.repository, store_options(config), create=True, group=group)
        if not inner.conditional_create:
            monitor.notice("warning", OVERWRITES)
        counted = CountingStore(inner)
        try:
            store = _retrying(counted, monitor)
            unlock = unlock or find_unlock()
            repository = Repository.create(store, unlock, conditional_create=inner.conditional_create)
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

    def prover(self, device: str | None = None, *, run: str | None = None) -> Prover:
        """Return a prover by the configuration; *device* overrides it, *run* says whose checkpoints they are."""
        from mlsync.app.proof_user import runs_as
        from mlsync.proof.prover import Prover  # late, with all parsers of checkpoints

        return Prover(proof_options(self.config, device, runs_as(self.config, run)))

    def backup_options(self, run: str | None = None) -> BackupOptions:
        """Return how backups of a run are done by the configuration."""
        proof = self.config.proof
        return BackupOptions(
            required_level=REQUIRED_LEVEL if proof.require is None else proof.require,
            wait_for_proof=proof.waits,
            read_back=cast('Literal["new", "all", "none"]', proof.read_back),
            uploads=self.state_directory / UPLOADS_DIRECTORY,
            loading=self.loading_options(run=run),
            policy=policy_of(self.config),
        )

    def loading_options(self, device: str | None = None, *, run: str | None = None) -> LoadingOptions | None:
        """Return how checkpoints are loaded by a framework by the configuration, if they are; the rest as above."""
        if not self.config.proof.loads:
            return None
        from mlsync.app.proof_user import runs_as
        from mlsync.proving.load import LoadingOptions  # late, as above

        framework = framework_of(self.config, device, runs_as(self.config, run))
        return LoadingOptions(framework, self.state_directory / LOADING_DIRECTORY)

    def clear_leftovers(self) -> None:
        """Remove the checkpoints that a killed process was loading."""
        directory = self.state_directory / LOADING_DIRECTORY
        if directory.is_dir():
            from mlsync.proving.load import clear_leftovers  # late, as above

            clear_leftovers(directory)


def refuse_existing(config: Config, monitor: Monitor) -> None:
    """Raise ``RepositoryExists`` before anybody has to type a new passphrase; a missing place is fine."""
    with suppress(RepositoryMissing), _opened(config) as inner:
        Repository.refuse_existing(_retrying(inner, monitor, FIRST_CONTACT_S))


def refuse_missing(config: Config, monitor: Monitor) -> None:
    """Raise ``RepositoryMissing``, or what else can be known of a repository without its keys."""
    with _opened(config) as inner:
        Repository.look(_retrying(inner, monitor, FIRST_CONTACT_S))


@contextmanager
def _opened(config: Config) -> Iterator[Store]:
    inner = open_store(config.repository, store_options(config))
    try:
        yield inner
    finally:
        inner.close()


def repository_id_of(config: Config, monitor: Monitor) -> bytes:
    """Return the id of the repository that *config* names: one request, which needs no passphrase."""
    inner = open_store(config.repository, store_options(config))
    try:
        return Repository.look(_retrying(inner, monitor, FIRST_CONTACT_S)).repository_id
    finally:
        inner.close()


def source_of(watch: WatchSettings) -> Source:
    """Return what the flows need to know about a watched directory."""
    return Source(watch.run, bytes(watch.directory), watch.exclude, watch.keep_temporary, watch.not_models)


def store_options(config: Config) -> StoreOptions:
    """Return how the store is reached by the configuration."""
    s3 = config.s3
    return StoreOptions(
        endpoint_url=s3.endpoint_url,
        region=s3.region,
        profile=s3.profile,
        addressing=cast('Literal["auto", "path", "virtual"]', s3.addressing),
        ca_file=None if s3.ca_file is None else str(s3.ca_file),
        payload_signing=cast('Literal["auto", "always", "never"]', s3.payload_signing),
    )


def proof_options(config: Config, device: str | None, runs: RunsAs | None = None) -> ProofOptions:
    """Return how checkpoints are proved by the configuration."""
    from mlsync.app.proof_user import OWN
    from mlsync.proof.options import ProofOptions  # late, as above

    runs = runs or OWN

    proof = config.proof
    return ProofOptions(
        device=device or proof.device,
        python=None if proof.python is None else str(proof.python),
        user=runs.user,
        may_be_root=runs.may_be_root,
        as_root=runs.as_root,
        timeout_s=proof.timeout_s,
        memory_bytes=proof.memory_bytes,
        refuse=cast("frozenset[NumberFault]", frozenset(config.proof.refuse)),
        warn=cast("frozenset[NumberFault]", frozenset(proof.warn)),
    )


def framework_of(config: Config, device: str | None, runs: RunsAs | None = None) -> Framework:
    """Return how a framework loads checkpoints by the configuration."""
    from mlsync.app.proof_user import OWN
    from mlsync.proof import framework  # late, as above

    runs = runs or OWN

    proof, device = config.proof, device or config.proof.device
    python = sys.executable if proof.python is None else str(proof.python)
    kinds, only_of, takes_files = framework.SEVERAL_FILES, None, True
    if proof.framework == "ultralytics":
        name, command = "ultralytics", framework.ultralytics_command(python, device)
        kinds, only_of = frozenset(), "ultralytics"
    elif proof.framework == "transformers":
        name, command = "transformers", framework.transformers_command(python, device)
        kinds, takes_files = framework.HUGGING_FACE | {framework.DESCRIBED}, False
    elif proof.model is not None:
        name, command = f"state_dict {proof.model}", framework.state_dict_command(python, device, proof.model)
        kinds = framework.HUGGING_FACE | {"dcp"}
    else:
        name, command = " ".join(proof.command), proof.command
    return framework.Framework(
        name=name,
        command=command,
        patterns=proof.command_for,
        framework=only_of,
        kinds=kinds,
        takes_files=takes_files,
        environment=_environment(proof.command_environment, os.environ),
        device=device,
        timeout_s=proof.command_timeout_s,
        user=runs.user,
        # Code in a user's checkpoint would get root's rights, and that user could make running as himself fail.
        may_be_root=runs.may_be_root and runs.is_roots,
        as_root=runs.as_root,
    )


def policy_of(config: Config) -> Policy:
    """Return the policy of the configuration by which checkpoints are refused."""
    numbers = " ".join(sorted(config.proof.refuse))
    if not config.proof.loads:
        return Policy(numbers)
    given = hashlib.sha256("\0".join(config.proof.command_environment).encode("utf-8", "surrogateescape")).hexdigest()
    return Policy(numbers, f"{framework_of(config, None).fingerprint()} {given[:16]}")


def _environment(wanted: tuple[str, ...], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a list of names, which are taken from *environ*, and of assignments."""
    given = {name: value for name, is_set, value in (item.partition("=") for item in wanted) if is_set}
    return {name: environ[name] for name in wanted if name in environ} | given


def _retrying(store: Store, monitor: Monitor, budget_s: float = BUDGET_S) -> Store:
    """Return a store that retries and reports it; the counting store is inside, so that it counts retries too."""

    def report(call: str, error: Exception, wait_s: float) -> None:
        monitor.notice("info", f"store: {call} failed, trying again in {wait_s:.1f} s: {error}")

    if _LOG.isEnabledFor(logging.DEBUG):
        store = SlowRequestLog(store)
    tries_min = TRIES_MIN if budget_s >= BUDGET_S else 1
    return RetryingStore(store, budget_s=budget_s, tries_min=tries_min, on_wait=report)


def _configure(store: Store, repository: Repository, monitor: Monitor) -> None:
    """Pass the store what init found out about it, and its warnings to *monitor*."""
    store.configure(conditional_create=repository.conditional_create, warn=lambda text: monitor.notice("warning", text))


def state_path(config: Config, repository_id: bytes) -> Path:
    """Return where the local state of a repository is."""
    return _state_directory(config, repository_id) / STATE_FILE


def _state_directory(config: Config, repository_id: bytes) -> Path:
    return config.state_directory / repository_id.hex()


def known_versions(config: Config) -> dict[str, Made]:
    """Return the newest version of each run that the local state knows, without a look into the repository.

    Empty if nothing was done yet with the repository at this place on this machine.
    """
    known: dict[str, Made] = {}
    with suppress(OSError):
        # A repository that was made anew at the same place has another id, and the older state tells nothing of it.
        states = [entry for entry in config.state_directory.iterdir() if _is_state_of(entry, config.repository)]
        newest = max(states, key=lambda entry: (entry / STATE_FILE).stat().st_mtime, default=None)
        known = {} if newest is None else newest_made(newest / STATE_FILE)
    return known


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
