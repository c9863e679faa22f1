"""What follows from what others wait for: threads, and pauses of the disk."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import pytest

from mlsync.courtesy import pressure
from mlsync.courtesy.pressure import PAUSE_MAX_S, PAUSE_MIN_S, PIECE_BYTES, STRETCH_BYTES, Pace, files
from mlsync.courtesy.slowness import Slowness
from mlsync.errors import Stopped


def write(path, *, avg10=0.0, total=0):
    """The file as the kernel has it."""
    path.write_text(
        f"some avg10={avg10:.2f} avg60=0.00 avg300=0.00 total={total}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
    )


@pytest.fixture
def file(tmp_path):
    """A pressure file in which nobody waits."""
    write(tmp_path / "pressure")
    return tmp_path / "pressure"


@pytest.mark.parametrize(("avg10", "count"), [(0.0, 3), (9.9, 3), (10.0, 2), (98.7, 2)])
def test_one_thread_less_where_others_wait(file, monkeypatch, avg10, count):
    """A process that stands back takes one thread less once somebody waits in a tenth of the time."""
    monkeypatch.setattr(pressure, "stands_back", lambda: True)
    write(file, avg10=avg10)
    assert pressure.threads(3, file) == count


def test_one_thread_is_left(file, monkeypatch):
    """The last thread stays, however many wait."""
    monkeypatch.setattr(pressure, "stands_back", lambda: True)
    write(file, avg10=99.0)
    assert [pressure.threads(most, file) for most in (2, 1)] == [1, 1]


def test_who_is_quick_takes_all_threads(file, monkeypatch):
    """A process that does not stand back asks nobody."""
    monkeypatch.setattr(pressure, "stands_back", lambda: False)
    write(file, avg10=99.0)
    assert pressure.threads(3, file) == 3


@pytest.mark.parametrize("content", [None, "", "full avg10=99.00\n", "some avg10=x\n", "some\n", "some avg10\n"])
def test_a_kernel_that_tells_nothing_means_that_nobody_waits(tmp_path, monkeypatch, content):
    """No file, or one of another form, takes no thread away."""
    monkeypatch.setattr(pressure, "stands_back", lambda: True)
    if content is not None:
        (tmp_path / "pressure").write_text(content)
    assert pressure.threads(3, tmp_path / "pressure") == 3


class Disk:
    """A pace whose pauses take no time, and in which others wait for the share of them that is said."""

    def __init__(self, file, share=0.0, *, is_wanted=True):
        self.share = share
        self.pauses = []
        self._file, self._now_s, self._total_us = file, 0.0, 0
        self.pace = Pace(file, is_wanted=lambda: is_wanted, clock=lambda: self._now_s, sleep=self._sleep)

    def _sleep(self, seconds):
        self.pauses.append(seconds)
        self._now_s += seconds
        self._total_us += int(self.share * seconds * 1e6)
        write(self._file, total=self._total_us)

    def move(self, stretches):
        """So many stretches are moved, each in pieces."""
        for _ in range(stretches):
            for _ in self.pace.pieces(STRETCH_BYTES):
                pass


def test_pauses_grow_while_others_wait_and_shrink_again(file):
    """Twice as long while others wait, up to a bound; half as long once they do not."""
    disk = Disk(file, share=1.0)
    disk.move(10)
    assert disk.pauses[:3] == [PAUSE_MIN_S, PAUSE_MIN_S * 2, PAUSE_MIN_S * 4]
    assert disk.pauses[-1] == PAUSE_MAX_S
    disk.share = 0.0
    disk.move(10)
    assert disk.pauses[-1] == PAUSE_MIN_S


def test_a_stretch_is_moved_in_bounded_pieces(file):
    """Nothing longer than a piece is under way at once, and all of it is moved."""
    pieces = list(Disk(file).pace.pieces(2 * PIECE_BYTES + 5))
    assert [(piece.start, piece.stop) for piece in pieces] == [
        (0, PIECE_BYTES),
        (PIECE_BYTES, 2 * PIECE_BYTES),
        (2 * PIECE_BYTES, 2 * PIECE_BYTES + 5),
    ]


def test_who_is_quick_neither_pauses_nor_cuts(file):
    """A process that does not stand back moves all in one piece, and never pauses."""
    disk = Disk(file, share=1.0, is_wanted=False)
    assert list(disk.pace.pieces(10 * STRETCH_BYTES)) == [slice(0, 10 * STRETCH_BYTES)]
    with disk.pace.moving(10 * STRETCH_BYTES):
        pass
    assert disk.pauses == []


def test_without_the_kernels_word_pauses_stay_short(tmp_path):
    """Where nothing tells whether others wait, each pause is the shortest."""
    pauses = []
    pace = Pace(tmp_path / "absent", is_wanted=lambda: True, sleep=pauses.append)
    for _ in range(5):
        with pace.moving(STRETCH_BYTES):
            pass
    assert pauses == [PAUSE_MIN_S] * 5


def test_nothing_of_ours_is_under_way_in_a_pause(file):
    """A pause begins when the last transfer is over, and no other one begins before it ends: who waits is another."""
    begun, may_end, paused = threading.Event(), threading.Event(), threading.Event()
    seen = []
    under_way = 0

    def sleep(_seconds):
        seen.append(under_way)
        paused.set()

    pace = Pace(file, is_wanted=lambda: True, sleep=sleep)

    def slow():
        nonlocal under_way
        with pace.moving(1):
            under_way += 1
            begun.set()
            may_end.wait(20)
            under_way -= 1

    def long():
        with pace.moving(STRETCH_BYTES):
            pass

    with ExitStack() as stack:
        stack.callback(may_end.set)
        threads = [threading.Thread(target=slow), threading.Thread(target=long)]
        threads[0].start()
        assert begun.wait(20)
        threads[1].start()
        assert not paused.wait(0.2)
    for thread in threads:
        thread.join(20)
    assert seen == [0]


def test_a_transfer_that_fails_is_over(file):
    """An error in a transfer goes through, and the next pause does not wait for it."""
    disk = Disk(file)
    with pytest.raises(OSError, match="full"), disk.pace.moving(1):
        raise OSError("full")
    disk.move(1)
    assert len(disk.pauses) == 1


class Machine:
    """Pressure files of a whole machine, with a clock that only waits move, and stalls for a share of each second."""

    def __init__(self, directory, *, max_lag_s=600.0):
        self.some, self.full = {}, {}
        self.now_s, self.rests, self.own_us = 0.0, 0, 0.0
        self.slowness = Slowness(lambda: self.now_s)
        self.slowness.wait = self._wait
        self.slowness.begin(hurries=False, max_lag_s=max_lag_s)
        self.files = {what: directory / what for what in ("processor", "disk", "memory")}
        self._totals = dict.fromkeys([(what, line) for what in self.files for line in ("some", "full")], 0.0)
        self.pace = Pace(
            self.files,
            is_wanted=lambda: True,
            clock=lambda: self.now_s,
            sleep=self._pass,
            slowness=self.slowness,
            own_wait=lambda: self.own_us,
        )
        self._pass(0)

    def _wait(self, seconds, why):
        self.rests += 1
        self.slowness.note(why)
        self._pass(seconds)

    def _pass(self, seconds):
        self.now_s += seconds
        for what, file in self.files.items():
            lines = []
            for line, shares in (("some", self.some), ("full", self.full)):
                share = shares.get(what, 0.0)
                self._totals[what, line] += share * seconds * 1e6
                lines.append(f"{line} avg10={share * 100:.2f} avg60=0 avg300=0 total={self._totals[what, line]:.0f}")
            file.write_text("\n".join(lines) + "\n")

    def stretches(self, count):
        """Move so many stretches."""
        for _ in range(count):
            with self.pace.moving(STRETCH_BYTES):
                pass


@pytest.mark.parametrize("what", ["processor", "disk", "memory"])
def test_pauses_grow_whatever_others_wait_for(tmp_path, what):
    """Processor and memory count as the disk does, and the status says which."""
    machine = Machine(tmp_path)
    machine.some[what] = 1.0
    machine.stretches(10)
    assert machine.pace.pause_s == PAUSE_MAX_S
    assert machine.slowness.why == f"others wait for the {what}"
    machine.now_s += 60
    assert machine.slowness.why == ""


def test_own_threads_that_wait_for_a_processor_are_no_reason_to_pause(tmp_path):
    """The kernel counts them too, and they are taken off."""
    machine = Machine(tmp_path)
    machine.some["processor"] = 1.0
    real = machine._pass
    machine.pace._sleep = lambda seconds: (real(seconds), setattr(machine, "own_us", machine.own_us + seconds * 1e6))
    machine.stretches(10)
    assert machine.pace.pause_s == PAUSE_MIN_S


@pytest.mark.parametrize(("what", "line"), [("disk", "full"), ("memory", "some"), ("processor", "full")])
def test_a_stalled_machine_is_left_alone_between_files_until_the_lag_is_over(tmp_path, what, line):
    """The rest lasts as long as the stall, and never longer than max_lag; then the pass goes on without pauses."""
    machine = Machine(tmp_path, max_lag_s=30.0)
    getattr(machine, line)[what] = machine.some[what] = 0.9
    machine._pass(0)
    machine.pace.rest()
    assert machine.rests == 30
    assert machine.slowness.why == f"others wait for the {what}"
    pauses = []
    machine.pace._sleep = pauses.append
    machine.stretches(10)
    machine.pace.rest()
    assert (machine.rests, pauses) == (30, [])


def test_a_rest_ends_with_the_stall(tmp_path):
    """It goes on when others work again, although the kernel's mean of ten seconds is still high."""
    machine = Machine(tmp_path)
    machine.full["disk"] = 0.9
    machine._pass(0)
    averaged = machine.files["disk"].read_text()

    def wait(seconds, _why):
        machine.rests += 1
        if machine.rests == 3:
            machine.full["disk"] = 0.0
        machine._pass(seconds)
        machine.files["disk"].write_text(machine.files["disk"].read_text().replace("avg10=0.00", "avg10=90.00"))

    machine.slowness.wait = wait
    machine.pace.rest()
    assert "avg10=90.00" in averaged
    assert machine.rests == 3


