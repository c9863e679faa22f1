"""The device that level 5 loads a checkpoint on, by torch's name for it; a missing device is an error.

All programs of level 5 load it by path, in the trainer's Python (3.9 or newer).
"""

from __future__ import annotations

from typing import Any


def chosen_device(torch: Any, wanted: str) -> str:
    """Return ``cpu`` or ``cuda:N`` for what ``[proof] device`` says, and make that GPU torch's own.

    *wanted* is ``auto``, ``cpu``, ``cuda``, ``cuda:N``, or ``auto%N`` or ``cuda%N``: the GPU whose number is N
    modulo the number of GPUs. Raises ``RuntimeError`` if there is no GPU, or none of that number, unless ``auto`` may
    take the CPU.
    """
    kind, _, rank = wanted.partition("%")
    kind, _, number = kind.partition(":")
    if kind not in ("auto", "cpu", "cuda") or not (rank + number or "0").isdecimal():
        raise RuntimeError(f"{wanted!r} is no device")
    if kind == "cpu":
        return "cpu"
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        if kind == "auto" and not number:
            return "cpu"
        raise RuntimeError(f"{wanted} was asked for, and torch sees no GPU")
    index = int(rank) % count if rank else int(number or "0")
    if index >= count:
        raise RuntimeError(f"there is no {wanted}, torch sees {count} GPU{'s' if count > 1 else ''}")
    torch.cuda.set_device(index)
    return f"cuda:{index}"
