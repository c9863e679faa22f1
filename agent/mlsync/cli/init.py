"""``mlsync init``: make a repository, its first key slot, and a configuration file."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import click

from mlsync.cli import output
from mlsync.cli.options import Common, as_url, common_options
from mlsync.errors import ConfigInvalid
from mlsync.service.config import Config, usual_places
from mlsync.service.config_template import template
from mlsync.service.run_name import check_run_name
from mlsync.service.secrets import find_secret
from mlsync.service.session import Session, refuse_existing


@click.command("init", short_help="Make a repository and a configuration.")
@click.argument("url")
@click.option(
    "--watch",
    "watches",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Training directory to watch; may be given several times, and need not exist yet.",
)
@common_options
def init_command(common: Common, url: str, watches: tuple[Path, ...]) -> None:
    r"""Make a repository at URL and write a commented configuration file.

    URL is file:///path (or just an absolute path) or s3://bucket/prefix. The passphrase is asked for, or read from
    --passphrase-file or MLSYNC_PASSPHRASE; with --key-file the key stands in a file of 32 random bytes or more.
    WITHOUT THE PASSPHRASE OR KEY FILE NOTHING CAN BE RESTORED: keep a copy away from this machine.

    The configuration goes to --config FILE or ~/.config/mlsync/mlsync.toml (as root /etc/mlsync/mlsync.toml). A
    repository or configuration that exists is left as it is.

    \b
    mlsync init file:///mnt/backup/runs --watch ~/yolo/runs/train
    mlsync init s3://bucket/runs --endpoint-url https://minio.example:9000 --watch ~/runs
    """
    monitor = common.monitor()
    config = dataclasses.replace(Config.for_repository(as_url(url)), s3=common.s3())
    place = common.config or _usual_place()
    if place.exists():
        raise ConfigInvalid("there is a configuration already", where=str(place), advice="nothing was changed")
    named = [(Path(os.path.abspath(watch)), check_run_name(Path(os.path.abspath(watch)).name)) for watch in watches]
    text = template(config.repository, named, s3=_s3_of(common), key=_key_of(common))
    refuse_existing(config, monitor)
    unlock = find_secret(common.asked_key, common.asked_key, confirm=True)
    with Session.create(config, unlock, monitor) as session:
        repository_id = session.repository.repository_id.hex()
    _write(place, text)
    if common.as_json:
        output.emit({"repository": config.repository, "id": repository_id, "config": str(place)})
        return
    click.echo(f"repository {repository_id} at {config.repository}")
    click.echo(f"configuration {place}")
    click.echo("Keep a copy of the passphrase or key file away from this machine: without it nothing can be restored.")
    click.echo("Next: mlsync agent" if watches else "Next: name a directory under [[watch]] there, then: mlsync agent")


def _usual_place() -> Path:
    own, system = usual_places()
    return system if os.geteuid() == 0 else own


def _write(place: Path, text: str) -> None:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        what = f"the repository was made, but the configuration cannot be written: {error.strerror}"
        raise ConfigInvalid(what, where=str(place)) from error


def _s3_of(common: Common) -> dict[str, str | bool | Path | None]:
    return {"endpoint_url": common.endpoint_url, "region": common.region, "profile": common.profile}


def _key_of(common: Common) -> dict[str, str | bool | Path | None]:
    files = {"passphrase_file": common.passphrase_file, "key_file": common.key_file}
    return {name: None if file is None else Path(os.path.abspath(file)) for name, file in files.items()}
