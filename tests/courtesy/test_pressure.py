"""What follows from what others wait for: threads, and pauses of the disk."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import pytest

from mlsync.courtesy import pressure
from mlsync.courtesy.pressure import PAUSE_MAX_S, PAUSE_MIN_S, PIECE_BYTES, STRETCH_BYTES, Pace


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
