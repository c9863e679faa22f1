"""Clients of S3 that send a directory up and bring it back: mlsync, others that encrypt, some that do not, boto3."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import trees
from peers import Mlsync, MlsyncWithoutDevice, Peer, RcloneCrypt, Restic
from process import Ran, run

BARE = "boto3 upload_part"
BARE_UNSIGNED = "boto3 upload_part, unsigned"
BARE_BOTH_WAYS = "boto3 upload_part, unsigned, and get"


@dataclass(frozen=True)
class Place:
    """A bucket of a server, and the keys that open it."""

    endpoint_url: str
    bucket: str
    keys: dict[str, str]


class OnS3(Peer):
    """A peer with its repository in a bucket."""

    def __init__(self, directory: Path, place: Place) -> None:
        super().__init__(directory)
        self.at = place

    def environment(self) -> dict[str, str]:
        return super().environment() | self.at.keys


class MlsyncOnS3(OnS3, Mlsync):
    def url(self) -> str:
        return f"s3://{self.at.bucket}/{type(self).__name__}"

    @property
    def init_options(self) -> tuple[str, ...]:
        return "--endpoint-url", self.at.endpoint_url


class MlsyncWithoutDeviceOnS3(MlsyncOnS3, MlsyncWithoutDevice):
    pass


class ResticOnS3(OnS3, Restic):
    def environment(self) -> dict[str, str]:
        url = f"s3:{self.at.endpoint_url}/{self.at.bucket}/restic"
        return super().environment() | {"RESTIC_REPOSITORY": url}


class Rclone(OnS3):
    """Sends files as they are."""

    name = "rclone"
    program = "rclone"
    remote = "server:{bucket}/rclone"

    def prepare(self) -> None:
        super().prepare()
        lines = ["[server]", "type = s3", "provider = Other", "env_auth = true", f"endpoint = {self.at.endpoint_url}"]
        (self.place / "rclone.conf").write_text("\n".join([*lines, *self.more_lines()]) + "\n")

    def more_lines(self) -> list[str]:
        return []

    def backup(self, source: Path) -> Ran:
        return self.run("copy", source, self.remote.format(bucket=self.at.bucket), "--config", self._file)

    def restore(self, target: Path) -> Ran:
        return self.run("copy", self.remote.format(bucket=self.at.bucket), target, "--config", self._file)

    @property
    def _file(self) -> Path:
        return self.place / "rclone.conf"


class RcloneCryptOnS3(Rclone):
    """Encrypts what it sends."""

    name = RcloneCrypt.name
    remote = "secret:"

    def more_lines(self) -> list[str]:
        secret = self.run("obscure", "bench").output.strip()
        return ["[secret]", "type = crypt", f"remote = server:{self.at.bucket}/crypt", f"password = {secret}"]


class S5cmd(OnS3):
    """Sends files as they are, in many parts at a time."""

    name = "s5cmd"
    program = "s5cmd"

    @classmethod
    def version(cls) -> str:
        return run([cls.command(), "version"]).output.strip()

    def backup(self, source: Path) -> Ran:
        return self.run("--endpoint-url", self.at.endpoint_url, "cp", f"{source}/*", f"s3://{self.at.bucket}/s5cmd/")

    def restore(self, target: Path) -> Ran:
        target.mkdir()
        return self.run("--endpoint-url", self.at.endpoint_url, "cp", f"s3://{self.at.bucket}/s5cmd/*", f"{target}/")


class Boto(OnS3):
    """One file with nothing but boto3, one part after the other."""

    name = BARE
    mode = "default"

    @classmethod
    def command(cls) -> str:
        return sys.executable

    def backup(self, source: Path) -> Ran:
        script = Path(__file__).with_name("bare_upload.py")
        return self.run(script, self.mode, self.at.endpoint_url, self.at.bucket, next(trees.files(source)))


class BotoUnsigned(Boto):
    name = BARE_UNSIGNED
    mode = "unsigned"


class BotoBothWays(Boto):
    name = BARE_BOTH_WAYS
    mode = "both-ways"


ALL: tuple[type[OnS3], ...] = (
    MlsyncOnS3,
    MlsyncWithoutDeviceOnS3,
    ResticOnS3,
    RcloneCryptOnS3,
    Rclone,
    S5cmd,
    Boto,
    BotoUnsigned,
    BotoBothWays,
)
ENCRYPTING = (Mlsync.name, MlsyncWithoutDevice.name, Restic.name, RcloneCrypt.name)
BARE_ONES = (BARE, BARE_UNSIGNED, BARE_BOTH_WAYS)


def installed() -> list[type[OnS3]]:
    """Those that are there; whoever is missing is named."""
    missing = [client.name for client in ALL if client.command() is None]
    if missing:
        print(f"not installed, left out: {', '.join(missing)}", file=sys.stderr, flush=True)
    return [client for client in ALL if client.command() is not None]
