"""How a source file is structured: found out before it is read, so that it is cut at its tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mlsync.errors import SourceError, SourceUnreadable
from mlsync.formats.containers import read_layout, storages_of
from mlsync.formats.dcp.container import read_dcp_structure, read_items
from mlsync.formats.dcp.metadata import rank_metadata_of
from mlsync.formats.faults import NotChecked
from mlsync.formats.layout import ContainerBroken, Layout, Storage
from mlsync.formats.libraries.tensorflow_bundle import INDEX_BYTES_MAX, index_of, parse_index, read_shard, shard_of
from mlsync.formats.pickles.machine import PICKLE_BYTES_MAX
from mlsync.formats.sniff import identify, is_lost_kind
from mlsync.repository.encoding.tokens import TroubleKind
from mlsync.source.reading import SourceFile
from mlsync.source.scan import FileStat, Found

_DCP_METADATA: Final = b".metadata"
_TEXT_CHARS_MAX: Final = 300


class Unsound(Exception):
    """A checkpoint that holds still and is not complete: it is cut short, or damaged at rest."""

    def __init__(self, kind: TroubleKind, text: str, stat: FileStat, checked_ns: int) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text
        self.stat = stat
        self.checked_ns = checked_ns


@dataclass(frozen=True, slots=True)
class Structure:
    """Whether a file is a checkpoint, where its records lie, and which of them are numbers, as far as is known."""

    is_checkpoint: bool
    layout: Layout | None = None
    storages: tuple[Storage, ...] = ()


def structure_of(file: SourceFile, found: Found, was: str | None = None) -> Structure:
    """Return how *file* is structured; raise ``Unsound`` for a checkpoint whose container is not sound.

    *was* is the container that the last version has at the path, empty if it is unknown: what was a checkpoint must
    stay one, whatever its name.

    Any other failure of a parser is ``SourceUnreadable``, a fault of this file alone: one hostile file must not keep
    all others out of the version.
    """
    try:
        return _structure_of(file, found, was)
    except (Unsound, SourceError):
        raise
    except (MemoryError, RecursionError) as error:
        raise SourceUnreadable("memory ran out while its structure was read", where=file.where) from error
    except Exception as error:
        what = f"its structure could not be read, which is a fault of mlsync: {type(error).__name__}: {error}"
        raise SourceUnreadable(what[:_TEXT_CHARS_MAX], where=file.where, advice="please report it") from error


def _structure_of(file: SourceFile, found: Found, was: str | None) -> Structure:
    container = identify(file, found.path)
    if was is not None and is_lost_kind(was, container):
        raise _no_longer(file, was)
    if container is None:
        return Structure(is_checkpoint=False)
    if container == "dcp":
        return _distributed(file, found)
    if container == "tensorflow-shard":
        return _by_index(file, found)
    try:
        layout = read_layout(file, container)
    except NotChecked:
        # Beyond the limits of the parsers, which says nothing against the file.
        return Structure(is_checkpoint=True)
    except ContainerBroken as error:
        # Only a file that holds still is judged; one that is being written is read again.
        file.confirm()
        raise Unsound(TroubleKind.TORN, str(error), file.stat, file.opened_ns) from error
    return Structure(is_checkpoint=True, layout=layout, storages=storages_of(file, layout))


def _no_longer(file: SourceFile, was: str) -> Unsound:
    """Return the error for a file that was a checkpoint in the last version and, at rest, does not look like one."""
    file.confirm()
    what = f"was a checkpoint ({was}) in the last version" if was else "was a checkpoint in the last version"
    now = "and is none now; if that is meant, give it another name" if file.size_bytes else "and is empty now"
    return Unsound(TroubleKind.TORN, f"{what}, {now}", file.stat, file.opened_ns)


def _distributed(file: SourceFile, found: Found) -> Structure:
    """Return how a shard of a distributed checkpoint is structured, by the metadata beside it.

    Metadata of another save than the shard do not fit it, which says nothing against either.
    """
    name = found.path.rpartition(b"/")[2]
    metadata = file.read_beside(_DCP_METADATA, limit_bytes=PICKLE_BYTES_MAX)
    own = rank_metadata_of(name)
    if metadata is None and own is not None:
        metadata = file.read_beside(own, limit_bytes=PICKLE_BYTES_MAX)
    if metadata is None:
        return Structure(is_checkpoint=True)
    try:
        items = [item for item in read_items(metadata) if item.relative_path.encode() == name]
        layout, storages = read_dcp_structure(file, items)
    except ContainerBroken:
        return Structure(is_checkpoint=True)
    return Structure(is_checkpoint=True, layout=layout, storages=storages)


def _by_index(file: SourceFile, found: Found) -> Structure:
    """Return how a TensorFlow shard is structured, by the index beside it, which may be of another save."""
    path, place = index_of(found.path), shard_of(found.path)
    index = None if path is None else file.read_beside(path.rpartition(b"/")[2], limit_bytes=INDEX_BYTES_MAX)
    if index is None or place is None:
        return Structure(is_checkpoint=True)
    try:
        layout, content = read_shard(file, parse_index(index), place[0])
    except ContainerBroken:
        return Structure(is_checkpoint=True)
    return Structure(is_checkpoint=True, layout=layout, storages=content.storages)
