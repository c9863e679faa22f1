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

from mlsync.config.address import Address
from mlsync.config.every import Every
from mlsync.config.keys import (
    REQUIRED,
    Key,
    aliases,
    channel_name,
    command,
    duration,
    duration_above_zero,
    duration_or_never,
    duration_up_to_an_hour,
    endpoint,
    factory,
    flag,
    keep_rules,
    key,
    keys_of,
    kms_key,
    listening_address,
    model_name,
    names_or,
    number,
    number_name,
    one_of,
    path,
    patterns,
    program,
    proof_device,
    proof_level,
    rates,
    remembering,
    removal_limit,
    repository,
    run_name,
    run_names,
    schedule,
    secret_variable,
    share,
    size_from,
    some_of,
    text,
    texts,
    tracking_uri,
    variables,
)
from mlsync.config.new_objects import Lock, account, object_lock, readable_class, tags
from mlsync.config.places import default_state_directory
from mlsync.courtesy.timetable import Timetable
from mlsync.errors import ConfigInvalid
from mlsync.preemption.names import NAMES
from mlsync.retention.limit import RemovalLimit
from mlsync.retention.rules import Rule
from mlsync.source.temporary_names import TEMPORARY_NAMES
from mlsync.tell.choices import CHANNELS, KINDS, LANGUAGES, USUAL

# The checks on numbers that mlsync.proof.numbers makes.
_NUMBER_FAULTS = some_of("nan", "inf", "zero", "constant", "saturated")
# What precedes the host in a URL, or in a place as scp writes it.
_SECRETS = re.compile(r"(//|^(?=[^/@]*:))[^/]*@")
_TEMPORARY = ", ".join(f"`{name}`" for name in TEMPORARY_NAMES.split(", "))
# The windows of the proof's process, and what it needs to count the numbers in them.
_PROOF_MEMORY_BYTES_MIN = 384 << 20
# One segment of the cache.
_BASE_CACHE_BYTES_MIN = 64 << 20


@dataclass(frozen=True, slots=True)
class S3Settings:
    """How the S3 store is reached."""

    endpoint_url: str | None = key(
        endpoint,
        "The S3 server, if it is not AWS's: MinIO, Ceph, OSS, R2.",
        example='"https://minio.example:9000"',
        unset="AWS",
    )
    region: str | None = key(
        text, "The bucket's region.", example='"us-east-1"', unset="what the AWS profile or `AWS_REGION` says"
    )
    profile: str | None = key(
        text,
        "The profile in `~/.aws` with the S3 keys.",
        example='"backup"',
        unset="`AWS_PROFILE`, or the default profile",
    )
    addressing: str = key(
        one_of("auto", "path", "virtual"),
        'Where the bucket\'s name goes: `"path"` of the URL, or `"virtual"`, its host name. `"auto"` finds out, and '
        "follows `addressing_style` of the AWS profile.",
        default='"auto"',
        example='"path"',
    )
    ca_file: Path | None = key(
        path,
        "The certificate authority of a private S3 server.",
        example='"/etc/ssl/certs/minio.pem"',
        unset="the system's certificate authorities",
    )
    payload_signing: str = key(
        one_of("auto", "always", "never"),
        'Whether bodies of requests are signed. `"always"` is for stores that refuse unsigned bodies, and takes three '
        "times the CPU.",
        default='"auto"',
        example='"always"',
    )
    wait_for_minimum: bool = key(
        flag,
        "Whether a prune leaves packs until the minimum storage duration of their class is over (STANDARD_IA 30 days, "
        "GLACIER and GLACIER_IR 90, DEEP_ARCHIVE 180). AWS charges until then in either case.",
        default="false",
        example="true",
    )
    reuse_cold: bool = key(
        flag,
        "Whether a backup may rely on packs in cold storage, which it cannot read back: what needs them is proved once "
        "somebody had them thawed. Else what changed checkpoints need of them is stored again.",
        default="false",
        example="true",
    )
    requester_pays: bool = key(
        flag,
        "Whether this machine's account pays for its requests, in a bucket that makes requesters pay.",
        default="false",
        example="true",
    )
    expected_bucket_owner: str | None = key(
        account,
        "The account that the bucket must belong to. The server refuses every request if it is another's.",
        example='"111122223333"',
        unset="any account",
    )
    sse: str | None = key(
        one_of("AES256", "aws:kms", "aws:kms:dsse"),
        "How the server encrypts new objects, which mlsync has encrypted already.",
        example='"aws:kms"',
        unset="as the bucket is set",
    )
    kms_key_id: str | None = key(
        kms_key,
        "The key of AWS KMS for that, best by its ARN.",
        example='"arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"',
        unset="the account's key for S3",
    )
    bucket_key: bool | None = key(
        flag,
        "Whether the server asks KMS once for many objects, which costs less.",
        example="true",
        unset="as the bucket is set",
    )
    storage_class: str | None = key(
        readable_class("a backup reads back what it stored, and a lifecycle rule may archive packs later"),
        "The storage class of new packs, which are nearly all bytes of a repository.",
        example='"STANDARD_IA"',
        unset="the server's",
    )
    storage_class_others: str | None = key(
        readable_class("every command reads them"),
        "The storage class of all other new objects: manifests, key slots, proofs.",
        example='"STANDARD"',
        unset="the server's",
    )
    tags: Mapping[str, str] | None = key(
        tags,
        "Tags of new objects, for lifecycle rules and inventories. mlsync adds `mlsync-kind` to them, and `mlsync-run` "
        "where the object's key has the run's id. Write `{}` for these two alone.",
        example='{ team = "vision" }',
        unset="no tags",
    )
    acl: str | None = key(
        one_of("private", "bucket-owner-read", "bucket-owner-full-control"),
        "The access control list of new objects, for servers and buckets that still use these.",
        example='"bucket-owner-full-control"',
        unset="no list is sent",
    )
    object_lock: Lock | None = key(
        object_lock,
        "How long new objects are locked against deletion, in a bucket with object lock. The agent extends the lock of "
        "what versions use. Only credentials with a right for that lift `governance`; nobody lifts `compliance`.",
        example='"governance 30d"',
        unset="as the bucket is set",
    )


