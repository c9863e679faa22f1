"""Real inotify, real directories, real writers."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from watchdog import events

from doubles.recording_monitor import RecordingMonitor
from mlsync.service.watching import watch
from mlsync.service.watching.trigger import Trigger
from mlsync.service.watching.watch import SILENT_RESCAN_S, Watcher, _Handler, _Queue

TOO_FAST = "changes came faster than their events could be read, so all files are rescanned"
PATIENCE_S = 20.0


class Seen(Trigger):
    """A trigger whose changes a test can wait for."""

    def __init__(self):
        super().__init__()
        self.noted = threading.Event()

    def note_change(self):
        """Note it, and let the test go on."""
        super().note_change()
        self.noted.set()

    def note_log(self):
        """Note it, and let the test go on."""
        super().note_log()
        self.noted.set()

    def note_save(self, place, **how):
        """Note it, and let the test go on."""
        super().note_save(place, **how)
        self.noted.set()

    def within(self, seconds=PATIENCE_S):
        """Whether something was noted, or is within *seconds*; then it is forgotten."""
        seen = self.noted.wait(seconds)
        self.noted.clear()
        return seen


@pytest.fixture
def watched(tmp_path):
    watchers = []

    def start(*directories, poll_s=0.05):
        seen = [Seen() for _ in directories]
        monitor = RecordingMonitor()
        watcher = Watcher({place: [one] for place, one in zip(directories, seen, strict=True)}, monitor, poll_s=poll_s)
        watcher.start()
        watchers.append(watcher)
        for one in seen:
            one.within(0)
        return watcher, monitor, *seen

    yield start
    for watcher in watchers:
        watcher.stop()


def test_a_file_is_noted_when_its_writer_closes_it(tmp_path, watched):
    """A write under way is not noted, its end is."""
    _, _, seen = watched(tmp_path)
    with (tmp_path / "last.pt").open("wb") as stream:
        for _ in range(5):
            stream.write(bytes(100_000))
            stream.flush()
        assert not seen.within(0.3)
    assert seen.within()


def test_another_process_is_noted(tmp_path, watched):
    """A trainer in its own process, which writes in place, is noted."""
    (tmp_path / "last.pt").write_bytes(b"old")
    _, _, seen = watched(tmp_path)
    code = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_bytes(b'new')"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "last.pt")], check=True)
    assert seen.within()


@pytest.mark.parametrize(
    "change",
    [
        lambda d: os.rename(d / "a", d / "b"),
        lambda d: os.rename(d.parent / "outside", d / "in"),
        lambda d: os.rename(d / "a", d.parent / "out"),
        lambda d: os.unlink(d / "a"),
        lambda d: os.mkdir(d / "new"),
        lambda d: os.symlink("a", d / "latest"),
        lambda d: os.link(d / "a", d / "hard"),
        lambda d: os.rmdir(d / "sub/empty"),
    ],
    ids=["rename", "move in", "move out", "delete", "mkdir", "symlink", "hard link", "rmdir"],
)
def test_each_kind_of_change_is_noted(change, tmp_path, watched):
    """Renames, deletions, directories and links are noted, not only writes."""
    directory = tmp_path / "run"
    (directory / "sub/empty").mkdir(parents=True)
    (directory / "a").write_text("a")
    (tmp_path / "outside").write_text("o")
    _, _, seen = watched(directory)
    change(directory)
    assert seen.within()


def test_new_directories_are_watched_to_the_ground(tmp_path, watched):
    """A file in a directory that was made a moment ago is noted."""
    _, _, seen = watched(tmp_path)
    deep = tmp_path / "a/b/c"
    deep.mkdir(parents=True)
    while seen.within(0.3):
        pass
    (deep / "file").write_text("x")
    assert seen.within()


class Told(Trigger):
    """A trigger that keeps what it is told, as text."""

    def __init__(self):
        super().__init__()
        self.told = []

    def note_change(self):
        """A new file."""
        self.told.append("file")

    def note_log(self):
        """A log."""
        self.told.append("log")

    def note_save(self, place, *, has_ended, is_alone=False):
        """A checkpoint."""
        self.told.append(f"{place.decode()} {'ended' if has_ended else 'alone' if is_alone else 'goes on'}")


@pytest.fixture
def told(tmp_path):
    """What a handler tells of events of the library in a directory, by name below it."""
    trigger = Told()
    handler = _Handler(tmp_path, [trigger])

    def tell(kind, *names):
        trigger.told.clear()
        handler.on_any_event(kind(*(f"{tmp_path}/./{name}" if name else "" for name in names)))
        return trigger.told

    return tell


def test_each_change_is_told_as_what_it_is(told, tmp_path):
    """A checkpoint's end, its other files, a file of its own, and a log that is written a second time."""
    assert told(events.FileClosedEvent, "checkpoint-7/model.safetensors") == ["checkpoint-7 goes on"]
    assert told(events.FileClosedEvent, "checkpoint-7/trainer_state.json") == ["checkpoint-7 ended"]
    assert told(events.FileClosedEvent, "weights/last.pt") == ["weights alone"]
    assert told(events.FileMovedEvent, "weights/x", "weights/last.pt") == ["weights alone"]
    assert [told(events.FileClosedEvent, "train.log")[0] for _ in range(3)] == ["file", "log", "log"]
    assert told(events.FileClosedEvent, "results.csv") == ["file"]


