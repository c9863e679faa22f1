"""The registry of models that configuration, command line and environment name, and what versions become there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from mlsync.app.secrets import read_secret_line
from mlsync.config.model import Config, MlflowSettings
from mlsync.errors import ConfigInvalid
from mlsync.monitor import Monitor
from mlsync.registry.address import Given, Tracking, address_of
from mlsync.registry.mlflow import Registry
from mlsync.registry.names import refuse_model

#: Variables with secrets of MLflow, for those that start programs of others.
SECRET_VARIABLES = ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD")


def registry_of(
    settings: MlflowSettings, monitor: Monitor, url: str | None = None, environ: Mapping[str, str] = os.environ
) -> Registry:
    """Return the registry that is named, which nothing was asked yet; raise ``ConfigInvalid`` if none is."""
    from mlsync.registry.rest import Rest  # late: HTTP, for a command that goes on

    address = server_of(settings, url, environ)
    if address.is_open and address.has_credentials:
        monitor.notice("warning", f"the credentials for MLflow go unencrypted over the network to {address.url}")
    if address.is_unchecked:
        monitor.notice("warning", f"the certificate of {address.url} is not checked: MLFLOW_TRACKING_INSECURE_TLS")
    return Registry(Rest(address))


def server_of(settings: MlflowSettings, url: str | None = None, environ: Mapping[str, str] = os.environ) -> Tracking:
    """Return the server that is named, with the secrets from their files; another *url* counts before the settings'."""
    given = Given(
        url or settings.tracking_uri,
        settings.username or "",
        "" if settings.password_file is None else _secret(settings.password_file),
        "" if settings.token_file is None else _secret(settings.token_file),
        settings.ca_file,
    )
    return address_of(given, environ)


def model_of(config: Config, run: str) -> str:
    """Return the model that versions of a run belong to; raise ``ConfigInvalid`` for a run with no name for one."""
    name = config.mlflow.model or run
    refuse_model(name)
    return name


def _secret(file: Path) -> str:
    try:
        return read_secret_line(file).decode()
    except UnicodeDecodeError:
        raise ConfigInvalid("a secret for MLflow is no text", where=str(file)) from None
