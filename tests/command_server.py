"""Runs ``mlsync`` commands, each in a process of its own that is forked from this one, where all is imported already.

So a test pays for a command's work and not for Python's start; ``test_cli_terminal.py`` runs the installed command.
A request is a line of JSON on stdin, with the files that the command's output goes to; the answer its exit status.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import traceback
from pathlib import Path


def serve() -> None:
    """Answer until stdin ends."""
    # What is forked from here has it already: also what a command imports late, and another user may not read.
    import rich.progress  # noqa: F401

    import mlsync.backup.new_version
    import mlsync.cli.main
    import mlsync.proof.programs.nh
    import mlsync.proof.windows
    import mlsync.service.agent
    import mlsync.store.s3.store

    _know_s3()
    for command in mlsync.cli.main.COMMANDS:
        importlib.import_module(f"mlsync.cli.{mlsync.cli.main.module_of(command)}")
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _become(request)
            _leave(mlsync.cli.main.main)
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def _know_s3() -> None:
    """Have botocore parse what each command on a bucket would parse."""
    import boto3

    from parsed_once import parse_once

    parse_once()
    boto3.session.Session("none", "none", region_name="us-east-1").client("s3").close()


def _leave(main) -> None:
    """Run *main* and end with its status, without Python's tidying up, which takes longer than most commands."""
    status = 1
    try:
        main()
    except SystemExit as leaving:
        status = leaving.code
    except Exception:  # noqa: BLE001 - shown as Python would show it
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _become(request: dict) -> None:
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        flags = os.O_RDONLY if name == "stdin" else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        os.dup2(os.open(request[name], flags, 0o600), descriptor)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    from mlsync.service.unit import booted

    # The tests say whether systemd runs, on every machine that they run on.
    booted.SYSTEMD_RUNS = Path(request["systemd"])
    from mlsync.doctor import doctor

    # On a machine of layers and memory each command would warn of it: the tests' has no mounts.
    doctor.MOUNTS = Path(os.devnull)
    sys.argv = [str(Path(sys.executable).with_name("mlsync")), *map(os.fsdecode, request["arguments"])]
    os.umask(request["umask"])
    if request["uid"]:
        os.setgroups(request["groups"])
        os.setgid(request["uid"])
        os.setuid(request["uid"])


if __name__ == "__main__":
    serve()
