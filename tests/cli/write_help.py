"""Writes every command's help text to ``help/``, for the test that compares it: ``python tests/cli/write_help.py``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click
from click.testing import CliRunner

from mlsync.cli.main import COMMANDS, cli

DIRECTORY = Path(__file__).with_name("help")
WIDTH = 80


def help_texts() -> Iterator[tuple[str, str]]:
    """Each command's name and help, as at a terminal of 80 columns."""
    runner = CliRunner()
    for words in ([], *([name] for name in COMMANDS), *_subcommands()):
        done = runner.invoke(cli, [*words, "--help"], prog_name="mlsync", terminal_width=WIDTH)
        assert done.exit_code == 0, done.output
        yield "-".join(words) or "mlsync", done.output


def _subcommands() -> Iterator[list[str]]:
    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        if isinstance(command, click.Group):
            yield from ([name, below] for below in command.list_commands(context))


def main() -> None:
    """Write them all, and nothing that is no command's any longer."""
    DIRECTORY.mkdir(exist_ok=True)
    for old in DIRECTORY.glob("*.txt"):
        old.unlink()
    for name, text in help_texts():
        (DIRECTORY / f"{name}.txt").write_text(text)
        sys.stdout.write(f"{name}\n")


if __name__ == "__main__":
    main()
