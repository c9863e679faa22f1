"""``mlsync verify``: read a version back and prove it again."""

from __future__ import annotations

import click

from mlsync.app.flow_options import loading_options, prover_of
from mlsync.app.session import Session
from mlsync.cli.arguments.gently import gently_option
from mlsync.cli.arguments.limits import limit_download_option, limited
from mlsync.cli.arguments.options import Common, common_options, device_option, run_option, version_option
from mlsync.cli.arguments.parsing import Command
from mlsync.cli.arguments.rollback import accept_rollback_option, look_for_rollback
from mlsync.cli.reports.json import verify_json
from mlsync.cli.terminal import output
from mlsync.cli.terminal.table import TextTable
from mlsync.cold.find import refuse_cold
from mlsync.courtesy.timetable import Timetable
from mlsync.errors import CheckpointBroken, MirrorNeeded
from mlsync.proving.verify import VerifyResult, verify
from mlsync.source.paths import natural
from mlsync.versions.hidden_proofs import report_hidden
from mlsync.versions.proof_status import manifest_of
from mlsync.versions.run_proofs import proofs_of
from mlsync.versions.select import find_run, find_version

_EXAMPLES = """\b
Examples:
  mlsync verify
  mlsync verify --version best --device cuda
"""


@click.command("verify", cls=Command, short_help="Read a version back and prove it again.", epilog=_EXAMPLES)
@version_option
@run_option
@device_option
@accept_rollback_option
@limit_download_option
@common_options
@gently_option
def verify_command(
    common: Common,
    version: str,
    run: str | None,
    device: str | None,
    accept_rollback: bool,
    limit_download: Timetable | None,
) -> None:
    """Read every file of a version back from the store and prove its checkpoints again.

    Ends with 0 if every byte came back and every checkpoint reached the level that it had before. Nothing is written.
    With framework or command under [proof] it also loads checkpoints, WHICH RUNS CODE OUT OF THEM.
    """
    monitor = common.monitor()
    config = limited(common.configuration(), download=limit_download)
    with common.session(config, monitor, reads_mirrors=True) as session:
        look_for_rollback(session, run, monitor, accept=accept_rollback, version=version)
        name = find_run(session.repository, run)
        stored = find_version(session.repository, name, version)
        proofs, hidden = proofs_of(session.repository, stored)
        if hidden is not None:
            report_hidden(hidden, name, stored.root.number, monitor)
        manifest = manifest_of(session.repository, stored, proofs.proofs)
        refuse_cold(session.repository, manifest)
        loading = loading_options(session.config, session.state_directory, device, run=name)
        with prover_of(session.config, device, run=name) as prover:
            if device is not None and device.startswith("cuda"):
                prover.open()
            result = verify(session.repository, manifest, prover, monitor, loading)
    if common.as_json:
        common.emit(verify_json(result))
    elif not common.quiet:
        _print(result)
    if result.refused:
        raise CheckpointBroken(output.not_loading(len(result.refused)), where=f"version {result.version}")
    if result.unavailable is not None:
        raise result.unavailable
    _refuse_mirror(session, result)


def _refuse_mirror(session: Session, result: VerifyResult) -> None:
    """Raise ``MirrorNeeded`` if bytes came from a mirror: they say nothing of what the repository holds."""
    where = f"version {result.version}"
    if session.stand_in is not None:
        raise MirrorNeeded(f"all of it came from the mirror {session.stand_in!r}", where=where)
    if session.mirrors is not None and session.mirrors.count:
        count = output.count(session.mirrors.count, "object")
        raise MirrorNeeded(f"{count} could be had from a mirror alone", where=where)


def _print(result: VerifyResult) -> None:
    table = TextTable(("PROOF", "PATH"))
    proved = len(result.verdicts) - len(result.refused)
    for path, verdict in sorted(result.verdicts.items(), key=lambda item: natural(item[0])):
        proof = verdict.proof
        reached = "broken" if verdict.refused is not None else f"L{proof.level} {proof.device}".rstrip()
        table.row(reached, output.path(path), remarks=(verdict.refused or "",))
    output.print_table(table)
    output.say_wrapped(
        f"{result.run}: version {result.version}: {output.count(result.file_count, 'file')} read back "
        f"({output.size(result.read_bytes)}), {output.count(proved, 'checkpoint')} proved, {result.seconds:.1f} s"
    )
