"""An agent's job with its real process, a repository in a directory, and a run that changes."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import math
import os
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flow_parts import uniform_checkpoint
from mlsync.config.model import Config, LimitSettings, ProofSettings, WatchSettings
from mlsync.courtesy.timetable import parse_timetable
from mlsync.errors import (
    Error,
    KeyRetired,
    ProcessKilled,
    RepositoryMissing,
    RunLocked,
    SourceMissing,
    Stopped,
    WrongPassphrase,
)
from mlsync.monitor import SilentMonitor
from mlsync.repository.keys.keyslot import Passphrase, Stretching
from mlsync.repository.repository import Repository
from mlsync.service.backup_job import STORE_UNASKED_S, BackupJob, RepositoryOpener
from mlsync.service.job import Heartbeat, Interruption
from mlsync.service.passes import pass_process
from mlsync.service.passes.pass_process import Bounds, PassProcess, PassRequest
from mlsync.source.finished import finished_file
from mlsync.store.directory.store import DirectoryStore
from mlsync.upkeep.key_slots import add_slot
from mlsync.upkeep.rotation import rotate

pytestmark = pytest.mark.slow

SECRET = b"open sesame"
PATIENCE_S = 30.0


class CountingHeartbeat(Heartbeat):
    """Counts its beats."""

    count = 0

    def beat(self, doing=None):
        """Count."""
        self.count += 1


class Place:
    """A run that is watched, and a repository."""

    def __init__(self, base: Path) -> None:
        self.store = base / "repository"
        self.run = base / "run"
        self.run.mkdir()
        repository = Repository.create(
            DirectoryStore(self.store, create=True), Passphrase(SECRET), stretching=Stretching(64, 1, 1)
        )
        self.master = repository.keys.master
        self.watch = WatchSettings(self.run, "yolo")
        config = Config.for_repository(self.store.as_uri())
        self.config = dataclasses.replace(
            config, state_directory=base / "state", watches=(self.watch,), proof=ProofSettings(device="none")
        )
        self.now_s = 1000.0
        self.jobs: list[BackupJob] = []

    def job(
        self, secret: bytes = SECRET, *, gently: bool = False, keeps_ready: bool = False, share: Share | None = None
    ) -> BackupJob:
        """A job on the run, as the agent makes it."""
        opener = RepositoryOpener(self.config, Passphrase(secret))
        self.jobs.append(
            BackupJob(opener, self.watch, gently=gently, keeps_ready=keeps_ready, share=share, clock=lambda: self.now_s)
        )
        return self.jobs[-1]

    def write(self, name: str, content: bytes) -> None:
        """Write a file that is at rest: its times lie too far back for another write to leave them as they are."""
        path = self.run / name
        path.write_bytes(content)
        os.utime(path, ns=(10**18 + 1, 10**18 + 1))


@pytest.fixture
def place(tmp_path):
    """A run and a repository; at the end every job is closed."""
    place = Place(tmp_path)
    yield place
    for job in place.jobs:
        job.close()


def passed(job):
    """What one pass comes to."""
    return job.run(threading.Event())


def settled(place, job):
    """Pass until nothing is left to read: a file that was just written is read once more."""
    wait_until(lambda: passed(job).version is None and job._asked_s is not None)


def waiting_for_a_device(place):
    """The place's configuration, with proofs that never end."""
    python = place.run.parent / "python"
    python.write_text(f"#!/bin/sh\ntouch {place.run.parent}/started\nexec sleep 1000\n")
    python.chmod(0o755)
    return dataclasses.replace(place.config, proof=ProofSettings(device="cpu", python=python))


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_process_gets_what_the_agent_holds(place):
    """A checkpoint that was deleted before the pass is in its version, pass after pass; nothing is held then."""
    job = place.job()
    for number in (1, 2):
        for name in (f"{number}.pt", f"{number}-more.pt"):
            place.write(name, uniform_checkpoint(number))
            job.holds.add(name.encode(), finished_file(name.encode()))
            os.unlink(place.run / name)
        place.write("train.log", bytes(number))
        assert passed(job).version == number
    repository = Repository.open(DirectoryStore(place.store), Passphrase(SECRET))
    paths = {entry.path for entry in repository.entries(repository.stored("yolo", 2))}
    assert paths == {b"2.pt", b"2-more.pt", b"train.log"}
    assert job.holds.taken() == ()


