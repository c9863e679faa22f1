"""Plays a series of snapshots in one directory, written as its trainer wrote it: in place, and only what it wrote."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import trees


def snapshots(series: Path) -> list[Path]:
    return sorted(path for path in series.iterdir() if path.is_dir())


def play(series: Path, live: Path) -> Iterator[tuple[Path, int]]:
    """After each step *live* holds what the given snapshot holds; told with it is how many bytes the trainer wrote."""
    live.mkdir(parents=True)
    previous = None
    for snapshot in snapshots(series):
        yield snapshot, step(previous, snapshot, live)
        previous = snapshot


def step(previous: Path | None, snapshot: Path, live: Path) -> int:
    names = {file.relative_to(snapshot) for file in trees.files(snapshot)}
    for gone in {file.relative_to(live) for file in trees.files(live)} - names:
        (live / gone).unlink()
    remove_empty(live)
    written = [name for name in sorted(names) if not is_left_alone(previous, snapshot, name)]
    for name in written:
        (live / name).parent.mkdir(parents=True, exist_ok=True)
        with (snapshot / name).open("rb") as source, (live / name).open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    return sum((snapshot / name).stat().st_size for name in written)


def is_left_alone(previous: Path | None, snapshot: Path, name: Path) -> bool:
    """Whether the trainer did not write it since: series.py made it a link to the snapshot before then."""
    return previous is not None and (previous / name).exists() and (previous / name).samefile(snapshot / name)


def remove_empty(directory: Path) -> None:
    for path in sorted((path for path in directory.rglob("*") if path.is_dir()), reverse=True):
        if not any(path.iterdir()):
            path.rmdir()
