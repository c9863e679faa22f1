"""Options that all commands take, and what they open."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from mlsync.app.privacy import keep_private
from mlsync.app.secrets import find_secret
from mlsync.app.session import FIRST_CONTACT_S, Session
from mlsync.cli.arguments import candidates
from mlsync.cli.arguments.invocation import Invocation
from mlsync.cli.arguments.parsing import with_common_options
from mlsync.cli.terminal import output
from mlsync.cli.terminal.progress import TerminalMonitor
from mlsync.config.keys import is_device
from mlsync.config.load import find_config, load_with, says_repository
from mlsync.config.model import Config, KeySettings, S3Settings, WatchSettings
from mlsync.errors import ConfigInvalid, ObjectArchived
from mlsync.monitor import Monitor
from mlsync.repository.keys.keyslot import Unlock
from mlsync.repository.readable import report_skipped
from mlsync.service.log import LogMonitor, log_to

LATEST = "latest"
VERSION_WORDS = (LATEST, "resumable", "best")
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Common:
    """The options that all commands have."""

    config: Path | None
    repo: str | None
    endpoint_url: str | None
    region: str | None
    profile: str | None
    addressing: str | None
    ca_file: Path | None
    payload_signing: str | None
    passphrase_file: Path | None
    key_file: Path | None
    kms: str | None
    kms_region: str | None
    kms_endpoint_url: str | None
    as_json: bool
    quiet: bool
    verbose: int
    invocation: Invocation

    @property
    def asked_key(self) -> KeySettings:
        """Where the command line says that the secret is, and how KMS is reached."""
        return KeySettings(
            self.passphrase_file,
            self.key_file,
            kms_key=self.kms,
            kms_region=self.kms_region,
            kms_endpoint_url=self.kms_endpoint_url,
        )

    @property
    def is_debug(self) -> bool:
        """Whether ``-vv`` asks for a log of each step."""
        return self.verbose > 1 and not self.quiet

    def monitor(self, *, bars: bool = True) -> Monitor:
        """Return where progress and notices go; no *bars* where several processes have one terminal."""
        if self.is_debug:
            log_to(sys.stderr, logging.DEBUG)
            return LogMonitor()
        return TerminalMonitor(quiet=self.quiet, verbose=bool(self.verbose), bars=bars)

    def configuration(self) -> Config:
        """Return the configuration: the file's, overridden by the command line."""
        # A repository on the command line needs no file, which a fresh machine does not have.
        place = None if self.repo is not None and self.config is None else self._place()
        config = load_with(place, repository=self.repo)
        return dataclasses.replace(config, s3=self.s3(config.s3))

    def watching_configuration(self, watches: Sequence[Path] = ()) -> Config:
        """Return the configuration of commands that need watched directories: *watches*, or those that it names."""
        names_all = bool(self.repo) and bool(watches) and self.config is None
        config = load_with(None if names_all else self._place(), repository=self.repo, watches=watches)
        if not config.watches:
            what = "no directory to watch" if config.path is None else "the configuration watches no directory"
            where = None if config.path is None else str(config.path)
            advice = "give --watch DIR" if config.path is None else "name one under [[watch]]"
            raise ConfigInvalid(what, where=where, advice=advice)
        return dataclasses.replace(config, s3=self.s3(config.s3))

    def _place(self) -> Path | None:
        """Return the configuration file; ``None`` if there is none, and the environment names the repository."""
        try:
            return find_config(self.config)
        except ConfigInvalid:
            if self.config is not None or os.environ.get("MLSYNC_CONFIG") or not says_repository():
                raise
            return None

    def secret(
        self,
        config: Config,
        *,
        confirm: bool = False,
        check: Callable[[Unlock], None] = lambda _secret: None,
        before_prompt: Callable[[], object] = lambda: None,
        limits_children: bool = True,
    ) -> Unlock:
        """Return what opens the repository of *config*, after other processes of this user lost access to this one.

        *before_prompt* is called if a person has to be asked, *check* with the secret before it is typed again. Without
        *limits_children* programs that this one starts may leave core files.
        """
        keep_private(limits_children=limits_children)
        return find_secret(
            config.key,
            self.asked_key,
            passphrase=self.invocation.passphrase,
            profile=config.s3.profile,
            confirm=confirm,
            check=check,
            before_prompt=before_prompt,
        )

    def emit(self, value: object) -> None:
        """Print the command's JSON value."""
        self.invocation.emit(value)

    @contextmanager
    def session(
        self,
        config: Config,
        monitor: Monitor,
        found_id: Callable[[bytes], None] = lambda _repository_id: None,
        found_secret: Callable[[Unlock], None] = lambda _secret: None,
        *,
        writes_only: bool = False,
        reads_mirrors: bool = False,
    ) -> Iterator[Session]:
        """Open the repository; ask for a passphrase only once there is known to be one.

        *found_id* is called with its id before that, and can raise what makes asking useless; *found_secret* with what
        opens it. A command that *writes_only* does with a write-only key. One that *reads_mirrors* changes nothing.
        """

        def find_unlock() -> Unlock:
            secret = self.secret(config)
            found_secret(secret)
            return secret

        opened = Session.open(
            config,
            find_unlock,
            monitor,
            first_contact_s=FIRST_CONTACT_S,
            found_id=found_id,
            writes_only=writes_only,
            reads_mirrors=reads_mirrors,
        )
        self.invocation.mirror_use = lambda: mirror_use(opened)
        with opened as session:
            try:
                yield session
            except ObjectArchived as error:
                # Imported late: hardly any command meets cold storage.
                from mlsync.cli.arguments.thawing import Thawing

                Thawing(session.repository, self.invocation, monitor).explain(error)
                raise
            finally:
                report_skipped(session.repository, monitor)
                monitor.notice("info", _store_use(session))

    def s3(self, base: S3Settings | None = None) -> S3Settings:
        """Return the command line's S3 settings; what it does not say is as in *base*."""
        base = base or S3Settings()
        return dataclasses.replace(
            base,
            endpoint_url=self.endpoint_url or base.endpoint_url,
            region=self.region or base.region,
            profile=self.profile or base.profile,
            addressing=self.addressing or base.addressing,
            ca_file=base.ca_file if self.ca_file is None else Path(os.path.abspath(self.ca_file)),
            payload_signing=self.payload_signing or base.payload_signing,
        )