def test_files_that_cannot_be_handed_over_hold_no_pass_up(place, monkeypatch):
    """The pass backs up what is there, and another process gets what is held by the time of the next one."""
    job = place.job()

    def fail(*_):
        monkeypatch.undo()
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    monkeypatch.setattr(socket, "send_fds", fail)
    for number in (1, 2):
        place.write(f"{number}.pt", uniform_checkpoint(number))
        job.holds.add(b"%d.pt" % number, finished_file(b"%d.pt" % number))
        os.unlink(place.run / f"{number}.pt")
        place.write("train.log", bytes(number))
        assert passed(job).version == number
    repository = Repository.open(DirectoryStore(place.store), Passphrase(SECRET))
    found = [{one.path for one in repository.entries(repository.stored("yolo", number))} for number in (1, 2)]
    assert found == [{b"train.log"}, {b"2.pt", b"train.log"}]


def priorities(pid):
    """The nice values of a process's threads."""
    return {os.getpriority(os.PRIO_PROCESS, int(task)) for task in os.listdir(f"/proc/{pid}/task")}


@pytest.mark.parametrize(("share", "nice"), [(0.01, 10), (1.0, 19)])
def test_a_process_gives_way_with_its_first_gentle_pass(place, share, nice):
    """It loads with the agent's priority; from the first pass on its threads are behind, or last if it never waits."""
    if os.getpriority(os.PRIO_PROCESS, 0) > 0:
        pytest.skip("the tests have a low priority already")
    place.config = dataclasses.replace(place.config, limits=LimitSettings(processor_share=share))
    job = place.job(gently=True)
    job.hold()
    job.prepare()
    pid = job._process.pid
    assert priorities(pid) == {0}
    for number in (1, 2):
        place.write("a.txt", bytes(number))
        assert passed(job).version == number
        assert job._process.pid == pid
        assert priorities(pid) == {nice}


def test_a_process_that_is_ready_holds_the_store_open(place):
    """Started ahead it loads the store's client too, says nothing of a store that is away, and the pass tells it."""
    job = place.job()
    job.hold()
    place.store.rename(place.store.with_name("away"))
    job.prepare()
    pid = job._process.pid
    wait_until(lambda: any("numpy" in line for line in loaded(pid)))
    with pytest.raises(RepositoryMissing):
        passed(job)
    place.store.with_name("away").rename(place.store)
    place.write("a.txt", b"1")
    assert passed(job).version == 1


def loaded(pid):
    """The files that a process has mapped: what it loaded of libraries."""
    return Path(f"/proc/{pid}/maps").read_text().splitlines()


def test_a_pass_with_a_deadline_gives_way_to_nobody(place):
    """A process that gave way has no priority to give back: another one makes such a pass, and goes on after it."""
    if os.getpriority(os.PRIO_PROCESS, 0) > 0:
        pytest.skip("the tests have a low priority already")
    job = place.job(gently=True)
    place.write("a.txt", b"1")
    assert passed(job).version == 1
    gentle = job._process.pid
    place.write("a.txt", b"22")
    assert job.run(threading.Event(), deadline_s=time.monotonic() + 600, goes_on=True).version == 2
    urgent = job._process.pid
    assert (urgent != gentle, priorities(urgent)) == (True, {0})
    # The notice was withdrawn.
    place.write("a.txt", b"333")
    assert passed(job).version == 3
    assert (job._process.pid, priorities(urgent)) == (urgent, {10})


