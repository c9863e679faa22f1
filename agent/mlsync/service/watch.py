"""Watches the training directories for finished changes, through inotify while that works.

Watching only makes backups prompt: the agent looks at all files in intervals anyway, so an event that is lost, a
directory that cannot be watched, and a kernel without room for watches each cost at most one such interval.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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
from watchdog.observers.inotify import InotifyFullEmitter, InotifyObserver
from watchdog.observers.inotify_c import CallbackId, InotifyEvent, InotifyFD, Mask, WatchCallback, WatchDescriptor

from mlsync.monitor import Monitor
from mlsync.service.changes import Changes

# Changes that are complete when they are told; writes under way are not asked for, and cost the trainer nothing.
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
POLL_S = 2.0
RETRY_S = 300.0
FIRST_LOOK_S = 3.0

Identity = tuple[int, int]


class Watcher:
    """Notes in each directory's ``Changes`` that something in it changed; finds directories that come, go and move."""

    def __init__(
        self, directories: Mapping[Path, Sequence[Changes]], monitor: Monitor, *, poll_s: float = POLL_S
    ) -> None:
        self._places = [_Place(directory, _Handler(changes)) for directory, changes in directories.items()]
        self._monitor = monitor
        self._poll_s = poll_s
        self._observer: _Observer | None = None
        self._began_s = 0.0
        self._told: set[str] = set()
        self._stop = threading.Event()
        self._looked = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="watch", daemon=True)

    def start(self) -> None:
        """Directories that exist are watched on return (unless one of them hangs), others soon after they appear."""
        # The library's own warnings (lost events, say) are told by us, once, with what they mean.
        logging.getLogger("watchdog").setLevel(logging.CRITICAL)
        # It finds a new directory by its event and by its parent's walk, and warns of its own second registration.
        warnings.filterwarnings("ignore", "Callback with id .* already exists", RuntimeWarning)
        self._keeper.start()
        # Not for ever: a directory on a server that is away would keep the whole agent from beginning.
        self._looked.wait(FIRST_LOOK_S)

    def stop(self) -> None:
        """Nothing is watched any longer."""
        self._stop.set()
        self._keeper.join(FIRST_LOOK_S)
        if not self._keeper.is_alive():
            self._drop_observer()

    def watched(self, directory: Path) -> bool:
        """Whether changes in *directory* are told at once, and not only found by the next look at all files."""
        observer = self._observer
        complete = observer is not None and observer.works() and observer.queue.refused is None
        return complete and any(place.directory == directory and place.watch is not None for place in self._places)

    def look(self) -> None:
        """Every directory that is there now is watched under its present identity, as far as the kernel lets us."""
        self._renew_observer()
        for place in self._places:
            self._look_at(place)
        if self._observer is not None and self._observer.queue.refused is not None:
            self._tell_refusal(self._observer.queue.refused)

    def _keep(self) -> None:
        while not self._stop.is_set():
            self.look()
            self._looked.set()
            self._stop.wait(self._poll_s)

    def _renew_observer(self) -> None:
        """Drop an observer that broke, or that found no room some time ago, so that all is watched anew."""
        if self._observer is None:
            return
        broken = not self._observer.works()
        again = self._observer.queue.refused is not None and time.monotonic() - self._began_s >= RETRY_S
        if broken:
            self._tell("watching for changes broke off and was begun anew")
        if broken or again:
            self._drop_observer()
            self._note_all()

    def _look_at(self, place: _Place) -> None:
        found = _identity(place.directory)
        if found == place.identity and self._covers(place, found):
            return
        if found != place.identity or place.watch is not None:
            # Came, went, or another one lies there now: whichever, the run's files are not what they were.
            place.handler.note()
        self._unwatch(place)
        place.identity = found
        if found is not None:
            self._watch(place)

    def _covers(self, place: _Place, found: Identity | None) -> bool:
        """Whether there is nothing to watch, or it is watched: a new directory may have an old one's inode number."""
        if found is None or place.watch is None or self._observer is None:
            return found is None
        return any(emitter.watch is place.watch and emitter.is_alive() for emitter in self._observer.emitters)

    def _watch(self, place: _Place) -> None:
        try:
            if self._observer is None:
                self._observer = _Observer(on_lost=self._note_lost)
                self._observer.start()
                self._began_s = time.monotonic()
            # The directory itself may be named through a link, which the dot follows; below it none is followed.
            path = os.path.join(place.directory, ".")
            place.watch = self._observer.schedule(place.handler, path, recursive=True, event_filter=_EVENTS)
        except OSError as error:
            if error.errno not in _VANISHED:
                self._tell_refusal(error)

    def _unwatch(self, place: _Place) -> None:
        watch, place.watch = place.watch, None
        if watch is not None and self._observer is not None:
            self._observer.unschedule(watch)

    def _drop_observer(self) -> None:
        observer, self._observer = self._observer, None
        for place in self._places:
            place.watch = None
        if observer is not None:
            observer.stop()
            observer.join()

    def _note_all(self) -> None:
        for place in self._places:
            place.handler.note()

    def _note_lost(self) -> None:
        self._note_all()
        self._tell("the kernel had to drop change events, so all files are looked at")

    def _tell_refusal(self, error: OSError) -> None:
        what, remedy = _LIMITS.get(error.errno or 0, (f"watching failed: {error.strerror or error}", None))
        advice = f" ({remedy})" if remedy else ""
        self._tell(f"{what}: some changes are seen only by the next rescan{advice}")

    def _tell(self, text: str) -> None:
        """Say it once: it would come again with every look."""
        if text not in self._told:
            self._told.add(text)
            self._monitor.notice("warning", text)


