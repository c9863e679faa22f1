"""``mlsync show``: what a version holds, how it was proved, and what went wrong with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import click

from mlsync.app.wording import listed
from mlsync.backup.checkpoints.not_understood import in_words, not_understood
from mlsync.cli.arguments import candidates
from mlsync.cli.arguments.options import VERSION_WORDS, Common, checked_version, common_options, run_option
from mlsync.cli.arguments.parsing import Command
from mlsync.cli.arguments.rollback import accept_rollback_option, look_for_rollback
from mlsync.cli.reports.digest_lines import digest_lines
from mlsync.cli.reports.json import show_json
from mlsync.cli.reports.show_report import print_report
from mlsync.cli.terminal import output
from mlsync.repository.manifest import Manifest
from mlsync.versions.decided import decided_of
from mlsync.versions.logged import logged_facts
from mlsync.versions.proof_status import manifest_of, status_from_entries, status_from_summaries
from mlsync.versions.run_proofs import proofs_of
from mlsync.versions.select import LATEST, find_run, find_version

_NAMED_MAX: Final = 3
_EXAMPLES = """\b
Examples:
  mlsync show best --run yolo
  mlsync show 12 --digests > digests
"""


@click.command("show", cls=Command, short_help="Show the files of a version and their proofs.", epilog=_EXAMPLES)
@click.argument("version", required=False, callback=checked_version, shell_complete=candidates.words(*VERSION_WORDS))
@click.option(
    "--version",
    "version_option",
    callback=checked_version,
    metavar="VERSION",
    shell_complete=candidates.words(*VERSION_WORDS),
    help="The same as the argument.",
)
@run_option
@click.option(
    "--digests",
    is_flag=True,
    help="Print the BLAKE3 of each file instead, in lines that b3sum --check reads in the restored directory.",
)
@accept_rollback_option
@common_options
def show_command(
    common: Common,
    version: str | None,
    version_option: str | None,
    run: str | None,
    digests: bool,
    accept_rollback: bool,
) -> None:
    """Show the files of a version, their proofs, and what went wrong.

    VERSION is a number, latest, resumable, best, a time, or the name of a pin; the last version if it is left out. What
    Hugging Face and Ultralytics logged is shown beside their files.
    """
    if version and version_option:
        raise click.UsageError("VERSION is given twice: as an argument and with --version.")
    version = version or version_option or LATEST
    monitor = common.monitor()
    config = common.configuration()
    with common.session(config, monitor, reads_mirrors=True) as session:
        look_for_rollback(session, run, monitor, accept=accept_rollback, version=version)
        stored = find_version(session.repository, find_run(session.repository, run), version)
        proofs, hidden = proofs_of(session.repository, stored)
        manifest = manifest_of(session.repository, stored, proofs.proofs)
        if digests and not common.as_json:
            _print_digests(manifest)
            return
        logged = logged_facts(session.repository, manifest.entries)
        decided = decided_of(session.repository, manifest.root.run)
        evaluations = session.repository.evaluations(stored)
    patterns = [watch.not_models for watch in config.watches if watch.run == manifest.root.run]
    unknown = tuple(not_understood(manifest.entries, patterns[0] if patterns else ()))
    if common.as_json:
        status = status_from_entries(status_from_summaries(stored, proofs.proofs), manifest.entries)
        status = replace(status, hidden=hidden)
        common.emit(show_json(status, manifest, logged, unknown, decided, evaluations))
        return
    number = manifest.root.number
    registered = decided.registered.get(number, ())
    print_report(manifest, logged, hidden, decided.pins.get(number), registered, evaluations)
    if unknown:
        output.say()
        output.say_wrapped(in_words(unknown))


def _print_digests(manifest: Manifest) -> None:
    """Print the lines on stdout, and on stderr which files have none."""
    found = digest_lines(manifest.entries)
    for line in found.lines:
        output.say_line(line)
    for what, paths in (
        ("holes that are too long to hash", found.with_long_holes),
        ("a name that is no UTF-8, which b3sum does not read", found.not_utf8),
    ):
        if paths:
            some = listed([output.path(path) for path in paths[:_NAMED_MAX]])
            more = f" and {len(paths) - _NAMED_MAX} more" if len(paths) > _NAMED_MAX else ""
            output.tell(f"without a line: {output.count(len(paths), 'file')} with {what}: {some}{more}")
