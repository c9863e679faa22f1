"""The service in machines that boot, by systemd/README.md: the power is cut, the run is restored, and continues."""

from __future__ import annotations

import re
import time

import trees

from first_day import trainers
from first_day.booted import BootedMachine, booted_machine
from first_day.day import Day, passphrase
from first_day.outcome import Outcome

EPOCHS = 100
_TRAINER, _RUN = "/opt/trainer", "/data/runs/yolo"
_TRAINING = f"{_TRAINER}/bin/python ~/train.py {_RUN} {EPOCHS}"
_WAIT_S = 300


def play(day: Day) -> Outcome:
    """Play the day; the service of the new machine stores a version of the training that continues there."""
    page = day.page("systemd/README.md")
    python = trainers.python_for("service", day.directory, day.trainer_python)
    outcome = day.outcome(page, trainers.versions(python, ["torch"]))
    outcome.is_each, person, secret = True, outcome.person, passphrase()
    outcome.user = "a user who may use sudo; each machine boots a systemd of its own"
    # What the page calls the repository's disk: it belongs to root, since the service writes there.
    disk = day.backup / "root"
    disk.mkdir(mode=0o700)
    binds = {disk: "/srv/mlsync", python.parents[1]: _TRAINER}

    with booted_machine(day, "old", secret, binds) as old:
        window = old.terminal()
        _own_directory(old)
        day.install(person, old, window, outcome, "sudo")
        for number in (2, 3, 4):
            person.follow(window, old, page.step(number).command("sudo" if number > 2 else "systemd-ask-password"))
        training = old.terminal()
        training.start(_TRAINING)
        _until_version(old, 3)
        outcome.bytes["training directory"] = trees.size_bytes(old.root / _RUN.lstrip("/"))
        died_s = time.monotonic()
        old.die()
    outcome.add(window)
    outcome.bytes["repository"] = trees.size_bytes(day.backup)

    with booted_machine(day, "new", secret, binds) as new:
        window = new.terminal()
        _own_directory(new)
        day.install(person, new, window, outcome, "sudo")
        person.follow(window, new, page.step(2).command("systemd-ask-password"))
        restored = person.follow(window, new, page.step(5).command("sudo"))
        outcome.seconds["restore"] = float(restored.find(r"restored to .* in ([\d.]+) s")[1])
        version = int(restored.find(r"version (\d+)")[1])
        person.follow(window, new, page.step(4).command("sudo"))
        training = new.terminal()
        person.type(training, new, _TRAINING, until=r"training from epoch (\d+)")
        outcome.seconds["machine lost to resumed"] = time.monotonic() - died_s
        begins = int(training.so_far().find(r"training from epoch (\d+)")[1])
        stored = _until_version(new, version + 2)
        training.until(rf"epoch {begins + 1} saved", _WAIT_S)
        outcome.resumed = {"restored version": version, "resumed with epoch": begins, "version stored then": stored}
    outcome.add(window)
    if begins == 0:
        raise RuntimeError(f"the training did not continue as it should: {outcome.resumed}")
    return outcome


def _own_directory(machine: BootedMachine) -> None:
    """The person's training has a directory of its own, as before mlsync came."""
    machine.write("train.py", trainers.TRAIN_PLAIN)
    machine.prepare(["sudo", "install", "-d", "-o", machine.user.name, "-g", machine.user.name, "/data/runs"])


def _until_version(machine: BootedMachine, number: int) -> int:
    """Wait until the service says that it proved this version or a later one."""
    deadline = time.monotonic() + _WAIT_S
    while time.monotonic() < deadline:
        status = machine.prepare(["systemctl", "show", "--property=StatusText", "mlsync-agent"])
        found = re.search(r"last version \S+/(\d+) proved", status)
        if found is not None and int(found[1]) >= number:
            return int(found[1])
        time.sleep(1)
    log = machine.prepare(["sudo", "journalctl", "--no-pager", "-u", "mlsync-agent"])
    raise RuntimeError(f"waited {_WAIT_S} s in vain for version {number}:\n{log}")
