"""The help of each command: one screen, with examples that work."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import click
import pytest
from write_help import help_texts

from mlsync.cli.main import COMMANDS, GROUPS, cli
from mlsync.cli.short_helps import SHORT_HELPS

TEXTS = dict(help_texts())
# The commands with most options, and the list of all options.
LONG = {
    "run": 29,
    "mlsync": 52,
    "restore": 41,
    "backup": 32,
    "prove": 32,
    "evaluate": 29,
    "copy": 42,
    "bucket-plan": 31,
    "bucket-apply": 29,
}
USUAL = 27
# Where mlsync's own help lists the options of all commands.
OPTIONS = TEXTS["mlsync"].partition("Options before or behind any command")[2].partition("  Examples:\n")[0]

# What mlsync's own help imports of it, beside packages, which are empty.
OF_THE_HELP = {
    *("mlsync.app.privacy", "mlsync.app.wording", "mlsync.app.wrapping", "mlsync.source.paths"),
    *("mlsync.cli.arguments", "mlsync.cli.main", "mlsync.cli.short_helps", "mlsync.cli.terminal"),
    *(f"mlsync.cli.arguments.{name}" for name in ("candidates", "invocation", "parsing")),
    "mlsync.cli.terminal.output",
}


def examples(text: str) -> list[str]:
    """The lines below "Examples:"."""
    return [line.strip() for line in text.partition("  Examples:\n")[2].splitlines()]


def words(example: str) -> list[str]:
    """What mlsync gets of a line that a shell reads."""
    return shlex.split(re.search(r"mlsync ([^)>#]*)", example)[1])


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_help_fits_a_screen(name):
    """A command's help has as many lines as a screen, few more for those with most options, and 80 columns."""
    lines = TEXTS[name].splitlines()
    assert len(lines) <= LONG.get(name, USUAL)
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_each_command_has_two_examples(name):
    """Two lines to copy are in each command's help, and call that command; in mlsync's own, two of the commands."""
    found = examples(TEXTS[name])
    assert len(found) == 2
    assert all(
        words(example)[0] in (COMMANDS if name == "mlsync" else [name if name in COMMANDS else name.split("-")[0]])
        for example in found
    )


@pytest.mark.parametrize("example", [example for text in TEXTS.values() for example in examples(text)])
def test_examples_parse(example):
    """The parser takes each example, with every option and argument of it."""
    command, context, arguments = cli, None, words(example)
    name = "mlsync"
    while True:
        context = command.make_context(name, arguments, parent=context)
        if not isinstance(command, click.Group):
            break
        rest = [*(getattr(context, "_protected_args", None) or []), *context.args]
        name, command, arguments = command.resolve_command(context, rest)


def test_all_commands_are_in_groups():
    """The list of commands names each once, in its group, and where the rest of the help is."""
    text = TEXTS["mlsync"]
    for title, names in GROUPS.items():
        section = text.partition(f"{title}:\n")[2]
        terms = [line[2:].partition("  ")[0] for line in section.splitlines()[: len(names)]]
        assert [name for term in terms for name in term.split(", ")][: len(names)] == list(names)
    assert len(set(COMMANDS)) == len(COMMANDS)
    assert "mlsync COMMAND --help" in text


def test_the_list_of_commands_says_what_each_command_says():
    """Each line of the list is the command's own."""
    context = click.Context(cli)
    own = {name: cli.get_command(context, name).get_short_help_str(80) for name in SHORT_HELPS}
    assert own == SHORT_HELPS


def test_mlsyncs_own_help_imports_little_but_click():
    """It imports no command, none of what commands work with, and nothing that click does without."""
    program = "import sys; from mlsync.cli.main import cli; cli(['--help'], standalone_mode=False); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    ours = {name for name in loaded if name.startswith("mlsync.")}
    assert ours <= {"mlsync.app", "mlsync.cli", "mlsync.errors", "mlsync.source", *OF_THE_HELP}
    assert loaded.isdisjoint(
        {"ctypes", "dataclasses", "difflib", "json", "logging", "msgspec", "pathlib", "subprocess"}
    )


def test_common_options_are_listed_once():
    """Options that all commands have are in mlsync's own help, and the other texts say so."""
    for name, text in TEXTS.items():
        if name in {"mlsync", "demo", "completion", "key", "notify", "bucket"} or name.startswith("service"):
            continue
        assert "--passphrase-file FILE" not in text
        assert "Common options: see mlsync --help" in text
    named = [option.opts[-1] for option in cli.params if not option.hidden]
    assert len(named) > 10
    assert {name: len(re.findall(rf"[ (]{name}[ ,;\n]", OPTIONS)) for name in named} == dict.fromkeys(named, 1)