def test_a_late_pass_gives_way_to_nobody(place):
    """One that gives way ends when its run is late and commits what is stored; the next one is not last in line."""
    if os.getpriority(os.PRIO_PROCESS, 0) > 0:
        pytest.skip("the tests have a low priority already")
    slow, fast = waiting_for_a_device(place), place.config
    place.config = dataclasses.replace(slow, limits=LimitSettings(max_lag_s=3.0))
    job = place.job(gently=True)
    place.write("last.pt", uniform_checkpoint())
    stop = Interruption(behind_since_s=time.monotonic())
    starved = job.run(stop)
    assert (starved.version, starved.proved_version) == (1, None)
    assert (stop.is_late, stop.late_at_s) == (True, math.inf)
    assert priorities(job._process.pid) == {10}
    job._opener.config = dataclasses.replace(fast, limits=LimitSettings(max_lag_s=3.0))
    place.write("a.txt", b"1")
    late = Interruption(behind_since_s=time.monotonic() - 4.0)
    assert job.run(late).version == 2
    assert (late.is_late, priorities(job._process.pid)) == (False, {0})
    place.write("a.txt", b"22")
    assert job.run(Interruption(behind_since_s=time.monotonic() + 60.0)).version == 3
    assert priorities(job._process.pid) == {10}


class Share:
    """A share of the processors that notes what it is told."""

    def __init__(self, free_at_s=-math.inf):
        self.free = free_at_s
        self.spent_s = []

    def look(self):
        """How idle the processors were."""
        return "seen"

    def spent(self, seen, own_s):
        """A pass took so much."""
        assert seen == "seen"
        self.spent_s.append(own_s)

    def free_at_s(self):
        """When the next one may begin."""
        return self.free


def test_what_a_pass_takes_of_the_processors_is_counted(place):
    """Its process and the children of that, from the first moment on; a failed pass took it all the same."""
    share = Share()
    job = place.job(gently=True, share=share)
    place.write("a.txt", b"1")
    assert passed(job).version == 1
    (first_s,) = share.spent_s
    assert first_s > 0.1  # the program was loaded
    place.store.rename(place.store.with_name("away"))
    place.write("a.txt", b"22")
    with pytest.raises(RepositoryMissing):
        passed(job)
    place.store.with_name("away").rename(place.store)
    assert len(share.spent_s) == 2
    assert passed(job).version == 2
    assert len(share.spent_s) == 3
    assert sum(share.spent_s) <= time.monotonic()


def test_passes_that_give_way_to_nobody_do_not_count(place):
    """A deadline, the last pass and a late one take what they need; nothing waits for that afterwards."""
    share = Share()
    place.config = dataclasses.replace(place.config, limits=LimitSettings(max_lag_s=3.0))
    job = place.job(gently=True, share=share)
    place.write("a.txt", b"1")
    job.run(threading.Event(), deadline_s=time.monotonic() + 600, goes_on=True)
    place.write("a.txt", b"22")
    job.run(Interruption(is_last=True))
    place.write("a.txt", b"333")
    job.run(Interruption(behind_since_s=time.monotonic() - 4.0))
    assert share.spent_s == []
    job = place.job(share=share)
    job.rests_until_s(0.0)
    assert share.spent_s == []


def test_no_rest_is_longer_than_half_of_the_lag(place):
    """What waits since a moment waits for half of ``max_lag`` at most; the other half is for the pass."""
    place.config = dataclasses.replace(place.config, limits=LimitSettings(max_lag_s=60.0))
    job = place.job(gently=True, share=Share(free_at_s=1080.0))
    assert job.rests_until_s(1060.0) == 1080.0
    assert job.rests_until_s(1000.0) == 1030.0
    assert place.job(gently=True).rests_until_s(0.0) == -math.inf


def test_a_pass_that_does_not_give_way_is_never_late(place):
    """Nothing would be gained by another one."""
    place.config = dataclasses.replace(place.config, limits=LimitSettings(max_lag_s=0.0))
    place.write("a.txt", b"1")
    stop = Interruption(behind_since_s=time.monotonic() - 1000.0)
    assert place.job().run(stop).version == 1
    assert not stop.is_set()