class _Handler(FileSystemEventHandler):
    """Turns the library's events into notes."""

    def __init__(self, changes: Sequence[Changes]) -> None:
        self._changes = changes

    def note(self) -> None:
        """Every run on this directory learns that something changed."""
        for changes in self._changes:
            changes.note()

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Note it, but for a file that was only just opened for writing: its end will be told."""
        if not isinstance(event, FileCreatedEvent) or _complete_at_birth(event.src_path):
            self.note()


@dataclass(eq=False, slots=True)
class _Place:
    """A directory, what was found there last, and the watch on it."""

    directory: Path
    handler: _Handler
    identity: Identity | None = None
    watch: ObservedWatch | None = None


class _Queue(InotifyFD):
    """The kernel's queue of events, which remembers what the library passes over in silence."""

    def __init__(self, on_lost: Callable[[], None]) -> None:
        super().__init__()
        self.refused: OSError | None = None
        self._on_lost = on_lost

    def add_callback(self, path: bytes, mask: Mask, callback: WatchCallback, id_: CallbackId) -> WatchDescriptor:
        """Keep the reason if it cannot be watched; the library ignores it for all but the topmost directory."""
        try:
            # Asked first, since the library takes this refusal of the kernel for a success.
            if not os.access(path, os.R_OK, effective_ids=True) and os.path.lexists(path):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
            return super().add_callback(path, mask, callback, id_)
        except OSError as error:
            if error.errno not in _VANISHED:
                self.refused = error
            raise

    def handle_event(self, event: InotifyEvent) -> None:
        """Count everything as changed when the kernel had to drop events."""
        super().handle_event(event)
        if event.is_queue_overflow:
            self._on_lost()


class _Observer(InotifyObserver):
    """The library's observer over a queue of ours."""

    def __init__(self, on_lost: Callable[[], None]) -> None:
        self.queue = _Queue(on_lost)
        self.queue.start()
        self._inotify_fd = self.queue  # where the library's own constructor, which is not run, puts its queue
        BaseObserver.__init__(self, InotifyFullEmitter, inotify_fd=self.queue)

    def works(self) -> bool:
        """Whether events still come through."""
        return self.is_alive() and self.queue.is_alive()


def _identity(directory: Path) -> Identity | None:
    """Which directory lies there; none if there is none, or it cannot be looked at."""
    try:
        info = os.stat(directory)
    except OSError:
        return None
    return (info.st_dev, info.st_ino) if stat.S_ISDIR(info.st_mode) else None


def _complete_at_birth(path: bytes | str) -> bool:
    """Whether no closing will follow: links are made in one step, a file's writer still has it open."""
    try:
        info = os.lstat(path)
    except OSError:
        return True
    return not stat.S_ISREG(info.st_mode) or info.st_nlink > 1
