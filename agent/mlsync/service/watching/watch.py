"""Watches the training directories for finished changes, through inotify while that works.

Watching only makes backups prompt: the agent rescans all files in intervals anyway. So a lost event, a directory that
cannot be watched, and a kernel without room for watches each cost at most one such interval.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import stat
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.api import BaseObserver, ObservedWatch
from watchdog.observers.inotify import InotifyFullEmitter, InotifyObserver, InotifyWatchGroup
from watchdog.observers.inotify_c import (
    CallbackId,
    InotifyConstants,
    InotifyEvent,
    InotifyFD,
    Mask,
    WatchCallback,
    WatchDescriptor,
)

from mlsync.monitor import Monitor, NoticeLevel
from mlsync.service.watching.trigger import Trigger
from mlsync.source.finished import Saved, finished_file, full_directory, has_temporary_name
from mlsync.source.paths import display
from mlsync.source.silent_disks import silent_kind

# Only finished changes: events for each write would cost the trainer time.
_EVENTS: list[type[FileSystemEvent]] = [
    FileClosedEvent,
    FileMovedEvent,
    DirMovedEvent,
    FileCreatedEvent,
    DirCreatedEvent,
    FileDeletedEvent,
    DirDeletedEvent,
]
_LIMITS = {
    errno.ENOSPC: ("the kernel has no room for more watches", "sysctl fs.inotify.max_user_watches=1048576"),
    errno.EMFILE: ("the kernel gives no more inotify instances", "sysctl fs.inotify.max_user_instances=1024"),
}
_VANISHED = (errno.ENOENT, errno.ENOTDIR)
# Files that changed before, in a directory; of more, the oldest count as new when they change again.
_KNOWN_MAX: Final = 10_000
_BROKE_OFF = "watching for changes broke off and was started again"
# The library looks for the other half of each rename among all events that wait: with more than these it takes seconds
# for each, at a whole processor, and nothing is noted any more.
_WAITING_MAX: Final = 4096
_EVENTS_BETWEEN_LOOKS: Final = 256
_PAUSE_S: Final = 0.1
_LOG: Final = logging.getLogger(__name__)
POLL_S = 2.0
# How often a directory is rescanned that is on a file system which does not report every change.
SILENT_RESCAN_S: Final = 10.0
RETRY_S = 300.0
FIRST_CHECK_S = 3.0

Identity = tuple[int, int]


class Watcher:
    """Notes changes of each directory in its ``Trigger``s; follows directories that appear, vanish and move."""

    def __init__(
        self, directories: Mapping[Path, Sequence[Trigger]], monitor: Monitor, *, poll_s: float = POLL_S
    ) -> None:
        self._directories = [
            _WatchedDirectory(directory, _Handler(directory, triggers)) for directory, triggers in directories.items()
        ]
        self._monitor = monitor
        self._poll_s = poll_s
        self._observer: _Observer | None = None
        self._began_s = 0.0
        self._warned: set[str] = set()
        self._stop = threading.Event()
        self._checked = threading.Event()
        self._thread = threading.Thread(target=self._check_repeatedly, name="watch", daemon=True)

    def start(self) -> None:
        """Return when all existing directories are watched, unless one hangs; others follow when they appear."""
        # The library's warnings (lost events, say) are replaced by our own, once each, with what they mean.
        logging.getLogger("watchdog").setLevel(logging.CRITICAL)
        # It finds a new directory both by its event and by a walk of the parent, and warns when it registers it twice.
        warnings.filterwarnings("ignore", "Callback with id .* (already exists|does not exist)", RuntimeWarning)
        self._thread.start()
        # Not for ever: a directory on a server that is away would block the whole agent.
        self._checked.wait(FIRST_CHECK_S)

    def stop(self) -> None:
        """End all watches."""
        self._stop.set()
        self._thread.join(FIRST_CHECK_S)
        if not self._thread.is_alive():
            self._drop_observer()

    def watched(self, directory: Path) -> bool:
        """Return whether changes in *directory* are noted at once, and not only by the next rescan."""
        observer = self._observer
        complete = observer is not None and observer.works() and observer.queue.refused is None
        return complete and any(
            one.directory == directory and one.watch is not None and one.silent_kind is None
            for one in self._directories
        )

    def check(self) -> None:
        """Watch every directory that exists now, by its present identity, as far as the kernel allows."""
        self._renew_observer()
        for watched in self._directories:
            self._check_one(watched)
            watched.handler.look_after_held()
        if self._observer is not None and self._observer.queue.refused is not None:
            self._warn_refusal(self._observer.queue.refused)

    def _check_repeatedly(self) -> None:
        while not self._stop.is_set():
            try:
                self.check()
            except Exception:  # noqa: BLE001 - a fault of the library must not end the watch until the next start
                _LOG.debug("the observer failed", exc_info=True)
                self._warn_once(_BROKE_OFF)
                self._drop_observer()
                self._note_all()
            self._checked.set()
            self._stop.wait(self._poll_s)

    def _renew_observer(self) -> None:
        """Drop an observer that broke, or that the kernel refused some time ago, so that ``check`` makes a new one."""
        if self._observer is None:
            return
        queue = self._observer.queue
        broken = not self._observer.works() or queue.is_unmounted or queue.is_confused
        again = queue.refused is not None and time.monotonic() - self._began_s >= RETRY_S
        if broken:
            self._warn_once(_BROKE_OFF)
        if broken or again:
            self._drop_observer()
            self._note_all()

    def _check_one(self, watched: _WatchedDirectory) -> None:
        found = _identity(watched.directory)
        if found == watched.identity and self._covers(watched, found):
            return
        if found != watched.identity or watched.watch is not None:
            # It appeared, vanished, or was replaced: in each case the run's files changed.
            watched.handler.note()
        self._unwatch(watched)
        watched.identity = found
        if found is not None:
            self._tell_silence(watched)
            self._watch(watched)

    def _tell_silence(self, watched: _WatchedDirectory) -> None:
        """Have it rescanned more often if its file system does not report every change."""
        watched.silent_kind = silent_kind(watched.directory)
        within_s = math.inf if watched.silent_kind is None else SILENT_RESCAN_S
        watched.handler.rescan_within(within_s)
        if watched.silent_kind is not None:
            where, kind = display(bytes(watched.directory)), watched.silent_kind
            text = f"{where} is on {kind}, where changes by other machines are not reported"
            self._warn_once(f"{text}: mlsync looks every {SILENT_RESCAN_S:.0f} s", "info")

    def _covers(self, watched: _WatchedDirectory, found: Identity | None) -> bool:
        """Return whether a directory that exists is watched: a new one may have an old one's inode number."""
        if found is None or watched.watch is None or self._observer is None:
            return found is None
        return any(emitter.watch is watched.watch and emitter.is_alive() for emitter in self._observer.emitters)

    def _watch(self, watched: _WatchedDirectory) -> None:
        try:
            if self._observer is None:
                self._observer = _Observer(on_lost=self._note_lost)
                self._observer.start()
                self._began_s = time.monotonic()
            # The configuration may name the directory by a link, which the dot follows; below it no link is followed.
            path = os.path.join(watched.directory, ".")
            watched.watch = self._observer.schedule(watched.handler, path, recursive=True, event_filter=_EVENTS)
        except OSError as error:
            if error.errno not in _VANISHED:
                self._warn_refusal(error)

    def _unwatch(self, watched: _WatchedDirectory) -> None:
        watch, watched.watch = watched.watch, None
        if watch is not None and self._observer is not None:
            self._observer.unschedule(watch)

    def _drop_observer(self) -> None:
        observer, self._observer = self._observer, None
        for watched in self._directories:
            watched.watch = None
        if observer is not None:
            try:
                observer.stop()
                observer.join()
            except Exception:  # noqa: BLE001 - its threads are daemons: they end with the process
                _LOG.debug("the observer does not end", exc_info=True)

    def _note_all(self) -> None:
        for watched in self._directories:
            watched.handler.note()

    def _note_lost(self) -> None:
        self._note_all()
        self._warn_once("changes came faster than their events could be read, so all files are rescanned")

    def _warn_refusal(self, error: OSError) -> None:
        what, remedy = _LIMITS.get(error.errno or 0, (f"watching failed: {error.strerror or error}", None))
        advice = f" ({remedy})" if remedy else ""
        self._warn_once(f"{what}: mlsync sees some changes only at the next rescan{advice}")

    def _warn_once(self, text: str, level: NoticeLevel = "warning") -> None:
        """Warn only once: each check would repeat it."""
        if text not in self._warned:
            self._warned.add(text)
            self._monitor.notice(level, text)


