"""The trainings of the first day: their environments, their data, and the scripts that a person brings along."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

# A Python that every user may start: root's own may lie where nobody else looks.
_SYSTEM_PYTHON = Path("/usr/bin/python3")
PACKAGES = {
    "yolo": ("torch==2.14.1", "torchvision==0.29.1", "ultralytics==8.4.190"),
    "huggingface": ("torch==2.13.0", "transformers==5.24.0", "accelerate==1.15.0"),
    "service": ("torch==2.13.0",),
    "container": ("torch==2.13.0",),
}
# Nothing is fetched from anywhere but by the person.
OFFLINE = {"YOLO_OFFLINE": "true", "HF_HUB_OFFLINE": "1"}

# Draws squares into PICTURES for training and a few for validation. Trainers read it as a script of the person's.
SQUARES = '''\
"""Pictures of squares, each with its box: python squares.py PICTURES"""

import pathlib
import random
import sys

from PIL import Image

SIDE, SQUARE = 64, 28
for split, count in (("train", int(sys.argv[1])), ("val", 8)):
    images, labels = (pathlib.Path("squares", kind, split) for kind in ("images", "labels"))
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    for index in range(count):
        left, top = (random.randrange(SIDE - SQUARE) for _ in range(2))
        picture = Image.new("RGB", (SIDE, SIDE), (32, 32, 32))
        picture.paste((224, 192, 64), (left, top, left + SQUARE, top + SQUARE))
        picture.save(images / f"{index}.png")
        box = [(left + SQUARE / 2) / SIDE, (top + SQUARE / 2) / SIDE, SQUARE / SIDE, SQUARE / SIDE]
        (labels / f"{index}.txt").write_text(f"0 {' '.join(map(str, box))}\\n")
pathlib.Path("squares.yaml").write_text(
    f"path: {pathlib.Path('squares').resolve()}\\ntrain: images/train\\nval: images/val\\nnames:\\n  0: square\\n"
)
'''

# As Hugging Face's examples read their options: all of TrainingArguments are options of the command.
TRAIN_LANGUAGE = '''\
"""A small language model that learns to count."""

import time

import torch
from transformers import HfArgumentParser, LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments


class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 4000

    def __getitem__(self, index):
        numbers = torch.arange(index, index + 16) % 128
        return {"input_ids": numbers, "labels": numbers}


class AsSlowAsALargeModel(TrainerCallback):
    def on_train_begin(self, args, state, control, **kwargs):
        print(f"training from step {state.global_step} of {state.max_steps}", flush=True)

    def on_step_end(self, args, state, control, **kwargs):
        time.sleep(0.4)


(arguments,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses()
shape = LlamaConfig(vocab_size=128, hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4)
trainer = Trainer(LlamaForCausalLM(shape), arguments, train_dataset=Numbers(), callbacks=[AsSlowAsALargeModel()])
trainer.train(resume_from_checkpoint=arguments.resume_from_checkpoint)
print(f"trained to step {trainer.state.global_step}")
'''

# A loop as people write it: it begins with what its last checkpoint says, and replaces that by renaming.
TRAIN_PLAIN = '''\
"""A plain loop: python train.py DIRECTORY EPOCHS"""

import os
import pathlib
import sys
import time

import torch

place, epochs = pathlib.Path(sys.argv[1]), int(sys.argv[2])
place.mkdir(parents=True, exist_ok=True)
model = torch.nn.Sequential(torch.nn.Linear(64, 512), torch.nn.ReLU(), torch.nn.Linear(512, 64))
optimizer = torch.optim.AdamW(model.parameters())
begin = 0
if (place / "last.pt").exists():
    saved = torch.load(place / "last.pt")
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    begin = saved["epoch"] + 1
print(f"training from epoch {begin} of {epochs}", flush=True)
for epoch in range(begin, epochs):
    for _ in range(20):
        numbers = torch.randn(32, 64)
        loss = torch.nn.functional.mse_loss(model(numbers), numbers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        time.sleep(0.2)
    state = {"epoch": epoch, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state, place / "last.pt.tmp")
    os.replace(place / "last.pt.tmp", place / "last.pt")
    print(f"epoch {epoch} saved, loss {loss.item():.4f}", flush=True)
print("trained", flush=True)
'''


def python_for(name: str, directory: Path, given: Path | None) -> Path:
    """The Python of the trainer's environment: the *given* one, or that of an environment made in *directory*."""
    if given is not None:
        return given
    place = directory / f"{name}-trainer"
    python = place / "bin" / "python"
    print(f"making {place}", file=sys.stderr, flush=True)
    system = _SYSTEM_PYTHON if _SYSTEM_PYTHON.exists() else Path(sys.executable)
    subprocess.run([system, "-m", "venv", place], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES[name]], check=True)
    return python


def versions(python: Path, packages: Sequence[str]) -> dict[str, str]:
    """The versions of packages in an environment."""
    code = "import importlib.metadata as m, sys; print(*map(m.version, sys.argv[1:]))"
    done = subprocess.run([python, "-c", code, *packages], capture_output=True, text=True, check=True)
    return dict(zip(packages, done.stdout.split(), strict=True))
