"""Every key of the configuration: what it may be, its default, and why one would set it.

One table feeds the reader, its error messages and the file that ``mlsync init`` writes, so that they cannot disagree.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlsync.config.durations import ALLOWED as DURATION
from mlsync.config.durations import parse_duration
from mlsync.config.every import parse_every
from mlsync.config.proof_device import DEVICES, is_device
from mlsync.config.run_name import check_run_name
from mlsync.config.sizes import parse_size
from mlsync.errors import RunNameInvalid
from mlsync.source.temporary_names import TEMPORARY_NAMES

Parse = Callable[[Any, Path], Any]


@dataclass(frozen=True, slots=True)
class Key:
    """A key: *parse* gives its value or raises ``ValueError`` with what is allowed; *shown* is its default in TOML."""

    parse: Parse
    field: str
    shown: str
    why: str


def text(value: Any, _base: Path) -> str:
    """A string that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError("a string that is not empty")
    return value


def path(value: Any, base: Path) -> Path:
    """An absolute path; a relative one is counted from the configuration file, ``~`` is the user's home."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("a path in quotes")
    return Path(os.path.normpath(base / os.path.expanduser(value)))


def flag(value: Any, _base: Path) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError("true or false")  # noqa: TRY004 - it becomes ConfigInvalid, whatever was wrong
    return value


def duration(value: Any, _base: Path) -> float:
    """Seconds."""
    if not isinstance(value, str):
        raise ValueError(DURATION)  # noqa: TRY004 - it becomes ConfigInvalid, whatever was wrong
    return parse_duration(value)


def duration_above_zero(value: Any, base: Path) -> float:
    """Seconds, more than none."""
    seconds = duration(value, base)
    if seconds <= 0:
        raise ValueError(f"{DURATION}, above zero")
    return seconds


def duration_or_never(value: Any, base: Path) -> float | None:
    """Seconds, more than none; or ``None`` for never."""
    if value == "never":
        return None
    try:
        return duration_above_zero(value, base)
    except ValueError as error:
        raise ValueError(f'{error}; or "never"') from None


def one_of(*choices: str) -> Parse:
    """One of a few words."""
    allowed = "one of " + ", ".join(f'"{choice}"' for choice in choices)

    def parse(value: Any, _base: Path) -> str:
        if value not in choices:
            raise ValueError(allowed)
        return str(value)

    return parse


def some_of(*choices: str) -> Parse:
    """A list of a few words, each once."""
    allowed = "a list of some of " + ", ".join(f'"{choice}"' for choice in choices)

    def parse(value: Any, _base: Path) -> tuple[str, ...]:
        if not isinstance(value, list) or any(item not in choices for item in value):
            raise ValueError(allowed)
        return tuple(choice for choice in choices if choice in value)

    return parse


def proof_device(value: Any, _base: Path) -> str:
    """Where to prove: a kind of device, or one GPU by its number."""
    if not is_device(value):
        raise ValueError(f"one of {DEVICES}")
    return str(value)


def size_from(lowest_bytes: int) -> Parse:
    """Bytes, no fewer than some."""

    def parse(value: Any, _base: Path) -> int:
        size_bytes = parse_size(value)
        if size_bytes < lowest_bytes:
            raise ValueError(f"at least {lowest_bytes >> 20}MiB")
        return size_bytes

    return parse


def signing(value: Any, base: Path) -> str:
    """How bodies are signed; true and false are what it was called before there were three ways."""
    if isinstance(value, bool):
        return "always" if value else "auto"
    return str(one_of("auto", "always", "never")(value, base))


def number(lowest: int, highest: int) -> Parse:
    """A whole number within bounds."""

    def parse(value: Any, _base: Path) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
            raise ValueError(f"a whole number from {lowest} to {highest}")
        return value

    return parse


def texts(value: Any, _base: Path) -> tuple[str, ...]:
    """A list of strings, none empty."""
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise ValueError('a list of strings like ["*.tmp", "cache/"]')
    return tuple(value)


def command(value: Any, base: Path) -> tuple[str, ...]:
    """A command that gets a checkpoint's path; what names a file beside the configuration stands for that one."""
    allowed = 'a list of strings like ["python", "check.py", "{path}"], with {path} among them'
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise ValueError(allowed)
    if not any("{path}" in item for item in value):
        raise ValueError(allowed)
    parts = tuple(str(base / item) if (base / item).is_file() else item for item in value)
    for part in parts:
        # Python's own answer to it looks like that of a check that failed, and would be held against checkpoints.
        if part.endswith(".py") and not os.path.isfile(part):
            raise ValueError(f"a command whose programs exist; there is no {base / part}")
    return parts


