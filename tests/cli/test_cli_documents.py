"""What help and documents say of the commands is true of the code, in both directions."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import click
import pytest
from write_help import DIRECTORY, WIDTH, help_texts

from mlsync import errors
from mlsync.cli.main import cli

ROOT = Path(__file__).parents[2]
HELP = dict(help_texts())


def rows(document):
    """The rows of a document's tables, without headers and rules."""
    for line in (ROOT / "docs" / document).read_text().splitlines():
        if line.startswith("|") and not line.startswith("|---"):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


@pytest.mark.parametrize("name", sorted(HELP))
def test_help_is_as_it_was_read(name):
    """Each command's help is the text that was read and found good; ``write_help.py`` writes it anew."""
    assert (DIRECTORY / f"{name}.txt").read_text() == HELP[name]


def test_no_help_of_commands_that_are_gone():
    """There is a help text for every command and none besides."""
    assert {path.stem for path in DIRECTORY.glob("*.txt")} == set(HELP)


@pytest.mark.parametrize("name", sorted(HELP))
def test_help_fits_a_terminal(name):
    """No line of help is longer than a terminal is wide, and no word of a command's one-line help is cut off."""
    assert all(len(line) <= WIDTH for line in HELP[name].splitlines())
    assert not any(line.endswith("...") for line in HELP[name].splitlines()[1:])


def leaves():
    """The errors of errors.py that have no kinds of their own there, or a status all the same."""
    kinds = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.Error)]
    above = [one for one in kinds if any(other is not one and issubclass(other, one) for other in kinds)]
    return [one for one in kinds if one not in above or ("exit_code" in vars(one) and one is not errors.Error)]


def test_errors_document():
    """docs/errors.md lists exactly the errors of errors.py with their statuses, each with a meaning and what to do."""
    listed = {row[1].strip("`"): row for row in rows("errors.md") if row[0].isdecimal()}
    assert {name: int(row[0]) for name, row in listed.items()} == {leaf.__name__: leaf.exit_code for leaf in leaves()}
    assert all(len(row) == 4 and len(row[2]) > 20 and len(row[3]) > 5 for row in listed.values())


def test_statuses_are_distinct():
    """Each kind of error has an exit status of its own."""
    statuses = [leaf.exit_code for leaf in leaves()]
    assert len(set(statuses)) == len(statuses)
    # 126 and 127 are a shell's, and those of commands that mlsync run is asked to start.
    shells = {leaf.__name__ for leaf in leaves() if leaf.exit_code in (126, 127)}
    assert shells == {"CommandMissing", "CommandNotExecutable"}
    assert not {0, 1} & set(statuses)
    assert max(set(statuses) - {126, 127}) < 126


def test_errors_module_lists_itself():
    """The tree in errors.py's docstring names every error with its status."""
    told = dict(re.findall(r"(\w+) +(\d+)   ", errors.__doc__))
    assert {leaf.__name__: str(leaf.exit_code) for leaf in leaves()}.items() <= told.items()


def test_dependencies_document():
    """docs/dependencies.md lists exactly the dependencies of pyproject.toml, their floors and a reason for each."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    split = [re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?(.*)", one) for one in wanted]
    listed = {row[0].strip("`"): row[1].strip("`") for row in rows("dependencies.md") if row[0].startswith("`")}
    assert listed == {match[1]: match[2] for match in split if match is not None}
    assert all(all(row) and len(row) == 6 for row in rows("dependencies.md"))


def test_late_imports_are_as_the_document_says():
    """What docs/dependencies.md calls late is not imported by the commands themselves, and what it calls always is."""
    import subprocess
    import sys

    code = "import sys, mlsync.cli.backup, mlsync.cli.agent; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    for row in rows("dependencies.md"):
        if row[5] == "always":
            assert row[0].strip("`") in loaded, row[0]
        elif row[5].startswith(("late", "never")):
            assert row[0].strip("`") not in loaded, row[0]


def commands(group=cli, above=""):
    """Every command and those below it, by the words that call it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield above + name, command
        if isinstance(command, click.Group):
            yield from commands(command, f"{above}{name} ")


def test_commands_document():
    """docs/commands.md and README.md name every command, and the first every option of a single command."""
    text = (ROOT / "docs" / "commands.md").read_text()
    readme = (ROOT / "README.md").read_text()
    for name, command in commands():
        assert f"mlsync {name}" in text
        assert f"mlsync {name}" in readme
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert any(f"{option}" in text for option in (*parameter.opts, *parameter.secondary_opts)), (
                    name,
                    parameter.opts,
                )


def test_options_that_documents_name_exist():
    """Every option that a document shows is one of some command's."""
    known = {"--help", "--version"}
    for _, command in commands():
        for parameter in command.params:
            known |= {*parameter.opts, *parameter.secondary_opts}
    for document in ("commands.md", "errors.md", "json.md"):
        text = (ROOT / "docs" / document).read_text()
        # What stands before the command that a launcher starts is the launcher's.
        text = re.sub(r"^ +(torchrun|srun) .*(?=mlsync )", "", text, flags=re.MULTILINE)
        # As is what stands behind the dashes: the training's own.
        text = re.sub(r" -- \w.*", "", text)
        shown = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
        assert shown <= known, (document, shown - known)
