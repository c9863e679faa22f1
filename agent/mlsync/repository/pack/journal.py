"""A journal of unfinished packs on this machine's disk, one record (a file) for each pack that is being uploaded.

An interrupted pack never gets another chunk. Chunks may have been sealed and sent under its next ordinals, and sealing
other bytes under them would be fatal (one key and nonce, two plaintexts). It is finished as it is: the parts that the
store has, the rest of the last chunk, which is kept here, and the footer. A footer that may have been sent was made
from a record that was on the disk before, so the same bytes are sealed again.

Layout of a record: length of the head, u32 ‖ head, MessagePack ‖ tail ‖ XXH3-128 of all before. It holds no secret,
only sealed bytes and keyed names. It is a hint: if it is missing or damaged, the chunks are sent again.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from mlsync.codec.compression import Coding
from mlsync.codec.digest import RECORD_DIGEST_BYTES, record_digester
from mlsync.codec.keys import EPOCH_MAX
from mlsync.errors import StateDamaged, StateError
from mlsync.repository.pack.pack import PACK_ID_BYTES, ChunkRecord, records_are_sound

_LENGTH: Final = struct.Struct("<I")
_NEW_SUFFIX: Final = ".new"
# A newer mlsync may know more of them.
_CODINGS: Final = frozenset(int(coding) for coding in Coding)


class _Head(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    pack_id: bytes
    epoch: int
    resume_token: str
    sent_bytes: int
    records: list[ChunkRecord]
    tail_bytes: int


# Made by the thread that imports this: a first decoding in several at once would crash.
_head_decoder: Final = msgspec.msgpack.Decoder(_Head)


class InterruptedPack(msgspec.Struct, frozen=True):
    """A pack whose first *sent_bytes* the store has; *tail* is the rest, up to the end of the last of its *records*."""

    pack_id: bytes
    epoch: int
    resume_token: str
    sent_bytes: int
    records: list[ChunkRecord]
    tail: bytes

    @property
    def size_bytes(self) -> int:
        """The pack's length up to the end of its last chunk."""
        return self.sent_bytes + len(self.tail)


class PackJournal:
    """The records of one run's packs, in their own directory; threads may write at once, each about its own pack."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def record(
        self,
        pack_id: bytes,
        epoch: int,
        resume_token: str,
        sent_bytes: int,
        records: Sequence[ChunkRecord],
        tail: memoryview,
    ) -> bool:
        """Store on the disk how the pack is finished; this replaces its earlier record.

        If the disk does not take it, remove the pack's record and return ``False``.
        """
        head = msgspec.msgpack.encode(_Head(pack_id, epoch, resume_token, sent_bytes, list(records), len(tail)))
        digest = record_digester()
        body: list[bytes | memoryview] = [_LENGTH.pack(len(head)), head, tail]
        for piece in body:
            digest.update(piece)
        try:
            self._write(pack_id, [*body, digest.digest()])
        except OSError:
            self.forget(pack_id, for_good=True)
            return False
        return True

    def forget(self, pack_id: bytes, *, for_good: bool = False) -> None:
        """Remove a pack's record, since the pack is finished or given up; *for_good* if no power cut may bring it back.

        Raise ``StateError`` if that fails: from the record another footer would be sealed than the one that comes next.
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
            what = f"the record of an upload cannot be removed: {error.strerror}"
            raise StateError(what, where=os.fspath(path), advice="remove the file") from error

    def interrupted(self) -> Iterator[InterruptedPack]:
        """Yield every pack that can be finished, and remove records that are damaged.

        Raise ``StateDamaged`` if the records cannot be listed.
        """
        for name in self._names():
            path = self._directory / name
            pack = _parse(path)
            if pack is None or name != pack.pack_id.hex():
                with suppress(OSError):
                    path.unlink()
            else:
                yield pack

    def _names(self) -> list[str]:
        try:
            return sorted(os.listdir(self._directory))
        except FileNotFoundError:
            return []
        except OSError as error:
            what = f"the records of uploads cannot be listed: {error.strerror}"
            raise StateDamaged(what, where=os.fspath(self._directory)) from error

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
        """Sync: after a power cut, an older record would make another footer for the same pack."""
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _write_all(descriptor: int, rest: memoryview) -> None:
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _parse(path: Path) -> InterruptedPack | None:
    """Return the pack that a record describes, ``None`` if the record is damaged."""
    try:
        body = path.read_bytes()
        (head_bytes,) = _LENGTH.unpack_from(body)
        head = _head_decoder.decode(body[_LENGTH.size : _LENGTH.size + head_bytes])
    except (OSError, ValueError, struct.error):
        return None
    tail = body[_LENGTH.size + head_bytes : -RECORD_DIGEST_BYTES]
    digest = record_digester()
    digest.update(memoryview(body)[:-RECORD_DIGEST_BYTES])
    is_whole = len(tail) == head.tail_bytes and digest.digest() == body[-RECORD_DIGEST_BYTES:]
    is_sound = (
        len(head.pack_id) == PACK_ID_BYTES
        and 0 <= head.epoch <= EPOCH_MAX
        and head.sent_bytes > 0
        and records_are_sound(head.records, head.sent_bytes + len(tail))
        and all(record.coding in _CODINGS for record in head.records)
    )
    if not (is_whole and is_sound):
        return None
    return InterruptedPack(head.pack_id, head.epoch, head.resume_token, head.sent_bytes, head.records, tail)
