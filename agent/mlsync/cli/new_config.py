"""The configuration with which a restored run continues on its new machine: written, or shown to be saved."""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from mlsync.cli.terminal import output
from mlsync.config.draft import drafted, not_written
from mlsync.config.load import load
from mlsync.config.model import Config, KeySettings, S3Settings
from mlsync.config.places import default_state_directory, place_of_service, place_to_write, usual_places
from mlsync.config.template import Value, assignments, template
from mlsync.errors import ConfigInvalid
from mlsync.service.unit.booted import has_systemd

_SUFFIX: Final = ".toml"
_ELSEWHERE: Final = "give --write-config FILE.toml for another place"
_ANOTHER: Final = "nothing was restored; give --write-config FILE.toml for another one"

Values = dict[str, Value]


@dataclass(frozen=True, slots=True)
class NewConfig:
    """What a configuration must say so that *directory* continues *run* in the repository of *config*.

    *key* is where the secret is, if in files; no secret is ever in it.
    """

    config: Config
    run: str
    directory: bytes
    key: KeySettings

    @property
    def text(self) -> str:
        """The whole commented file."""
        return template(
            self.config.repository,
            [(Path(os.fsdecode(self.directory)), self.run)],
            s3=_given(self.config.s3, S3Settings()),
            key=_given(self.key, KeySettings()),
            state_directory=self._state_directory,
        )

    @property
    def lines(self) -> list[str]:
        """The lines that such a file has at least."""
        top: Values = {"repository": self.config.repository, "state_directory": self._state_directory}
        found = [*assignments(top), "", *self.watch_lines]
        for name, values in (("key", _given(self.key, KeySettings())), ("s3", _given(self.config.s3, S3Settings()))):
            if values:
                found += ["", f"[{name}]", *assignments(values)]
        return found

    @property
    def watch_lines(self) -> list[str]:
        """The lines that watch the directory."""
        return ["[[watch]]", *assignments({"directory": Path(os.fsdecode(self.directory)), "run": self.run})]

    @property
    def _state_directory(self) -> Path | None:
        state = self.config.state_directory
        return None if state == default_state_directory() else state

    def is_said_by(self, existing: Config) -> bool:
        """Return whether a configuration says it already."""
        place = os.path.realpath(self.directory)
        watched = [os.path.realpath(bytes(watch.directory)) for watch in existing.watches if watch.run == self.run]
        return _repository(existing) == _repository(self.config) and place in watched


def asked_place(asked: str | None, common_config: Path | None) -> Path | None:
    """Return where ``--write-config`` writes, ``None`` without it: the file that it names, or that commands read."""
    if asked is None:
        return None
    if asked and not asked.endswith(_SUFFIX):
        advice = f"a configuration's name ends in {_SUFFIX}; put other options behind --write-config"
        raise ConfigInvalid(f"--write-config would write to {asked!r}", advice=advice)
    if asked or common_config is not None:
        return Path(os.path.abspath(asked or str(common_config)))
    return place_to_write()


def existing_config(place: Path, config: Config) -> Config | None:
    """Return the configuration at *place*, if there is one; refuse what is none, or is for another repository."""
    if not os.path.lexists(place):
        return None
    try:
        existing = load(place)
    except ConfigInvalid as error:
        what = f"--write-config overwrites nothing, and what is there cannot be used: {error.what}"
        raise ConfigInvalid(what, where=error.where or str(place), advice=_ANOTHER) from None
    if _repository(existing) != _repository(config):
        what = "--write-config overwrites nothing, and there is a configuration for another repository"
        raise ConfigInvalid(what, where=f"{place}: {existing.repository}", advice=_ANOTHER)
    return existing


