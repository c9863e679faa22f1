"""What each parser takes of memory on files of up to 100 MB that were made to harm.

    python bench/parser_memory.py [--sizes 100,31,16,8,5,3,2] [CONTAINER ...]

For each container and each way to harm it a file is filled up to each of the sizes with what costs a parser most:
objects, records, tensors, dimensions, nesting, names. A process of its own then looks into it, as a backup does at the
source, and tells by how much its resident memory grew at the most; allocator, libraries and what is read count as well.
The largest growth of each container is printed beside the figure that docs/checkpoints.md states, and written to
results/parser_memory.json with the way and the size that it came from. What the parsers say of the file is no matter.
"""

from __future__ import annotations

import argparse
import json
import re
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

MB = 1_000_000
MIB = 1 << 20
HERE = Path(__file__).parent
DOCUMENT = HERE.parent / "docs/checkpoints.md"
RESULTS = HERE / "results/parser_memory.json"
WIDE = b"a" * 900 + "\U0001f600".encode()

Make = Callable[[int], bytes]


def filled(begin: bytes, unit: Callable[[int], bytes], end: bytes = b"") -> Make:
    """A file of as many units as there is room for, each made with its number."""

    def make(size: int) -> bytes:
        parts, left, number = [begin], size - len(begin) - len(end), 0
        while left > 0:
            part = unit(number)
            parts.append(part)
            left -= len(part)
            number += 1
        return b"".join([*parts, end])

    return make


def constant(part: bytes) -> Callable[[int], bytes]:
    """The same for each number, a thousand at once."""
    many = part * 1000
    return lambda _number: many


# ---------------------------------------------------------------- pickles

STORAGE = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpuK\0tQ\x94"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n(h\0K\0))tR"
WAY = b"}X\xc8\0\0\0" + b"k" * 200
RAW = b"cnumpy\n_frombuffer\n(B\0\4\0\0" + bytes(1024) + b"cnumpy\ndtype\n(X\2\0\0\0i1tRM\0\4\x85X\1\0\0\0CtR"
PICKLES: dict[str, Make] = {
    "dicts": filled(b"\x80\x04](", constant(b"}"), b"e."),
    "tuples": filled(b"\x80\x04](", constant(b"K\1K\2\x86"), b"e."),
    "calls": filled(b"\x80\x02](", constant(b"cx\ny\n)R"), b"e."),
    "objects with a state": filled(
        b"\x80\x02](", constant(b"cx\ny\n)\x81}X\1\0\0\0akbsb".replace(b"k", b"K\1")), b"e."
    ),
    "numbers": filled(b"\x80\x02](", constant(b"J\0\1\2\3"), b"e."),
    "floats": filled(b"\x80\x02](", constant(b"G@\1\2\3\4\5\6\7"), b"e."),
    "a list in many places": filled(b"\x80\x04]\x94](", constant(b"h\0"), b"ea."),
    "odd memo": filled(b"\x80\x02](", lambda n: b"}r" + (2**31 - n).to_bytes(4, "little"), b"e."),
    "wide texts": filled(b"\x80\x02](", constant(b"X\x20\0\0\0" + b"a" * 28 + b"\xf0\x9f\x98\x80"), b"e."),
    "nested": filled(b"\x80\x04", constant(b"]"), b"."),
    "tensors": filled(b"\x80\x04" + STORAGE + b"0](", constant(TENSOR), b"e."),
    "tensors with long names": filled(
        b"\x80\x04" + STORAGE + b"0" + WAY * 5 + b"](", constant(TENSOR), b"e" + b"s" * 5 + b"."
    ),
    "one text": lambda size: (
        b"\x80\x04X" + (size - 10).to_bytes(4, "little") + b"a" * (size - 14) + b"\xf0\x9f\x98\x80."
    ),
    "one long": lambda size: b"\x80\x04\x8b" + (size - 10).to_bytes(4, "little") + b"\1" * (size - 10) + b".",
}
BARE = PICKLES | {
    "raw stretches": filled(b"\x80\x04](", constant(RAW), b"e."),
    "pickles in a row": filled(b"", constant(b"\x80\x04}.")),
    "large first": filled(b"\x80\x04](B\0\0\0\1" + bytes(1 << 24), constant(b"}"), b"e."),
}


