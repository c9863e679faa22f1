"""What a pass does besides its version: prove what is pending, read back a share of the old packs, extend locks.

No failure here costs a version: it is logged, and the next due time tries again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Final

from mlsync.app.flow_options import loading_options, prover_of
from mlsync.app.locking import extend, lock_of, sentences
from mlsync.app.mirrors import in_place_of, open_mirror
from mlsync.app.session import Session
from mlsync.app.wording import count, size
from mlsync.backup.request import BackupResult
from mlsync.config.model import WatchSettings
from mlsync.config.new_objects import Lock
from mlsync.errors import Damage, Error, ObjectArchived, ProofUnavailable, Stopped, VersionMissing
from mlsync.log_context import working_on
from mlsync.monitor import Monitor
from mlsync.proof.warm import WarmEngine
from mlsync.proving.prove_later import LaterProver, LaterResult
from mlsync.repository import names
from mlsync.repository.repository import Repository
from mlsync.service.afterwards.proof_due import is_proof_due, note_proof
from mlsync.source.paths import display
from mlsync.upkeep.scrub import scrub

SCRUB_EVERY_S: Final = 3600.0
# A lock is extended when half of it is over: it is looked at four times in that half, and at least so often.
_OF_LOCK: Final = 1 / 8
EXTEND_EVERY_MAX_S: Final = 7 * 86400.0
_EXTENDED: Final = "locks extended"
_SCRUBBED: Final = "scrubbed"
# Packs belong to no one run: one scrub serves all runs that this machine watches.
_ALL_RUNS: Final = ""
_NS: Final = 10**9


class Maintenance:
    """The maintenance of one run on this machine; each pass calls ``run`` at its end."""

    def __init__(
        self,
        session: Session,
        watch: WatchSettings,
        monitor: Monitor,
        stop: threading.Event,
        *,
        now_ns: Callable[[], int] = time.time_ns,
        warm: WarmEngine | None = None,
    ) -> None:
        self._session = session
        self._state = session.state
        self._run = watch.run
        self._monitor = monitor
        self._stop = stop
        self._now_ns = now_ns
        self._warm = warm
        #: The older versions of which this learned more: they are proved, or turned out not to load.
        self.looked_at: set[int] = set()
        #: How many packs turned out to be damaged.
        self.damaged_count = 0

    def run(self, made: BackupResult | None = None) -> int | None:
        """Do what is due after the pass that *made* something; return the newest version that this proved, if any.

        An exception is a bug.
        """
        if self._session.repository.is_write_only:
            # It cannot read what it wrote before: other machines prove, scrub and prune.
            return None
        proved_version = None
        if made is not None and made.version and made.checkpoint_count and not made.pending:
            # Proofs work just now, so those that are pending need not wait.
            note_proof(self._state, self._run, self._now_ns(), works=True)
        try:
            proved_version = self._prove_pending()
            self._scrub()
            self._extend_locks()
        except Stopped:
            pass
        except Error as error:
            self._monitor.notice("warning", f"{self._run}: {error}")
        return proved_version

    def prove_until(self, end_s: float) -> int | None:
        """Prove the newest pending version, and give up at *end_s* on the monotonic clock; return it if it is proved.

        The last pass does this with the time that is left: its version is committed already.
        """
        if self._session.repository.is_write_only or self._session.config.proof.device == "none":
            return None
        newest = max(self._state.pending(self._run), default=None)
        if newest is None:
            return None
        try:
            with self._later_prover(lambda: self._stop.is_set() or time.monotonic() >= end_s) as later:
                return newest if self._prove(later, newest) else None
        except (Stopped, ProofUnavailable):
            pass
        except Error as error:
            self._monitor.notice("warning", f"{self._run}: {error}")
        return None

    # ------------------------------------------------------------ pending proofs

    def _prove_pending(self) -> int | None:
        if not is_proof_due(self._state, self._run, self._now_ns()):
            return None
        pending = self._state.pending(self._run)
        proved: list[int] = []
        config = self._session.config
        with self._later_prover(self._stop.is_set) as later:
            try:
                proved.extend(number for number in pending if self._prove(later, number))
                note_proof(self._state, self._run, self._now_ns(), works=not self._state.pending(self._run))
            except ProofUnavailable as error:
                note_proof(self._state, self._run, self._now_ns(), works=False)
                if config.proof.device == "none":
                    return max(proved, default=None)  # the configuration leaves it to other machines
                left = count(len(pending) - len(proved), "version")
                self._monitor.notice("info", f"{self._run}: {left} still pending: {error}")
        return max(proved, default=None)

    @contextmanager
    def _later_prover(self, stop: Callable[[], bool]) -> Iterator[LaterProver]:
        repository, config = self._session.repository, self._session.config
        loading = loading_options(config, self._session.state_directory, run=self._run)
        with (
            prover_of(config, run=self._run, warm=self._warm) as prover,
            LaterProver(repository, prover, self._monitor, loading=loading, stop=stop) as later,
        ):
            yield later

    def _prove(self, later: LaterProver, number: int) -> bool:
        """Return whether the version is now proved as far as the configuration requires."""
        try:
            with working_on(self._run, number):
                result = later.pending(self._session.repository.stored(self._run, number))
        except VersionMissing:
            # A directory that is not mounted looks empty, which does not mean that the versions are gone.
            if not self._session.repository.has_versions(self._run):
                raise
            self._state.drop_pending(self._run, number)
            return False
        except Damage as error:
            self._note_damage(error)
            return False
        except ObjectArchived as error:
            # It stays pending, and the versions after it must not wait until somebody has it thawed.
            self._monitor.notice("warning", f"{self._run}: version {number} cannot be proved now: {error}")
            return False
        self._report(result)
        if result.unavailable is not None:
            raise result.unavailable
        self._state.drop_pending(self._run, number)
        return not result.refused

    def _report(self, result: LaterResult) -> None:
        self.looked_at.add(result.version)
        for path, why in result.refused.items():
            text = f"{self._run}: version {result.version}: {display(path)} turned out not to load: {why}"
            self._monitor.notice("error", text)
        if len(result.verdicts) > len(result.refused) and result.unavailable is None:
            device = f" on {result.device}" if result.device else ""
            text = f"{self._run}: version {result.version} proved to L{result.lowest_level}{device}"
            self._monitor.notice("info", f"{text}, {size(result.read_bytes)} read back")

    def _note_damage(self, error: Damage) -> None:
        self.damaged_count += 1
        pack_id = names.parse_pack(error.where or "")
        if pack_id is not None:
            self._state.add_damaged([pack_id])
        self._monitor.notice("error", f"{self._run}: {error}; what the last version needs of it is stored again")

    # ------------------------------------------------------------ old packs

    def _scrub(self) -> None:
        period_s = self._session.config.proof.scrub_s
        if period_s is None or not self._is_due(_ALL_RUNS, _SCRUBBED, SCRUB_EVERY_S):
            return
        now_ns = self._now_ns()
        since_ns = self._state.last_ns(_ALL_RUNS, _SCRUBBED)
        if since_ns is not None:
            self._scrub_between(since_ns, now_ns, period_s)
        # The first time only starts the clock: a machine that is new here need not read all packs at once.
        self._state.set_last_ns(_ALL_RUNS, _SCRUBBED, now_ns)

    def _scrub_between(self, since_ns: int, now_ns: int, period_s: float) -> None:
        result = scrub(
            self._session.repository,
            self._monitor,
            since_ns=since_ns,
            now_ns=now_ns,
            period_s=period_s,
            stop=self._stop.is_set,
        )
        self._state.add_damaged(result.damaged)
        self.damaged_count += len(result.damaged)
        for pack_id, why in result.damaged.items():
            text = f"{names.pack(pack_id)}: {why}; what the last version needs of it is stored again"
            self._monitor.notice("error", text)
        if result.pack_count:
            read = f"{count(result.pack_count, 'pack')}, {size(result.read_bytes)} read back"
            self._monitor.notice("info", f"scrubbed {read}")

    # ------------------------------------------------------------ locks

    def _extend_locks(self) -> None:
        """Extend the locks of the repository, and of mirrors, each by its own settings, where that is due."""
        config, repository = self._session.config, self._session.repository
        lock = lock_of(config)
        if lock is not None and (name := self._due_lock("", lock)) is not None:
            self._extend(repository, lock, name)
        for mirror in config.mirrors:
            lock = lock_of(in_place_of(config, mirror))
            if lock is None or (name := self._due_lock(mirror.name, lock)) is None:
                continue
            try:
                store = open_mirror(mirror, repository.repository_id)
                with closing(Repository(store, repository.keys)) as copy:
                    self._extend(copy, lock, name, of=f"mirror {mirror.name!r}: ")
            except Stopped:
                raise
            except Error as error:
                # A mirror that is away is not asked with each pass: a lock is looked at several times in its half.
                self._state.set_last_ns(_ALL_RUNS, name, self._now_ns())
                self._monitor.notice("warning", f"the locks of the mirror {mirror.name!r} were not looked at: {error}")

    def _due_lock(self, mirror: str, lock: Lock) -> str | None:
        """Return under which name it is noted when locks were looked at, ``None`` if that is not due."""
        # Another lock than before is a beginning: objects that are young may have been made without it.
        name = f"{_EXTENDED} {lock.mode} {lock.period_s:.0f} {mirror}".rstrip()
        every_s = min(lock.period_s * _OF_LOCK, EXTEND_EVERY_MAX_S)
        return name if self._is_due(_ALL_RUNS, name, every_s) else None

    def _extend(self, repository: Repository, lock: Lock, name: str, *, of: str = "") -> None:
        skips_young = self._state.last_ns(_ALL_RUNS, name) is not None
        done = extend(repository, lock, self._monitor, skips_young=skips_young, stop=self._stop.is_set)
        for level, text in sentences(done):
            self._monitor.notice(level, f"{of}{text}")
        self._state.set_last_ns(_ALL_RUNS, name, self._now_ns())

    def _is_due(self, run: str, name: str, every_s: float) -> bool:
        last_ns = self._state.last_ns(run, name)
        # A clock that was set back must not delay it until the clock has caught up.
        return last_ns is None or not 0 <= self._now_ns() - last_ns < every_s * _NS