def variables(value: Any, base: Path) -> tuple[str, ...]:
    """Names of environment variables, or assignments; none that opens a door."""
    for item in texts(value, base):
        name, _, _ = item.partition("=")
        if not name.isidentifier() or name.startswith(("MLSYNC_", "AWS_")):
            raise ValueError('a list like ["PYTHONPATH", "OMP_NUM_THREADS=4"], without MLSYNC_* and AWS_*')
    return texts(value, base)


def factory(value: Any, base: Path) -> str:
    """Where a model is built: a module and something in it to call."""
    module, colon, name = text(value, base).partition(":")
    if not colon or not name.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise ValueError('a module and a callable in it, like "package.module:build"')
    return str(value)


def schedule(value: Any, base: Path) -> Any:
    """A length of time, a cron line or never."""
    return parse_every(text(value, base))


def run_name(value: Any, base: Path) -> str:
    """A name that can stand in paths and messages."""
    try:
        return check_run_name(text(value, base))
    except RunNameInvalid as error:
        raise ValueError(f"a run's name; {error.where}") from None


def repository_url(value: Any, base: Path) -> str:
    """A URL that names a place and holds no secret."""
    url = text(value, base)
    if url.startswith("/"):
        raise ValueError(f'a URL; for a directory write "file://{url}"')
    scheme, _, rest = url.partition("://")
    if scheme == "file" and rest.startswith("/"):
        return url
    if scheme == "s3" and rest.split("/")[0]:
        if "@" in rest.split("/")[0]:
            # URLs are shown in messages and kept in files that others read.
            raise ValueError("a URL without credentials in it; they belong into an AWS profile or the environment")
        return url
    raise ValueError('"file:///directory" or "s3://bucket/prefix"')


