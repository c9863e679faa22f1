"""What it takes to finish packs whose writer died: on this machine's disk, one file for each pack that is on its way.

A pack that was cut off is never written on: its next ordinals may have been sealed and sent already, and sealing other
bytes for them would be fatal (one key and nonce, two plaintexts). It is finished where it stands: behind the parts
that the store has come the rest of the last chunk in them, kept here, and the footer. Where a footer may have been
sent already, the note that it is made from was on the disk before, so what is sealed then is the same bytes.

Layout of a note: length of the head, u32 ‖ head, MessagePack ‖ tail ‖ XXH3-128 of all before. Nothing in it is secret:
sealed bytes, keyed names. It is a hint; one that is missing or damaged costs what would have to be sent again.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from mlsync.codec.compression import Coding
from mlsync.codec.digest import FILE_DIGEST_BYTES, file_digester
from mlsync.errors import StateError
from mlsync.repository.pack.pack import PACK_ID_BYTES, ChunkRecord, records_are_sound

_LENGTH: Final = struct.Struct("<I")
_NEW_SUFFIX: Final = ".new"
# Of a newer mlsync there may be more.
_CODINGS: Final = frozenset(int(coding) for coding in Coding)


class _Head(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    pack_id: bytes
    ticket: str
    sent_bytes: int
    records: list[ChunkRecord]
    tail_bytes: int


@dataclass(frozen=True, slots=True)
class NotedPack:
    """A pack whose first *sent_bytes* the store has; *tail* is the rest up to the end of the last of its *records*."""

    pack_id: bytes
    ticket: str
    sent_bytes: int
    records: list[ChunkRecord]
    tail: bytes

    @property
    def size_bytes(self) -> int:
        """How long the pack is up to its last chunk's end."""
        return self.sent_bytes + len(self.tail)


class PackJournal:
    """The notes of one run's packs, in a directory of its own; several threads may write, each about its own pack."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def note(
        self, pack_id: bytes, ticket: str, sent_bytes: int, records: Sequence[ChunkRecord], tail: memoryview
    ) -> bool:
        """Have on the disk how the pack is finished, in place of what was noted before.

        Where the disk does not take it, nothing about the pack is noted any more, and ``False`` is returned.
        """
        head = msgspec.msgpack.encode(_Head(pack_id, ticket, sent_bytes, list(records), len(tail)))
        digest = file_digester()
        body: list[bytes | memoryview] = [_LENGTH.pack(len(head)), head, tail]
        for piece in body:
            digest.update(piece)
        try:
            self._write(pack_id, [*body, digest.digest()])
        except OSError:
            self.over(pack_id, for_good=True)
            return False
        return True

    def over(self, pack_id: bytes, *, for_good: bool = False) -> None:
        """Forget about a pack: it is finished, or given up; *for_good* if no power cut may bring the note back.

        ``StateError`` where that fails: the note would have another footer sealed than the one that is about to be.
        """
        path = self._path(pack_id)
        try:
            for name in (f"{path}{_NEW_SUFFIX}", path):
                with suppress(FileNotFoundError):
                    os.unlink(name)
            if for_good:
                with suppress(FileNotFoundError):
                    self._sync_directory()
        except OSError as error:
            what = f"a note about an upload cannot be removed: {error.strerror}"
            raise StateError(what, where=os.fspath(path), advice="remove the file") from error

    def noted(self) -> Iterator[NotedPack]:
        """Give every pack that can be finished; what is no sound note is removed."""
        for name in self._names():
            path = self._directory / name
            noted = _parse(path)
            if noted is None or name != noted.pack_id.hex():
                with suppress(OSError):
                    path.unlink()
            else:
                yield noted

    def _names(self) -> list[str]:
        try:
            return sorted(os.listdir(self._directory))
        except FileNotFoundError:
            return []

    def _path(self, pack_id: bytes) -> Path:
        return self._directory / pack_id.hex()

    def _write(self, pack_id: bytes, body: Sequence[bytes | memoryview]) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._path(pack_id)
        new = f"{path}{_NEW_SUFFIX}"
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            for piece in body:
                _write_all(descriptor, memoryview(piece))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(new, path)
        self._sync_directory()

    def _sync_directory(self) -> None:
        """A power cut must not bring back the note before: it would make another footer for the same pack."""
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _write_all(descriptor: int, rest: memoryview) -> None:
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _parse(path: Path) -> NotedPack | None:
    """Return what a note says, if it is whole and can be."""
    try:
        body = path.read_bytes()
        (head_bytes,) = _LENGTH.unpack_from(body)
        head = msgspec.msgpack.decode(body[_LENGTH.size : _LENGTH.size + head_bytes], type=_Head)
    except (OSError, ValueError, struct.error):
        return None
    tail = body[_LENGTH.size + head_bytes : -FILE_DIGEST_BYTES]
    digest = file_digester()
    digest.update(memoryview(body)[:-FILE_DIGEST_BYTES])
    is_whole = len(tail) == head.tail_bytes and digest.digest() == body[-FILE_DIGEST_BYTES:]
    is_sound = (
        len(head.pack_id) == PACK_ID_BYTES
        and head.sent_bytes > 0
        and records_are_sound(head.records, head.sent_bytes + len(tail))
        and all(record.coding in _CODINGS and record.base is None for record in head.records)
    )
    if not (is_whole and is_sound):
        return None
    return NotedPack(head.pack_id, head.ticket, head.sent_bytes, head.records, tail)
