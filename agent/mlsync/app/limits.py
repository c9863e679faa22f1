"""Hold this process to the limits of a configuration."""

from __future__ import annotations

from typing import Final

from mlsync.config.model import Config
from mlsync.courtesy.limit import DOWNLOAD, UPLOAD

# In the state directory, shared by all processes that use it.
_UPLOADS: Final = "upload-limit"
_DOWNLOADS: Final = "download-limit"


def keep_limits(config: Config) -> None:
    """Send and fetch no faster than *config* allows, together with all processes of its state directory."""
    UPLOAD.set(config.limits.upload, config.state_directory / _UPLOADS)
    DOWNLOAD.set(config.limits.download, config.state_directory / _DOWNLOADS)
