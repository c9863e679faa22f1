"""The unit of the resident agent on this machine: write it for this mlsync, and remove it again."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Final

from mlsync.app.group import group_of
from mlsync.config.model import Config
from mlsync.config.places import base_directory
from mlsync.config.trust import refuse_untrusted
from mlsync.errors import ConfigInvalid, UnitChanged, UnitNotWritten

NAME: Final = "mlsync-agent"
_UNIT: Final = f"{NAME}.service"
_TEMPLATE: Final = "mlsync@"
# What systemd takes as it is for the part behind the @.
_INSTANCE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", re.ASCII)
#: What runs by the clock, each with a timer of its name.
TIMED: Final = ("mlsync-check", "mlsync-prune")
_GPU: Final = f"{NAME}-gpu.conf"
# The last line of what install writes. With it the next install knows a unit that nobody changed, and replaces it.
_STAMP: Final = "# Written by mlsync service install; put changes into a drop-in. sha256 of the rest: "
_PLAIN: Final = re.compile(r"[\w@+=:,./-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Manager:
    """The systemd that runs the agent: *directory* is where its units are, *source* the unit as mlsync ships it."""

    directory: Path
    source: str
    systemctl: str
    wants: str
    is_machines: bool
    name: str = NAME
    #: What systemd gives the machine's unit as its state directory, whatever root's environment says.
    state: Path = Path("/var/lib/mlsync")

    @property
    def unit(self) -> Path:
        """Where the unit is installed."""
        return self.directory / f"{_TEMPLATE if self.is_template else self.name}.service"

    @property
    def is_template(self) -> bool:
        """Whether the unit is that of all instances."""
        return "@" in self.name

    @property
    def gpu_drop_in(self) -> Path:
        """Where the drop-in for GPUs is installed."""
        return self.directory / f"{self.unit.name}.d" / "gpu.conf"

    @property
    def enabled(self) -> list[Path]:
        """The links that start the unit, or any instance of it, with the machine."""
        found = [self.directory / self.wants / self.unit.name]
        if self.is_template:
            found = sorted((self.directory / self.wants).glob(f"{_TEMPLATE}*.service"))
        return [link for link in found if os.path.lexists(link)]


MACHINE: Final = Manager(Path("/etc/systemd/system"), _UNIT, "systemctl", "multi-user.target.wants", is_machines=True)


def manager_of_instance(name: str) -> Manager:
    """Return the machine's systemd for one instance of the template unit: *name* is that of its configuration too."""
    if _INSTANCE.fullmatch(name) is None:
        what = f"{name!r} cannot name an instance: letters, digits, '_', '.' and '-', and first a letter or digit"
        raise ConfigInvalid(what)
    state = Path(f"/var/lib/mlsync-{name}")
    unit, own = f"{_TEMPLATE}.service", f"{_TEMPLATE}{name}"
    return replace(MACHINE, source=unit, name=own, state=state)


def configuration_of_instance(name: str) -> Path:
    """Return the configuration that an instance has, whatever the command line says."""
    return Path(f"/etc/mlsync/{name}.toml")


def manager_of_user(environ: Mapping[str, str] = os.environ) -> Manager:
    """Return the systemd of the user who runs this process."""
    directory = base_directory(environ, "XDG_CONFIG_HOME", ".config") / "systemd" / "user"
    return Manager(directory, f"{NAME}-user.service", "systemctl --user", "default.target.wants", is_machines=False)


def install(
    manager: Manager, command: Sequence[str], *, gpu: bool = False, timers: bool = False, force: bool = False
) -> list[Path]:
    """Write the unit that runs *command*, with *gpu* also the drop-in for GPUs; return the files, mode 0644.

    With *timers* also the units of ``TIMED``, for the same program and configuration.

    Raises ``UnitChanged``, before anything is written, for a file that differs from what an install wrote, unless
    *force* is given; ``Untrusted`` for a program that root would run and others can change.
    """
    if manager.is_machines:
        refuse_untrusted(command[0], "a service's program")
    wanted = {manager.unit: unit_text(manager, command)}
    if gpu:
        wanted[manager.gpu_drop_in] = _shipped(_GPU)
    if timers:
        wanted |= _timed_units(manager, command)
    for file in wanted:
        if not force:
            _refuse_changed(file)
    for file, text in wanted.items():
        _write(file, text + _stamp(text))
    return list(wanted)


def uninstall(manager: Manager, *, force: bool = False) -> list[Path]:
    """Remove what ``install`` wrote, and return it; raise ``UnitChanged`` as that does, and if the unit is enabled."""
    for link in manager.enabled:
        advice = f"{manager.systemctl} disable --now {link.name.removesuffix('.service')}"
        raise ConfigInvalid("the service is enabled", where=str(link), advice=f"first: {advice}")
    drop_in = manager.gpu_drop_in
    kinds = () if manager.is_template else ("timer", "service")
    timed = [manager.directory / f"{name}.{kind}" for name in TIMED for kind in kinds]
    for file in timed:
        if os.path.lexists(manager.directory / "timers.target.wants" / file.name):
            advice = f"first: {manager.systemctl} disable --now {file.name}"
            raise ConfigInvalid("the timer is enabled", where=str(file), advice=advice)
    # Files of these names that no install wrote are somebody's own, unless the service's are.
    ours = [file for file in timed if os.path.lexists(file) and _STAMP in file.read_text(errors="replace")]
    installed = [file for file in (drop_in, manager.unit, *ours) if os.path.lexists(file)]
    for file in installed:
        if not force:
            _refuse_changed(file)
    for file in installed:
        try:
            file.unlink()
        except OSError as error:
            raise UnitNotWritten(f"the unit cannot be removed: {error.strerror}", where=str(file)) from error
    with suppress(OSError):
        # Only if no drop-in of the administrator's is left in it.
        drop_in.parent.rmdir()
    return installed


