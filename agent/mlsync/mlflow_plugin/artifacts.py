"""The artifact repository of ``mlsync://`` sources: MLflow's client lists and downloads what is in a version."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress

from mlflow.entities import FileInfo
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository

from mlsync.errors import Error
from mlsync.mlflow_plugin.description import MLMODEL
from mlsync.mlflow_plugin.source_files import Listed, SourceFiles

_READ_ONLY = "versions are made by mlsync backup and the agent, and never changed"


class MlsyncArtifactRepository(ArtifactRepository):
    """Reads what a source names; each file comes from the repository as a restore does: decrypted and checked.

    Where a model has no ``MLmodel`` of its own there is one that has ``mlflow.pyfunc`` load it by ``weights.py``.
    """

    def __init__(self, artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None) -> None:
        super().__init__(artifact_uri, tracking_uri, registry_uri)
        self._files = SourceFiles(artifact_uri)

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """Return what is at a path below the source, or the source's file itself."""
        try:
            found = self._files.listed(path or "")
            if not path and not any(one.path == MLMODEL for one in found):
                size_bytes = len(self._files.mlmodel())
                found = [*found, Listed(MLMODEL, is_directory=False, size_bytes=size_bytes)]
        except Error as error:
            raise _as_mlflows(error) from error
        # A file lists nothing below itself: so MLflow's client tells it from a directory.
        return [FileInfo(one.path, one.is_directory, one.size_bytes) for one in sorted(found, key=lambda one: one.path)]

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        directory, name = os.path.split(os.path.abspath(local_path))
        descriptor, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=directory)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                self._files.write(remote_file_path, stream)
            # As a file that the user's umask would give; mkstemp makes it for its owner alone.
            mask = os.umask(0o077)  # meanwhile other threads make files as well
            os.umask(mask)
            os.chmod(temporary, 0o666 & ~mask)
            os.replace(temporary, local_path)
        except BaseException as error:
            with suppress(OSError):
                os.unlink(temporary)
            if isinstance(error, Error):
                raise _as_mlflows(error) from error
            raise

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        """Refuse: nothing is written this way."""
        del local_file, artifact_path
        raise MlflowException(_READ_ONLY)

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        """Refuse: nothing is written this way."""
        del local_dir, artifact_path
        raise MlflowException(_READ_ONLY)


def _as_mlflows(error: Error) -> MlflowException:
    """Return an error of ours as MlflowException, which callers of MLflow expect, with what to do."""
    error.advice = error.advice or error.usual_advice
    return MlflowException(f"mlsync: {error}")
