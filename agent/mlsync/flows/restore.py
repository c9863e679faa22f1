"""Bring a version back: whole or in part, to a new place or over what is there.

Each file is written under a temporary name beside its place, checked, made durable and renamed: under its final name
stands the old content or the whole new one, never half of either. What is there already and right is left alone; what a
killed restore left behind is used.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec

from mlsync.errors import PathMissing, Stopped, TargetFull
from mlsync.flows.archived import naming_all_archived
from mlsync.flows.restored_file import Part
from mlsync.flows.target import Plan, Target
from mlsync.monitor import Monitor, Task
from mlsync.repository.manifest import ChunkRef, Entry, Manifest
from mlsync.repository.reader import ChunkReader, Plain
from mlsync.repository.repository import Repository
from mlsync.repository.tokens import EntryKind
from mlsync.source.paths import display


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """What to restore (*paths*: all where empty) and whether to *delete* what the version does not hold."""

    paths: tuple[bytes, ...] = ()
    delete: bool = False
    stop: Callable[[], bool] = lambda: False


@dataclass(slots=True)
class RestoreResult:
    """What a restore did."""

    run: str
    version: int
    directory: bytes
    file_count: int = 0
    written_count: int = 0
    unchanged_count: int = 0
    deleted_count: int = 0
    size_bytes: int = 0
    written_bytes: int = 0
    read_bytes: int = 0
    seconds: float = 0.0


@naming_all_archived
def restore(
    repository: Repository, manifest: Manifest, directory: bytes, options: RestoreOptions, monitor: Monitor
) -> RestoreResult:
    """Return when the directory holds the version, durable; see ``RestoreOptions`` for what else may stand there.

    Raises ``PathMissing``, ``TargetBlocked``, ``TargetFull``, ``Stopped`` or ``Damage``; files that were finished by
    then stand, all others are as they were, and running it again goes on from there.
    """
    started_s = time.monotonic()
    entries = _selected(manifest, options.paths)
    result = RestoreResult(manifest.run, manifest.number, directory)
    target = Target(directory, repository.is_chunk)
    target.make_directories(entries)
    files = [entry for entry in entries if entry.kind is EntryKind.FILE]
    result.file_count, result.size_bytes = len(files), sum(entry.size_bytes for entry in files)
    with monitor.task(f"{manifest.run} version {manifest.number}: comparing", result.size_bytes) as task:
        plans = [plan for entry in files if (plan := _compare(target, entry, result, task, options)) is not None]
    missing_bytes = sum(part.length for plan in plans for part in plan.missing)
    _refuse_full(target, sum(plan.needed_bytes for plan in plans))
    with (
        repository.reader() as reader,
        monitor.task(f"{manifest.run} version {manifest.number}: restoring", missing_bytes) as task,
    ):
        _write_files(target, plans, reader, task, options)
        result.read_bytes = reader.read_bytes
    result.written_count, result.written_bytes = len(plans), missing_bytes
    target.make_links(entries)
    if options.delete and not options.paths:
        result.deleted_count = target.delete_others(entries)
    target.finish_directories(entries)
    result.seconds = time.monotonic() - started_s
    return result


def _selected(manifest: Manifest, paths: tuple[bytes, ...]) -> list[Entry]:
    """Return the entries at and below *paths* with the directories above them; ``PathMissing`` if one names nothing."""
    if not paths:
        return list(manifest.entries)
    wanted = []
    above: set[bytes] = set()
    for path in (os.path.normpath(path).strip(b"/") for path in paths):
        found = [entry for entry in manifest.entries if entry.path == path or entry.path.startswith(path + b"/")]
        if not found:
            raise PathMissing(
                f"version {manifest.number} holds nothing at {display(path)}", where=f"run {manifest.run}"
            )
        wanted += found
        parts = path.split(b"/")
        above |= {b"/".join(parts[:count]) for count in range(1, len(parts))}
    chosen = {entry.path: entry for entry in wanted}
    chosen |= {entry.path: entry for entry in manifest.entries if entry.path in above}
    by_path = {entry.path: entry for entry in manifest.entries}
    for entry in wanted:
        # A hard link alone becomes a file of its own, with the content of the file that it is a link to.
        if entry.kind is EntryKind.HARD_LINK and entry.target not in chosen:
            chosen[entry.path] = _as_file(entry, by_path[entry.target])
    return [chosen[path] for path in sorted(chosen)]


def _as_file(link: Entry, content: Entry) -> Entry:
    return msgspec.structs.replace(content, path=link.path)


def _compare(target: Target, entry: Entry, result: RestoreResult, task: Task, options: RestoreOptions) -> Plan | None:
    _obey_stop(options)
    plan = target.plan(entry)
    task.advance(entry.size_bytes)
    if plan is None:
        result.unchanged_count += 1
    return plan


def _refuse_full(target: Target, needed_bytes: int) -> None:
    free_bytes = target.free_bytes()
    if needed_bytes > free_bytes:
        what = f"the restore needs {needed_bytes} bytes and {free_bytes} are free"
        raise TargetFull(what, where=target.where, advice="no file was changed")


def _write_files(target: Target, plans: list[Plan], reader: ChunkReader, task: Task, options: RestoreOptions) -> None:
    """Write all files; their missing chunks come as one stream, so that neighbours in a pack are fetched together."""
    chunks = reader.stream(_refs(plans))
    for plan in plans:
        _obey_stop(options)
        target.write(plan, _contents(plan, chunks, task, options))


def _refs(plans: list[Plan]) -> Iterator[ChunkRef]:
    for plan in plans:
        for part in plan.missing:
            assert part.ref is not None
            yield part.ref


def _contents(plan: Plan, chunks: Iterator[Plain], task: Task, options: RestoreOptions) -> Iterator[tuple[Part, Plain]]:
    for part in plan.missing:
        plain = next(chunks)
        yield part, plain
        task.advance(part.length)
        _obey_stop(options)


def _obey_stop(options: RestoreOptions) -> None:
    if options.stop():
        raise Stopped("the restore was asked to stop", advice="run it again to go on")
