"""Which names MLflow takes for models, aliases and tags: refused here, by words of ours, before anything is sent."""

from __future__ import annotations

import re
from typing import Final

from mlsync.errors import ConfigInvalid

MODEL_CHARS_MAX: Final = 250
ALIAS_CHARS_MAX: Final = 250
KEY_CHARS_MAX: Final = 250
#: Databases behind MLflow keep so much of a tag and of a source.
VALUE_CHARS_MAX: Final = 5_000
SOURCE_CHARS_MAX: Final = 500
#: Tags of ours begin with it, and nobody else's may.
OURS: Final = "mlsync."
_ALIAS: Final = re.compile(r"[A-Za-z0-9_-]+")
_KEY: Final = re.compile(r"[A-Za-z0-9_. :/-]+")
_NOT_IN_KEY: Final = re.compile(r"[^A-Za-z0-9_. :/-]")
_LIKE_VERSION: Final = re.compile(r"v\d+", re.IGNORECASE)


def refuse_model(name: str) -> None:
    """Raise ``ConfigInvalid`` for a name that MLflow takes for no model."""
    if "/" in name or ":" in name:
        advice = f"for example {re.sub('[/:]+', '-', name).strip('-') or 'yolo'!r}"
        raise ConfigInvalid(f"MLflow takes no model with a slash or colon in its name: {name!r}", advice=advice)
    if not name.strip() or not name.isprintable() or len(name) > MODEL_CHARS_MAX:
        what = f"no name for a model: {name[:MODEL_CHARS_MAX]!r}"
        raise ConfigInvalid(what, advice=f"give 1 to {MODEL_CHARS_MAX} characters on one line")


def refuse_alias(alias: str) -> None:
    """Raise ``ConfigInvalid`` for an alias that MLflow keeps for itself, or does not take."""
    if alias.lower() == "latest":
        what = f"MLflow keeps the alias {alias!r} for itself: models:/NAME@latest is the newest version there"
        raise ConfigInvalid(what, advice="for example champion, or newest")
    if _LIKE_VERSION.fullmatch(alias):
        what = f"MLflow keeps aliases such as {alias!r} for the numbers of versions"
        raise ConfigInvalid(what, advice=f"for example release-{alias.lower().removeprefix('v')}")
    if not _ALIAS.fullmatch(alias) or len(alias) > ALIAS_CHARS_MAX:
        advice = "give letters, digits, '-' and '_', such as champion"
        raise ConfigInvalid(f"MLflow takes no alias {alias[:ALIAS_CHARS_MAX]!r}", advice=advice)


def tag(text: str) -> tuple[str, str]:
    """Return key and value of ``KEY=VALUE``; raise ``ConfigInvalid`` for a key that is ours, or that MLflow refuses."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigInvalid(f"a tag without a value: {text!r}", advice="write --tag KEY=VALUE")
    if not _KEY.fullmatch(key) or len(key) > KEY_CHARS_MAX:
        what = f"MLflow takes no tag with the key {key[:KEY_CHARS_MAX]!r}"
        raise ConfigInvalid(what, advice="give letters, digits, spaces, and _ - . : /, at most 250 together")
    if key.lower().startswith(("mlsync.", "mlflow.")):
        raise ConfigInvalid(
            f"tags that begin with {key[:7]} have meanings of their own: {key!r}", advice="take another"
        )
    if len(value) > VALUE_CHARS_MAX:
        raise ConfigInvalid(f"the value of the tag {key!r} has more than {VALUE_CHARS_MAX:,} characters")
    return key, value


def as_key(text: str) -> str:
    """Return a key of ours for what trainers call a number: what MLflow does not take there becomes ``_``."""
    return _NOT_IN_KEY.sub("_", text)[:KEY_CHARS_MAX]
