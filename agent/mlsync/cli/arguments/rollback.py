"""What reading commands do when the store shows less than this machine saw before."""

from __future__ import annotations

import click

from mlsync.app.session import Session
from mlsync.errors import HistoryRolledBack
from mlsync.monitor import Monitor
from mlsync.versions.rollback import refuse_rolled_back

accept_rollback_option = click.option(
    "--accept-rollback",
    is_flag=True,
    help="Continue although the store shows less than this machine saw before.",
)


def look_for_rollback(
    session: Session, run: str | None, monitor: Monitor, *, accept: bool, version: str | None = None
) -> None:
    """Raise ``HistoryRolledBack`` if the store lost a version that this machine saw; only warn if that is *accepted*.

    Looks at *run*, or at all runs that the local state knows. Without a local state it does nothing, and makes none: a
    fresh machine has to believe the store. *version* is the word for the version that the command wants, if any.
    """
    for name, head in sorted(session.seen_heads().items()):
        if run not in (None, name):
            continue
        try:
            refuse_rolled_back(session.repository, name, head, by_number=version is None or version.isdecimal())
        except HistoryRolledBack as error:
            if not accept and session.stand_in is not None:
                what = f"{error.what}; the mirror {session.stand_in!r} may be behind"
                raise HistoryRolledBack(what, where=error.where, advice=error.advice) from error
            if not accept:
                raise
            monitor.notice("warning", f"{error.what}; continuing because of --accept-rollback")
