"""Progress: the line of a terminal in every width, what it leaves behind, and the lines where there is no terminal."""

from __future__ import annotations

import io
import threading
import time

import pytest

from doubles.recording_monitor import RecordingMonitor
from mlsync.app.forecast import Forecast, ForecastTask, Speed, duration
from mlsync.app.wrapping import cells
from mlsync.cli.terminal import live_line
from mlsync.cli.terminal.live_line import LiveLine, interruption, may_draw
from mlsync.cli.terminal.progress import TerminalMonitor
from mlsync.cli.terminal.progress_line import FINE, PLAIN, View, cut, cut_path, progress_line

GIB = 1 << 30
READING = View("yolo: reading", "weights/epoch/last.pt", GIB // 2, 2 * GIB, "B", 300 << 20)
ERASE = "\r\x1b[K"


class Terminal(io.StringIO):
    """What is written to a terminal; as wide as COLUMNS says, since it has no descriptor."""

    encoding = "utf-8"

    def isatty(self):
        """Be a terminal."""
        return True


@pytest.fixture
def terminal(monkeypatch):
    """A terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    return Terminal()


def drawn(terminal, text):
    """Wait until the terminal was sent *text*."""
    deadline = time.monotonic() + 10
    while text not in terminal.getvalue() and time.monotonic() < deadline:
        time.sleep(0.01)
    return text in terminal.getvalue()


# ---------------------------------------------------------------- the line


def test_what_the_line_shows():
    """It shows name, bar, amount, speed and time left; and what is being done if there is space."""
    text = "yolo: reading  ━━─────────  0.5/2.0 GiB  300.0 MiB/s  0:05 left · …/epoch/last.pt"
    assert progress_line(READING, 81) == text
    wide = progress_line(READING, 117)
    assert wide.endswith("0:05 left · weights/epoch/last.pt")
    assert "━━━━━━━─────────────────────" in wide
    text = "yolo: reading  ###---------  0.5/2.0 GiB  300.0 MiB/s  0:05 left - .../last.pt"
    assert progress_line(READING, 78, PLAIN) == text


@pytest.mark.parametrize("name", ["yolo: reading", "yolo-runs-detect-train: proving", "comparing 模型/深/" + "x" * 90])
@pytest.mark.parametrize("done", [0, 1, GIB, 2 * GIB])
@pytest.mark.parametrize("rate", [None, 0.0, 7.0, 1e9])
@pytest.mark.parametrize("signs", [FINE, PLAIN], ids=["fine", "plain"])
def test_no_line_is_too_wide(name, done, rate, signs):
    """In no width does a line get wider, whatever is in it."""
    for what in ("", "last.pt", "深/" * 40 + "权重.pt", "y" * 300):
        for columns in range(1, 140):
            line = progress_line(View(name, what, done, 2 * GIB, "B", rate), columns, signs)
            assert cells(line) <= columns, (columns, line)


def test_nothing_jumps_when_the_speed_is_known():
    """What is not known yet keeps its place free: bar and path begin where they are later."""
    before, after = (progress_line(view, 100) for view in (READING._replace(rate=None), READING))
    assert before.index("0.5/2.0") == after.index("0.5/2.0")
    assert before.index("·") == after.index("·")


def test_until_bytes_move_there_is_no_bar():
    """A proof that starts shows what it waits for, and a sign that turns."""
    first = progress_line(View("yolo: proving", "importing torch", 0, GIB, turn=0), 80)
    second = progress_line(View("yolo: proving", "importing torch", 0, GIB, turn=1), 80)
    assert (first, second) == ("⠋ yolo: proving · importing torch", "⠙ yolo: proving · importing torch")
    assert progress_line(View("yolo: scanning", total=None, done=7), 80) == "⠋ yolo: scanning"


def test_at_the_end_it_says_what_is_waited_for():
    """With all bytes read there is no speed any more; what is waited for has its place."""
    done = READING._replace(done=2 * GIB, what="waiting until all is stored")
    assert progress_line(done, 78).endswith("2.0/2.0 GiB · waiting until all is stored")


def test_other_units_are_counted():
    """Versions are counted, without a speed."""
    assert progress_line(View("checking", "", 3, 10, "versions", 4.0), 40) == "checking  ━━━━───────────  3/10 versions"


def test_paths_are_cut_between_directories():
    """A path loses its first directories, and a long name its middle."""
    assert cut_path("a/b/c/last.pt", 13) == "a/b/c/last.pt"
    assert cut_path("a/b/c/last.pt", 12) == "…/c/last.pt"
    assert cut_path("runs/train/weights/last.pt", 11) == "…/last.pt"
    assert cut_path("a/" + "x" * 20 + "000.pt", 12) == "xxxxx…000.pt"
    assert cut("abcdefghij", 5, PLAIN) == "a...j"


# ---------------------------------------------------------------- the terminal


def test_the_line_is_gone_at_the_end(terminal):
    """After the last task the line is erased, and nothing hides the cursor or moves it elsewhere."""
    monitor = TerminalMonitor(stream=terminal)
    with monitor.task("yolo: reading", GIB) as task:
        task.advance(GIB // 2)
        assert drawn(terminal, "0.5/1.0 GiB")
    text = terminal.getvalue()
    assert text.endswith(ERASE)
    assert text.replace("\x1b[K", "").find("\x1b") == -1
    assert "\n" not in text


def test_what_is_quick_shows_nothing(terminal):
    """Tasks that end at once draw nothing."""
    monitor = TerminalMonitor(stream=terminal)
    with monitor.task("yolo: reading", GIB) as task:
        task.advance(GIB)
    assert terminal.getvalue() == ""


def test_a_notice_stays_above_the_line(terminal):
    """A notice gets a line of its own in one write, and the line that changes follows it."""
    monitor = TerminalMonitor(stream=terminal)
    with monitor.task("yolo: reading", GIB) as task:
        task.advance(1)
        assert drawn(terminal, "reading")
        monitor.notice("warning", "look out")
        assert f"{ERASE}warning: look out\n" in terminal.getvalue()
    lines = terminal.getvalue().split("\n")
    assert lines[0].endswith("warning: look out")
    assert "reading" in lines[1]


def test_what_an_interruption_says_has_a_line_of_its_own(terminal):
    """While a line is shown, the text of Ctrl-C erases it; without one it only leaves the echoed ^C behind."""
    assert interruption(b"stopping") == b"\nstopping\n"
    monitor = TerminalMonitor(stream=terminal)
    with monitor.task("yolo: reading", GIB) as task:
        task.advance(1)
        assert drawn(terminal, "reading")
        assert interruption(b"stopping") == ERASE.encode() + b"stopping\n"
    assert interruption(b"stopping") == b"\nstopping\n"


def test_a_terminal_that_gets_narrower(terminal, monkeypatch):
    """A line that the terminal wrapped meanwhile is erased with all its rows; xterm and screen wrap none."""
    text = ["x" * 77]
    line = LiveLine(lambda columns: text[0][:columns], terminal)
    line.show()
    assert drawn(terminal, "xxx")
    monkeypatch.setenv("COLUMNS", "30")
    assert drawn(terminal, "\x1b[2A\r\x1b[J" + "x" * 27 + "\x1b[K")
    monkeypatch.setenv("XTERM_VERSION", "XTerm(379)")
    monkeypatch.setenv("COLUMNS", "10")
    assert drawn(terminal, ERASE + "x" * 7 + "\x1b[K")
    line.hide()
    assert terminal.getvalue().endswith(ERASE)
    assert not live_line._shown


def test_the_newest_of_several_tasks_is_shown(terminal):
    """A task in a task is shown while it is open, and the outer one again afterwards."""
    monitor = TerminalMonitor(stream=terminal)
    with monitor.task("outer", None):
        with monitor.task("inner", None):
            assert drawn(terminal, "inner")
        before = terminal.getvalue().count("outer")
        assert drawn(terminal, "outer")
        assert before == 0
    assert terminal.getvalue().endswith(ERASE)


def test_threads_give_notices_at_once(terminal):
    """Notices of several threads come whole, each in its line."""
    monitor = TerminalMonitor(verbose=True, stream=terminal)
    with monitor.task("yolo: reading", GIB) as task:
        task.advance(1)
        assert drawn(terminal, "reading")
        threads = [threading.Thread(target=monitor.notice, args=("info", f"note {n} {'z' * 50}")) for n in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = [line.rpartition("\x1b[K")[2] for line in terminal.getvalue().split("\n")]
    assert sorted(found[:-1]) == sorted(f"note {n} {'z' * 50}" for n in range(20))


@pytest.mark.parametrize("term", ["dumb", "", None])
def test_a_terminal_that_cannot_erase_gets_no_line(terminal, monkeypatch, term):
    """With TERM=dumb, or none, there is no control character at all."""
    monkeypatch.delenv("TERM") if term is None else monkeypatch.setenv("TERM", term)
    assert not may_draw(terminal)
    monitor = TerminalMonitor(stream=terminal)
    with monitor.task("yolo: reading", GIB) as task:
        task.advance(1)
        time.sleep(0.3)
        monitor.notice("warning", "look out")
    assert terminal.getvalue() == "warning: look out\n"


def test_control_characters_of_names_reach_no_terminal(terminal):
    """Names of hostile files are shown escaped."""
    monitor = TerminalMonitor(stream=terminal)
    with monitor.task("comparing a\x1b[2Jb", GIB) as task:
        task.say("c\x1bd")
        assert drawn(terminal, "c\\u001bd")
    assert "\x1b[2J" not in terminal.getvalue()


# ---------------------------------------------------------------- how long it takes


def run(forecast, rate, seconds, begin=0.0):
    """What is said of a task that goes on at *rate* for so many seconds."""
    said = []
    for second in range(1, seconds + 1):
        text = forecast.advanced(int(rate), begin + second)
        if text is not None:
            said.append(text)
    return said


def test_a_long_task_says_once_how_long_it_takes():
    """After some seconds one line says minutes and speed; as long as that holds, there is no other."""
    total = 120 * (1 << 20) * 840
    assert run(Forecast("yolo: reading", total), 120 << 20, 800) == ["yolo: reading: about 14 minutes, at 120.0 MiB/s"]


def test_a_short_task_says_nothing():
    """Who waits less than a minute reads nothing."""
    assert run(Forecast("yolo: reading", 50 << 20), 1 << 20, 50) == []


def test_a_start_that_stands_still_foretells_no_weeks():
    """A pass that gets no processor in its first seconds says nothing before it has some measure."""
    forecast = Forecast("yolo: reading", 1000 << 20)
    assert run(forecast, 1 << 10, 60) == []
    assert "minutes" in run(forecast, 10 << 20, 40, begin=60.0)[0]


def test_a_task_that_gets_slower_says_so():
    """If the time turns out wrong by half, another line corrects it, with what is done; not more than one a minute."""
    forecast = Forecast("yolo: reading", 1000 << 20)
    assert len(run(forecast, 2 << 20, 20)) == 1
    said = run(forecast, (1 << 20) / 4, 300, begin=20.0)
    assert 1 <= len(said) <= 5
    assert "more, 5" in said[0]
    assert said[-1].endswith("MiB of 1000.0 MiB done, at 256.0 KiB/s")


def test_the_speed_is_that_of_the_last_seconds():
    """A burst at the beginning is forgotten after the window."""
    speed = Speed(10.0)
    done = 0
    for second in range(40):
        done += 1000 if second < 5 else 10
        speed.sample(done, float(second))
    assert speed.rate(done, 39.0) == pytest.approx(10, rel=0.2)
    assert Speed(10.0).rate(5, 1.0) is None
    fresh = Speed(10.0)
    fresh.sample(5, 7.0)
    assert fresh.rate(15, 7.9) is None
    assert fresh.rate(15, 8.0) == 10.0
    assert fresh.rate(15, 11.0, after_s=5.0) is None


def test_only_so_many_samples_are_kept():
    """One for each half second, or a twentieth of a short window, and one that is older than the window."""
    speed = Speed(10.0)
    for hundredth in range(4000):
        speed.sample(hundredth, hundredth / 100)
    times = [round(at_s, 2) for at_s, _ in speed._samples]
    assert times == [29.5 + 0.5 * number for number in range(21)]


def test_a_forecast_counts_from_its_own_beginning():
    """A machine that has been up for weeks foretells like a fresh one; only bytes are foretold."""
    total = 120 * (1 << 20) * 840
    said = run(Forecast("yolo: reading", total), 120 << 20, 800, begin=3_000_000.0)
    assert said == ["yolo: reading: about 14 minutes, at 120.0 MiB/s"]
    assert run(Forecast("yolo: reading", 1000 << 20), 1 << 10, 60, begin=3_000_000.0) == []
    monitor = RecordingMonitor()
    assert ForecastTask(monitor, "yolo: files", 10**9, "files")._forecast is None
    assert ForecastTask(monitor, "yolo: reading", None, "B")._forecast is None
    assert ForecastTask(monitor, "yolo: reading", 10**9, "B")._forecast is not None


def test_lengths_of_time():
    """They are as exact as a forecast: tens of seconds, minutes, hours, days."""
    times = {3: "10 seconds", 64: "60 seconds", 119: "120 seconds", 850: "14 minutes", 7000: "117 minutes"}
    times |= {9000: "2.5 hours", 400_000: "4.6 days", 120: "2 minutes", 7200: "2.0 hours", 172_800: "2.0 days"}
    times |= {7199: "120 minutes", 172_000: "47.8 hours", 200_000: "2.3 days", 1: "10 seconds", 180: "3 minutes"}
    assert {seconds: duration(seconds) for seconds in times} == times


def test_in_a_pipe_long_tasks_say_how_long(monkeypatch, capsys):
    """Without a terminal the forecast is a line on stderr, -q keeps it away, and so do several processes."""
    now = [0.0]
    monkeypatch.setattr("mlsync.app.forecast.monotonic", lambda: now[0])

    def said(**options):
        with TerminalMonitor(**options).task("yolo: reading", 1000 << 20) as task:
            for _ in range(8):
                now[0] += 1
                task.advance(1 << 20)
        return capsys.readouterr().err

    assert said() == "yolo: reading: about 17 minutes, at 1.0 MiB/s\n"
    assert said(quiet=True) == ""
    assert said(bars=False) == ""