def common_options(function: F) -> F:
    """Give a command the options that all commands have; it gets them as one ``Common``."""
    return cast("F", with_common_options(_gathered(function)))


def pick_watches(config: Config, run: str | None) -> tuple[WatchSettings, ...]:
    """Return the watched directories of *run*, or all of them."""
    watches = tuple(watch for watch in config.watches if run is None or watch.run == run)
    if not watches:
        runs = [watch.run for watch in config.watches]
        import difflib  # late: no run that is watched needs it

        close = difflib.get_close_matches(run or "", runs, n=1)
        advice = (f"did you mean {close[0]}? " if close else "") + f"there are: {', '.join(runs)}"
        raise ConfigInvalid(f"no run named {run!r} is watched", where=str(config.path), advice=advice)
    return watches


def mirror_use(session: Session) -> dict[str, object]:
    """Return what came from mirrors, as JSON has it; nothing if all came from the repository."""
    reading = session.mirrors
    if session.stand_in is None and (reading is None or not reading.count):
        return {}
    used = {"count": 0, "objects": []} if reading is None else reading.as_json()
    return {"from_mirror": {"stand_in": session.stand_in, **used}}


def _store_use(session: Session) -> str:
    counted = session.counted
    calls = ", ".join(f"{name} {number}" for name, number in sorted(counted.calls.items()))
    read, written = output.size(counted.read_bytes), output.size(counted.written_bytes)
    return f"store: calls: {calls}; {read} read, {written} written"


def _gathered(function: Callable[..., Any]) -> Callable[..., Any]:
    names = [field.name for field in dataclasses.fields(Common) if field.name != "invocation"]

    def call(invocation: Invocation, /, **given: Any) -> Any:
        fields = {name: given.pop(name) for name in names}
        return function(Common(invocation=invocation, **fields), **given)

    return functools.update_wrapper(click.pass_obj(call), function)


def checked_version(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    """Refuse a word that means a version of no repository, before anybody has to type a passphrase."""
    if value is not None:
        from mlsync.versions.select import refuse_nonsense  # late: most commands choose no version

        refuse_nonsense(value)
    return value


version_option = click.option(
    "--version",
    "version",
    callback=checked_version,
    default=LATEST,
    show_default=True,
    metavar="VERSION",
    shell_complete=candidates.words(*VERSION_WORDS),
    help="Which version: a number, latest, resumable, best, a time, or the name of a pin.",
)


def _checked_device(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    """Refuse a word that is no device."""
    if value is not None and (not is_device(value) or value == "none"):
        raise click.BadParameter(f"{value!r} is not one of auto, cuda, cuda:N, cpu.")
    return value


device_option = click.option(
    "--device",
    callback=_checked_device,
    metavar="DEVICE",
    shell_complete=candidates.words("auto", "cuda", "cpu"),
    help="Where checkpoints are loaded: auto, cuda, cuda:N or cpu; default: as configured.",
)
run_option = click.option(
    "--run", metavar="NAME", shell_complete=candidates.runs, help="The run; not needed if there is only one."
)
watch_option = click.option(
    "--watch",
    "watches",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    shell_complete=candidates.directories,
    help="Directory to watch, repeatable; it may come later.",
)