def _refuse_to_change(new: NewConfig, existing: Config) -> NoReturn:
    """Print the lines that an existing configuration lacks, and raise ``ConfigInvalid``."""
    other = next((watch for watch in existing.watches if watch.run == new.run), None)
    if other is not None:
        place = assignments({"directory": Path(os.fsdecode(new.directory))})[0]
        what = (
            f"--write-config changes no configuration, and the one there watches run {new.run!r} in {other.directory}"
        )
        advice = f"nothing was restored; set {place} there, and restore without --write-config"
        raise ConfigInvalid(what, where=str(existing.path), advice=advice)
    for line in ("Add these lines to the configuration:", "", *new.watch_lines, ""):
        output.tell(line)
    what = "--write-config overwrites nothing, and there is a configuration already"
    advice = "nothing was restored; add the lines above, and restore without --write-config"
    raise ConfigInvalid(what, where=str(existing.path), advice=advice)


class Draft:
    """A configuration under another name beside its place."""

    def __init__(self, temporary: Path, place: Path, new: NewConfig) -> None:
        self._temporary = temporary
        self._place = place
        self._new = new

    def keep(self) -> None:
        """Give it its name; raise ``ConfigInvalid`` if something else has that name by now."""
        try:
            os.link(self._temporary, self._place, follow_symlinks=False)
        except FileExistsError:
            # All ranks of a training may restore at once.
            if self._new.is_said_by(load(self._place)):
                return
            what = "the run was restored, and another configuration was written meanwhile"
            raise ConfigInvalid(what, where=str(self._place)) from None
        except OSError as error:
            raise not_written(self._place, error, _ELSEWHERE) from error


@contextmanager
def prepared(place: Path | None, existing: Config | None, new: NewConfig) -> Iterator[Draft | None]:
    """Prepare to write *new*; ``None`` if nothing is to be written.

    Raises ``ConfigInvalid`` for an *existing* configuration at *place* that does not say it already.
    """
    if place is None or (existing is not None and new.is_said_by(existing)):
        yield None
    elif existing is not None:
        _refuse_to_change(new, existing)
    else:
        with drafted(place, new.text, where=str(place), advice=_ELSEWHERE) as temporary:
            yield Draft(temporary, place, new)


def config_option(place: Path) -> str:
    """Return the option that commands need for a configuration at *place*: none where they look by themselves."""
    found = place in usual_places() or str(place) == os.environ.get("MLSYNC_CONFIG")
    return "" if found else f" --config {shlex.quote(str(place))}"


def service_options(place: Path) -> str:
    """Return the options of ``mlsync service install`` for this user's service with the configuration at *place*."""
    is_machines = os.geteuid() == 0
    user = "" if is_machines else " --user"
    return user if place == place_of_service(is_machines=is_machines) else f"{user} --config {shlex.quote(str(place))}"


def written_line(place: Path, new: NewConfig, *, is_new: bool) -> str:
    """Return what a person reads when the run has its configuration."""
    if is_new:
        has_key = new.key.names_secret
        return f"Configuration written: {place}" + ("" if has_key else " (the passphrase is not in it)")
    return f"The configuration watches it already: {place}"


def how_to_continue(place: Path) -> Iterator[str]:
    """Yield the commands that keep watch with the configuration at *place*."""
    with_service = has_systemd()
    yield "To continue the backups here, run" + (" one of" if with_service else "")
    yield f"    mlsync agent{config_option(place)}"
    if with_service:
        yield f"    mlsync service install{service_options(place)}"


def shown_lines(new: NewConfig) -> Iterator[str]:
    """Yield how backups continue on a machine without a configuration; nothing where it has one."""
    place = place_to_write()
    if new.config.path is not None or os.path.lexists(place):
        return
    try:
        lines = new.lines
    except ConfigInvalid:  # of a directory that is not UTF-8
        return
    yield "To continue the backups here, save this (restore --write-config does it) and start mlsync agent:"
    yield from (f"    {line}".rstrip() for line in (f"# {output.path(bytes(place))}", *lines))


def _given(settings: object, default: object) -> Values:
    """Return the settings that differ from the default, by the names of their keys."""
    assert dataclasses.is_dataclass(settings)
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    return {name: value for name, value in values.items() if value != getattr(default, name)}


def _repository(config: Config) -> tuple[str, str | None]:
    return config.repository.rstrip("/"), config.s3.endpoint_url
