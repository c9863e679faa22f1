"""Write the files of a version from the repository, with damage to a pack confined to the files that need it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from mlsync.errors import Damage, Error, ObjectArchived, ObjectMissing, StoreError, TargetBlocked
from mlsync.monitor import Task
from mlsync.repository import names
from mlsync.repository.manifest import ChunkRef
from mlsync.repository.reader import ChunkReader, Plain
from mlsync.target.target import FilePlan, Target
from mlsync.versions.stored_file import FileSpan

#: The errors of one file, which leave the others as they are.
FILE_ERRORS: Final = (Damage, ObjectArchived, TargetBlocked)
# Rather than fetch more than this only to skip it, the writer begins a new stream.
_SKIPPED_BYTES_MAX: Final = 4 << 20


@dataclass(slots=True)
class Written:
    """What a ``FileWriter`` wrote."""

    count: int = 0
    size_bytes: int = 0


class FileWriter:
    """Writes files whose missing chunks come as one stream, so that one read fetches neighbours in a pack.

    Damage ends a stream. The writer tries the file that met it once more by itself, since the damaged chunk may belong
    to a neighbour that the same read fetched; then a new stream continues with the other files. Files that need
    anything of a damaged pack come last, chunk by chunk. *fail* gets each file that could not be written,
    and *done* each that was.
    """

    def __init__(
        self,
        target: Target,
        reader: ChunkReader,
        task: Task,
        tick: Callable[[], None],
        fail: Callable[[bytes, Error], None],
        done: Callable[[FilePlan], None],
    ) -> None:
        self._target = target
        self._reader = reader
        self._task = task
        self._tick = tick
        self._fail = fail
        self._done = done
        self._written = Written()
        self._lost_packs: dict[str, Error] = {}

    def write(self, plans: list[FilePlan]) -> Written:
        """Write all files that can be written; return what that was."""
        last: list[FilePlan] = []
        while plans:
            stopped_at, damaged_pack = self._stream(plans)
            # Each round writes or defers at least one file, so the loop ends.
            rest = plans[stopped_at:]
            if damaged_pack is None:
                plans = rest
                continue
            last += rest[:1] + [plan for plan in rest[1:] if _needs(plan, damaged_pack)]
            plans = [plan for plan in rest[1:] if not _needs(plan, damaged_pack)]
        for plan in last:
            self._write_alone(plan)
        return self._written

    def _write_alone(self, plan: FilePlan) -> None:
        """Write a file that needs a damaged pack; where a pack is missing or archived as a whole, do not ask again."""
        lost = next((self._lost_packs[pack] for pack in map(_pack_key, plan.missing) if pack in self._lost_packs), None)
        if lost is None:
            self._write_one(plan, ((part, self._reader.one(_ref(part))) for part in plan.missing))
        else:
            self._note_failure(plan, lost)

    def _stream(self, plans: list[FilePlan]) -> tuple[int, str | None]:
        """Write files until the stream ends; return how many that were, and the key of the pack whose damage ended it.

        The key is ``None`` where all are written, or where a new stream is better than to go on with this one.
        """
        refs = (_ref(part) for plan in plans for part in plan.missing)
        chunks = self._reader.stream(refs, self._target.rooms(plans))
        for at, plan in enumerate(plans):
            fetched = _Fetched(plan, chunks)
            try:
                self._write_one(plan, fetched.contents())
            except _StreamEnded as ended:
                return at, ended.error.where or ""
            # The file failed halfway: the stream still has the rest of its chunks.
            skipped = plan.missing[fetched.count :]
            if not skipped:
                continue
            if sum(part.length for part in skipped) > _SKIPPED_BYTES_MAX:
                return at + 1, None
            try:
                for _ in skipped:
                    next(chunks)
            except FILE_ERRORS:
                return at + 1, None
        return len(plans), None

    def _write_one(self, plan: FilePlan, contents: Iterator[tuple[FileSpan, Plain | bytes]]) -> None:
        self._tick()
        try:
            self._target.write(plan, self._with_progress(contents))
        except FILE_ERRORS as error:
            self._note_failure(plan, error)
        else:
            self._written.count += 1
            self._written.size_bytes += plan.missing_bytes
            self._done(plan)

    def _note_failure(self, plan: FilePlan, error: Error) -> None:
        if isinstance(error, (ObjectMissing, ObjectArchived)) and error.where is not None:
            self._lost_packs[error.where] = error
        self._fail(plan.entry.path, error)

    def _with_progress(
        self, contents: Iterator[tuple[FileSpan, Plain | bytes]]
    ) -> Iterator[tuple[FileSpan, Plain | bytes]]:
        for part, plain in contents:
            yield part, plain
            self._task.advance(part.length)
            self._tick()


class _StreamEnded(Exception):
    """Damage that ended a stream; another class than damage that the file itself shows."""

    def __init__(self, error: Damage | StoreError) -> None:
        super().__init__(str(error))
        self.error = error


class _Fetched:
    """A file's missing chunks as the stream yields them; *count* of them by now."""

    def __init__(self, plan: FilePlan, chunks: Iterator[Plain]) -> None:
        self.count = 0
        self._plan = plan
        self._chunks = chunks

    def contents(self) -> Iterator[tuple[FileSpan, Plain]]:
        for part in self._plan.missing:
            try:
                plain = next(self._chunks)
            except (Damage, ObjectArchived) as error:
                raise _StreamEnded(error) from error
            self.count += 1
            yield part, plain


def _ref(part: FileSpan) -> ChunkRef:
    assert part.ref is not None
    return part.ref


def _needs(plan: FilePlan, pack: str) -> bool:
    return any(_pack_key(part) == pack for part in plan.missing)


def _pack_key(part: FileSpan) -> str:
    return names.pack(_ref(part).pack)
