"""What names alone say of checkpoints: which files and directories are parts of one, and which are written last.

The agent asks this at each change of a watched directory, so nothing is read here, and no parser is imported.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

from mlsync.formats.groups.deepspeed import is_deepspeed_tag, is_deepspeed_tracker
from mlsync.formats.groups.huggingface import is_trainers_directory
from mlsync.formats.groups.megatron import is_megatron_directory, is_megatron_tracker
from mlsync.formats.groups.tree import upwards

_PART: Final = re.compile(
    rb".*\.(safetensors|bin|pt|pth|ckpt|distcp|data-\d{5}-of-\d{5})|random_states_\d+\.pkl", re.DOTALL
)
_WRITTEN_LAST: Final = re.compile(
    rb".*\.index(\.json)?|trainer_state\.json|\.metadata|metadata\.json|adapter_config\.json|random_states_0\.pkl",
    re.DOTALL,
)
# Marks of a finished save that hold nothing themselves.
_MARK: Final = re.compile(rb"commit_success\.txt|_CHECKPOINT_METADATA|\.snapshot_metadata|integrity\.json|meta\.pt")
# A trainer or a person asks for a backup with such a file; it says nothing about any save.
_REQUEST: Final = b"_BACKUP_REQUESTED"
# Containers that no group has, one file each.
_ALONE: Final = re.compile(
    rb".*\.(h5|hdf5|keras|gguf|onnx|nemo|pkl|pickle|joblib|npz|msgpack|tflite|params|weights|pdparams|pdopt|torchscript)",
    re.DOTALL | re.IGNORECASE,
)
# Files that libraries write one after the other: more of them are to come.
_OF_SEVERAL: Final = re.compile(
    rb"(?:(?:pytorch_|adapter_|diffusion_pytorch_)?model|optimizer|scheduler|scaler|sampler|training_args|rng_state.*"
    rb"|random_states_.*|dl_state_dict.*|.*-\d{5}-of-\d{5}|.*mp_rank_\d+.*|.*pp_rank_\d+.*|layer_\d+.*|expert_.*"
    rb"|model_optim_rng|distrib_optim|__\d+_\d+|common)\.\w+|.*\.data-\d{5}-of-\d{5}",
    re.DOTALL,
)
_TRAINERS_END: Final = b"trainer_state.json"


class Saved(NamedTuple):
    """What a finished file says about a save: the place that it belongs to, and how far the save is by its name.

    *has_ended*: writers write this file after all others of the save. *is_alone*: it is a save of its own.
    """

    place: bytes
    has_ended: bool
    is_alone: bool


def saved_by(path: bytes) -> Saved | None:
    """Return what a finished file says about a save; ``None`` if its name is none that checkpoints use."""
    directory, _, name = path.rpartition(b"/")
    if is_tracker(path) or name == _REQUEST:
        return Saved(directory, has_ended=True, is_alone=False)
    place, is_trainers, is_for_all = _place_of(directory)
    if is_trainers:
        return Saved(place, has_ended=name == _TRAINERS_END, is_alone=False)
    if is_written_last(path) or _MARK.fullmatch(name):
        return Saved(place, has_ended=True, is_alone=False)
    if is_for_all or _OF_SEVERAL.fullmatch(name):
        return Saved(place, has_ended=False, is_alone=False)
    if is_part(path) or _ALONE.fullmatch(name):
        return Saved(place, has_ended=False, is_alone=True)
    return None


@lru_cache(maxsize=256)  # as below
def _place_of(directory: bytes) -> tuple[bytes, bool, bool]:
    """Return ``enclosing``, whether that is a trainer's directory, and whether all below it is one checkpoint."""
    place = enclosing(directory)
    return place, is_trainers_directory(place.rpartition(b"/")[2]), is_named_for_all(place)


@lru_cache(maxsize=256)  # asked for each of many files in few directories
def enclosing(directory: bytes) -> bytes:
    """Return the outermost directory, *directory* or above it, that is one checkpoint by its name."""
    above = [place for place in upwards(directory) if is_named_for_all(place)]
    return above[-1] if above else directory


def is_named_for_all(directory: bytes) -> bool:
    """Return whether everything below the directory is one checkpoint, by the directory's name."""
    name = directory.rpartition(b"/")[2]
    return is_trainers_directory(name) or is_deepspeed_tag(name) or is_megatron_directory(name)


def is_tracker(path: bytes) -> bool:
    """Return whether a file names the newest complete save among the directories beside it."""
    name = path.rpartition(b"/")[2]
    return is_deepspeed_tracker(name) or is_megatron_tracker(name)


def is_part(path: bytes) -> bool:
    """Return whether a file of a unit holds trained values, so that every save writes it again."""
    return _PART.fullmatch(path.rpartition(b"/")[2]) is not None


def is_written_last(path: bytes) -> bool:
    """Return whether writers write this file of a unit after all its parts."""
    return _WRITTEN_LAST.fullmatch(path.rpartition(b"/")[2]) is not None
