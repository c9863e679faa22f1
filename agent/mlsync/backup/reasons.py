"""Why a version exists that stored nothing new: what it holds otherwise than the last one, in words for people."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from mlsync.backup.record import Action, Record, Status
from mlsync.backup.records import Records, is_same_but_times
from mlsync.backup.request import Source
from mlsync.backup.storing.avoided import Avoided
from mlsync.repository.encoding.tokens import EntryKind, TroubleKind
from mlsync.repository.manifest import Entry, Trouble
from mlsync.source.exclude import Excludes
from mlsync.source.paths import display
from mlsync.source.temporary_names import is_temporary

_NOUNS: Final[Mapping[EntryKind, tuple[str, str]]] = {
    EntryKind.FILE: ("file", "files"),
    EntryKind.HARD_LINK: ("hard link", "hard links"),
    EntryKind.SYMLINK: ("symbolic link", "symbolic links"),
    EntryKind.DIRECTORY: ("directory", "directories"),
}
# What is said of one path, or of several; in this order.
_SAID: Final = (
    ("lost", "{} {was} lost or damaged in the store"),
    ("removed", "{} {was} removed"),
    ("excluded", "{} {is} excluded now"),
    ("unfinished", "{} {has} the name of an unfinished file"),
    ("broken", "{} {does} not load"),
    ("kept", "{} {is} kept as an earlier version has it"),
    ("released", "{} {was} held back until now"),
    ("let in", "{} {was} refused by an earlier policy"),
    ("added", "{} {was} added"),
    ("known", "the content of {} was stored by an earlier backup"),
    ("same content", "{} changed to content that was stored before"),
    ("kind", "{} {is} of another kind"),
    ("target", "{} {leads} to another place"),
    ("mode", "the mode of {} changed"),
    ("owner", "the owner of {} changed"),
    ("attributes", "the extended attributes of {} changed"),
)
_ONE: Final = {"was": "was", "is": "is", "has": "has", "does": "does", "leads": "leads"}
_SEVERAL: Final = {"was": "were", "is": "are", "has": "have", "does": "do", "leads": "lead"}


def reasons(records: Records, troubles: Iterable[Trouble], source: Source, avoided: Avoided) -> tuple[str, ...]:
    """Return what differs from the last version, each in a few words; *troubles* are those of the new version.

    One path is named, several are counted.
    """
    parent, changes = records.parent, defaultdict[str, list[Entry]](list)
    for what, entry in _changes(records, source):
        changes[what].append(entry)
    for trouble in troubles:
        if _is_news(trouble, parent.troubles):
            where = Entry(trouble.path, EntryKind.FILE, 0, 0, 0, 0)
            known = {entry.path for entry in changes["broken"]}
            changes["broken"] += [] if trouble.path in known else [where]
    said = [_said(form, changes[what]) for what, form in _SAID if changes[what]]
    if parent.is_step_back:
        said.insert(0, "the newest version does not open any more")
    elif not avoided.lost.isdisjoint(parent.packs()):
        said.insert(0, f"part of version {parent.number} is lost or damaged in the store")
    return tuple(said)


def _changes(records: Records, source: Source) -> Iterator[tuple[str, Entry]]:
    """Yield each entry that only one of the two versions has, or that differs, with what happened to it."""
    old, new = records.parent.entries, records.entries
    excludes = Excludes(source.exclude)
    for path, entry in new.items():
        before = old.get(path)
        if before is None:
            yield _how_it_came(records.record(path), entry), entry
        elif before is not entry and not is_same_but_times(entry, before):
            yield _how_it_changed(records.record(path), entry, before), entry
    for path, entry in old.items():
        if path not in new:
            yield _how_it_went(records.record(path), entry, source, excludes), entry


def _how_it_came(record: Record | None, entry: Entry) -> str:
    if record is None or record.action is not Action.TAKE:
        return "kept"
    if record.was_held:
        return "released"
    if record.cached is not None and record.cached.row.refused_by:
        return "let in"
    return "known" if entry.kind is EntryKind.FILE and record.status is Status.UNCHANGED else "added"


def _how_it_changed(record: Record | None, entry: Entry, before: Entry) -> str:
    if entry.kind is not before.kind:
        return "kind"
    if entry.target != before.target:
        return "target"
    same = (entry.digest, entry.size_bytes, entry.holes) == (before.digest, before.size_bytes, before.holes)
    if same and entry.mode != before.mode:
        return "mode"
    if same and (entry.uid, entry.gid) != (before.uid, before.gid):
        return "owner"
    if same and entry.room != before.room:
        return "attributes"
    how = _how_it_came(record, entry)
    return "same content" if how == "added" else how


def _how_it_went(record: Record | None, entry: Entry, source: Source, excludes: Excludes) -> str:
    if record is not None and record.trouble is not None:
        return "broken" if record.trouble.kind is TroubleKind.BROKEN else "lost"
    if record is not None and record.held is not None:
        return "kept"
    parts = entry.path.split(b"/")
    if not source.keep_temporary and any(map(is_temporary, parts)):
        return "unfinished"
    above = [b"/".join(parts[:count]) for count in range(1, len(parts))]
    is_directory = entry.kind is EntryKind.DIRECTORY
    if excludes.match(entry.path, is_directory=is_directory) or any(
        excludes.match(p, is_directory=True) for p in above
    ):
        return "excluded"
    return "removed"


def _is_news(trouble: Trouble, known: Mapping[bytes, Trouble]) -> bool:
    """Return whether a trouble alone is worth a version: a refusal that the last version does not name."""
    before = known.get(trouble.path)
    return trouble.kind is TroubleKind.BROKEN and (before is None or before.text != trouble.text)


def _said(form: str, entries: list[Entry]) -> str:
    if len(entries) == 1:
        return form.format(_named(entries[0]), **_ONE)
    counted = Counter(entry.kind for entry in entries)
    nouns = [f"{counted[kind]} {noun[counted[kind] > 1]}" for kind, noun in _NOUNS.items() if counted[kind]]
    return form.format(_listed(nouns), **_SEVERAL)


def _named(entry: Entry) -> str:
    return display(entry.path) + ("/" if entry.kind is EntryKind.DIRECTORY else "")


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