@dataclass(frozen=True, slots=True)
class MirrorSettings:
    """A second copy of the repository: where it is, what of it is copied there, and how its S3 server is reached."""

    url: str = key(
        repository,
        "Where the second copy is: a directory's path, or `s3://bucket/prefix`, in another bucket, region or machine.",
        example='"s3://far-away/yolo"',
        unset="",
        otherwise=REQUIRED,
    )
    name: str = key(
        channel_name,
        "What the mirror is called in messages and commands.",
        example='"far"',
        unset='`"mirror"`',
        otherwise="mirror",
    )
    runs: tuple[str, ...] = key(
        run_names,
        "The runs that are copied.",
        example='["yolo", "bert"]',
        unset="all runs",
        otherwise=(),
    )
    keep: tuple[Rule, ...] = key(
        keep_rules,
        "Only versions that these rules keep are copied; what falls out later stays in the mirror until "
        "`mlsync forget` and `mlsync prune` with `--repo` remove it there.",
        example='["last 3", "best 1 by fitness max", "daily 30"]',
        unset="every version is copied",
        otherwise=(),
    )
    s3: S3Settings = field(default_factory=S3Settings)

    @property
    def directory(self) -> Path | None:
        """Where the mirror is on this machine; ``None`` if it is in a bucket."""
        return _directory_of(self.url)

    def copies(self, run: str) -> bool:
        """Return whether versions of a run are copied to it."""
        return not self.runs or run in self.runs


@dataclass(frozen=True, slots=True)
class KeySettings:
    """Where the secret that opens the repository is."""

    passphrase_file: Path | None = key(
        path,
        "The file with the passphrase. Its mode must be 0600.",
        example='"/etc/mlsync/passphrase"',
        unset="`MLSYNC_PASSPHRASE`, a systemd credential, or a prompt",
    )
    key_file: Path | None = key(
        path,
        "The file with the key of a repository that was made with `--key-file`. Its mode must be 0600.",
        example='"/etc/mlsync/key"',
        unset="a systemd credential, or a passphrase",
    )
    kms_key: str | None = key(
        kms_key,
        "The key of AWS KMS that opens the repository, best by its ARN.",
        example='"arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"',
        unset="`MLSYNC_KMS_KEY`, a key file or a passphrase",
    )
    kms_region: str | None = key(
        text,
        "The key's Region, if `kms_key` is no ARN.",
        example='"eu-central-1"',
        unset="what the AWS profile or `AWS_REGION` says",
    )
    kms_endpoint_url: str | None = key(
        endpoint,
        "The address of AWS KMS in a private network.",
        example='"https://vpce-0123.kms.eu-central-1.vpce.amazonaws.com"',
        unset="AWS's for the Region, or `AWS_ENDPOINT_URL_KMS`",
    )
    kms_profile: str | None = key(
        text,
        "The profile in `~/.aws` with the credentials for KMS.",
        example='"keys"',
        unset="`profile` under `[s3]`, `AWS_PROFILE`, or the default profile",
    )

    write_only_key_file: Path | None = key(
        path,
        "The file of a write-only key, which `mlsync key add --write-only` made. Its mode must be 0600.",
        example='"/etc/mlsync/write-only.key"',
        unset="a key or passphrase that also reads",
    )
    remember_s: float | None = key(
        remembering,
        "For how long the kernel remembers what stretching a passphrase came to, for this user's next commands. "
        "It opens nothing without the passphrase.",
        default='"never"',
        example='"10m"',
        name="remember",
    )

    @property
    def names_secret(self) -> bool:
        """Whether one of the keys says what opens the repository."""
        return bool(self.passphrase_file or self.key_file or self.write_only_key_file or self.kms_key)

    def over(self, below: KeySettings) -> KeySettings:
        """Return these settings, and where they name no secret that of *below*; how KMS is reached may be in both."""
        names = self if self.names_secret else below
        return KeySettings(
            names.passphrase_file,
            names.key_file,
            names.kms_key,
            self.kms_region or below.kms_region,
            self.kms_endpoint_url or below.kms_endpoint_url,
            self.kms_profile or below.kms_profile,
            names.write_only_key_file,
            self.remember_s or below.remember_s,
        )


