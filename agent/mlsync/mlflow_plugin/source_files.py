"""The files that a source names, read from the repository; it is opened once, at the first look."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO
from urllib.parse import quote, urlsplit, urlunsplit

from mlsync.app.secrets import find_secret
from mlsync.app.session import Session, repository_id_of
from mlsync.config.load import find_config, load_with, says_repository
from mlsync.config.model import Config
from mlsync.errors import ConfigInvalid, HistoryRolledBack, PathMissing, RepositoryMissing
from mlsync.mlflow_plugin.description import MLMODEL, mlmodel_of
from mlsync.monitor import SilentMonitor
from mlsync.registry.source import ModelSource
from mlsync.repository.encoding.tokens import EntryKind
from mlsync.repository.manifest import Entry
from mlsync.repository.repository import Repository
from mlsync.source.paths import display
from mlsync.versions.decided import decided_of, refuse_gone
from mlsync.versions.proof_status import manifest_of
from mlsync.versions.stored_file import RestoredFile


@dataclass(frozen=True, slots=True)
class Listed:
    """A file or directory, by its path below the source."""

    path: str
    is_directory: bool
    size_bytes: int | None = None


class SourceFiles:
    """What is at and below one source."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._versions: dict[tuple[str, int], Mapping[bytes, Entry]] = {}

    def listed(self, below: str) -> list[Listed]:
        """Return what is directly below a path, nothing for a file; of a source that is a file, that file."""
        whole, entries = self._at("")
        single = self._single(whole, entries)
        if single is not None:
            return [] if below else [Listed(_name(single), is_directory=False, size_bytes=single.size_bytes)]
        source, entries = self._at(below)
        top = source.path + b"/" if source.path else b""
        prefix = f"{below.strip('/')}/" if below.strip("/") else ""
        found = [
            Listed(
                prefix + os.fsdecode(entry.path[len(top) :]),
                entry.kind is EntryKind.DIRECTORY,
                entry.size_bytes if entry.kind is EntryKind.FILE else None,
            )
            for entry in entries.values()
            if entry.path.startswith(top)
            and b"/" not in entry.path[len(top) :]
            and entry.kind in (EntryKind.FILE, EntryKind.DIRECTORY)
        ]
        if not found and not below:
            raise self._missing(source)
        return found

    def entry(self, below: str) -> Entry:
        """Return the file at a path below the source; raise ``PathMissing`` if there is none."""
        whole, entries = self._at("")
        single = self._single(whole, entries)
        if single is not None and below in ("", _name(single)):
            return single
        source, entries = self._at(below)
        found = self._single(source, entries)
        if found is None:
            raise self._missing(source)
        return found

    def write(self, below: str, stream: IO[bytes]) -> None:
        """Write a file, every byte of which was checked once this returns."""
        try:
            entry = self.entry(below)
        except PathMissing:
            if below != MLMODEL:
                raise
            stream.write(self.mlmodel())
            return
        with self._repository().reader() as reader:
            for view in RestoredFile(reader, entry, lambda _bytes: None).stream():
                stream.write(view)

    def mlmodel(self) -> bytes:
        """Return the ``MLmodel`` for a source that has none."""
        source, entries = self._at("")
        single = self._single(source, entries)
        return mlmodel_of(source, None if single is None else _name(single))

    def _single(self, source: ModelSource, entries: Mapping[bytes, Entry]) -> Entry | None:
        found = entries.get(source.path) if source.path else None
        return found if found is not None and found.kind is EntryKind.FILE else None

    def _missing(self, source: ModelSource) -> PathMissing:
        return PathMissing(f"version {source.number} of run {source.run!r} has nothing at {display(source.path)}")

    def _at(self, below: str) -> tuple[ModelSource, Mapping[bytes, Entry]]:
        """Return the source of what is at a path below this one, and the entries of its version."""
        # MLflow's client takes the last part of a URI for a path now and then, even that of a version.
        parts = urlsplit(self.uri)
        path = "/".join(
            [parts.path.rstrip("/"), *(quote(os.fsencode(one), safe="") for one in below.split("/") if one)]
        )
        source = ModelSource.parse(urlunsplit((parts.scheme, parts.netloc, path or "/", parts.query, "")))
        with self._lock:
            key = source.run, source.number
            if key not in self._versions:
                self._versions[key] = self._entries(source)
            return source, self._versions[key]

    def _entries(self, source: ModelSource) -> Mapping[bytes, Entry]:
        repository = self._open(source).repository
        decided = decided_of(repository, source.run)
        refuse_gone(decided, source.number, repository.store.url)
        stored = repository.stored(source.run, source.number)
        if stored.digest.hex() != source.manifest:
            what = f"version {source.number} of run {source.run!r} is another one than was registered"
            raise HistoryRolledBack(what, where=repository.store.url, advice="mlsync check tells more")
        manifest = manifest_of(repository, stored)
        return {entry.path: entry for entry in manifest.entries}

    def _repository(self) -> Repository:
        assert self._session is not None
        return self._session.repository

    def _open(self, source: ModelSource) -> Session:
        if self._session is None:
            config = _configuration(source)
            passphrase = os.environ.get("MLSYNC_PASSPHRASE") or None
            self._session = Session.open(
                config,
                lambda: find_secret(config.key, passphrase=passphrase, profile=config.s3.profile),
                SilentMonitor(),
            )
            weakref.finalize(self, self._session.close)
            if self._session.repository.repository_id.hex() != source.repository_id:
                raise _another(config)
        return self._session


def _configuration(source: ModelSource) -> Config:
    """Return the configuration with which this machine reads the repository that a source is about.

    The machine's own counts if it is about that repository, which may be elsewhere by now. Otherwise the source says
    where it is, and the machine's has the secret and the settings of the store.
    """
    try:
        own = load_with(find_config())
    except ConfigInvalid:
        if os.environ.get("MLSYNC_CONFIG"):
            raise
        own = load_with(None) if says_repository() else load_with(None, repository=source.repository)
    for config in (own, _with_repository(own, source.repository)):
        try:
            if repository_id_of(config, SilentMonitor()).hex() == source.repository_id:
                return config
        except RepositoryMissing:
            continue
    raise _another(own)


def _with_repository(config: Config, url: str) -> Config:
    return load_with(config.path, repository=url)


def _another(config: Config) -> ConfigInvalid:
    what = "the repository that the model is in is not the one that this machine finds"
    advice = "set MLSYNC_REPOSITORY to where it is, or name a configuration in MLSYNC_CONFIG"
    return ConfigInvalid(what, where=config.repository, advice=advice)


def _name(entry: Entry) -> str:
    return os.fsdecode(entry.path.rpartition(b"/")[2])