@pytest.mark.parametrize("gently", [True, False])
def test_a_process_waits_for_the_end_where_that_comes_fast(place, gently):
    """It is there from the run's lock on, is not the one that gives way, makes the pass with a deadline, and goes."""
    if os.getpriority(os.PRIO_PROCESS, 0) > 0:
        pytest.skip("the tests have a low priority already")
    job = place.job(gently=gently, keeps_ready=True)
    job.hold()
    ready = job._urgent.pid
    assert (job._process.pid == ready) is not gently
    place.write("a.txt", b"1")
    assert passed(job).version == 1
    assert job._urgent._timer is None
    assert priorities(ready) == {0}
    place.write("a.txt", b"22")
    assert job.run(threading.Event(), deadline_s=time.monotonic() + 600, goes_on=True).version == 2
    assert (job._urgent.pid, priorities(ready)) == (ready, {0})
    job.close()
    assert not Path(f"/proc/{ready}").exists()


def test_the_process_for_the_end_is_replaced(place):
    """The next pass starts it anew if it died, or if the key that it holds was retired."""
    job = place.job(gently=True, keeps_ready=True)
    place.write("a.txt", b"1")
    assert passed(job).version == 1
    dead = job._urgent.pid
    os.kill(dead, signal.SIGKILL)
    wait_until(lambda: job._urgent._process.poll() is not None)
    passed(job)
    assert job._urgent.pid not in (dead, None)
    secret = Passphrase(SECRET)
    repository = Repository.open(DirectoryStore(place.store), secret)
    rotate(repository, secret, SilentMonitor(), host="", now_ns=1, stretching=Stretching(64, 1, 1))
    place.write("a.txt", b"22")
    with pytest.raises(KeyRetired):
        passed(job)
    assert passed(job).version == 2
    place.write("a.txt", b"333")
    assert job.run(threading.Event(), deadline_s=time.monotonic() + 600, goes_on=True).version == 3


def test_an_agent_that_is_last_in_line_keeps_its_process(place, monkeypatch):
    """Where nothing can be gained, as in a unit with Nice=19, no process starts anew for a pass with a deadline."""
    monkeypatch.setattr(pass_process, "stands_back", lambda: True)
    job = place.job(gently=True)
    place.write("a.txt", b"1")
    assert passed(job).version == 1
    pid = job._process.pid
    place.write("a.txt", b"22")
    assert job.run(threading.Event(), deadline_s=time.monotonic() + 600, goes_on=True).version == 2
    assert job._process.pid == pid


def test_one_process_makes_version_after_version(place):
    """What changed is backed up by a process of its own, which stays for the next change."""
    job = place.job()
    place.write("a.txt", b"1")
    outcome = passed(job)
    assert (outcome.run, outcome.version, outcome.proved_version, outcome.troubles) == ("yolo", 1, 1, ())
    assert outcome.summary.startswith("version 1 in ")
    pid = job._process.pid
    assert pid not in (None, os.getpid())
    place.write("a.txt", b"22")
    assert (passed(job).version, job._process.pid) == (2, pid)


def test_an_untouched_run_needs_neither_process_nor_store(place):
    """A pass over what nobody touched comes to what it came to before, with the store away and no process begun."""
    job = place.job()
    place.write("a.txt", b"1")
    place.write("broken.npz", b"PK\3\4 and no more")
    assert passed(job).version == 1
    settled(place, job)
    job._process.close()
    place.store.rename(place.store.with_name("away"))
    outcome = passed(job)
    assert (outcome.version, outcome.summary) == (None, "nothing changed since version 1")
    assert [trouble.partition(":")[0] for trouble in outcome.troubles] == ["broken.npz"]
    assert job._process.pid is None


