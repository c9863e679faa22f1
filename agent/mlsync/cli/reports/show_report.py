"""Show a version to a person: its files by directory, their proofs, and what went wrong."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeAlias

from mlsync import xattrs
from mlsync.app.wrapping import joined
from mlsync.cli.terminal import output
from mlsync.cli.terminal.table import TextTable
from mlsync.repository.encoding.tokens import EntryKind
from mlsync.repository.evaluation import Evaluation
from mlsync.repository.history.decision import Pin
from mlsync.repository.history.registered import Registered
from mlsync.repository.manifest import Entry, Manifest, ManifestRoot
from mlsync.source.paths import natural
from mlsync.source.temporary_names import is_temporary
from mlsync.values import Fact, Finding, Level, Proof, Severity
from mlsync.versions.hidden_proofs import HiddenProofs
from mlsync.versions.resume_status import file_says, group_of, groups_say

# The facts of trainers' logs by path.
Logged: TypeAlias = Mapping[bytes, Mapping[str, Fact]]
_PROGRESS: Final = ("epoch", "epochs", "step", "global_step", "best_fitness", "best_metric", "best_epoch", "best_step")
_PLACES_SHOWN: Final = 3
_HIDDEN_SHOWN: Final = 8
_SAID: Final = {Severity.NOTE: "note", Severity.WARN: "warn", Severity.REFUSE: "broken"}


def print_report(
    manifest: Manifest,
    logged: Logged,
    hidden: HiddenProofs | None = None,
    pin: Pin | None = None,
    registered: Iterable[Registered] = (),
    evaluations: Sequence[Evaluation] = (),
) -> None:
    """Print the version, its files in natural order by directory, and what was found in them, or is hidden."""
    root = manifest.root
    entries = sorted(manifest.entries, key=lambda entry: natural(entry.path))
    _print_summary(root)
    if pin is not None:
        output.say_wrapped(pinned(pin))
    for one in registered:
        output.say_wrapped(f"{registered_as(one)} at {one.place}")
    if hidden is not None:
        output.say_wrapped(f"proof hidden: {hidden}")
        for key in hidden.keys[:_HIDDEN_SHOWN]:
            output.say(f"  {key}")
        if len(hidden.keys) > _HIDDEN_SHOWN:
            output.say_wrapped(f"  and {len(hidden.keys) - _HIDDEN_SHOWN} more; mlsync check names all of them")
    # A manifest does not say whether there were any; one that has some shows that none were left out.
    if not any(is_temporary(part) for entry in entries for part in entry.path.split(b"/")):
        output.say_wrapped("left out, if any: unfinished files, such as *.tmp and *.part")
    output.say()
    output.print_table(_table(entries, root.required_level, logged))
    _print_evaluations(evaluations)
    for lines in (_parameters(entries), _findings(entries, root.required_level), _troubles(root)):
        for number, line in enumerate(lines):
            if not number:
                output.say()
            output.say_wrapped(line)


def pinned(pin: Pin) -> str:
    """Return how a version is pinned, and why."""
    return "pinned" + (f" as {pin.name}" if pin.name else "") + (f": {pin.reason}" if pin.reason else "")


def registered_as(one: Registered) -> str:
    """Return as what a version is registered, or what of it."""
    return f"registered as {one.uri}" + (f" ({output.path(one.path)})" if one.path else "")


def _print_summary(root: ManifestRoot) -> None:
    summary = root.summary
    made = f"made {output.zoned(root.created_ns)}"
    output.say_wrapped(joined((f"run {root.run}", f"version {root.number}", made)))
    output.say_wrapped(f"from {output.path(root.directory)} on {root.host} by {root.writer}")
    held = joined((output.count(summary.file_count, "file"), output.size(summary.size_bytes)))
    new = joined((f"{output.size(summary.new_bytes)} new", f"{output.size(summary.stored_bytes)} stored"))
    output.say_wrapped(f"{held}; {new}")
    for note in root.notes:
        output.say_wrapped(f"note: {note}")


def _print_evaluations(evaluations: Sequence[Evaluation]) -> None:
    """Print the numbers that were measured: of each name the newest, and where it came from."""
    newest = {name: one for one in evaluations for name in one.by_name}
    if not newest:
        return
    output.say()
    table = TextTable(("NUMBER", "VALUE", "OF", f"EVALUATED ({output.zone(one.made_ns for one in evaluations)})"), (1,))
    for name, one in sorted(newest.items()):
        said = f"by {one.label} on {one.host}"
        table.row(
            output.number_name(name),
            f"{one.by_name[name]:.6g}",
            output.path(one.path) or "./",
            output.moment(one.made_ns),
            remarks=(said,),
        )
    output.print_table(table)


# ---------------------------------------------------------------- files


def _table(entries: list[Entry], required_level: int, logged: Logged) -> TextTable:
    """Return the files by directory, those of the run's directory first."""
    files = [entry for entry in entries if entry.kind is not EntryKind.DIRECTORY]
    table = TextTable(("SIZE", f"MODIFIED ({output.zone(entry.mtime_ns for entry in files)})", "PROOF", "NAME"), (0,))
    said = groups_say(entries)
    by_directory: dict[bytes, list[Entry]] = {group: [] for group in said}
    for entry in files:
        by_directory.setdefault(entry.path.rpartition(b"/")[0], []).append(entry)
    for directory in sorted(by_directory, key=lambda path: (path != b"", natural(path))):
        if directory or directory in said:
            table.head(_heading(directory, said.get(directory)))
        for entry in by_directory[directory]:
            _add(table, entry, required_level, logged.get(entry.path, {}), in_group=group_of(entry.path) in said)
    return table