@dataclass(frozen=True, slots=True)
class RetentionSettings:
    """Which versions `mlsync forget` leaves; without rules all of them."""

    keep: tuple[Rule, ...] = key(
        keep_rules,
        "The versions that `mlsync forget` keeps: each rule adds some to those of the others. No rule is applied "
        "by itself.",
        example='["last 5", "resumable 2", "best 3 by fitness max", "daily 14", "pinned"]',
        unset="all versions are kept",
        otherwise=(),
    )
    floor: int = key(
        proof_level,
        "A version below this level of proof never takes the place of one at or above it.",
        default='"L3"',
        example='"L4"',
    )
    grace_s: float = key(
        duration,
        "No rule removes a version that is younger. `mlsync prune` lets forgotten versions and marked packs wait this "
        "long too; where runs have their own, the longest.",
        default='"7d"',
        example='"2d"',
        name="grace",
    )
    prune: str = key(
        one_of("daily", "never"),
        'Whether the agent prunes: `"daily"` is once a day, after a pass. Its credentials must be allowed to delete.',
        default='"never"',
        example='"daily"',
    )
    max_remove: RemovalLimit = key(
        removal_limit,
        "More versions of a run in one go have to be confirmed by their number: a share, or a number.",
        default='"50%"',
        example="100",
    )


