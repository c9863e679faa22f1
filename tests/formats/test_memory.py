"""What each parser takes of memory, on the worst files that we could think of; docs/checkpoints.md states the figures.

All bounds, all files and all figures are a 32nd of what they are outside: the one grows with the other, and a test that
makes a million objects takes half a minute.
"""

from __future__ import annotations

import bz2
import contextlib
import gc
import io
import json
import re
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoint_files import MemorySource, rezipped, torch_bytes, with_pickle
from mlsync.formats.archives import archive_content, inner_files, nemo_tar, torch_package
from mlsync.formats.containers import read_content, read_layout
from mlsync.formats.dcp import metadata as dcp_metadata
from mlsync.formats.dcp.metadata import read_dcp_metadata, read_dcp_metadata_layout
from mlsync.formats.faults import NotChecked
from mlsync.formats.groups import find, tree
from mlsync.formats.hdf5 import blocks as hdf5_blocks
from mlsync.formats.hdf5 import container as hdf5
from mlsync.formats.hdf5 import newer as hdf5_newer
from mlsync.formats.layout import ContainerBroken
from mlsync.formats.libraries import (
    flax_msgpack,
    gguf,
    leveldb_table,
    lightgbm_model,
    onnx_message,
    safetensors,
    safetensors_header,
    tensorflow_bundle,
    xgboost_binary,
    xgboost_json,
    xgboost_model,
)
from mlsync.formats.libraries.crc32c import crc32c
from mlsync.formats.pickles import machine as pickle_machine
from mlsync.formats.pickles import packed_file as packed_pickle
from mlsync.formats.pickles import pickle_file as bare_pickle
from mlsync.formats.pickles.machine import read_pickle
from mlsync.formats.sniff import identify
from mlsync.formats.torch import content as torch_content
from mlsync.formats.torch import graph as torch_graph
from mlsync.formats.torch import legacy as legacy_torch
from mlsync.formats.torch import pt2
from mlsync.formats.zips import directory, npz

pytestmark = pytest.mark.slow

MIB = 1 << 20
SHARE = 32
DOCUMENT = Path(__file__, "../../../docs/checkpoints.md").resolve()
BOUNDS = {
    "PICKLE_BYTES_MAX": (pickle_machine, torch_content, dcp_metadata, legacy_torch),
    "OPCODES_BYTES_MAX": (bare_pickle,),
    "_FIRST_BYTES": (bare_pickle,),
    "ARRAYS_MAX": (bare_pickle, npz),
    "TURNS_MAX": (pickle_machine,),
    "GRAPH_BYTES_MAX": (pickle_machine,),
    "_ORDERED_MAX": (pickle_machine,),
    "TENSORS_BYTES_MAX": (
        *(torch_graph, safetensors, safetensors_header, npz, pt2, onnx_message, hdf5, tensorflow_bundle),
        *(flax_msgpack, archive_content),
    ),
    "PARTS_MAX": (xgboost_binary, onnx_message, hdf5_blocks, flax_msgpack),
    "BLOCK_BYTES_MAX": (hdf5_blocks,),
    "HEAP_BYTES_MAX": (hdf5_newer,),
    "TABLE_BYTES_MAX": (pt2,),
    "ITEMS_MAX": (dcp_metadata,),
    "NUMBERS_MAX": (dcp_metadata,),
    "CHECKED_HEADER_BYTES_MAX": (safetensors_header,),
    "TENSORS_MAX": (safetensors_header, gguf),
    "NAMES_BYTES_MAX": (directory, gguf, tensorflow_bundle, nemo_tar),
    "INDEX_BYTES_MAX": (tensorflow_bundle,),
    "UNPACKED_BYTES_MAX": (inner_files,),
    "PACKAGE_PICKLE_BYTES_MAX": (torch_package,),
    "ABOUT_BYTES_MAX": (inner_files,),
    "PLAIN_BYTES_MAX": (packed_pickle,),
    "KEPT_BYTES_MAX": (packed_pickle,),
    "JSON_BYTES_MAX": (xgboost_json,),
    "LIST_BYTES_MAX": (xgboost_json, xgboost_binary),
    "HEAD_BYTES_MAX": (lightgbm_model,),
    "TREE_BYTES_MAX": (lightgbm_model,),
    "TREES_MAX": (lightgbm_model,),
    "FILES_MAX": (inner_files,),
    "RECORDS_MAX": (directory, nemo_tar),
    "MEMBERS_MAX": (nemo_tar,),
    "DIRECTORY_BYTES_MAX": (directory,),
    "SMALL_BYTES_MAX": (tree,),
    "PARSED_BYTES_MAX": (tree,),
}


