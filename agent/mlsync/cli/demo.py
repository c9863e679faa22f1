"""``mlsync demo``: a real training, lost and brought back, in a minute."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from mlsync.cli import candidates, output
from mlsync.cli.invocation import Invocation
from mlsync.errors import DeviceMissing, Error, Stopped, TorchMissing

if TYPE_CHECKING:
    from rich.console import Console

    from mlsync.demo.report import Report, VersionMade

_LEVELS = "L1 container whole, L2 content makes sense, L3 bytes on the device as in the file, L4 numbers looked at"
_VERSION_HEADERS = ("VERSION", "EPOCH", "FILES", "READ", "NEW", "STORED", "SAVE TO PROOF", "PROOF")
_LABEL_WIDTH = 8
_LOSS_HEADERS = ("EPOCH", "LOSS BEFORE THE KILL", "LOSS AFTER THE RESTORE")


@click.command("demo", short_help="See all of it work, with a real training, in a minute.")
@click.option("--keep", is_flag=True, help="Keep everything afterwards, and say where it is.")
@click.option(
    "--directory",
    type=click.Path(path_type=Path),
    metavar="DIR",
    shell_complete=candidates.directories,
    help="Where to run it, an empty directory or a new one; default: a temporary one.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cuda", "cpu"]),
    default="auto",
    show_default=True,
    help="Where checkpoints are loaded to prove them; auto takes a GPU if there is one.",
)
@click.option(
    "--trainer",
    type=click.Choice(["auto", "torch", "numpy"]),
    default="auto",
    show_default=True,
    help="What trains the network; auto takes torch where it is installed.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON value and nothing else on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="Print only the result, not the steps.")
@click.pass_obj
def demo_command(
    invocation: Invocation, *, keep: bool, directory: Path | None, device: str, trainer: str, as_json: bool, quiet: bool
) -> None:
    """Show a real training run backed up, killed, deleted, restored and resumed.

    A separate process trains a small network, with torch or with numpy alone, and saves as Ultralytics does. The agent
    keeps versions of it in a repository in a temporary directory. The demo kills the trainer while it writes a
    checkpoint, and deletes its directory and all local state; then it restores the last version from the repository
    and the passphrase, and the training continues where it was. Takes half a minute and leaves nothing behind without
    --keep.
    """
    from mlsync.demo.kinds import kind_of
    from mlsync.demo.story import Story  # late: only this command needs it
    from mlsync.demo.workplace import workplace

    kind = kind_of(trainer)
    if device == "cuda":
        _need_gpu()
    say = _to_stderr if as_json else output.say

    def report_step(seconds: float, text: str) -> None:
        if not quiet:
            say(f"{seconds:5.1f} s  {text}")

    with _signals_as_errors(), workplace(directory, keep=keep) as place:
        try:
            report = Story(place, kind, device, report_step, kept=keep).play()
        except Error as error:
            error.advice = (
                place.shortage()
                or error.advice
                or (f"kept in {place.directory}" if keep else "--keep leaves logs and files")
            )
            raise
    if as_json:
        invocation.emit(report.as_json())
    else:
        _print(report, invocation.program)


def _to_stderr(text: str) -> None:
    click.echo(text, err=True)


def _need_gpu() -> None:
    from mlsync.proof.options import ProofOptions  # late: only this device is checked beforehand
    from mlsync.proof.prover import Prover

    with Prover(ProofOptions(device="cuda")) as prover:
        try:
            prover.open()
        except (DeviceMissing, TorchMissing) as error:
            error.advice = "leave --device out: the CPU proves as well, only slower"
            raise


@contextmanager
def _signals_as_errors() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the demo as Ctrl-C does, with everything cleaned up."""

    def stop(number: int, _frame: object) -> NoReturn:
        raise Stopped(f"the demo was ended by {signal.Signals(number).name}")

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print(report: Report, program: str) -> None:
    output.say()
    _table(_VERSION_HEADERS, [_version_row(version) for version in report.versions], right=range(7))
    output.say()
    _paragraphs([("levels", _LEVELS), *_findings(report)])
    output.say()
    _table(_LOSS_HEADERS, _loss_rows(report), right=range(3))
    output.say()
    _lines([("done", f"all of it in {report.seconds:.0f} s"), *_looks(report, program)])


