"""A share of the processors' time: when it counts, how long the next pass waits, and what ends that."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time

import pytest

from mlsync.courtesy.share import LOOK_S, ProcessorShare, processor_s

TICKS = os.sysconf("SC_CLK_TCK")


class Machine:
    """Two processors of four are ours; what the kernel says of their idle time, and a clock."""

    def __init__(self, path):
        self.path = path
        self.now_s = 1000.0
        self.idle_s = [5.0, 7.0, 100.0, 100.0]
        self.go_on(0.0)

    def go_on(self, seconds, *idle_processors):
        """Let time pass; for each of our processors the share in which it was idle."""
        self.now_s += seconds
        for number, share in enumerate(idle_processors or (0.0, 0.0)):
            self.idle_s[number] += seconds * share
        # The first line is the sum of all; iowait counts as idle, and nothing else does.
        lines = ["cpu  1 1 1 1 1 1 1 1 0 0"]
        for number, idle_s in enumerate(self.idle_s):
            whole = round(idle_s * TICKS)
            lines.append(f"cpu{number} 50 3 20 {whole - whole // 4} {whole // 4} 7 8 9 0 0")
        self.path.write_text("\n".join([*lines, "intr 5 0", "ctxt 99", ""]))

    def share(self, share=0.01):
        """A share of this machine."""
        return ProcessorShare(share, stat=self.path, processors=lambda: {0, 1}, clock=lambda: self.now_s)


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path / "stat")


def used(machine, share, own_s, *, lasted_s=10.0, idle=(0.0, 0.0)):
    """A pass that took so long, and so much of the processors; return when the next one may begin."""
    before = share.look()
    machine.go_on(lasted_s, *idle)
    share.spent(before, own_s)
    return share.free_at_s()


def test_the_next_pass_waits_until_both_together_are_within_the_share(machine):
    """A pass that took 1.6 s of two processors is a hundredth of 80 seconds, counted from where it began."""
    share = machine.share()
    assert used(machine, share, 1.6) == pytest.approx(1000.0 + 80.0)


def test_another_share_waits_as_much_less(machine):
    """A tenth of two processors is four seconds for 0.8: the pass itself took longer, so the next may begin."""
    assert used(machine, machine.share(0.1), 0.8) == -math.inf


@pytest.mark.parametrize("idle", [(0.3, 0.0), (0.15, 0.15)])
def test_with_a_quarter_of_a_processor_idle_nothing_waits(machine, idle):
    """Nobody is kept from anything where mlsync finds a processor that does nothing, or waits for a disk."""
    assert used(machine, machine.share(), 1.6, idle=idle) == -math.inf


def test_a_machine_that_mlsync_has_for_itself_counts_as_idle(machine):
    """What leaves no processor idle is the pass itself, as long as others have less than half of the time."""
    assert used(machine, machine.share(), 11.0) == -math.inf
    assert used(machine, machine.share(), 9.0) > 0


def test_a_little_idle_time_counts_for_nobody(machine):
    """Neither has it room for a pass, nor do others have it; and the share of a second is one, however long it was."""
    assert used(machine, machine.share(), 1.6, idle=(0.02, 0.0)) > 0
    assert used(machine, machine.share(), 8.5, idle=(0.1, 0.1)) == -math.inf
    assert used(machine, machine.share(), 0.5, lasted_s=1.0) > 0


def test_what_the_kernel_says_is_seconds(machine):
    """Idle and waiting for a disk together, of our processors alone, in seconds."""
    assert machine.share().look() == (1000.0, 12.0, 2)


def test_a_pass_whose_beginning_was_not_seen_does_not_count(machine):
    """The kernel said nothing then, and it does now."""
    share = machine.share()
    share.spent(None, 5.0)
    assert share.free_at_s() == -math.inf


def test_what_is_too_short_to_be_measured_does_not_count(machine):
    """The kernel's hundredths say nothing of a look that found nothing new."""
    assert used(machine, machine.share(), 0.05, lasted_s=0.1) == -math.inf


