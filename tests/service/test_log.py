"""Log lines: their form, what ``-vv`` adds to them, and what never stands in one."""

from __future__ import annotations

import dataclasses
import fcntl
import io
import json
import logging
import os
import re
import struct
import sys
import termios
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from mlsync.app.passes import back_up
from mlsync.app.session import Session
from mlsync.config.model import Config, ProofSettings, WatchSettings
from mlsync.errors import StoreError
from mlsync.log_context import labelled, working_on
from mlsync.repository.keys.keyslot import Passphrase, Stretching
from mlsync.repository.repository import Repository
from mlsync.service.backup_job import BackupJob, RepositoryOpener
from mlsync.service.log import JournalFormatter, JsonFormatter, LogMonitor, is_journal, log_to
from mlsync.service.passes.pass_child import PassChild
from mlsync.store.base import Store
from mlsync.store.directory.store import DirectoryStore
from mlsync.store.location import open_store
from mlsync.store.slow import SlowRequestLog
from mlsync.store.wrapping import WrappingStore

SECRET = b"open sesame"


@pytest.fixture(autouse=True)
def loggers():
    """Restore the loggers afterwards."""
    root, ours = logging.getLogger(), logging.getLogger("mlsync")
    before = (root.handlers[:], root.level, ours.level)
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])


def test_journal_lines_carry_priorities():
    """Each line of a record, a traceback's too, carries the priority that journalctl sorts by."""
    try:
        raise ValueError("bad")
    except ValueError:
        record = logging.LogRecord("mlsync", logging.ERROR, "f", 1, "failed", (), sys.exc_info())
    lines = JournalFormatter("%(message)s").format(record).splitlines()
    assert lines[0] == "<3>failed"
    assert lines[-1] == "<3>ValueError: bad"
    assert all(line.startswith("<3>") for line in lines)
    for level, number in ((logging.DEBUG, 7), (logging.INFO, 6), (logging.WARNING, 4), (logging.CRITICAL, 2)):
        record = logging.LogRecord("mlsync", level, "f", 1, "x", (), None)
        assert JournalFormatter("%(message)s").format(record) == f"<{number}>x"


def test_a_terminal_gets_lines_for_a_person(monkeypatch):
    """At a terminal news has a time alone, a warning its level too, and no word is broken; -vv logs as elsewhere."""
    monkeypatch.delenv("COLUMNS", raising=False)
    parent, child = os.openpty()
    with open(parent, "rb") as seen, open(child, "w") as terminal:
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
        log_to(terminal, environ={})
        LogMonitor().notice("info", "yolo: version 1 in 0.3 s")
        LogMonitor().notice("warning", "yolo: odd")
        log_to(terminal, logging.DEBUG, environ={})
        LogMonitor().notice("info", "yolo: version 2")
        # A terminal hands on what it has so far.
        text = b""
        while text.count(b"\n") < 4:
            text += seen.read1()
        lines = text.decode().splitlines()
    moment = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    assert re.fullmatch(f"{moment} yolo: version 1 in", lines[0])
    assert lines[1] == "  0.3 s"
    assert re.fullmatch(f"{moment} warning: yolo: odd", lines[2])
    assert re.fullmatch(rf"{moment},\d+ INFO    yolo: version 2", lines[3])


def test_priorities_go_to_the_journal_alone(tmp_path):
    """Standard error that was redirected into a file gets times and no priorities."""
    with (tmp_path / "log").open("w+") as stream:
        info = os.fstat(stream.fileno())
        environ = {"JOURNAL_STREAM": f"{info.st_dev}:{info.st_ino}"}
        assert is_journal(stream, environ)
        assert not is_journal(stream, {"JOURNAL_STREAM": "1:2"})
        log_to(stream, environ=environ)
        LogMonitor().notice("warning", "two\nlines")
        log_to(stream, environ={})
        LogMonitor().notice("error", "late")
        stream.seek(0)
        lines = stream.read().splitlines()
    assert lines[0] == "<4>two\\nlines"
    assert lines[1].endswith("ERROR   late")
    assert not is_journal(io.StringIO(), {})


class Place:
    """A run that is watched, and a repository."""

    def __init__(self, base: Path) -> None:
        self.run = base / "run"
        self.run.mkdir()
        self.store = base / "repository"
        repository = Repository.create(
            DirectoryStore(self.store, create=True), Passphrase(SECRET), stretching=Stretching(64, 1, 1)
        )
        self.master = repository.keys.master
        self.watch = WatchSettings(self.run, "yolo")
        self.config = dataclasses.replace(
            Config.for_repository(self.store.as_uri()),
            state_directory=base / "state",
            watches=(self.watch,),
            proof=ProofSettings(device="cpu"),
        )

    def backup(self) -> None:
        """Back up the run, in this process."""
        monitor = LogMonitor()
        with Session.open(self.config, lambda: Passphrase(SECRET), monitor) as session:
            back_up(session, self.watch, monitor, threading.Event())

    def backup_by_the_agent(self) -> None:
        """Back up the run as the agent does, in a process of its own."""
        job = BackupJob(RepositoryOpener(self.config, Passphrase(SECRET)), self.watch)
        try:
            job.run(threading.Event())
        finally:
            job.close()

    def save(self, value: float = 1.0) -> None:
        """Write a checkpoint."""
        import numpy as np

        np.savez(self.run / "last.npz", weight=np.full(200_000, value))


