"""Limits by a clock that only waits move: how many bytes go by when, in one thread, in several, and in processes."""

from __future__ import annotations

import os
import stat
import struct
import subprocess
import sys
import threading
import time

import pytest

from mlsync.courtesy.limit import BURST_S, PIECE_BYTES_MAX, PIECE_BYTES_MIN, Limit
from mlsync.courtesy.slowness import Slowness
from mlsync.courtesy.timetable import NO_LIMIT, parse_timetable

MIB = 1 << 20
# What may be done sooner than the rate says: what goes at once, and the last piece, which takes its time afterwards.
SOONER_S = BURST_S + 1 / 8 + 0.001


class Line:
    """A limit whose waits take no time but move its clocks."""

    def __init__(self, timetable="1 MiB/s", *, shared=None, clock=None):
        self.slowness = Slowness()
        self.waits = []
        self.now = clock or [1000.0]
        self._lock = threading.Lock()
        self.limit = Limit(
            "upload", self.slowness, clock=lambda: self.now[0], wall=lambda: self.now[0], wait=self._wait
        )
        self.limit.set(parse_timetable(timetable), shared)

    def _wait(self, seconds, why):
        with self._lock:
            self.waits.append((seconds, why))
            self.now[0] += seconds

    def send(self, size_bytes):
        """Send so much, and return after how many seconds that is done."""
        began_s = self.now[0]
        for _ in self.limit.pieces(size_bytes):
            pass
        return self.now[0] - began_s


def test_bytes_take_as_long_as_the_rate_says():
    """Ten seconds' bytes are sent in ten seconds, less what may go at once and the last piece."""
    lasted_s = Line().send(10 * MIB)
    assert 10 - SOONER_S <= lasted_s <= 10


