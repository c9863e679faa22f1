"""A server that plays S3, IAM and KMS of AWS: one MiniStack process for what SeaweedFS has not.

It plays archive classes and their restores, replication, lifecycles, object lock, public access blocks and policies. It
answers quickly and promises nothing about durability: the tests of the store itself run against SeaweedFS.
"""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import time
from pathlib import Path

from seaweed import S3Server, die_with_parent, free_ports

READY_WITHIN_S = 60
# The key of the account's root, which may do everything.
ROOT_KEY = "test"
_ENFORCING = (str(Path(__file__).with_name("enforcing_aws.py")),)


class AwsEmulator:
    """One MiniStack process, from ``start`` to ``stop``; *directory* holds its output. It keeps all in memory.

    If it *enforces*, it checks signatures, and everybody but the root is held to his policies.
    """

    def __init__(self, directory: Path, *, enforces: bool = False) -> None:
        self.directory = directory
        self._enforces = enforces
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> S3Server:
        """Start the server and return it once it answers, with the keys of the root."""
        (port,) = free_ports(1)
        environment = {
            **os.environ,
            "GATEWAY_PORT": str(port),
            "BIND_HOST": "127.0.0.1",
            "AUTH": "true" if self._enforces else "false",
            "IOT_MTLS_ENABLED": "0",
            "MINISTACK_REGION": "us-east-1",
        }
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *(_ENFORCING if self._enforces else ("-m", "ministack"))],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                preexec_fn=die_with_parent,  # noqa: PLW1509  one system call, no lock, no Python of others
            )
        try:
            self._wait_until_ready(port)
        except BaseException:
            self.stop()
            raise
        return S3Server(f"http://127.0.0.1:{port}", ROOT_KEY, ROOT_KEY)

    def stop(self) -> None:
        """Kill the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def _log(self) -> Path:
        return self.directory / "ministack.log"

    def _wait_until_ready(self, port: int) -> None:
        deadline_s = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < deadline_s:
            if self._process is None or self._process.poll() is not None:
                break
            if _is_ready(port):
                return
            time.sleep(0.1)
        msg = f"MiniStack did not become ready; the end of its output:\n{self._log.read_text(errors='replace')[-3000:]}"
        raise RuntimeError(msg)


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/_ministack/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    except OSError:
        return False
    finally:
        connection.close()