TOP: Mapping[str, Key] = {
    "repository": Key(repository_url, "repository", '"file:///srv/mlsync"', "where the versions are kept"),
    "state_directory": Key(
        path,
        "state_directory",
        '"~/.local/state/mlsync"',
        "locks, caches and the agent's status; may be deleted, costs one full read then (root: /var/lib/mlsync)",
    ),
}
S3: Mapping[str, Key] = {
    "endpoint_url": Key(text, "endpoint_url", '"https://minio.example:9000"', "MinIO, OSS, Ceph; leave out for AWS"),
    "region": Key(text, "region", '"us-east-1"', "the bucket's region, if the AWS profile does not say it"),
    "profile": Key(text, "profile", '"default"', "profile in ~/.aws whose credentials are used"),
    "addressing": Key(
        one_of("auto", "path", "virtual"),
        "addressing",
        '"auto"',
        "bucket in the path or the host name (virtual); auto finds out, and heeds addressing_style of the AWS profile",
    ),
    "ca_file": Key(path, "ca_file", '"/etc/ssl/certs/minio.pem"', "certificate authority of a private endpoint"),
    "payload_signing": Key(
        signing,
        "payload_signing",
        '"auto"',
        '"always" for stores that refuse unsigned bodies: thrice the CPU',
    ),
}
KEY: Mapping[str, Key] = {
    "passphrase_file": Key(
        path, "passphrase_file", '"/etc/mlsync/passphrase"', "mode 0600; or MLSYNC_PASSPHRASE, or a systemd credential"
    ),
    "key_file": Key(path, "key_file", '"/etc/mlsync/key"', "mode 0600; instead of a passphrase"),
}
WATCH: Mapping[str, Key] = {
    "directory": Key(path, "directory", '"/data/runs/yolo"', "the training directory; it may appear later"),
    "run": Key(
        run_name,
        "run",
        '"yolo"',
        'its name in the repository; default: the directory\'s (project-train if it is "train")',
    ),
    "exclude": Key(texts, "exclude", "[]", 'patterns of files that no version needs, like ["*.log", "cache/"]'),
    "keep_temporary": Key(
        flag,
        "keep_temporary",
        "false",
        "take names of unfinished files too, which are left out else: " + TEMPORARY_NAMES,
    ),
    "not_models": Key(
        texts,
        "not_models",
        "[]",
        'patterns of files that look like models, are not understood, and need not be named for it, like ["*.mdl"]',
    ),
}
AGENT: Mapping[str, Key] = {
    "every": Key(schedule, "every", '"1h"', 'back up at least so often: "30m", "1d", a cron line "0 * * * *", "never"'),
    "on_change": Key(flag, "on_change", "true", "back up when files changed, not only by the clock"),
    "settle": Key(duration, "settle_s", '"2s"', "quiet time after the last change before a backup begins"),
    "settle_max": Key(duration, "settle_max_s", '"60s"', "back up after so long although files keep changing"),
    "rescan": Key(
        duration_above_zero, "rescan_s", '"60s"', "look at all files so often, since a kernel may lose change events"
    ),
    "stop_within": Key(duration, "stop_within_s", '"25s"', "time to save the place on SIGTERM; below TimeoutStopSec"),
}
# What may be the matter with numbers, as mlsync.proof.numbers has it.
_NUMBER_FAULTS = some_of("nan", "inf", "zero", "constant", "saturated")
# The child's windows and what it needs to count them.
_PROOF_MEMORY_BYTES_MIN = 384 << 20
PROOF: Mapping[str, Key] = {
    "device": Key(
        proof_device,
        "device",
        '"auto"',
        'where to prove: "auto", the GPU with most free memory, else the CPU; "cuda", "cuda:1", "cpu", "none"',
    ),
    "memory": Key(
        size_from(_PROOF_MEMORY_BYTES_MIN),
        "memory_bytes",
        '"512MiB"',
        "take no more of a GPU's memory for it than this",
    ),
    "python": Key(path, "python", '"/opt/conda/bin/python"', "for a GPU one that has torch: the trainer's own, say"),
    "require": Key(
        number(0, 5),
        "require",
        "2",
        "the level that checkpoints must reach; 3 if it is not set",
    ),
    "on_unavailable": Key(
        one_of("commit", "wait"),
        "on_unavailable",
        '"commit"',
        'no GPU, or no torch for it: "commit" as pending and prove later, or "wait"; "wait" where require is set',
    ),
    "read_back": Key(
        one_of("new", "all", "none"),
        "read_back",
        '"new"',
        'what comes back from the store before a version is made; "none": its checkpoints are pending and proved later',
    ),
    "scrub": Key(
        duration_or_never,
        "scrub_s",
        '"never"',
        'read every pack back once in so long, a share each hour ("90d"); what rotted is stored again, if it can be',
    ),
    "timeout": Key(duration_above_zero, "timeout_s", '"10m"', "give a proof up after so long"),
    "refuse": Key(
        _NUMBER_FAULTS,
        "refuse",
        "[]",
        'what breaks a checkpoint: "nan", "inf", "saturated" (float16), "zero" and "constant" (a whole tensor)',
    ),
    "warn": Key(_NUMBER_FAULTS, "warn", '["nan", "inf", "saturated"]', "numbers to warn of; the rest is noted"),
    "refuse_nan": Key(flag, "refuse_nan", "false", 'the same as "nan" and "inf" in refuse'),
    "framework": Key(
        one_of("ultralytics", "transformers", "state_dict"),
        "framework",
        '"ultralytics"',
        'level 5: load each new checkpoint as this does ("ultralytics", "transformers", "state_dict"), and run it '
        "forward. THAT RUNS CODE OUT OF THE CHECKPOINT: for files that you trust only",
    ),
    "model": Key(
        factory, "model", '"package.module:build"', 'for framework = "state_dict": gives the model and an example input'
    ),
    "command": Key(
        command,
        "command",
        '["python", "check.py", "{path}"]',
        "level 5 by a command of your own, given a checkpoint's file, or directory if it is several: 0 it loads, "
        "75 cannot tell, 77 not meant for it, all else: refused. What it runs out of the checkpoint is on you",
    ),
    "command_for": Key(
        texts,
        "command_for",
        '["*.pt", "checkpoint-*/"]',
        "which checkpoints level 5 is for: files, and directories as one, by patterns that end in a slash; without it "
        "all that it can be for",
    ),
    "command_environment": Key(
        variables,
        "command_environment",
        '["PYTHONPATH"]',
        "what level 5 sees of the environment besides PATH and CUDA_*: names, or NAME=value",
    ),
    "command_timeout": Key(
        duration_above_zero,
        "command_timeout_s",
        '"10m"',
        "give level 5 up after so long; that is not held against a file",
    ),
}
TABLES: Mapping[str, Mapping[str, Key]] = {"s3": S3, "key": KEY, "watch": WATCH, "agent": AGENT, "proof": PROOF}