def test_the_store_is_asked_again_after_a_while(place):
    """However quiet the run is, a store that is gone is noticed in the end."""
    job = place.job()
    place.write("a.txt", b"1")
    passed(job)
    settled(place, job)
    place.store.rename(place.store.with_name("away"))
    job._process.close()
    place.now_s += STORE_UNASKED_S - 1
    passed(job)
    place.now_s += 1
    with pytest.raises(RepositoryMissing):
        passed(job)


def test_after_a_failure_the_store_is_asked(place):
    """A pass that failed is made good by one that goes to the store, though nothing changed since."""
    job = place.job()
    place.write("a.txt", b"1")
    passed(job)
    settled(place, job)
    (place.run / "a.txt").rename(place.run / "b.txt")
    place.store.rename(place.store.with_name("away"))
    job._process.close()
    for _ in range(2):
        with pytest.raises(RepositoryMissing):
            passed(job)
    place.store.with_name("away").rename(place.store)
    assert passed(job).version == 2


def test_errors_come_over_as_what_they_are(place):
    """The agent raises what its process met: kind, words and advice, and with it the exit status."""
    with pytest.raises(WrongPassphrase) as wrong:
        passed(place.job(b"wrong"))
    assert wrong.value.where == place.store.as_uri() or str(place.store) in str(wrong.value)
    assert wrong.value.exit_code == 21
    job = place.job()
    place.run.rmdir()
    with pytest.raises(SourceMissing, match=str(place.run)):
        passed(job)
    place.run.mkdir()
    assert passed(job).version is None


def test_a_rotated_key_costs_one_pass_if_the_secret_opens_the_new_one(place):
    """The agent stops with the error of a retired key, and opens the repository anew; another secret needs a slot."""
    job = place.job()
    place.write("a.txt", b"1")
    assert passed(job).version == 1
    store, secret = DirectoryStore(place.store), Passphrase(SECRET)
    fast = Stretching(64, 1, 1)
    rotate(Repository.open(store, secret), secret, SilentMonitor(), host="", now_ns=1, stretching=fast)
    place.write("a.txt", b"22")
    with pytest.raises(KeyRetired) as retired:
        passed(job)
    assert retired.value.exit_code == 29
    assert passed(job).version == 2
    other = Passphrase(b"another passphrase")
    slot = add_slot(Repository.open(store, secret), other, fast)
    rotate(Repository.open(store, other), other, SilentMonitor(), host="", now_ns=1, stretching=fast)
    assert slot
    place.write("a.txt", b"333")
    with pytest.raises(KeyRetired):
        passed(job)
    with pytest.raises(WrongPassphrase):
        passed(job)
    add_slot(Repository.open(store, other), secret, fast)
    assert passed(job).version == 3


def test_a_bug_is_an_error(place):
    """What nobody expected in the process is told, and the process goes on."""
    job = place.job()
    opened = job._opener.opened(threading.Event())
    request = PassRequest(place.config, opened, None)
    with pytest.raises(Error, match="unexpected error: AttributeError"):
        job._process.ask(request, threading.Event())
    place.write("a.txt", b"1")
    assert passed(job).version == 1


def test_heartbeats_come_over_and_notices_are_logged(place, capfd):
    """The agent learns of progress; the process writes notices to the agent's stderr."""
    job = place.job()
    job.heartbeat = job._process._heartbeat = CountingHeartbeat()
    place.write("a.txt", b"1")
    passed(job)
    count = job.heartbeat.count
    assert count >= 2
    [pack] = [path for path in place.store.glob("packs/*/*") if path.is_file()]
    pack.unlink()
    place.write("b.txt", b"2")
    assert passed(job).version == 2
    assert job.heartbeat.count > count
    [line] = [line for line in capfd.readouterr().err.splitlines() if "is stored again" in line]
    assert " ERROR   " in line


def begin(job, stop):
    """Begin a pass in a thread while its process holds still; give thread, process, and what it comes to."""
    process = job._process._process
    os.kill(process.pid, signal.SIGSTOP)
    # All its threads: one that runs on for a moment would take in what it is about to be told.
    wait_until(lambda: all(_state_of(task) == "T" for task in Path(f"/proc/{process.pid}/task").iterdir()))
    came: list[object] = []

    def work():
        try:
            came.append(job.run(stop))
        except Error as error:
            came.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    wait_until(lambda: unread_bytes(process) > 0)
    return thread, process, came