def in_torch_zip(make: Make) -> Make:
    """A torch file around the pickle."""
    return lambda size: zip_of([(b"a/data.pkl", make(size)), (b"a/byteorder", b"little"), (b"a/version", b"3\n")])


def in_legacy(make: Make) -> Make:
    """The object of a file as torch wrote it before 1.6."""
    begin = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
    info = b"\x80\x02}(X\x10\0\0\0protocol_versionM\xe9\x03X\r\0\0\0little_endian\x88X\n\0\0\0type_sizes}u."
    return lambda size: begin + info + make(size) + b"\x80\x02]."


def distributed(size: int) -> bytes:
    """Metadata of one tensor in as many chunks as there is room for."""
    row = b"](" + b"K\1" * 20 + b"e"
    chunk = b"cx\nC\n)\x81}(X\7\0\0\0offsetsh\1X\5\0\0\0sizesh\1ub"
    tensor = b"cx\nT\n)\x81}(X\4\0\0\0sizeh\1X\6\0\0\0chunks](" + chunk * (size // len(chunk)) + b"eub"
    fields = b"X\x13\0\0\0state_dict_metadata}X\1\0\0\0a" + tensor + b"sX\x0c\0\0\0storage_data}"
    known = b"ctorch.distributed.checkpoint.metadata\nMetadata\n"
    return b"\x80\x04" + known + b"\x940" + row + b"\x940h\0)\x81}(" + fields + b"ub."


# ---------------------------------------------------------------- zips


def zip_of(records: list[tuple[bytes, bytes]]) -> bytes:
    """A zip of stored records."""
    heads, directory, at = [], [], 0
    for name, content in records:
        fields = (0, 0x800, 0, 0, 0, zlib.crc32(content), len(content), len(content), len(name), 0)
        heads += [b"PK\3\4" + struct.pack("<5H3L2H", *fields) + name, content]
        directory.append(b"PK\1\2" + struct.pack("<H5H3L5H2L", 0, *fields, 0, 0, 0, 0, at) + name)
        at += 30 + len(name) + len(content)
    table = b"".join(directory)
    end64 = b"PK\6\6" + struct.pack("<Q2H2L4Q", 44, 0, 0, 0, 0, len(records), len(records), len(table), at)
    locator = b"PK\6\7" + struct.pack("<LQL", 0, at + len(table), 1)
    end = b"PK\5\6" + struct.pack("<4H2LH", 0, 0, *(0xFFFF,) * 2, *(0xFFFFFFFF,) * 2, 0)
    return b"".join([*heads, table, end64, locator, end])


def records_of(name: bytes, content: bytes = b"", more: tuple[tuple[bytes, bytes], ...] = ()) -> Make:
    """A zip of as many records as there is room for."""
    each = 2 * len(name) + 80 + len(content)
    return lambda size: zip_of([*more, *((name % n, content) for n in range(size // each))])


def array(dimensions: int) -> bytes:
    """An array of nothing of numpy's, with its header."""
    header = b"{'descr': '|i1', 'fortran_order': False, 'shape': (0" + b",7" * (dimensions - 1) + b",), }\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header


def program(weights: Callable[[int], str]) -> Make:
    """An exported program with a table of weights."""

    def make(size: int) -> bytes:
        one = weights(0)
        table = '{"config":{' + ",".join(weights(n) for n in range(size // (len(one) + 4))) + "}}"
        fixed = [(b"a/archive_format", b"pt2"), (b"a/models/m", b""), (b"a/data/weights/0", b"")]
        return zip_of([*fixed, (b"a/data/weights/model_weights_config.json", table.encode())])

    return make


def weight(number: int, sizes: str = "", end: str = "") -> str:
    """An entry as short as it may be."""
    meta = f'{{"dtype":7,"sizes":[{sizes}],"strides":[{sizes}],"storage_offset":{{"as_int":0}},"layout":7}}'
    return f'"{number}":{{"path_name":"0","use_pickle":false,"tensor_meta":{meta}{end}}}'


ZIP_RECORDS: dict[str, Make] = {
    "records": records_of(b"a/data/%d", more=((b"a/data.pkl", b"\x80\2}."), (b"a/version", b"3"))),
    "records with long names": records_of(
        b"a/data/%d" + WIDE, more=((b"a/data.pkl", b"\x80\2}."), (b"a/version", b"3"))
    ),
}

# ---------------------------------------------------------------- headers


def safetensors(header: bytes) -> bytes:
    """A file of that header and nothing else."""
    return len(header).to_bytes(8, "little") + header


def entries(name: Callable[[int], str], shape: str) -> Make:
    """A header of tensors without elements."""
    tail = f'":{{"dtype":"I8","shape":[{shape}],"data_offsets":[0,0]}}'
    make = filled(b'{"":{"dtype":"I8","shape":[0],"data_offsets":[0,0]}', lambda n: f',"{name(n)}{tail}'.encode(), b"}")
    return lambda size: safetensors(make(size))


HEADERS: dict[str, Make] = {
    "tensors": entries(str, "0"),
    "dimensions": entries(str, "0" + ",7" * 20),
    "long names": entries(lambda n: f"{n}" + "a" * 900 + "\U0001f600", "0"),
    "nested lists": lambda size: safetensors(b'{"a":{"shape":' + b"[" * (size - 30) + b"]}}"),
    "lists": lambda size: safetensors(b'{"a":{"shape":[' + b"[]," * (size // 3) + b"[]]}}"),
    "objects": lambda size: safetensors(b'{"a":' * (size // 5)),
    "metadata": filled(b"", lambda n: b'"%d":"",' % n),
    "one name": lambda size: safetensors(b'{"' + b"a" * (size - 20) + b'":{}}'),
}
HEADERS["metadata"] = lambda size, body=HEADERS["metadata"]: safetensors(  # type: ignore[misc]
    b'{"__metadata__":{' + body(size) + b'"":""}}'
)


def gguf(tensor_count: int, keys: int, body: bytes) -> bytes:
    """A header of so many tensors and keys."""
    return b"GGUF" + struct.pack("<IQQ", 3, tensor_count, keys) + body + bytes(64)


def gguf_of(unit: Callable[[int], bytes], *, is_key: bool) -> Make:
    """As many keys or tensors as there is room for."""

    def make(size: int) -> bytes:
        parts = [unit(n) for n in range(size // len(unit(0)))]
        return gguf(0 if is_key else len(parts), len(parts) if is_key else 0, b"".join(parts))

    return make


def gguf_key(number: int, pad: bytes = b"", value: bytes = struct.pack("<IB", 0, 1)) -> bytes:
    """A key and its value."""
    name = b"%09d" % number + pad
    return struct.pack("<Q", len(name)) + name + value


def gguf_tensor(number: int, dimensions: int = 4) -> bytes:
    """A tensor of nothing."""
    shape = struct.pack(f"<I{dimensions}Q", dimensions, *(0,) * dimensions)
    return struct.pack("<Q", 9) + b"%09d" % number + shape + struct.pack("<IQ", 24, 0)


GGUFS: dict[str, Make] = {
    "tensors": gguf_of(gguf_tensor, is_key=False),
    "dimensions": gguf_of(lambda n: gguf_tensor(n, 8), is_key=False),
    "keys": gguf_of(gguf_key, is_key=True),
    "long keys": gguf_of(lambda n: gguf_key(n, b"k" * 60_000), is_key=True),
    "texts": gguf_of(lambda n: gguf_key(n, b"", struct.pack("<IQ", 8, 9000) + b"t" * 9000), is_key=True),
    "lists of texts": lambda size: gguf(
        0, 1, gguf_key(0, b"", struct.pack("<IIQ", 9, 8, size // 9) + (struct.pack("<Q", 1) + b"t") * (size // 9))
    ),
    "nested lists": lambda size: gguf(
        0, 1, gguf_key(0, b"", struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * (size // 12))
    ),
}


def field(number: int, data: bytes) -> bytes:
    """A field of bytes of a protocol buffer."""
    length, head = len(data), bytes([number << 3 | 2])
    while length > 127:
        head, length = head + bytes([length & 127 | 128]), length >> 7
    return head + bytes([length]) + data


def graph_of(unit: Callable[[int], bytes]) -> Make:
    """An ONNX model whose graph is filled with units."""
    fill = filled(b"", unit)
    return lambda size: b"\x08\x09" + field(7, fill(size)) + field(8, b"")


GRAPHS: dict[str, Make] = {
    "tensors": graph_of(constant(field(5, b"\x10\x01\x08\x00"))),
    "named tensors": graph_of(lambda n: field(5, b"\x10\x01\x08\x00" + field(8, b"%08d" % n))),
    "long names": graph_of(lambda n: field(5, b"\x10\x01\x08\x00" + field(8, b"%08d" % n + WIDE))),
    "dimensions": graph_of(constant(field(5, b"\x10\x01" + b"\x08\x00" * 64))),
    "nodes": graph_of(constant(field(1, b""))),
    "attributes": graph_of(constant(field(1, field(5, field(1, b"a"))))),
    "one tensor's entries": lambda size: (
        b"\x08\x09"
        + field(7, field(5, b"".join(field(13, field(1, b"%d" % n)) for n in range(size // 8))))
        + field(8, b"")
    ),
    "one tensor's dimensions": lambda size: b"\x08\x09" + field(7, field(5, field(1, bytes(size)))) + field(8, b""),
    "types": graph_of(constant(field(11, field(2, field(1, field(2, field(1, b""))))))),
}


def flax_of(array_bytes: bytes, key: bytes = b"%09d") -> Make:
    """A map of as many values as there is room for."""

    def make(size: int) -> bytes:
        each = len(array_bytes) + len(key % 0) + 2
        count = size // each
        parts = (b"\xd9" + bytes([len(name := key % n)]) + name + array_bytes for n in range(count))
        return b"\x81\xa1a\xdf" + struct.pack(">I", count) + b"".join(parts)

    return make


def flax_array(dimensions: int) -> bytes:
    """An array of nothing."""
    content = b"\x93\xdc" + struct.pack(">H", dimensions) + b"\0" + b"\xcd\1\1" * (dimensions - 1) + b"\xa4int8\xc4\0"
    return b"\xc7" + bytes([len(content)]) + b"\1" + content


FLAX: dict[str, Make] = {
    "arrays": flax_of(flax_array(1)),
    "dimensions": flax_of(flax_array(60)),
    "names": flax_of(flax_array(1), b"%09d" + b"n" * 200),
    "numbers": flax_of(b"\1"),
    "nested": lambda size: b"\x81\xa1a" * (size // 3) + b"\1",
    "one list": lambda size: b"\x81\xa1a\xdd" + struct.pack(">I", size) + b"\1" * size,
    "one text": lambda size: b"\x81\xa1a\xdb" + struct.pack(">I", size) + b"t" * size,
}

# ---------------------------------------------------------------- HDF5


def hdf5_head(end: int) -> bytes:
    """The oldest superblock; the root's header follows at 96."""
    none = (1 << 64) - 1
    head = b"\x89HDF\r\n\x1a\n" + bytes([0, 0, 0, 0, 0, 8, 8, 0, 4, 0, 16, 0, 0, 0, 0, 0])
    return head + struct.pack("<6QII16x", 0, none, end, none, 0, 96, 0, 0)


def hdf5_object(messages: list[tuple[int, bytes]]) -> bytes:
    """An object's header of the oldest form."""
    padded = [(kind, data + bytes(-len(data) % 8)) for kind, data in messages]
    body = b"".join(struct.pack("<HHB3x", kind, len(data), 0) + data for kind, data in padded)
    return struct.pack("<BxHII4x", 1, len(messages), 1, len(body)) + body


def hdf5_chunks(rank: int) -> Make:
    """One dataset of as many chunks of one byte as there is room for, which lie on one another."""
    space = bytes([1, rank, 0, 0, 0, 0, 0, 0]) + struct.pack("<Q", 1) * rank
    layout = bytes([3, 2, rank + 1]) + struct.pack("<Q", 1024) + struct.pack("<I", 1) * (rank + 1)
    header = hdf5_object([(1, space), (3, bytes([0x10, 0, 0, 0]) + struct.pack("<IHH", 1, 0, 8)), (8, layout)])

    def node(level: int, child: int, count: int) -> bytes:
        entry = struct.pack("<II", 1, 0) + bytes(8 * (rank + 1)) + struct.pack("<Q", child)
        return b"TREE" + bytes([1, level]) + struct.pack("<H16x", count) + entry * count + bytes(8 * (rank + 2))

    def make(size: int) -> bytes:
        count = min(size // (8 * rank + 24), 2_000_000 // (8 * rank + 24))
        leaf = node(0, 0, count)
        top = node(1, 1024 + len(node(1, 0, count)), count)
        return (hdf5_head(1024 + len(top) + len(leaf)) + header).ljust(1024, b"\0") + top + leaf

    return make


def hdf5_links(name_bytes: int, header: bytes) -> Make:
    """A group of the newer form with as many links in its header as there is room for."""

    def make(size: int) -> bytes:
        each = 24 + name_bytes + len(header)
        count = min(size // each, 2_000_000 // (32 + name_bytes))

        def link(number: int, target: int) -> tuple[int, bytes]:
            name = (b"%07d" % number).ljust(name_bytes, b"n")
            return 6, b"\1\1" + struct.pack("<H", len(name)) + name + struct.pack("<Q", target)

        at = 96 + len(hdf5_object([link(n, 0) for n in range(count)]))
        root = hdf5_object([link(n, at + n * len(header)) for n in range(count)])
        return (hdf5_head(at + count * len(header)) + root + header * count).ljust(size, b"\0")

    return make


def hdf5_names(name_bytes: int) -> Make:
    """A group of the old form with as many names as there is room for, each of one dataset."""
    dataset = hdf5_object(
        [
            (1, bytes([1, 1, 0, 0, 0, 0, 0, 0]) + struct.pack("<Q", 8)),
            (3, bytes([0x10, 0, 0, 0]) + struct.pack("<IHH", 1, 0, 8)),
            (8, bytes([3, 1]) + struct.pack("<QQ", 0, 8)),
        ]
    )

    def make(size: int) -> bytes:
        width = -(-(name_bytes + 1) // 8) * 8
        count = size // (width + 40 + len(dataset))
        per = 50_000
        nodes = -(-count // per)
        root = hdf5_object([(17, struct.pack("<QQ", 1024, 2048))])
        heap_at = 2080 + 8 * (2 * nodes + 1)
        names = b"".join((b"%09d" % n).ljust(name_bytes, b"n").ljust(width, b"\0") for n in range(count))
        names = bytes(8) + names
        node_at = heap_at + len(names)
        object_at = node_at + 8 * nodes + 40 * count
        tree = b"TREE\0\0" + struct.pack("<H16x", nodes) + struct.pack("<Q", 0)
        body = b""
        for n in range(nodes):
            first, last = n * per, min(count, (n + 1) * per)
            tree += struct.pack("<QQ", node_at + len(body), 8 + (last - 1) * width)
            body += b"SNOD\1\0" + struct.pack("<H", last - first)
            body += b"".join(
                struct.pack("<QQI20x", 8 + k * width, object_at + k * len(dataset), 0) for k in range(first, last)
            )
        heap = b"HEAP" + struct.pack("<4xQQQ", len(names), 1, heap_at)
        data = (hdf5_head(0) + root).ljust(1024, b"\0")
        data = (data + tree).ljust(2048, b"\0")[:2048] + heap
        data = data.ljust(heap_at, b"\0") + names + body + dataset * count
        return hdf5_head(len(data)) + data[96:]

    return make


def hdf5_messages(size: int) -> bytes:
    """An object of as many attributes as there is room for."""
    body = hdf5_object([(17, bytes(16)), *[(12, b"")] * min(size // 8, 65_000)])
    return (hdf5_head(96 + len(body)) + body).ljust(size, b"\0")


HDF5S: dict[str, Make] = {
    "chunks": hdf5_chunks(1),
    "chunks of many dimensions": hdf5_chunks(9),
    "names": hdf5_names(9),
    "long names": hdf5_names(2000),
    "messages": hdf5_messages,
    "links": hdf5_links(2000, hdf5_object([(1, bytes(8))])),
}

# ---------------------------------------------------------------- TensorFlow


def varint(number: int) -> bytes:
    """A number as LevelDB and protocol buffers write it."""
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)


def index_of(dimensions: int, name: bytes = b"") -> Make:
    """An index of as many tensors of nothing as there is room for."""
    from mlsync.formats.libraries.crc32c import crc32c
    from mlsync.formats.libraries.leveldb_table import TABLE_MAGIC

    def block(content: bytes) -> bytes:
        content += bytes(4) + b"\1\0\0\0" + b"\0"
        crc = crc32c(content)
        return content + (((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")

    def make(size: int) -> bytes:
        shape = b"\x12\0" * dimensions
        message = b"\x08\6\x12" + varint(len(shape)) + shape
        begin = b"\0\0" + varint(2) + b"\x08\1"
        begin += b"\0" + varint(len(name) + 1) + varint(len(message)) + name + b"!" + message
        count = size // (12 + len(message))
        rows = (varint(len(name)) + b"\x09" + varint(len(message)) + b"%09d" % n + message for n in range(count))
        tensors, empty = block(begin + b"".join(rows)), block(b"")
        handle = b"\0" + varint(len(tensors) - 5)
        root = block(b"\0\1" + varint(len(handle)) + b"~" + handle)
        at = len(tensors)
        places = varint(at) + varint(len(empty) - 5) + varint(at + len(empty)) + varint(len(root) - 5)
        return tensors + empty + root + places.ljust(40, b"\0") + TABLE_MAGIC

    return make


def bomb(size: int) -> bytes:
    """A manifest of OCDBT that unpacks to more than is taken: zeros, in zstd."""
    import zstandard

    from mlsync.formats.libraries.crc32c import crc32c

    body = zstandard.ZstdCompressor().compress(bytes(size))
    head = b"\x0c\xdb\x3a\x2a" + (14 + len(body) + 4).to_bytes(8, "little") + b"\0\1"
    return head + body + crc32c(head + body).to_bytes(4, "little")


def plain_index(unit: Callable[[int], bytes], begin: bytes, end: bytes) -> Make:
    """A list of shards in JSON."""
    return filled(begin, unit, end)


CONTAINERS: dict[str, tuple[str, bytes, dict[str, Make]]] = {
    "torch zip": ("torch zip", b"a.pt", {way: in_torch_zip(make) for way, make in PICKLES.items()} | ZIP_RECORDS),
    "torch before 1.6": ("torch before 1.6", b"a.pt", {way: in_legacy(make) for way, make in PICKLES.items()}),
    "torch distributed, `.metadata`": (
        "torch distributed, `.metadata`",
        b"s/.metadata",
        {"chunks": distributed},
    ),
    "safetensors": ("safetensors", b"a.safetensors", HEADERS),
    "npz": (
        "npz",
        b"a.npz",
        {"arrays": records_of(b"%d.npy", array(1)), "dimensions": records_of(b"%d.npy", array(30)), **ZIP_RECORDS},
    ),
    "exported program": (
        "exported program",
        b"a.pt2",
        {
            "weights": program(weight),
            "dimensions": program(lambda n: weight(n, ",".join(["{}"] * 60))),
            "what nobody asked for": program(lambda n: weight(n, end=',"a":[' + ",".join(["{}"] * 300) + "]")),
        },
    ),
    "other models in a zip": (
        "other models in a zip",
        b"a.zip",
        {
            "records": records_of(b"%d.npy"),
            "long names": records_of(b"%d" + WIDE + b".npy"),
            "a torch file inside": lambda size: zip_of([(b"policy.pth", in_torch_zip(PICKLES["dicts"])(size))]),
            "tensors inside": lambda size: zip_of([(b"a.safetensors", HEADERS["tensors"](size))]),
            "files inside": records_of(b"%d.safetensors", safetensors(b"{}".ljust(8))),
        },
    ),
    "HDF5": ("HDF5", b"a.h5", HDF5S),
    "ONNX": ("ONNX", b"a.onnx", GRAPHS),
    "GGUF": ("GGUF 2 and 3, either byte order", b"a.gguf", GGUFS),
    "bare pickle, joblib": ("bare pickle, joblib", b"a.pkl", BARE),
    "flax msgpack": ("flax msgpack", b"a.msgpack", FLAX),
    "TensorFlow": (
        "TensorFlow",
        b"a.index",
        {
            "tensors": index_of(0),
            "dimensions": index_of(250),
            "names": index_of(1, b"a" * 2000),
            "wide names": index_of(1, "\U0001f600".encode() * 500),
        },
    ),
    "OCDBT": ("OCDBT", b"manifest.ocdbt", {"zeros packed": bomb, "zeros": bytes}),
    "index of shards": (
        "index or state of a checkpoint of many files",
        b"model.safetensors.index.json",
        {
            "nested": lambda size: b"[" * size,
            "lists": plain_index(constant(b"[],"), b'{"weight_map":[', b"[]]}"),
            "objects": plain_index(constant(b"{},"), b'{"weight_map":[', b"{}]}"),
            "names": plain_index(lambda n: b'"%d":"",' % n, b'{"weight_map":{', b'"":""}}'),
            "numbers": plain_index(lambda n: b"%d.5," % n, b'{"log":[', b"0]}"),
        },
    ),
}

# ---------------------------------------------------------------- one look


def resident(key: str) -> int:
    """A figure of this process in bytes, as the kernel tells it."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key)]
    return int(line.split()[1]) * 1024


def look(place: Path, name: bytes) -> tuple[int, str]:
    """By how much this process grows at the most when it looks into a file, and what came of it."""
    from contextlib import suppress

    from mlsync.formats.containers import read_content, read_layout
    from mlsync.formats.groups.find import find_units
    from mlsync.formats.layout import ContainerBroken
    from mlsync.formats.libraries.ocdbt import NODE_BYTES_MAX, files_told_of
    from mlsync.formats.sniff import identify

    class File:
        """The file, read where it is asked for."""

        def __init__(self) -> None:
            self.file = place.open("rb", buffering=0)
            self.size_bytes = place.stat().st_size

        def read_at(self, offset: int, length: int) -> bytes:
            self.file.seek(offset)
            return self.file.read(length)

    source, said = File(), "answered"
    with suppress(ContainerBroken):  # what is late is there before it is counted
        read_layout(source, "safetensors")
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    try:
        if name.endswith(b".json"):
            files = {name: source.size_bytes, b"model-00001-of-00001.safetensors": 1}
            find_units(files, lambda _path, limit: source.read_at(0, limit + 1))
        elif name.endswith(b".ocdbt"):
            files_told_of(source.read_at(0, NODE_BYTES_MAX))
        else:
            container = identify(source, name)
            said = str(container)
            if container is not None:
                read_content(source, read_layout(source, container))
    except ContainerBroken as fault:
        said = f"{said}, {type(fault).__name__}: {fault.reason[:80]}"
    return resident("VmHWM") - before, said


def figures(name: str, sizes: list[int]) -> Iterator[tuple[int, str, int, str]]:
    """Growth, way, size and what was said, of each look."""
    _, path, ways = CONTAINERS[name]
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        for way, make in ways.items():
            for size in sizes:
                place = Path(folder) / "file"
                place.write_bytes(make(size * MB))
                command = [sys.executable, __file__, "--look", place, path.decode()]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                assert done.returncode == 0, (name, way, size, done.stderr[-2000:])
                grown, said = json.loads(done.stdout)
                print(f"  {name}: {way}, {size} MB: {grown / MIB:.0f} MiB ({said})", flush=True)
                yield grown, way, size, said


def stated(row: str) -> int | None:
    """The figure that the document states, in MiB."""
    found = re.search(rf"^\| {re.escape(row)} \| ([0-9]+) MiB ", DOCUMENT.read_text(), re.MULTILINE)
    return int(found[1]) if found else None


def main() -> None:
    """Measure, print the table, and keep it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("containers", nargs="*", default=[])
    parser.add_argument("--sizes", default="100,31,16,8,5,3,2")
    parser.add_argument("--look", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.look:
        print(json.dumps(look(Path(options.look[0]), options.look[1].encode())))
        return
    sizes = [int(size) for size in options.sizes.split(",")]
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in options.containers or CONTAINERS:
        grown, way, size, _ = max(figures(name, sizes))
        row = CONTAINERS[name][0]
        kept[row] = {"mib": round(grown / MIB), "stated_mib": stated(row), "way": way, "file_mb": size}
        print(f"| {row} | {stated(row)} MiB | {grown / MIB:.0f} MiB: {way}, {size} MB |", flush=True)
    RESULTS.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