def test_deletions_and_moves_away_are_told_as_logs(told):
    """What was deleted is in no version that is still to come, so no version is made for it at once."""
    assert told(events.FileDeletedEvent, "checkpoint-6/model.safetensors") == ["log"]
    assert told(events.DirDeletedEvent, "checkpoint-6") == ["log"]
    assert told(events.FileMovedEvent, "last.pt", "") == ["log"]
    assert told(events.DirMovedEvent, "checkpoint-6", "") == ["log"]


def test_a_renamed_directory_is_a_save_that_ended(told):
    """Writers that fill a directory under a temporary name rename it when it is complete, and not before."""
    assert told(events.DirMovedEvent, "5.orbax-checkpoint-tmp-1", "5") == ["5 ended"]
    assert told(events.DirMovedEvent, "tmp-checkpoint-5", "checkpoint-5") == ["checkpoint-5 ended"]
    assert told(events.FileClosedEvent, "tmp-checkpoint-5") == ["file"]


def test_a_directory_that_came_full_is_told(told, tmp_path):
    """What was moved in, or written before anybody watched it, has no event of its own; of an empty one it will."""
    (tmp_path / "checkpoint-9").mkdir()
    assert told(events.DirCreatedEvent, "checkpoint-9") == ["log"]
    (tmp_path / "checkpoint-9/model.bin").write_bytes(b"x")
    assert told(events.DirCreatedEvent, "checkpoint-9") == ["checkpoint-9 goes on"]
    (tmp_path / "images").mkdir()
    (tmp_path / "images/1.png").write_bytes(b"x")
    assert told(events.DirCreatedEvent, "images") == ["file"]


def test_known_logs_are_bounded(told, monkeypatch):
    """A trainer that makes files without end does not fill the agent's memory; the oldest count as new again."""
    monkeypatch.setattr("mlsync.service.watching.watch._KNOWN_MAX", 2)
    assert [told(events.FileClosedEvent, name)[0] for name in ("a", "b", "a", "c", "a")] == [
        *("file", "file", "log", "file", "file")
    ]


def test_reading_is_no_change(tmp_path, watched):
    """The agent's own reading of files does not wake it again."""
    (tmp_path / "a").write_text("a")
    _, _, seen = watched(tmp_path)
    (tmp_path / "a").read_text()
    os.listdir(tmp_path)
    assert not seen.within(0.3)


def test_links_are_not_followed_out(tmp_path, watched):
    """What changes behind a link in the directory is not watched; a directory named through a link is."""
    real, outside = tmp_path / "real", tmp_path / "outside"
    real.mkdir()
    outside.mkdir()
    (real / "link").symlink_to(outside)
    (tmp_path / "name").symlink_to(real)
    _, _, seen = watched(tmp_path / "name")
    (outside / "file").write_text("x")
    assert not seen.within(0.3)
    (real / "file").write_text("x")
    assert seen.within()


def test_a_directory_may_come_later(tmp_path, watched):
    """A directory that is not there yet is watched as soon as it is, and its coming is a change."""
    directory = tmp_path / "later"
    watcher, monitor, seen = watched(directory)
    assert not watcher.watched(directory)
    directory.mkdir()
    assert seen.within()
    while not watcher.watched(directory):
        seen.within(0.02)
    seen.within(0)
    (directory / "file").write_text("x")
    assert seen.within()
    assert monitor.notices == []


@pytest.mark.parametrize("round_", range(3))
def test_a_directory_may_go_and_come_again(round_, tmp_path, watched):
    """A directory that was deleted and made again, perhaps under the same inode number, is watched again."""
    directory = tmp_path / "run"
    directory.mkdir()
    watcher, _, seen = watched(directory)
    shutil.rmtree(directory)
    directory.mkdir()
    assert seen.within()
    while seen.within(0.3) or not watcher.watched(directory):
        pass
    (directory / "file").write_text("x")
    assert seen.within()


def test_a_directory_that_is_moved_away_is_not_watched_any_longer(tmp_path, watched):
    """After a move another directory lies under the name, and only that one counts."""
    directory = tmp_path / "run"
    directory.mkdir()
    watcher, _, seen = watched(directory)
    directory.rename(tmp_path / "old")
    directory.mkdir()
    assert seen.within()
    while seen.within(0.3) or not watcher.watched(directory):
        pass
    (tmp_path / "old/file").write_text("x")
    assert not seen.within(0.3)
    (directory / "file").write_text("x")
    assert seen.within()


