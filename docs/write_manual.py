"""Writes the manual page ``docs/mlsync.1`` out of the help of all commands: ``python docs/write_manual.py``."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click

import mlsync
from mlsync import errors
from mlsync.cli.arguments.parsing import CommonOption
from mlsync.cli.main import cli

_COLUMNS = 70
PAGE = Path(__file__).with_name("mlsync.1")
FILES = {
    "~/.config/mlsync/mlsync.toml": "The configuration of a user; XDG_CONFIG_HOME replaces ~/.config.",
    "/etc/mlsync/mlsync.toml": "The configuration of the machine.",
    "~/.local/state/mlsync, /var/lib/mlsync": "Locks, caches and the agent's status, of a user and of root. "
    "XDG_STATE_HOME replaces ~/.local/state, and root's place too.",
}
ENVIRONMENT = {
    "MLSYNC_CONFIG": "The configuration file, where --config does not name one.",
    "MLSYNC_PASSPHRASE": "The passphrase, where no option names a file with it.",
    "MLSYNC_KMS_KEY": "The key of AWS KMS, where no option names a key; without MLSYNC_PASSPHRASE.",
    "XDG_CONFIG_HOME, XDG_STATE_HOME": "Where configuration and state are, instead of ~/.config and ~/.local/state. "
    "Relative paths are ignored.",
}


def manual() -> str:
    """Return the page as roff."""
    return "\n".join(_page()) + "\n"


def _page() -> Iterator[str]:
    root = click.Context(cli, info_name="mlsync")
    yield r".\" Written by docs/write_manual.py out of the help of all commands."
    yield f'.TH MLSYNC 1 "" "mlsync {mlsync.__version__}"'
    yield from (".SH NAME", r"mlsync \- encrypted versions of training checkpoints, proved to load")
    yield from (".SH SYNOPSIS", r".B mlsync", r".I COMMAND", r"[\fIOPTIONS\fR] [\fIARGUMENTS\fR]")
    yield from (".SH DESCRIPTION", *_paragraphs(inspect.cleandoc(cli.help or "")))
    common: dict[str, str] = {}
    yield ".SH COMMANDS"
    for context in _commands(root):
        yield from _command(context, common)
    yield from (
        ".SH OPTIONS OF ALL COMMANDS",
        "All commands that open a repository take these, before or behind the command.",
    )
    yield from _entries(common)
    yield from (".SH EXIT STATUS", *_entries({"0": "Done.", "1": "A bug, or an error without a number of its own."}))
    yield from _entries(
        {f"{one.exit_code} ({one.__name__})": inspect.getdoc(one) or "" for one in sorted(_leaves(), key=_status)}
    )
    yield from (".SH ENVIRONMENT", *_entries(ENVIRONMENT))
    yield from (".SH FILES", *_entries(FILES))


def _commands(above: click.Context) -> Iterator[click.Context]:
    """Yield a context for each command below *above*, and for those below these."""
    group = above.command
    assert isinstance(group, click.Group)
    for name in group.list_commands(above):
        command = group.get_command(above, name)
        assert command is not None
        context = click.Context(command, parent=above, info_name=name)
        yield context
        if isinstance(command, click.Group):
            yield from _commands(context)


def _command(context: click.Context, common: dict[str, str]) -> Iterator[str]:
    """Yield a command's part of the page; its options that all commands have go into *common*."""
    command = context.command
    yield f".SS {_text(' '.join([context.command_path, *command.collect_usage_pieces(context)]))}"
    yield from _paragraphs(inspect.cleandoc(command.help or ""))
    own: dict[str, str] = {}
    for parameter in command.get_params(context):
        if isinstance(parameter, click.Option) and "--help" not in parameter.opts:
            record = parameter.get_help_record(context)
            assert record is not None
            (common if isinstance(parameter, CommonOption) else own)[record[0]] = record[1]
    yield from _entries(own)
    if command.epilog:
        lines = command.epilog.replace("\b", "").strip().splitlines()
        yield from (".PP", _text(lines[0]), ".RS 4", ".nf", *map(_text, lines[1:]), ".fi", ".RE")


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(filter(None, text.split("\n\n"))):
        # A section's heading begins a paragraph by itself.
        yield from ([".PP"] if number else [])
        yield from _lines(paragraph)


def _entries(entries: dict[str, str]) -> Iterator[str]:
    """Yield a list of terms and what they are."""
    for term, text in entries.items():
        yield from (".TP", rf"\fB{_text(term)}\fR", *_lines(text))


def _lines(text: str) -> Iterator[str]:
    """Yield a paragraph in lines of source, which roff fills anew."""
    yield from map(_text, textwrap.wrap(text, _COLUMNS, break_long_words=False, break_on_hyphens=False))


def _text(text: str) -> str:
    """Return text that roff prints as it is."""
    return re.sub(r"^([.'])", r"\\&\1", text.replace("\\", "\\e").replace("-", "\\-"))


def _status(error: type[errors.Error]) -> int:
    return error.exit_code


def _leaves() -> Iterator[type[errors.Error]]:
    """Yield the errors that have an exit status of their own."""
    for kind in vars(errors).values():
        is_error = isinstance(kind, type) and issubclass(kind, errors.Error) and kind is not errors.Error
        if is_error and "exit_code" in vars(kind):
            yield kind


if __name__ == "__main__":
    PAGE.write_text(manual(), encoding="utf-8")
