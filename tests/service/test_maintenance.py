"""What an agent does beside making versions, with its real process, a repository in a directory, and a real torch."""

from __future__ import annotations

import dataclasses
import io
import os
import threading
import time
from pathlib import Path

import pytest

from doubles.faulty_store import Fault, FaultyStore
from doubles.recording_monitor import RecordingMonitor
from mlsync.app.passes import back_up
from mlsync.app.session import Session
from mlsync.backup.request import BackupResult
from mlsync.config.model import Config, ProofSettings, RetentionSettings, WatchSettings
from mlsync.courtesy.priority import NICE_LAST
from mlsync.errors import Error, ObjectArchived, StoreDenied, StoreUnavailable
from mlsync.repository.history.decision import Forgotten
from mlsync.repository.history.decisions import By, decide
from mlsync.repository.history.fence import FENCE_BYTES
from mlsync.repository.history.seen_decision import half, seen_decision
from mlsync.repository.keys.keyslot import Passphrase, Stretching
from mlsync.repository.repository import Repository
from mlsync.service.afterwards.daily_prune import DailyPrune
from mlsync.service.afterwards.maintenance import SCRUB_EVERY_S, Maintenance
from mlsync.service.afterwards.proof_due import PROVE_EVERY_S
from mlsync.service.backup_job import BackupJob, RepositoryOpener
from mlsync.service.job import Heartbeat
from mlsync.service.passes.pass_process import Opened, PassProcess, PruneRequest
from mlsync.store.directory.store import DirectoryStore
from mlsync.versions.proof_status import proof_statuses

pytestmark = pytest.mark.slow

SECRET = Passphrase(b"open sesame")
NOWHERE = Path("/nowhere/python")
NS = 10**9
PERIOD_S = 30 * 24 * 3600.0


class Place:
    """A run that is watched, and a repository; the clock stands still until it is moved."""

    def __init__(self, base: Path) -> None:
        self.run = base / "run"
        self.run.mkdir()
        self.store = DirectoryStore(base / "repository", create=True)
        self.repository = Repository.create(self.store, SECRET, stretching=Stretching(64, 1, 1))
        self.watch = WatchSettings(self.run, "yolo")
        config = Config.for_repository((base / "repository").as_uri())
        self.config = dataclasses.replace(config, state_directory=base / "state", watches=(self.watch,))
        self.monitor = RecordingMonitor()
        self.stop = threading.Event()
        self.now_ns = 1_800_000_000 * NS

    def save(self, name: str = "last.pt", value: float = 1.0, **proof: object) -> int:
        """Write a checkpoint, and make a version of it without torch."""
        import torch

        file = io.BytesIO()
        torch.save({"model": {"weight": torch.full((500,), value)}}, file)
        (self.run / name).write_bytes(file.getvalue())
        with self.session(**{"python": NOWHERE} | proof) as session:
            return back_up(session, self.watch, self.monitor, self.stop).version

    def session(self, **proof: object) -> Session:
        """The repository, open, with what the configuration says of the proof."""
        config = dataclasses.replace(self.config, proof=ProofSettings(**proof))
        return Session.open(config, lambda: SECRET, self.monitor)

    def maintain(self, **proof: object):
        """Run what is due; return the version that it proved."""
        with self.session(**proof) as session:
            maintenance = Maintenance(session, self.watch, self.monitor, self.stop, now_ns=lambda: self.now_ns)
            return maintenance.run()

    def later(self, seconds: float) -> None:
        """So much time passes."""
        self.now_ns += int(seconds * NS)

    def said(self) -> list[str]:
        """What was told since the last time that it was asked."""
        texts = [f"{severity}: {text}" for severity, text in self.monitor.notices]
        self.monitor.notices.clear()
        return texts

    def pending(self) -> list[int]:
        """The versions that the store shows as pending."""
        return [status.root.number for status in proof_statuses(self.repository, "yolo") if status.is_pending]

    def rot(self) -> None:
        """Flip a bit of each pack where it lies."""
        for path in Path(self.store.url.removeprefix("file://"), "packs").glob("*/*"):
            body = bytearray(path.read_bytes())
            body[100] ^= 1
            path.chmod(0o600)
            path.write_bytes(bytes(body))


@pytest.fixture
def place(tmp_path):
    """A run and a repository."""
    return Place(tmp_path)


def test_what_is_pending_is_proved_when_it_can_be(place):
    """Versions without a proof get one when torch is there, the newest of them is told, and nothing is left to do."""
    assert [place.save(), place.save(value=2.0)] == [1, 2]
    place.said()
    assert place.pending() == [1, 2]
    assert place.maintain(device="cpu") == 2
    assert place.pending() == []
    said = place.said()
    assert [text.partition(", ")[0] for text in said] == [
        "info: yolo: version 2 proved to L4 on cpu",
        "info: yolo: version 1 proved to L4 on cpu",
    ]
    place.later(2 * PROVE_EVERY_S)
    assert place.maintain(device="cpu") is None
    assert place.said() == []


