"""What a backup would do, by the local state alone: the store is asked only if there are two states to choose from."""

from __future__ import annotations

from pathlib import Path

from mlsync.app.flow_options import policy_of, source_of
from mlsync.app.session import STATE_FILE, repository_id_of, state_path
from mlsync.backup.preview import Preview, preview
from mlsync.config.model import Config, WatchSettings
from mlsync.errors import StateDamaged
from mlsync.monitor import Monitor
from mlsync.source.state import StateReader


def look_ahead(config: Config, watch: WatchSettings, monitor: Monitor) -> Preview:
    """Return what a backup of *watch* would do now; it takes no lock, needs no passphrase and writes nothing."""
    source = source_of(watch)
    path = _state_of(config, watch, monitor)
    if path is None:
        return preview(source, None, policy_of(config), monitor)
    with StateReader(path) as state:
        return preview(source, state, policy_of(config), monitor)


def _state_of(config: Config, watch: WatchSettings, monitor: Monitor) -> Path | None:
    """Return the local state of the configuration's repository, if there is one.

    A state lies under its repository's id, which the configuration does not have. So the state is taken from which the
    directory was backed up; if there are several, the store says which repository it is.
    """
    found = [path for path in sorted(config.state_directory.glob(f"*/{STATE_FILE}")) if _writes(path, watch)]
    if len(found) <= 1:
        return found[0] if found else None
    path = state_path(config, repository_id_of(config, monitor))
    return path if path in found else None


def _writes(path: Path, watch: WatchSettings) -> bool:
    try:
        with StateReader(path) as state:
            return state.writes(watch.run, bytes(watch.directory))
    except StateDamaged:
        return False
