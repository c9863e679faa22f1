"""What is said of the key file of a node that writes and cannot read, by the commands that make one."""

from __future__ import annotations

from pathlib import Path

from mlsync.cli.terminal import output


def say_write_only(place: Path) -> None:
    """Say what the new key file is for."""
    output.say(f"made     {place}  write-only key; the repository opened with it")
    output.say_wrapped(
        "Move it to the machine that makes the versions, and name it there: write_only_key_file under [key]. It opens "
        "no version: restore where the repository opens with a passphrase or another key."
    )