def _heading(directory: bytes, said: str | None) -> str:
    name = f"{output.path(directory)}/" if directory else "./"
    return f"{name}: {said}" if said else name


def _add(table: TextTable, entry: Entry, required_level: int, logged: Mapping[str, Fact], *, in_group: bool) -> None:
    proof, remarks = "-", _progress(logged)
    if entry.proof is not None:
        proof = "broken" if entry.proof.is_broken else _reached(entry.proof, required_level)
        remarks = _progress(entry.proof.facts)
        if not in_group:
            remarks.append(file_says(entry.proof.facts))
    elif logged.get("framework"):
        remarks.insert(0, str(logged["framework"]))
    name = output.path(entry.path.rpartition(b"/")[2])
    if entry.kind in (EntryKind.SYMLINK, EntryKind.HARD_LINK):
        name += (" -> " if entry.kind is EntryKind.SYMLINK else " = ") + output.path(entry.target)
    size = output.size(entry.size_bytes) if entry.kind is EntryKind.FILE else "-"
    remarks += _attributes(entry)
    table.row(size, output.moment(entry.mtime_ns), proof, name, remarks=remarks)


def _reached(proof: Proof, required_level: int) -> str:
    return output.level(proof.level, proof.device, required_level if proof.is_pending(required_level) else None)


def _attributes(entry: Entry) -> list[str]:
    """Return that a file has an ACL, and how many attributes of users."""
    names = list((entry.room or {}).get(xattrs.ROOM_NAME, {}))
    own = [name for name in names if name.startswith("user.")]
    return ["ACL"] * (len(own) < len(names)) + [output.count(len(own), "extended attribute")] * bool(own)


def _progress(facts: Mapping[str, Fact]) -> list[str]:
    """Return how far training was; Ultralytics writes epoch -1 where there is no going on."""
    return [f"{name.replace('_', ' ')} {_number(facts[name])}" for name in _PROGRESS if facts.get(name, -1) != -1]


def _number(value: Fact) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


# ---------------------------------------------------------------- what several files have


def _parameters(entries: Iterable[Entry]) -> Iterator[str]:
    """Yield each kind of model once, however many checkpoints hold it."""
    places: dict[str, list[str]] = {}
    for entry in entries:
        facts: Mapping[str, Fact] = entry.proof.facts if entry.proof is not None else {}
        if facts.get("parameter_count"):
            dtypes = str(facts.get("dtypes", "")).replace(",", "/")
            what = f"{facts['parameter_count']:,} {dtypes} parameters".replace("  ", " ")
            framework = facts.get("framework")
            kind = what if framework in (None, "plain") else f"{what}, {framework}"
            places.setdefault(kind, []).append(output.path(entry.path))
    yield from (f"{kind}: {_some(paths)}" for kind, paths in places.items())


def _findings(entries: Iterable[Entry], required_level: int) -> Iterator[str]:
    """Yield each finding once, however many checkpoints have it."""
    places: dict[tuple[str, str], list[str]] = {}
    for entry in entries:
        if entry.proof is not None:
            for line in _said(entry.proof, required_level):
                places.setdefault(line, []).append(output.path(entry.path))
    yield from (f"{severity}: {_some(paths)}: {what}" for (severity, what), paths in places.items())


def _said(proof: Proof, required_level: int) -> Iterator[tuple[str, str]]:
    yield from ((_SAID[finding.severity], finding.what + _place(finding)) for finding in proof.findings)
    if proof.is_pending(required_level):
        yield "pending", proof.shortfall
    elif proof.shortfall and proof.level == Level.NUMBERS:
        # No level requires it by default, but the configuration asked for level 5.
        yield "not loaded", proof.shortfall


def _place(finding: Finding) -> str:
    """Return where a fault is, for the findings that a user will want to look up."""
    return finding.place if finding.severity is Severity.REFUSE else ""


def _some(paths: list[str]) -> str:
    more = f" and {len(paths) - _PLACES_SHOWN} more" if len(paths) > _PLACES_SHOWN else ""
    return joined(paths[:_PLACES_SHOWN]) + more


def _troubles(root: ManifestRoot) -> Iterator[str]:
    for trouble in root.troubles:
        kept = f"the content of version {trouble.kept} is kept" if trouble.kept else "not in this version"
        yield f"{trouble.kind.name.lower()}: {output.path(trouble.path)}: {trouble.text}; {kept}"
