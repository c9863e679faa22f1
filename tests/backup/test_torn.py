"""Files that are being written, cut short, damaged, unreadable or gone: never half in a version, always named."""

from __future__ import annotations

import io
import os
import pickle
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from checkpoint_files import weights_bytes, with_pickle
from doubles.recording_monitor import RecordingMonitor
from flow_parts import RUN, World, as_nobody, contents, damaged, noise, outcome, small_checkpoint
from mlsync import errors
from mlsync.proof.options import ProofOptions
from mlsync.proof.prover import Prover
from mlsync.repository.commit import commit
from mlsync.repository.encoding.tokens import TroubleKind
from mlsync.repository.encoding.validation import TIME_NS_MAX
from mlsync.repository.listing import runs
from mlsync.source.takeover import allow_takeover
from mlsync.versions.select import find_version

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes its user")


def refused() -> bytes:
    """A torch file that is whole in every byte and whose pickle is none."""
    return with_pickle(b"\x80\x02}q\x00(X\x05\x00\x00\x00model", b"\0" * 64)


BAD = {
    "cut short": (lambda: small_checkpoint(2)[:-70], TroubleKind.TORN),
    "empty": (lambda: b"", TroubleKind.TORN),
    "damaged at rest": (lambda: damaged(small_checkpoint(2)), TroubleKind.BROKEN),
    "refused by the proof": (refused, TroubleKind.BROKEN),
}


@pytest.fixture(params=BAD)
def bad(request):
    """Content of a checkpoint that is none, and what it is called."""
    make, kind = BAD[request.param]
    return make(), kind


def test_a_bad_checkpoint_keeps_its_last_good_content_and_is_named(world, bad):
    """The version has the content of the version before, says why, and the next good content takes its place."""
    data, kind = bad
    good = small_checkpoint(1)
    world.write("last.pt", good)
    world.backup()
    world.write("last.pt", data)
    world.write("log.csv", b"1\n")
    result = world.backup()
    assert result.version == 2
    trouble = world.troubles(2)[b"last.pt"]
    assert (trouble.kind, trouble.kept) == (kind, 1)
    assert result.troubles == (trouble,)
    assert contents(world.restored(2)) == {b"last.pt": good, b"log.csv": b"1\n"}
    assert world.entry(b"last.pt").proof.level == 2
    world.write("last.pt", small_checkpoint(3))
    assert world.backup().troubles == ()
    assert world.troubles(3) == {}
    assert world.restored(3) == world.tree()


def test_a_bad_checkpoint_that_holds_still_is_read_once(world, bad):
    """While its stat is the same it is neither read nor waited for again, and makes no further version."""
    world.write("last.pt", small_checkpoint(1))
    world.backup()
    world.write("last.pt", bad[0])
    first = world.backup()
    assert first.version == (2 if bad[1] is TroubleKind.BROKEN else 0)
    assert world.slept == []
    for _ in range(2):
        again = world.backup()
        assert (again.version, again.read_bytes, again.troubles) == (0, 0, first.troubles)
    world.write("log.csv", b"1\n")
    later = world.backup()
    assert later.read_bytes == 2
    assert [(trouble.path, trouble.kept) for trouble in later.troubles] == [(b"last.pt", 1)]
    assert contents(world.restored())[b"last.pt"] == small_checkpoint(1)


def test_a_bad_checkpoint_without_earlier_content_stays_out(world, bad):
    """What never was good is not in the version, and alone makes none."""
    data, kind = bad
    world.write("last.pt", data)
    result = world.backup()
    assert (result.version, [(t.path, t.kind, t.kept) for t in result.troubles]) == (0, [(b"last.pt", kind, 0)])
    world.write("log.csv", b"1\n")
    assert world.backup().version == 1
    assert contents(world.restored()) == {b"log.csv": b"1\n"}
    assert world.troubles()[b"last.pt"].kept == 0
    world.write("last.pt", small_checkpoint(1))
    world.backup()
    assert world.restored() == world.tree()


