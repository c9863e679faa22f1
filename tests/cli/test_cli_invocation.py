"""What a command takes from its process at the start, and the one JSON value that it prints."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mlsync.cli.arguments.invocation import Invocation


def test_the_passphrase_leaves_the_environment_at_the_start():
    """No child process inherits the passphrase of the environment, and its bytes are kept as they were."""
    code = (
        "import os, subprocess, sys\n"
        "from mlsync.cli.arguments.invocation import Invocation\n"
        "invocation = Invocation.take()\n"
        "assert os.fsencode(invocation.passphrase) == b'battery-staple \\xff'\n"
        "assert 'staple' not in repr(invocation)\n"
        "assert b'staple' not in open('/proc/self/environ', 'rb').read()\n"
        "sys.exit(subprocess.run(['sh', '-c', 'test -z \"$MLSYNC_PASSPHRASE\"']).returncode)\n"
    )
    environ = {**os.environb, b"MLSYNC_PASSPHRASE": b"battery-staple \xff"}
    assert subprocess.run([sys.executable, "-c", code], env=environ, check=False).returncode == 0


def test_only_the_first_json_value_is_printed(capsys):
    """The error that a result with problems ends with is not printed after the result."""
    invocation = Invocation("mlsync", ())
    invocation.emit({"a": "ü"})
    invocation.emit({"b": 2})
    assert capsys.readouterr().out == '{"a": "\\u00fc"}\n'


@pytest.mark.parametrize(
    ("arguments", "wants"),
    [((), False), (("check", "--json"), True), (("--json", "--", "x"), True), (("restore", "--", "--json"), False)],
)
def test_json_is_found_in_the_bare_words(arguments, wants):
    """``--json`` counts wherever it stands before ``--``, behind which everything is a path."""
    assert Invocation("mlsync", arguments).wants_json is wants
