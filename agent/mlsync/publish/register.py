"""Register a version in MLflow: a model's version whose source is in the repository, with what is known of it.

Nothing is uploaded. The version is held in the repository before an alias points to it, and an alias moves only once
the registry says that the version is ready. To register the same again finds what is there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from mlsync.errors import NotProvedYet, VersionMissing
from mlsync.monitor import Monitor
from mlsync.publish.chosen import WHOLE, Chosen, choose, refuse_unproved
from mlsync.publish.registrations import hold, refuse_full
from mlsync.registry.mlflow import ModelVersion, Registry
from mlsync.registry.names import OURS, VALUE_CHARS_MAX, as_key
from mlsync.registry.source import ModelSource
from mlsync.repository.evaluation import newest_numbers
from mlsync.repository.history.decisions import By
from mlsync.repository.manifest import Entry, Manifest
from mlsync.repository.repository import Repository, StoredVersion
from mlsync.source.paths import display
from mlsync.values import COUNT_MAX
from mlsync.versions.decided import decided_of
from mlsync.versions.logs.metrics import logged_metrics
from mlsync.versions.measured import FITNESS, measured
from mlsync.versions.proof_status import manifest_of, summed
from mlsync.versions.run_proofs import RunProofs, proofs_of
from mlsync.versions.stored_file import RestoredFile

_MANIFEST: Final = OURS + "manifest"
_SHA256: Final = OURS + "sha256"
# A server with a thousand numbers of a log as tags is of no use to a person.
_NUMBERS_MAX: Final = 40


@dataclass(frozen=True, slots=True)
class RegisterOptions:
    """As which *model*, under which *aliases*, which *path* of the version (else its one checkpoint), more *tags*.

    *repository* is the URL by which clients find the repository, unless they know another one.
    """

    model: str
    repository: str
    aliases: tuple[str, ...] = ()
    path: bytes | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    allow_unproved: bool = False
    accept_hidden: bool = False
    stop: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class RegisterResult:
    """What was registered as what; *is_new* unless the registry had it before."""

    run: str
    version: int
    path: bytes
    place: str
    model: str
    number: int
    is_new: bool
    source: str
    aliases: tuple[str, ...]
    sha256: str | None

    @property
    def uri(self) -> str:
        """What clients of MLflow call it."""
        return f"models:/{self.model}/{self.number}"


def newest_proved(repository: Repository, run: str) -> StoredVersion:
    """Return the newest version of a run that has a checkpoint, all of them proved; raise ``VersionMissing``."""
    proofs = RunProofs(repository, run)
    for stored in proofs.trusted(reversed(proofs.numbers)):
        found = [entry.proof for entry in proofs.entries(stored) if entry.proof is not None]
        if found and not any(one.is_broken or one.is_pending(stored.root.required_level) for one in found):
            return stored
    what = f"no version of run {run!r} has a checkpoint and is proved{proofs.passed_over()}"
    raise VersionMissing(what, where=repository.store.url, advice="mlsync versions lists how far each is proved")


def best_unless_registered(
    repository: Repository, run: str, where: tuple[str, str], path: bytes | None, best_by: str | None = None
) -> int | None:
    """Return the version with the best checkpoint of a run; ``None`` if it is in that place and model already.

    So is one whose files at *path* are those that were registered there last: a best checkpoint is in each version
    until there is a better one. *best_by* is a number that is compared, as ``NAME max``. Raises ``VersionMissing`` if
    nothing tells which is the best. This reads each version once.
    """
    from mlsync.versions.best import best_number  # late: its parsers are needed for this alone
    from mlsync.versions.evaluated import best_number_by

    number = best_number(repository, run) if best_by is None else best_number_by(repository, run, best_by)
    items = [one for found in decided_of(repository, run).registered.values() for one in found]
    there = [one for one in items if (one.place, one.model) == where]
    if any(one.version == number for one in there):
        return None
    last = max(there, key=lambda one: one.made_ns, default=None)
    if last is None:
        return number
    was = _content(repository, run, last.version, last.path or WHOLE)
    return None if _content(repository, run, number, path) == was else number


def _content(repository: Repository, run: str, number: int, path: bytes | None) -> set[tuple[bytes, bytes, int]]:
    files = choose(repository.manifest(repository.stored(run, number)), path).files
    return {(entry.path, entry.digest, entry.size_bytes) for entry in files}


def register(
    repository: Repository, registry: Registry, stored: StoredVersion, options: RegisterOptions, monitor: Monitor
) -> RegisterResult:
    """Return once a version is registered, held and its aliases point to it.

    Raises ``NotProvedYet`` or ``CheckpointBroken`` for what nobody should be given, a ``RegistryError``, and what
    ``decide`` raises. Whatever it raises, the next call goes on where this one ended.
    """
    proofs, hidden = proofs_of(repository, stored)
    if hidden is not None:
        raise NotProvedYet(f"later proofs of version {stored.root.number} are missing: {hidden}")
    manifest = manifest_of(repository, stored, proofs.proofs)
    chosen = choose(manifest, options.path)
    refuse_unproved(manifest, chosen, allow_unproved=options.allow_unproved)
    source = _source(repository, stored, chosen, options).uri
    tags = {**_tags(repository, stored, manifest, chosen), **options.tags}
    found = registry.find(options.model, source, _MANIFEST, stored.digest)
    if found is None:
        refuse_full(repository, stored, (registry.place, options.model, COUNT_MAX, chosen.path))
        if chosen.single is not None:
            tags[_SHA256] = sha256_of(repository, chosen.single, monitor, options.stop)
        registry.make_model(options.model)
        made = registry.create(options.model, source, tags)
    else:
        made = found
    made = registry.await_ready(made)
    for key in sorted(key for key, value in tags.items() if made.tags.get(key) != value):
        registry.tag(made, key, tags[key])
    # Before an alias: what people are pointed to must be there for as long as they are.
    at = (registry.place, made.model, made.number, chosen.path)
    hold(repository, stored, at, By.here(), accept_hidden=options.accept_hidden)
    for alias in options.aliases:
        registry.alias(made, alias)
    return _result(stored, chosen, registry, made, options, tags, is_new=found is None)


def sha256_of(repository: Repository, entry: Entry, monitor: Monitor, stop: Callable[[], None]) -> str:
    """Return the SHA-256 of a file of a version, in hex, read back from the store."""
    digest = hashlib.sha256()
    label = f"{display(entry.path)}: reading back"
    with repository.reader() as reader, monitor.task(label, entry.size_bytes) as task:
        for view in RestoredFile(reader, entry, task.advance).stream():
            stop()
            digest.update(view)
    return digest.hexdigest()


def _source(repository: Repository, stored: StoredVersion, chosen: Chosen, options: RegisterOptions) -> ModelSource:
    return ModelSource(
        stored.root.run,
        stored.root.number,
        chosen.path,
        options.repository,
        repository.repository_id.hex(),
        stored.digest.hex(),
    )


def _tags(repository: Repository, stored: StoredVersion, manifest: Manifest, chosen: Chosen) -> dict[str, str]:
    """Return what is known of a version, as tags."""
    level, device, _ = summed(chosen.files)
    proved = [entry.proof for entry in chosen.files if entry.proof is not None]
    tags = {
        "run": stored.root.run,
        "version": str(stored.root.number),
        "path": display(chosen.path),
        "size_bytes": str(sum(entry.size_bytes for entry in chosen.files)),
    }
    if proved:
        tags |= {"proof": f"L{level}", "device": device, "container": proved[0].container}
    evaluated = newest_numbers(repository.evaluations(stored))
    known = measured(repository, manifest.entries, (FITNESS,), evaluated)
    numbers = {"epoch": known.epoch, "step": known.step}
    tags |= {name: f"{value:g}" for name, value in numbers.items() if value is not None}
    # What was measured on purpose comes first, then what the trainer logged, then what its checkpoints hold.
    metrics = dict(evaluated)
    for name, value in logged_metrics(repository, manifest.entries).items():
        metrics.setdefault(name, value)
    for name in sorted(known.numbers.keys() - numbers):
        metrics.setdefault(name, max(known.numbers[name]))
    tags |= {f"metric.{name}": f"{metrics[name]:g}" for name in list(metrics)[:_NUMBERS_MAX]}
    ours = {as_key(OURS + name): value[:VALUE_CHARS_MAX] for name, value in tags.items() if value}
    return {**ours, _MANIFEST: stored.digest.hex()}


def _result(
    stored: StoredVersion,
    chosen: Chosen,
    registry: Registry,
    made: ModelVersion,
    options: RegisterOptions,
    tags: Mapping[str, str],
    *,
    is_new: bool,
) -> RegisterResult:
    return RegisterResult(
        stored.root.run,
        stored.root.number,
        chosen.path,
        registry.place,
        made.model,
        made.number,
        is_new,
        made.source,
        options.aliases,
        tags.get(_SHA256) or made.tags.get(_SHA256),
    )