def test_a_hard_link_to_a_bad_checkpoint_shares_its_fate(world, bad):
    """Both names keep what they had; with nothing to keep both stay out; a good file brings both back."""
    world.write("a.pt", bad[0])
    os.link(world.path("a.pt"), world.path("b.pt"))
    world.write("log.csv", b"1\n")
    result = world.backup()
    assert [trouble.path for trouble in result.troubles] == [b"a.pt", b"b.pt"]
    assert contents(world.restored()) == {b"log.csv": b"1\n"}
    world.write("a.pt", small_checkpoint(1))
    world.backup()
    assert world.restored() == world.tree()
    world.write("a.pt", bad[0])
    world.write("log.csv", b"2\n")
    world.backup()
    found = contents(world.restored())
    assert found == {b"a.pt": small_checkpoint(1), b"b.pt": small_checkpoint(1), b"log.csv": b"2\n"}
    assert world.entry(b"b.pt").target == b"a.pt"
    assert [(trouble.path, trouble.kept) for trouble in world.troubles().values()] == [(b"a.pt", 2), (b"b.pt", 2)]


def test_a_hard_link_to_a_file_that_keeps_older_content_keeps_its_own(world, bad):
    """A name that never had the older content does not get it: it keeps its own, or stays out, and is named."""
    world.write("best.pt", small_checkpoint(1))
    world.write("last.pt", small_checkpoint(2))
    world.backup()
    world.write("best.pt", bad[0])
    for name in ("last.pt", "new.pt"):
        if os.path.lexists(world.path(name)):
            os.unlink(world.path(name))
        os.link(world.path("best.pt"), world.path(name))
    world.write("log.csv", b"1\n")
    result = world.backup()
    kept = {trouble.path: trouble.kept for trouble in result.troubles}
    assert kept == {b"best.pt": 1, b"last.pt": 1, b"new.pt": 0}
    found = contents(world.restored())
    assert found == {b"best.pt": small_checkpoint(1), b"last.pt": small_checkpoint(2), b"log.csv": b"1\n"}
    assert (again := world.backup()).version == 0
    assert again.troubles == result.troubles
    world.write("best.pt", small_checkpoint(3))
    assert world.backup().troubles == ()
    assert world.restored() == world.tree()


def test_a_checkpoint_that_is_overwritten_in_place_is_never_torn(world):
    """Whatever a trainer does to a file meanwhile, each version holds one of the contents that it wrote, whole."""
    written = [weights_bytes(), *(small_checkpoint(number) for number in range(4))]
    stop = threading.Event()

    def train():
        turn = 0
        while not stop.wait(0.003):
            turn += 1
            world.write("last.pt", written[turn % len(written)])

    world.write("last.pt", written[0])
    world.backup()
    trainer = threading.Thread(target=train)
    trainer.start()
    try:
        for number in range(4):
            world.write("log.csv", b"%d\n" % number)
            world.backup(sleep=lambda _s: None)
            assert contents(world.restored())[b"last.pt"] in written
    finally:
        stop.set()
        trainer.join()
    world.backup()
    assert contents(world.restored()) == contents(world.tree())


def at_each_piece(action):
    """Give a *stop* that does something each time that it is asked: between the pieces of a file, among others."""

    def stop():
        action()
        return False

    return stop


def test_a_log_that_grows_while_it_is_read_is_stored_as_it_was(world):
    """Of a log that is appended to without end the version holds what was there, and names no trouble."""
    world.write("events.log", noise(9 << 20))
    result = world.backup(stop=at_each_piece(lambda: world.append("events.log", b"more\n")))
    assert (result.version, result.troubles) == (1, ())
    stored = contents(world.restored())[b"events.log"]
    assert len(stored) >= 9 << 20
    assert contents(world.tree())[b"events.log"].startswith(stored)
    world.backup()
    assert world.restored() == world.tree()


def test_a_file_that_is_deleted_while_it_is_read_is_not_in_the_version(world):
    """What is no checkpoint and is gone by the end of its reading was never there, and is no trouble."""
    world.write("a.dat", noise(5000))
    world.write("b.bin", b"stays")

    def unlink():
        if os.path.exists(world.path("a.dat")):
            os.unlink(world.path("a.dat"))

    result = world.backup(stop=at_each_piece(unlink))
    assert (result.version, result.troubles) == (1, ())
    assert world.restored() == world.tree()


