"""Find the checkpoints of several files in a listing: which files belong together, and whether all are there.

Every file of a directory may be sound while the checkpoint is not complete: a shard is not there yet, the marker that
is written last is missing, a file is too short. The rules look at the listing and at the small files that describe the
others; the other parsers read the files themselves. An incomplete checkpoint is no file's fault, so nothing is raised:
the unit says what it lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import Final

from mlsync.formats.groups.deepspeed import deepspeed, missing_tag
from mlsync.formats.groups.distributed import distributed
from mlsync.formats.groups.huggingface import indexed_weights, split_weights, trainer
from mlsync.formats.groups.megatron import megatron, missing_iteration
from mlsync.formats.groups.onnx_external import onnx
from mlsync.formats.groups.orbax import ORBAX_MARK, orbax
from mlsync.formats.groups.tensorflow import tensorflow
from mlsync.formats.groups.trainer_saves import (
    ACCELERATE_MARK,
    NEMO_MARKS,
    TORCHTUNE_MARK,
    accelerate,
    nemo,
    peft,
    torchtune,
)
from mlsync.formats.groups.tree import ReadSmall, Tree, Unit, join, upwards
from mlsync.formats.groups.zarr_arrays import torn_arrays

_Rule = Callable[[Tree, bytes], Iterator[Unit]]
# Rules for files beside each other, which may be a part of a larger checkpoint
_INNER: Final[tuple[_Rule, ...]] = (
    *(distributed, indexed_weights, split_weights, deepspeed, missing_tag, missing_iteration, peft, torn_arrays),
    *(onnx, tensorflow),
)
# Rules for a directory and all that is below it
_OUTER: Final[tuple[_Rule, ...]] = (megatron, accelerate, torchtune, nemo, trainer, orbax)
_MARKS = (ORBAX_MARK, ACCELERATE_MARK, *NEMO_MARKS, TORCHTUNE_MARK)


def find_units(files: Mapping[bytes, int], read_small: ReadSmall) -> list[Unit]:
    """Return all checkpoints of several files in a listing of relative paths and sizes, by directory.

    A checkpoint inside another one is a part of it: what the part lacks, the whole lacks.
    """
    tree = Tree(files, read_small)
    inner = [unit for directory in tree.directories for rule in _INNER for unit in rule(tree, directory)]
    outer = [unit for directory in tree.directories for rule in _OUTER for unit in rule(tree, directory)]
    return sorted(_merged(inner, outer), key=lambda unit: unit[:3])


def marked_around(directory: bytes, files: Container[bytes]) -> bytes | None:
    """Return the outermost directory, *directory* or above it, that a marker file shows to be one checkpoint."""
    marked = [place for place in upwards(directory) if any(join(place, mark) in files for mark in _MARKS)]
    return marked[-1] if marked else None


def _merged(inner: Iterable[Unit], outer: Iterable[Unit]) -> Iterator[Unit]:
    """Yield the units that are inside no other; a whole lacks what its parts lack."""
    by_directory: dict[bytes, Unit] = {unit.directory: unit for unit in outer}
    for unit in inner:
        holder = next((place for place in upwards(unit.directory) if place in by_directory), None)
        if holder is None:
            yield unit
        elif by_directory[holder].lacking is None:
            by_directory[holder] = by_directory[holder]._replace(lacking=unit.lacking)
    for directory, unit in by_directory.items():
        if not any(place in by_directory for place in upwards(directory) if place != directory):
            yield unit