@pytest.fixture
def place(tmp_path):
    """A run and a repository."""
    return Place(tmp_path)


def debug_log(work) -> list[str]:
    """Return the lines that *work* logs with ``-vv``, without times."""
    stream = io.StringIO()
    log_to(stream, logging.DEBUG)
    work()
    return [line.split(maxsplit=2)[2] for line in stream.getvalue().splitlines()]


def test_each_step_of_a_backup_names_run_and_version(place):
    """With -vv a backup logs its phases, files, packs and proofs, each with the run and the version that it makes."""
    place.save()
    place.backup()
    place.save(2.0)
    lines = debug_log(place.backup)
    steps = [line.removeprefix("DEBUG   yolo/2: ") for line in lines if "yolo/2: " in line]
    size_bytes = (place.run / "last.npz").stat().st_size
    assert f"reading last.npz, {size_bytes} bytes" in steps
    assert f"proving 'last.npz', {size_bytes} bytes" in steps
    for step in ("scanning", "reading: begins", "stored packs/", "reading: ends", "proof process", "proving: ends"):
        assert any(line.startswith(step) for line in steps), (step, steps)
    # What comes before the version's number is known names the run alone.
    assert "DEBUG   yolo: looking for the last version" in lines


def test_the_pass_process_logs_as_the_agent_does(place, capfd):
    """The agent's level reaches the process of its passes, whose lines have the same form and the same stream."""
    place.save()
    log_to(sys.stderr, logging.DEBUG)
    place.backup_by_the_agent()
    lines = capfd.readouterr().err.splitlines()
    assert any(line.endswith("DEBUG   yolo/1: scanning") for line in lines)
    assert any(" started" in line and "DEBUG   yolo: pass process " in line for line in lines)


def test_without_vv_no_step_is_logged(place, capfd):
    """At the level of -v neither the agent nor the process of its passes logs steps."""
    place.save()
    log_to(sys.stderr, logging.INFO)
    place.backup_by_the_agent()
    assert capfd.readouterr().err == ""


def test_no_label_outlives_its_work():
    """Of two passes that overlap, each takes its own label with it, whichever ends first."""
    first, second = working_on("a", 1), working_on("b", 2)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert labelled("x") == "b/2: x"
    second.__exit__(None, None, None)
    assert labelled("x") == "x"


class StuckStore(WrappingStore):
    """Fails the first write of a pack, and does not answer the second one before the test says so."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.answers = threading.Event()
        self._is_first = True

    def call(self, method, key, work):
        """Fail, or wait for the test."""
        if method == "put" and key.startswith("packs/"):
            if self._is_first:
                self._is_first = False
                raise StoreBusy("slow down")
            assert self.answers.wait(60.0)
        return super().call(method, key, work)

    def is_transient(self, error: Exception) -> bool:
        """Whether the test raised it."""
        return isinstance(error, StoreBusy)


class StoreBusy(StoreError):
    """The store asks for patience."""


def test_a_stuck_backup_names_the_request_and_retries(place, monkeypatch):
    """With -vv a backup whose store does not answer shows which request it waits for, and each try before."""
    stores: list[StuckStore] = []

    def open_stuck(url, options):
        stores.append(StuckStore(open_store(url, options)))
        return stores[-1]

    monkeypatch.setattr("mlsync.app.session.open_store", open_stuck)
    monkeypatch.setattr("mlsync.store.slow.SlowRequestLog", partial(SlowRequestLog, slow_s=0.1))
    place.save()
    stream = io.StringIO()
    log_to(stream, logging.DEBUG)
    thread = threading.Thread(target=place.backup)
    thread.start()
    deadline = time.monotonic() + 60.0
    while "has had no answer" not in stream.getvalue():
        assert time.monotonic() < deadline, stream.getvalue()
        time.sleep(0.02)
    log = stream.getvalue()
    stores[-1].answers.set()
    thread.join()
    assert re.search(r" INFO    yolo/1: store: put failed, trying again in \d\.\d s: slow down", log)
    assert re.search(r" DEBUG   yolo/1: store: put of packs/\S+ has had no answer for \d+ s", log)


def test_no_secret_is_logged(place, capfd):
    """With -vv neither passphrase nor master key nor the pass process's request appears in any line."""
    place.save()
    log_to(sys.stderr, logging.DEBUG)
    place.backup_by_the_agent()
    log = capfd.readouterr().err
    assert "scanning" in log
    for secret in (SECRET.decode(), place.master.hex(), repr(place.master), "Passphrase"):
        assert secret not in log


