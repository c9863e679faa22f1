"""``mlsync show``: what a version holds, how it was proved, and what went wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import click

from mlsync.backup.not_understood import in_words, not_understood
from mlsync.cli import candidates, output
from mlsync.cli.json import show_json
from mlsync.cli.options import VERSION_WORDS, Common, checked_version, common_options, run_option
from mlsync.cli.parsing import Command
from mlsync.cli.rollback import accept_rollback_option, look_for_rollback
from mlsync.repository.manifest import Entry, Manifest
from mlsync.repository.tokens import EntryKind
from mlsync.source.temporary_names import TEMPORARY_NAMES, is_temporary
from mlsync.values import Fact, Finding, Level, Proof, Severity
from mlsync.versions.logged import logged_facts
from mlsync.versions.proof_status import manifest_of, status_from_entries, status_from_summaries
from mlsync.versions.select import LATEST, find_run, find_version

_PROGRESS = ("epoch", "epochs", "step", "global_step", "best_fitness", "best_metric", "best_epoch", "best_step")
_PLACES_SHOWN = 3
# The facts of trainers' logs by path.
Logged: TypeAlias = Mapping[bytes, Mapping[str, Fact]]
_SAID = {Severity.NOTE: "note", Severity.WARN: "warn", Severity.REFUSE: "broken"}


@click.command("show", cls=Command, short_help="Show the files of a version and their proofs.")
@click.argument("version", required=False, callback=checked_version, shell_complete=candidates.words(*VERSION_WORDS))
@click.option(
    "--version",
    "version_option",
    callback=checked_version,
    metavar="VERSION",
    shell_complete=candidates.words(*VERSION_WORDS),
    help="The same as the argument, as other commands take it.",
)
@run_option
@accept_rollback_option
@common_options
def show_command(
    common: Common, version: str | None, version_option: str | None, run: str | None, accept_rollback: bool
) -> None:
    """Show the files of VERSION (a number, latest, resumable, best, or a time), their proofs, and what went wrong.

    Logs of trainers (trainer_state.json of Hugging Face, results.csv and args.yaml of Ultralytics) are shown with the
    training's progress and its best result.

    Files with the names of unfinished ones (.tmp*, tmp-checkpoint-*, *.tmp, *.part, *.partial,
    *.orbax-checkpoint-tmp*) are in no version unless keep_temporary is set in [[watch]].
    """
    if version and version_option:
        raise click.UsageError("VERSION is given twice: as an argument and with --version.")
    version = version or version_option or LATEST
    monitor = common.monitor()
    config = common.configuration()
    with common.session(config, monitor) as session:
        look_for_rollback(session, run, monitor, accept=accept_rollback, version=version)
        stored = find_version(session.repository, find_run(session.repository, run), version)
        later = session.repository.later_proofs(stored)
        manifest = manifest_of(session.repository, stored, later)
        logged = logged_facts(session.repository, manifest.entries)
    patterns = [watch.not_models for watch in config.watches if watch.run == manifest.root.run]
    unknown = tuple(not_understood(manifest.entries, patterns[0] if patterns else ()))
    if common.as_json:
        status = status_from_entries(status_from_summaries(stored, later), manifest.entries)
        common.emit(show_json(status, manifest, logged, unknown))
        return
    _print(manifest, logged)
    if unknown:
        output.say()
        output.say(in_words(unknown))


def _print(manifest: Manifest, logged: Logged) -> None:
    root, summary = manifest.root, manifest.root.summary
    output.say(f"run {root.run}, version {root.number}, made {output.moment(root.created_ns)}")
    output.say(f"from {output.path(root.directory)} on {root.host} by {root.writer}")
    output.say(
        f"{output.count(summary.file_count, 'file')}, {output.size(summary.size_bytes)}; "
        f"{output.size(summary.new_bytes)} new, {output.size(summary.stored_bytes)} stored"
    )
    for note in root.notes:
        output.say(f"note: {note}")
    if not any(is_temporary(part) for entry in manifest.entries for part in entry.path.split(b"/")):
        output.say(f"left out, if there were any: files named as unfinished ({TEMPORARY_NAMES})")
    output.say()
    rows = [
        _row(entry, root.required_level, logged.get(entry.path, {}))
        for entry in manifest.entries
        if entry.kind is not EntryKind.DIRECTORY
    ]
    output.table(("SIZE", "MODIFIED", "PROOF", "PATH", ""), rows, right=(0,))
    _print_findings(manifest)
    if root.troubles:
        output.say()
    for trouble in root.troubles:
        kept = f"the content of version {trouble.kept} is kept" if trouble.kept else "not in this version"
        output.say(f"{trouble.kind.name.lower()}: {output.path(trouble.path)}: {trouble.text}; {kept}")


def _print_findings(manifest: Manifest) -> None:
    """Print each finding once, however many checkpoints have it."""
    places: dict[tuple[str, str], list[str]] = {}
    for entry in manifest.entries:
        said = (
            [(_SAID[finding.severity], finding.what + _place(finding)) for finding in entry.proof.findings]
            if entry.proof
            else []
        )
        if entry.proof and entry.proof.is_pending(manifest.root.required_level):
            said.append(("pending", entry.proof.shortfall))
        elif entry.proof and entry.proof.shortfall and entry.proof.level == Level.NUMBERS:
            # No level requires it by default, but the configuration asked for level 5.
            said.append(("not loaded", entry.proof.shortfall))
        for line in said:
            places.setdefault(line, []).append(output.path(entry.path))
    if places:
        output.say()
    for (severity, what), paths in places.items():
        more = f" and {len(paths) - _PLACES_SHOWN} more" if len(paths) > _PLACES_SHOWN else ""
        output.say(f"{severity}: {', '.join(paths[:_PLACES_SHOWN])}{more}: {what}")


def _place(finding: Finding) -> str:
    """Return where a fault is, for the findings that a user will want to look up."""
    return finding.place if finding.severity is Severity.REFUSE else ""


def _row(entry: Entry, required_level: int, logged: Mapping[str, Fact]) -> tuple[str, ...]:
    proof, facts = "-", _facts(logged)
    if entry.proof is not None:
        proof = "broken" if entry.proof.is_broken else _reached(entry.proof, required_level)
        facts = _facts(entry.proof.facts)
    path = output.path(entry.path)
    if entry.kind in (EntryKind.SYMLINK, EntryKind.HARD_LINK):
        path += (" -> " if entry.kind is EntryKind.SYMLINK else " = ") + output.path(entry.target)
    size = output.size(entry.size_bytes) if entry.kind is EntryKind.FILE else "-"
    return (size, output.moment(entry.mtime_ns), proof, path, facts)


def _reached(proof: Proof, required_level: int) -> str:
    return output.level(proof.level, proof.device, required_level if proof.is_pending(required_level) else None)


def _facts(facts: Mapping[str, Fact]) -> str:
    """Return what a person looks for first: the framework, the progress, whether training can resume from here."""
    parts = [] if facts.get("framework") in (None, "plain") else [str(facts["framework"])]
    parts += [f"{name.replace('_', ' ')} {facts[name]}" for name in _PROGRESS if name in facts]
    if "parameter_count" in facts:
        parts.append(f"{facts['parameter_count']:,} {facts.get('dtypes', '')} parameters".replace("  ", " "))
    if "resumable" in facts:
        parts.append("resumable" if facts["resumable"] else "not resumable")
    return ", ".join(parts)