@pytest.fixture(autouse=True)
def _a_32nd(monkeypatch):
    """Divide every bound."""
    for name, modules in BOUNDS.items():
        for module in modules:
            monkeypatch.setattr(module, name, getattr(module, name) // SHARE)


def stated_bytes(row: str) -> int:
    """The share of the figure that the document states for a container."""
    [figure] = re.findall(rf"^\| {re.escape(row)} \| ([0-9]+) MiB \|", DOCUMENT.read_text(), re.MULTILINE)
    return int(figure) * MIB // SHARE


def peak_of(action: Callable[[], object]) -> int:
    """How many bytes an action takes at the most, whether it is refused or answered."""
    gc.collect()
    gc.disable()  # it would look at a million objects again and again
    tracemalloc.start()
    try:
        with contextlib.suppress(ContainerBroken):
            action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        gc.enable()


def looked_into(content: bytes, name: bytes) -> Callable[[], object]:
    """All that a backup asks of a file at its source."""
    source = MemorySource(content)

    def look() -> object:
        container = identify(source, name)
        if container is None:
            return None
        return read_content(source, read_layout(source, container))

    return look


# ---------------------------------------------------------------- pickles

# Somewhat fewer than the bounds let through, so that the graph is walked as well
DICTS = 23_500


def odd_memo() -> bytes:
    """Objects that are kept under numbers out of order."""
    return b"\x80\x02](" + b"".join(b"}r" + (31_250 - n).to_bytes(4, "little") for n in range(12_500)) + b"e."


def one_list_in_many_places() -> bytes:
    """A list that names one list as often as there are turns."""
    return b"\x80\x04]\x94](" + b"h\0" * (pickle_machine.TURNS_MAX - 100) + b"ea."


def long_names() -> bytes:
    """Tensors without number at the end of a long way."""
    way = b"}X\xc8\0\0\0" + b"k" * 200
    storage = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpuK\0tQ\x94"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(h\0K\0))tR"
    return b"\x80\x04" + storage + b"0" + way * 5 + b"](" + tensor * 6_250 + b"e" + b"s" * 5 + b"."


PICKLES = {
    "dicts": lambda: b"\x80\x04](" + b"}" * DICTS + b"e.",
    "more dicts than pass": lambda: b"\x80\x04](" + b"}" * 2 * DICTS + b"e.",
    "calls": lambda: b"\x80\x02](" + b"cx\ny\n)R" * 9_250 + b"e.",
    "odd memo": odd_memo,
    "one list": one_list_in_many_places,
    "long names": long_names,
    "wide texts": lambda: b"\x80\x02](" + (b"X\x20\0\0\0" + b"a" * 28 + b"\xf0\x9f\x98\x80") * 21_750 + b"e.",
    "one text": lambda: (
        b"\x80\x04X" + (31 * MIB // SHARE).to_bytes(4, "little") + b"a" * (31 * MIB // SHARE - 4) + b"\xf0\x9f\x98\x80."
    ),
}


@pytest.mark.parametrize("make", PICKLES.values(), ids=PICKLES.keys())
def test_a_torch_file_takes_no_more_than_is_stated(make):
    """Whatever a pickle makes, the whole look at its file stays below the figure in the document."""
    content = with_pickle(make(), b"")
    assert peak_of(looked_into(content, b"a.pt")) < stated_bytes("torch zip")


def raw_stretches() -> bytes:
    """As many raw stretches as the graph has room for, each an array of its own."""
    one = b"cnumpy\n_frombuffer\n(B\0\4\0\0" + bytes(1024) + b"cnumpy\ndtype\n(X\2\0\0\0i1tRM\0\4\x85X\1\0\0\0CtR"
    return b"\x80\x04](" + one * 3_000 + b"e."


@pytest.mark.parametrize("make", [*PICKLES.values(), raw_stretches], ids=[*PICKLES.keys(), "raw stretches"])
def test_a_bare_pickle_takes_no_more_than_is_stated(make):
    """So it is where the pickle is all of the file, and where raw bytes are left in it."""
    content = make()
    assert peak_of(looked_into(content, b"a.pkl")) < stated_bytes("bare pickle, joblib")


PACKED = {
    "dicts": lambda: zlib.compress(PICKLES["dicts"]()),
    "raw stretches": lambda: zlib.compress(raw_stretches()),
    "one text": lambda: zlib.compress(PICKLES["one text"]()),
    "zeros": lambda: bz2.compress(b"\x80\x04B" + (8 * MIB).to_bytes(4, "little") + bytes(8 * MIB) + b"."),
}


@pytest.mark.parametrize("make", PACKED.values(), ids=PACKED.keys())
def test_a_compressed_pickle_takes_no_more_than_is_stated(make):
    """So it is where the pickle comes out of a stream, of which the last part is kept."""
    content = make()
    assert peak_of(looked_into(content, b"a.joblib")) < stated_bytes("compressed pickle, joblib")


def distributed_metadata() -> bytes:
    """As many chunks as pass, each with its places in lists of its own that one list is the pattern of."""
    row = b"](" + b"K\1" * 20 + b"e"
    chunk = b"cx\nC\n)\x81}(X\7\0\0\0offsetsh\1X\5\0\0\0sizesh\1ub"
    tensor = b"cx\nT\n)\x81}(X\4\0\0\0sizeh\1X\6\0\0\0chunks](" + chunk * 2_750 + b"eub"
    fields = b"X\x13\0\0\0state_dict_metadata}X\1\0\0\0a" + tensor + b"sX\x0c\0\0\0storage_data}"
    return b"\x80\x04N\x940" + row + b"\x940cx\nMetadata\n)\x81}(" + fields + b"ub."


def test_metadata_take_no_more_than_is_stated():
    """So it is with the metadata of a distributed checkpoint."""
    content = distributed_metadata()
    assert peak_of(lambda: read_dcp_metadata(content)) < stated_bytes("torch distributed, `.metadata`")


def test_metadata_that_mean_nothing_are_not_held_twice():
    """What was made of metadata whose meaning is refused is gone before their pickle is looked at alone."""
    content = distributed_metadata()
    with pytest.raises(NotChecked):
        read_dcp_metadata(content)
    peak_bytes = peak_of(lambda: read_dcp_metadata_layout(MemorySource(content)))
    assert peak_bytes < 1.2 * peak_of(lambda: read_pickle(content))


# ---------------------------------------------------------------- safetensors


def with_header(header: bytes) -> bytes:
    """A safetensors file of that header and no tensor bytes."""
    return len(header).to_bytes(8, "little") + header


def empty_tensors(count: int, shape: str, name: str = "{}") -> bytes:
    """A header of tensors without elements."""
    entry = '"%s":{"dtype":"I8","shape":[%s],"data_offsets":[0,0]}'
    return ("{" + ",".join(entry % (name.format(number), shape) for number in range(count)) + "}").encode()


HEADERS = {
    "nested lists": lambda: b'{"a":{"shape":' + b"[" * (30 * MIB // SHARE) + b"]" * 10 + b"}}",
    "lists in an entry": lambda: b'{"a":{"shape":[' + b"[]," * 312_500 + b"[]]}}",
    "nested objects": lambda: b'{"a":' * 156_250,
    "many tensors": lambda: empty_tensors(safetensors_header.TENSORS_MAX, "0"),
    "too many tensors": lambda: empty_tensors(safetensors_header.TENSORS_MAX + 1, "0"),
    "many dimensions": lambda: empty_tensors(3_125, "0" + ",7" * 20),
    "metadata": lambda: b'{"__metadata__":{' + b",".join(b'"%d":""' % number for number in range(62_500)) + b"}}",
    "wide names": lambda: empty_tensors(937, "0", "{}" + "a" * 900 + "\U0001f600"),
    "one name": lambda: b'{"' + b"a" * (31 * MIB // SHARE) + b'":{}}',
    "99 MB": lambda: b'{"a":' + b"[" * 98_999_990,
}


@pytest.mark.parametrize("make", HEADERS.values(), ids=HEADERS.keys())
def test_a_safetensors_file_takes_no_more_than_is_stated(make):
    """Whatever its header holds, the whole look at a file stays below the figure in the document."""
    content = with_header(make())
    assert peak_of(looked_into(content, b"a.safetensors")) < stated_bytes("safetensors")


# ---------------------------------------------------------------- zips


def zip_of(count: int, name: bytes, content: bytes = b"") -> bytes:
    """A zip of as many stored records, named by their numbers, all of the same content."""
    checksum, size = zlib.crc32(content), len(content)
    heads, directory = [], []
    at = 0
    for number in range(count):
        own = name % number
        fields = (0, 0x800, 0, 0, 0, checksum, size, size, len(own), 0)
        heads.append(b"PK\3\4" + struct.pack("<5H3L2H", *fields) + own + content)
        directory.append(b"PK\1\2" + struct.pack("<H5H3L5H2L", 0, *fields, 0, 0, 0, 0, at) + own)
        at += len(heads[-1])
    body, table = b"".join(heads), b"".join(directory)
    end64 = b"PK\6\6" + struct.pack("<Q2H2L4Q", 44, 0, 0, 0, 0, count, count, len(table), len(body))
    locator = b"PK\6\7" + struct.pack("<LQL", 0, len(body) + len(table), 1)
    return (
        body + table + end64 + locator + b"PK\5\6" + struct.pack("<4H2LH", 0, 0, *(0xFFFF,) * 2, *(0xFFFFFFFF,) * 2, 0)
    )


def array_of_many_dimensions(count: int = 21) -> bytes:
    """An array of nothing, in as many dimensions as there may be."""
    header = b"{'descr': '|i1', 'fortran_order': False, 'shape': (0" + b",7" * (count - 1) + b",), }\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header


ZIPS = {
    "records": (b"a.pt", lambda: zip_of(directory.RECORDS_MAX, b"a/data/%d")),
    "records of any name": (b"data.zip", lambda: zip_of(directory.RECORDS_MAX, b"%d")),
    "a million records": (b"data.zip", lambda: zip_of(31_250, b"%d")),
    "wide names": (b"a.pt", lambda: zip_of(750, b"%d" + b"a" * 900 + "\U0001f600".encode())),
    "arrays of one kind": (b"a.npz", lambda: zip_of(3_100, b"%d.npy", array_of_many_dimensions(1))),
    "more arrays than pass": (b"a.npz", lambda: zip_of(6_000, b"%d.npy", array_of_many_dimensions(1))),
    "arrays": (b"a.npz", lambda: zip_of(1_875, b"%d.npy", array_of_many_dimensions())),
}


@pytest.mark.parametrize(("name", "make"), ZIPS.values(), ids=ZIPS.keys())
def test_a_zip_takes_no_more_than_is_stated(name, make):
    """However many records a zip has and whatever they are called, the look at it stays below the figure."""
    content = make()
    row = "npz" if name.endswith(b"npz") else "torch zip"
    assert peak_of(looked_into(content, name)) < stated_bytes(row)


def policies(pickle: bytes, *, packed: bool) -> bytes:
    """Many files of torch in a zip, each of which takes what it may."""
    inner = with_pickle(pickle, b"")
    return rezipped(
        {"_stable_baselines3_version": b"2", **{f"{number}.pth": inner for number in range(3)}},
        zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED,
    )


def package_of(pickle: bytes) -> bytes:
    """A package of pickles that take what they may."""
    return rezipped({"a/.data/extern_modules": b"", **{f"a/{number}.pkl": pickle for number in range(3)}})


INNER = {
    "dicts": lambda: policies(PICKLES["dicts"](), packed=False),
    "packed dicts": lambda: policies(PICKLES["dicts"](), packed=True),
    "packed long names": lambda: policies(long_names(), packed=True),
    "packages": lambda: package_of(PICKLES["dicts"]()),
    "arrays": lambda: zip_of(312, b"a/%d.npy", array_of_many_dimensions()) + b"",
    "zeros": lambda: policies(bytes(15 * MIB // SHARE), packed=True),
}


@pytest.mark.parametrize("make", INNER.values(), ids=INNER.keys())
def test_a_model_in_a_zip_takes_no_more_than_is_stated(make):
    """Whatever the files in it hold, and whether they are compressed: the whole look stays below the figure."""
    content = make()
    assert peak_of(looked_into(content, b"a.keras")) < stated_bytes("other models in a zip")


# ---------------------------------------------------------------- exported programs


def program_of(weights: str, records: int = 1) -> bytes:
    """A program whose table is *weights*, in a zip with right checksums."""
    table = ('{"config":{' + weights + "}}").encode()
    parts = {f"a/data/weights/{number}": b"" for number in range(records)}
    return rezipped({"a/archive_format": b"pt2", "a/models/m": b"", **parts, "a/data/weights/_config.json": table})


def weight(number: int, sizes: str = "", end: str = "") -> str:
    """An entry as short as it may be."""
    meta = f'{{"dtype":7,"sizes":[{sizes}],"strides":[{sizes}],"storage_offset":{{"as_int":0}},"layout":7}}'
    return f'"{number}":{{"path_name":"{number}","use_pickle":false,"tensor_meta":{meta}{end}}}'


PROGRAMS = {
    "weights": lambda: program_of(",".join(weight(number) for number in range(1_750)), 1_750),
    "shared weights": lambda: program_of(
        ",".join(weight(number).replace(f'name":"{number}"', 'name":"0"') for number in range(1_875))
    ),
    "dimensions": lambda: program_of(weight(0, ",".join(["{}"] * 37_500))),
    "what nobody asked for": lambda: program_of(weight(0, end=',"a":[' + ",".join(["{}"] * 75_000) + "]")),
}


@pytest.mark.parametrize("make", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_an_exported_program_takes_no_more_than_is_stated(make):
    """Whatever its tables hold, the whole look at a file stays below the figure in the document."""
    content = make()
    assert peak_of(looked_into(content, b"a.pt2")) < stated_bytes("exported program")


# ---------------------------------------------------------------- HDF5


def tree_node(level: int, rank: int, child: int, count: int) -> bytes:
    """A node of a tree of chunks, all of whose children are the same."""
    entry = struct.pack("<II", 1, 0) + bytes(8 * (rank + 1)) + struct.pack("<Q", child)
    return b"TREE" + bytes([1, level]) + struct.pack("<H16x", count) + entry * count + bytes(8 * (rank + 2))


def hdf5_of(rank: int, leaf_count: int, leaf_chunks: int, filters: bytes = b"") -> bytes:
    """A file of one dataset, which has so many chunks of one byte, that went through *filters*."""
    messages = [
        (1, bytes([1, rank, 0, 0, 0, 0, 0, 0]) + struct.pack("<Q", 1) * rank),
        (3, bytes([0x10, 0, 0, 0]) + struct.pack("<IHH", 1, 0, 8)),
        (8, bytes([3, 2, rank + 1]) + struct.pack("<Q", 1024) + struct.pack("<I", 1) * (rank + 1)),
        *([(11, filters)] if filters else []),
    ]
    body = b"".join(struct.pack("<HHB3x", kind, len(data), 0) + data for kind, data in messages)
    header = struct.pack("<BxHII4x", 1, len(messages), 1, len(body)) + body
    leaf_at = 1024 + 24 + leaf_count * (8 * rank + 24) + 8 * (rank + 2)
    nodes = tree_node(1, rank, leaf_at, leaf_count) + tree_node(0, rank, 0, leaf_chunks)
    end = 1024 + len(nodes)
    head = hdf5_blocks.SIGNATURE + bytes([0, 0, 0, 0, 0, 8, 8, 0, 4, 0, 16, 0, 0, 0, 0, 0])
    head += struct.pack("<6QII16x", 0, (1 << 64) - 1, end, (1 << 64) - 1, 0, 96, 0, 0)
    return (head + header).ljust(1024, b"\0") + nodes


DEFLATED = bytes([1, 1]) + bytes(6) + struct.pack("<HHHH", 1, 0, 0, 0)


@pytest.mark.parametrize("shape", [(1, 150, 200), (9, 150, 150), (1, 750, 40), (1, 150, 200, DEFLATED)])
def test_an_hdf5_file_takes_no_more_than_is_stated(shape):
    """However many chunks of how many dimensions it has, the whole look at a file stays below the figure."""
    content = hdf5_of(*shape)
    assert peak_of(looked_into(content, b"a.h5")) < stated_bytes("HDF5")


# ---------------------------------------------------------------- boosted trees

NODE_LISTS = [name.encode() for name in xgboost_model.NODE_LISTS]
TREE_LISTS = (b"split_feature", b"threshold", b"decision_type", b"left_child", b"right_child", b"leaf_value")


def boosted(trees: bytes, beside: bytes = b"", count: int = 0) -> bytes:
    """A model of XGBoost in JSON."""
    told = b'"gbtree_model_param":{"num_trees":"%d"}' % count
    booster = b'{"learner":{"gradient_booster":{"model":{%s,"trees":[%s]}},' % (told, trees)
    return booster + b'"learner_model_param":{"num_feature":"1"}%s}}' % beside


def json_tree(numbers: bytes = b"", nodes: int = 0) -> bytes:
    """A tree as short as it may be."""
    lists = b",".join(b'"%s":[%s]' % (name, numbers) for name in NODE_LISTS)
    return b'{%s,"tree_param":{"num_nodes":"%d"}}' % (lists, nodes)


def binary(key: bytes, value: bytes) -> bytes:
    """A model of XGBoost in the binary form, with something in it."""
    return b"{L\0\0\0\0\0\0\0\x07learner{" + b"i\x01a{" * 15 + b"i%c" % len(key) + key + value


def binary_tree(nodes: int) -> bytes:
    """A tree of nodes that name the first one."""
    numbers = b"[$l#l" + nodes.to_bytes(4, "big") + bytes(4 * nodes)
    lists = b"".join(b"i%c%s" % (len(name), name) + numbers for name in NODE_LISTS)
    told = b"%d" % nodes
    return b"{" + lists + b"i\x0atree_param{i\x09num_nodesSi%c%s}}" % (len(told), told)


def lightgbm(head: bytes = b"", tree: bytes = b"") -> bytes:
    """A model of LightGBM with one tree."""
    tree = b"Tree=0\n" + tree
    return b"tree\nversion=v4\nmax_feature_idx=1\n%stree_sizes=%d\n\n%send of trees\n" % (head, len(tree), tree)


BOOSTED = {
    "trees": lambda: boosted(b",".join([json_tree()] * 5_500), count=5_500),
    "children": lambda: boosted(json_tree(b",".join([b"0"] * 65_000), 65_000), count=2),
    "words": lambda: boosted(json_tree(b",".join([b"NaN"] * 37_500), 37_500), count=1),
    "attributes": lambda: boosted(b"", b',"attributes":{' + b",".join(b'"%d":[]' % n for n in range(75_000)) + b"}"),
    "keys": lambda: binary(b"b", b"{" + b"".join(b"U\xc8%0200dZ" % n for n in range(2_250))),
    "nested": lambda: binary(b"trees", b"[" + b"[" * 25_000),
    "binary children": lambda: binary(b"trees", b"[#i\1" + binary_tree(1 << 14)),
    "lines": lambda: lightgbm(b"a=\n" * 75_000),
    "sizes": lambda: lightgbm(b"tree_sizes=" + b"1 " * 5_000 + b"\n"),
    "leaves": lambda: lightgbm(
        b"", b"num_leaves=10001\n" + b"".join(name + b"=" + b"1 " * 10_000 + b"\n" for name in TREE_LISTS)
    ),
}


@pytest.mark.parametrize("make", BOOSTED.values(), ids=BOOSTED.keys())
def test_boosted_trees_take_no_more_than_is_stated(make):
    """However many trees, nodes, attributes and lines there are: the whole look stays below the figure."""
    content = make()
    assert peak_of(looked_into(content, b"a.model")) < stated_bytes("XGBoost, LightGBM")


# ---------------------------------------------------------------- ONNX


def field(number: int, data: bytes) -> bytes:
    """A field of bytes."""
    length = len(data)
    sizes = bytes([length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14 & 0x7F | 0x80, length >> 21])
    return bytes([number << 3 | 2]) + sizes + data


def graph_of(*fields: bytes) -> bytes:
    """A model of one graph."""
    return b"\x08\x09" + field(7, b"".join(fields)) + field(8, b"")


WIDE = b"a" * 900 + "\U0001f600".encode()
GRAPHS = {
    "tensors": lambda: graph_of(*(field(5, b"\x10\x01\x08\x00") for _ in range(15_000))),
    "named tensors": lambda: graph_of(*(field(5, b"\x10\x01\x08\x00" + field(8, b"%08d" % n)) for n in range(15_000))),
    "dimensions": lambda: graph_of(*(field(5, b"\x10\x01" + b"\x08\x00" * 64) for _ in range(750))),
    "wide names": lambda: graph_of(
        *(field(5, field(8, b"%d" % n + b"a" * 900 + "\U0001f600".encode())) for n in range(500))
    ),
    "entries": lambda: graph_of(field(5, b"".join(field(13, field(1, b"%d" % n)) for n in range(15_000)))),
    "one tensor's dimensions": lambda: graph_of(field(5, field(1, bytes(250_000)))),
}


@pytest.mark.parametrize("make", GRAPHS.values(), ids=GRAPHS.keys())
def test_an_onnx_file_takes_no_more_than_is_stated(make):
    """Whatever its graph holds, the whole look at a file stays below the figure in the document."""
    content = make()
    assert peak_of(looked_into(content, b"a.onnx")) < stated_bytes("ONNX")


# ---------------------------------------------------------------- GGUF


def gguf_of(tensor_count: int, keys: int, name_bytes: int = 8) -> bytes:
    """A GGUF header with so many keys and tensors."""
    pad = b"k" * (name_bytes - 8)
    key = b"".join(struct.pack("<Q", name_bytes) + b"%08d" % n + pad + struct.pack("<IB", 0, 1) for n in range(keys))
    shape = struct.pack("<I8Q", 8, *(0,) * 8)
    tensors = (
        struct.pack("<Q", name_bytes) + b"%08d" % n + pad + shape + struct.pack("<IQ", 24, 0)
        for n in range(tensor_count)
    )
    return b"GGUF" + struct.pack("<IQQ", 3, tensor_count, keys) + key + b"".join(tensors) + bytes(64)


GGUFS = {
    "tensors": lambda: gguf_of(6_250, 0),
    "keys": lambda: gguf_of(0, 12_500),
    "long keys": lambda: gguf_of(0, 10, 57_000),
}


@pytest.mark.parametrize("make", GGUFS.values(), ids=GGUFS.keys())
def test_a_gguf_file_takes_no_more_than_is_stated(make):
    """Whatever its header holds, the whole look at a file stays below the figure in the document."""
    content = make()
    assert peak_of(looked_into(content, b"a.gguf")) < stated_bytes("GGUF 2 and 3, either byte order")


# ---------------------------------------------------------------- flax


def msgpack_of(count: int, array: bytes, key: bytes = b"%07d") -> bytes:
    """A map of so many arrays."""
    entries = (b"\xd9" + bytes([len(name := key % n)]) + name + array for n in range(count))
    return b"\x81\xa1a\xdf" + struct.pack(">I", count) + b"".join(entries)


def flax_array(dimensions: int) -> bytes:
    """An array of nothing."""
    content = b"\x93\xdc" + struct.pack(">H", dimensions) + b"\0" + b"\xcd\1\1" * (dimensions - 1) + b"\xa4int8\xc4\0"
    return b"\xc7" + bytes([len(content)]) + b"\1" + content


FLAX = {
    "arrays": lambda: msgpack_of(15_000, flax_array(1)),
    "dimensions": lambda: msgpack_of(1_500, flax_array(60)),
    "names": lambda: msgpack_of(5_000, flax_array(1), b"%07d" + b"n" * 200),
    "numbers": lambda: msgpack_of(50_000, b"\1"),
}


@pytest.mark.parametrize("make", FLAX.values(), ids=FLAX.keys())
def test_a_checkpoint_of_flax_takes_no_more_than_is_stated(make):
    """Whatever the map holds, the whole look at a file stays below the figure in the document."""
    content = make()
    assert peak_of(looked_into(content, b"a.msgpack")) < stated_bytes("flax msgpack")


# ---------------------------------------------------------------- TensorFlow


def varint(number: int) -> bytes:
    """A number as LevelDB and protocol buffers write it."""
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)


def index_of(count: int, dimensions: int, shared: bytes = b"") -> bytes:
    """An index of so many tensors of nothing, whose names begin alike."""
    shape = b"\x12\0" * dimensions
    message = b"\x08\6\x12" + varint(len(shape)) + shape
    header = b"\0\0" + varint(2) + b"\x08\1"
    begin = header + b"\0" + varint(len(shared) + 1) + varint(len(message)) + shared + b"!" + message
    entries = (varint(len(shared)) + b"\7" + varint(len(message)) + b"%07d" % n + message for n in range(count))
    data = begin + b"".join(entries) if count else begin

    def block(content: bytes) -> bytes:
        content += bytes(4) + b"\1\0\0\0" + b"\0"
        crc = crc32c(content)
        return content + (((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")

    tensors, empty = block(data), block(b"")
    root = block(b"\0\1" + varint(len(handle := b"\0" + varint(len(tensors) - 5))) + b"~" + handle)
    at = len(tensors)
    places = varint(at) + varint(len(empty) - 5) + varint(at + len(empty)) + varint(len(root) - 5)
    return tensors + empty + root + places.ljust(40, b"\0") + leveldb_table.TABLE_MAGIC


TENSORFLOWS = {
    "tensors": lambda: index_of(4_500, 0),
    "more than pass": lambda: index_of(22_500, 0),
    "dimensions": lambda: index_of(200, 254),
    "names": lambda: index_of(225, 1, b"a" * 2000),
    "wide names": lambda: index_of(225, 1, "\U0001f600".encode() * 500),
}


@pytest.mark.parametrize("make", TENSORFLOWS.values(), ids=TENSORFLOWS.keys())
def test_a_checkpoint_of_tensorflow_takes_no_more_than_is_stated(make):
    """Index and shard together, whatever the index holds."""
    index = make()

    def look() -> None:
        looked_into(index, b"a.index")()
        tensorflow_bundle.read_shard(MemorySource(b""), tensorflow_bundle.parse_index(index), 0)

    assert peak_of(look) < stated_bytes("TensorFlow")


def test_the_index_that_is_made_here_is_one():
    """A look at it goes to its end."""
    assert len(tensorflow_bundle.parse_index(index_of(3, 2)).described) == 4


# ---------------------------------------------------------------- what tells of several files

INDEXES = {
    "nested": lambda: b"[" * (31 * MIB // SHARE),
    "lists": lambda: b'{"weight_map":[' + b"[]," * 21_750 + b"[]]}",
    "objects": lambda: b'{"weight_map":[' + b"{}," * 18_750 + b"{}]}",
    "names": lambda: json.dumps({"weight_map": {f"{number}": "" for number in range(37_500)}}).encode(),
    "log": lambda: json.dumps({"log": [{"step": n, "loss": 0.5 + n, "rate": 1e-5 * n} for n in range(7_750)]}).encode(),
}


@pytest.mark.parametrize("make", INDEXES.values(), ids=INDEXES.keys())
def test_an_index_takes_no_more_than_is_stated(make):
    """Whatever stands in the place of an index, what it is parsed to stays below the figure in the document."""
    content = make()
    files = {b"model.safetensors.index.json": len(content), b"model-00001-of-00001.safetensors": 1}
    peak = peak_of(lambda: find.find_units(files, lambda path, limit_bytes: content))
    assert peak < stated_bytes("index or state of a checkpoint of many files")


def tar_of(count: int, name: str, content: bytes = b"") -> bytes:
    """An archive of many members."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:", format=tarfile.GNU_FORMAT) as tar:
        for number in range(count):
            info = tarfile.TarInfo(name.format(number))
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


ARCHIVES = {
    "members": lambda: tar_of(600, "{:08}"),
    "names": lambda: tar_of(600, "n" * 800 + "{:08}"),
    "weights": lambda: tar_of(75, "{}.ckpt", torch_bytes({"w": [1.0]})),
    "dicts": lambda: tar_of(3, "{}.ckpt", with_pickle(PICKLES["dicts"](), b"")),
    "long names": lambda: tar_of(3, "{}.ckpt", with_pickle(long_names(), b"")),
    "records": lambda: tar_of(1, "{}.ckpt", zip_of(1500, b"%08d" + b"r" * 100)),
}


@pytest.mark.parametrize("make", ARCHIVES.values(), ids=ARCHIVES.keys())
def test_an_archive_of_nemo_takes_no_more_than_is_stated(make):
    """However many members and records in these there are: the whole look stays below the figure."""
    assert peak_of(looked_into(make(), b"m.nemo")) <= stated_bytes("NeMo")
