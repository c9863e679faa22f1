"""The archiver: reads each file of the source once, while it holds still, and hands its pieces to the writer."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from mlsync import xattrs
from mlsync.backup.bases.choice import NO_BASES, Bases, FileBases, Offer, Tried, rounds_after
from mlsync.backup.checkpoints.structure import Structure, Unsound, structure_of
from mlsync.backup.files_cache import CachedPath
from mlsync.backup.request import StoredDifferences
from mlsync.buffers import BufferPool
from mlsync.codec.digest import FileDigester, file_digest_kind
from mlsync.errors import ChangedWhileReading, SourceError
from mlsync.repository.encoding.room import Room, room_of
from mlsync.repository.encoding.tokens import EntryKind, TroubleKind
from mlsync.repository.manifest import ChunkRef, Entry
from mlsync.repository.pack.base import Base
from mlsync.repository.writer import BATCH_BYTES, PackWriter, PlacedChunk
from mlsync.source.cached_file import CachedPiece
from mlsync.source.chunker import PIECE_BYTES_MAX, Digester, Earlier, Piece, read_pieces
from mlsync.source.paths import display
from mlsync.source.prefix import prefix_unchanged
from mlsync.source.reading import SourceFile
from mlsync.source.root import VANISHED, Root
from mlsync.source.scan import FileStat, Found, LeftOut

_LOG: Final = logging.getLogger(__name__)
# A batch for each of the writer's coders, one that is being filled, and two buffers that are being read into.
BUFFERS_PER_BATCH: Final = BATCH_BYTES // PIECE_BYTES_MAX
BUFFERS_READ_INTO: Final = 2
# A piece keeps its whole buffer busy. Short ones are copied out, or many small files would wait for each other.
COPY_BYTES_MAX: Final = 16 << 10
# A trainer writes a checkpoint in seconds; one that takes longer is left to the next backup.
ATTEMPT_WAITS_S: Final = (0.2, 0.8)


#: The chunks that a file had when it was read last, by length and digest of the piece.
KnownPieces = Mapping[tuple[int, bytes], ChunkRef]


class TakenFile(msgspec.Struct, gc=False):
    """What the files cache keeps of a ``ReadFile`` whose entry was taken: it takes a third of the memory."""

    stat: FileStat
    checked_ns: int
    pieces: Sequence[CachedPiece] | bytes

    @property
    def is_checkpoint(self) -> bool:
        """Of a checkpoint all is kept."""
        return False

    def for_cache(self) -> Sequence[CachedPiece] | bytes:
        """Return the pieces as the files cache keeps them."""
        return self.pieces


class ReadFile(msgspec.Struct, gc=False):
    """A file that was read; its chunks have their place once the writer has finished.

    While it is being read, another thread may look at it: no more pieces come once it *is_over*.
    Its *pieces* may be there as the files cache packs them instead.
    """

    found: Found
    stat: FileStat
    checked_ns: int
    is_checkpoint: bool
    size_bytes: int = 0
    digest: bytes = b""
    holes: tuple[tuple[int, int], ...] = ()
    placed: list[PlacedChunk] = msgspec.field(default_factory=list)
    pieces: list[CachedPiece] = msgspec.field(default_factory=list)
    packed_pieces: bytes = b""
    tried: list[Tried] = msgspec.field(default_factory=list)
    room: Room = None
    is_over: bool = False

    def take_entry(self) -> tuple[Entry, ReadFile | TakenFile]:
        """Return the file's entry and what else is needed of it; call this after the writer's ``finish``."""
        return self._entry(), self if self.is_checkpoint else TakenFile(self.stat, self.checked_ns, self.for_cache())

    def _entry(self) -> Entry:
        return Entry(
            path=self.found.path,
            kind=EntryKind.FILE,
            mode=self.stat.mode & 0o7777,
            uid=self.stat.uid,
            gid=self.stat.gid,
            mtime_ns=self.stat.mtime_ns,
            size_bytes=self.size_bytes,
            digest=self.digest,
            holes=self.holes,
            chunks=tuple([one.ref for one in self.placed]),
            room=self.room,
        )

    def for_cache(self) -> Sequence[CachedPiece] | bytes:
        """Return the pieces with what became of each tensor; valid as the entry is."""
        if not self.tried:  # small files, which have no tensors
            return self.packed_pieces or self.pieces
        results = zip(self.pieces, self.tried, self.placed, strict=True)
        return [piece._replace(rounds=rounds_after(tried, placed.ref)) for piece, tried, placed in results]


class Archiver:
    """Reads files for one backup; counts the bytes, and notes files with attributes that no version keeps.

    *container_of* says which container the last version has at a path, if it has a checkpoint there. *expect_proof* is
    called with each piece of a checkpoint that has not been there at the last version. *bases* are what tensors are
    stored as differences to.
    """

    def __init__(
        self,
        root: Root,
        seed: int,
        writer: PackWriter,
        bases: Bases,
        *,
        may_use: Callable[[ChunkRef], bool],
        container_of: Callable[[bytes], str | None],
        expect_proof: Callable[[ReadFile], None],
        advance: Callable[[int], None],
        sleep: Callable[[float], None],
    ) -> None:
        self.read_bytes = 0
        self.unkept = LeftOut()
        self._root = root
        self._seed = seed
        self._writer = writer
        self._bases = bases
        self._may_use = may_use
        self._container_of = container_of
        self._expect_proof = expect_proof
        self._advance = advance
        self._sleep = sleep
        self._pool: BufferPool | None = None

    def close(self) -> None:
        """Free the buffers; the writer has finished, or was aborted, by then."""
        if self._pool is not None:
            self._pool.close()

    def read(self, found: Found, cached: CachedPath | None) -> ReadFile | None:
        """Read a file, of which the files cache knows *cached*; return ``None`` if it is gone by now.

        Raises ``ChangedWhileReading`` if the file did not hold still, ``Unsound`` if it did and is no complete
        checkpoint, ``SourceUnreadable`` if the source returns an error.
        """
        for wait_s in (*ATTEMPT_WAITS_S, None):
            try:
                return self._read_once(found, cached)
            except ChangedWhileReading:
                again = _look_again(self._root, found)
                if again is None:
                    return None
                if wait_s is None:
                    raise
                found = again
                _LOG.debug("%s changed; reading it again in %.1f s", display(found.path), wait_s)
                self._sleep(wait_s)
        raise AssertionError

    def room_of_directory(self, found: Found, cached: CachedPath | None) -> Room:
        """Return what an entry keeps of a directory beside its stat; only one that changed is opened for it.

        One that is gone, or that may not be read, has none: the scan says the rest.
        """
        before = None if cached is None else cached.entry
        if (
            before is not None
            and before.kind is EntryKind.DIRECTORY
            and cached is not None
            and cached.file.is_same(found)
        ):
            return before.room
        try:
            descriptor = self._root.open_directory(found.path)
        except OSError:
            return None
        try:
            attributes, is_cut = xattrs.read(descriptor)
        except OSError:
            return None
        finally:
            os.close(descriptor)
        if is_cut:
            self.unkept.add(found.path)
        return room_of({xattrs.ROOM_NAME: attributes or None})

    def _read_once(self, found: Found, cached: CachedPath | None) -> ReadFile:
        _LOG.debug("reading %s, %d bytes", display(found.path), found.stat.size_bytes)
        with SourceFile.open(self._root, found) as file:
            attributes, is_cut = file.attributes()
            if is_cut:
                self.unkept.add(found.path)
            structure = structure_of(file, found, self._container_of(found.path))
            read = ReadFile(found, file.stat, file.opened_ns, structure.is_checkpoint, file.size_bytes)
            read.room = room_of({xattrs.ROOM_NAME: attributes or None})
            known = known_pieces(cached)
            bases = self._bases.of(found.path, file.size_bytes) if structure.storages else NO_BASES
            extents = file.data_extents()
            read.holes = _holes(extents, file.size_bytes)
            whole = _digester(read)
            try:
                for piece in self._pieces(file, structure, _earlier_cuts(cached, file.size_bytes), extents, whole):
                    self._hand_on(piece, read, known, bases)
            except ChangedWhileReading as error:
                # If the file did hold still, what does not fit is damage at rest, and reading it again will not help.
                file.confirm()
                raise Unsound(TroubleKind.BROKEN, error.what, file.stat, file.opened_ns) from error
            else:
                read.digest = whole.digest()
            finally:
                read.is_over = True
            self._confirm(file, read, extents)
            return read

    def _pieces(
        self,
        file: SourceFile,
        structure: Structure,
        earlier: Earlier,
        extents: list[tuple[int, int]],
        whole: Digester,
    ) -> Iterator[Piece]:
        layout, storages = structure.layout, structure.storages
        return read_pieces(file, layout, extents, self._buffers(), self._seed, whole, storages, earlier)

    def _confirm(self, file: SourceFile, read: ReadFile, extents: list[tuple[int, int]]) -> None:
        try:
            file.confirm()
        except ChangedWhileReading:
            # A log that grew is good for the part that was there; a checkpoint must have held still as a whole.
            if read.is_checkpoint or not prefix_unchanged(file, read.size_bytes, read.digest, _digester(read), extents):
                raise

    def _hand_on(self, piece: Piece, read: ReadFile, known: KnownPieces, bases: FileBases) -> None:
        read.pieces.append(CachedPiece(piece.offset, piece.length, piece.digest, piece.tensor))
        self.read_bytes += piece.length
        self._advance(piece.length)
        ref = known.get((piece.length, piece.digest))
        if ref is not None and self._may_use(ref):
            read.placed.append(PlacedChunk(own_ref=ref))
            read.tried.append(bases.untried(piece))
            piece.release()
            return
        if read.is_checkpoint:
            self._expect_proof(read)
        if piece.length <= COPY_BYTES_MAX:
            content = memoryview(bytes(piece.view))
            piece.release()
            read.placed.append(self._writer.put(content, item_bytes=piece.item_bytes))
            read.tried.append(0)
            return
        tried = bases.tried(piece)
        base = Base(tried.ref, tried.read) if isinstance(tried, Offer) else None
        keep = bases.keeping(piece, tried)
        read.placed.append(self._writer.put(piece.view, piece.release, piece.item_bytes, base, keep))
        read.tried.append(tried)

    def _buffers(self) -> BufferPool:
        if self._pool is None:
            count = (self._writer.coder_count + 1) * BUFFERS_PER_BATCH + BUFFERS_READ_INTO
            self._pool = BufferPool(count, PIECE_BYTES_MAX, before_waiting=self._writer.hand_on)
        return self._pool


def stored_differences(read: Iterable[object]) -> StoredDifferences:
    """Return what was stored as differences of the files among *read*, once the writer has finished."""
    placed = (one.placed for one in read if isinstance(one, ReadFile) and one.tried)
    refs = [one.ref for of_file in placed for one in of_file if one.is_new and one.ref.base is not None]
    stored_bytes = sum(ref.stored_bytes for ref in refs)
    saved_bytes = sum(ref.base.stored_bytes for ref in refs if ref.base is not None) - stored_bytes
    return StoredDifferences(sum(ref.plain_bytes for ref in refs), stored_bytes, saved_bytes)


def _digester(read: ReadFile) -> FileDigester:
    return FileDigester(file_digest_kind(read.size_bytes, read.holes), read.holes)


def _earlier_cuts(cached: CachedPath | None, size_bytes: int) -> Earlier:
    """Return where the file was cut the last time; its end then is no cut of a file that has grown."""
    if cached is None:
        return {}
    before = cached.file
    end = before.stat.size_bytes if before.stat.size_bytes < size_bytes else None
    return {one.offset: (one.length, one.digest) for one in before.pieces if one.offset + one.length != end}


def known_pieces(cached: CachedPath | None) -> KnownPieces:
    """Return where the pieces lie that a file had when it was read last."""
    if cached is None or cached.entry is None or len(cached.entry.chunks) != len(cached.file.pieces):
        return {}
    pairs = zip(cached.file.pieces, cached.entry.chunks, strict=True)
    return {(piece.length, piece.digest): ref for piece, ref in pairs if piece.length == ref.plain_bytes}


def _look_again(root: Root, found: Found) -> Found | None:
    """Return what has the name now, below the very directory that was scanned, or ``None`` if there is nothing."""
    try:
        return msgspec.structs.replace(found, stat=FileStat.of(root.stat(found.path)))
    except OSError as error:
        if error.errno in VANISHED:
            return None
        raise SourceError(f"cannot be looked at: {error.strerror}", where=repr(found.path)) from error


def _holes(extents: list[tuple[int, int]], size_bytes: int) -> tuple[tuple[int, int], ...]:
    holes = []
    end = 0
    for offset, length in [*extents, (size_bytes, 0)]:
        if offset > end:
            holes.append((end, offset - end))
        end = offset + length
    return tuple(holes)
