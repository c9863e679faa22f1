"""Show the difference between two versions to a person: on one screen, unless all of it is asked for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from mlsync.app.wrapping import cells, joined
from mlsync.cli.terminal import output
from mlsync.cli.terminal.table import TextTable
from mlsync.diff.checkpoint import FATES, CheckpointDiff, FactChange, Fate, TensorDiff, rank
from mlsync.diff.diff import DiffResult, FileDiff
from mlsync.formats.layout import Tensor
from mlsync.repository.encoding.tokens import EntryKind
from mlsync.repository.manifest import Entry, ManifestRoot
from mlsync.source.paths import natural
from mlsync.values import Fact

if TYPE_CHECKING:
    # numpy would come with it.
    from mlsync.diff.drift import Drift

# Together at most forty lines, which fit on a screen.
TENSORS_SHOWN: Final = 10
_FILES_SHOWN: Final = 8
_CHECKPOINTS_SHOWN: Final = 3
_NAME_CHARS_MIN: Final = 20
_CUT: Final = "..."
# Where a part of a tensor's name begins
_PART: Final = re.compile(r"(?<=[./])(?=[^./])")
_LEGEND: Final = "MOVED: ||B-A|| / ||A||. LARGEST: change of a number. CHANGED: share of them."
_FATE: Final[dict[Fate, str]] = {
    "changed": "changed",
    "reshaped": "reshaped",
    "not_compared": "not compared",
    "new": "new",
    "gone": "gone",
}
# Movements from here on are shown without decimals, and larger ones with three digits.
_WHOLE_PERCENT: Final = 1000
_LONG_PERCENT: Final = 1_000_000


def print_report(result: DiffResult, tensor_count: int) -> None:
    """Print what differs, with *tensor_count* tensors; 0 means all of them and every file."""
    before = _side(result.before, result.before_path)
    after = _side(result.after, result.after_path)
    output.say_wrapped(f"{result.after.run}: {before} -> {after}")
    output.say_wrapped(f"{_changes(result.files)}{result.same_count} the same; {output.size(result.new_bytes)} new")
    _print_numbers(result)
    if result.files:
        output.say()
        _print_files(result.files, is_whole=tensor_count == 0)
    _print_checkpoints(result.files, tensor_count)


def _print_numbers(result: DiffResult) -> None:
    """Print what was measured of both versions, of one of them where the other was not evaluated."""
    if not result.numbers:
        return
    output.say()
    table = TextTable(("NUMBER", "A", "B", "B - A"), (1, 2, 3))
    for name, (before, after) in result.numbers.items():
        moved = "-" if before is None or after is None else f"{after - before:+.6g}"
        table.row(output.number_name(name), *("-" if one is None else f"{one:.6g}" for one in (before, after)), moved)
    output.print_table(table)


def _side(root: ManifestRoot, path: bytes | None) -> str:
    version = f"version {root.number} ({output.zoned(root.created_ns)})"
    return version if path is None else f"{output.path(path) or '.'} of {version}"


# ---------------------------------------------------------------- files


def _changes(files: Iterable[FileDiff]) -> str:
    counts = Counter(file.change for file in files)
    return "".join(f"{number} {change}, " for change, number in counts.items())


def _print_files(files: list[FileDiff], *, is_whole: bool) -> None:
    ordered = sorted(files, key=lambda file: natural(file.path))
    shown = len(files) if is_whole or len(files) <= _FILES_SHOWN else _FILES_SHOWN - 1
    table = TextTable(("", "SIZE", "NEW", "PATH"), (1, 2), "; ")
    for file in ordered[:shown]:
        _add_file(table, file)
    output.print_table(table)
    if shown < len(files):
        more = f"and {len(files) - shown} more: {_changes(ordered[shown:])}which --tensors 0 shows"
        output.say_wrapped(more)


def _add_file(table: TextTable, file: FileDiff) -> None:
    after = file.after
    sizes = [output.size(entry.size_bytes) if entry.kind is EntryKind.FILE else "-" for entry in _entries(file)]
    is_content = after is not None and after.kind is EntryKind.FILE and file.change in ("came", "changed")
    new = output.size(file.new_bytes) if is_content else "-"
    table.row(file.change, " -> ".join(dict.fromkeys(sizes)), new, output.path(file.path), remarks=tuple(_notes(file)))


def _entries(file: FileDiff) -> list[Entry]:
    return [entry for entry in (file.before, file.after) if entry is not None]


def _notes(file: FileDiff) -> Iterable[str]:
    """Yield what else changed: the path, the kind, the mode and the owner."""
    before, after = file.before, file.after
    if before is not None and after is not None:
        if file.change in ("renamed", "copied"):
            yield f"was {output.path(before.path)}"
        if before.kind is not after.kind:
            yield f"{_kind(before)} -> {_kind(after)}"
        if before.mode != after.mode:
            yield f"mode {before.mode:04o} -> {after.mode:04o}"
        if (before.uid, before.gid) != (after.uid, after.gid):
            yield f"owner {before.uid}:{before.gid} -> {after.uid}:{after.gid}"
        if before.room != after.room:
            yield "extended attributes changed"
    entry = after or before
    if entry is not None and entry.target:
        yield f"{_kind(entry)} to {output.path(entry.target)}"
    elif entry is not None and entry.kind is EntryKind.DIRECTORY:
        yield _kind(entry)


def _kind(entry: Entry) -> str:
    return entry.kind.name.lower().replace("_", " ")


# ---------------------------------------------------------------- checkpoints


def _print_checkpoints(files: Iterable[FileDiff], tensor_count: int) -> None:
    """Print a block for each checkpoint; equal ones, such as last and best, share one."""
    blocks: dict[int, tuple[CheckpointDiff, list[str]]] = {}
    for file in files:
        if file.checkpoint is not None:
            blocks.setdefault(id(file.checkpoint), (file.checkpoint, []))[1].append(output.path(file.path))
    ranked = sorted(
        blocks.values(), key=lambda block: min(map(rank, block[0].tensors), default=(len(FATES), False, 0.0))
    )
    shown = ranked[: _CHECKPOINTS_SHOWN if tensor_count else None]
    tensors = sorted((tensor for checkpoint, _ in shown for tensor in checkpoint.tensors), key=rank)
    chosen = {id(tensor) for tensor in tensors[: tensor_count or None]}
    for checkpoint, paths in shown:
        output.say()
        _print_checkpoint(checkpoint, paths, [tensor for tensor in checkpoint.tensors if id(tensor) in chosen])
    if len(shown) < len(ranked):
        more = output.count(len(ranked) - len(shown), "more checkpoint")
        output.say_wrapped(f"and {more}, which --tensors 0 or a PATH shows")
    if any(tensor.drift is not None for tensor in tensors[: tensor_count or None]):
        output.say()
        output.say_wrapped(_LEGEND)


def _print_checkpoint(checkpoint: CheckpointDiff, paths: list[str], tensors: list[TensorDiff]) -> None:
    output.say_wrapped(joined(paths))
    if checkpoint.facts:
        _say_below(joined(_fact(name, change) for name, change in checkpoint.facts.items()))
    if checkpoint.why_not:
        _say_below(f"compared as a plain file ({checkpoint.why_not})")
        return
    _say_below(f"tensors: {joined([*_counts(checkpoint), f'{checkpoint.same_count} the same'])}")
    if tensors:
        output.print_table(_tensor_table(tensors))


def _say_below(text: str) -> None:
    output.say_wrapped(text, first="  ", rest="    ")


def _counts(checkpoint: CheckpointDiff) -> Iterable[str]:
    """Yield how many tensors changed in each way, and how many of them are the optimizer's."""
    for fate in FATES:
        tensors = [tensor for tensor in checkpoint.tensors if tensor.fate == fate]
        of_optimizer = sum(tensor.is_optimizers for tensor in tensors)
        if tensors:
            yield f"{len(tensors)} {_FATE[fate]}" + (f" ({of_optimizer} the optimizer's)" if of_optimizer else "")


