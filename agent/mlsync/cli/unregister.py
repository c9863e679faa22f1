"""``mlsync unregister``: have a version not count as registered any more."""

from __future__ import annotations

import click

from mlsync.app.models import registry_of
from mlsync.cli.arguments import candidates
from mlsync.cli.arguments.options import VERSION_WORDS, Common, checked_version, common_options, run_option
from mlsync.cli.arguments.parsing import Command
from mlsync.cli.arguments.rollback import accept_rollback_option, look_for_rollback
from mlsync.cli.reports.json import unregister_json
from mlsync.cli.terminal import output
from mlsync.errors import ConfigInvalid, VersionKept
from mlsync.publish.registrations import let_go, registered_of
from mlsync.registry.mlflow import Registry
from mlsync.repository.history.decisions import By
from mlsync.repository.history.registered import Registered
from mlsync.versions.select import find_run, find_version

_EXAMPLES = """\b
Examples:
  mlsync unregister 12
  mlsync unregister 12 --model yolo --delete
"""


@click.command("unregister", cls=Command, short_help="Let go of a version that was registered.", epilog=_EXAMPLES)
@click.argument("version", callback=checked_version, shell_complete=candidates.words(*VERSION_WORDS))
@run_option
@click.option("--model", metavar="NAME", help="Only as this model; default: as whatever it is registered.")
@click.option("--delete", is_flag=True, help="First delete the model's version in MLflow, unless an alias is on it.")
@click.option("--tracking-uri", metavar="URL", help="With --delete: the server; default: as configured.")
@accept_rollback_option
@common_options
def unregister_command(
    common: Common,
    version: str,
    run: str | None,
    model: str | None,
    delete: bool,
    tracking_uri: str | None,
    accept_rollback: bool,
) -> None:
    """Let go of VERSION, which is registered in MLflow: rules may forget it from then on.

    MLflow is not asked, and keeps its version of the model, whose files may go one day; --delete deletes it there.
    """
    config, monitor = common.configuration(), common.monitor()
    deleted: list[str] = []
    with common.session(config, monitor) as session:
        look_for_rollback(session, run, monitor, accept=accept_rollback, version=version)
        repository = session.repository
        name = find_run(repository, run)
        number = int(version) if version.isdecimal() else find_version(repository, name, version).root.number
        for one in registered_of(repository, name, number, model) if delete else ():
            registry = registry_of(config.mlflow, monitor, tracking_uri)
            _refuse_elsewhere(registry, one, is_named=tracking_uri is not None)
            if _delete(registry, one):
                deleted.append(one.uri)
        removed = let_go(repository, name, number, model, By.here(), accept_hidden=accept_rollback)
    if common.as_json:
        common.emit(unregister_json(name, number, removed, deleted))
    elif not common.quiet:
        for one in removed:
            in_mlflow = "deleted" if one.uri in deleted else "not there any more" if delete else "left as it is"
            output.say_wrapped(f"{name}: version {number} is no longer held as {one.uri}; in MLflow it was {in_mlflow}")


def _refuse_elsewhere(registry: Registry, one: Registered, *, is_named: bool) -> None:
    """Raise ``ConfigInvalid`` for another server than the configuration's: its credentials are not for any place."""
    if registry.place != one.place and not is_named:
        what = f"{one.uri} is registered at {one.place}, and the configuration names {registry.place}"
        raise ConfigInvalid(what, advice=f"if that is right: --tracking-uri {one.place}, with credentials for it")


def _delete(registry: Registry, one: Registered) -> bool:
    """Delete a model's version, and return whether it was there; raise ``VersionKept`` if people are pointed to it."""
    found = registry.get(one.model, one.number)
    if found is None:
        return False
    if found.aliases:
        what = f"{one.uri} is {', '.join(f'{one.model}@{alias}' for alias in found.aliases)}, so it was not deleted"
        advice = "move the alias first: mlsync register OTHER --alias …; or leave --delete out"
        raise VersionKept(what, where=registry.place, advice=advice)
    return registry.delete(one.model, one.number)
