"""A training that does the same work in each step and saves in place, and writes down how long each step took.

    python bench/training/steady.py RUN_DIRECTORY STEPS_FILE [--threads 2] [--save-every 11]

A small transformer-like stack with AdamW: ``last.pt`` holds weights and both moments, 144 MB, rewritten in place as
trainers do. Each line of STEPS_FILE is ``MONOTONIC_S STEP_S SAVE_S``: when a step ended, how long it took with the save
that came in it, and how long that save took (0 for most). The line "ready" comes first, after a warm-up and one save.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

# 12 million parameters; with both moments of AdamW 144 MB
WIDTH, LAYERS, BATCH = 1024, 12, 64
WARM_STEPS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("steps", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save-every", type=float, default=11.0, metavar="SECONDS")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    arguments.run.mkdir(parents=True, exist_ok=True)
    train(arguments.run / "last.pt", arguments.steps, arguments.save_every)


def train(checkpoint: Path, steps: Path, save_every_s: float) -> None:
    layers = [torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH), torch.nn.GELU()) for _ in range(LAYERS)]
    model = torch.nn.Sequential(*layers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    data, wanted = torch.randn(BATCH, WIDTH), torch.randn(BATCH, WIDTH)

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(data), wanted).backward()
        optimizer.step()

    def save(number: int) -> float:
        began_s = time.monotonic()
        state = {"epoch": number, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(state, checkpoint)
        return time.monotonic() - began_s

    for _ in range(WARM_STEPS):
        step()
    save(0)
    with steps.open("w", buffering=1) as out:
        out.write("ready\n")
        number, saved_s = 0, time.monotonic()
        while True:
            number += 1
            began_s = time.monotonic()
            step()
            save_s = 0.0
            if time.monotonic() - saved_s >= save_every_s:
                save_s = save(number)
                saved_s = time.monotonic()
            out.write(f"{time.monotonic():.6f} {time.monotonic() - began_s:.6f} {save_s:.6f}\n")


if __name__ == "__main__":
    main()
