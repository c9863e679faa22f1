"""What a process's memory is made of, by the kernel's list of its mappings."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path

from soaking.record import rounded, slope

# The C library reserves its arenas, one or more for each thread that allocates, in pieces of this size and alignment.
ARENA_BYTES = 64 << 20
STACK_BYTES = 8 << 20
MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ (\d+) *(.*)")
KIB_PER_MIB = 1024
SECONDS_PER_HOUR = 3600


@dataclass
class Memory:
    """KiB that are in memory: all of it; the part that is its own; and by kind.

    *heap* is the C library's main one, *arenas* those of threads, *anonymous* what was asked of the kernel directly
    (Python's own arenas, large blocks), *stacks* those of threads, *files* what is mapped from files.
    """

    rss: int = 0
    pss: int = 0
    heap: int = 0
    arenas: int = 0
    anonymous: int = 0
    stacks: int = 0
    files: int = 0


KINDS = tuple(one.name for one in fields(Memory))


def memory_of(pid: int) -> Memory | None:
    """The memory of a process; ``None`` if it is gone."""
    try:
        return memory_in(Path(f"/proc/{pid}/smaps").read_text(errors="replace"))
    except OSError:
        return None


def memory_in(text: str) -> Memory | None:
    """The memory that a list of mappings shows; ``None`` for an empty one, as of a process that has ended."""
    found, kind = Memory(), ""
    for line in text.splitlines():
        if (mapping := MAPPING.fullmatch(line)) is not None:
            kind = kind_of(*mapping.groups())
        elif line.startswith("Rss:"):
            kib = int(line.split()[1])
            found.rss += kib
            setattr(found, kind, getattr(found, kind) + kib)
        elif line.startswith("Pss:"):
            found.pss += int(line.split()[1])
    return found if kind else None


def kind_of(begin: str, end: str, _rights: str, inode: str, name: str) -> str:
    if inode != "0":
        return "files"
    if name == "[heap]":
        return "heap"
    first, length = int(begin, 16), int(end, 16) - int(begin, 16)
    if name.startswith("[stack") or length == STACK_BYTES:
        return "stacks"
    return "arenas" if first % ARENA_BYTES == 0 and length < ARENA_BYTES else "anonymous"


def growth(samples: list[tuple[float, Memory]]) -> dict[str, dict[str, float | None]]:
    """For each kind what there was at first, in the end and at most, in MiB, and by how much it grows in an hour."""
    found: dict[str, dict[str, float | None]] = {}
    for kind in KINDS:
        values = [(at_s, getattr(memory, kind) / KIB_PER_MIB) for at_s, memory in samples]
        if values:
            per_second = slope(values)
            found[kind] = {
                "first": rounded(values[0][1], 1),
                "last": rounded(values[-1][1], 1),
                "max": rounded(max(mib for _, mib in values), 1),
                "per_hour": rounded(None if per_second is None else per_second * SECONDS_PER_HOUR, 1),
            }
    return found
