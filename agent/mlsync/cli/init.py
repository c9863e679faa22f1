"""``mlsync init``: make a repository, its first key slot, and a configuration file."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import cast

import click

from mlsync.app.group import group_for, group_of
from mlsync.app.refusals import refuse_unwritable
from mlsync.app.secrets import accept_all, refuse_weak
from mlsync.app.session import Session, refuse_existing, repository_id_of
from mlsync.app.write_only import make_key_file, refuse_taken
from mlsync.cli.arguments import candidates
from mlsync.cli.arguments.options import Common, common_options, watch_option
from mlsync.cli.arguments.parsing import Command
from mlsync.cli.new_config import config_option, service_options
from mlsync.cli.terminal import output
from mlsync.cli.terminal.steps import Step, step_lines
from mlsync.cli.then_agent import KEEPING_WATCH, agent_option, become_agent, refuse_json
from mlsync.cli.write_only_key import say_write_only
from mlsync.config.draft import drafted
from mlsync.config.environment import variable_of
from mlsync.config.load import find_config, load, load_with
from mlsync.config.model import Config, S3Settings
from mlsync.config.places import place_to_write
from mlsync.config.run_name import default_run_name
from mlsync.config.template import template
from mlsync.doctor.doctor import at_start, in_short
from mlsync.errors import ConfigInvalid, RepositoryMissing
from mlsync.monitor import Monitor
from mlsync.repository.keys import keyslot
from mlsync.repository.keys.keyslot import SlotKind, Unlock
from mlsync.service.unit.booted import has_systemd

_WHAT_IS_AT_STAKE: dict[SlotKind, str] = {
    "passphrase": "Keep a copy of the passphrase away from this machine: nothing opens without it. "
    "A second way in, for paper: mlsync key add --recovery",
    "key-file": "Keep a copy of the key file away from this machine: nothing opens without it. "
    "A second way in, for paper: mlsync key add --recovery",
    "recovery-key": "Keep the recovery key away from this machine: nothing opens without it.",
    "aws-kms": "Nothing opens without the key of AWS KMS. Add a second way in, in case that key is deleted: "
    "mlsync key add --recovery",
}
_UNCHANGED = "nothing was changed; give --config FILE"
_EXAMPLES = """\b
Examples:
  mlsync init /mnt/backup/runs --watch ~/yolo/runs --agent
  mlsync init s3://bucket/runs --endpoint-url https://minio --watch ~/runs
