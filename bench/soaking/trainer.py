"""A simulated training, as a process: it saves, rotates, logs, and records what it has finished.

    python trainer.py KIND DIRECTORY RECORD SEED EVERY_S

KIND says how it saves: ``steps`` as Hugging Face's Trainer does, in place in a directory for each checkpoint, with the
older ones deleted down to two; ``epochs`` as Ultralytics does, over ``last.pt`` and ``best.pt`` in place, piece by
piece; ``renamed`` to a temporary name that is renamed, with the older ones deleted down to three. Each appends to a log
every half second. RECORD gets a line of JSON when a save begins, with the digest of each of its files, one when it has
ended, and one before files are deleted. Killed at any moment and started again it goes on after its newest whole save;
SIGTERM ends it after the save under way.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from soaking.checkpoint_files import numbers, safetensors, torch_zip

LOG_EVERY_S = 0.5
STEPS_KEPT = 2
RENAMED_KEPT = 3
PIECE_BYTES = 32 << 10
PIECE_PAUSE_S = 0.005
WEIGHTS = 24_000
FROZEN_SEED = 1


class Trainer:
    def __init__(self, directory: Path, record: Path, seed: int) -> None:
        self.directory = directory
        self._dice = random.Random(f"{seed} {time.time_ns()}")
        self._record = os.open(record, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._frozen = numbers(random.Random(FROZEN_SEED), WEIGHTS)
        directory.mkdir(parents=True, exist_ok=True)

    def steps(self, number: int) -> None:
        place = f"checkpoint-{10 * number}"
        # A part of it may lie there, of a training that was killed.
        self.delete(place)
        self.save(
            {
                f"{place}/model.safetensors": self._safetensors(number),
                f"{place}/optimizer.pt": self._torch_zip(number),
                f"{place}/scheduler.pt": torch_zip({"lr": numbers(self._dice, 4)}, {"last_epoch": number}),
                f"{place}/trainer_state.json": self._state(number),
            }
        )
        for old in sorted(self.directory.glob("checkpoint-*"), key=place_number)[:-STEPS_KEPT]:
            self.delete(old.name)

    def epochs(self, number: int) -> None:
        self.save({"weights/last.pt": self._torch_zip(number)}, pause_s=PIECE_PAUSE_S)
        if self._dice.random() < 0.3:
            self.save({"weights/best.pt": self._torch_zip(number)}, pause_s=PIECE_PAUSE_S)

    def renamed(self, number: int) -> None:
        self.save({f"step_{number}.safetensors": self._safetensors(number)}, renames=True)
        for old in sorted(self.directory.glob("step_*.safetensors"), key=place_number)[:-RENAMED_KEPT]:
            self.delete(old.name)

    def next_number(self) -> int:
        """One more than the highest in use: a checkpoint that was cut off is saved again under its name."""
        whole = [one for one in self.directory.glob("checkpoint-*") if (one / "trainer_state.json").exists()]
        numbers_in_use = [place_number(one) // 10 for one in whole]
        numbers_in_use += [place_number(one) for one in self.directory.glob("step_*.safetensors")]
        epochs = self.directory / "results.csv"
        if epochs.exists():
            numbers_in_use.append(len(epochs.read_bytes().splitlines()))
        return max(numbers_in_use, default=0) + 1

    def save(self, files: dict[str, bytes], *, pause_s: float = 0.0, renames: bool = False) -> None:
        digests = {path: hashlib.sha256(plain).hexdigest() for path, plain in files.items()}
        name = self._dice.randbytes(8).hex()
        self._tell(what="begin", save=name, files=digests)
        for path, plain in files.items():
            place = self.directory / path
            place.parent.mkdir(parents=True, exist_ok=True)
            written = place.with_name(f".tmp-{place.name}") if renames else place
            with written.open("wb", buffering=0) as file:
                for begin in range(0, len(plain), PIECE_BYTES):
                    file.write(plain[begin : begin + PIECE_BYTES])
                    time.sleep(pause_s)
            if renames:
                written.rename(place)
        self._tell(what="end", save=name)

    def delete(self, path: str) -> None:
        place = self.directory / path
        if place.exists():
            self._tell(what="delete", place=path)
            shutil.rmtree(place) if place.is_dir() else place.unlink()

    def log(self, name: str, line: str) -> None:
        file = os.open(self.directory / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(file, f"{line}\n".encode())
        os.close(file)

    def _tell(self, **facts: object) -> None:
        # One write: a line is there or not, whenever the process is killed.
        os.write(self._record, json.dumps({"at_s": time.time(), **facts}).encode() + b"\n")

    def _safetensors(self, number: int) -> bytes:
        tensors = {"model.frozen": self._frozen, "model.head": numbers(self._dice, WEIGHTS)}
        return safetensors(tensors, {"step": str(number)})

    def _torch_zip(self, number: int) -> bytes:
        return torch_zip({"frozen": self._frozen, "head": numbers(self._dice, WEIGHTS)}, {"epoch": number})

    def _state(self, number: int) -> bytes:
        token = self._dice.randbytes(8).hex()
        return json.dumps({"global_step": 10 * number, "epoch": number / 10, "trial_name": token}).encode()


def place_number(path: Path) -> int:
    return int("".join(filter(str.isdigit, path.stem)))


def until(moment_s: float, stopped: list[int]) -> Iterator[None]:
    """Yield every half second until then."""
    while not stopped and (left_s := moment_s - time.monotonic()) > 0:
        yield
        time.sleep(min(left_s, LOG_EVERY_S))


def main() -> None:
    kind, directory, record, seed, every_s = sys.argv[1:]
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    trainer = Trainer(Path(directory), Path(record), int(seed))
    number = trainer.next_number()
    while not stopped:
        getattr(trainer, kind)(number)
        if kind == "epochs":
            trainer.log("results.csv", f"{number},0.5,{time.time()}")
        number += 1
        for _ in until(time.monotonic() + random.uniform(0.6, 1.4) * float(every_s), stopped):
            trainer.log("train.log", f"{time.time()} step {number} loss {random.random()}")


if __name__ == "__main__":
    main()