@pytest.mark.parametrize("waiting", ["some of the disk", "some of the processor"])
def test_a_busy_machine_is_not_a_stalled_one(tmp_path, waiting):
    """Where others still work, no file waits: priorities and short pauses are enough."""
    machine = Machine(tmp_path)
    machine.some[waiting.split()[-1]] = 1.0
    machine._pass(0)
    machine.pace.rest()
    assert machine.rests == 0


def test_a_rest_hears_a_stop_and_what_hurries_does_not_rest(tmp_path):
    """A stop ends it by its own error; a deadline and a max_lag of nothing let it not begin."""
    machine = Machine(tmp_path)
    machine.some["memory"] = 0.9
    machine._pass(0)

    def stop():
        if machine.rests == 2:
            raise Stopped("asked to")

    with pytest.raises(Stopped):
        machine.pace.rest(stop)
    with machine.pace.moving(1):  # the pause is over
        pass
    for hurries, max_lag_s in ((True, 600.0), (False, 0.0)):
        machine.slowness.begin(hurries=hurries, max_lag_s=max_lag_s)
        machine.now_s += 60
        machine.pace.rest()
    assert machine.rests == 2


def test_many_small_files_ask_the_kernel_seldom(tmp_path):
    """After a rest the next files go on for a while."""
    machine = Machine(tmp_path, max_lag_s=1e9)
    machine.some["memory"] = 0.9
    machine._pass(0)
    machine.slowness.wait = lambda seconds, _why: (setattr(machine, "rests", machine.rests + 1), machine.some.clear())
    for _ in range(100):
        machine.pace.rest()
    assert machine.rests == 1


