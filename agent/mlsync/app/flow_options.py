"""What the configuration asks of the flows: how a run is backed up, proved and loaded, and how the store is reached."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from mlsync.backup.bases.settings import Differences
from mlsync.backup.request import BackupOptions, Source
from mlsync.config.model import Config, S3Settings, WatchSettings
from mlsync.proving.policy import Policy
from mlsync.retention.rules import thins_out
from mlsync.store.options import ObjectLock, StoreOptions
from mlsync.values import NumberFault

if TYPE_CHECKING:
    from mlsync.app.proof_user import RunsAs
    from mlsync.proof.framework import Framework
    from mlsync.proof.options import ProofOptions
    from mlsync.proof.prover import Prover
    from mlsync.proof.warm import WarmEngine
    from mlsync.proving.load import LoadingOptions

UPLOADS_DIRECTORY = "uploads"
LOADING_DIRECTORY = "loading"
BASES_DIRECTORY = "bases"
# The level that a proof must reach by default: the bytes on the device are those of the file. Level 4 checks the
# numbers, and the policy on them is the user's.
REQUIRED_LEVEL = 3


def source_of(watch: WatchSettings) -> Source:
    """Return what the flows need to know about a watched directory."""
    return Source(watch.run, bytes(watch.directory), watch.exclude, watch.keep_temporary, watch.not_models)


def store_options(config: Config) -> StoreOptions:
    """Return how the store is reached by the configuration."""
    return server_options(config.s3)


def server_options(s3: S3Settings) -> StoreOptions:
    """Return how a store is reached by its settings."""
    lock = s3.object_lock
    return StoreOptions(
        endpoint_url=s3.endpoint_url,
        region=s3.region,
        profile=s3.profile,
        addressing=cast('Literal["auto", "path", "virtual"]', s3.addressing),
        ca_file=None if s3.ca_file is None else str(s3.ca_file),
        payload_signing=cast('Literal["auto", "always", "never"]', s3.payload_signing),
        requester_pays=s3.requester_pays,
        expected_bucket_owner=s3.expected_bucket_owner,
        sse=cast('Literal["AES256", "aws:kms", "aws:kms:dsse"] | None', s3.sse),
        kms_key_id=s3.kms_key_id,
        bucket_key=s3.bucket_key,
        storage_class=s3.storage_class,
        storage_class_others=s3.storage_class_others,
        tags=None if s3.tags is None else tuple(s3.tags.items()),
        acl=s3.acl,
        object_lock=None
        if lock is None
        else ObjectLock(cast('Literal["governance", "compliance"]', lock.mode), lock.period_s),
    )


def prover_of(
    config: Config, device: str | None = None, *, run: str | None = None, warm: WarmEngine | None = None
) -> Prover:
    """Return a prover by the configuration; *device* overrides it, *run* says whose checkpoints they are.

    With *warm* it takes a child that waits there, and leaves its own there.
    """
    from mlsync.app.proof_user import runs_as
    from mlsync.proof.prover import Prover  # late, with all parsers of checkpoints

    return Prover(proof_options(config, device, runs_as(config, run)), warm)


def backup_options(config: Config, state_directory: Path, run: str | None = None) -> BackupOptions:
    """Return how backups of a run are done by the configuration."""
    proof = config.proof
    return BackupOptions(
        required_level=REQUIRED_LEVEL if proof.require is None else proof.require,
        wait_for_proof=proof.waits,
        read_back=cast('Literal["new", "all", "none"]', proof.read_back),
        uploads=state_directory / UPLOADS_DIRECTORY,
        loading=loading_options(config, state_directory, run=run),
        policy=policy_of(config),
        reuse_cold=config.s3.reuse_cold,
        differences=differences_of(config, state_directory, run),
    )


def differences_of(config: Config, state_directory: Path, run: str | None) -> Differences | None:
    """Return how tensors of a run may be stored as differences by the configuration, ``None`` if not at all."""
    wanted = config.backup.differences
    keep = config.retention.keep if run is None else config.retention_of(run).keep
    # What is kept of each week would keep its bases too, which nothing else needs by then.
    if wanted == "off" or (wanted == "auto" and thins_out(keep)):
        return None
    return Differences(state_directory / BASES_DIRECTORY, config.backup.base_cache_bytes, insists=wanted == "on")


def loading_options(
    config: Config, state_directory: Path, device: str | None = None, *, run: str | None = None
) -> LoadingOptions | None:
    """Return how checkpoints are loaded by a framework by the configuration, if they are; the rest as above."""
    if not config.proof.loads:
        return None
    from mlsync.app.proof_user import runs_as
    from mlsync.proving.load import LoadingOptions  # late, as above

    return LoadingOptions(framework_of(config, device, runs_as(config, run)), state_directory / LOADING_DIRECTORY)


def clear_leftovers(state_directory: Path) -> None:
    """Remove the checkpoints that a killed process was loading."""
    directory = state_directory / LOADING_DIRECTORY
    if directory.is_dir():
        from mlsync.proving import load  # late, as above

        load.clear_leftovers(directory)


def proof_options(config: Config, device: str | None, runs: RunsAs | None = None) -> ProofOptions:
    """Return how checkpoints are proved by the configuration."""
    from mlsync.app.proof_user import OWN
    from mlsync.proof.options import ProofOptions  # late, as above

    runs = runs or OWN

    proof = config.proof
    return ProofOptions(
        device=device or proof.device,
        python=None if proof.python is None else str(proof.python),
        user=runs.user,
        may_be_root=runs.may_be_root,
        as_root=runs.as_root,
        timeout_s=proof.timeout_s,
        memory_bytes=proof.memory_bytes,
        refuse=cast("frozenset[NumberFault]", frozenset(config.proof.refuse)),
        warn=cast("frozenset[NumberFault]", frozenset(proof.warn)),
    )


def framework_of(config: Config, device: str | None, runs: RunsAs | None = None) -> Framework:
    """Return how a framework loads checkpoints by the configuration."""
    from mlsync.app.proof_user import OWN
    from mlsync.proof import framework  # late, as above

    runs = runs or OWN

    proof, device = config.proof, device or config.proof.device
    python = sys.executable if proof.python is None else str(proof.python)
    kinds, only_of, takes_files = framework.SEVERAL_FILES, None, True
    if proof.framework == "ultralytics":
        name, command = "ultralytics", framework.ultralytics_command(python, device)
        kinds, only_of = frozenset(), "ultralytics"
    elif proof.framework == "transformers":
        name, command = "transformers", framework.transformers_command(python, device)
        kinds, takes_files = framework.HUGGING_FACE | {framework.DESCRIBED}, False
    elif proof.model is not None:
        name, command = f"state_dict {proof.model}", framework.state_dict_command(python, device, proof.model)
        kinds = framework.HUGGING_FACE | {"dcp"}
    else:
        name, command = " ".join(proof.command), proof.command
    return framework.Framework(
        name=name,
        command=command,
        patterns=proof.command_for,
        framework=only_of,
        kinds=kinds,
        takes_files=takes_files,
        environment=environment_of(proof.command_environment, os.environ),
        device=device,
        timeout_s=proof.command_timeout_s,
        user=runs.user,
        # Code in a user's checkpoint would get root's rights, and that user could make running as himself fail.
        may_be_root=runs.may_be_root and runs.is_roots,
        as_root=runs.as_root,
    )


def policy_of(config: Config) -> Policy:
    """Return the policy of the configuration by which checkpoints are refused."""
    numbers = " ".join(sorted(config.proof.refuse))
    if not config.proof.loads:
        return Policy(numbers)
    import hashlib  # late: OpenSSL's, and few configurations load checkpoints

    given = hashlib.sha256("\0".join(config.proof.command_environment).encode("utf-8", "surrogateescape")).hexdigest()
    return Policy(numbers, f"{framework_of(config, None).fingerprint()} {given[:16]}")


def environment_of(wanted: tuple[str, ...], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a list of names, which are taken from *environ*, and of assignments."""
    given = {name: value for name, is_set, value in (item.partition("=") for item in wanted) if is_set}
    return {name: environ[name] for name in wanted if name in environ} | given