def test_one_directory_wakes_only_its_own_run(tmp_path, watched):
    """A change in one directory is not noted for another one."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    _, _, a, b = watched(tmp_path / "a", tmp_path / "b")
    (tmp_path / "a/file").write_text("x")
    assert a.within()
    assert not b.within(0.2)


def test_a_kernel_without_room_is_told_and_survived(tmp_path, watched, monkeypatch):
    """When a directory below cannot be watched, that is told once with the sysctl, and the rest is watched."""
    (tmp_path / "full").mkdir()
    real = _Queue.__mro__[1].add_callback

    def refuse(self, path, *rest):
        if path.endswith(b"full"):
            raise OSError(errno.ENOSPC, "inotify watch limit reached")
        return real(self, path, *rest)

    monkeypatch.setattr(_Queue.__mro__[1], "add_callback", refuse)
    watcher, monitor, seen = watched(tmp_path)
    assert not watcher.watched(tmp_path)
    (tmp_path / "file").write_text("x")
    assert seen.within()
    watcher.check()
    assert monitor.notices == [
        (
            "warning",
            (
                "the kernel has no room for more watches: mlsync sees some changes only at the next rescan "
                "(sysctl fs.inotify.max_user_watches=1048576)"
            ),
        )
    ]


def test_no_inotify_at_all_is_told_and_survived(tmp_path, watched, monkeypatch):
    """When the kernel gives no inotify instance the watcher says so and keeps trying."""

    def refuse(*_):
        raise OSError(errno.EMFILE, "inotify instance limit reached")

    monkeypatch.setattr(_Queue, "_create_inotify_fd", refuse)
    watcher, monitor, seen = watched(tmp_path)
    assert not watcher.watched(tmp_path)
    assert monitor.notices[0][1].endswith("(sysctl fs.inotify.max_user_instances=1024)")
    monkeypatch.undo()
    while not watcher.watched(tmp_path):
        seen.within(0.02)
    seen.within(0)
    (tmp_path / "file").write_text("x")
    assert seen.within()


AS_SOMEBODY = """
import ctypes, errno, os, pathlib, sys
from doubles.recording_monitor import RecordingMonitor
from mlsync.service.watching.trigger import Trigger
from mlsync.service.watching.watch import Watcher
# Another user: its inotify instances are not those of the other tests, and it may not read everything.
os.setgroups([])
os.setresgid(54321, 54321, 54321)
os.setresuid(54321, 54321, 54321)
libc = ctypes.CDLL(None, use_errno=True)
"""
WATCH = """
monitor, place = RecordingMonitor(), pathlib.Path(sys.argv[1])
watcher = Watcher({place: [Trigger()]}, monitor, poll_s=0.01)
watcher.start()
print(watcher.watched(place), monitor.notices)
watcher.stop()
"""


@pytest.fixture
def watched_by_somebody():
    """What is told when a user of its own watches a directory, as a process."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")

    def watch(directory, before=""):
        code = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})" + AS_SOMEBODY + before + WATCH
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code, str(directory)], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    return watch


def test_the_real_limit_of_instances_is_survived(watched_by_somebody):
    """With every inotify instance of the user taken, the kernel's real refusal is told with the sysctl."""
    told = watched_by_somebody("/proc/self", "while libc.inotify_init() >= 0: pass\n")
    assert told.startswith("False [('warning', 'the kernel gives no more inotify instances")


def test_an_unreadable_directory_is_told(tmp_path, watched_by_somebody):
    """A directory that may not be read is told, not taken for watched."""
    (tmp_path / "mine").mkdir(mode=0o700)
    for directory in tmp_path.parents[:3]:
        directory.chmod(directory.stat().st_mode | 0o005)
    tmp_path.chmod(0o755)
    assert watched_by_somebody(tmp_path).startswith("False [('warning', 'watching failed: Permission denied")


