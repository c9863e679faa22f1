"""The blocks of an HDF5 file: superblock, object headers, trees of names and of chunks, heaps of names.

Each read is bounded and must be inside the file; blocks of the newer form have a checksum. ``container`` combines them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple, NoReturn

from mlsync.formats.faults import NotChecked
from mlsync.formats.layout import ByteSource, ContainerBroken

SIGNATURE: Final = b"\x89HDF\r\n\x1a\n"
PARTS_MAX = 1_000_000  # messages, names, chunks: all that is looked at one by one
BLOCK_BYTES_MAX = 2 << 20
_FIRST_USER_BLOCK: Final = 512
_OFFSET_BYTES: Final = 8
_UNDEFINED: Final = (1 << 64) - 1
_CHECKSUM_BYTES: Final = 4
_CHECKED_BYTES_A_PART: Final = 16
_READ_BYTES_A_PART: Final = 512
_NAME_BYTES_MAX: Final = 4096
_LEVELS_MAX: Final = 32
_OPEN_FOR_WRITING: Final = 0x1
_M32: Final = 0xFFFFFFFF
_CONTINUATION: Final = 0x10
_SHARED: Final = 0x02
_SOFT: Final = 2
_NO_MORE: Final = 1  # of free places
_KNOWN_FLAGS: Final = 0x07
_WAS_UNKNOWN: Final = 0x20
_MARK_UNKNOWN: Final = 0x10
_NEVER_SHARED: Final = 0x06
_MAY_BE_SHARED: Final = 0x42
_HALF_CHUNKS: Final = 32  # where the superblock has no number for it
_SHAREABLE: Final = frozenset({1, 3, 4, 5, 11, 12})


class Message(NamedTuple):
    """One message of an object's header, and where in the file its data begin."""

    kind: int
    is_shared: bool
    data: bytes
    at: int


class Chunk(NamedTuple):
    """A chunk as the tree of chunks tells it."""

    stored_bytes: int
    skipped: int  # filters, as bits
    place: tuple[int, ...]
    address: int


