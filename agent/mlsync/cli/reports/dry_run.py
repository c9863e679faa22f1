"""``mlsync backup --dry-run``: what a backup would read, store and leave out, by directory."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from mlsync.backup.preview import LeftOutGroup, Preview, PreviewedDirectory, Reason, Tally
from mlsync.cli.terminal import output
from mlsync.cli.terminal.output import count, size
from mlsync.cli.terminal.progress_line import cut_path
from mlsync.source.paths import natural

_ROWS_MAX: Final = 20
_GROUPS_MAX: Final = 10
_PATHS_MAX: Final = 3
_DIRECTORY_MIN: Final = 20
# Of a pipe, whose lines nobody cuts.
_ANY_WIDTH: Final = 10_000
_COLUMNS: Final[Mapping[str, Callable[[PreviewedDirectory], Tally]]] = {
    "TO READ": lambda one: one.read,
    "UNCHANGED": lambda one: one.unchanged,
    "LEFT OUT": lambda one: one.left_out,
}
_WHY: Final = {
    Reason.EXCLUDED: 'excluded by "{}"',
    Reason.UNFINISHED: "{} (keep_temporary = true includes it)",
    Reason.SPECIAL: "{}",
    Reason.UNREADABLE: "{}",
    Reason.NOT_TAKEN: "not taken as it is: {}",
}


def show(previews: list[Preview], *, verbose: bool) -> None:
    """Print each preview: a table of directories, what is left out and why, and what it comes to."""
    for number, one in enumerate(previews):
        if number:
            output.say()
        _show_one(one, verbose=verbose)


def _show_one(one: Preview, *, verbose: bool) -> None:
    run = one.source.run
    seen = f"compared with version {one.previous}" if one.previous else "this machine has made no version of it"
    output.say_wrapped(f"{run}: {output.path(one.source.directory)}, {seen}")
    if one.directories and (verbose or not one.is_nothing):
        output.say()
        _say_table(one, verbose=verbose)
    if one.groups:
        output.say()
        _say_groups(one, verbose=verbose)
    output.say()
    output.say_wrapped(f"{run}: {_total(one)}")


def _say_table(one: Preview, *, verbose: bool) -> None:
    lines = _lines(one, verbose=verbose)
    total = PreviewedDirectory(one.read, one.unchanged, one.left_out)
    lines.append(("total", total))
    headings = [heading for heading, tally in _COLUMNS.items() if tally(total).count]
    cells = [[_cells(_COLUMNS[heading](directory)) for heading in headings] for _, directory in lines]
    widths = [
        (max(5, *(len(row[place][0]) for row in cells)), max(8, *(len(row[place][1]) for row in cells)))
        for place in range(len(headings))
    ]
    room = max(_width() - sum(left + right + 4 for left, right in widths), _DIRECTORY_MIN)
    output.say("".join(f"{heading:>{a + b + 2}}  " for heading, (a, b) in zip(headings, widths, strict=True)).rstrip())
    output.say("".join(f"{'FILES':>{a}}  {'SIZE':>{b}}  " for a, b in widths) + "DIRECTORY")
    for (name, _), row in zip(lines, cells, strict=True):
        numbers = (f"{files:>{a}}  {text:>{b}}  " for (files, text), (a, b) in zip(row, widths, strict=True))
        output.say("".join(numbers) + cut_path(name, room))


def _lines(one: Preview, *, verbose: bool) -> list[tuple[str, PreviewedDirectory]]:
    """Return the rows of the table: what is read first, the largest first; what only stays is one row."""
    if verbose:
        return [(_name(path), one.directories[path]) for path in sorted(one.directories, key=natural)]
    quiet = [found for found in one.directories.values() if not found.read.count and not found.left_out.count]
    busy = {path: found for path, found in one.directories.items() if found.read.count or found.left_out.count}
    ordered = sorted(_folded(busy).items(), key=_largest_first)
    shown = ordered if len(ordered) <= _ROWS_MAX else ordered[: _ROWS_MAX - 1]
    lines = [(_name(path), found) for path, found in shown]
    if rest := ordered[len(shown) :]:
        lines.append((f"({len(rest)} more; -v lists all)", _joined(found for _, found in rest)))
    if quiet:
        lines.append(("(all others)" if lines else "(all)", _joined(quiet)))
    return lines


def _folded(directories: Mapping[bytes, PreviewedDirectory]) -> dict[bytes, PreviewedDirectory]:
    """Return the directories with deep ones counted in those above them, as deep as fits a screen."""
    best: dict[bytes, PreviewedDirectory] = {}
    depth_max = max((path.count(b"/") + 1 for path in directories), default=0)
    for depth in range(1, depth_max + 1):
        names = {_at_depth(path, depth) for path in directories}
        if best and len(names) > _ROWS_MAX:
            break
        best = {name: PreviewedDirectory() for name in names}
        for path, directory in directories.items():
            _add(best[_at_depth(path, depth)], directory)
        if len(names) > _ROWS_MAX:
            break
    return best


def _at_depth(path: bytes, depth: int) -> bytes:
    return b"/".join(path.split(b"/")[:depth])


def _joined(directories: Iterable[PreviewedDirectory]) -> PreviewedDirectory:
    total = PreviewedDirectory()
    for one in directories:
        _add(total, one)
    return total


def _add(total: PreviewedDirectory, one: PreviewedDirectory) -> None:
    for tally in _COLUMNS.values():
        tally(total).count += tally(one).count
        tally(total).size_bytes += tally(one).size_bytes


def _largest_first(item: tuple[bytes, PreviewedDirectory]) -> tuple[int, int, tuple[object, bytes]]:
    path, one = item
    return -one.read.size_bytes, -one.unchanged.size_bytes - one.left_out.size_bytes, natural(path)


def _name(path: bytes) -> str:
    return f"{output.path(path)}/" if path else "./"


def _cells(tally: Tally) -> tuple[str, str]:
    return (f"{tally.count:,}", size(tally.size_bytes)) if tally.count else ("-", "-")


def _say_groups(one: Preview, *, verbose: bool) -> None:
    groups = sorted(one.groups.values(), key=lambda group: (-group.tally.size_bytes, -group.tally.count, group.what))
    shown = groups if verbose else groups[:_GROUPS_MAX]
    output.say("left out:")
    for group in shown:
        text = f"{_of(group)}: {_WHY[group.reason].format(group.what)}: {_paths(group, verbose=verbose)}"
        output.say_wrapped(text, first="  ", rest="    ")
    if len(groups) > len(shown):
        output.say(f"  and for {count(len(groups) - len(shown), 'more reason')} (-v lists them)")


def _of(group: LeftOutGroup) -> str:
    if group.tally.size_bytes:
        return f"{_counted(group.tally.count, 'file')}, {size(group.tally.size_bytes)}"
    return _counted(max(group.tally.count, len(group.paths)), "path")


def _paths(group: LeftOutGroup, *, verbose: bool) -> str:
    shown = group.paths if verbose else group.paths[:_PATHS_MAX]
    more = ", …" if len(group.paths) > len(shown) else ""
    return ", ".join(map(output.path, shown)) + more


def _total(one: Preview) -> str:
    """Return what the backup would come to."""
    if one.is_nothing and one.previous:
        return f"nothing changed since version {one.previous}; a backup would make no version"
    if one.previous and not one.read.count + one.unchanged.count:
        return f"no file is left of version {one.previous}; a backup would refuse that (status 43)"
    if not one.read.count and not one.previous:
        return "no file to back up yet"
    parts = [
        f"a backup would read {_counted(one.read.count, 'file')}, {size(one.read.size_bytes)}",
        f"and store at most {size(one.read.size_bytes)}",
    ]
    removed = f"; {_counted(one.removed_count, 'path')} of version {one.previous} would not be in the next"
    return ", ".join(parts) + (removed if one.removed_count else "") + ". Nothing was read or written."


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _width() -> int:
    return shutil.get_terminal_size((_ANY_WIDTH, 24)).columns
