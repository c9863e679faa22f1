"""``mlsync show``: what a version holds, how it was proved, and what went wrong with it."""

from __future__ import annotations

import click

from mlsync.cli import output
from mlsync.cli.backup import trouble_json
from mlsync.cli.options import Common, common_options
from mlsync.cli.versions import version_json
from mlsync.flows.select import LATEST, find_run, find_version
from mlsync.repository.manifest import Entry, Manifest, Proof
from mlsync.repository.tokens import EntryKind

_SHOWN_FACTS = ("framework", "epoch", "step", "global_step", "best_fitness", "parameter_count", "dtypes", "resumable")


@click.command("show", short_help="Show the files of a version and their proofs.")
@click.argument("version", default=LATEST)
@click.option("--run", metavar="NAME", help="The run; not needed where there is one only.")
@common_options
def show_command(common: Common, version: str, run: str | None) -> None:
    """Show the files of VERSION (a number, latest, or a time), their sizes, their proofs, and what went wrong."""
    monitor = common.monitor()
    with common.session(common.configuration(), monitor) as session:
        stored = find_version(session.repository, find_run(session.repository, run), version)
        manifest = session.repository.manifest(stored)
    if common.as_json:
        details = {
            "entries": [_entry_json(entry) for entry in manifest.entries],
            "troubles": [trouble_json(trouble) for trouble in manifest.troubles],
        }
        output.emit(version_json(stored.root) | details)
        return
    _print(manifest)


def _print(manifest: Manifest) -> None:
    summary = manifest.summary
    click.echo(f"run {manifest.run}, version {manifest.number}, made {output.moment(manifest.created_ns)}")
    click.echo(f"from {output.path(manifest.directory)} on {manifest.host} by {manifest.writer}")
    click.echo(
        f"{summary.file_count} files, {output.size(summary.size_bytes)}; "
        f"{output.size(summary.new_bytes)} new, {output.size(summary.stored_bytes)} stored"
    )
    click.echo()
    rows = [_row(entry, manifest.required_level) for entry in manifest.entries if entry.kind is not EntryKind.DIRECTORY]
    output.table(("SIZE", "MODIFIED", "PROOF", "PATH", ""), rows, right=(0,))
    for entry in manifest.entries:
        for finding in entry.proof.findings if entry.proof else ():
            click.echo(f"  {output.path(entry.path)}: {finding.severity.name.lower()}: {finding.what}")
    if manifest.troubles:
        click.echo()
    for trouble in manifest.troubles:
        kept = f"the content of version {trouble.kept} stands" if trouble.kept else "not in this version"
        click.echo(f"{trouble.kind.name.lower()}: {output.path(trouble.path)}: {trouble.text}; {kept}")


def _row(entry: Entry, required_level: int) -> tuple[str, ...]:
    proof, facts = "-", ""
    if entry.proof is not None:
        proof = output.level(entry.proof.level, required_level, entry.proof.device)
        facts = _facts(entry.proof)
    path = output.path(entry.path)
    if entry.kind in (EntryKind.SYMLINK, EntryKind.HARD_LINK):
        path += (" -> " if entry.kind is EntryKind.SYMLINK else " = ") + output.path(entry.target)
    size = output.size(entry.size_bytes) if entry.kind is EntryKind.FILE else "-"
    return (size, output.moment(entry.mtime_ns), proof, path, facts)


def _facts(proof: Proof) -> str:
    return ", ".join(f"{name} {proof.facts[name]}" for name in _SHOWN_FACTS if name in proof.facts)


def _entry_json(entry: Entry) -> dict[str, object]:
    return {
        "path": output.path(entry.path),
        "kind": entry.kind.name.lower(),
        "mode": f"{entry.mode:04o}",
        "modified": output.iso(entry.mtime_ns),
        "size_bytes": entry.size_bytes,
        "target": output.path(entry.target) if entry.target else None,
        "chunk_count": len(entry.chunks),
        "stored_bytes": sum(ref.stored_bytes for ref in entry.chunks),
        "proof": proof_json(entry.proof) if entry.proof else None,
    }


def proof_json(proof: Proof) -> dict[str, object]:
    """Return a proof as docs/json.md describes it."""
    return {
        "level": proof.level,
        "container": proof.container,
        "device": proof.device or None,
        "torch": proof.torch or None,
        "proved": output.iso(proof.proved_ns),
        "seconds": proof.seconds,
        "tensor_count": proof.tensor_count,
        "tensor_bytes": proof.tensor_bytes,
        "facts": proof.facts,
        "shortfall": proof.shortfall or None,
        "findings": [
            {
                "level": finding.level,
                "severity": finding.severity.name.lower(),
                "what": finding.what,
                "record": finding.record,
                "offset": finding.offset,
            }
            for finding in proof.findings
        ],
    }
