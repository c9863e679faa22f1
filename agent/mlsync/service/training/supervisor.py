"""``mlsync run`` at work: signals go to the training, its exit status comes back, and a last backup ends it all.

One thread waits for signals and for the process that backs up, and does nothing that can block. What happens on
SIGTERM, which a platform sends some seconds before it kills:

1. The process that backs up stores at once what is written, without proofs, and goes on so with each change.
2. With a save signal, the training's processes that catch it get it. SIGTERM waits until a new checkpoint is stored, at
   most for half of the time, and goes on to the training then; without one it goes on at once.
3. When the training has ended there is a last pass, within the rest of the time. It is made in every case.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from mlsync.errors import Error
from mlsync.monitor import Monitor
from mlsync.service.training.companion import Companion, error_in
from mlsync.service.training.messages import Began, End, Hurry, Start
from mlsync.service.training.save_signal import catchers, tell
from mlsync.service.training.trainer import TrainerChild, adopt_orphans, exit_status

# Faults of this program itself; stops, which the terminal sends; and what is handled apart.
_OWN: Final = frozenset(
    (
        *(signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU),
        *(signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGTRAP, signal.SIGSYS),
        *(signal.SIGPIPE, signal.SIGXFSZ, signal.SIGPROF, signal.SIGVTALRM),
    )
)
# How much of the time the training may take to save before it gets the signal that ends it.
_SHARE_TO_SAVE: Final = 0.5
# The clock of a file system stands still between two ticks.
_TICK_NS: Final = 50_000_000
# How long a process that backs up and died stays away, at first and at most.
_RESTART_S, _RESTART_S_MAX = 1.0, 300.0
# How long a restore may take to get to a safe point; a second later than that it is ended there, whatever it does.
_GIVE_UP_S_MAX: Final = 3.0
# What the last pass may be late before it counts as not done.
_LATE_S: Final = 1.0


class Supervisor:
    """Runs one training; *clock* is the monotonic one, *wall_ns* that of the files."""

    def __init__(
        self,
        trainer: TrainerChild,
        companion: Companion,
        start: Start,
        monitor: Monitor,
        *,
        grace_s: float,
        save_signal: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._trainer = trainer
        self._companion = companion
        self._start = start
        self._monitor = monitor
        self._grace_s = grace_s
        self._save_signal = save_signal
        self._clock = clock
        self._wall_ns = wall_ns
        self._wakeup_read, self._wakeup_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._is_ready = False
        self._fault: Error | None = None
        self._deadline_s: float | None = None
        self._held: list[int] = []
        self._saved_after_ns = 0
        self._save_until_s: float | None = None
        self._restart_at_s: float | None = None
        self._restarts = 0
        self._is_ending = self._is_terminated = False
        self._is_given_up = False
        self._stopped_by: int | None = None
        self._versions: dict[str, int] = {}
        #: The error of each run's last pass; ``None`` until all have ended.
        self.last: dict[str, str | None] | None = None

    def run(self, restored: Callable[[], object] = lambda: None) -> int:
        """Return the training's exit status, 128 and more for a signal; ``last`` says how the last backup ended.

        *restored* is called once all is restored. Raises why the training was not started: nothing was changed then,
        except for what was restored. A signal that came before it was started is the status too.
        """
        adopt_orphans()
        with self._hearing_signals():
            try:
                self._get_ready()
                if self._stopped_by is not None:
                    return self._give_up(self._stopped_by)
                restored()
                self._trainer.start()
            except BaseException:
                self._companion.kill()
                raise
            self._companion.send(Began(self._trainer.pid))
            while self._trainer.runs:
                self._step()
            self._finish()
        assert self._trainer.status is not None
        return self._trainer.status

    def request_save(self, deadline_s: float) -> None:
        """Have the training save now, if it can be told, and everything be stored before *deadline_s*.

        That is on the monotonic clock: when the machine may be gone. For notices of an end that come otherwise than by
        a signal; the signal that ends the training comes later, as the platform gives it.
        """
        self._hurry(deadline_s)
        self._ask_to_save(deadline_s)

    # ------------------------------------------------------------ the three parts

    def _get_ready(self) -> None:
        self._companion.start(self._start)
        while not self._is_ready and self._stopped_by is None:
            self._step()
            if self._fault is not None:
                raise self._fault

    def _give_up(self, number: int) -> int:
        """End what gets ready at its next safe point; return the status of a process that the signal ended."""
        text = f"{signal.Signals(number).name} came before the training was started; the next start goes on"
        self._monitor.notice("warning", text)
        self._companion.send(End(None))
        until_s = self._clock() + min(_GIVE_UP_S_MAX, self._grace_s)
        while self._companion.pid is not None and self._clock() < until_s and self._companion.descriptor is not None:
            ready, _, _ = select.select([self._companion.descriptor], [], [], until_s - self._clock())
            if ready and self._companion.received() is None:
                break
        self._companion.kill()
        return 128 + number

    def _finish(self) -> None:
        """Have what the training left be stored; SIGINT twice ends that."""
        self._held.clear()
        self._is_ending = True
        if self._deadline_s is not None:
            # It took longer than was said, and nothing was killed: then there is time for this too.
            self._deadline_s = max(self._deadline_s, self._clock() + min(2.0, self._grace_s))
        if self._companion.pid is None:
            self._restart_companion()
        self._companion.send(End(self._deadline_s))
        while self.last is None and not self._is_given_up:
            if self._deadline_s is not None and self._clock() > self._deadline_s + _LATE_S:
                break
            self._step()

    def _step(self) -> None:
        """Wait for what comes next, and handle it."""
        descriptors = [self._wakeup_read]
        if self._companion.descriptor is not None:
            descriptors.append(self._companion.descriptor)
        ready, _, _ = select.select(descriptors, [], [], self._timeout_s())
        if self._companion.descriptor in ready:
            self._hear()
        if self._wakeup_read in ready:
            with suppress(BlockingIOError):
                for number in os.read(self._wakeup_read, 4096):
                    self._handle(number)
        self._look_at_clock()

    def _timeout_s(self) -> float | None:
        late_s = None if self._deadline_s is None else self._deadline_s + _LATE_S
        times = [one for one in (self._save_until_s, late_s, self._restart_at_s) if one is not None]
        return max(0.0, min(times) - self._clock()) if times else None

    def _look_at_clock(self) -> None:
        now_s = self._clock()
        if self._save_until_s is not None and now_s >= self._save_until_s:
            if self._held:
                self._monitor.notice("warning", "no new checkpoint in time; the training is told to end")
            self._release()
        if self._restart_at_s is not None and now_s >= self._restart_at_s:
            self._restart_companion()
        if self._deadline_s is not None and now_s >= self._deadline_s + _LATE_S and self._trainer.runs:
            self._go_on_after_deadline(now_s)

    def _go_on_after_deadline(self, now_s: float) -> None:
        """Go on with a training that was not killed: the platform has more patience, or the notice was taken back."""
        if self._is_terminated:
            self._hurry(now_s + self._grace_s)
        else:
            self._deadline_s = None

    # ------------------------------------------------------------ signals

    def _handle(self, number: int) -> None:
        if number == signal.SIGCHLD:
            self._trainer.reap(self._note_other)
        elif number == signal.SIGCONT and self._trainer.runs:
            self._trainer.resume()
        elif not self._is_ready:
            if number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
                self._stopped_by = number
        elif self._is_ending:
            self._handle_in_the_end(number)
        elif number == signal.SIGTERM:
            self._terminate(number)
        elif number == self._save_signal:
            # As Slurm sends it ahead of time: the training is told, and nothing ends yet.
            self.request_save(self._clock() + self._grace_s)
        else:
            self._trainer.signal(number)

    def _terminate(self, number: int) -> None:
        if self._held:
            # The second one is meant.
            self._held.append(number)
            self._release()
            return
        if not self._is_terminated:
            self._is_terminated = True
            self._hurry(self._clock() + self._grace_s)
        assert self._deadline_s is not None
        if self._save_until_s is None and self._saved_after_ns == 0 and self._ask_to_save(self._deadline_s):
            self._held.append(number)
        else:
            self._trainer.signal(number)

    def _handle_in_the_end(self, number: int) -> None:
        if number == signal.SIGINT:
            # A person waits: one more says that nothing is worth it.
            self._is_given_up = self._stopped_by == number
            self._stopped_by = number
            if not self._is_given_up:
                self._monitor.notice("status", "storing what the training wrote last; Ctrl-C once more gives it up")
        elif number == signal.SIGTERM and self._deadline_s is None:
            self._deadline_s = self._clock() + self._grace_s
            self._companion.send(End(self._deadline_s))

    def _hurry(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._companion.send(Hurry(deadline_s))

    def _ask_to_save(self, deadline_s: float) -> bool:
        """Tell the training to save, if there is a signal and somebody who catches it; return whether that was so."""
        if self._save_signal is None or not self._trainer.runs:
            return False
        name = signal.Signals(self._save_signal).name
        found = catchers(self._trainer.pid, self._save_signal)
        if not found:
            self._monitor.notice(
                "warning", f"no process of the training catches {name}, which it would die of: not sent"
            )
            return False
        now_s = self._clock()
        self._saved_after_ns = self._wall_ns() - _TICK_NS
        self._save_until_s = now_s + _SHARE_TO_SAVE * max(0.0, deadline_s - now_s)
        tell(found, self._save_signal)
        self._monitor.notice("info", f"{name} sent to the training, to have it save")
        return True

    def _release(self) -> None:
        """Pass on the signals that waited for a checkpoint."""
        self._save_until_s = None
        held, self._held = self._held, []
        for number in held:
            self._trainer.signal(number)

    # ------------------------------------------------------------ the process that backs up

    def _hear(self) -> None:
        messages = self._companion.received()
        if messages is None:
            self._lost_companion()
            return
        for message in messages:
            self._heard(message)

    def _heard(self, message: dict[str, Any]) -> None:
        if "ready" in message:
            self._is_ready, self._restarts = True, 0
        elif "error" in message:
            self._fault = error_in(message["error"])
        elif "stored" in message:
            stored = message["stored"]
            self._versions[stored["run"]] = stored["version"]
            if self._save_until_s is not None and stored["checkpoint_ns"] >= self._saved_after_ns:
                self._monitor.notice("info", f"{stored['run']}: the checkpoint saved on request is stored")
                self._release()
        elif "notice" in message:
            self.request_save(message["notice"]["deadline_s"])
        elif "ended" in message:
            self.last = message["ended"]

    def _lost_companion(self) -> None:
        """It has ended: without a word before the training, with its work done, or by a fault, which ends nothing."""
        if self.last is not None or self._fault is not None:
            return
        if self._companion.pid is not None:
            # Its pipe is closed by its end alone: this waits for no longer than that takes.
            with suppress(ChildProcessError):
                self._note_other(*os.waitpid(self._companion.pid, 0))
        how = _how(self._companion.ended)
        if not self._is_ready:
            self._fault = Error(f"the process that backs up {how} before it was ready")
            return
        wait_s = min(_RESTART_S * 2.0**self._restarts, _RESTART_S_MAX)
        if self._is_ending:
            wait_s = 0.0
            if self._restarts >= 2:  # noqa: PLR2004 - it does not get better
                self.last = dict.fromkeys(self._runs, f"the process that backs up {how}")
                return
        self._restarts += 1
        text = f"the process that backs up {how}; the training goes on, and it is started again in {wait_s:.0f} s"
        self._monitor.notice("error", text)
        self._restart_at_s = self._clock() + wait_s

    def _restart_companion(self) -> None:
        self._restart_at_s = None
        # What is restored now would be restored below a training that runs.
        start = Start(
            self._start.config,
            self._start.unlock,
            None,
            gently=self._start.gently,
            level=self._start.level,
            trainer=self._trainer.pid,
            keeps_ready=self._start.keeps_ready,
        )
        try:
            self._companion.start(start)
        except Error as error:
            self._monitor.notice("error", str(error))
            self._restart_at_s = self._clock() + _RESTART_S_MAX
            return
        if self._is_ending:
            self._companion.send(End(self._deadline_s))
        elif self._deadline_s is not None:
            self._companion.send(Hurry(self._deadline_s))

    def _note_other(self, pid: int, status: int) -> None:
        if pid == self._companion.pid:
            self._companion.note_end(exit_status(status))

    @property
    def _runs(self) -> list[str]:
        return [watch.run for watch in self._start.config.watches]

    # ------------------------------------------------------------ what is told in the end

    def failures(self) -> dict[str, str]:
        """Return what went wrong with the last backup, by run; empty if everything is stored."""
        if self.last is None:
            why = "it was given up" if self._is_given_up else f"it was not done within {self._grace_s:.0f} s"
            return dict.fromkeys(self._runs, why)
        return {run: error for run, error in self.last.items() if error is not None}

    def stored_versions(self) -> dict[str, int]:
        """Return the newest version that was made of each run beside the training."""
        return dict(self._versions)

    @contextmanager
    def _hearing_signals(self) -> Iterator[None]:
        """Have each signal wake ``_step``; those that were ignored stay so, for the training too."""
        heard = [
            number
            for number in sorted(signal.valid_signals() - _OWN)
            if number == signal.SIGCHLD or signal.getsignal(number) is not signal.SIG_IGN
        ]
        before = {number: signal.signal(number, lambda *_: None) for number in (*heard, signal.SIGCHLD)}
        old = signal.set_wakeup_fd(self._wakeup_write, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(old)
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def _how(status: int | None) -> str:
    if status is None:
        return "ended"
    return f"was killed by signal {status - 128}" if status > 128 else f"ended with {status}"  # noqa: PLR2004