def make_proc(root, group, processes):
    """A /proc and control groups: pressure files, this process's group, and who is in it."""
    proc, groups = root / "proc", root / "groups"
    for directory in (proc / "pressure", proc / "self", groups / group.lstrip("/")):
        directory.mkdir(parents=True, exist_ok=True)
    (proc / "self" / "cgroup").write_text(f"3:cpu:/elsewhere\n0::{group}\n")
    own = groups / group.lstrip("/")
    (own / "io.pressure").touch()
    (own / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in processes))
    for pid, arguments in processes.items():
        (proc / str(pid)).mkdir()
        (proc / str(pid) / "cmdline").write_bytes(arguments.replace(" ", "\0").encode())
    return proc, groups


AGENT = "/usr/bin/python3 -P -m mlsync.service.passes.pass_start 20"


@pytest.mark.parametrize(
    ("group", "processes", "is_own"),
    [
        ("/", {1: "mlsync agent", 7: AGENT, 8: "python train.py"}, True),
        ("/docker/0123", {7: AGENT, 8: "python train.py"}, True),
        ("/system.slice/mlsync-agent.service", {6: "mlsync agent", 7: AGENT}, False),
        ("/", {1: "mlsync agent", 2: "", 7: AGENT}, False),
        ("/", {}, False),
    ],
)
def test_control_group_counts_where_others_are_in_it(tmp_path, group, processes, is_own):
    """A container's word counts; that of a group with mlsync alone would say what mlsync itself waits for."""
    proc, groups = make_proc(tmp_path, group, processes)
    found = files(proc, groups)
    own = groups / group.lstrip("/")
    expected = own / "cpu.pressure" if is_own else proc / "pressure/cpu"
    assert found["processor"] == expected
    assert set(found) == {"processor", "disk", "memory"}


def test_without_control_groups_the_machine_counts(tmp_path):
    """An old kernel, or a /proc that tells nothing, is no fault."""
    assert files(tmp_path / "none", tmp_path / "none")["disk"] == tmp_path / "none/pressure/io"
