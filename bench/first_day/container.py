"""A container with the agent, by docs/containers.md: it is killed and removed with its directories, and comes back.

The image that deploy/Dockerfile is made from must be there. Where no registry is reached, one of that name is made from
the tree that debootstrap writes, with Python and pip in it: ``tar -C TREE -c . | docker import - NAME``.
"""

from __future__ import annotations

import re
import subprocess
import time

import trees

from first_day import trainers
from first_day.day import Day, passphrase
from first_day.machine import Machine
from first_day.outcome import Outcome
from first_day.pages import Page

EPOCHS = 100
_DISK, _WAIT_S = "/mnt/backup", 300


def play(day: Day) -> Outcome:
    """Play the day; the agent in the new container stores a version of the training that continues."""
    if day.user.is_added:
        raise RuntimeError("docker mounts directories of this machine: play it as an ordinary user who may use Docker")
    if _docker("ps", "--all", "--quiet", "--filter", "name=^mlsync$") or _docker("images", "--quiet", "mlsync"):
        raise RuntimeError("there is a container or an image with the name mlsync, which this play would remove")
    page, secret = day.page("docs/containers.md"), passphrase()
    python = trainers.python_for("container", day.directory, day.trainer_python)
    outcome = day.outcome(page, trainers.versions(python, ["torch"]))
    outcome.is_each = True
    training = f"{python} ~/train.py ~/yolo/runs/train {EPOCHS}"
    try:
        with day.machine("old", secret) as old:
            number = _back_up(day, old, page, outcome, training)
            died_s = time.monotonic()
            _lose(old)
            old.die()
        outcome.bytes["repository"] = trees.size_bytes(day.backup)
        with day.machine("new", secret) as new:
            version, begins = _come_back(day, new, page, outcome, training, died_s)
            _lose(new)
    finally:
        _docker("rm", "--force", "--volumes", "mlsync")
        _docker("rmi", "--force", "mlsync")
    if begins == 0 or version < number:
        raise RuntimeError(f"the training did not continue as it should: {outcome.resumed}")
    return outcome


def _back_up(day: Day, old: Machine, page: Page, outcome: Outcome, training: str) -> int:
    """Start the agent and the training on the machine that will be lost; return the version that was stored last."""
    old.write("train.py", trainers.TRAIN_PLAIN)
    person, window, instead = outcome.person, old.terminal(), {_DISK: old.backup_disk}
    day.install(person, old, window, outcome, "docker")
    person.follow(window, old, page.step(2).command("mkdir"))
    person.follow(window, old, page.step(3).command("docker"), instead)
    person.follow(window, old, page.step(4).command("docker"), instead)
    old.terminal().start(training)
    number = _until_version(old, 3)
    outcome.bytes["training directory"] = trees.size_bytes(old.place / "yolo/runs")
    outcome.add(window)
    return number


def _come_back(day: Day, new: Machine, page: Page, outcome: Outcome, training: str, died_s: float) -> tuple[int, int]:
    """Restore, start the agent and resume; return the version that came back and the epoch that followed."""
    new.write("train.py", trainers.TRAIN_PLAIN)
    person, window, instead = outcome.person, new.terminal(), {_DISK: new.backup_disk}
    day.install(person, new, window, outcome, "docker")
    person.follow(window, new, page.step(2).command("mkdir"))
    restored = person.follow(window, new, page.step(5).command("docker"), instead)
    outcome.seconds["restore"] = float(restored.find(r"restored to .* in ([\d.]+) s")[1])
    version = int(restored.find(r"version (\d+)")[1])
    person.follow(window, new, page.step(4).command("docker"), instead)
    again = new.terminal()
    person.type(again, new, training, until=r"training from epoch (\d+)")
    outcome.seconds["machine lost to resumed"] = time.monotonic() - died_s
    begins = int(again.so_far().find(r"training from epoch (\d+)")[1])
    stored = _until_version(new, version + 2)
    outcome.resumed = {"restored version": version, "resumed with epoch": begins, "version stored then": stored}
    outcome.add(window)
    return version, begins


def _docker(*words: str) -> str:
    """What docker says; nothing where it fails."""
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=False).stdout.strip()


def _until_version(machine: Machine, number: int) -> int:
    """Wait until the log of the container says that this version or a later one was stored."""
    deadline = time.monotonic() + _WAIT_S
    while time.monotonic() < deadline:
        log = machine.prepare(["sh", "-c", "docker logs mlsync 2>&1"])
        found = re.findall(r"version (\d+)\b.*\bproved", log)
        if found and int(found[-1]) >= number:
            return int(found[-1])
        time.sleep(1)
    raise RuntimeError(f"waited {_WAIT_S} s in vain for version {number}:\n{log}")


def _lose(machine: Machine) -> None:
    """Kill the container and remove it and the image, as if the machine had gone."""
    machine.prepare(["docker", "kill", "mlsync"])
    machine.prepare(["docker", "rm", "--volumes", "mlsync"])
    machine.prepare(["docker", "rmi", "mlsync"])