def test_pieces_are_short_in_time():
    """A piece is an eighth of a second, and within bounds: nothing goes out in one long burst."""
    lengths = {}
    for text in ("64 KiB/s", "1 MiB/s", "1 GiB/s"):
        pieces = list(Line(text).limit.pieces(8 * MIB))
        assert (pieces[0].start, pieces[-1].stop) == (0, 8 * MIB)
        lengths[text] = max(piece.stop - piece.start for piece in pieces)
    assert lengths == {"64 KiB/s": PIECE_BYTES_MIN, "1 MiB/s": MIB // 8, "1 GiB/s": PIECE_BYTES_MAX}


def test_threads_share_the_limit():
    """Four threads send no more together than one alone."""
    line = Line()
    threads = [threading.Thread(target=line.send, args=(MIB,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert line.now[0] - 1000.0 >= 4 - SOONER_S


def test_time_without_transfers_is_not_saved_up():
    """After an hour of silence only a moment's bytes go at once."""
    line = Line()
    line.send(MIB)
    line.now[0] += 3600
    assert line.send(2 * MIB) >= 2 - SOONER_S


def test_no_limit_costs_one_piece_and_no_wait(tmp_path):
    """Without a limit all goes at once, and no file is made."""
    line = Line("unlimited", shared=tmp_path / "shared")
    assert list(line.limit.pieces(8 * MIB)) == [slice(0, 8 * MIB)]
    assert list(line.limit.pieces(0)) == [slice(0, 0)]
    assert (line.waits, line.limit.at_once(10), list(tmp_path.iterdir())) == ([], 10, [])


def test_hours_change_within_a_transfer(monkeypatch):
    """What is under way when a limit ends goes on at once; the wait says what it is for."""
    line = Line(["64 KiB/s 00:00-00:01", "unlimited"])
    monkeypatch.setenv("TZ", "UTC0")
    time.tzset()
    line.now[0] = 50.0  # ten seconds before the minute is over
    assert 9 <= line.send(8 * MIB) <= 11
    assert {why for _, why in line.waits} == {"upload limited to 64 KiB/s"}
    monkeypatch.undo()
    time.tzset()


def test_another_limit_counts_for_what_is_under_way():
    """A limit that is lifted by the configuration ends the waits of a transfer that began under it."""
    line = Line()
    pieces = line.limit.pieces(8 * MIB)
    for _ in range(8):
        next(pieces)
    line.limit.set(NO_LIMIT)
    before_s = line.now[0]
    list(pieces)
    assert line.now[0] == before_s


def test_who_hurries_has_no_limit():
    """A pass with a deadline sends as fast as it can; the next one is limited again."""
    line = Line()
    line.slowness.begin(hurries=True)
    assert line.send(8 * MIB) == 0
    line.slowness.begin(hurries=False)
    assert line.send(8 * MIB) > 7
    line.slowness.lift()
    assert line.send(8 * MIB) == 0


def test_a_wait_ends_when_the_limit_is_lifted():
    """A stop reaches a thread that waits for its turn, and each slice of a wait shows that it lives."""
    slowness = Slowness()
    beats = []
    slowness.on_wait = lambda: (beats.append(slowness.why), slowness.lift())
    limit = Limit("upload", slowness)
    limit.set(parse_timetable("64 KiB/s"))
    for _ in limit.pieces(8 * MIB):
        pass
    assert beats == ["upload limited to 64 KiB/s"]


def test_slow_line_has_fewer_transfers_at_once():
    """Two of them fill a slow line; a fast one takes all."""
    assert [Line(text).limit.at_once(10) for text in ("64 KiB/s", "4 MiB/s", "1 GiB/s")] == [2, 4, 10]


def test_a_transfer_that_is_not_cut_takes_the_line_in_pieces():
    """The line is never taken for longer than a piece, so a read of 8 MiB keeps nobody waiting for minutes."""
    line = Line("64 KiB/s")
    line.limit.admit_all(MIB)
    assert 16 - BURST_S - 0.26 <= line.now[0] - 1000.0 <= 16
    assert line.limit._taken_until_s - line.now[0] <= 0.26


def test_processes_with_one_state_directory_share_the_limit(tmp_path):
    """What another process took counts here too."""
    shared = tmp_path / "upload-limit"
    clock = [1000.0]
    first, second = (Line(shared=shared, clock=clock) for _ in range(2))
    for _ in zip(first.limit.pieces(2 * MIB), second.limit.pieces(2 * MIB), strict=True):
        pass
    assert clock[0] - 1000.0 >= 4 - SOONER_S
    assert stat.S_IMODE(shared.stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [b"", b"x" * 1000, struct.pack("<36sd", b"another boot".ljust(36), 1500.0)])
def test_a_file_of_another_boot_or_form_counts_as_nothing(tmp_path, content):
    """A number that means nothing here stops no upload."""
    (tmp_path / "shared").write_bytes(content)
    assert Line(shared=tmp_path / "shared").send(2 * MIB) <= 2


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -1.0, 1e9])
def test_a_number_out_of_range_counts_as_nothing(tmp_path, number):
    """Nor does one that no process can have written."""
    shared = tmp_path / "shared"
    Line(shared=shared).send(MIB)
    boot = shared.read_bytes()[:36]
    shared.write_bytes(struct.pack("<36sd", boot, number))
    assert Line(shared=shared).send(2 * MIB) <= 2


@pytest.mark.parametrize("kind", ["missing", "directory", "fifo", "link"])
def test_without_a_file_the_limit_is_this_process_own(tmp_path, kind):
    """A state directory that cannot be used, and what is no file, change nothing for one process."""
    shared = tmp_path / "shared"
    if kind == "missing":
        shared = tmp_path / "nowhere" / "shared"
    elif kind == "directory":
        shared.mkdir()
    elif kind == "fifo":
        os.mkfifo(shared)
    else:
        shared.symlink_to(tmp_path / "elsewhere")
    assert 2 - SOONER_S <= Line(shared=shared).send(2 * MIB) <= 2
    assert not (tmp_path / "elsewhere").exists()


def test_a_stopped_process_that_holds_the_file_stops_nobody(tmp_path):
    """Its lock is passed over, and the limit holds in this process."""
    shared = tmp_path / "shared"
    code = "import fcntl,sys;f=open(sys.argv[1],'w');fcntl.flock(f,2);print(flush=True);sys.stdin.read()"
    holder = subprocess.Popen([sys.executable, "-c", code, shared], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        holder.stdout.readline()
        assert Line("64 KiB/s", shared=shared).send(16 << 10) == 0
    finally:
        holder.communicate()