def test_it_is_tried_after_a_minute_and_then_less_and_less_often(place):
    """While torch stays away that is said after a minute, at longer and longer intervals, and at last once an hour."""
    place.save()
    place.said()
    tries = (0, True), (0.9, False), (0.2, True), (1, False), (0.2, True), (60, True), (59, False), (1.2, True)
    for minutes, is_told in tries:
        place.later(minutes * 60)
        assert place.maintain(python=NOWHERE) is None
        said = place.said()
        assert bool(said) is is_told
        assert all("1 version still pending: The proof's Python does not start" in text for text in said)
    assert place.pending() == [1]


def test_a_proof_that_works_calls_for_those_that_are_pending(place):
    """After a pass whose own proofs worked, older versions are not pending any longer than that."""
    place.save()
    assert place.maintain(python=NOWHERE) is None
    place.later(1)
    assert place.maintain(device="cpu") is None
    place.save(value=2.0, device="cpu", python=None)
    with place.session(device="cpu") as session:
        maintenance = Maintenance(session, place.watch, place.monitor, place.stop, now_ns=lambda: place.now_ns)
        assert maintenance.run(BackupResult("yolo", 1, version=2, checkpoint_count=1)) == 1
    assert place.pending() == []


def test_what_is_left_to_other_machines_is_not_asked_for(place):
    """With device = "none" versions are pending to whoever looks, and the agent says nothing of it hour by hour."""
    place.save(device="none")
    place.said()
    assert place.pending() == [1]
    assert place.maintain(device="none") is None
    assert place.said() == []
    place.later(2 * PROVE_EVERY_S)
    assert place.maintain(device="cpu") == 1


def test_a_clock_that_was_set_back_does_not_put_it_off(place):
    """After the clock went back by a year the next try comes at once."""
    place.save()
    place.maintain(python=NOWHERE)
    place.later(-365 * 24 * 3600.0)
    assert place.maintain(device="cpu") == 1


def test_what_turns_out_not_to_load_is_told(place):
    """A checkpoint that is refused when it is proved at last is an error for somebody to see, and no proved version."""
    place.save(value=float("nan"))
    place.said()
    assert place.maintain(device="cpu", refuse=("nan", "inf")) is None
    (said,) = place.said()
    assert said.startswith("error: yolo: version 1: last.pt turned out not to load: level 4: 500 NaN")
    assert place.pending() == []


def test_the_first_scrub_only_starts_the_clock(place):
    """Nothing is read at first; from then on each hour brings its share, until all was read once."""
    for number in range(6):
        place.save(f"{number}.pt", float(number))
    place.said()
    options = {"scrub_s": 10 * SCRUB_EVERY_S, "python": NOWHERE}
    # What is pending was tried just now.
    place.maintain(**options)
    place.said()
    counts = []
    for _ in range(10):
        place.later(SCRUB_EVERY_S)
        place.maintain(**options)
        counts += [int(text.split()[2]) for text in place.said() if "scrubbed" in text]
    assert sum(counts) == len(list(place.repository.packs()))


def test_without_a_wish_nothing_is_scrubbed(place):
    """By default no pack is read back without need."""
    place.save()
    place.said()
    for _ in range(3):
        place.later(PERIOD_S)
        place.maintain(device="none")
    assert not [text for text in place.said() if "scrubbed" in text]


def test_what_a_scrub_finds_damaged_is_stored_again(place):
    """A pack that rotted is told as an error, and the next pass over the untouched run makes a version without it."""
    place.save()
    options = {"scrub_s": PERIOD_S, "device": "cpu"}
    place.maintain(**options)
    place.rot()
    place.said()
    place.later(PERIOD_S)
    place.maintain(**options)
    said = place.said()
    assert [text for text in said if text.startswith("error: packs/") and "is stored again" in text]
    with place.session(device="cpu") as session:
        assert back_up(session, place.watch, place.monitor, place.stop).version == 2
        assert back_up(session, place.watch, place.monitor, place.stop).version == 0


