"""Levels 1 and 2: what a file's own structure says, by a few random reads and without a device."""

from __future__ import annotations

from dataclasses import dataclass

from mlsync.formats.containers import NOT_UNDERSTOOD, read_content, read_layout
from mlsync.formats.faults import NotChecked, RecordDamaged
from mlsync.formats.layout import ByteSource, ContainerBroken, Content, Layout
from mlsync.formats.sniff import identify
from mlsync.proof.verdict import LEVEL_CONTAINER, LEVEL_MEANING, Finding


@dataclass(frozen=True, slots=True)
class Inspection:
    """What could be read of a file; *finding* is what ended the look at it early, if something did."""

    container: str | None
    layout: Layout | None = None
    content: Content | None = None
    finding: Finding | None = None


def inspect(source: ByteSource, path: bytes, level: int) -> Inspection:
    """Look at a file up to *level*, or as far as it can be understood."""
    container = identify(source, path)
    if container is None or level < LEVEL_CONTAINER:
        return Inspection(container)
    if container in NOT_UNDERSTOOD:
        return Inspection(container, finding=Finding(LEVEL_CONTAINER, "note", f"{container} is not looked into yet"))
    layout = None
    reached = LEVEL_CONTAINER
    try:
        layout = read_layout(source, container)
        if level < LEVEL_MEANING:
            return Inspection(container, layout)
        reached = LEVEL_MEANING
        return Inspection(container, layout, read_content(source, layout))
    except ContainerBroken as fault:
        return Inspection(container, layout, finding=_finding(fault, reached))


def _finding(fault: ContainerBroken, level: int) -> Finding:
    if isinstance(fault, RecordDamaged):
        level = LEVEL_CONTAINER
    return Finding(
        level, "note" if isinstance(fault, NotChecked) else "refuse", fault.reason, fault.record, fault.offset
    )
