"""An Ultralytics training, by docs/yolo.md: watched, lost in the middle of an epoch, restored, resumed to its end."""

from __future__ import annotations

import time
from functools import partial

from first_day import trainers
from first_day.day import Day, passphrase
from first_day.loss import Training, train_and_lose
from first_day.machine import Machine
from first_day.outcome import Outcome

# An epoch of more than two seconds, even on a fast machine: the agent lets files settle that long.
EPOCHS, PICTURES = 6, 1500
_PLACEHOLDER = "s3://bucket/yolo"
_OPTIONS = f"epochs={EPOCHS} imgsz=64 batch=4 workers=0 device=cpu plots=False"
# The training of the page is the person's own: other data, a network without weights from elsewhere.
_TRAINING = f"yolo detect train data=squares.yaml model=yolov8n.yaml {_OPTIONS}"


def play(day: Day) -> Outcome:
    """Play the day; the training on the new machine begins with the epoch after the restored one."""
    page = day.page("docs/yolo.md")
    python = trainers.python_for("yolo", day.directory, day.trainer_python)
    outcome = day.outcome(page, trainers.versions(python, ["ultralytics", "torch"]))
    person, secret, bin_ = outcome.person, passphrase(), str(python.parent)

    training = Training(_TRAINING, "yolo", "runs", _PLACEHOLDER, python, partial(bring_along, python=python))
    died_s = train_and_lose(day, page, outcome, training, secret)

    with day.machine("new", secret) as new:
        training.bring_along(new)
        window = new.terminal()
        day.install(person, new, window, outcome)
        restored = person.follow(
            window, new, page.step(4).command("mlsync restore"), training.instead(new), until="watching"
        )
        outcome.seconds["restore"] = float(restored.find(r"restored to .* in ([\d.]+) s")[1])
        epochs = len((new.place / "yolo/runs/detect/train/results.csv").read_text().splitlines()) - 1
        line = restored.find(r"^ +(yolo train resume .*)$")[1]
        trainer = new.terminal(before_path=bin_)
        trainer.run("cd ~/yolo")
        person.type(trainer, new, line, until=r"Resuming training .* from epoch (\d+)")
        outcome.seconds["machine lost to resumed"] = time.monotonic() - died_s
        begins = int(trainer.so_far().find(r"Resuming training .* from epoch (\d+)")[1])
        ended = trainer.ended(900)
        outcome.resumed = {"restored epochs": epochs, "resumed with epoch": begins, "status at the end": ended.status}
    outcome.add(window)
    if begins != epochs + 1 or ended.status != 0:
        raise RuntimeError(f"the training did not continue as it should: {outcome.resumed}")
    return outcome


def bring_along(machine: Machine, python: object) -> None:
    """Put the person's own data where they were."""
    machine.write("yolo/squares.py", trainers.SQUARES)
    machine.prepare([str(python), "squares.py", str(PICTURES)], within=machine.home / "yolo")
