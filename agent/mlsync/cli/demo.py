"""``mlsync demo``: a real training, lost and brought back, in a minute."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from mlsync.cli.arguments import candidates
from mlsync.cli.arguments.invocation import Invocation
from mlsync.cli.terminal import output
from mlsync.errors import DeviceMissing, Error, Stopped, TorchMissing

if TYPE_CHECKING:
    from rich.console import Console

    from mlsync.demo.report import Report, VersionMade

_VERSION_HEADERS = ("VERSION", "EPOCH", "FILES", "READ", "NEW", "STORED", "SAVE TO PROOF", "PROOF")
_LABEL_WIDTH = 8
_MIB = 1 << 20
_GOOD, _BAD = "bold green", "bold red"
_LOSS_LABEL, _LOSS_WIDTH, _LOSS_COLUMNS = 22, 10, 5

_EXAMPLES = """\b
Examples:
  mlsync demo
  mlsync demo --keep --directory /tmp/look
"""


@click.command("demo", short_help="See all of it work, with a real training, in a minute.", epilog=_EXAMPLES)
@click.option("--keep", is_flag=True, help="Keep everything afterwards, and say where it is.")
@click.option(
    "--directory",
    type=click.Path(path_type=Path),
    metavar="DIR",
    shell_complete=candidates.directories,
    help="An empty or new directory to run it in; default: a temporary one.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cuda", "cpu"]),
    metavar="DEVICE",
    default="auto",
    show_default=True,
    help="Where checkpoints are proved: cuda, cpu, or auto, a GPU if there is one.",
)
@click.option(
    "--trainer",
    type=click.Choice(["auto", "torch", "numpy"]),
    metavar="KIND",
    default="auto",
    show_default=True,
    help="What trains: torch, numpy, or auto, torch where it is installed.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON value and nothing else on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="Print only the result, not the steps.")
@click.pass_obj
def demo_command(
    invocation: Invocation, *, keep: bool, directory: Path | None, device: str, trainer: str, as_json: bool, quiet: bool
) -> None:
    """Show a real training run backed up, killed, deleted, restored and resumed.

    Everything is real but the disaster: a trainer of its own, the agent, a kill in the middle of a save, a restore.
    Takes half a minute and 400 MiB in a temporary directory, and leaves nothing behind without --keep.
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
        _print(report, invocation.typed)


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


def _print(report: Report, mlsync: str) -> None:
    output.say()
    _table(_VERSION_HEADERS, [_version_row(version) for version in report.versions], right=range(7))
    output.say()
    _labelled(_findings(report))
    output.say()
    for line in _loss_lines(report):
        output.say(line)
    output.say()
    for line in [*_looks(report, mlsync), *_own_data(mlsync)]:
        output.say(line)


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


def _findings(report: Report) -> Iterator[tuple[str, str, str]]:
    """Yield what happened: a label, its style on a terminal, and a text that fits a terminal of 80 columns."""
    torn, restored, resumed = report.torn, report.restored, report.resumed
    assert torn is not None
    assert restored is not None
    assert resumed is not None
    name = os.path.basename(torn.path)
    yield "proved", _GOOD, "L4: read back from the repository, loaded, every number looked at"
    done, whole = torn.bytes_on_disk / _MIB, torn.whole_bytes / _MIB
    yield "killed", _BAD, f"while it wrote epoch {torn.epoch}'s {name}: {done:.1f} of {whole:.1f} MiB"
    yield "kept", _GOOD, f"version {torn.version} reports {name} as torn and holds epoch {torn.kept_epoch}'s"
    yield "deleted", _BAD, "the training's directory, and all that the agent had noted"
    took = f"{output.size(restored.size_bytes)} in {restored.seconds:.1f} s"
    yield "restored", _GOOD, f"{restored.identical_count} of {restored.file_count} files equal to the last bit: {took}"
    how = "to the last bit" if resumed.identical else "but for rounding"
    yield "resumed", _GOOD, f"after epoch {resumed.from_epoch}; its losses equal the killed training's {how}"
    versions = output.count(len(report.versions), "version")
    yield "checked", _GOOD, f"{versions}, no problem; the demo took {report.seconds:.0f} s"


def _loss_lines(report: Report) -> Iterator[str]:
    """Yield the losses of both trainings, an epoch a column, as many of the last ones as fit 80 columns."""
    assert report.resumed is not None
    rows = report.resumed.losses[-_LOSS_COLUMNS:]
    yield f"{'epoch':<{_LOSS_LABEL}}" + "".join(f"{row.epoch:>{_LOSS_WIDTH}}" for row in rows)
    for label, losses in (
        ("loss before the kill", [row.killed for row in rows]),
        ("loss after the restore", [row.resumed for row in rows]),
    ):
        shown = ("" if loss is None else f"{loss:.6f}" for loss in losses)
        yield (f"{label:<{_LOSS_LABEL}}" + "".join(f"{loss:>{_LOSS_WIDTH}}" for loss in shown)).rstrip()


def _looks(report: Report, mlsync: str) -> Iterator[str]:
    """Yield the commands that look at what was kept; each is a line of its own, to be copied."""
    if not report.kept:
        return
    config = shlex.quote(f"{report.directory}/mlsync.toml")
    yield f"Look at what was kept in {report.directory}:"
    yield f"  {mlsync} versions --config {config}"
    yield f"  {mlsync} show --config {config}"
    yield f"  {mlsync} verify --config {config}"
    yield f"  {mlsync} restore --config {config} --version 1 --to {shlex.quote(report.directory + '/first')}"
    yield f"  rm -r {shlex.quote(report.directory)}"
    yield ""


def _own_data(mlsync: str) -> Iterator[str]:
    """Yield the next commands."""
    yield "Next, with your own training (a directory can be the repository, too):"
    yield f"  {mlsync} init s3://BUCKET/runs --watch DIRECTORY"
    yield f"  {mlsync} backup"


def _labelled(lines: Iterable[tuple[str, str, str]]) -> None:
    if not sys.stdout.isatty():
        for label, _, text in lines:
            output.say(f"{label:<{_LABEL_WIDTH}}  {text}")
        return
    from rich.table import Table  # late: a pipe gets plain text
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(min_width=_LABEL_WIDTH)
    for label, style, text in lines:
        grid.add_row(Text(label, style), Text(text))
    _console().print(grid)


def _table(headers: Sequence[str], rows: Sequence[tuple[str, ...]], *, right: Sequence[int]) -> None:
    if not sys.stdout.isatty():
        output.table(headers, rows, right=right)
        return
    from rich.table import Table  # late: a pipe gets plain text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, header in enumerate(headers):
        table.add_column(header, justify="right" if number in right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    _console().print(table)


def _console() -> Console:
    from rich.console import Console  # late: a pipe gets plain text

    return Console(highlight=False)