@needs_root
def test_an_unreadable_file_keeps_its_content_and_is_named(directory_world):
    """A file that may not be read any more stays in the version as it was before; a new one stays out."""
    world = directory_world
    world.write("a.bin", b"old")
    world.write("log.csv", b"1\n")
    world.backup()
    world.write("a.bin", b"new")
    world.write("b.bin", b"never seen")
    world.append("log.csv", b"2\n")
    for place in world.base.rglob("*"):
        os.chown(place, 65534, 65534)
    for name in ("a.bin", "b.bin"):
        os.chown(world.path(name), 0, 0)
        os.chmod(world.path(name), 0o600)
    with as_nobody():
        result = world.backup()
    assert [(t.path, t.kind, t.kept) for t in result.troubles] == [
        (b"a.bin", TroubleKind.UNREADABLE, 1),
        (b"b.bin", TroubleKind.UNREADABLE, 0),
    ]
    assert contents(world.restored()) == {b"a.bin": b"old", b"log.csv": b"1\n2\n"}


def test_a_directory_that_is_missing_or_emptied_makes_no_version(world):
    """A disk that is not mounted is not taken for a wish to delete everything; its return is no change."""
    world.write("last.pt", small_checkpoint())
    world.backup()
    os.rename(world.directory, world.base / "away")
    with pytest.raises(errors.SourceMissing):
        world.backup()
    world.directory.mkdir()
    (world.directory / "lost+found").mkdir()
    with pytest.raises(errors.SourceEmptied):
        world.backup()
    (world.directory / "lost+found").rmdir()
    world.directory.rmdir()
    os.rename(world.base / "away", world.directory)
    assert (world.backup().version, world.numbers()) == (0, [1])


def test_a_directory_without_files_makes_no_first_version(world):
    """A run begins with its first file."""
    os.mkdir(world.path("weights"))
    assert world.backup().version == 0
    assert world.numbers() == []


NOW_NS = 1_800_000_000_000_000_000
A_MINUTE_NS = 60 * 10**9


def test_a_clock_that_was_set_back_a_little_keeps_the_order_of_versions(world):
    """Times of versions rise with their numbers, and the step of the clock is told."""
    world.write("a.bin", b"1")
    world.backup(now_ns=lambda: NOW_NS)
    world.write("a.bin", b"2")
    world.backup(now_ns=lambda: NOW_NS - 10 * A_MINUTE_NS)
    assert world.manifest(2).root.created_ns == NOW_NS + 1
    assert any("clock" in text for _, text in world.monitor.notices)


def test_a_clock_that_was_wrong_once_spoils_no_later_dates(world):
    """After a version of 2099 the next ones have the dates of their clocks, and a time finds each of them."""
    times_ns = [NOW_NS, 4_080_000_000_000_000_000, *(NOW_NS + number * A_MINUTE_NS for number in (30, 60)), 0]
    for number, time_ns in enumerate(times_ns, 1):
        world.write("a.bin", b"%d" % number)
        assert world.backup(now_ns=lambda time_ns=time_ns: time_ns).version == number
    assert [world.manifest(number).root.created_ns for number in range(1, 6)] == times_ns
    asked = {
        "2027-01-15T08:10:00Z": 1,
        "2027-01-15T08:40:00Z": 3,
        "2028-01-01T00Z": 4,
        "2099-12-31T00Z": 2,
        "1971-01-01T00Z": 5,
    }
    assert {word: find_version(world.repository, RUN, word).root.number for word in asked} == asked
    with pytest.raises(errors.VersionMissing):
        find_version(world.repository, RUN, "1969-01-01T00Z")


def test_files_of_the_future_are_backed_up(world):
    """A time that lies ahead of the clock neither hangs a backup nor hides a change."""
    world.write("a.bin", b"1")
    os.utime(world.path("a.bin"), ns=(1, 4_000_000_000_000_000_000))
    assert world.backup().version == 1
    world.write("a.bin", b"2")
    os.utime(world.path("a.bin"), ns=(1, 4_000_000_000_000_000_000))
    assert world.backup().version == 2
    assert world.restored() == world.tree()


def test_a_time_that_no_version_can_hold_costs_no_version(world):
    """A file modified in 2400 gets into the version with the last moment that it can hold, and is named once."""
    in_2400_ns = 13_569_465_600 * 10**9
    for name in ("late.pt", "later.csv"):
        world.write(name, small_checkpoint(1))
        os.utime(world.path(name), ns=(0, in_2400_ns))
    if os.stat(world.path("late.pt")).st_mtime_ns != in_2400_ns:
        pytest.skip("this file system has no such times")
    assert world.backup().version == 1
    assert [world.entry(name).mtime_ns for name in (b"late.pt", b"later.csv")] == [TIME_NS_MAX] * 2
    [(severity, text)] = [notice for notice in world.monitor.notices if "2262" in notice[1]]
    assert severity == "warning"
    assert "late.pt and 1 more" in text
    world.write("log.csv", b"1\n")
    assert world.backup().version == 2
    assert len([notice for notice in world.monitor.notices if "2262" in notice[1]]) == 1
    assert contents(world.restored()) == contents(world.tree())


