"""mlsync and the tools it is compared with, each behind the same verbs; all of them at their defaults unless said."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import trees
from process import Ran, run

SECRET = "bench passphrase"


class Peer:
    """A tool with a place of its own: `prepare` makes an empty repository there, the rest says what it does."""

    name = ""
    program = ""
    # Whether it keeps old versions; of the others only the bytes that they write can be told.
    keeps_versions = True

    def __init__(self, place: Path) -> None:
        self.place = place
        self.store = place / "store"
        self.count = 0

    @classmethod
    def command(cls) -> str | None:
        """The program, if it is installed: beside this Python, where a wheel puts it, or on the path."""
        beside = Path(sys.executable).parent / cls.program
        return str(beside) if beside.exists() else shutil.which(cls.program)

    @classmethod
    def version(cls) -> str:
        text = subprocess.run([cls.command(), "--version"], capture_output=True, text=True, check=True).stdout
        return text.splitlines()[0].strip()

    def prepare(self) -> None:
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir(parents=True)
        self.count = 0

    def backup(self, source: Path) -> Ran:
        raise NotImplementedError

    def restore(self, target: Path) -> Ran:
        """Bring the last version back to *target*, which is empty or not there."""
        raise NotImplementedError

    def stored_bytes(self) -> int:
        return trees.size_bytes(self.store)

    def run(self, *arguments: str | Path, cwd: Path | None = None) -> Ran:
        return run([self.command(), *arguments], environment=self.environment(), cwd=cwd)

    def environment(self) -> dict[str, str]:
        """No tool sees the user's settings and caches, and none leaves anything there."""
        return {"HOME": str(self.place)}


class Mlsync(Peer):
    """As ``mlsync init`` sets it up: what is new is read back from the store and its checkpoints are loaded."""

    name = "mlsync"
    program = "mlsync"
    proof_lines = ""
    backup_lines = ""
    init_options: Sequence[str] = ()

    @classmethod
    def command(cls) -> str:
        return sys.executable

    @classmethod
    def version(cls) -> str:
        text = subprocess.run([sys.executable, "-m", "mlsync", "--version"], capture_output=True, text=True, check=True)
        return text.stdout.strip()

    def prepare(self) -> None:
        super().prepare()
        self._watched: Path | None = None

    def backup(self, source: Path) -> Ran:
        if self._watched != source:
            self.watch(source)
        return with_facts(self.run("backup", "--quickly", "--json", "--verbose"))

    def restore(self, target: Path) -> Ran:
        return with_facts(self.run("restore", "--to", target, "--json", "--verbose"))

    def restore_one(self, target: Path, path: str, version: int) -> Ran:
        return with_facts(self.run("restore", path, "--version", str(version), "--to", target, "--json", "--verbose"))

    def url(self) -> str:
        return self.store.as_uri()

    def run(self, *arguments: str | Path, cwd: Path | None = None) -> Ran:
        return super().run("-m", "mlsync", *arguments, "--config", self._config, cwd=cwd)

    def environment(self) -> dict[str, str]:
        return super().environment() | {"MLSYNC_PASSPHRASE": SECRET}

    @property
    def _config(self) -> Path:
        return self.place / "mlsync.toml"

    def watch(self, source: Path) -> None:
        self.run("init", self.url(), "--watch", source, "--quiet", *self.init_options)
        text = self._config.read_text()
        state = f"state_directory = {json.dumps(str(self.place / 'state'))}"
        text = text.replace("[[watch]]", f"{state}\n\n[[watch]]", 1)
        text = text.replace("\n[backup]\n", f"\n[backup]\n{self.backup_lines}", 1)
        self._config.write_text(text.replace("\n[proof]\n", f"\n[proof]\n{self.proof_lines}", 1))
        self._watched = source


class MlsyncWithoutDevice(Mlsync):
    """What is new is read back and parsed, but loaded nowhere: no peer does either."""

    name = "mlsync no device proof"
    proof_lines = 'device = "none"\n'


class MlsyncWhole(Mlsync):
    """Changed tensors are stored as a whole, not as differences."""

    name = "mlsync whole"
    backup_lines = 'differences = "off"\n'


class MlsyncBefore(Mlsync):
    """The agent of an older commit, whose sources lie in *agent*."""

    name = "mlsync before"

    def __init__(self, place: Path, agent: Path) -> None:
        super().__init__(place)
        self._agent = agent

    def environment(self) -> dict[str, str]:
        return super().environment() | {"PYTHONPATH": str(self._agent)}


class MlsyncRemembering(Mlsync):
    """The kernel remembers what stretching the passphrase came to."""

    name = "mlsync remembering"

    @classmethod
    def is_possible(cls) -> bool:
        """Whether the kernel does that here."""
        from mlsync import kernel_keyring

        try:
            kernel_keyring.probe()
        except OSError:
            return False
        return True

    def environment(self) -> dict[str, str]:
        return super().environment() | {"MLSYNC_KEY_REMEMBER": "1h"}


class Restic(Peer):
    name = "restic"
    program = "restic"
    options: Sequence[str] = ()

    @classmethod
    def version(cls) -> str:
        return subprocess.run([cls.command(), "version"], capture_output=True, text=True, check=True).stdout.strip()

    def prepare(self) -> None:
        super().prepare()
        self.run("init")

    def backup(self, source: Path) -> Ran:
        return self.run("backup", *self.options, ".", cwd=source)

    def restore(self, target: Path) -> Ran:
        return self.run("restore", "latest", "--target", target)

    def environment(self) -> dict[str, str]:
        cache = {"RESTIC_CACHE_DIR": str(self.place / "cache")}
        return super().environment() | cache | {"RESTIC_REPOSITORY": str(self.store), "RESTIC_PASSWORD": SECRET}


