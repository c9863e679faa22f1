"""What listings say of resuming: of a directory if its files are one checkpoint together, else of each file."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from mlsync.formats.groups.huggingface import is_trainers_directory
from mlsync.formats.groups.names import enclosing, is_named_for_all
from mlsync.formats.logs.trainer_logs import STATE_NAME
from mlsync.repository.manifest import Entry
from mlsync.values import Fact
from mlsync.versions.resumable import OPTIMIZER_ALONE, ULTRALYTICS, has_weights

_AS_A_WHOLE: Final = "resumable as a whole"
_WEIGHTS_ONLY: Final = "weights only, no optimizer: not for resuming"
_NO_STATE: Final = f"not for resuming: {os.fsdecode(STATE_NAME)} is missing"
_DCP: Final = "dcp"


@dataclass(slots=True)
class _Group:
    """What the files of a directory hold together."""

    has_weights: bool = False
    has_optimizer: bool = False
    has_trainer_state: bool = False
    is_distributed: bool = False
    # A file that training can resume from without any other
    has_whole_file: bool = False

    def add(self, name: bytes, facts: Mapping[str, Fact]) -> None:
        """Take a file in."""
        self.has_trainer_state |= name == STATE_NAME
        if facts.get("framework") == ULTRALYTICS:
            # A stripped file lacks its optimizer on purpose, even beside files that have one.
            self.has_whole_file |= facts.get("resumable") is True
            return
        self.is_distributed |= facts.get("framework") == _DCP
        self.has_optimizer |= facts.get("has_optimizer") is True
        self.has_weights |= has_weights(facts)
        self.has_whole_file |= _is_whole(facts)

    def is_resumable(self, directory: bytes) -> bool:
        """Return whether there are weights, an optimizer's state, and what else the directory's trainer needs."""
        # Hugging Face's trainer cannot resume without its state.
        needs_state = is_trainers_directory(directory.rpartition(b"/")[2])
        return self.has_weights and self.has_optimizer and (self.has_trainer_state or not needs_state)


def group_of(path: bytes) -> bytes:
    """Return the directory whose files may be one checkpoint together with *path*."""
    return enclosing(path.rpartition(b"/")[0])


def groups_say(entries: Iterable[Entry]) -> dict[bytes, str]:
    """Return, for each directory that is one checkpoint of several files, whether training can resume from it."""
    said = {}
    for directory, group in _groups(entries).items():
        is_one = is_named_for_all(directory) or group.is_distributed
        if group.is_resumable(directory) and (is_one or not group.has_whole_file):
            said[directory] = _AS_A_WHOLE
        elif is_one and group.has_weights:
            said[directory] = _NO_STATE if group.has_optimizer else _WEIGHTS_ONLY
    return said


def file_says(facts: Mapping[str, Fact]) -> str:
    """Return whether training can resume from a file that is a checkpoint by itself; nothing of a part of one."""
    if facts.get("framework") == OPTIMIZER_ALONE:
        return "optimizer's state"
    if _is_whole(facts):
        return "resumable"
    if facts.get("resumable") is not False or not has_weights(facts):
        return ""
    return "not for resuming: training has ended" if facts.get("has_optimizer") else _WEIGHTS_ONLY


def _is_whole(facts: Mapping[str, Fact]) -> bool:
    return facts.get("resumable") is True and facts.get("framework") != OPTIMIZER_ALONE


def _groups(entries: Iterable[Entry]) -> dict[bytes, _Group]:
    groups: dict[bytes, _Group] = defaultdict(_Group)
    for entry in entries:
        if entry.proof is not None or entry.path.endswith(STATE_NAME):
            facts = entry.proof.facts if entry.proof is not None else {}
            groups[group_of(entry.path)].add(entry.path.rpartition(b"/")[2], facts)
    return groups