def _fact(name: str, change: FactChange) -> str:
    was, now = (_value(value) for value in change)
    return f"{name.replace('_', ' ')} {was} -> {now}"


def _value(value: Fact | None) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) else value


def _tensor_table(tensors: list[TensorDiff]) -> TextTable:
    """Return the tensors with their names as far as they fit beside the numbers."""
    whole = _named_table(tensors, None)
    if whole.fits(output.width()):
        return whole
    longest = max(cells(output.printable(tensor.name)) for tensor in tensors)
    return _named_table(tensors, max(output.width() - whole.width() + longest, _NAME_CHARS_MIN))


def _named_table(tensors: list[TensorDiff], name_chars: int | None) -> TextTable:
    table = TextTable(("MOVED", "LARGEST", "CHANGED", "DTYPE", "SHAPE", "TENSOR"), (0, 1, 2), "; ")
    for tensor in tensors:
        name = output.printable(tensor.name)
        table.row(
            *_numbers(tensor), name if name_chars is None else _shortened(name, name_chars), remarks=[*_remarks(tensor)]
        )
    return table


def _numbers(tensor: TensorDiff) -> tuple[str, ...]:
    drift = tensor.drift
    forms = [form for form in (tensor.before, tensor.after) if form is not None]
    moved = _FATE[tensor.fate] if drift is None else _moved(drift)
    largest = "-" if drift is None or drift.largest is None else f"{drift.largest:.3g}"
    changed = "-" if drift is None else _percent(drift.changed_count / drift.number_count)
    dtype = " -> ".join(dict.fromkeys(form.dtype for form in forms))
    shape = " -> ".join(dict.fromkeys(_shape(form) for form in forms))
    return moved, largest, changed, dtype, shape


def _moved(drift: Drift) -> str:
    if drift.relative is not None:
        return _percent(drift.relative)
    return "from 0" if drift.moved_norm else "-"


def _percent(share: float) -> str:
    percent = 100 * share
    if _WHOLE_PERCENT <= percent < _LONG_PERCENT:
        return f"{percent:,.0f} %"
    return f"{percent:#.3g}".rstrip(".") + " %"


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _shortened(name: str, chars: int) -> str:
    """Return the end of a name, which says more, from a dot or slash on; the last part at least, however long."""
    if cells(name) <= chars:
        return name
    starts = [found.start() for found in _PART.finditer(name)]
    fitting = (at for at in starts if len(_CUT) + cells(name[at:]) <= chars)
    at = next(fitting, starts[-1] if starts else 0)
    return _CUT + name[at:] if at else name


def _remarks(tensor: TensorDiff) -> Iterable[str]:
    drift = tensor.drift
    if drift is not None and drift.left_out_count:
        before, after = drift.before_nonfinite_count, drift.after_nonfinite_count
        yield f"{after:,} NaN or infinite, {before:,} before, left out"
    if tensor.note:
        yield tensor.note