class ResticMax(Restic):
    name = "restic max"
    options = ("--compression", "max")


class Borg(Peer):
    name = "borg"
    program = "borg"

    def prepare(self) -> None:
        super().prepare()
        self.run("init", "--encryption", "repokey-blake2", self.store)

    def backup(self, source: Path) -> Ran:
        self.count += 1
        return self.run("create", f"{self.store}::{self.count}", ".", cwd=source)

    def restore(self, target: Path) -> Ran:
        target.mkdir(parents=True, exist_ok=True)
        return self.run("extract", f"{self.store}::{self.count}", cwd=target)

    def environment(self) -> dict[str, str]:
        base = {"BORG_BASE_DIR": str(self.place / "base"), "BORG_PASSPHRASE": SECRET}
        return super().environment() | base | {"BORG_DISPLAY_PASSPHRASE": "no"}


class RcloneCrypt(Peer):
    name = "rclone crypt"
    program = "rclone"
    keeps_versions = False

    def prepare(self) -> None:
        super().prepare()
        secret = self.run("obscure", SECRET).output.strip()
        lines = ["[secret]", "type = crypt", f"remote = {self.store}", f"password = {secret}"]
        (self.place / "rclone.conf").write_text("\n".join(lines) + "\n")

    def backup(self, source: Path) -> Ran:
        return self._copy(source, "secret:", self.store)

    def restore(self, target: Path) -> Ran:
        return self._copy("secret:", target, target)

    def _copy(self, source: str | Path, target: str | Path, place: Path) -> Ran:
        words = [self.command(), "sync", source, target, "--config", self.place / "rclone.conf"]
        return run(synced(words, place), environment=self.environment())


class Rsync(Peer):
    name = "rsync -a"
    program = "rsync"
    keeps_versions = False

    def backup(self, source: Path) -> Ran:
        return self._copy(source, self.store)

    def restore(self, target: Path) -> Ran:
        return self._copy(self.store, target)

    def _copy(self, source: Path, target: Path) -> Ran:
        return run(synced([self.command(), "-a", "--delete", f"{source}/", f"{target}/"], target))


class Copy(Peer):
    """A new copy each time, instead of the one before: ``cp`` would not take away what vanished from the source."""

    name = "cp -a"
    program = "cp"
    keeps_versions = False

    def backup(self, source: Path) -> Ran:
        trees.remove(self.store)
        self.count += 1
        return self._copy(source, self._current)

    def restore(self, target: Path) -> Ran:
        return self._copy(self._current, target)

    @property
    def _current(self) -> Path:
        return self.store / str(self.count)

    def _copy(self, source: Path, target: Path) -> Ran:
        target.mkdir(parents=True, exist_ok=True)
        return run(synced([self.command(), "-a", f"{source}/.", target], target))


ALL: tuple[type[Peer], ...] = (
    Mlsync,
    MlsyncWhole,
    MlsyncWithoutDevice,
    Restic,
    ResticMax,
    Borg,
    RcloneCrypt,
    Rsync,
    Copy,
)


def synced(words: Sequence[str | Path], place: Path) -> list[str]:
    """The command, and then what it wrote below *place* brought to the disk, as the repository tools do themselves."""
    script = '"$@" && find "$0" -type f -exec sync {} +'
    return ["sh", "-c", script, str(place), *(str(word) for word in words)]


def with_facts(ran: Ran) -> Ran:
    """What mlsync's own output says: the fields of docs/json.md, and its calls to the store."""
    value = json.loads(ran.output)
    facts = value["runs"][0] if "runs" in value else value
    calls = re.search(r"store: calls: (.*?);", ran.notices)
    if calls:
        counts = dict(part.rsplit(" ", 1) for part in calls[1].split(", ") if part)
        facts |= {"store_calls": {name: int(number) for name, number in counts.items()}}
    return replace(ran, facts=facts)


def chosen(names: str | None, place: Path, *, without: Sequence[str] = ()) -> list[Peer]:
    """The peers of these *names* (or all), each in a directory of *place*; what is not installed is left out aloud."""
    wanted = names.split(",") if names else [peer.name for peer in ALL if peer.name not in without]
    unknown = set(wanted) - {peer.name for peer in ALL}
    if unknown:
        sys.exit(f"no such peer: {', '.join(sorted(unknown))}; there are: {', '.join(peer.name for peer in ALL)}")
    peers = [peer for peer in ALL if peer.name in wanted]
    for missing in (peer for peer in peers if peer.command() is None):
        print(f"{missing.name} is left out: there is no {missing.program} here", flush=True)
    return [peer(place / peer.name.replace(" ", "-")) for peer in peers if peer.command() is not None]


def versions(peers: Sequence[Peer]) -> dict[str, str]:
    return {peer.name: peer.version() for peer in peers}


def source_of(commit: str, into: Path) -> Path:
    """The agent's source as it was at *commit*."""
    into.mkdir()
    packed = into / "agent.tar"
    subprocess.run(["git", "-C", Path(__file__).parents[1], "archive", "-o", packed, commit, "agent"], check=True)
    with tarfile.open(packed) as archive:
        archive.extractall(into, filter="data")
    return into / "agent"
