"""The story: watch a training, kill it while it saves, delete it with the agent's state, restore it, resume it."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from mlsync.demo import observed
from mlsync.demo.history import VersionHistory
from mlsync.demo.kinds import TrainerKind
from mlsync.demo.observed import AgentProcess, TrainerProcess
from mlsync.demo.processes import run_mlsync, wait_for
from mlsync.demo.report import EpochLosses, Report, Restored, Resumed, Torn
from mlsync.demo.workplace import Workplace
from mlsync.errors import Error

# The number of versions with checkpoints before anything bad happens.
VERSIONS_BEFORE = 3
EPOCHS_AFTER = 2
_STOP_S = 30.0
_MIB = 1 << 20
# Far below the change of an epoch. On one machine nothing differs; sums in another order differ by less than this.
_TOLERANCE = 1e-4
_LEARNED = 0.95


@dataclass(frozen=True, slots=True)
class BeforeLoss:
    """What was on the disk when the machine was lost, and what the training had reported."""

    digests: dict[str, str]
    losses: dict[int, float]
    last_digests: dict[int, str]


class Story:
    """Plays the story in a directory, and passes each step to *tell* with its time."""

    def __init__(
        self, place: Workplace, kind: TrainerKind, device: str, tell: Callable[[float, str], None], *, kept: bool
    ) -> None:
        self._place = place
        self._kind = kind
        self._device = device
        self._tell_at = tell
        self._began_s = time.monotonic()
        self._history = VersionHistory(place, kind, self._tell)
        self._report = Report(str(place.directory), kept, kind.name, versions=self._history.versions)

    def play(self) -> Report:
        """Return the report; raise an ``Error`` at the first step that does not hold."""
        self._make_repository()
        with ExitStack() as stack:
            agent = stack.enter_context(AgentProcess(self._place))
            trainer = stack.enter_context(TrainerProcess(self._place, self._kind, "trainer"))
            self._watch_training(agent, trainer)
            self._kill_while_saving(trainer)
            self._wait_for_torn(agent, trainer)
            self._stop(agent)
            self._history.add_reads(agent)
            before = self._snapshot(trainer)
        self._lose()
        self._restore(before)
        self._resume(before)
        self._history.back_up()
        self._check()
        self._report.seconds = round(time.monotonic() - self._began_s, 3)
        return self._report

    def _tell(self, text: str) -> None:
        self._tell_at(time.monotonic() - self._began_s, text)

    # ------------------------------------------------------------ before

    def _make_repository(self) -> None:
        place = self._place
        place.run.mkdir(parents=True)
        place.temporary.mkdir()
        place.write_passphrase()
        self._tell(f"everything is in {place.directory}")
        files = ("--config", str(place.config), "--passphrase-file", str(place.passphrase))
        run_mlsync("init", str(place.repository), "--watch", str(place.run), *files)
        # A faster agent than usual: this training saves every two seconds, and nobody wants to wait.
        changes = {
            "state_directory": str(place.state),
            "settle": "300ms",
            "rescan": "5s",
            "device": self._device,
            "processor_share": "100%",
        }
        place.config.write_text(_configured(place.config.read_text(), changes))
        self._tell("mlsync init: made an encrypted repository and a configuration")

    def _watch_training(self, agent: AgentProcess, trainer: TrainerProcess) -> None:
        self._tell(f"mlsync agent: watches runs/train (process {agent.pid})")
        wait_for(lambda: bool(trainer.events("begins")), [agent, trainer], "the training began")
        self._report.parameter_count = trainer.events("begins")[0]["parameters"]
        millions = self._report.parameter_count / 1e6
        self._tell(
            f"training: {millions:.1f} million parameters, {self._kind.name}, AdamW, on the CPU (process {trainer.pid})"
        )
        history = self._history
        while history.whole_count < VERSIONS_BEFORE or history.versions[-1].troubles:
            wait_for(
                lambda: trainer.has_new_epochs() or history.has_new_versions(agent),
                [agent, trainer],
                "a version was made",
            )
            self._tell_epochs(trainer)
            history.update(agent)

    def _tell_epochs(self, trainer: TrainerProcess) -> None:
        for event in trainer.new_epochs():
            size, suffix = f"{event['bytes'] / _MIB:.1f} MiB", self._kind.suffix
            names = ", ".join(name.removesuffix(suffix) for name in event["files"])
            self._tell(f"epoch {event['epoch']}: loss {event['loss']:.4f}, {size} to {names}{suffix}")

    # ------------------------------------------------------------ the machine dies

    def _kill_while_saving(self, trainer: TrainerProcess) -> None:
        trainer.send(signal.SIGUSR1)
        wait_for(lambda: bool(trainer.events("stalled")), [trainer], "the trainer was in a write")
        trainer.send(signal.SIGKILL)
        trainer.wait(_STOP_S)
        self._tell_epochs(trainer)
        event = trainer.events("stalled")[0]
        done, whole = event["bytes"] / _MIB, event["of_bytes"] / _MIB
        self._tell(f"SIGKILL in the middle of a save: {self._kind.last_name} has {done:.1f} of {whole:.1f} MiB")

    def _wait_for_torn(self, agent: AgentProcess, trainer: TrainerProcess) -> None:
        history = self._history
        while (trouble := history.trouble()) is None:
            wait_for(lambda: history.has_new_versions(agent), [agent], "the torn checkpoint was named")
            history.update(agent)
        version = history.versions[-1]
        event = trainer.events("stalled")[0]
        if trouble.kept_version is None or version.epoch is None:
            raise Error("the last good checkpoint was not kept", where=trouble.text)
        self._report.torn = Torn(
            path=self._kind.last,
            epoch=max(observed.losses(self._place.run)),
            bytes_on_disk=event["bytes"],
            whole_bytes=event["of_bytes"],
            kind=trouble.kind,
            text=trouble.text,
            version=version.number,
            kept_version=trouble.kept_version,
            kept_epoch=version.epoch,
        )

    def _stop(self, agent: AgentProcess) -> None:
        began_s = time.monotonic()
        agent.send(signal.SIGTERM)
        status = self._report.agent_exit_status = agent.wait(_STOP_S)
        if status != 0:
            raise Error(f"the agent ended with {status} when it was told to stop", where=agent.tail())
        self._tell(f"SIGTERM: the agent ended with 0 in {time.monotonic() - began_s:.1f} s")

    def _snapshot(self, trainer: TrainerProcess) -> BeforeLoss:
        digests, losses = observed.digests(self._place.run), observed.losses(self._place.run)
        return BeforeLoss(digests, losses, {epoch: event["sha256"] for epoch, event in trainer.saved().items()})

    def _lose(self) -> None:
        shutil.rmtree(self._place.run)
        shutil.rmtree(self._place.state)
        self._tell("deleted: the training's directory and the agent's local state")

    # ------------------------------------------------------------ and comes back

    def _restore(self, before: BeforeLoss) -> None:
        place, torn = self._place, self._report.torn
        assert torn is not None
        began_s = time.monotonic()
        secret = ("--passphrase-file", str(place.passphrase))
        done = run_mlsync("restore", "--repo", str(place.repository), *secret, state=place.state)
        command_s = time.monotonic() - began_s
        # What was on the disk; for the torn file the digest that the trainer took before it wrote.
        wanted = before.digests | {self._kind.last: before.last_digests[torn.kept_epoch]}
        found = observed.digests(place.run)
        wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        if wrong:
            raise Error(f"{len(wrong)} files came back other than they were", where=", ".join(wrong))
        self._report.restored = Restored(
            done["version"], done["file_count"], done["size_bytes"], done["seconds"], round(command_s, 3), len(found)
        )
        size = f"{done['size_bytes'] / _MIB:.1f} MiB"
        self._tell(f"mlsync restore: version {done['version']}, {len(found)} files, {size} in {done['seconds']:.1f} s")
        self._tell("  all of them are what the trainer wrote, by their SHA-256")

    def _resume(self, before: BeforeLoss) -> None:
        torn = self._report.torn
        assert torn is not None
        last = max(torn.kept_epoch + EPOCHS_AFTER, torn.epoch)
        with TrainerProcess(self._place, self._kind, "trainer-resumed", "--resume", "--epochs", str(last)) as trainer:
            self._tell(f"training: resumes from the restored {self._kind.last_name}, after epoch {torn.kept_epoch}")
            while trainer.is_alive() or trainer.has_new_epochs():
                wait_for(lambda: trainer.has_new_epochs() or not trainer.is_alive(), [], "the training went on")
                self._tell_epochs(trainer)
            if trainer.wait(_STOP_S) != 0:
                raise Error("the resumed training did not end well", where=trainer.tail())
        resumed = {epoch: event["loss"] for epoch, event in trainer.saved().items()}
        done = self._report.resumed = _compared(torn.kept_epoch, before.losses, resumed)
        both = ", ".join(f"{row.epoch}" for row in done.losses if row.killed is not None and row.resumed is not None)
        how = "to the last bit" if done.identical else "but for rounding"
        self._tell(f"  the loss of epoch {both} is what it was before the kill, {how}")

    def _check(self) -> None:
        done = run_mlsync("check", "--quickly", "--config", str(self._place.config))
        self._report.problem_count = len(done["problems"])
        self._tell(f"mlsync check: {done['version_count']} versions, {done['pack_count']} packs, no problem")


def _compared(from_epoch: int, killed: Mapping[int, float], resumed: Mapping[int, float]) -> Resumed:
    """Return both trainings side by side; raise an ``Error`` if the second one does not go on where the first was."""
    rows = tuple(EpochLosses(epoch, killed.get(epoch), resumed.get(epoch)) for epoch in sorted({*killed, *resumed}))
    both = [(row.killed, row.resumed) for row in rows if row.killed is not None and row.resumed is not None]
    if not both or any(abs(before - after) > _TOLERANCE * before for before, after in both):
        pairs = ", ".join(f"{before:.6f} was {after:.6f} after the restore" for before, after in both)
        raise Error("the resumed training does not go on where the killed one was", where=pairs or "no epoch in common")
    if min(resumed.values()) > _LEARNED * killed[min(killed)]:
        raise Error("the training learned nothing", where=f"its first loss was {killed[min(killed)]:.6f}")
    return Resumed(from_epoch, rows, identical=all(before == after for before, after in both))


def _configured(text: str, changes: Mapping[str, str]) -> str:
    """Set keys that ``mlsync init`` left as comments; of a key that several tables have, that of the first one."""
    for key, value in changes.items():
        text, count = re.subn(rf"^#{key} = .*$", f'{key} = "{_escaped(value)}"', text, count=1, flags=re.MULTILINE)
        assert count == 1, key
    return text


def _escaped(value: str) -> str:
    """Return what TOML reads as *value*, in a form that the pattern's replacement leaves as it is."""
    return json.dumps(value, ensure_ascii=False)[1:-1].replace("\\", r"\\")