def test_a_version_in_cold_storage_keeps_no_other_from_being_proved(place):
    """What cannot be read now stays pending and is told; the versions behind it are proved."""
    place.save(value=1.0)
    frozen = {info.key for info in place.store.list("packs/")}
    place.save(value=2.0)

    class Frozen(FaultyStore):
        def read(self, key, offset, into):
            """Refuse what is frozen."""
            if key in frozen:
                raise ObjectArchived("no", where=key, advice="thaw it")
            super().read(key, offset, into)

    place.said()
    with place.session(device="cpu") as session:
        session.repository = Repository(Frozen(place.store), place.repository.keys)
        maintenance = Maintenance(session, place.watch, place.monitor, place.stop, now_ns=lambda: place.now_ns)
        assert maintenance.run() == 2
        assert session.state.pending("yolo") == [1]
    told = [text for text in place.said() if text.startswith("warning: ")]
    assert len(told) == 1
    assert "yolo: version 1 cannot be proved now: a pack cannot be read: no: packs/" in told[0]


def test_a_store_that_does_not_answer_costs_no_pass(place):
    """Maintenance that the store does not answer end with a warning, not with an error of the pass."""
    place.save()
    place.maintain(scrub_s=PERIOD_S, python=NOWHERE)
    place.said()
    place.later(PERIOD_S)
    with place.session(scrub_s=PERIOD_S, python=NOWHERE) as session:
        away = FaultyStore(place.store, Fault("before", 1, lasts=True, error=StoreUnavailable("no answer")))
        session.repository = Repository(away, place.repository.keys)
        maintenance = Maintenance(session, place.watch, place.monitor, place.stop, now_ns=lambda: place.now_ns)
        assert maintenance.run() is None
    assert place.said() == ["warning: yolo: no answer"]


