"""``mlsync verify``: read a version back and prove it again."""

from __future__ import annotations

import click

from mlsync.cli import output
from mlsync.cli.gently import gently_option
from mlsync.cli.json import verify_json
from mlsync.cli.options import Common, common_options, device_option, run_option, version_option
from mlsync.cli.parsing import Command
from mlsync.cli.rollback import accept_rollback_option, look_for_rollback
from mlsync.cli.table import TextTable
from mlsync.errors import CheckpointBroken
from mlsync.proving.verify import VerifyResult, verify
from mlsync.source.paths import natural
from mlsync.versions.proof_status import manifest_of
from mlsync.versions.select import find_run, find_version


@click.command("verify", cls=Command, short_help="Read a version back and prove it again.")
@version_option
@run_option
@device_option
@accept_rollback_option
@common_options
@gently_option
def verify_command(common: Common, version: str, run: str | None, device: str | None, accept_rollback: bool) -> None:
    """Read every file of a version back from the store and prove its checkpoints again.

    Nothing is written, in the store or here, except for level 5: if the configuration names a framework or a command
    ([proof] framework, command), each checkpoint, a file or a directory of several, is put into the state directory
    while that loads it, AND CODE OUT OF IT IS RUN. Ends with 0 if every byte came back and every checkpoint reached at
    least the level that it was proved to before; with 50 if a checkpoint does not load, 30-32 if the store lost or
    changed something, 49 or 51-59 if the proof was not possible that far (no torch, no GPU ...).
    """
    monitor = common.monitor()
    with common.session(common.configuration(), monitor) as session:
        look_for_rollback(session, run, monitor, accept=accept_rollback, version=version)
        name = find_run(session.repository, run)
        stored = find_version(session.repository, name, version)
        manifest = manifest_of(session.repository, stored)
        with session.prover(device, run=name) as prover:
            if device is not None and device.startswith("cuda"):
                prover.open()
            result = verify(session.repository, manifest, prover, monitor, session.loading_options(device, run=name))
    if common.as_json:
        common.emit(verify_json(result))
    elif not common.quiet:
        _print(result)
    if result.refused:
        raise CheckpointBroken(output.not_loading(len(result.refused)), where=f"version {result.version}")
    if result.unavailable is not None:
        raise result.unavailable


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
