"""Stores that go away, get full, fail and lie, and come back."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

DISK_BYTES = 640 << 20
ALWAYS = 1 << 40


class DirectoryStore:
    """A directory that stands for a disk: renamed away it is not mounted."""

    def __init__(self, base: Path) -> None:
        self._place, self._away = base / "disk", base / "disk-away"
        self._place.mkdir()
        self.url = str(self._place / "repository")
        self.environment: dict[str, str] = {}
        self.faults: dict[str, Callable[[random.Random], None]] = {"store away": self._unmount}

    def lines(self) -> str:
        """What the configuration needs beside the URL."""
        return ""

    def heal(self) -> None:
        if self._away.exists():
            self._place.rmdir()
            self._away.rename(self._place)

    def close(self) -> None:
        self.heal()

    def _unmount(self, _dice: random.Random) -> None:
        self._place.rename(self._away)
        self._place.mkdir()


class DiskStore:
    """A disk of its own, in memory: mounted, away, or full. Only root may mount; the mounts end with the process."""

    def __init__(self, base: Path) -> None:
        self._disk, self._mount = base / "disk", base / "mount"
        for place in (self._disk, self._mount):
            place.mkdir()
        run("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", self._disk)
        run("mount", "--bind", self._disk, self._mount)
        self.url = str(self._mount / "repository")
        self.environment: dict[str, str] = {}
        self.faults = {"store away": self._unmount, "store full": self._fill}

    def lines(self) -> str:
        return ""

    def heal(self) -> None:
        (self._disk / "filler").unlink(missing_ok=True)
        if not os.path.ismount(self._mount):
            run("mount", "--bind", self._disk, self._mount)

    def close(self) -> None:
        self.heal()
        run("umount", "--lazy", self._mount)
        run("umount", "--lazy", self._disk)

    def _unmount(self, _dice: random.Random) -> None:
        run("umount", "--lazy", self._mount)

    def _room(self) -> int:
        info = os.statvfs(self._disk)
        return info.f_bavail * info.f_frsize

    def _fill(self, dice: random.Random) -> None:
        """Leave as little as nothing, or so much that a pack begins and does not end."""
        left = dice.choice([0, 4096, 100_000])
        with (self._disk / "filler").open("wb", buffering=0) as file:
            while (room := self._room() - left) > 0:
                # What others write meanwhile takes from the room.
                with suppress(OSError):
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), room)


class S3Store:
    """A bucket behind a proxy with faults."""

    KINDS = ("reset", "500", "503", "stall", "lost-answer", "cut-request", "cut-answer", "throttle-request", "429")

    def __init__(self, base: Path) -> None:
        from fault_proxy import FaultProxy
        from seaweed import Seaweed

        place = base / "seaweed"
        place.mkdir()
        self._seaweed = Seaweed(place)
        server = self._seaweed.start()
        self._proxy = FaultProxy(server.endpoint_url)
        self._proxy.start()
        self.environment = server.environment()
        os.environ.update(self.environment)
        self.url = f"s3://{server.make_bucket()}/soak"
        self.faults = {"store away": self._cut, "store errs": self._err}

    def lines(self) -> str:
        return f'[s3]\nendpoint_url = "{self._proxy.url}"\n'

    def heal(self) -> None:
        self._proxy.reset()

    def close(self) -> None:
        self._proxy.stop()
        self._seaweed.stop()

    def _cut(self, dice: random.Random) -> None:
        from fault_proxy import Fault

        self._proxy.reset(Fault(dice.choice(("reset", "503", "stall")), times=ALWAYS))
        self._proxy.cut_all()

    def _err(self, dice: random.Random) -> None:
        """Now and then a request goes wrong, in one way or another."""
        from fault_proxy import Fault

        faults = [Fault(dice.choice(self.KINDS), nth=place) for place in range(1, 400, dice.randrange(2, 6))]
        self._proxy.reset(*faults)


STORES = {"directory": DirectoryStore, "disk": DiskStore, "s3": S3Store}


def run(*command: object) -> None:
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