class TestPrune:
    """``prune = "daily"``: the agent deletes what was forgotten, in a process of its own."""

    DAY_S = 24 * 3600.0

    @pytest.fixture
    def place(self, place):
        """Two versions, the first of which was forgotten when time began."""
        for content in ("one", "two"):
            (place.run / "notes.txt").write_text(content)
            with place.session(device="none") as session:
                back_up(session, place.watch, place.monitor, place.stop)
        seen = seen_decision(place.repository.stored("yolo", 2).root.room)
        manifest = half(place.repository.stored("yolo", 1).digest)

        def change(_decided, draft):
            draft.forgotten[1] = Forgotten(1, manifest, "by hand", place.now_ns)

        decide(place.repository, "yolo", seen, change, By("host", place.now_ns))
        place.prune = RetentionSettings(grace_s=self.DAY_S, prune="daily")
        place.config = dataclasses.replace(place.config, retention=place.prune, watches=())
        place.later(self.DAY_S)
        place.said()
        return place

    @staticmethod
    def maintained(place):
        """What is told when a pass had the prune begin, and it has ended."""
        repository = place.repository
        opened = Opened(repository.keys, repository.conditional_create, repository.slot)
        prune = DailyPrune(place.config, place.monitor, now_ns=lambda: place.now_ns)
        prune.begin(opened, place.stop)
        prune.wait()
        prune.close()
        return place.said()

    def test_it_prunes_once_a_day(self, place):
        """A forgotten version goes after the grace period, its pack after another one, and nothing in between."""
        assert self.maintained(place) == ["info: pruned 1 version, 0 packs (0 B)"]
        assert place.store.stat(place.repository.version_key("yolo", 1)).size_bytes == FENCE_BYTES
        packs = len(list(place.repository.packs()))
        place.later(self.DAY_S - 1)
        assert self.maintained(place) == []
        assert len(list(place.repository.packs())) == packs
        place.later(1)
        (said,) = self.maintained(place)
        assert said.startswith("info: pruned 0 versions, 1 pack (")
        assert len(list(place.repository.packs())) == packs - 1

    def test_without_a_wish_it_does_not(self, place):
        """By default nothing is pruned."""
        place.config = dataclasses.replace(place.config, retention=RetentionSettings(grace_s=self.DAY_S))
        assert self.maintained(place) == []
        assert place.store.stat(place.repository.version_key("yolo", 1)).size_bytes > FENCE_BYTES

    def test_within_the_longest_grace_of_all_runs_nothing_goes(self, place):
        """A run with a longer time keeps what all runs share, and nothing is told."""
        longer = dataclasses.replace(place.watch, retention=RetentionSettings(grace_s=3 * self.DAY_S))
        place.config = dataclasses.replace(place.config, watches=(longer,))
        assert self.maintained(place) == []
        place.later(2 * self.DAY_S)
        assert self.maintained(place) == ["info: pruned 1 version, 0 packs (0 B)"]

    def test_what_it_cannot_see_is_told_and_costs_no_pass(self, place):
        """A version that opens nowhere is a warning on each day, and nothing is deleted."""
        directory = Path(place.store.url.removeprefix("file://"))
        for key in [place.repository.version_key("yolo", 2), f"copies/{place.repository.version_key('yolo', 2)[9:]}"]:
            (directory / key).chmod(0o600)
            (directory / key).write_bytes(b"damaged")
        for _ in range(2):
            (said,) = self.maintained(place)
            assert said.startswith("warning: prune: nothing was deleted: versions/")
            place.later(self.DAY_S)

    def test_missing_rights_are_told_once(self, place, monkeypatch):
        """A store that lets nothing go is a warning on the first day alone, until it has let something go."""
        kept = {"denied": "the store keeps packs/1: no"}
        answers = [{"error": "denied"}, {"error": "denied"}, {}, kept, kept]

        def ask(_self, request, _stop):
            assert isinstance(request, PruneRequest)
            answer = answers.pop(0)
            if "error" in answer:
                raise StoreDenied("no right", where="s3://b")
            return {"versions": 0, "packs": 0, "bytes": 0, "kept_back": [], "denied": ""} | answer

        monkeypatch.setattr(PassProcess, "ask", ask)
        told = []
        while answers:
            told.append([text.partition(" (")[0] for text in self.maintained(place)])
            place.later(self.DAY_S)
        assert told == [["warning: prune: no right: s3://b"], [], [], [f"warning: prune: {kept['denied']}"], []]

    def test_its_process_ends_at_once_when_the_agent_does(self, place):
        """An agent that stops does not wait for the prune, and says nothing of it."""
        place.stop.set()
        assert self.maintained(place) == []
        place.stop.clear()
        place.later(self.DAY_S)
        assert self.maintained(place) == ["info: pruned 1 version, 0 packs (0 B)"]

    def test_no_pass_waits_for_it_and_there_is_one_at_a_time(self, place, monkeypatch):
        """It goes on while other passes end, and ask for it; what ends the agent ends it, without a word."""
        began, closed = [], threading.Event()

        def ask(_self, request, _stop):
            began.append(request)
            assert closed.wait(60)
            raise Error("killed")

        monkeypatch.setattr(PassProcess, "ask", ask)
        monkeypatch.setattr(PassProcess, "close", lambda _self: closed.set())
        opened = Opened(place.repository.keys, True, place.repository.slot)
        prune = DailyPrune(place.config, place.monitor, now_ns=lambda: place.now_ns)
        prune.begin(opened, place.stop)
        for _ in range(3):
            place.later(self.DAY_S)
            prune.begin(opened, place.stop)
        prune.close()
        prune.begin(opened, place.stop)
        assert (len(began), place.said()) == (1, [])

    def test_one_that_is_silent_is_ended_when_it_is_due_again(self, place, monkeypatch):
        """A store that never answers does not end the prunes of all days to come."""
        ended = threading.Event()

        def ask(_self, _request, _stop):
            assert ended.wait(60)
            raise Error("killed")

        monkeypatch.setattr(PassProcess, "ask", ask)
        monkeypatch.setattr(PassProcess, "close", lambda _self: ended.set())
        monkeypatch.setattr("mlsync.service.afterwards.daily_prune.SILENT_S", -1.0)
        opened = Opened(place.repository.keys, True, place.repository.slot)
        prune = DailyPrune(place.config, place.monitor, now_ns=lambda: place.now_ns)
        prune.begin(opened, place.stop)
        place.later(self.DAY_S)
        prune.begin(opened, place.stop)
        prune.wait()
        assert place.said() == ["warning: prune: killed; next try in a day"]

    def test_a_pass_begins_it_and_the_last_one_does_not(self, place, monkeypatch):
        """A run's job asks for it after a pass of which the store was asked, but not when the agent ends."""
        begun = []
        monkeypatch.setattr(DailyPrune, "begin", lambda _self, opened, _stop: begun.append(opened))
        config = dataclasses.replace(place.config, watches=(place.watch,))
        prune = DailyPrune(config, place.monitor)
        job = BackupJob(RepositoryOpener(config, SECRET), place.watch, prune=prune)
        try:
            job.run(place.stop)
            job.run(place.stop)
            assert len(begun) == 1
            job.run(place.stop, deadline_s=time.monotonic() + 60)
            assert len(begun) == 1
        finally:
            job.close()

    def test_its_process_has_the_lowest_priority(self, place):
        """Also an agent that takes its full share prunes when nobody else wants the processor."""
        keys, slot = place.repository.keys, place.repository.slot
        process = PassProcess("pruning", Heartbeat(), does="prunes")
        try:
            done = process.ask(PruneRequest(place.config, Opened(keys, True, slot), place.now_ns), place.stop)
            assert done["versions"] == 1
            assert os.getpriority(os.PRIO_PROCESS, process.pid) == NICE_LAST
        finally:
            process.close()
