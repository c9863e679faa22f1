"""The source of a model version: a URI by which a client finds repository, run, version and path again.

``mlsync:///RUN/NUMBER/PATH?repository=URL&id=HEX&manifest=HEX``: each part of the path is percent-encoded; PATH is left
out for a whole version. The repository's URL is where it was found; *id* is the repository's, so that a client which
knows it by another URL can use that, and *manifest* is the SHA-256 of the version's manifest, which is to be the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import parse_qsl, quote_from_bytes, unquote_to_bytes, urlencode, urlsplit

from mlsync.errors import ConfigInvalid
from mlsync.registry.names import SOURCE_CHARS_MAX

SCHEME: Final = "mlsync"
_HEX: Final = re.compile(r"[0-9a-f]{32}|[0-9a-f]{64}")
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,9}")
_PARTS_MIN: Final = 2


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A version, or what *path* names in it; ids are in hex."""

    run: str
    number: int
    path: bytes
    repository: str
    repository_id: str
    manifest: str

    @property
    def uri(self) -> str:
        """The source; raise ``ConfigInvalid`` if it is longer than MLflow's databases keep, or holds credentials."""
        if "@" in urlsplit(self.repository).netloc:
            raise ConfigInvalid("the repository's URL holds credentials, which everybody could read in MLflow")
        parts = [self.run.encode(), str(self.number).encode(), *(self.path.split(b"/") if self.path else ())]
        query = {"repository": self.repository, "id": self.repository_id, "manifest": self.manifest}
        path = "/".join(quote_from_bytes(part, safe="") for part in parts)
        uri = f"{SCHEME}:///{path}?{urlencode(query)}"
        if len(uri) > SOURCE_CHARS_MAX:
            what = f"the source would have {len(uri)} characters, and MLflow keeps {SOURCE_CHARS_MAX}"
            raise ConfigInvalid(what, where=uri[:80] + "…", advice="take a shorter path")
        return uri

    @classmethod
    def parse(cls, uri: str) -> Self:
        """Return what a source says; raise ``ConfigInvalid`` for one that is not ours, which anybody may have made."""
        place = urlsplit(uri)
        parts = place.path.lstrip("/").split("/")
        query = dict(parse_qsl(place.query))
        is_sound = (
            place.scheme == SCHEME
            and not place.netloc
            and not place.fragment
            and len(parts) >= _PARTS_MIN
            and all(parts)
            and _NUMBER.fullmatch(parts[1]) is not None
            and {"repository", "id", "manifest"} <= query.keys()
            and all(_HEX.fullmatch(query[name]) for name in ("id", "manifest"))
        )
        if not is_sound:
            raise ConfigInvalid("no source that mlsync register makes", where=uri[:SOURCE_CHARS_MAX])
        try:
            run = unquote_to_bytes(parts[0]).decode()
        except UnicodeDecodeError:
            raise ConfigInvalid("no source that mlsync register makes", where=uri[:SOURCE_CHARS_MAX]) from None
        path = b"/".join(map(unquote_to_bytes, parts[2:]))
        return cls(run, int(parts[1]), path, query["repository"], query["id"], query["manifest"])
