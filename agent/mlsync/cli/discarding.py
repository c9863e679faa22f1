"""``mlsync repair --discard``: show what would be given up, ask, and give it up."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from mlsync.cli.arguments.options import Common
from mlsync.cli.reports.json import discard_json
from mlsync.cli.terminal import output
from mlsync.errors import RepairUnconfirmed
from mlsync.repository.history.decisions import By
from mlsync.upkeep.discard import Discarding, discard, plan_discarding


def discard_objects(common: Common, wanted: Sequence[str], *, even_newer: bool, dry_run: bool, yes: bool) -> None:
    """Discard what is *wanted* after a confirmation; raise ``DiscardRefused`` or ``RepairUnconfirmed``."""
    config, monitor = common.configuration(), common.monitor()
    with common.session(config, monitor) as session:
        repository = session.repository
        found = plan_discarding(repository, wanted, even_newer=even_newer)
        if not common.as_json:
            _print(found, quiet=common.quiet)
        if not dry_run:
            if not yes:
                _confirm(len(found), as_json=common.as_json)
            found = discard(repository, found, By.here(), even_newer=even_newer)
    if common.as_json:
        common.emit(discard_json(found, is_dry_run=dry_run))
    elif not dry_run and not common.quiet:
        output.say_wrapped(
            f"{output.count(len(found), 'object')} discarded; mlsync prune deletes what only they needed"
        )


def _print(found: Sequence[Discarding], *, quiet: bool) -> None:
    for one in () if quiet else found:
        output.say_wrapped(f"{one.key}: {one.fault}" + (f"; its copy: {one.copy_fault}" if one.copy_fault else ""))
        output.say_wrapped(_loss(one))


def _loss(one: Discarding) -> str:
    """Return what is lost, as a sentence."""
    if one.number is None:
        return "nothing is lost: its pack is there, and the next mlsync prune can move what is left of that"
    if one.followed_by is not None:
        return (
            f"version {one.number} of run {one.run!r} is lost for good, with all files that only it has; version "
            f"{one.followed_by} follows it, and stays"
        )
    if one.run:
        return (
            f"it is above all versions of run {one.run!r} that open; if a machine made version {one.number} there, "
            "that version is lost for good"
        )
    return "no version of its run opens; if one was there under this number, it is lost for good"


def _confirm(count: int, *, as_json: bool) -> None:
    if as_json or not sys.stdin.isatty():
        raise RepairUnconfirmed("nothing was changed: there is no terminal to ask on")
    if not click.confirm(f"Give up {output.count(count, 'object')} for good?", err=True):
        raise RepairUnconfirmed("nothing was changed")