def test_who_comes_second_says_so_and_follows_the_first(world, tmp_path):
    """A number that another writer took meanwhile ends the backup; the next one goes on from that writer's version."""
    world.write("a.bin", b"1")
    world.backup()
    other = World(tmp_path / "other", world.store, is_there=True)
    other.write("a.bin", b"from elsewhere")
    for one in (other, world):
        allow_takeover(one.state.directory, RUN, os.fsencode(one.directory), 0)

    def late(repository, manifest, known, **options):
        if repository is world.repository and other.numbers() == [1]:
            other.backup()
        return commit(repository, manifest, known, **options)

    world.write("a.bin", b"2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlsync.backup.new_version.commit", late)
        _, error = outcome(world.backup)
    assert isinstance(error, errors.VersionTaken)
    assert contents(world.restored(2)) == {b"a.bin": b"from elsewhere"}
    assert world.backup().version == 3
    assert world.restored(3) == world.tree()
    assert world.manifest(3).root.previous.number == 2
    assert world.check().problems == []
    other.close()


def test_a_backup_that_is_stopped_in_a_large_file_keeps_what_it_sent(world):
    """Being asked to stop ends a backup within a piece, and the next one stores only what is missing."""
    world.write("big.bin", noise(24 << 20))
    asked = [0]

    def stop():
        asked[0] += 1
        return asked[0] > 12

    with pytest.raises(errors.Stopped):
        world.backup(stop=stop)
    assert asked[0] == 13
    result = world.backup()
    assert 0 < result.new_bytes < 24 << 20
    assert world.restored() == world.tree()


def test_a_backup_is_stopped_within_the_proof_of_a_large_checkpoint(world):
    """Being asked to stop while a file is proved makes no version, and nothing of it is sent again."""
    world.write("last.pt", weights_bytes())
    tasks = []

    class Monitor(RecordingMonitor):
        @contextmanager
        def task(self, name, total, unit="B"):
            tasks.append(name)
            with super().task(name, total, unit) as task:
                yield task

    world.monitor = Monitor()
    asked = [0]

    def stop():
        asked[0] += any(name.endswith("proving") for name in tasks)
        return asked[0] > 1

    with pytest.raises(errors.Stopped):
        world.backup(stop=stop)
    assert asked[0] == 2
    result = world.backup()
    assert (result.version, result.new_bytes) == (1, 0)


def test_what_is_still_being_made_and_what_is_excluded_stays_out(world):
    """Temporary names, excluded ones, pipes and sockets are not in a version, and cost no trouble."""
    world.write("last.pt", small_checkpoint())
    world.write("last.pt.tmp", b"half")
    world.write(".tmpAbCdEf", b"half")
    world.write("data/images.bin", b"large")
    os.mkfifo(world.path("pipe"))
    result = world.backup(exclude=("data/",))
    assert result.troubles == ()
    assert [entry.path for entry in world.manifest().entries] == [b"last.pt"]


def test_a_checkpoint_is_loaded_by_a_child(world):
    """With a device the proof reaches the level of the numbers, and the manifest says where and with what."""
    world.write("last.pt", small_checkpoint())
    result = world.backup(required_level=3, prover=Prover(ProofOptions(device="cpu")))
    proof = world.entry(b"last.pt").proof
    assert (result.lowest_level, proof.level, proof.device) == (4, 4, "cpu")
    assert proof.torch.startswith("numpy ")
    assert result.pending == ()
    assert RUN in runs(world.repository)[0].name


def test_a_proof_that_falls_short_is_recorded_and_does_not_stop_the_version(world):
    """Where no Python is to be had the version is made with what could be proved, and says what is pending and why."""
    world.write("last.pt", small_checkpoint())
    result = world.backup(required_level=3, prover=Prover(ProofOptions(device="cpu", python="/nowhere/python")))
    assert (result.version, result.lowest_level, result.pending) == (1, 2, ("last.pt",))
    assert world.entry(b"last.pt").proof.shortfall


