"""``mlsync register``: make a version of a model in MLflow out of a version, without an upload."""

from __future__ import annotations

import click

from mlsync.app.evaluating import evaluate_registered
from mlsync.app.models import model_of, registry_of
from mlsync.cli.arguments import candidates
from mlsync.cli.arguments.options import VERSION_WORDS, Common, checked_version, common_options, run_option
from mlsync.cli.arguments.parsing import Command
from mlsync.cli.arguments.rollback import accept_rollback_option, look_for_rollback
from mlsync.cli.arguments.stopping import stopping
from mlsync.cli.reports.json import register_json
from mlsync.cli.terminal import output
from mlsync.errors import Stopped
from mlsync.publish.chosen import as_path
from mlsync.publish.register import RegisterOptions, RegisterResult, newest_proved, register
from mlsync.registry.names import refuse_alias, refuse_model, tag
from mlsync.versions.select import LATEST, find_run, find_version

_EXAMPLES = """\b
Examples:
  mlsync register best --model yolo --alias champion
  mlsync register 12 --model yolo --path weights/best.pt --tag data=coco
"""


@click.command("register", cls=Command, short_help="Register a version in MLflow, without an upload.", epilog=_EXAMPLES)
@click.argument("version", required=False, callback=checked_version, shell_complete=candidates.words(*VERSION_WORDS))
@run_option
@click.option("--model", metavar="NAME", help="The model; default: as configured, or the run's name.")
@click.option("--alias", "aliases", multiple=True, metavar="NAME", help="An alias to move to it; also several times.")
@click.option("--path", metavar="PATH", help="What of it is the model; default: its one checkpoint, or best.*.")
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="One more tag; also several times.")
@click.option("--tracking-uri", metavar="URL", help="The server; else as configured, or MLFLOW_TRACKING_URI.")
@click.option("--allow-unproved", is_flag=True, help="Also what is not proved yet; never what is broken.")
@accept_rollback_option
@common_options
def register_command(
    common: Common,
    version: str | None,
    run: str | None,
    model: str | None,
    aliases: tuple[str, ...],
    path: str | None,
    tags: tuple[str, ...],
    tracking_uri: str | None,
    allow_unproved: bool,
    accept_rollback: bool,
) -> None:
    """Register VERSION in MLflow, else the newest proved one; nothing is uploaded.

    MLflow gets where the files are and how they were proved. Its client reads them with mlsync-agent[mlflow]. A
    registered version is kept until mlsync unregister. The same again changes nothing but aliases and tags.
    """
    if model is not None:
        refuse_model(model)
    for alias in aliases:
        refuse_alias(alias)
    own_tags = dict(map(tag, tags))
    config, monitor = common.configuration(), common.monitor()
    registry = registry_of(config.mlflow, monitor, tracking_uri)
    with common.session(config, monitor) as session, stopping() as stop:
        look_for_rollback(session, run, monitor, accept=accept_rollback, version=version)
        repository = session.repository
        name = find_run(repository, run)
        if version is None and not allow_unproved:
            stored = newest_proved(repository, name)
        else:
            stored = find_version(repository, name, version or LATEST)

        def refuse_stopped() -> None:
            if stop.is_set():
                raise Stopped("nothing was registered")

        options = RegisterOptions(
            model or model_of(config, name),
            config.repository,
            aliases or config.mlflow.alias,
            as_path(path if path is not None else config.mlflow.path),
            own_tags,
            allow_unproved=allow_unproved,
            accept_hidden=accept_rollback,
            stop=refuse_stopped,
        )
        repository.doubts.pop(stored.key, None)  # a forgotten version comes back
        # Before, so that the numbers are among its tags.
        evaluate_registered(session, stored, monitor, refuse_stopped)
        done = register(repository, registry, stored, options, monitor)
    if common.as_json:
        common.emit(register_json(done))
    elif not common.quiet:
        output.say_wrapped(_line(done))


def _line(done: RegisterResult) -> str:
    what = output.path(done.path) if done.path else "all of it"
    how = "is" if done.is_new else "was already"
    named = "".join(f", {done.model}@{alias}" for alias in done.aliases)
    return f"{done.run}: version {done.version} ({what}) {how} {done.uri}{named} at {done.place}"