class _Handler(FileSystemEventHandler):
    """Notes the library's events in triggers, each as what it is: a checkpoint, another new file, or a log.

    What has no name that checkpoints use and changes a second time is a log. A deletion waits as a log does: what was
    deleted is in no version that is still to come.
    """

    def __init__(self, directory: Path, triggers: Sequence[Trigger]) -> None:
        self._prefix = os.fsencode(os.path.join(directory, ".", ""))
        self._triggers = triggers
        self._known: dict[bytes, None] = {}

    def note(self) -> None:
        """Note a change for every run on this directory."""
        for trigger in self._triggers:
            trigger.note_change()

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Note it, except that a file was created and is still open for writing: its close comes as another event."""
        match event:
            case FileDeletedEvent() | DirDeletedEvent():
                self._note_log()
            case FileMovedEvent(dest_path="") | DirMovedEvent(dest_path=""):
                self._note_log()
            case FileMovedEvent():
                if not event.is_synthetic:
                    self._note_file(event.dest_path)
            case DirMovedEvent():
                self._note_directory(event.dest_path, is_renamed=True)
            case DirCreatedEvent():
                if not _is_empty(event.src_path):
                    self._note_directory(event.src_path, is_renamed=False)
                else:
                    self._note_log()
            case FileCreatedEvent():
                if _complete_at_birth(event.src_path):
                    self._note_file(event.src_path)
            case _:
                self._note_file(event.src_path)

    def _note_file(self, name: bytes | str) -> None:
        path = self._below(name)
        saved = finished_file(path)
        if saved is not None:
            self._note_save(path, saved)
        elif path in self._known:
            self._note_log()
        else:
            if len(self._known) >= _KNOWN_MAX:
                del self._known[next(iter(self._known))]
            self._known[path] = None
            self.note()

    def _note_directory(self, name: bytes | str, *, is_renamed: bool) -> None:
        path = self._below(name)
        saved = full_directory(path, is_renamed=is_renamed)
        if saved is not None:
            self._note_save(path, saved)
        elif has_temporary_name(path):
            self._note_log()
        else:
            self.note()

    def _note_log(self) -> None:
        for trigger in self._triggers:
            trigger.note_log()

    def _note_save(self, path: bytes, saved: Saved) -> None:
        for trigger in self._triggers:
            # First: it may be deleted in the same moment.
            trigger.hold(path, saved)
            trigger.note_save(saved.place, has_ended=saved.has_ended, is_alone=saved.is_alone)

    def rescan_within(self, seconds: float) -> None:
        """Have the runs rescanned at least so often."""
        for trigger in self._triggers:
            trigger.rescan_within_s = seconds

    def look_after_held(self) -> None:
        """Let go of what may be held no longer."""
        for trigger in self._triggers:
            if trigger.holds is not None:
                trigger.holds.look()

    def _below(self, name: bytes | str) -> bytes:
        """Return a path relative to the watched directory."""
        return os.fsencode(name).removeprefix(self._prefix)


@dataclass(eq=False, slots=True)
class _WatchedDirectory:
    """A directory, its identity and its file system at the last check, and the watch on it."""

    directory: Path
    handler: _Handler
    identity: Identity | None = None
    watch: ObservedWatch | None = None
    silent_kind: str | None = None


class _Queue(InotifyFD):
    """The kernel's queue of events; remembers the errors that the library ignores."""

    def __init__(self, on_lost: Callable[[], None]) -> None:
        super().__init__()
        self.refused: OSError | None = None
        self.is_unmounted = False
        #: Whether the library's tables do not agree any more about what it watches.
        self.is_confused = False
        self._on_lost = on_lost
        self._left_until_look = _EVENTS_BETWEEN_LOOKS

    def add_callback(self, path: bytes, mask: Mask, callback: WatchCallback, id_: CallbackId) -> WatchDescriptor:
        """Remember why it cannot be watched; the library ignores that for all but the topmost directory."""
        try:
            # Checked first, since the library takes this refusal of the kernel for a success.
            if not os.access(path, os.R_OK, effective_ids=True) and os.path.lexists(path):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
            return super().add_callback(path, mask, callback, id_)
        except OSError as error:
            if error.errno not in _VANISHED:
                self.refused = error
            raise

    def handle_event(self, event: InotifyEvent) -> None:
        """Count everything as changed when the kernel dropped events, or watches with their file system."""
        # It may be mounted again before anybody looks, and would be the same directory by all that stat tells.
        self.is_unmounted = self.is_unmounted or bool(event.mask & InotifyConstants.IN_UNMOUNT)
        try:
            super().handle_event(event)
        except KeyError:
            # Where names crossed while events were lost, it does not find what it wants to remove.
            self.is_confused = True
        self._left_until_look -= 1
        if event.is_queue_overflow or self.is_confused or (self._left_until_look <= 0 and self._drops_waiting()):
            self._on_lost()

    def _drops_waiting(self) -> bool:
        """Drop the events that wait, as the kernel does, if they are too many; return whether they were."""
        self._left_until_look = _EVENTS_BETWEEN_LOOKS
        with self._lock:
            groups = {id_: one for watch in self._watch_for_wd.values() for id_, one in watch.callbacks.items()}
        # The library has no other way to what waits.
        waiting = [one._move_event_grouper for one in groups.values() if isinstance(one, InotifyWatchGroup)]  # noqa: SLF001
        full = [grouper for grouper in waiting if len(grouper._queue._queue) > _WAITING_MAX]  # noqa: SLF001
        for grouper in full:
            grouper.discard_pending_events()
        if full:
            # Whoever renames without a pause is not to cost a processor: meanwhile the kernel drops the rest.
            time.sleep(_PAUSE_S)
        return bool(full)