def _state_of(task: Path) -> str:
    return (task / "stat").read_text().rpartition(")")[2].split()[0]


def unread_bytes(process) -> int:
    """How much the process was told and has not taken in."""
    return int.from_bytes(fcntl.ioctl(process.stdin, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_a_killed_process_costs_one_pass(place):
    """The agent survives the process's death in the middle of a pass, says how it died, and starts another one."""
    job = place.job()
    passed(job)
    place.write("a.txt", b"1")
    thread, process, came = begin(job, threading.Event())
    process.kill()
    thread.join(PATIENCE_S)
    assert (type(came[0]), "killed by signal 9" in str(came[0])) == (ProcessKilled, True)
    assert passed(job).version == 1
    job._process._process.kill()
    job._process._process.wait()
    place.write("a.txt", b"22")
    assert passed(job).version == 2


def test_a_process_that_somebody_stopped_is_ended_and_replaced(place):
    """After its time in SIGSTOP it counts as killed, the error says why, and the next pass has another process."""
    job = place.job()
    job._process._bounds = Bounds(stopped_s=0.5)
    passed(job)
    place.write("a.txt", b"1")
    thread, process, came = begin(job, threading.Event())
    thread.join(PATIENCE_S)
    assert process.poll() == -signal.SIGKILL
    assert (type(came[0]), "was stopped (SIGSTOP) for" in str(came[0])) == (ProcessKilled, True)
    assert passed(job).version == 1


def test_a_process_without_progress_is_ended(place):
    """Whatever it waits for, it is ended after its time, so that the next pass tries anew."""
    job = place.job()
    passed(job)
    job._process._bounds = Bounds(silent_s=0.5)
    _, process, came = begin(job, threading.Event())
    wait_until(lambda: bool(came))
    assert (process.poll(), "made no progress for" in str(came[0])) == (-signal.SIGKILL, True)


def test_time_in_which_the_agent_was_stopped_does_not_count(monkeypatch):
    """Who slept for an hour ends no process for its silence."""
    now_s = 0.0
    monkeypatch.setattr(pass_process.time, "monotonic", lambda: now_s)
    patience = pass_process._Patience(os.getpid(), Bounds(silent_s=10.0), "backs up")
    now_s = 3600.0
    patience.unheard()
    for _ in range(3):
        now_s += 1.0
        patience.unheard()
    patience.heard()
    now_s += 3600.0
    patience.unheard()


def test_a_stop_reaches_the_flow(place):
    """A pass that is told to stop ends at its next safe point, and the next one is not stopped."""
    job = place.job()
    passed(job)
    for number in range(1000):  # more than are read before a process that was just woken has heard all it was told
        place.write(f"{number}.txt", b"%d" % number)
    stop = threading.Event()
    thread, process, came = begin(job, stop)
    before = unread_bytes(process)
    stop.set()
    wait_until(lambda: unread_bytes(process) > before)
    os.kill(process.pid, signal.SIGCONT)
    thread.join(PATIENCE_S)
    assert isinstance(came[0], Stopped)
    assert passed(job).version == 1


def test_a_limit_slows_a_pass_and_neither_a_stop_nor_the_last_pass_waits_for_it(place):
    """A pass that would take minutes says so and still stops; with a deadline the same bytes are sent at once."""
    place.config = dataclasses.replace(place.config, limits=LimitSettings(upload=parse_timetable("64 KiB/s")))
    job = place.job()
    slowed = []
    job.heartbeat = job._process._heartbeat = Heartbeat()
    note = job.heartbeat.beat
    job.heartbeat.beat = lambda doing=None: (note(doing), slowed.append(doing.slowed) if doing else None)
    place.write("large.bin", os.urandom(6 << 20))
    stop, came = threading.Event(), []

    def work():
        try:
            came.append(job.run(stop))
        except Error as error:
            came.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    # Beats go on while it waits: three more.
    wait_until(lambda: slowed.count("upload limited to 64 KiB/s") >= 4)
    stop.set()
    thread.join(PATIENCE_S)
    assert isinstance(came[0], Stopped)
    slowed.clear()
    assert job.run(threading.Event(), deadline_s=time.monotonic() + 600).version == 1
    place.write("other.bin", os.urandom(6 << 20))
    # At the end of a training no deadline may be known.
    assert job.run(Interruption(is_last=True)).version == 2
    assert "upload limited to 64 KiB/s" not in slowed


def test_closing_ends_a_pass_under_way(place):
    """Whoever cannot wait any longer ends the process in the middle of a pass, and the run is free."""
    job = place.job()
    passed(job)
    place.write("a.txt", b"1")
    thread, process, came = begin(job, threading.Event())
    job.close()
    thread.join(PATIENCE_S)
    assert process.poll() is not None
    assert isinstance(came[0], Error)
    assert passed(place.job()).version == 1


def test_a_run_stays_locked_between_passes(place):
    """The agent holds its run's lock itself, whatever becomes of its processes."""
    job = place.job()
    passed(job)
    job._process.close()
    with pytest.raises(RunLocked, match=f"process {os.getpid()} "):
        passed(place.job())
    job.close()
    passed(place.job())


def test_the_process_goes_when_there_is_nothing_to_do(place):
    """After its time without a pass the process is gone, and comes again when it is needed."""
    job = place.job()
    job._process = PassProcess("yolo", job.heartbeat, idle_s=0.05)
    place.write("a.txt", b"1")
    assert passed(job).version == 1
    wait_until(lambda: job._process.pid is None)
    place.write("a.txt", b"22")
    assert passed(job).version == 2


def test_no_secret_can_be_seen_from_outside(place):
    """Neither the passphrase nor the master key stands on the process's command line or in its environment."""
    job = place.job()
    passed(job)
    for name in ("cmdline", "environ"):
        content = Path(f"/proc/{job._process.pid}/{name}").read_bytes()
        assert content
        for secret in (SECRET, place.master, place.master.hex().encode()):
            assert secret not in content


AGENT = """
import sys, threading
from pathlib import Path
from test_pass_process import Place
place = Place(Path(sys.argv[1]))
place.write("a.txt", b"1")
job = place.job()
assert job.run(threading.Event()).version == 1
print(job._process.pid, *sys.modules, flush=True)
sys.stdin.read()
"""


def test_the_agent_stays_small_and_its_process_dies_with_it(tmp_path):
    """An agent that made a version has loaded nothing heavy; killed, it leaves no process behind."""
    agent = subprocess.Popen(
        [sys.executable, "-c", AGENT, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with agent:
        assert agent.stdout is not None
        pid, *modules = agent.stdout.readline().split()
        assert {"numpy", "torch", "boto3", "botocore", "pyfastcdc", "mlsync.backup.new_version"}.isdisjoint(modules)
        stat = Path(f"/proc/{pid}/stat")
        assert stat.exists()
        agent.kill()
    # Nobody may be there to bury it.
    wait_until(lambda: not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z")


def test_a_pass_that_only_proves_makes_its_version_before_it_ends(place):
    """Told to hurry while it waits for a device, it commits what is stored, and the proof comes later."""
    place.config = waiting_for_a_device(place)
    job = place.job()
    place.write("last.pt", uniform_checkpoint())
    hurry, made = Interruption(), []
    thread = threading.Thread(target=lambda: made.append(job.run(hurry)))
    thread.start()
    wait_until((place.run.parent / "started").exists)
    hurry.commits = True
    hurry.set()
    thread.join(PATIENCE_S)
    assert [(one.version, one.proved_version) for one in made] == [(1, None)]
    assert "1 of them pending" in made[0].summary
