"""Archive small files that are no checkpoints, many at once: a tree of a hundred thousand files consists of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import xxhash

from mlsync.backup.bases.choice import Tried
from mlsync.backup.files_cache import CachedPath
from mlsync.backup.storing.archiver import ReadFile, known_pieces
from mlsync.codec.digest import digest_of_whole
from mlsync.formats.layout import ByteSource
from mlsync.formats.sniff import identify
from mlsync.repository.manifest import ChunkRef
from mlsync.repository.writer import PackWriter, PlacedChunk
from mlsync.source.cached_file import CachedPiece, packed_piece
from mlsync.source.root import Root
from mlsync.source.scan import Found
from mlsync.source.small_files import read_together

# They are packed at once. One list for all, to which nobody adds: those of a hundred thousand files take megabytes.
_NO_PIECES: Final[list[CachedPiece]] = []
_NO_TRIED: Final[list[Tried]] = []
_NO_CHUNKS: Final[list[PlacedChunk]] = []


class SmallFiles:
    """Reads small files for one backup and counts the bytes; the arguments are those of ``Archiver``."""

    def __init__(
        self,
        root: Root,
        seed: int,
        writer: PackWriter,
        *,
        may_use: Callable[[ChunkRef], bool],
        container_of: Callable[[bytes], str | None],
        advance: Callable[[int], None],
    ) -> None:
        self.read_bytes = 0
        self._root = root
        self._seed = seed
        self._writer = writer
        self._may_use = may_use
        self._container_of = container_of
        self._advance = advance

    def read(self, files: Sequence[tuple[Found, CachedPath | None]]) -> list[ReadFile | None]:
        """Read small files of one directory, each with what the files cache knows of it; see ``read_together``.

        ``None`` stands for each that the archiver has to read: it does not hold still, may be a checkpoint, or is not
        as simple as these are. Raises what *advance* raises, and none of them is stored then.
        """
        checked_ns, contents = read_together(self._root, [found for found, _ in files])
        plain = [
            None if content is None or self._is_checkpoint(found, content) else content
            for (found, _), content in zip(files, contents, strict=True)
        ]
        read_bytes = sum([len(content) for content in plain if content])
        if read_bytes:
            self._advance(read_bytes)
            self.read_bytes += read_bytes
        digests = [xxhash.xxh3_128_digest(content, self._seed) if content else b"" for content in plain]
        placed = self._place(files, plain, digests)
        return [
            None if content is None else _read_file(found, checked_ns, content, chunks, digest)
            for (found, _), content, digest, chunks in zip(files, plain, digests, placed, strict=True)
        ]

    def _is_checkpoint(self, found: Found, content: bytes) -> bool:
        """Return whether a file is or was a checkpoint, or may be; the archiver says what is wrong with it."""
        if self._container_of(found.path) is not None:
            return True
        try:
            return identify(_Content(content), found.path) is not None
        except Exception:  # noqa: BLE001 - a fault of a parser, which the archiver reports
            return True

    def _place(
        self,
        files: Sequence[tuple[Found, CachedPath | None]],
        contents: Sequence[bytes | None],
        digests: Sequence[bytes],
    ) -> list[list[PlacedChunk]]:
        """Return each file's chunk, none of an empty file; what is not stored where the files cache says is put."""
        placed = [_NO_CHUNKS] * len(files)
        new, plains = [], []
        for at, ((_, cached), content, digest) in enumerate(zip(files, contents, digests, strict=True)):
            if not content:
                continue
            ref = None if cached is None else known_pieces(cached).get((len(content), digest))
            if ref is not None and self._may_use(ref):
                placed[at] = [PlacedChunk(own_ref=ref)]
            else:
                new.append(at)
                plains.append(content)
        for at, chunk in zip(new, self._writer.put_short(plains) if plains else (), strict=True):
            placed[at] = [chunk]
        return placed


class _Content(ByteSource):
    """A file's content in memory."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    @property
    def size_bytes(self) -> int:
        return len(self._content)

    def read_at(self, offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= len(self._content)
        return self._content[offset : offset + length]


def _read_file(found: Found, checked_ns: int, content: bytes, chunks: list[PlacedChunk], digest: bytes) -> ReadFile:
    stat = found.stat
    size_bytes = stat.size_bytes  # that of the content too, which has no number of its own then
    pieces = packed_piece(size_bytes, digest) if content else b""
    whole = digest_of_whole(content)
    return ReadFile(found, stat, checked_ns, False, size_bytes, whole, (), chunks, _NO_PIECES, pieces, _NO_TRIED)
