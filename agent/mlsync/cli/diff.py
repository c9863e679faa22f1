"""``mlsync diff``: what differs between two versions, down to how far each tensor moved."""

from __future__ import annotations

import os

import click

from mlsync.cli.arguments import candidates
from mlsync.cli.arguments.options import VERSION_WORDS, Common, common_options, run_option
from mlsync.cli.arguments.parsing import Command
from mlsync.cli.arguments.rollback import accept_rollback_option, look_for_rollback
from mlsync.cli.reports.diff_report import TENSORS_SHOWN, print_report
from mlsync.cli.reports.json import diff_json
from mlsync.cli.terminal import output
from mlsync.diff.diff import diff
from mlsync.diff.sides import Side
from mlsync.errors import ConfigInvalid, VersionMissing
from mlsync.repository.history.decision import is_pin_name
from mlsync.repository.repository import Repository
from mlsync.versions.place import Place, parse_place
from mlsync.versions.select import LATEST, find_run, find_version, refuse_nonsense, version_before

_EXAMPLES = """\b
Examples:
  mlsync diff best latest weights/last.pt
  mlsync diff 3:checkpoint-40 3:checkpoint-50
"""


@click.command("diff", cls=Command, short_help="Show what changed from one version to another.", epilog=_EXAMPLES)
@click.argument("before", metavar="[A]", required=False, shell_complete=candidates.words(*VERSION_WORDS))
@click.argument("after", metavar="[B]", default=LATEST, shell_complete=candidates.words(*VERSION_WORDS))
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@run_option
@click.option(
    "--tensors",
    "tensor_count",
    type=click.IntRange(min=0),
    default=TENSORS_SHOWN,
    show_default=True,
    metavar="N",
    help="How many tensors to show, those that moved farthest first; 0: all of them, and every file.",
)
@accept_rollback_option
@common_options
def diff_command(
    common: Common,
    before: str | None,
    after: str,
    paths: tuple[str, ...],
    run: str | None,
    tensor_count: int,
    accept_rollback: bool,
) -> None:
    """Show what changed from version A to version B: files, and inside checkpoints facts and tensors.

    A and B are versions: numbers, latest, resumable, best, times, or names of pins; or VERSION:PATH, two files or
    directories of one version or of two. B defaults to the last version, A to the one before B. With PATH only those
    files and directories are compared. MOVED is ||B - A|| / ||A||, of the numbers of a tensor.
    """
    old, new = None if before is None else parse_place(before), parse_place(after)
    _refuse_mixture(old, new, paths)
    for place in filter(None, (old, new)):
        refuse_nonsense(place.version)
    monitor = common.monitor()
    with common.session(common.configuration(), monitor, reads_mirrors=True) as session:
        look_for_rollback(session, run, monitor, accept=accept_rollback, version=new.version)
        sides = _sides(session.repository, find_run(session.repository, run), old, new)
        result = diff(session.repository, *sides, tuple(os.fsencode(path) for path in paths), monitor)
    if common.as_json:
        common.emit(diff_json(result))
        return
    print_report(result, tensor_count)


def _refuse_mixture(old: Place | None, new: Place, paths: tuple[str, ...]) -> None:
    """Refuse a path on one side only, and paths in both forms."""
    old_path = None if old is None else old.path
    named = new.path if old_path is None else old_path
    if named is None:
        return
    if old is None or old_path is None or new.path is None:
        other = new.version if new.path is None else "VERSION" if old is None else old.version
        what = f"only one of A and B has a path: {output.path(named)}"
        advice = f"give the other one too, such as {other}:{output.path(named)}"
        if is_pin_name(other) and other not in (*VERSION_WORDS, "VERSION"):
            advice += f"; or VERSION:PATH on both sides, such as latest:{other}"
        raise ConfigInvalid(what, advice=advice)
    if paths:
        whole = output.path(os.path.join(new.path, os.fsencode(paths[0])))
        what = f"PATH {output.path(os.fsencode(paths[0]))}, while A and B have paths of their own"
        raise ConfigInvalid(what, advice=f"give whole paths to A and B, such as {new.version}:{whole}")


def _sides(repository: Repository, run: str, old: Place | None, new: Place) -> tuple[Side, Side]:
    after = _side(repository, run, new)
    if old is None:
        return Side(version_before(repository, run, after.stored.root.number)), after
    return _side(repository, run, old), after


def _side(repository: Repository, run: str, place: Place) -> Side:
    try:
        return Side(find_version(repository, run, place.version), place.path)
    except VersionMissing as error:
        # A path without a version looks like the name of a pin.
        if place.path is None and is_pin_name(place.version):
            error.advice = f"{error.advice}; or VERSION:PATH on both sides, such as latest:{place.version}"
        raise
