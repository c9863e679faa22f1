"""Where configuration and local state are when nobody says otherwise: a module that a training can afford to import."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from mlsync.errors import ConfigInvalid

FILE_NAME = "mlsync.toml"
SYSTEM_FILE = Path("/etc/mlsync") / FILE_NAME
#: Names a directory with sockets of agents, as ``mlsync run`` tells it to its training.
SOCKETS_VARIABLE: Final = "MLSYNC_SOCKETS"


def usual_places(environ: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """Return where a configuration may be when none is named: the user's place, if he has a home, then the system's."""
    try:
        return (base_directory(environ, "XDG_CONFIG_HOME", ".config") / "mlsync" / FILE_NAME, SYSTEM_FILE)
    except ConfigInvalid:
        return (SYSTEM_FILE,)


def place_to_write(environ: Mapping[str, str] = os.environ, *, uid: int | None = None) -> Path:
    """Return where a new configuration belongs: the user's place; root's is the system's unless XDG_CONFIG_HOME is set.

    A place that MLSYNC_CONFIG names comes before them.
    """
    if named := environ.get("MLSYNC_CONFIG"):
        return Path(os.path.abspath(named))
    is_root = (os.geteuid() if uid is None else uid) == 0
    return SYSTEM_FILE if is_root and not is_base_named(environ, "XDG_CONFIG_HOME") else usual_places(environ)[0]


def place_of_service(*, is_machines: bool, environ: Mapping[str, str] = os.environ) -> Path:
    """Return where a service's configuration is looked for when none is named, whether or not it is there."""
    if is_machines:
        return SYSTEM_FILE
    named = environ.get("MLSYNC_CONFIG")
    return Path(os.path.abspath(named)) if named else usual_places(environ)[0]


def default_state_directory(environ: Mapping[str, str] = os.environ, *, uid: int | None = None) -> Path:
    """Return where the state is unless the configuration says otherwise.

    That is systemd's place, the one that XDG_STATE_HOME names, root's, or the user's.
    """
    if given := environ.get("STATE_DIRECTORY"):
        # systemd separates several by colons; the unit's own comes first.
        return Path(given.split(":")[0])
    if (os.geteuid() if uid is None else uid) == 0 and not is_base_named(environ, "XDG_STATE_HOME"):
        return Path("/var/lib/mlsync")
    try:
        return base_directory(environ, "XDG_STATE_HOME", ".local/state") / "mlsync"
    except ConfigInvalid as error:
        advice = f"{error.advice}, or state_directory in the configuration"
        raise ConfigInvalid(f"no place for locks and caches: {error.what}", advice=advice) from None


def runtime_directory(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the directory below /run that systemd made for a service of ours; ``None`` for any other process."""
    given = environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    # A training under a service of its own has that one's.
    return Path(given) if os.path.basename(given).startswith("mlsync") else None


def state_directories(environ: Mapping[str, str] = os.environ) -> Iterator[Path]:
    """Yield where the state of agents of this user, and of the machine's, may be; some of them are there."""
    for variable in (SOCKETS_VARIABLE, "MLSYNC_STATE_DIRECTORY"):
        if named := environ.get(variable):
            yield Path(named)
    configs = [Path(environ["MLSYNC_CONFIG"])] if environ.get("MLSYNC_CONFIG") else []
    for config in (*configs, *usual_places(environ)):
        if (directory := _state_directory_in(config)) is not None:
            yield directory
    with suppress(ConfigInvalid):
        yield default_state_directory(environ)
    yield from sorted(Path("/run").glob("mlsync*"))


def _state_directory_in(config: Path) -> Path | None:
    """Return what a configuration names as its state directory, as far as that can be told without the others' help."""
    try:
        text = config.read_text()
    except (OSError, ValueError):
        return None
    if "state_directory" not in text:
        return None
    import tomllib  # late: most configurations leave the directory as it is

    try:
        named = tomllib.loads(text).get("state_directory")
    except tomllib.TOMLDecodeError:
        return None
    return config.parent / os.path.expanduser(named) if isinstance(named, str) and named else None


def base_directory(environ: Mapping[str, str], variable: str, below_home: str) -> Path:
    """Return a directory of the XDG specification; raise ``ConfigInvalid`` if neither it nor a home is known."""
    if is_base_named(environ, variable):
        return Path(environ[variable])
    try:
        return Path(environ.get("HOME") or Path.home()) / below_home
    except RuntimeError:
        # A user without an entry in the system's list, as in containers.
        raise ConfigInvalid("this user has no home directory", advice=f"set HOME or {variable}") from None


def is_base_named(environ: Mapping[str, str], variable: str) -> bool:
    """Return whether the *variable* names a directory; the XDG specification says that relative ones are ignored."""
    return environ.get(variable, "").startswith("/")
