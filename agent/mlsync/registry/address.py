"""Where an MLflow server is, and with which credentials and certificates it is asked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from mlsync.errors import ConfigInvalid

TRACKING_URI: Final = "MLFLOW_TRACKING_URI"
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_DATABRICKS: Final = re.compile(r"(.+\.)?(cloud|gcp)\.databricks\.com|(.+\.)?azuredatabricks\.(net|cn|us)")
_URL_CHARS_MAX: Final = 500
_EXAMPLE: Final = "https://mlflow.example.org"


@dataclass(frozen=True, slots=True)
class Tracking:
    """A server: its *url* without credentials and without a slash at the end; *user* and *password*, or a *token*.

    *ca_file* signs its certificate, *client_file* is our own; *is_unchecked* takes any certificate.
    """

    url: str
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    ca_file: Path | None = None
    client_file: Path | None = None
    is_unchecked: bool = False

    @property
    def has_credentials(self) -> bool:
        """Whether requests say who asks."""
        return bool(self.user or self.token)

    @property
    def is_open(self) -> bool:
        """Whether others on the network see what is sent, credentials included."""
        place = urlsplit(self.url)
        return place.scheme != "https" and place.hostname not in _LOOPBACK


def checked_url(text: str) -> tuple[str, str, str]:
    """Return a server's URL without credentials, and the user and password that were in it.

    Raises ``ConfigInvalid`` for what is no server's address, which repeats nothing that may be secret.
    """
    word = text.strip()
    scheme = word.partition(":")[0].lower()
    if scheme in ("databricks", "databricks-uc", "uc"):
        raise _databricks()
    if scheme not in ("http", "https"):
        what = "the tracking URI is not the address of an MLflow server"
        advice = (
            f"give one like {_EXAMPLE}; for a local store, start: mlflow server --backend-store-uri sqlite:///mlflow.db"
        )
        raise ConfigInvalid(what, where=None if "@" in word else word[:_URL_CHARS_MAX], advice=advice)
    place = _parts(word)
    if _DATABRICKS.fullmatch(place.hostname or ""):
        raise _databricks()
    host = place.hostname or ""
    shown = f"[{host}]" if ":" in host else host
    port = "" if place.port is None else f":{place.port}"
    url = f"{scheme}://{shown}{port}{place.path.rstrip('/')}"
    return url, unquote(place.username or ""), unquote(place.password or "")


def _parts(word: str) -> SplitResult:
    try:
        place = urlsplit(word)
        is_sound = bool(place.hostname) and place.port != 0
    except ValueError:
        is_sound = False
    if not is_sound or not word.isascii() or not word.isprintable() or " " in word or len(word) > _URL_CHARS_MAX:
        raise ConfigInvalid("the tracking URI is no URL", advice=f"give one like {_EXAMPLE}")
    if place.query or place.fragment:
        raise ConfigInvalid("the tracking URI has a query or a fragment", advice=f"give one like {_EXAMPLE}")
    return place


def _databricks() -> ConfigInvalid:
    what = "Databricks' registry keeps models itself, and takes none that are elsewhere"
    advice = "mlsync export makes a plain copy, which MLflow's client can register there"
    return ConfigInvalid(what, advice=advice)


@dataclass(frozen=True, slots=True)
class Given:
    """What configuration and command line say of a server; the environment has the rest, as MLflow's client reads it.

    Secrets come as text: whoever makes this read them from their files.
    """

    url: str | None = None
    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    ca_file: Path | None = None


def address_of(given: Given, environ: Mapping[str, str]) -> Tracking:
    """Return the server that is named; raise ``ConfigInvalid`` if none is, or not rightly."""
    text = given.url or environ.get(TRACKING_URI, "").strip()
    if not text:
        advice = f'give --tracking-uri URL, tracking_uri = "{_EXAMPLE}" under [mlflow], or {TRACKING_URI}'
        raise ConfigInvalid("no MLflow server is named", advice=advice)
    url, url_user, url_password = checked_url(text)
    if given.url and (url_user or url_password):
        raise ConfigInvalid(
            "the tracking URI holds credentials", advice="put them into password_file or token_file under [mlflow]"
        )
    user, password, token = given.user, given.password, given.token
    if not (user or token):
        user = environ.get("MLFLOW_TRACKING_USERNAME", "") or url_user
        password = environ.get("MLFLOW_TRACKING_PASSWORD", "") or url_password
        # As MLflow's client: user and password count before a token.
        token = "" if user and password else environ.get("MLFLOW_TRACKING_TOKEN", "").strip()
        user = user if password else ""
    for secret in (user, password, token):
        if not secret.isprintable():
            raise ConfigInvalid("the credentials for MLflow have a line break or a control character in them")
    ca_file = given.ca_file or _file(environ, "MLFLOW_TRACKING_SERVER_CERT_PATH")
    is_unchecked = environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1")
    if is_unchecked and ca_file is not None:
        what = "MLFLOW_TRACKING_INSECURE_TLS is set beside a certificate authority for MLflow"
        raise ConfigInvalid(what, advice="unset it: the authority makes it needless")
    client = _file(environ, "MLFLOW_TRACKING_CLIENT_CERT_PATH")
    return Tracking(url, user, password, token, ca_file, client, is_unchecked)


def _file(environ: Mapping[str, str], variable: str) -> Path | None:
    return Path(environ[variable]) if environ.get(variable) else None
