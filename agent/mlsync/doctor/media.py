"""What the watched directories, the repository and the local state lie on, and what of it dies with the machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mlsync.config.model import Config
from mlsync.doctor.disks import Host, Life, medium_of
from mlsync.doctor.findings import Diagnosis, Grade
from mlsync.doctor.mirrors import diagnose_place, mirror_elsewhere
from mlsync.source.paths import display

DISK_OF_REPOSITORY = "disk of the repository"
_NOT_KNOWN = "take it for one that dies with the machine, unless your provider says that it stays"


def diagnose_watch(
    directory: Path, run: str, host: Host, repository: Path | None, mirror: str | None = None
) -> Iterator[Diagnosis]:
    """Yield how long the disk of a watched directory lives, and whether the repository shares it without a *mirror*."""
    subject = f"disk of run {run}"
    medium = medium_of(directory, host)
    where = f"{display(bytes(directory))} lies on {medium.what}"
    if medium.life is Life.DIES:
        means = "what is in no version yet is lost when the machine goes, and nothing else is"
        advice = (
            f"let the trainer write to {host.lasting_disks}; or rely on versions: mlsync status shows how old they are"
        )
        yield Diagnosis(subject, Grade.WARNING, f"{where}, which dies with the machine", means, advice)
    elif medium.life is Life.UNKNOWN:
        yield Diagnosis(subject, Grade.WARNING, f"{where}; whether that outlives the machine is not known", _NOT_KNOWN)
    else:
        yield Diagnosis(subject, Grade.FINE, f"{where}, which {medium.life.value}")
    if repository is not None and mirror is None and medium_of(repository, host).devices & medium.devices:
        means = "one failure of that disk loses the training and all of its versions"
        advice = "keep the repository on another disk or in a bucket: mlsync init s3://BUCKET/PREFIX"
        yield Diagnosis(subject, Grade.WARNING, "the repository lies on the same disk", means, advice)


def diagnose_repository(directory: Path, host: Host, mirror: str | None = None) -> Iterator[Diagnosis]:
    """Yield how long the disk of a repository in a directory lives; *mirror* is the name of one that is elsewhere."""
    medium = medium_of(directory, host)
    where = f"{display(bytes(directory))} lies on {medium.what}"
    if medium.life is not Life.LASTS and mirror is not None:
        what = f"{where}; versions outlive that once they are in the mirror {mirror!r}"
        yield Diagnosis(DISK_OF_REPOSITORY, Grade.FINE, what)
    elif medium.life is Life.DIES:
        means = "all versions are lost when the machine goes"
        advice = f"keep the repository in a bucket (mlsync init s3://BUCKET/PREFIX), or on {host.lasting_disks}"
        yield Diagnosis(DISK_OF_REPOSITORY, Grade.GRAVE, f"{where}, which dies with the machine", means, advice)
    elif medium.life is Life.UNKNOWN:
        what = f"{where}; whether that outlives the machine is not known"
        yield Diagnosis(DISK_OF_REPOSITORY, Grade.WARNING, what, _NOT_KNOWN)
    else:
        yield Diagnosis(DISK_OF_REPOSITORY, Grade.FINE, f"{where}, which {medium.life.value}")


def diagnose_state(directory: Path, host: Host) -> Iterator[Diagnosis]:
    """Yield whether the local state is there after a restart."""
    subject = "disk of the local state"
    medium = medium_of(directory, host)
    where = f"{display(bytes(directory))} lies on {medium.what}"
    if medium.life is Life.DIES:
        means = "a new machine or container reads all files again, and may be refused as another writer (status 90)"
        advice = (
            "where only the container is new, mount a directory of the host for the state; else nothing is to be done"
        )
        yield Diagnosis(subject, Grade.WARNING, f"{where}, which dies with the machine", means, advice)
    elif medium.life is Life.UNKNOWN:
        yield Diagnosis(subject, Grade.FINE, f"{where}; whether that outlives the machine is not known")
    else:
        yield Diagnosis(subject, Grade.FINE, f"{where}, which {medium.life.value}")


def diagnose_media(config: Config, host: Host) -> Iterator[Diagnosis]:
    """Yield the diagnoses of everything that the configuration names."""
    repository, elsewhere = config.repository_directory, mirror_elsewhere(config, host)
    mirror = None if elsewhere is None else elsewhere.name
    if repository is not None:
        yield from diagnose_repository(repository, host, mirror)
    for watch in config.watches:
        yield from diagnose_watch(watch.directory, watch.run, host, repository, mirror)
    for one in config.mirrors:
        yield from diagnose_place(one, config, host)
    yield from diagnose_state(config.state_directory, host)
