"""What a command can refuse before anybody has to type a passphrase: what is known without the keys.

The commands check the same things again where they matter: much can change while somebody types.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from mlsync.app.run_lock import refuse_held
from mlsync.app.wording import count
from mlsync.config.model import Config, WatchSettings
from mlsync.errors import ConfigInvalid, Error, StoreDenied, TargetBlocked
from mlsync.source.root import Root


def refuse_unreadable(config: Config, watches: Sequence[WatchSettings]) -> None:
    """Raise if none of the directories can be read, or if root would not run the programs that prove their files."""

    def check(watch: WatchSettings) -> None:
        Root.open_watched(bytes(watch.directory)).close()
        if config.proof.python or config.proof.command:
            from mlsync.app.proof_user import runs_as  # late: most configurations name no program

            runs_as(config, watch.run)

    _refuse_all(watches, check)


def refuse_locked(config: Config, repository_id: bytes, watches: Sequence[WatchSettings]) -> None:
    """Raise ``RunLocked`` if other processes of this machine work on all of these runs."""
    _refuse_all(watches, lambda watch: refuse_held(config.state_directory, repository_id.hex(), watch.run))


def _refuse_all(watches: Sequence[WatchSettings], check: Callable[[WatchSettings], None]) -> None:
    """Raise the error of the first run if each has one: a run that works is worth the work."""
    found: list[Error] = []
    for watch in watches:
        try:
            check(watch)
        except Error as error:
            found.append(error)
        else:
            return
    if len(found) > 1:
        found[0].what += f"; {count(len(found) - 1, 'other run')} cannot be backed up either"
    if found:
        raise found[0]


def refuse_target(directory: bytes) -> None:
    """Raise ``TargetBlocked`` for a directory that no restore can be made into."""
    where = os.fsdecode(directory)
    above = _nearest(Path(where))
    if not above.is_dir():
        what = "a file is where the restore needs a directory"
        raise TargetBlocked(what, where=str(above), advice="give another --to, or move it away")
    if above != Path(where) and not _may_make_in(above):
        what = f"the restore's directory cannot be made: no permission to write in {above}"
        raise TargetBlocked(what, where=where, advice="give another --to")


def refuse_unwritable(directory: Path) -> None:
    """Raise ``StoreDenied`` where no repository can be made; make nothing."""
    above = _nearest(directory)
    if not _may_make_in(above):
        what = f"the repository cannot be made: no permission to write in {above}"
        raise StoreDenied(what, where=str(directory), advice="check who owns it, and its mode")


def refuse_unwritable_config(place: Path) -> None:
    """Raise ``ConfigInvalid`` where no configuration can be written; make nothing."""
    above = _nearest(place.parent)
    if not above.is_dir() or not _may_make_in(above):
        what = f"the configuration cannot be written: no permission to write in {above}"
        if not above.is_dir():
            what = f"the configuration cannot be written: {above} is no directory"
        raise ConfigInvalid(what, where=str(place), advice="give --write-config FILE.toml for another place")


def _nearest(place: Path) -> Path:
    """Return the place itself if it exists, else the nearest one above it that does."""
    return next((path for path in (place, *place.parents) if os.path.lexists(path)), Path("/"))


def _may_make_in(directory: Path) -> bool:
    return os.access(directory, os.W_OK | os.X_OK, effective_ids=True)