def test_no_chunk_costs_a_logging_call(place, monkeypatch):
    """A file of many chunks takes hardly more logging calls than a file of one, whether they are shown or not."""
    calls = []
    monkeypatch.setattr(logging.Logger, "debug", lambda *arguments: calls.append(arguments[1]))
    counts = []
    for size_bytes in (1 << 10, 32 << 20):
        (place.run / "events.log").write_bytes(os.urandom(size_bytes))
        place.backup()
        counts.append(len(calls))
        calls.clear()
    assert 5 < counts[0] < 20
    assert abs(counts[1] - counts[0]) < 5


def test_a_record_outside_of_a_pass_has_no_label():
    """The label ends with the work, also when an error ends it."""
    with pytest.raises(ZeroDivisionError), working_on("yolo", 3):
        raise ZeroDivisionError
    assert debug_log(lambda: LogMonitor().notice("info", "idle")) == ["INFO    idle"]


def test_a_message_that_names_the_run_is_not_labelled_twice():
    """A notice that begins with the run's name gets run and version in place of it."""

    def work():
        with working_on("yolo", 3):
            LogMonitor().notice("warning", "yolo: not understood")

    assert debug_log(work) == ["WARNING yolo/3: not understood"]


def test_a_failed_task_says_so():
    """The end of a task that an error ended shows the error."""

    def work():
        with pytest.raises(OSError, match="gone"), LogMonitor().task("reading", 5):
            raise OSError("gone")

    begins, fails = debug_log(work)
    assert begins == "DEBUG   reading: begins, 5 B"
    assert fails.startswith("DEBUG   reading: fails after ")
    assert fails.endswith(" s: gone")


def test_a_long_task_says_how_long_it_takes(monkeypatch):
    """The log of a service has one line with the time and the speed of a task that takes long, without -vv."""
    now = [0.0]
    monkeypatch.setattr("mlsync.app.forecast.monotonic", lambda: now[0])
    stream = io.StringIO()
    log_to(stream)
    with LogMonitor().task("yolo: reading", 1000 << 20) as task:
        for _ in range(30):
            now[0] += 1
            task.advance(1 << 20)
    (line,) = stream.getvalue().splitlines()
    assert line.endswith("INFO    yolo: reading: about 17 minutes, at 1.0 MiB/s")


def test_a_large_backup_says_beforehand_how_much_it_reads(place, monkeypatch):
    """Before it reads much, a backup says how many files and bytes that is; before it reads little, nothing."""
    place.save()
    stream = io.StringIO()
    log_to(stream)
    monkeypatch.setattr("mlsync.app.passes._MANY_BYTES", 1000)
    place.backup()
    monkeypatch.undo()
    place.save(2.0)
    place.backup()
    said = [line for line in stream.getvalue().splitlines() if "to read" in line]
    assert len(said) == 1
    assert re.search(r"INFO    yolo: 1 file to read, 1\.5 MiB$", said[0])


def test_progress_of_a_pass_is_a_heartbeat():
    """What a task in a pass process reports, a step or what it waits for, reaches the agent as a sign of life."""
    requests, answers = os.pipe(), os.pipe()
    child = PassChild(requests[0], answers[1])
    with child.task("yolo: reading", 10) as task:
        child._beaten_s = 0.0
        task.advance(1)
        child._beaten_s = 0.0
        task.say("importing torch")
        child._doing.notice("store: get failed, trying again in 1.0 s: away")
        child.beat()
    beats = [json.loads(line)["beat"] for line in os.read(answers[0], 4000).decode().splitlines()]
    shown = [(beat["what"], beat["said"], beat["done"], beat["total"]) for beat in beats]
    assert shown == [("", "", 0, None), ("yolo: reading", "", 1, 10), ("yolo: reading", "importing torch", 1, 10)]
    child._incoming.close()
    for descriptor in (requests[1], *answers):
        os.close(descriptor)


def test_json_lines_hold_everything_on_one_line():
    """Each record is one JSON object in ASCII, a traceback too; for the journal its priority stands before it."""
    stream = io.StringIO()
    log_to(stream, as_json=True)
    log = logging.getLogger("mlsync.test")
    log.info("two\nlines %s", "ü")
    try:
        raise ValueError("a bug")
    except ValueError:
        log.exception("unexpected error")
    first, second = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert (first["level"], first["message"]) == ("info", "two\nlines ü")
    assert second["traceback"].endswith("ValueError: a bug")
    assert stream.getvalue().isascii()
    record = logging.LogRecord("mlsync", logging.ERROR, "", 0, "no key", (), None)
    assert JsonFormatter(prefixed=True).format(record).startswith('<3>{"time": "')