class _Emitter(InotifyFullEmitter):
    """The library's emitter, which ends also after renames that crossed."""

    def on_thread_stop(self) -> None:
        """Remove all watches: where two names changed places, the library finds one of them under neither."""
        group = self._inotify
        try:
            super().on_thread_stop()
        except KeyError:
            assert group is not None
            # Each try forgets at least one watch; an emitter that keeps some would block the end of the observer.
            while True:
                try:
                    return group.deactivate()
                except KeyError:
                    continue


class _Observer(InotifyObserver):
    """The library's observer with our queue."""

    def __init__(self, on_lost: Callable[[], None]) -> None:
        self.queue = _Queue(on_lost)
        self.queue.start()
        self._inotify_fd = self.queue  # where the library's constructor, which we do not call, puts its queue
        BaseObserver.__init__(self, _Emitter, inotify_fd=self.queue)

    def works(self) -> bool:
        """Return whether events still arrive."""
        return self.is_alive() and self.queue.is_alive()


def _identity(directory: Path) -> Identity | None:
    """Return the identity of the directory; ``None`` if it does not exist or cannot be read."""
    try:
        info = os.stat(directory)
    except OSError:
        return None
    return (info.st_dev, info.st_ino) if stat.S_ISDIR(info.st_mode) else None


def _is_empty(path: bytes | str) -> bool:
    """Return whether nothing is in a directory yet: what comes into it is noted by itself."""
    try:
        with os.scandir(path) as entries:
            return next(entries, None) is None
    except OSError:
        return True


def _complete_at_birth(path: bytes | str) -> bool:
    """Return whether no close event will follow: a link is complete at once, a file's writer still has it open."""
    try:
        info = os.lstat(path)
    except OSError:
        return True
    return not stat.S_ISREG(info.st_mode) or info.st_nlink > 1
