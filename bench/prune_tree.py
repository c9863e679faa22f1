"""The tree of prune.py: eight files of noise, of which the first changes in each version, the next in each second, …

So a version has two new files on average, and packs of old versions hold files that new ones still need. What a file
holds in a version follows from both, so whoever has only their numbers can tell whether a restore is right.
"""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

FILES = 8
FILE_BYTES = 100_000


def save(directory: Path, version: int) -> None:
    """Write what is new in this version, as a trainer does, in place."""
    directory.mkdir(parents=True, exist_ok=True)
    for file in range(FILES):
        if version == 1 or written_at(file, version) == version:
            (directory / name(file)).write_bytes(content(file, version))


def digests(version: int) -> dict[str, str]:
    """The digest of each file as it is in this version, as ``trees.digests`` gives them."""
    return {name(file): hashlib.sha256(content(file, version)).hexdigest() for file in range(FILES)}


def needed_bytes(versions: range) -> int:
    """The bytes of all contents that these versions have, each once."""
    return FILE_BYTES * len({(file, written_at(file, version)) for file in range(FILES) for version in versions})


def name(file: int) -> str:
    return f"part-{file}.bin"


def content(file: int, version: int) -> bytes:
    return random.Random(f"{file} {written_at(file, version)}").randbytes(FILE_BYTES)


def written_at(file: int, version: int) -> int:
    """The version in which the file got the content that it has in this one; 0 is that of the first."""
    return version - version % (1 << file)
