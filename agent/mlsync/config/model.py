"""What a configuration says: one dataclass per table, one field per key, each declared with its key."""

# ruff: noqa: RUF009 - key() returns a dataclass field, with a default that is immutable

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

from mlsync.config.every import Every
from mlsync.config.keys import (
    REQUIRED,
    Key,
    command,
    duration,
    duration_above_zero,
    duration_or_never,
    factory,
    flag,
    key,
    keys_of,
    number,
    one_of,
    path,
    proof_device,
    repository_url,
    run_name,
    schedule,
    size_from,
    some_of,
    text,
    texts,
    variables,
)
from mlsync.errors import ConfigInvalid
from mlsync.source.temporary_names import TEMPORARY_NAMES

# The checks on numbers that mlsync.proof.numbers makes.
_NUMBER_FAULTS = some_of("nan", "inf", "zero", "constant", "saturated")
# The windows of the proof's process, and what it needs to count the numbers in them.
_PROOF_MEMORY_BYTES_MIN = 384 << 20


@dataclass(frozen=True, slots=True)
class S3Settings:
    """How the S3 store is reached."""

    endpoint_url: str | None = key(
        text, '"https://minio.example:9000"', "MinIO, OSS, Ceph; leave out for AWS", default=None
    )
    region: str | None = key(
        text, '"us-east-1"', "the bucket's region, if the AWS profile does not say it", default=None
    )
    profile: str | None = key(text, '"default"', "profile in ~/.aws whose credentials are used", default=None)
    addressing: str = key(
        one_of("auto", "path", "virtual"),
        '"auto"',
        "bucket in the path or in the host name (virtual); auto finds out, and follows addressing_style of the AWS "
        "profile",
    )
    ca_file: Path | None = key(
        path, '"/etc/ssl/certs/minio.pem"', "certificate authority of a private endpoint", default=None
    )
    payload_signing: str = key(
        one_of("auto", "always", "never"),
        '"auto"',
        '"always" for stores that refuse unsigned bodies: three times the CPU',
    )


@dataclass(frozen=True, slots=True)
class KeySettings:
    """Where the secret that opens the repository is."""

    passphrase_file: Path | None = key(
        path, '"/etc/mlsync/passphrase"', "mode 0600; or MLSYNC_PASSPHRASE, or a systemd credential", default=None
    )
    key_file: Path | None = key(path, '"/etc/mlsync/key"', "mode 0600; instead of a passphrase", default=None)


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """One training directory and the name of its run."""

    directory: Path = key(path, '"/data/runs/yolo"', "the training directory; it may appear later", default=REQUIRED)
    run: str = key(
        run_name,
        '"yolo"',
        'its name in the repository; default: the directory\'s (project-train if it is "train")',
        default=REQUIRED,
    )
    exclude: tuple[str, ...] = key(texts, "[]", 'patterns of files that no version needs, like ["*.log", "cache/"]')
    keep_temporary: bool = key(
        flag,
        "false",
        "take unfinished files too, which are left out otherwise by their names: " + TEMPORARY_NAMES,
    )
    not_models: tuple[str, ...] = key(
        texts,
        "[]",
        'patterns of files that look like models and are none, so that no backup names them, like ["*.mdl"]',
    )


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """When the resident agent backs up."""

    every: Every = key(schedule, '"1h"', 'back up at least this often: "30m", "1d", a cron line "0 * * * *", "never"')
    on_change: bool = key(flag, "true", "back up when files changed, not only by the clock")
    settle_s: float = key(duration, '"2s"', "quiet time after the last change before a backup begins", name="settle")
    settle_max_s: float = key(
        duration, '"60s"', "back up after this time although files keep changing", name="settle_max"
    )
    rescan_s: float = key(
        duration_above_zero,
        '"60s"',
        "look at all files this often, since a kernel may lose change events",
        name="rescan",
    )
    stop_within_s: float = key(
        duration, '"25s"', "time to stop at a safe point on SIGTERM; below TimeoutStopSec", name="stop_within"
    )


