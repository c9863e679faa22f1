"""``mlsync verify``: read a version back and prove it again."""

from __future__ import annotations

import click

from mlsync.cli import output
from mlsync.cli.manners import gently_option
from mlsync.cli.options import Command, Common, common_options, device_option, run_option, version_option
from mlsync.cli.rollback import accept_rollback_option, look_for_rollback
from mlsync.cli.show import proof_json
from mlsync.errors import CheckpointBroken
from mlsync.proving.verify import VerifyResult, verify
from mlsync.versions.select import find_run, find_version
from mlsync.versions.standing import manifest_of


@click.command("verify", cls=Command, short_help="Read a version back and prove it again.")
@version_option
@run_option
@device_option
@accept_rollback_option
@common_options
@gently_option
def verify_command(common: Common, version: str, run: str | None, device: str | None, accept_rollback: bool) -> None:
    """Read every file of a version back from the store and prove its checkpoints again.

    Nothing is written, neither there nor here, but for level 5: if the configuration names a framework or a command
    ([proof] framework, command), each checkpoint, a file or a directory of several, is put into the state directory for
    as long as that loads it, AND CODE OUT OF IT IS RUN. Ends with 0 if every byte came back and every checkpoint
    reached at least the level that it was proved to before; with 50 if a checkpoint does not load, 30-32 if the store
    lost or changed something, 49 or 51-59 if the proof could not be had that far (no torch, no GPU ...).
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
        output.emit(as_json(result))
    elif not common.quiet:
        _print(result)
    if result.refused:
        raise CheckpointBroken(not_loading(len(result.refused)), where=f"version {result.version}")
    for file in result.checkpoints:
        before, now = file.entry.proof, file.judged
        if now.unavailable is not None and before is not None and now.proof.level < before.level:
            raise now.unavailable


def not_loading(number: int) -> str:
    """Return how many checkpoints do not load, as an error says it."""
    return "1 checkpoint does not load" if number == 1 else f"{number} checkpoints do not load"


def _print(result: VerifyResult) -> None:
    rows = []
    proved = len(result.checkpoints) - len(result.refused)
    for file in result.checkpoints:
        proof = file.judged.proof
        reached = "broken" if file.judged.refused is not None else f"L{proof.level} {proof.device}".rstrip()
        rows.append((reached, output.path(file.entry.path), file.judged.refused or ""))
    output.table(("PROOF", "PATH", ""), rows)
    output.say(
        f"{result.run}: version {result.version}: {output.count(result.file_count, 'file')} read back "
        f"({output.size(result.read_bytes)}), {output.count(proved, 'checkpoint')} proved, {result.seconds:.1f} s"
    )


def as_json(result: VerifyResult) -> dict[str, object]:
    """Return a verification's result as docs/json.md describes it."""
    return {
        "run": result.run,
        "version": result.version,
        "file_count": result.file_count,
        "read_bytes": result.read_bytes,
        "lowest_level": result.lowest_level if result.checkpoints else None,
        "checkpoints": [
            {
                "path": output.path(file.entry.path),
                "refused": file.judged.refused,
                "proof": None if file.judged.refused is not None else proof_json(file.judged.proof),
            }
            for file in result.checkpoints
        ],
        "seconds": round(result.seconds, 3),
    }
