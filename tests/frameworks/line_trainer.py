"""The trainings of the line: ``line_trainer.py train DATA PROJECT`` and ``line_trainer.py resume MODEL SAVE_DIR``.

Twenty epochs of eight small pictures take a quarter of a minute, in which the model learns to find the squares. After
some of them the training waits until its version is stored; after the fourteenth it waits to be ended.
"""

import sys

from ultralytics import YOLO

import mlsync
import mlsync.integrations.ultralytics

EPOCHS = 20
WAITS = (6, 10, 14)
PLAIN = dict.fromkeys(("mosaic", "translate", "scale", "fliplr", "hsv_h", "hsv_s", "hsv_v", "erasing"), 0.0)
SETTINGS = PLAIN | {"imgsz": 64, "batch": 1, "nbs": 1, "workers": 0, "device": "cpu", "plots": False, "amp": False}
LEARNING = {"optimizer": "AdamW", "lr0": 0.01, "warmup_epochs": 0, "auto_augment": None}


def say(text):
    """A line of the transcript."""
    sys.stdout.write(f"line: {text}\n")
    sys.stdout.flush()


def saved(trainer):
    """Wait for the version, and say so."""
    epoch = trainer.epoch + 1
    if epoch not in WAITS and epoch != trainer.epochs:
        return
    told = mlsync.now(trainer.wdir, wait=120)
    kept = f"in version {told.version}, proved to level {told.level}" if told else f"not waited for: {told.problem}"
    say(f"epoch {epoch} of {trainer.epochs} is saved, {kept}; fitness {trainer.fitness:.2f}")
    if WHAT == "train":
        sys.stdin.readline()


def begins(trainer):
    """Say where it goes on."""
    say(f"the training begins with epoch {trainer.start_epoch + 1} of {trainer.epochs}")


if __name__ == "__main__":
    _, WHAT, first, second = sys.argv
    model = YOLO("yolov8n.yaml" if WHAT == "train" else first)
    mlsync.integrations.ultralytics.attach(model)
    model.add_callback("on_train_start", begins)
    model.add_callback("on_model_save", saved)
    if WHAT == "train":
        model.train(data=first, project=second, name="train", epochs=EPOCHS, exist_ok=True, **SETTINGS, **LEARNING)
    else:
        model.train(resume=True, save_dir=second)
