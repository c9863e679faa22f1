"""The command ``mlsync``: the list of commands, and how any of them ends."""

from __future__ import annotations

import gc
import io
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Final, NoReturn

import click

import mlsync
from mlsync.cli.arguments.invocation import Invocation
from mlsync.cli.arguments.parsing import Group, with_common_options
from mlsync.cli.short_helps import SHORT_HELPS, SHORT_HELPS_TOGETHER, TOGETHER
from mlsync.cli.terminal import output
from mlsync.errors import Error

if TYPE_CHECKING:
    from types import ModuleType

_EPILOG = """\b
Examples:
  mlsync init s3://bucket/yolo --watch ~/yolo/runs --agent
  mlsync restore --repo s3://bucket/yolo --to ~/yolo/runs
"""
_BLAS_THREADS: Final = "OPENBLAS_NUM_THREADS"
# As shells report a death by a signal; the numbers are POSIX's, and the module that names them takes milliseconds.
_BY_SIGNAL: Final = 128
_SIGINT: Final = 2
_SIGPIPE: Final = 13
# In the order in which a new user needs them.
GROUPS: Final = {
    "First steps": ("demo", "init", "status"),
    "Every day": ("run", "backup", "now", "agent", "restore"),
    "Look, and hand on": ("versions", "show", "metrics", "diff", "export", "register", "unregister"),
    "Care": (
        *("pin", "unpin", "forget", "unforget", "prune", "copy", "bucket", "iam-policy", "doctor", "notify"),
        *("check", "repair", "verify", "prove", "evaluate", "key", "service", "completion"),
    ),
}
COMMANDS: Final = tuple(name for names in GROUPS.values() for name in names)


def module_of(name: str) -> str:
    """Return the module of a command."""
    return name.replace("-", "_")


class _Commands(Group):
    """Imports a command when it is called: imports are most of the time that short commands take."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in order."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of that name, if there is one."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module = module_of(cmd_name)
        command = getattr(_imported(f"mlsync.cli.{module}"), f"{module}_command")
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands in groups, without lines between them: the whole help is to fit a screen."""
        formatter.write_paragraph()
        width = max(len(_term(name)) for name in COMMANDS)
        for title, names in GROUPS.items():
            formatter.write_heading(title)
            with formatter.indentation():
                shown = [name for name in names if not (_is_undoing(name) or name in TOGETHER)]
                formatter.write_dl([(f"{_term(name):<{width}}", self._short_help(ctx, name)) for name in shown])

    def _short_help(self, ctx: click.Context, name: str) -> str:
        if name in TOGETHER.values():
            return SHORT_HELPS_TOGETHER[name]
        if name in SHORT_HELPS:
            return SHORT_HELPS[name]
        command = self.get_command(ctx, name)
        return "" if command is None else command.get_short_help_str(80)


def _imported(module: str) -> ModuleType:
    """Import a command; if garbage was not collected until now, it is from now on, and what is there is left out."""
    imported = import_module(module)
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
    return imported


def _is_undoing(name: str) -> bool:
    """Return whether a command undoes another one, beside which it stands in the list."""
    return name.startswith("un") and name.removeprefix("un") in COMMANDS


def _term(name: str) -> str:
    beside = [f"un{name}"] * (f"un{name}" in COMMANDS) + [one for one, first in TOGETHER.items() if first == name]
    return ", ".join((name, *beside))


@click.group(
    cls=_Commands,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    invoke_without_command=True,
)
@click.version_option(mlsync.__version__, prog_name="mlsync", message="%(prog)s %(version)s")
@with_common_options
@click.pass_context
def cli(ctx: click.Context, /, **_given: object) -> None:
    """Keep training checkpoints as encrypted versions, and prove that they load."""
    if ctx.invoked_subcommand is None:
        _invoke_alone(ctx, "status")


def _invoke_alone(ctx: click.Context, name: str) -> None:
    """Run a command as if it had been named, with the options that were given."""
    assert isinstance(ctx.command, click.Group)
    _, command, _ = ctx.command.resolve_command(ctx, [name])
    assert command is not None
    with command.make_context(name, [], parent=ctx) as below:
        command.invoke(below)


def main() -> NoReturn:
    """Run the command line and exit: with 0, the status of the error, or a traceback if it is a bug."""
    # Many files are many objects with hardly a cycle: fewer collections save a tenth of the time. Imports only make
    # what stays, so there is none before the command is there.
    gc.set_threshold(20_000)
    gc.disable()
    # Once numpy is imported, here or in a process that this one starts, its BLAS would start a thread on each core.
    added = () if _BLAS_THREADS in os.environ else (_BLAS_THREADS,)
    os.environ.setdefault(_BLAS_THREADS, "1")
    try:
        invocation = Invocation.take()
        invocation.added_variables = added
        status = _run(invocation)
    except output.ReaderGone:
        # A reader that went away ("| head") is no error; shells report a death by SIGPIPE like this.
        status = _BY_SIGNAL + _SIGPIPE
    # Python looks through all objects once more at its end, which takes as long as a help does.
    gc.freeze()
    sys.exit(status)


def _run(invocation: Invocation) -> int:
    failure: Exception | None = None
    try:
        status = cli.main(invocation.arguments, standalone_mode=False, obj=invocation)
    except click.exceptions.Exit as leaving:
        status = leaving.exit_code
    except click.Abort as interruption:
        click.echo("mlsync: interrupted", err=True)
        status = _BY_SIGNAL + _SIGINT
        failure = interruption
    except click.ClickException as error:
        _show(error)
        status = error.exit_code
        failure = error
    except Error as error:
        error.advice = error.advice or error.usual_advice
        output.tell(f"mlsync: {error}")
        status = error.exit_code
        failure = error
    except Exception as bug:
        failure = bug
        raise
    finally:
        if failure is not None and invocation.wants_json:
            invocation.emit({"error": _failure_json(failure), "cold": invocation.cold})
    return status if isinstance(status, int) else 0


def _failure_json(failure: Exception) -> dict[str, object]:
    from mlsync.cli.reports.json import error_json, failure_json  # late: what ends well tells no failure

    match failure:
        case Error():
            return error_json(failure)
        case click.Abort():
            return failure_json("Interrupted", _BY_SIGNAL + _SIGINT, "interrupted")
        case click.ClickException():
            what, advice = failure.format_message(), _usage_advice(failure)
            return failure_json("UsageError", failure.exit_code, what, advice=advice)
    return failure_json("Bug", 1, f"{type(failure).__name__}: {failure}", advice="the traceback is on stderr")


def _show(error: click.ClickException) -> None:
    """Print what click says, in lines that fit a terminal as all messages do."""
    said = io.StringIO()
    error.show(said)
    for line in said.getvalue().splitlines():
        output.tell(line)


def _usage_advice(error: click.ClickException) -> str | None:
    context = error.ctx if isinstance(error, click.UsageError) else None
    return None if context is None else f"{context.command_path} --help"