class Blocks:
    """Reads blocks by their addresses; ``root`` is the address of the first object's header."""

    def __init__(self, source: ByteSource) -> None:
        self.size_bytes = source.size_bytes
        self._source = source
        self._base = 0
        self._parts = 0
        # Half of what a node of names, one of a tree of names, and one of a tree of chunks has room for
        self._half_leaf = self._half_node = self._half_chunks = 0
        self.root = self._superblock()

    def count_parts(self, count: int = 1) -> None:
        """Note that so many more things are looked at."""
        self._parts += count
        if self._parts > PARTS_MAX:
            raise NotChecked(f"file of more than {PARTS_MAX} parts is larger than is checked")

    def place(self, address: int, length: int, what: str) -> int:
        """Return where in the file the block at *address* lies, all of which must be there."""
        at = self._base + address
        if at + length > self.size_bytes:
            refuse(f"{what} lies outside of the file", at)
        return at

    def is_defined(self, address: int) -> bool:
        """Return whether an address is defined."""
        return address != _UNDEFINED

    def messages(self, address: int) -> Iterator[Message]:
        """Yield the messages of the object whose header is at *address*, with those in its continuations."""
        head = self._read(address, min(_FIRST_USER_BLOCK, self.size_bytes - self._base - address), "object header")
        if head[:4] == b"OHDR":
            yield from self._new_messages(address, head)
        elif head[:1] == b"\x01" and len(head) >= 16:  # noqa: PLR2004 - the head of an old header
            yield from self._old_messages(address, *struct.unpack_from("<HII", head, 2))
        else:
            refuse("object header missing", self._base + address)

    def names(self, tree: int, heap: int) -> Iterator[tuple[str, int]]:
        """Yield the names in a group of the old form, and the addresses of the objects' headers; no soft links."""
        head = self._read(heap, 32, "heap of names")
        size, free, data = struct.unpack_from("<QQQ", head, 8)
        if head[:5] != b"HEAP\0":
            refuse("heap of names missing", self._base + heap)
        self.place(data, size, "heap of names")
        self._free_list(data, size, free)
        last = b""
        for node in self._leaves(tree, 0, 0):
            for first_at, address, last_at in zip(node[0::2], node[1::2], node[2::2], strict=False):
                if self._name(data, size, first_at) != last:
                    refuse("tree of names damaged", self._base + tree)
                for name, header, cached in self._entries(address, data, size):
                    if name <= last:
                        refuse("names out of order", self._base + address)
                    last = name
                    if cached != _SOFT:
                        yield name.decode("utf-8", "replace"), header
                if self._name(data, size, last_at) != last:
                    refuse("tree of names damaged", self._base + tree)

    def _entries(self, address: int, data: int, size: int) -> Iterator[tuple[bytes, int, int]]:
        """Yield name, header address and cache type of each entry of a symbol node."""
        head = self._read(address, 8, "names")
        if head[:5] != b"SNOD\x01":
            refuse("names missing", self._base + address)
        count = int.from_bytes(head[6:8], "little")
        self.place(address, 8 + 80 * self._half_leaf, "names")
        for name_at, header, cached in struct.iter_unpack("<QQI20x", self._read(address + 8, 40 * count, "names")):
            self.count_parts()
            if cached > _SOFT:
                refuse("entry of names damaged", self._base + address)
            yield self._name(data, size, name_at), header, cached

    def _free_list(self, data: int, size: int, free: int) -> None:
        """Walk the free places of a heap of names: HDF5 does not open one whose list is damaged."""
        while free != _NO_MORE:
            following, length = struct.unpack("<QQ", self._read(data + free, 16, "heap of names"))
            if not length or free + length > size:
                refuse("heap of names damaged", self._base + data + free)
            free = following

    def chunks(self, tree: int, rank: int) -> Iterator[Chunk]:
        """Yield the chunks of a dataset of so many dimensions, in the tree's order."""
        for node in self._leaves(tree, 1, rank):
            width = rank + 3
            for at in range(0, len(node) - width, width):
                sizes, *place = node[at : at + width - 1]
                self.count_parts()
                yield Chunk(sizes & _M32, sizes >> 32, tuple(place[:rank]), node[at + width - 1])

    def _superblock(self) -> int:
        at = 0
        while at + 8 <= self.size_bytes and self._source.read_at(at, 8) != SIGNATURE:
            at = at * 2 or _FIRST_USER_BLOCK
        at = min(at, self.size_bytes)
        head = self._source.read_at(at, min(128, self.size_bytes - at))
        if head[:8] != SIGNATURE or len(head) < 48:  # noqa: PLR2004 - the shortest superblock
            refuse("no HDF5 file: cut short, or something else", 0)
        version = head[8]
        sizes = head[13:15] if version < 2 else head[9:11]  # noqa: PLR2004 - the new form
        if version > 3 or sizes != bytes([_OFFSET_BYTES] * 2):  # noqa: PLR2004 - the newest
            raise NotChecked("an HDF5 file of a version, or of widths, that are not known here", offset=at + 8)
        if version < 2:  # noqa: PLR2004
            base, end, first = self._old_superblock(head, version, at)
        else:
            base, _, end, first = struct.unpack_from("<4Q", head, 12)
            self._check(head[:48], at, "superblock")
            if version == 3 and head[11] & _OPEN_FOR_WRITING:  # noqa: PLR2004
                refuse("file is marked as open for writing: still being written, or its writer died", at + 11)
        base, end = at, end - base + at  # the library goes by where it found the superblock, too
        if end > self.size_bytes:
            refuse(f"file is cut short: it should have {end} bytes", self.size_bytes)
        self._base, root = int(base), int(first)
        self.size_bytes = end
        return root

    def _old_superblock(self, head: bytes, version: int, at: int) -> tuple[int, int, int]:
        """Base, end and the root's address; HDF5 opens no file in which anything else of it is otherwise."""
        addresses = 24 + 4 * version
        if len(head) < addresses + 72:
            refuse("superblock cut short", at)
        base, extension, end, driver, _, first, cached = struct.unpack_from("<6QI", head, addresses)
        flags = int.from_bytes(head[20:24], "little")
        self._half_leaf, self._half_node = struct.unpack_from("<HH", head, 16)
        self._half_chunks = int.from_bytes(head[24:26], "little") if version else _HALF_CHUNKS
        others = (head[9], head[10], head[12], flags & ~_KNOWN_FLAGS, extension != _UNDEFINED, cached >= _SOFT)
        is_outside = driver != _UNDEFINED and at + driver >= self.size_bytes
        if any(others) or is_outside or not self._half_leaf or not self._half_node:
            refuse("superblock damaged", at)
        return base, end, first

    def _old_messages(self, address: int, count: int, _references: int, length: int) -> Iterator[Message]:
        blocks = [(address + 16, length)]
        for begin, size in blocks:
            data = self._read(begin, size, "object header")
            at = 0
            while at < size:
                if at + 8 > size:
                    refuse("message runs out of its object header", self._base + begin + at)
                kind, data_bytes, flags = struct.unpack_from("<HHB", data, at)
                count -= 1
                following = at + 8 + data_bytes
                if following > size or data_bytes % 8:
                    refuse("message runs out of its object header", self._base + begin + at)
                yield from self._message(kind, flags, data[at + 8 : following], begin + at + 8, blocks)
                at = following
        if count:
            refuse("object header of another number of messages", self._base + address)

    def _new_messages(self, address: int, head: bytes) -> Iterator[Message]:
        flags = head[5]
        at = 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        length = at + width + int.from_bytes(head[at : at + width], "little") + _CHECKSUM_BYTES
        blocks = [(address, length)]
        at += width
        message_head = 6 if flags & 0x04 else 4
        for begin, size in blocks:
            data = self._read(begin, size, "object header")
            if data[:4] not in (b"OHDR", b"OCHK") or size < at + _CHECKSUM_BYTES:
                refuse("object header missing", self._base + begin)
            self._check(data, self._base + begin, "object header")
            while at + message_head <= size - _CHECKSUM_BYTES:
                kind, data_bytes, own_flags = struct.unpack_from("<BHB", data, at)
                following = at + message_head + data_bytes
                if following > size - _CHECKSUM_BYTES:
                    refuse("message runs out of its object header", self._base + begin + at)
                content_at = at + message_head
                yield from self._message(kind, own_flags, data[content_at:following], begin + content_at, blocks)
                at = following
            at = 4

    def _message(
        self, kind: int, flags: int, data: bytes, address: int, blocks: list[tuple[int, int]]
    ) -> Iterator[Message]:
        self.count_parts()
        is_torn = (flags & _WAS_UNKNOWN and not flags & _MARK_UNKNOWN) or flags & _NEVER_SHARED == _NEVER_SHARED
        if (flags & _MAY_BE_SHARED and kind not in _SHAREABLE) or is_torn:
            refuse("message damaged", self._base + address)
        if kind != _CONTINUATION:
            yield Message(kind, bool(flags & _SHARED), data, self._base + address)
        elif len(data) >= 16:  # noqa: PLR2004 - address and length
            blocks.append(struct.unpack_from("<QQ", data))

    def _name(self, data: int, size: int, at: int) -> bytes:
        raw = self._read(data + at, max(min(256, size - at), 0), "name")
        if b"\0" not in raw:
            raw = self._read(data + at, max(min(_NAME_BYTES_MAX, size - at), 0), "name")
        name, end, _ = raw.partition(b"\0")
        if not end:
            refuse("name without an end", self._base + data + at)
        return name

    def _leaves(self, address: int, kind: int, rank: int) -> Iterator[tuple[int, ...]]:
        """Yield keys and children of the lowest nodes of a tree, from left to right."""
        stack = [(address, _LEVELS_MAX)]
        while stack:
            at, above = stack.pop()
            self.count_parts()
            head = self._read(at, 24, "tree")
            level, count = head[5], int.from_bytes(head[6:8], "little")
            if head[:4] != b"TREE" or head[4] != kind or level >= above:
                refuse("tree of names or chunks damaged", self._base + at)
            for beside in struct.unpack_from("<QQ", head, 8):
                if self.is_defined(beside):
                    self.place(beside, 24, "tree")
            half, key_bytes = (self._half_chunks, 8 * (rank + 2)) if kind else (self._half_node, 8)
            self.place(at, 24 + key_bytes + 2 * half * (key_bytes + 8), "tree")
            key_numbers = rank + 2 if kind else 1
            numbers = count * (key_numbers + 1) + key_numbers
            node = struct.unpack(f"<{numbers}Q", self._read(at + 24, 8 * numbers, "tree"))
            if not level:
                yield node
            else:
                children = node[key_numbers :: key_numbers + 1]
                self.count_parts(len(children))
                stack += [(child, level) for child in reversed(children)]

    def _read(self, address: int, length: int, what: str) -> bytes:
        self.count_parts(1 + max(length, 0) // _READ_BYTES_A_PART)
        if length > BLOCK_BYTES_MAX:
            raise NotChecked(f"{what} of {length} bytes is larger than is checked", offset=self._base + address)
        if length < 0:
            refuse(f"{what} lies outside of the file", self.size_bytes)
        return self._source.read_at(self.place(address, length, what), length)

    def checked(
        self, address: int, length: int, mark: bytes, what: str, sum_at: int | None = None, *, has_sum: bool = True
    ) -> bytes:
        """Return a block of the newer form that begins with *mark*; its sum is at its end, or at *sum_at*."""
        data = self._read(address, length, what)
        if not data.startswith(mark):
            refuse(f"{what} missing", self._base + address)
        if has_sum and sum_at is not None and sum_at != length - _CHECKSUM_BYTES:
            end = sum_at + _CHECKSUM_BYTES
            self._check(
                data[:sum_at] + bytes(_CHECKSUM_BYTES) + data[end:] + data[sum_at:end], self._base + address, what
            )
        elif has_sum:
            self._check(data, self._base + address, what)
        return data

    def _check(self, data: bytes, at: int, what: str) -> None:
        """Hold a block of the newer form against the checksum at its end."""
        self.count_parts(len(data) // _CHECKED_BYTES_A_PART)
        if lookup3(data[:-_CHECKSUM_BYTES]) != int.from_bytes(data[-_CHECKSUM_BYTES:], "little"):
            refuse(f"checksum of its {what} differs", at)


def refuse(reason: str, at: int) -> NoReturn:
    """The file is at fault, there."""
    raise ContainerBroken(reason, offset=at)


def _turned(value: int, by: int) -> int:
    return (value << by | value >> (32 - by)) & _M32


def lookup3(data: bytes) -> int:
    """Bob Jenkins' hash, which HDF5 holds its newer blocks against."""
    a: int
    b: int
    c: int
    a = b = c = (0xDEADBEEF + len(data)) & _M32
    if not data:
        return c
    padded = data + bytes(-len(data) % 12)
    words = struct.unpack(f"<{len(padded) // 4}I", padded)
    for at in range(0, len(words) - 3, 3):
        a, b, c = (a + words[at]) & _M32, (b + words[at + 1]) & _M32, (c + words[at + 2]) & _M32
        a = (a - c & _M32) ^ _turned(c, 4)
        c = c + b & _M32
        b = (b - a & _M32) ^ _turned(a, 6)
        a = a + c & _M32
        c = (c - b & _M32) ^ _turned(b, 8)
        b = b + a & _M32
        a = (a - c & _M32) ^ _turned(c, 16)
        c = c + b & _M32
        b = (b - a & _M32) ^ _turned(a, 19)
        a = a + c & _M32
        c = (c - b & _M32) ^ _turned(b, 4)
        b = b + a & _M32
    a, b, c = (a + words[-3]) & _M32, (b + words[-2]) & _M32, (c + words[-1]) & _M32
    c = (c ^ b) - _turned(b, 14) & _M32
    a = (a ^ c) - _turned(c, 11) & _M32
    b = (b ^ a) - _turned(a, 25) & _M32
    c = (c ^ b) - _turned(b, 16) & _M32
    a = (a ^ c) - _turned(c, 4) & _M32
    b = (b ^ a) - _turned(a, 14) & _M32
    return (c ^ b) - _turned(b, 24) & _M32