def _version_row(version: VersionMade) -> tuple[str, ...]:
    return (
        str(version.number),
        "-" if version.epoch is None else str(version.epoch),
        str(version.file_count),
        "-" if version.read_bytes is None else output.size(version.read_bytes),
        output.size(version.new_bytes),
        output.size(version.stored_bytes),
        "-" if version.proved_after_s is None else f"{version.proved_after_s:.1f} s",
        f"L{version.level} {version.device}" if version.checkpoint_count else "-",
    )


def _findings(report: Report) -> Iterator[tuple[str, str]]:
    """Yield what happened, each line with its label."""
    torn, restored, resumed = report.torn, report.restored, report.resumed
    assert torn is not None
    assert restored is not None
    assert resumed is not None
    on_disk, whole = output.size(torn.bytes_on_disk), output.size(torn.whole_bytes)
    yield "torn", f"{torn.path} of epoch {torn.epoch}: the trainer was killed with {on_disk} of {whole} written"
    yield "", f"version {torn.version} names it: {torn.text}"
    yield "", f"in its place it has the last good content, version {torn.kept_version}'s of epoch {torn.kept_epoch}"
    size = output.size(restored.size_bytes)
    yield "restored", f"version {restored.version}: {restored.file_count} files, {size} in {restored.seconds:.2f} s"
    yield "", f"from repository and passphrase alone; {restored.command_s:.1f} s with the start of the program"
    yield "", f"{restored.identical_count} of {restored.file_count} files are to the bit what the trainer wrote"
    how = "to the last bit the loss" if resumed.identical else "but for rounding the loss"
    yield "resumed", f"after epoch {resumed.from_epoch}: {how} that the killed training had"
    yield "checked", f"{output.count(len(report.versions), 'version')}: no problem"


def _loss_rows(report: Report) -> list[tuple[str, ...]]:
    assert report.resumed is not None
    return [
        (str(row.epoch), *("" if loss is None else f"{loss:.6f}" for loss in (row.killed, row.resumed)))
        for row in report.resumed.losses
    ]


def _looks(report: Report, program: str) -> Iterator[tuple[str, str]]:
    if not report.kept:
        yield "", "nothing is left of it; --keep leaves everything for looking at"
        return
    config = shlex.quote(f"{report.directory}/mlsync.toml")
    # As it was called: the program of a virtual environment is rarely on PATH.
    mlsync = shlex.quote(program) if os.path.basename(program) == "mlsync" else "mlsync"
    yield "kept", report.directory
    yield "look", f"{mlsync} versions --config {config}"
    yield "", f"{mlsync} show --config {config}"
    yield "", f"{mlsync} verify --config {config}"
    yield "", f"{mlsync} restore --config {config} --version 1 --to {shlex.quote(report.directory + '/first')}"
    yield "remove", f"rm -r {shlex.quote(report.directory)}"


def _lines(lines: Sequence[tuple[str, str]]) -> None:
    for label, text in lines:
        output.say(f"{label:<{_LABEL_WIDTH}}  {text}")


def _paragraphs(lines: Sequence[tuple[str, str]]) -> None:
    """Print lines that may be long, indented on a terminal; commands to copy are not for this."""
    if not sys.stdout.isatty():
        _lines(lines)
        return
    from rich.table import Table  # late: a pipe gets plain text
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(min_width=_LABEL_WIDTH)
    for label, text in lines:
        grid.add_row(Text(label, "bold"), Text(text))
    _console().print(grid)


def _table(headers: Sequence[str], rows: Sequence[tuple[str, ...]], *, right: Sequence[int]) -> None:
    if not sys.stdout.isatty():
        output.table(headers, rows, right=right)
        return
    from rich.box import SIMPLE_HEAD  # late: a pipe gets plain text
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for number, header in enumerate(headers):
        table.add_column(header, justify="right" if number in right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    _console().print(table)


def _console() -> Console:
    from rich.console import Console  # late: a pipe gets plain text

    return Console(highlight=False)