KEPT_TO_KIND = ["checkpoint.pth.tar", "pytorch.bin", "state.pkl", "no_ending"]


@pytest.mark.parametrize("name", KEPT_TO_KIND)
@pytest.mark.parametrize("left", ["nothing", "zeros", "a text", "a head of zeros"])
def test_what_was_a_checkpoint_is_held_to_that_whatever_its_name(world, name, left):
    """A checkpoint that a dying trainer emptied, zeroed or overwrote keeps its last content, and is named."""
    good = small_checkpoint(1)
    world.write(name, good)
    world.backup()
    content = {"nothing": b"", "zeros": bytes(5000), "a text": b"hello " * 900, "a head of zeros": bytes(4096) + good}
    world.write(name, content[left])
    world.write("log.csv", b"1\n")
    [trouble] = world.backup().troubles
    assert (trouble.path, trouble.kind, trouble.kept) == (os.fsencode(name), TroubleKind.TORN, 1)
    assert contents(world.restored(2))[os.fsencode(name)] == good
    world.write(name, small_checkpoint(2))
    assert world.backup().troubles == ()
    assert world.restored(3) == world.tree()


def test_a_legacy_file_whose_first_byte_is_lost_is_held_to_its_kind(world):
    """Of what torch wrote before 1.6 the first bytes alone say what it is, and the last version says it too."""
    file = io.BytesIO()
    torch.save({"model": torch.ones(1000)}, file, _use_new_zipfile_serialization=False)
    good = file.getvalue()
    world.write("last.pt", good)
    world.backup()
    for at in (0, 5):  # what is left is no pickle, and a pickle of something else
        world.write("last.pt", good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        world.write("log.csv", b"%d\n" % at)
        assert [trouble.kept for trouble in world.backup().troubles] == [1]
    assert contents(world.restored())[b"last.pt"] == good


def test_a_checkpoint_of_another_kind_takes_its_place(world):
    """A name under which another kind of checkpoint is saved from now on is free to be anything once it is gone."""
    world.write("last", small_checkpoint(1))
    world.backup()
    world.write("last", save({"layer": torch.ones(100)}))
    assert world.backup().troubles == ()
    assert world.entry(b"last").proof.container == "safetensors"
    world.write("last", pickle.dumps({"layer": [1.0] * 9000}))
    assert world.backup().troubles == ()
    assert world.entry(b"last").proof.container == "pickle"
    os.unlink(world.path("last"))
    world.write("log.csv", b"1\n")
    world.backup(accept_loss=True)
    world.write("last", b"a text")
    assert world.backup().troubles == ()
    assert world.restored() == world.tree()


def test_a_save_that_raised_keeps_the_last_good_content(world):
    """What torch.save leaves when it raises is a well-formed zip without the pickle: torn, also as a first version."""
    failed = (Path(__file__).parent / "cases" / "failed-torch-save-no-data-pkl.pt").read_bytes()
    world.write("last.pt", failed)
    world.write("best.pt", small_checkpoint(1))
    [trouble] = world.backup().troubles
    assert (trouble.path, trouble.kind, trouble.kept) == (b"last.pt", TroubleKind.TORN, 0)
    assert "no data.pkl" in trouble.text
    world.write("last.pt", small_checkpoint(2))
    world.backup()
    world.write("last.pt", failed)
    world.write("log.csv", b"1\n")
    [trouble] = world.backup().troubles
    assert (trouble.path, trouble.kept) == (b"last.pt", 2)
    assert contents(world.restored())[b"last.pt"] == small_checkpoint(2)


@pytest.mark.parametrize("name", ["a.pth.tar", "a.PYTH", "a.th", "a.ptl", "a.jit", "a.pt2", "a.keras", "a.sft"])
def test_names_that_promise_a_checkpoint_are_held_to_it_from_the_first(world, name):
    """An empty file, and one of zeros, is torn under such a name; another program's file is its own affair."""
    for content in (b"", bytes(100)):
        world.write(name, content)
        assert [trouble.kind for trouble in world.backup().troubles] == [TroubleKind.TORN]
    world.write(name, b"what another program calls so")
    assert world.backup().troubles == ()
    assert world.entry(os.fsencode(name)).proof is None