def test_dropped_events_count_as_changes(tmp_path, watched):
    """When the kernel says that it had to drop events, every run counts as changed, and it is told once."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    watcher, monitor, a, b = watched(tmp_path / "a", tmp_path / "b")
    from watchdog.observers.inotify_c import InotifyConstants, InotifyEvent

    for _ in range(2):
        watcher._observer.queue.handle_event(InotifyEvent(-1, InotifyConstants.IN_Q_OVERFLOW, 0, b""))
        assert a.within()
        assert b.within()
    assert [text for _, text in monitor.notices] == [
        "changes came faster than their events could be read, so all files are rescanned"
    ]
    (tmp_path / "a/file").write_text("x")
    assert a.within()


def test_an_unmount_is_followed_by_new_watches(tmp_path, watched):
    """When the kernel dropped watches with their file system, all counts as changed and is watched anew."""
    watcher, _, seen = watched(tmp_path)
    from watchdog.observers.inotify_c import InotifyConstants, InotifyEvent

    before = watcher._observer
    before.queue.handle_event(InotifyEvent(-1, InotifyConstants.IN_UNMOUNT, 0, b""))
    assert seen.within()
    deadline = time.monotonic() + PATIENCE_S
    while not (watcher.watched(tmp_path) and watcher._observer is not before):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    seen.within(0)
    (tmp_path / "file").write_text("x")
    assert seen.within()


def test_tables_of_the_library_that_disagree_cost_one_rescan(tmp_path, watched, capfd):
    """Where it does not find what it wants to remove, all is watched anew, and no thread ends with a trace."""
    watcher, monitor, seen = watched(tmp_path)
    from watchdog.observers.inotify_c import InotifyConstants, InotifyEvent

    before = watcher._observer
    (emitter,) = before.emitters
    emitter._inotify._active_callbacks_by_path.clear()
    before.queue.handle_event(InotifyEvent(-1, InotifyConstants.IN_Q_OVERFLOW, 0, b""))
    assert seen.within()
    deadline_s = time.monotonic() + PATIENCE_S
    while watcher._observer is before or not watcher.watched(tmp_path):
        assert time.monotonic() < deadline_s
        seen.within(0.02)
    seen.within(0.1)
    (tmp_path / "file").write_text("x")
    assert seen.within()
    assert capfd.readouterr().err == ""
    assert "watching for changes broke off and was started again" in [text for _, text in monitor.notices]


def test_a_flood_of_renames_keeps_no_event_waiting_for_seconds(tmp_path, watched):
    """Of renames whose other half does not come only so many wait; what is dropped counts as changed."""
    watcher, monitor, seen = watched(tmp_path)
    from watchdog.observers.inotify_c import InotifyConstants, InotifyEvent

    queue = watcher._observer.queue
    (emitter,) = watcher._observer.emitters
    waiting = emitter._inotify._move_event_grouper._queue._queue
    (number,) = queue._watch_for_wd
    for cookie in range(3 * watch._WAITING_MAX):
        queue.handle_event(InotifyEvent(number, InotifyConstants.IN_MOVED_FROM, cookie + 1, b"name"))
        assert len(waiting) <= watch._WAITING_MAX + watch._EVENTS_BETWEEN_LOOKS
    assert seen.within()
    assert [text for _, text in monitor.notices] == [TOO_FAST]


def test_a_file_system_that_does_not_report_all_is_rescanned_more_often(tmp_path, watched, monkeypatch):
    """It is told once; the directory counts as not watched, and its run is rescanned within seconds."""
    monkeypatch.setattr(watch, "silent_kind", lambda _: "NFS")
    watcher, monitor, seen = watched(tmp_path)
    assert not watcher.watched(tmp_path)
    assert seen.rescan_within_s == SILENT_RESCAN_S
    assert [level for level, text in monitor.notices if " is on NFS" in text] == ["info"]


def test_crossed_renames_do_not_keep_an_observer_alive(tmp_path, watched):
    """Where the library has lost a watched name, the watch ends all the same, with its threads."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    watcher, *_ = watched(tmp_path)
    observer = watcher._observer
    (emitter,) = observer.emitters
    # What is left after two directories changed places over and over: watches whose paths are other watches' now.
    emitter._inotify._active_callbacks_by_path.clear()
    watcher.stop()
    assert not observer.is_alive()
    assert not observer.queue.is_alive()
    assert not emitter.is_alive()


@pytest.mark.parametrize("method", ["unschedule", "stop"])
def test_a_fault_of_the_library_costs_one_rescan(method, tmp_path, watched, monkeypatch):
    """After an exception out of the library the directories are watched again, and all counts as changed."""
    (tmp_path / "a").mkdir()
    watcher, monitor, seen = watched(tmp_path / "a")
    broken = watcher._observer

    def fail(*_):
        raise KeyError(b"path")

    monkeypatch.setattr(broken, method, fail)
    if method == "stop":
        monkeypatch.setattr(broken, "works", lambda: False)
    else:
        (tmp_path / "a").rename(tmp_path / "away")
        (tmp_path / "a").mkdir()
    assert seen.within()
    deadline_s = time.monotonic() + PATIENCE_S
    while watcher._observer is broken or not watcher.watched(tmp_path / "a"):
        assert time.monotonic() < deadline_s
        seen.within(0.02)
    seen.within(0.1)
    (tmp_path / "a" / "file").write_text("x")
    assert seen.within()
    assert [text for _, text in monitor.notices] == ["watching for changes broke off and was started again"]
    monkeypatch.undo()
    broken.stop()
