"""``mlsync completion``: the script that completes ``mlsync`` in a shell."""

from __future__ import annotations

import click
from click.shell_completion import ShellComplete, get_completion_class

from mlsync.cli.terminal import output

_EXAMPLES = """\b
Examples:
  eval "$(mlsync completion bash)"   # in ~/.bashrc; or zsh, in ~/.zshrc
  mlsync completion fish > ~/.config/fish/completions/mlsync.fish
"""


@click.command("completion", short_help="Print a completion script for bash, zsh or fish.", epilog=_EXAMPLES)
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")), metavar="SHELL")
@click.pass_context
def completion_command(context: click.Context, shell: str) -> None:
    """Print the script that completes mlsync in SHELL: bash (4.4 or newer), zsh or fish.

    The shell asks this mlsync on each TAB, so the script stays the same when mlsync is updated.
    """
    kind = get_completion_class(shell)
    assert kind is not None
    # Not the class's own source(): that of bash starts a bash to look at its version.
    script = ShellComplete.source(kind(context.find_root().command, {}, "mlsync", "_MLSYNC_COMPLETE"))
    for line in script.splitlines():
        output.say(line)