"""


@click.command("init", cls=Command, short_help="Make a repository and a configuration.", epilog=_EXAMPLES)
@click.argument("url", required=False, shell_complete=candidates.directories)
@watch_option
@agent_option("Then keep watch, as mlsync agent does, without asking for the passphrase again.")
@click.option("--group", metavar="NAME", help="Share the repository with this Unix group; directories only.")
@click.option(
    "--write-only",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also write to FILE a key for a machine that is to make versions and read none.",
)
@click.option("--allow-weak", is_flag=True, help="Accept a passphrase of fewer than 8 characters.")
@click.option("--mirror", metavar="URL", help="A second copy, which the agent makes and keeps up.")
@click.option("--if-missing", is_flag=True, help="Leave a repository that is there, and end with 0.")
@common_options
def init_command(
    common: Common,
    url: str | None,
    watches: tuple[Path, ...],
    group: str | None,
    *,
    then_agent: bool,
    write_only: Path | None,
    allow_weak: bool,
    mirror: str | None,
    if_missing: bool,
) -> None:
    """Make a repository at URL and write a commented configuration file.

    URL is /path, file:///path or s3://bucket/prefix. WITHOUT THE PASSPHRASE NOTHING CAN BE RESTORED: keep a copy of it
    away from this machine. The configuration goes to --config FILE, or else to where all commands look for it. Without
    URL, make the repository that one there names.
    """
    kept = _kept(common, watches, mirror) if url is None and common.repo is None and not if_missing else None
    if then_agent:
        _refuse_agent(common, watches, kept)
    node_key = None if write_only is None else Path(os.path.abspath(write_only))
    if node_key is not None:
        refuse_taken(node_key)
    monitor = common.monitor()
    config = _config(common, kept, lambda: _one_url(url, common.repo, os.environ if if_missing else {}))
    text = _text(common, config, watches, mirror)
    if if_missing and _is_left(common, config, text, node_key, monitor, then_agent=then_agent):
        return
    place = kept or _place(common.config)
    shared_with = group_for(group, config, monitor)
    with nullcontext() if kept else drafted(place, text, where=None, advice=_UNCHANGED) as draft:
        refuse_existing(config, monitor)
        if config.repository_directory is not None:
            refuse_unwritable(config.repository_directory)
        check = accept_all if allow_weak else refuse_weak

        found: list[Unlock] = []

        def find_secret() -> Unlock:
            say = _say_what_a_passphrase_is
            found.append(common.secret(config, confirm=True, check=check, before_prompt=say))
            return found[0]

        with Session.create(config, find_secret, monitor, group=shared_with) as session:
            repository_id = session.repository.repository_id.hex()
            if node_key is not None:
                make_key_file(session.repository, node_key)
        if draft is not None:
            os.rename(draft, place)
    _report(common, config, found[0], place, repository_id, node_key, then_agent=then_agent)
    if then_agent:
        become_agent(common, place, found[0])


def _is_left(
    common: Common,
    config: Config,
    text: str,
    node_key: Path | None,
    monitor: Monitor,
    *,
    then_agent: bool,
) -> bool:
    """Leave a repository that is there as it is, and write the configuration unless there is one for it.

    Return whether that was so; otherwise nothing was done.
    """
    if node_key is not None:
        what = "--if-missing with --write-only: only who makes the repository has that key made with it"
        raise ConfigInvalid(what, advice="make the key once, with mlsync key add --write-only FILE")
    try:
        found_id = repository_id_of(config, monitor)
    except RepositoryMissing:
        return False
    place = common.config or place_to_write()
    place = Path(os.path.abspath(place))
    if os.path.lexists(place):
        written = load(place).repository
        if written != config.repository:
            advice = "nothing was changed; give --config FILE for another one, or remove it"
            raise ConfigInvalid(f"there is a configuration for {written} already", where=str(place), advice=advice)
    else:
        with drafted(place, text, where=None, advice=_UNCHANGED) as draft:
            os.rename(draft, place)
    if common.as_json:
        made = {"repository": config.repository, "id": found_id.hex(), "config": str(place), "write_only_key": None}
        common.emit({**made, "made": False})
    elif not common.quiet:
        output.say_wrapped(f"There is a repository at {config.repository} already; it was left as it is.")
        output.say(f"configuration  {place}")
    if then_agent:
        become_agent(common, place, common.secret(config))
    return True


def _report(
    common: Common,
    config: Config,
    secret: Unlock,
    place: Path,
    repository_id: str,
    node_key: Path | None,
    *,
    then_agent: bool,
) -> None:
    if common.as_json:
        made = {"repository": config.repository, "id": repository_id, "config": str(place)}
        common.emit({**made, "write_only_key": None if node_key is None else str(node_key), "made": True})
    elif not common.quiet:
        _print(secret, config, place, repository_id)
        if node_key is not None:
            output.say()
            say_write_only(node_key)
        if not then_agent:
            # The agent says it by itself.
            for one in at_start(load(place)):
                output.tell(f"mlsync: {in_short(one)}")
        output.say()
        if then_agent:
            output.say_wrapped(f"{KEEPING_WATCH}. Ctrl-C ends it.")
        else:
            _print_next(place)


def _refuse_agent(common: Common, watches: tuple[Path, ...], kept: Path | None) -> None:
    refuse_json(common)
    if not watches and (kept is None or not load(kept).watches):
        raise ConfigInvalid("--agent without a directory to watch", advice="give --watch DIR")


def _say_what_a_passphrase_is() -> None:
    click.echo(
        "Choose a passphrase of 8 characters or more. It encrypts everything, and nobody\n"
        "can reset it: WITHOUT IT NOTHING CAN BE RESTORED. Keep a copy of it elsewhere.",
        err=True,
    )


def _text(common: Common, config: Config, watches: tuple[Path, ...], mirror: str | None) -> str:
    """Return the configuration to write."""
    copy = None if mirror is None else Config.for_repository(mirror).repository
    return template(config.repository, _named(watches), s3=_s3_of(common), key=_key_of(common), mirror=copy)


def _kept(common: Common, watches: tuple[Path, ...], mirror: str | None) -> Path | None:
    """Return the configuration that all commands would use, if there is one; it already says all that options could."""
    try:
        place = Path(os.path.abspath(find_config(common.config)))
    except ConfigInvalid:
        return None
    for option, is_given in {
        "--watch": bool(watches),
        "--mirror": mirror is not None,
        "S3 options": common.s3() != S3Settings(),
    }.items():
        if is_given:
            advice = "say it there, or give URL and another --config FILE"
            raise ConfigInvalid(f"{option} beside a configuration that is there", where=str(place), advice=advice)
    return place


def _config(common: Common, kept: Path | None, url: Callable[[], str]) -> Config:
    """Return the settings by which the repository is made."""
    if kept is not None:
        return load_with(kept)
    # The environment's keys count here as they do for every other command, the passphrase's file for one.
    config = load_with(None, repository=url())
    config = dataclasses.replace(config, s3=common.s3(config.s3))
    if config.repository_directory is not None and common.s3() != S3Settings():
        advice = "for a bucket write s3://bucket/prefix"
        raise ConfigInvalid("S3 options for a repository in a directory", where=config.repository, advice=advice)
    return config


def _one_url(url: str | None, repo: str | None, environ: Mapping[str, str]) -> str:
    """Return the URL that was given; a start script may give it in *environ*."""
    if url is None and repo is None:
        repo = environ.get(variable_of("", "repository")) or None
    if (url is None) == (repo is None):
        what = "no URL for the repository" if url is None else "two URLs for one repository"
        raise ConfigInvalid(what, advice="mlsync init URL")
    return cast("str", url or repo)


def _place(asked: Path | None) -> Path:
    """Return a place where the other commands look; refuse one that is taken."""
    place = place_to_write() if asked is None else Path(os.path.abspath(asked))
    if os.path.lexists(place):
        advice = "nothing was changed; give --config FILE for another one, or remove it"
        raise ConfigInvalid("there is a configuration already", where=str(place), advice=advice)
    return place


def _named(watches: tuple[Path, ...]) -> list[tuple[Path, str | None]]:
    named: list[tuple[Path, str | None]] = []
    for watch in watches:
        directory = Path(os.path.abspath(watch))
        run = default_run_name(directory)
        if run in [other for _, other in named]:
            advice = "give one here, and name the other under [[watch]] in the configuration, with a run of its own"
            raise ConfigInvalid(f"two directories would be run {run!r}", where=str(directory), advice=advice)
        named.append((directory, run))
    return named


def _print(secret: Unlock, config: Config, place: Path, repository_id: str) -> None:
    output.say(f"repository     {config.repository}")
    output.say(f"repository id  {repository_id}")
    group = None if config.repository_directory is None else group_of(config.repository_directory)
    if group is not None:
        output.say(f"shared with    group {group}")
    output.say(f"configuration  {place}")
    output.say()
    output.say_wrapped(_WHAT_IS_AT_STAKE[keyslot.kind_of(secret)])


def _print_next(place: Path) -> None:
    if load(place).watches:
        output.say("Next:")
    else:
        output.say("Next, once the configuration names the training directory under [[watch]]:")
    option = config_option(place)
    steps = [
        Step(f"mlsync backup{option}", "make the first version"),
        Step(f"mlsync agent{option}", "keep watch until Ctrl-C"),
    ]
    if has_systemd():
        steps.append(Step(f"mlsync service install{service_options(place)}", "or keep watch as a service"))
    for line in step_lines(steps):
        output.say(line)


def _s3_of(common: Common) -> dict[str, str | bool | Path | None]:
    return {
        "endpoint_url": common.endpoint_url,
        "region": common.region,
        "profile": common.profile,
        "addressing": common.addressing,
        "ca_file": None if common.ca_file is None else Path(os.path.abspath(common.ca_file)),
        "payload_signing": common.payload_signing,
    }


def _key_of(common: Common) -> dict[str, str | bool | Path | None]:
    files = {"passphrase_file": common.passphrase_file, "key_file": common.key_file}
    absolute = {name: None if file is None else Path(os.path.abspath(file)) for name, file in files.items()}
    kms = {"kms_key": common.kms, "kms_region": common.kms_region, "kms_endpoint_url": common.kms_endpoint_url}
    return {**absolute, **kms}
