"""A training with Hugging Face's Trainer, by docs/huggingface.md: lost between two checkpoints, restored, resumed."""

from __future__ import annotations

import json
import time

from first_day import trainers
from first_day.day import Day, passphrase
from first_day.loss import Training, train_and_lose
from first_day.machine import Machine
from first_day.outcome import Outcome

STEPS, SAVE_STEPS = 80, 10
_PLACEHOLDER = "s3://bucket/llm"
_TRAINING = f"python train.py --output_dir output --max_steps {STEPS} --save_steps {SAVE_STEPS} --save_total_limit 2"
_OPTION = "--resume_from_checkpoint="


def play(day: Day) -> Outcome:
    """Play the day; the training on the new machine begins with the step of the restored checkpoint."""
    page = day.page("docs/huggingface.md")
    python = trainers.python_for("huggingface", day.directory, day.trainer_python)
    outcome = day.outcome(page, trainers.versions(python, ["transformers", "torch"]))
    person, secret, bin_ = outcome.person, passphrase(), str(python.parent)
    # The page trains with its own options; what is added to them on the new machine has to be on it.
    assert _OPTION in page.step(5).command("cd ~/llm && python train.py").text

    training = Training(_TRAINING, "llm", "output", _PLACEHOLDER, python, _bring_along)
    died_s = train_and_lose(day, page, outcome, training, secret)

    with day.machine("new", secret) as new:
        training.bring_along(new)
        window = new.terminal()
        day.install(person, new, window, outcome)
        restored = person.follow(
            window, new, page.step(4).command("mlsync restore"), training.instead(new), until="watching"
        )
        outcome.seconds["restore"] = float(restored.find(r"restored to .* in ([\d.]+) s")[1])
        # A sentence may be broken at its blanks; the option is one word.
        option = restored.find(rf"(?<!\S){_OPTION}(\S+)")
        state = new.place / option[1].removeprefix(f"{new.home}/") / "trainer_state.json"
        step = json.loads(state.read_text())["global_step"]
        trainer = new.terminal(before_path=bin_)
        trainer.run("cd ~/llm")
        person.type(trainer, new, f"{_TRAINING} {option[0]}", until=r"training from step (\d+)")
        outcome.seconds["machine lost to resumed"] = time.monotonic() - died_s
        begins = int(trainer.so_far().find(r"training from step (\d+)")[1])
        ended = trainer.ended(900)
        outcome.resumed = {"restored step": step, "resumed from step": begins, "status at the end": ended.status}
        ended.find(rf"trained to step {STEPS}$")
    outcome.add(window)
    if begins != step or step % SAVE_STEPS or ended.status != 0:
        raise RuntimeError(f"the training did not continue as it should: {outcome.resumed}")
    return outcome


def _bring_along(machine: Machine) -> None:
    """Put the person's own script where it was."""
    machine.write("llm/train.py", trainers.TRAIN_LANGUAGE)
