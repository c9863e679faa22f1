"""What reading commands do where the store shows less than this machine saw before."""

from __future__ import annotations

import click

from mlsync.app.session import Session
from mlsync.errors import HistoryRolledBack
from mlsync.monitor import Monitor
from mlsync.versions.rollback import refuse_rolled_back

accept_rollback_option = click.option(
    "--accept-rollback",
    is_flag=True,
    help="Go on although the store no longer shows what this machine saw before; else that ends with 16.",
)


def look_for_rollback(
    session: Session, run: str | None, monitor: Monitor, *, accept: bool, version: str | None = None
) -> None:
    """Raise ``HistoryRolledBack``, or only tell where that was *accepted*, if the store lost a version that was seen.

    Asked of *run*, or else of all runs that the local state knows. Where there is no state nothing is asked, and none
    is made: a fresh machine has to believe the store. *version* is the word for the version that is wanted, if one is.
    """
    for name, head in sorted(session.seen_heads().items()):
        if run not in (None, name):
            continue
        try:
            refuse_rolled_back(session.repository, name, head, by_number=version is None or version.isdecimal())
        except HistoryRolledBack as error:
            if not accept:
                raise
            monitor.notice("warning", f"{error.what}; going on, as was asked")
