"""What a user is notified of when a version is committed."""

from __future__ import annotations

from collections.abc import Sequence

from mlsync.backup.checkpoints.not_understood import new_kinds, not_understood
from mlsync.backup.parents.ownership import Claim, Writer
from mlsync.backup.parents.parent import Parent
from mlsync.backup.parents.twin import find_twin
from mlsync.backup.request import Job
from mlsync.errors import Error
from mlsync.repository.manifest import Manifest
from mlsync.source.paths import display
from mlsync.source.scan import LeftOut


def warn_of_writer(job: Job, manifest: Manifest, parent: Parent, writer: Writer) -> None:
    """Say if the run goes on from another place; warn if nobody asked for it, or if another run has its files."""
    if writer.claim is Claim.FIRST:
        twin = find_twin(job.repository, manifest.entries, manifest.root.summary)
        if twin is not None:
            text = f"this new run holds the same files as version {twin.number} of run {twin.run!r}"
            text += f", from {display(twin.directory)} on {twin.host}; if it is that run, set run = "
            job.warn(f'{text}"{twin.run}" under [[watch]]')
    elif (parent.host, parent.directory) != (writer.host, writer.directory):
        text = f"goes on from {display(writer.directory)} on {writer.host}"
        if parent.is_closed:
            text += f" after version {parent.number}, whoever made that: {writer.claim.value}"
        else:
            before = f"{display(parent.directory)} on {parent.host}"
            text += f", where until version {parent.number} it was {before}: {writer.claim.value}"
        if writer.claim is Claim.HANDED_OVER:
            # Somebody asked for it on this machine.
            job.monitor.notice("status", f"{job.source.run}: {text}")
        else:
            job.warn(text)


def warn_of_clamped(job: Job, paths: Sequence[bytes]) -> None:
    """Warn of files that a restore gives another time: some file systems have times far beyond those of any other."""
    if paths:
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        what = f"{display(paths[0])}{more}: modified outside of the years 1677 to 2262"
        job.warn(f"{what}, which a version cannot hold; the nearest that it can is kept")


def warn_of_unkept(job: Job, unkept: LeftOut) -> tuple[str, ...]:
    """Warn of extended attributes that a version has no room for; return the note for it."""
    if not unkept.count:
        return ()
    more = f" and {unkept.count - 1} more" if unkept.count > 1 else ""
    text = (
        f"extended attributes of {display(unkept.paths[0])}{more} are not kept: too large, or of a name that is no text"
    )
    job.warn(text)
    return (text,)


def warn_of_no_copy(job: Job, number: int, error: Error | None) -> None:
    """Say that a version was made whose manifest has no second copy."""
    if error is not None:
        what = f"version {number} is made, but the second copy of its manifest is not stored"
        job.warn(f"{what}: {error}; mlsync repair makes it")


def warn_of_not_understood(job: Job, manifest: Manifest) -> tuple[bytes, ...]:
    """Return the files that look like models of an unknown kind; warn of each kind once in the life of a run."""
    found = not_understood(manifest.entries, job.source.not_models)
    text = new_kinds(found, job.state, job.source.run, job.options.now_ns())
    if text is not None:
        job.warn(text)
    return tuple(found)