@dataclass(frozen=True, slots=True)
class EvaluateSettings:
    """How checkpoints are measured after their proof."""

    command: tuple[str, ...] = key(
        program,
        "A command that measures a checkpoint; no shell reads it. `{checkpoint}` is a private copy of the file or "
        "directory, `{directory}` a directory like the run's, with that copy and small files beside it, `{result}` a "
        "file to write, and `{device}` the device. It prints JSON, lines like `accuracy 0.93`, or a table as "
        "`results.csv`, or writes that to `{result}`. The command may run code out of the checkpoint.",
        example='["python", "evaluate.py", "{checkpoint}"]',
        unset="nothing is evaluated",
        otherwise=(),
    )
    builtin: str | None = key(
        one_of("ultralytics"),
        "Instead of a command: `model.val` of Ultralytics, on the dataset that the training used, if it is on this "
        "machine. THAT RUNS CODE OUT OF THE CHECKPOINT: use it only for files that you trust.",
        example='"ultralytics"',
        unset="nothing is evaluated",
    )
    on: str = key(
        one_of("best", "every", "registered", "never"),
        'What the agent evaluates, after the proof: each version that its trainer calls the `"best"` so far, `"every"` '
        'proved one, or those that are `"registered"` with a registry of models. `"never"` leaves it to '
        "`mlsync evaluate`.",
        default='"best"',
        example='"every"',
    )
    label: str | None = key(
        text,
        "What the numbers are recorded under.",
        example='"coco val"',
        unset="the name of the program, without its arguments",
    )
    device: str | None = key(
        proof_device,
        "The device that the command is told.",
        example='"cuda:1"',
        unset="`device` under `[proof]`",
    )
    python: Path | None = key(
        path,
        "The Python of the built-in evaluation.",
        example='"/opt/conda/bin/python"',
        unset="`python` under `[proof]`, or mlsync's own",
    )
    environment: tuple[str, ...] = key(
        variables,
        "The command's environment, besides `PATH`, `CUDA_*` and `MLSYNC_EVALUATE_*`: names, or `NAME=value`.",
        default="[]",
        example='["PYTHONPATH", "DATA=/data/coco"]',
    )
    timeout_s: float = key(
        duration_above_zero,
        "The time for one evaluation; then it is killed, with all that it started.",
        default='"1h"',
        example='"10m"',
        name="timeout",
    )
    path: str | None = key(
        text,
        "A pattern for the checkpoint that is evaluated, of a file, or with a slash at its end of a directory.",
        example='"weights/best.pt"',
        unset="the one that the trainer calls the best, or else the newest",
    )
    best_by: str | None = key(
        number_name,
        "The number by which `best` is chosen, of all that is known of a version. `max` or `min` behind it says which "
        "is better; without it, less is for names of losses and errors, more for others.",
        example='"metrics/mAP50-95(B)"',
        unset="what the trainer calls the best",
    )

    @property
    def measures(self) -> bool:
        """Whether something is there that evaluates."""
        return bool(self.command or self.builtin)


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """One training directory and the name of its run."""

    directory: Path = key(
        path,
        "The training directory. It may appear later.",
        example='"/data/runs/yolo"',
        unset="",
        otherwise=REQUIRED,
    )
    run: str = key(
        run_name,
        "The run's name in the repository.",
        example='"yolo"',
        unset="the directory's name; a common one such as train gets its parents' names before it",
        otherwise=REQUIRED,
    )
    exclude: tuple[str, ...] = key(
        patterns, "Patterns of files that no version needs.", default="[]", example='["*.log", "cache/"]'
    )
    keep_temporary: bool = key(
        flag,
        f"Whether versions have files with the names of unfinished ones too: {_TEMPORARY}.",
        default="false",
        example="true",
    )
    not_models: tuple[str, ...] = key(
        patterns,
        "Patterns of files that look like models and are none, so that no backup names them.",
        default="[]",
        example='["*.mdl"]',
    )
    retention: RetentionSettings = field(default_factory=RetentionSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """When the resident agent backs up."""

    every: Every = key(
        schedule,
        'The agent backs up at least this often. `"never"` leaves only changes and rescans. '
        "At the time of a cron line it begins up to 30 seconds later, so that many machines do not begin together.",
        default='"1h"',
        example='"0 * * * *"',
    )
    on_change: bool = key(
        flag,
        "Whether the agent backs up when files changed, and not only by the clock.",
        default="true",
        example="false",
    )
    settle_s: float = key(
        duration,
        "The time without a change before a backup begins.",
        default='"2s"',
        example='"10s"',
        name="settle",
    )
    settle_max_s: float = key(
        duration,
        "A backup begins after this time although files keep changing.",
        default='"60s"',
        example='"5m"',
        name="settle_max",
    )
    rescan_s: float = key(
        duration_above_zero,
        "The agent looks at all files this often, since a kernel can lose change events.",
        default='"60s"',
        example='"10m"',
        name="rescan",
    )
    join_logs_s: float = key(
        duration,
        "The time between two versions if nothing changed but logs. A new checkpoint does not wait for it.",
        default='"5m"',
        example='"30m"',
        name="join_logs",
    )
    stop_within_s: float | None = key(
        duration,
        "The time on SIGTERM for a last pass over each run, with what changed up to then. It is shorter than "
        "`TimeoutStopSec` of the service.",
        example='"60s"',
        unset="25 seconds, or what the place leaves if that is less: 4 in a pod of RunPod, 8 in another container",
        name="stop_within",
    )
    silence_factor: int = key(
        number(0, 1000),
        "The agent warns when no new checkpoint came for this many times the usual interval; 0 switches that off.",
        default="5",
        example="10",
    )
    heartbeat_url_file: Path | None = key(
        path,
        "The file with a URL that is requested after each proved version, so that a service such as healthchecks.io "
        "raises the alarm when none comes. Its mode must be 0600.",
        example='"/etc/mlsync/heartbeat-url"',
        unset="no URL",
    )
    safe: str | None = key(
        one_of("repository", "mirror"),
        "When a version counts as safe, for `mlsync status`, its exit status, metrics and the heartbeat: once it is "
        'proved in the `"repository"`, or once it is in a `"mirror"` too.',
        example='"mirror"',
        unset='`"mirror"` if the repository is a directory and there is a `[[mirror]]`, else `"repository"`',
    )
    log_format: str = key(
        one_of("text", "json"),
        'How the agent and `mlsync run` log: `"json"` is one object a line, for programs that collect logs.',
        default='"text"',
        example='"json"',
    )
    listen: Address | None = key(
        listening_address,
        "Where the agent shows metrics and a status page to everybody who can connect: mostly an address of this "
        "machine alone.",
        example='"127.0.0.1:9417"',
        unset="nowhere",
    )
    listen_names: tuple[str, ...] = key(
        texts,
        "Names of this machine by which browsers and Prometheus ask, besides its host name and addresses.",
        default="[]",
        example='["gpu1.example.org"]',
    )
    metrics_file: Path | None = key(
        path,
        "A file for the textfile collector of node exporter, which the agent writes every 20 seconds.",
        example='"/var/lib/node_exporter/mlsync.prom"',
        unset="none",
    )


@dataclass(frozen=True, slots=True)
class BackupSettings:
    """How changed tensors are stored."""

    differences: str = key(
        one_of("auto", "on", "off"),
        "Whether a tensor may be stored as its difference from an older version of it, which takes less room and more "
        'reading. `"auto"` does so unless the rules of `[retention]` thin versions out, which would leave old ones for '
        "the sake of few.",
        default='"auto"',
        example='"off"',
    )
    base_cache_bytes: int | None = key(
        size_from(_BASE_CACHE_BYTES_MIN),
        "For a repository in a bucket: the most that the state directory holds of each run for that, sealed. What does "
        "not fit is stored as a whole.",
        example='"2GiB"',
        unset="as much as the newest checkpoints of the run have, at most 8 GiB and a tenth of the free disk",
        name="base_cache",
    )


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """How much of line and machine mlsync takes in ordinary times; passes with a deadline ignore all of it."""

    upload: Timetable = key(
        rates,
        "The most that is sent to the repository, by all processes with this state directory together: a rate, with "
        "hours and days if it is not for always. Of several lines the first whose hours it is counts, by the local "
        "clock; where none does, there is no limit. A pass before a preemption and the last one ignore it.",
        default='"unlimited"',
        example='["20 MiB/s 08:00-20:00 Mon-Fri", "unlimited"]',
    )
    download: Timetable = key(
        rates,
        "The most that is fetched from it, for proofs and restores; as `upload`.",
        default='"unlimited"',
        example='"100 Mbit/s"',
    )
    max_lag_s: float = key(
        duration,
        "For so long a pass waits between files while the machine is stalled for memory, disk or a container's "
        "processors, and pauses while it reads; then it goes on as if it were alone. If something is in no version for "
        'so long, the next pass has an ordinary priority. `"0s"`: it never waits, nor gives way.',
        default='"10m"',
        example='"2m"',
        name="max_lag",
    )
    processor_share: float = key(
        share,
        "Beside a training that needs all processors, passes of the agent take this share of their time on average: "
        "the next one begins so much later, with the newest files, but when half of `max_lag` is over at the latest. "
        "Once a processor is idle, it begins at once. Passes that somebody asks for, and those with a deadline, never "
        'wait. `"100%"`: none waits.',
        default='"1%"',
        example='"5%"',
    )


@dataclass(frozen=True, slots=True)
class PreemptionSettings:
    """How the agent hears that the machine goes away; no *notices* are none, and ``None`` is what is found here."""

    notices: tuple[str, ...] | None = key(
        names_or(("auto", "off"), NAMES),
        'Whose notices the agent listens to. `"auto"` finds out by the machine\'s firmware and the environment.',
        default='"auto"',
        example='["aws", "slurm"]',
    )
    grace_s: float | None = key(
        duration_above_zero,
        "The time from SIGTERM, or from `mlsync now --preempt`, to the end, where you know it better than mlsync.",
        example='"60s"',
        unset="what the platform is known to leave: 5 seconds (RunPod) to two minutes (AWS, SageMaker)",
        name="signal_grace",
    )


@dataclass(frozen=True, slots=True)
class NotifySettings:
    """One channel that is told of events; its address and secret are read where they are needed, and not before."""

    channel: str = key(
        one_of(*CHANNELS),
        "The service: a bot of WeCom, DingTalk or Feishu (or Lark), a webhook as Slack's or of your own, or a URL "
        "for apprise (`pip install 'mlsync[apprise]'`).",
        example='"wecom"',
        unset="",
        otherwise=REQUIRED,
    )
    name: str = key(
        channel_name,
        "What the channel is called in messages and commands.",
        example='"team"',
        unset="that of the service",
        otherwise=REQUIRED,
    )
    url_file: Path | None = key(
        path,
        "The file with the bot's webhook address, or its key alone. Its mode must be 0600.",
        example='"/etc/mlsync/wecom-url"',
        unset="`url_variable`, or a systemd credential `mlsync-notify-NAME`",
    )
    url_variable: str | None = key(
        secret_variable,
        "The environment variable with that address.",
        example='"WECOM_URL"',
        unset="`url_file`, or a systemd credential `mlsync-notify-NAME`",
    )
    secret_file: Path | None = key(
        path,
        "The file with the secret that messages are signed with (DingTalk, Feishu, webhook). Its mode must be 0600.",
        example='"/etc/mlsync/dingtalk-secret"',
        unset="`secret_variable`, or a systemd credential `mlsync-notify-NAME-secret`; without one nothing is signed",
    )
    secret_variable: str | None = key(
        secret_variable,
        "The environment variable with that secret.",
        example='"DINGTALK_SECRET"',
        unset="`secret_file`, or a systemd credential `mlsync-notify-NAME-secret`",
    )
    events: tuple[str, ...] = key(
        some_of(*(kind for kind in KINDS if kind != "test")),
        "The events that the channel is told of.",
        example='["best", "broken", "store_away", "silence"]',
        unset="all but `version` and `digest`",
        otherwise=USUAL,
    )
    language: str = key(
        one_of(*LANGUAGES),
        "The language of its messages.",
        example='"zh"',
        unset='`"en"`',
        otherwise=LANGUAGES[0],
    )


@dataclass(frozen=True, slots=True)
class HookSettings:
    """Commands that the agent starts after events."""

    on_version: tuple[str, ...] = key(
        program,
        "A command for each new version that is proved. It gets the event as JSON on its standard input.",
        example='["/usr/local/bin/announce", "version"]',
        unset="none",
        otherwise=(),
    )
    on_best: tuple[str, ...] = key(
        program,
        "A command for each new best checkpoint.",
        example='["/usr/local/bin/announce", "best"]',
        unset="none",
        otherwise=(),
    )
    on_broken: tuple[str, ...] = key(
        program,
        "A command for each checkpoint that does not load.",
        example='["/usr/local/bin/announce", "broken"]',
        unset="none",
        otherwise=(),
    )
    on_preemption: tuple[str, ...] = key(
        program,
        "A command for each notice that this machine ends.",
        example='["/usr/local/bin/announce", "preemption"]',
        unset="none",
        otherwise=(),
    )
    hook_timeout_s: float = key(
        duration_above_zero,
        "The time for one of these commands; then it is killed, with all that it started.",
        default='"30s"',
        example='"2m"',
        name="hook_timeout",
    )


@dataclass(frozen=True, slots=True)
class MlflowSettings:
    """In which MLflow server versions are registered, and as what; secrets are read where they are needed."""

    tracking_uri: str | None = key(
        tracking_uri,
        "The MLflow server in which `mlsync register` and the agent register versions.",
        example='"https://mlflow.example.org"',
        unset="`MLFLOW_TRACKING_URI`",
    )
    on: str = key(
        one_of("never", "best", "proved"),
        'What the agent registers by itself: each version with a new `"best"` checkpoint, or each that is `"proved"`. '
        "Both wait for the proof, and no backup waits for them.",
        default='"never"',
        example='"best"',
    )
    model: str | None = key(
        model_name,
        "The model that they become versions of. It is made if it is not there.",
        example='"yolo"',
        unset="the name of the run",
    )
    alias: tuple[str, ...] = key(
        aliases,
        "Aliases of the model that move to each version that is registered.",
        default="[]",
        example='"champion"',
    )
    token_file: Path | None = key(
        path,
        "The file with the token that MLflow wants. Its mode must be 0600.",
        example='"/etc/mlsync/mlflow-token"',
        unset="`username`, or `MLFLOW_TRACKING_TOKEN`",
    )
    username: str | None = key(
        text,
        "The user by which MLflow knows who asks.",
        example='"mlsync"',
        unset="`token_file`, or `MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD`",
    )
    password_file: Path | None = key(
        path,
        "The file with that user's password. Its mode must be 0600.",
        example='"/etc/mlsync/mlflow-password"',
        unset="no password",
    )
    ca_file: Path | None = key(
        path,
        "The certificate authority of a private MLflow server.",
        example='"/etc/ssl/certs/mlflow.pem"',
        unset="`MLFLOW_TRACKING_SERVER_CERT_PATH`, or the system's certificate authorities",
    )
    path: str | None = key(
        text,
        "The file or directory of a version that is the model; of several that a pattern matches the newest. "
        '`"."` is all of the version.',
        example='"weights/best.pt"',
        unset="the one checkpoint with weights, or the one that is called `best`",
    )


@dataclass(frozen=True, slots=True)
class ProofSettings:
    """How checkpoints are proved; ``None`` means that the configuration does not say."""

    device: str = key(
        proof_device,
        'Where checkpoints are loaded. `"auto"` is the GPU with most free memory, or the CPU if there is no GPU.',
        default='"auto"',
        example='"cuda:1"',
    )
    memory_bytes: int = key(
        size_from(_PROOF_MEMORY_BYTES_MIN),
        "The most memory of a GPU that a proof takes.",
        default='"512MiB"',
        example='"1GiB"',
        name="memory",
    )
    keep_warm_s: float = key(
        duration_up_to_an_hour,
        "How long the processes that make and prove versions wait for the next one, if versions come that fast. The "
        "one that proves waits only on a GPU, with its context alone, and while much of the memory is free.",
        default='"2m"',
        example='"0s"',
        name="keep_warm",
    )
    python: Path | None = key(
        path,
        "The Python that proves. For a GPU it needs torch: give the trainer's.",
        example='"/opt/conda/bin/python"',
        unset="mlsync's own",
    )
    require: int | None = key(
        number(0, 5),
        'The level that checkpoints must reach. Setting it, even to 3, makes `on_unavailable` `"wait"`, unless that is '
        "set too.",
        example="4",
        unset='3, with `on_unavailable = "commit"`',
    )
    on_unavailable: str | None = key(
        one_of("commit", "wait"),
        "What happens when a checkpoint cannot be proved as far as required, as without a GPU. "
        '`"commit"` makes the version; it is pending, and is proved later. `"wait"` makes it once the proof is '
        "possible.",
        example='"wait"',
        unset='`"commit"`, or `"wait"` if `require` is set',
    )
    read_back: str = key(
        one_of("new", "all", "none"),
        'What is read back from the store before a version is made: what is `"new"` in it, or `"all"` of it. `"none"` '
        "proves its checkpoints later.",
        default='"new"',
        example='"all"',
    )
    scrub_s: float | None = key(
        duration_or_never,
        "The agent reads every pack back once in this time, a share each hour, and stores again what rotted, if the "
        "training directory still has it.",
        default='"never"',
        example='"90d"',
        name="scrub",
    )
    timeout_s: float = key(
        duration_above_zero,
        "The time for the proof of one checkpoint, besides the time that its bytes need.",
        default='"10m"',
        example='"30m"',
        name="timeout",
    )
    refuse: tuple[str, ...] = key(
        _NUMBER_FAULTS,
        'Numbers that break a checkpoint: NaN, infinity, the largest number of float16 (`"saturated"`), and tensors '
        "that are all zero or constant.",
        default="[]",
        example='["nan", "inf"]',
    )
    warn: tuple[str, ...] = key(
        _NUMBER_FAULTS,
        "Numbers to warn of; the others of this kind are only noted.",
        default='["nan", "inf", "saturated"]',
        example='["nan"]',
    )
    framework: str | None = key(
        one_of("ultralytics", "transformers", "state_dict"),
        "Level 5: load each new checkpoint as this framework does, and run it forward. THAT RUNS CODE OUT OF THE "
        "CHECKPOINT: use it only for files that you trust.",
        example='"ultralytics"',
        unset="no level 5",
    )
    model: str | None = key(
        factory,
        'For `framework = "state_dict"`: the callable that returns the model and an example input.',
        example='"package.module:build"',
    )
    command: tuple[str, ...] = key(
        command,
        "Level 5 by a command of your own. `{path}` is a checkpoint's file, or its directory if it has several files. "
        "Exit status 0: it loads; 75: cannot tell; 77: not meant for this checkpoint; all others: it does not load. "
        "The command may run code out of the checkpoint.",
        example='["python", "check.py", "{path}"]',
        unset="no level 5",
        otherwise=(),
    )
    command_for: tuple[str, ...] = key(
        texts,
        "The checkpoints that level 5 loads: patterns of files, and of directories that are one checkpoint. Those end "
        "in a slash.",
        example='["*.pt", "checkpoint-*/"]',
        unset="all that the framework or command can load",
        otherwise=(),
    )
    command_environment: tuple[str, ...] = key(
        variables,
        "The environment of level 5, besides `PATH` and `CUDA_*`: names, or `NAME=value`.",
        default="[]",
        example='["PYTHONPATH", "OMP_NUM_THREADS=4"]',
    )
    command_timeout_s: float = key(
        duration_above_zero,
        "The time for level 5 of one checkpoint. A longer one does not count against the checkpoint.",
        default='"10m"',
        example='"30m"',
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

    repository: str = key(
        repository,
        "Where the versions are kept: a directory's path, or `s3://bucket/prefix`.",
        example='"/srv/mlsync"',
        unset="",
        otherwise=REQUIRED,
    )
    state_directory: Path = key(
        path,
        "Locks, caches and the agent's status. It may be deleted: the next backup then reads all files once.",
        example='"/var/lib/mlsync"',
        unset="systemd's `STATE_DIRECTORY`; else `mlsync` in `XDG_STATE_HOME`; else `/var/lib/mlsync` for root, and "
        "`~/.local/state/mlsync` for others",
        otherwise=REQUIRED,
    )
    s3: S3Settings = field(default_factory=S3Settings)
    mirrors: tuple[MirrorSettings, ...] = ()
    key: KeySettings = field(default_factory=KeySettings)
    watches: tuple[WatchSettings, ...] = ()
    agent: AgentSettings = field(default_factory=AgentSettings)
    backup: BackupSettings = field(default_factory=BackupSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    preemption: PreemptionSettings = field(default_factory=PreemptionSettings)
    proof: ProofSettings = field(default_factory=ProofSettings)
    channels: tuple[NotifySettings, ...] = ()
    hooks: HookSettings = field(default_factory=HookSettings)
    mlflow: MlflowSettings = field(default_factory=MlflowSettings)
    retention: RetentionSettings = field(default_factory=RetentionSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    path: Path | None = None

    @property
    def repository_directory(self) -> Path | None:
        """Where the repository is on this machine; ``None`` if it is in a bucket."""
        return _directory_of(self.repository)

    @property
    def is_safe_in_mirror(self) -> bool:
        """Whether a version counts as safe only once it is in a mirror.

        Unless that is said: if the repository is a directory, which is lost with its machine or disk.
        """
        if not self.mirrors or self.agent.safe is None:
            return bool(self.mirrors) and self.repository_directory is not None
        return self.agent.safe == "mirror"

    def retention_of(self, run: str) -> RetentionSettings:
        """Return which versions of a run are kept: as its ``[[watch]]`` says, or as is said for all runs."""
        return next((watch.retention for watch in self.watches if watch.run == run), self.retention)

    def evaluate_of(self, run: str) -> EvaluateSettings:
        """Return how a run is evaluated: as its ``[[watch]]`` says, or as is said for all runs."""
        return next((watch.evaluate for watch in self.watches if watch.run == run), self.evaluate)

    @classmethod
    def for_repository(cls, place: str, environ: Mapping[str, str] = os.environ) -> Self:
        """Return the defaults for one repository, by its URL or path: the configuration of a command without a file.

        A relative path counts from the current directory.
        """
        try:
            checked = TOP["repository"].parse(place, Path())
        except ValueError as allowed:
            raise ConfigInvalid(f"the repository must be {allowed}, not {shown(place)}") from None
        return cls(repository=checked, state_directory=default_state_directory(environ))


TOP: Mapping[str, Key] = keys_of(Config)
TABLES: Mapping[str, Mapping[str, Key]] = {
    "s3": keys_of(S3Settings),
    "key": keys_of(KeySettings),
    "watch": keys_of(WatchSettings),
    "agent": keys_of(AgentSettings),
    "backup": keys_of(BackupSettings),
    "limits": keys_of(LimitSettings),
    "preemption": keys_of(PreemptionSettings),
    "proof": keys_of(ProofSettings),
    "notify": keys_of(NotifySettings),
    "hooks": keys_of(HookSettings),
    "mlflow": keys_of(MlflowSettings),
    "retention": keys_of(RetentionSettings),
    "evaluate": keys_of(EvaluateSettings),
    "mirror": {**keys_of(MirrorSettings), **keys_of(S3Settings)},
}


def _directory_of(url: str) -> Path | None:
    if not url.startswith("file:"):
        return None
    return Path(unquote(urlsplit(url).path, errors="surrogateescape"))


def shown(value: object) -> str:
    """Return a value as TOML writes it, without the credentials that a URL may hold: logs have other readers."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + _SECRETS.sub(r"\1...@", value) + '"'
    if isinstance(value, list):
        return "[" + ", ".join(map(shown, value)) + "]"
    return str(value)