def test_passes_of_several_runs_add_up(machine):
    """The runs of an agent share it: a second pass at the same time puts the next one off by its own part."""
    share = machine.share()
    first, second = share.look(), share.look()
    machine.go_on(10.0)
    share.spent(first, 0.4)
    share.spent(second, 1.0)
    assert share.free_at_s() == pytest.approx(1000.0 + 20.0 + 50.0)


def test_once_a_processor_is_idle_it_ends(machine):
    """A training that ended or evaluates leaves the machine to mlsync, which is noticed within seconds."""
    share = machine.share()
    waits_until_s = used(machine, share, 1.6)
    machine.go_on(LOOK_S)
    assert share.free_at_s() == waits_until_s
    machine.go_on(LOOK_S / 2, 1.0, 1.0)
    assert share.free_at_s() == waits_until_s
    machine.go_on(LOOK_S / 2, 1.0, 1.0)
    assert share.free_at_s() == -math.inf
    machine.go_on(1.0)
    assert share.free_at_s() == -math.inf


def test_it_ends_by_itself(machine):
    """Its time over, the next pass may begin although the others still need everything."""
    share = machine.share()
    assert used(machine, share, 0.4) == pytest.approx(1020.0)
    machine.go_on(9.9)
    assert share.free_at_s() == pytest.approx(1020.0)
    machine.go_on(0.2)
    assert share.free_at_s() == -math.inf


def test_a_share_of_everything_asks_for_nothing(machine):
    """With 100 % the kernel is not even asked."""
    share = machine.share(1.0)
    machine.path.unlink()
    assert share.look() is None
    share.spent(None, 100.0)
    assert share.free_at_s() == -math.inf


@pytest.mark.parametrize(
    "text", [None, "", "cpu0 1 2\n", "cpu0 a b c d e f\n", "cpu7 1 1 1 1 1 1\n", "cpux 1 1 1 1 1\n"]
)
def test_where_the_kernel_does_not_say_it_nothing_waits(machine, text):
    """A system without that file, or with another one in its place, loses nothing but the courtesy."""
    share = machine.share()
    waits_until_s = used(machine, share, 1.6)
    assert waits_until_s > 0
    if text is None:
        machine.path.unlink()
    else:
        machine.path.write_text(text)
    assert share.look() is None
    machine.now_s += LOOK_S
    assert share.free_at_s() == -math.inf


def test_processors_that_came_or_went_end_it(machine):
    """Their idle times cannot be compared."""
    ours = {0, 1}
    share = ProcessorShare(0.01, stat=machine.path, processors=lambda: ours, clock=lambda: machine.now_s)
    assert used(machine, share, 1.6) > 0
    ours.remove(1)
    machine.go_on(LOOK_S)
    assert share.free_at_s() == -math.inf


def test_the_real_kernel_says_it():
    """The idle time of this machine's processors grows no faster than the time does."""
    share = ProcessorShare(0.5)
    before = share.look()
    time.sleep(0.05)
    after = share.look()
    assert before.processor_count == after.processor_count == len(os.sched_getaffinity(0))
    assert 0 <= after.idle_s - before.idle_s <= (after.at_s - before.at_s + 0.05) * after.processor_count


def test_the_time_of_a_process_and_of_its_children():
    """A child that has ended counts with its parent, and a process that is gone took nothing that is known."""
    child = "import time\nwhile time.process_time() < 0.25: pass\n"
    parent = (
        f"import os, subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}])\n"
        "print(sum(os.times()[:4]), flush=True)\ninput()\n"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        own_s = float(process.stdout.readline())
        assert own_s >= 0.25
        assert processor_s(process.pid) == pytest.approx(own_s, abs=0.05)
        process.communicate(b"\n")
    assert processor_s(process.pid) == 0.0
