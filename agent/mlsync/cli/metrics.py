"""``mlsync metrics``: what the trainer logged, as plots and a table, with the versions that hold it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import click

from mlsync.cli.arguments import candidates
from mlsync.cli.arguments.options import VERSION_WORDS, Common, checked_version, common_options, run_option
from mlsync.cli.arguments.parsing import Command
from mlsync.cli.arguments.rollback import accept_rollback_option, look_for_rollback
from mlsync.cli.reports.json import metrics_json
from mlsync.cli.reports.metric_names import matching
from mlsync.cli.reports.metrics_report import print_report
from mlsync.cli.reports.metrics_table import print_csv
from mlsync.source.paths import display
from mlsync.versions.logs.run_metrics import metrics_of
from mlsync.versions.select import LATEST, find_run, find_version

_ROWS: Final = 10
_EXAMPLES = """\b
Examples:
  mlsync metrics yolo
  mlsync metrics --name mAP50 --name 'val/*' --last 30
"""


@click.command("metrics", cls=Command, short_help="Show what the trainer logged.", epilog=_EXAMPLES)
@click.argument("named", metavar="[RUN]", required=False, shell_complete=candidates.runs)
@run_option
@click.option(
    "--version",
    callback=checked_version,
    default=LATEST,
    metavar="VERSION",
    shell_complete=candidates.words(*VERSION_WORDS),
    help="As this version has it, and not the last one.",
)
@click.option(
    "--name",
    "patterns",
    multiple=True,
    metavar="PATTERN",
    help="Only metrics with that in their name; may have * and ?.",
)
@click.option("--log", "log_path", metavar="PATH", help="The log or training to read, by its path in the version.")
@click.option(
    "--last",
    type=click.IntRange(min=0),
    metavar="N",
    help=f"How many rows; 0: all. Else {_ROWS}, or all in CSV and JSON.",
)
@click.option("--csv", "as_csv", is_flag=True, help="Print the rows as CSV, with a column for each metric.")
@click.option(
    "--png",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the plots as a picture too; needs Pillow.",
)
@accept_rollback_option
@common_options
def metrics_command(
    common: Common,
    named: str | None,
    run: str | None,
    version: str,
    patterns: tuple[str, ...],
    log_path: str | None,
    last: int | None,
    as_csv: bool,
    png: Path | None,
    accept_rollback: bool,
) -> None:
    """Show what the trainer of RUN logged: plots and a table, with the versions that hold each epoch or step.

    This reads Ultralytics' results.csv, Hugging Face's trainer_state.json, Lightning's metrics.csv, TensorBoard's
    events, MLflow's files and lines of JSON, from the last version: the training directory is not needed.
    """
    if as_csv and common.as_json:
        raise click.UsageError("--csv and --json are two forms of one result: give one of them.")
    if named and run:
        raise click.UsageError("RUN is given twice: as an argument and with --run.")
    run = named or run
    monitor = common.monitor()
    with common.session(common.configuration(), monitor, reads_mirrors=True) as session:
        look_for_rollback(session, run, monitor, accept=accept_rollback, version=version)
        repository = session.repository
        stored = find_version(repository, find_run(repository, run), version)
        metrics = metrics_of(repository, stored, None if log_path is None else os.fsencode(log_path))
    asked = matching(metrics.said, patterns, display(metrics.log.shown))
    if png is not None:
        from mlsync.cli.reports.metrics_picture import write_picture  # late: needs Pillow

        write_picture(metrics, asked, png)
    if common.as_json:
        common.emit(metrics_json(metrics, asked, last or 0))
    elif as_csv:
        print_csv(metrics, asked, last or 0)
    else:
        print_report(metrics, asked, _ROWS if last is None else last)