@dataclass(frozen=True, slots=True)
class ProofSettings:
    """How checkpoints are proved; ``None`` means that the configuration does not say."""

    device: str = key(
        proof_device,
        '"auto"',
        'where to prove: "auto", the GPU with most free memory, else the CPU; "cuda", "cuda:1", "cpu", "none"',
    )
    memory_bytes: int = key(
        size_from(_PROOF_MEMORY_BYTES_MIN), '"512MiB"', "the most memory of a GPU that a proof takes", name="memory"
    )
    python: Path | None = key(
        path,
        '"/opt/conda/bin/python"',
        "the Python that proves; for a GPU one that has torch, such as the trainer's own",
        default=None,
    )
    require: int | None = key(
        number(0, 5), "2", "the level that checkpoints must reach; 3 if it is not set", default=None
    )
    on_unavailable: str | None = key(
        one_of("commit", "wait"),
        '"commit"',
        'no GPU, or no torch for it: "commit" as pending and prove later, or "wait"; "wait" where require is set',
        default=None,
    )
    read_back: str = key(
        one_of("new", "all", "none"),
        '"new"',
        'what is read back from the store before a version is made; "none": its checkpoints are proved later',
    )
    scrub_s: float | None = key(
        duration_or_never,
        '"never"',
        'read every pack back once in this time, a share each hour ("90d"), and store again what rotted, if possible',
        name="scrub",
    )
    timeout_s: float = key(duration_above_zero, '"10m"', "give a proof up after this time", name="timeout")
    refuse: tuple[str, ...] = key(
        _NUMBER_FAULTS,
        "[]",
        'what breaks a checkpoint: "nan", "inf", "saturated" (float16), "zero" and "constant" (a whole tensor)',
    )
    warn: tuple[str, ...] = key(
        _NUMBER_FAULTS, '["nan", "inf", "saturated"]', "numbers to warn of; others are only noted"
    )
    framework: str | None = key(
        one_of("ultralytics", "transformers", "state_dict"),
        '"ultralytics"',
        'level 5: load each new checkpoint as this does ("ultralytics", "transformers", "state_dict"), and run it '
        "forward. THAT RUNS CODE OUT OF THE CHECKPOINT: only for files that you trust",
        default=None,
    )
    model: str | None = key(
        factory,
        '"package.module:build"',
        'for framework = "state_dict": returns the model and an example input',
        default=None,
    )
    command: tuple[str, ...] = key(
        command,
        '["python", "check.py", "{path}"]',
        "level 5 by a command of your own, given a checkpoint's file, or its directory if it is several: 0 it "
        "loads, 75 cannot tell, 77 not meant for it, all else: refused. It may run code out of the checkpoint",
        default=(),
    )
    command_for: tuple[str, ...] = key(
        texts,
        '["*.pt", "checkpoint-*/"]',
        "which checkpoints level 5 loads: files, and directories as one, by patterns that end in a slash; without it "
        "all that it can load",
        default=(),
    )
    command_environment: tuple[str, ...] = key(
        variables,
        '["PYTHONPATH"]',
        "what level 5 sees of the environment besides PATH and CUDA_*: names, or NAME=value",
        default=(),
    )
    command_timeout_s: float = key(
        duration_above_zero,
        '"10m"',
        "give level 5 up after this time, which does not count against the checkpoint",
        name="command_timeout",
    )

    @property
    def loads(self) -> bool:
        """Whether level 5 is wanted: a command or a framework loads checkpoints."""
        return bool(self.command or self.framework)

    @property
    def waits(self) -> bool:
        """Whether no version is made while no proof can be made: by request, or because a level is required."""
        return self.on_unavailable == "wait" or (self.on_unavailable is None and self.require is not None)


@dataclass(frozen=True, slots=True)
class Config:
    """All that a configuration file says; *path* is the file, if there is one."""

    repository: str = key(repository_url, '"file:///srv/mlsync"', "where the versions are kept", default=REQUIRED)
    state_directory: Path = key(
        path,
        '"~/.local/state/mlsync"',
        "locks, caches and the agent's status; may be deleted at the cost of one full read (root: /var/lib/mlsync)",
        default=REQUIRED,
    )
    s3: S3Settings = field(default_factory=S3Settings)
    key: KeySettings = field(default_factory=KeySettings)
    watches: tuple[WatchSettings, ...] = ()
    agent: AgentSettings = field(default_factory=AgentSettings)
    proof: ProofSettings = field(default_factory=ProofSettings)
    path: Path | None = None

    @property
    def repository_directory(self) -> Path | None:
        """Where the repository is on this machine; ``None`` if it is in a bucket."""
        if not self.repository.startswith("file:"):
            return None
        return Path(unquote(urlsplit(self.repository).path, errors="surrogateescape"))

    @classmethod
    def for_repository(cls, url: str, environ: Mapping[str, str] = os.environ) -> Self:
        """Return the defaults for one repository: the configuration of a command without a file."""
        try:
            checked = TOP["repository"].parse(url, Path.cwd())
        except ValueError as allowed:
            raise ConfigInvalid(f"the repository must be {allowed}, not {shown(url)}") from None
        return cls(repository=checked, state_directory=default_state_directory(environ))


TOP: Mapping[str, Key] = keys_of(Config)
TABLES: Mapping[str, Mapping[str, Key]] = {
    "s3": keys_of(S3Settings),
    "key": keys_of(KeySettings),
    "watch": keys_of(WatchSettings),
    "agent": keys_of(AgentSettings),
    "proof": keys_of(ProofSettings),
}


def default_state_directory(environ: Mapping[str, str] = os.environ, *, uid: int | None = None) -> Path:
    """Return where the state is unless the configuration says otherwise: systemd's place, root's, or the user's."""
    if given := environ.get("STATE_DIRECTORY"):
        # systemd separates several by colons; the unit's own comes first.
        return Path(given.split(":")[0])
    if (os.geteuid() if uid is None else uid) == 0:
        return Path("/var/lib/mlsync")
    return base_directory(environ, "XDG_STATE_HOME", ".local/state") / "mlsync"


def base_directory(environ: Mapping[str, str], variable: str, below_home: str) -> Path:
    """Return a directory of the XDG specification, which says that relative values are to be ignored."""
    given = environ.get(variable, "")
    return Path(given) if given.startswith("/") else Path(environ.get("HOME") or Path.home()) / below_home


def shown(value: object) -> str:
    """Return a value as TOML writes it, without the credentials that a URL may hold: logs have other readers."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + re.sub(r"//[^/]*@", "//...@", value) + '"'
    if isinstance(value, list):
        return "[" + ", ".join(map(shown, value)) + "]"
    return str(value)