def unit_text(manager: Manager, command: Sequence[str]) -> str:
    """Return the shipped unit with *command* as what it runs."""
    text = _running(_shipped(manager.source), command)
    if not manager.is_template:
        return text
    # All instances have this one file, and each its own configuration.
    place = str(configuration_of_instance(manager.name.partition("@")[2]))
    return text.replace(f"--config {_quoted(place)}\n", f"--config {configuration_of_instance('%i')}\n", 1)


def _timed_units(manager: Manager, command: Sequence[str]) -> dict[Path, str]:
    """Return the units that run by the clock, with the program and the configuration of *command*."""
    *program, _, option, place = command
    wanted: dict[Path, str] = {}
    for name in TIMED:
        text = _shipped(f"{name}.service")
        _, *words = re.findall(r"^ExecStart=(.*) --config \S+$", text, re.MULTILINE)[0].split()
        wanted[manager.directory / f"{name}.service"] = _running(text, [*program, *words, option, place])
        wanted[manager.directory / f"{name}.timer"] = _shipped(f"{name}.timer")
    return wanted


def _running(text: str, command: Sequence[str]) -> str:
    """Return a unit with *command* as what it runs."""
    program, *arguments = command
    # systemd replaces no variable in the program's path: there, a doubled $ would stay two.
    line = " ".join(["ExecStart=" + _quoted(program), *(_quoted(word.replace("$", "$$")) for word in arguments)])
    return re.sub(r"^ExecStart=.*$", lambda _: line, text, count=1, flags=re.MULTILINE)


def shortcomings(manager: Manager, config: Config) -> list[str]:
    """Return what the unit lacks for a configuration, each with what to do about it."""
    found = []
    if not config.key.names_secret:
        found.append(
            "the configuration names no passphrase_file, key_file, write_only_key_file or kms_key under [key]: name "
            "one, or give the unit a credential: [Service] LoadCredential=mlsync-passphrase:FILE"
        )
    if not manager.is_machines:
        return found
    text = _shipped(manager.source)
    writable = [manager.state, *map(Path, re.findall(r"^ReadWritePaths=-?(.*)$", text, re.MULTILINE))]
    needed = [config.state_directory]
    if config.repository_directory is not None:
        needed.append(config.repository_directory)
    found += [
        f"the unit may not write to {place}: [Service] ReadWritePaths={_quoted(str(place))}"
        for place in needed
        if not any(place.is_relative_to(one) for one in writable)
    ]
    group = None if config.repository_directory is None else group_of(config.repository_directory)
    if group is not None:
        found.append(f"the unit is not in the repository's group {group}: [Service] SupplementaryGroups={group}")
    found += [
        f"the unit does not see {watch.directory}: [Service] PrivateTmp=no"
        for watch in config.watches
        if any(watch.directory.is_relative_to(one) for one in ("/tmp", "/var/tmp"))  # noqa: S108 - only compared
    ]
    return found


def _shipped(name: str) -> str:
    """Return a file of ``systemd/``: it is in the wheel beside the modules, and in a clone where it is edited."""
    packaged = files("mlsync") / "systemd" / name
    return packaged.read_text() if packaged.is_file() else (Path(__file__).parents[4] / "systemd" / name).read_text()


def _stamp(text: str) -> str:
    return f"{_STAMP}{hashlib.sha256(text.encode()).hexdigest()}\n"


def _refuse_changed(file: Path) -> None:
    """Raise ``UnitChanged`` if a file is there that is not as an install left it."""
    if not os.path.lexists(file):
        return
    there = "" if file.is_symlink() or not file.is_file() else file.read_text(errors="replace")
    body, stamp, _ = there.rpartition(_STAMP)
    if not stamp or there != body + _stamp(body):
        advice = "look at it, then give --force to lose what was changed"
        raise UnitChanged("this file is not as mlsync service install writes it", where=str(file), advice=advice)


def _write(file: Path, text: str) -> None:
    """Write a file that all may read in one step: systemd sees the old one or the whole new one."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        try:
            file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fchmod(descriptor, 0o644)
                os.fsync(descriptor)
            os.rename(temporary, file)
        except OSError as error:
            raise UnitNotWritten(f"the unit cannot be written: {error.strerror}", where=str(file)) from error
    finally:
        with suppress(OSError):
            os.unlink(temporary)


def _quoted(word: str) -> str:
    """Return a word of a command line as a unit has it."""
    if not word.isprintable():
        raise ConfigInvalid("a unit cannot hold a path with characters that do not print", where=repr(word))
    # systemd would replace specifiers.
    word = word.replace("%", "%%")
    return word if _PLAIN.fullmatch(word) else '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'
