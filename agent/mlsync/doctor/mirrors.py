"""Whether the mirrors are elsewhere than the repository, and whether they can be reached and are its copies."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mlsync.app.mirrors import open_mirror
from mlsync.config.model import Config, MirrorSettings
from mlsync.doctor.disks import Host, Life, medium_of
from mlsync.doctor.findings import Diagnosis, Grade
from mlsync.errors import Error, MirrorForeign, RepositoryMissing
from mlsync.store.location import bucket_and_prefix


def mirror_elsewhere(config: Config, host: Host) -> MirrorSettings | None:
    """Return a mirror that outlives this machine, and shares no disk with a repository in a directory."""
    repository = config.repository_directory
    own = frozenset[str]() if repository is None else medium_of(repository, host).devices
    for mirror in config.mirrors:
        if mirror.directory is None:
            return mirror
        medium = medium_of(mirror.directory, host)
        if medium.life is Life.LASTS and not medium.devices & own:
            return mirror
    return None


def diagnose_place(mirror: MirrorSettings, config: Config, host: Host) -> Iterator[Diagnosis]:
    """Yield whether a mirror is lost together with the repository."""
    subject = _subject(mirror)
    if mirror.directory is None:
        shares = config.repository_directory is None and _bucket(mirror.url, mirror.s3.endpoint_url) == _bucket(
            config.repository, config.s3.endpoint_url
        )
        if shares:
            means = "who deletes or empties the bucket, or locks the account out, loses both"
            advice = "name a bucket of another region, account or provider"
            yield Diagnosis(subject, Grade.WARNING, "the mirror is in the repository's bucket", means, advice)
        else:
            yield Diagnosis(subject, Grade.FINE, f"{mirror.url} is another place than the repository")
        return
    medium = medium_of(mirror.directory, host)
    where = f"{mirror.directory} lies on {medium.what}"
    repository = config.repository_directory
    if repository is not None and medium.devices & medium_of(repository, host).devices:
        means = "one failure of that disk loses the repository and its mirror"
        yield Diagnosis(
            subject, Grade.WARNING, "the mirror lies on the repository's disk", means, "name a bucket or another disk"
        )
    elif medium.life is Life.DIES:
        means = "the mirror is lost when the machine goes"
        yield Diagnosis(
            subject, Grade.WARNING, f"{where}, which dies with the machine", means, "name a bucket or another disk"
        )
    else:
        yield Diagnosis(subject, Grade.FINE, f"{where}, another disk than the repository's")


def diagnose_copy(mirror: MirrorSettings, repository_id: Callable[[], bytes]) -> Iterator[Diagnosis]:
    """Yield whether a mirror is there and is a copy of the repository, whose id is asked for first."""
    subject = f"{_subject(mirror)}: its copy"
    own = repository_id()
    try:
        open_mirror(mirror, own).close()
    except MirrorForeign as error:
        means = "nothing is copied there, and nothing is read from it"
        yield Diagnosis(
            subject,
            Grade.GRAVE,
            error.what,
            means,
            "name another url: a mirror begins empty, or was made from this repository",
        )
    except RepositoryMissing as error:
        if mirror.directory is None:
            yield Diagnosis(subject, Grade.FINE, "nothing is there yet; the agent's first copy makes it")
        else:
            means = "nothing is copied there"
            advice = f"mount its disk; the first time: mlsync copy --to {mirror.name} --create"
            yield Diagnosis(subject, Grade.WARNING, error.what, means, advice)
    except Error as error:
        means = "nothing is copied there, and nothing can be read from it, until that is mended"
        yield Diagnosis(subject, Grade.WARNING, str(error), means)
    else:
        yield Diagnosis(subject, Grade.FINE, "it is a copy of this repository")


def _subject(mirror: MirrorSettings) -> str:
    return f"mirror {mirror.name}"


def _bucket(url: str, endpoint_url: str | None) -> tuple[str | None, str]:
    return endpoint_url, bucket_and_prefix(url)[0]
