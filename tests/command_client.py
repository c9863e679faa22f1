"""Commands in processes that are forked from one that has imported everything: ``command_server.py``."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

KEY = bytes(range(32))


@dataclass(frozen=True)
class Done:
    """What a command left."""

    status: int
    out: str
    err: str

    def json(self):
        """The one JSON value of stdout; an error if there is more or less than one."""
        return json.loads(self.out)


class CommandServer:
    """The process that commands are forked from."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        # As systemd would lay it ready. A key, since a passphrase costs a quarter of a second each time, on purpose;
        # test_cli_secrets.py has the passphrases.
        self.credentials = directory / "credentials"
        self.credentials.mkdir()
        (self.credentials / "mlsync-key").write_bytes(KEY)
        directory.chmod(0o755)
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("command_server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, arguments, env, cwd, uid: int, *, groups=(), umask: int = 0o022, systemd: bool = False) -> Done:
        """What the command did."""
        request = {
            "arguments": [str(argument) for argument in arguments],
            "env": env,
            "cwd": str(cwd),
            "uid": uid,
            "groups": list(groups),
            "umask": umask,
            "systemd": str(self._directory) if systemd else "/nonexistent",
            "stdin": "/dev/null",
            "stdout": str(self._directory / "stdout"),
            "stderr": str(self._directory / "stderr"),
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        status = int(self._process.stdout.readline())
        out, err = (self._directory / name for name in ("stdout", "stderr"))
        return Done(status, out.read_text(), err.read_text())

    def stop(self) -> None:
        """It is gone."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)
        assert self._process.stdout is not None
        self._process.stdout.close()
