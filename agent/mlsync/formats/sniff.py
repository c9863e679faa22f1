"""Which checkpoint container a file is: by its content if that is enough, else by its name."""

from __future__ import annotations

import re
from operator import eq

from mlsync.formats.archives.model_zips import is_torch_package, kind_by_first_record, kind_of_zip
from mlsync.formats.layout import ByteSource, ContainerBroken
from mlsync.formats.libraries.leveldb_table import TABLE_MAGIC
from mlsync.formats.libraries.lightgbm_model import begins_as_lightgbm
from mlsync.formats.libraries.ocdbt import begins_whole
from mlsync.formats.libraries.tensorflow_bundle import shard_of
from mlsync.formats.libraries.xgboost_model import begins_as_xgboost
from mlsync.formats.pickles.packed_file import is_packed_pickle
from mlsync.formats.zips.directory import record_names
from mlsync.formats.zips.zip_layout import first_record_name

_HEAD_BYTES = 64
_BEGINNING_BYTES = 16
_TAIL_BYTES = 4096
_SAFETENSORS_HEADER_BYTES_MAX = 100_000_000
# The long 0x1950a86a20f9469cfc6c, with a frame before it from protocol 4 on: the first pickle of torch before 1.6
_LEGACY_OPENING = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
# With up to so many wrong bytes it is such a file, and damaged
_LEGACY_DAMAGED_BYTES_MAX = 6
_LEGACY_TORCH = re.compile(rb"\x80[\x02-\x05](\x95.{8})?\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19\.", re.DOTALL)
# The class that the pickle names first; other programs use the file name too
_DCP_METADATA = re.compile(rb"torch\.distributed\.checkpoint\.metadata")
_RANK_METADATA = re.compile(rb"__\d{1,9}\.metadata")
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_PICKLE_NAME = re.compile(rb".*\.(pkl|pickle|joblib)", re.IGNORECASE | re.DOTALL)
# flax's own checkpoints have no suffix
_FLAX_NAME = re.compile(rb"(.*/)?([^/]*\.msgpack|checkpoint_\d+)", re.DOTALL)
_MAP = re.compile(rb"([\x81-\x8f]|\xde..|\xdf....)[\xa1-\xbf\xd9]", re.DOTALL)
_FRAME = re.compile(rb"\x80[\x04\x05]\x95(.{8})", re.DOTALL)
_TORCH_RECORD = re.compile(r"[^/]+/(data\.pkl|version|byteorder|\.format_version|data/\d+)")
# Everything that torch.save writes besides the pickle: a zip of only these is from a torch.save that failed
_AROUND_PICKLE = re.compile(
    r"[^/]+/(version|byteorder|\.format_version|\.storage_alignment|\.data/(version|serialization_id)|data/\d+)"
)
# The version of the format, then the producer; there is no magic number
_ONNX = re.compile(rb"\x08[\x03-\x20]\x12[\x01-\x28](pytorch|tf2onnx|skl2onnx|onnx|keras2onnx|OnnxMLTools|Paddle)")
_PROMISED_BY_NAME = (
    (re.compile(rb".*\.(pt|pth|ckpt|pth\.tar|pyth|th|ptl|jit)", re.IGNORECASE | re.DOTALL), "torch-zip"),
    (re.compile(rb".*\.(pt2|keras)", re.IGNORECASE | re.DOTALL), "zip"),
    (
        re.compile(rb"((diffusion_)?pytorch_model.*|adapter_model|optimizer|scheduler|training_args)\.bin", re.DOTALL),
        "torch-zip",
    ),
    (re.compile(rb".*\.(safetensors|sft)", re.IGNORECASE | re.DOTALL), "safetensors"),
    (re.compile(rb".*\.npz", re.IGNORECASE | re.DOTALL), "npz"),
    (re.compile(rb".*\.(h5|hdf5)", re.IGNORECASE | re.DOTALL), "hdf5"),
    (re.compile(rb".*\.onnx", re.IGNORECASE | re.DOTALL), "onnx"),
    (re.compile(rb".*\.gguf", re.IGNORECASE | re.DOTALL), "gguf"),
    (re.compile(rb".*\.nemo", re.IGNORECASE | re.DOTALL), "nemo"),
)
# What the names above end in: most files of a large tree have another suffix
_PROMISING = frozenset(
    b"pt pth ckpt tar pyth th ptl jit pt2 keras bin safetensors sft npz h5 hdf5 onnx gguf nemo".split()
)
# Other programs use these suffixes too, so the content must not be plainly something else
_SHARED_NAME = re.compile(rb".*\.(sft|pt2|keras)", re.IGNORECASE | re.DOTALL)
# What containers begin with whose first bytes are text: GGUF; XGBoost; LightGBM; compressed pickles (zlib, bz2, lzma)
_TEXT_BEGINNINGS = (b"GGUF", b"{", b"tree", b"x", b"BZh", b"]")
# Any program's data: it is a checkpoint only if the content says so
_BIN_NAME = re.compile(rb".*\.bin", re.IGNORECASE | re.DOTALL)
# Known by its name at most: such a file may be what is left of a checkpoint
_WEAK = frozenset({"", "zip"})


def is_lost_kind(was: str, now: str | None) -> bool:
    """Return whether a file that was a checkpoint of the container *was* can no longer be recognised as one."""
    # Damage at its start can turn a file of torch before 1.6, and no other, into a bare pickle.
    return now is None or (now in _WEAK and was not in _WEAK) or (was, now) == ("torch-legacy", "pickle")


def identify(source: ByteSource, path: bytes) -> str | None:
    """Return the container's name, or ``None`` for a file that is no checkpoint.

    A file that is named like a checkpoint and is not plainly something else is checked as what its name says.
    """
    if (named := _by_name(source, path)) is not None:
        return named
    promised = _promised(path)
    head = source.read_at(0, min(_HEAD_BYTES, source.size_bytes))
    if path.endswith(b".metadata") and _DCP_METADATA.search(head):
        is_ranks = _RANK_METADATA.fullmatch(path.rpartition(b"/")[2])
        return "dcp-rank-metadata" if is_ranks else "dcp-metadata"
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return _which_zip(source, promised or ("zip" if _BIN_NAME.fullmatch(path) else None))
    if promised in ("torch-zip", "zip") and _is_cut_off(source, head):
        return promised
    # Most small files are plain text: to ask all other questions takes longer than to read such a file.
    is_text = promised is None and _is_plain_text(head)
    shown = None if is_text else _by_head(head, source.size_bytes, promised)
    if shown is None and not is_text:
        shown = _of_python(head, source.size_bytes, path)
    if promised == "zip" and not _is_something_else(source, head):
        shown = None  # it ends like a zip
    is_shared = promised == "torch-zip" or _SHARED_NAME.fullmatch(path)
    if shown is None and is_shared and _is_something_else(source, head):
        return None
    return shown or promised


def _is_plain_text(head: bytes) -> bool:
    """Return whether a file begins with text that no container begins with."""
    # A safetensors file begins with its header's length, of which the last four bytes are zero.
    return head.isascii() and head[:1] >= b" " and b"\0" not in head[:8] and not head.startswith(_TEXT_BEGINNINGS)


def _by_name(source: ByteSource, path: bytes) -> str | None:
    """Return the container if the file's name, or its end, is enough to tell."""
    if path.endswith(b".distcp"):
        return "dcp"  # several zips in a row, which look like one damaged zip
    if shard_of(path) is not None:
        return "tensorflow-shard"  # tensors and nothing else
    if path.rpartition(b"/")[2] == b"manifest.ocdbt":
        return "ocdbt"
    return "tensorflow-index" if path.endswith(b".index") and _ends_as_table(source) else None


def _ends_as_table(source: ByteSource) -> bool:
    length = len(TABLE_MAGIC)
    return source.size_bytes > length and source.read_at(source.size_bytes - length, length) == TABLE_MAGIC


def is_checkpoint_name(path: bytes) -> bool:
    """Return whether a file of this name is treated as a checkpoint whatever its content is."""
    return _promised(path) is not None


def _promised(path: bytes) -> str | None:
    if path.rpartition(b".")[2].lower() not in _PROMISING:
        return None
    name = path.rsplit(b"/", 1)[-1]
    return next((container for pattern, container in _PROMISED_BY_NAME if pattern.fullmatch(name)), None)


def _which_zip(source: ByteSource, promised: str | None) -> str | None:
    """Return the container of a zip; one without a model in it is a checkpoint only if its name says so."""
    try:
        names = record_names(source)
    except ContainerBroken:
        return _which_cut_zip(first_record_name(source) or "", promised)
    if is_torch_package(names):
        return "zip"
    if any(_is_object_of_torch(name, names, promised) for name in names if name.endswith("/data.pkl")):
        return "torch-zip"
    if all(map(_AROUND_PICKLE.fullmatch, names)) and (names or promised == "torch-zip"):
        return "torch-zip"  # without its pickle, which level 1 reports
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    return "npz" if promised == "npz" else kind_of_zip(names) or (promised and "zip")


def _which_cut_zip(first: str, promised: str | None) -> str | None:
    """Return the container of a zip without a directory (yet), by its first record."""
    if _TORCH_RECORD.fullmatch(first):
        return "torch-zip"
    return "npz" if first.endswith(".npy") else kind_by_first_record(first) or promised


def _is_object_of_torch(name: str, names: set[str], promised: str | None) -> bool:
    """Return whether torch saved a pickle: the format's version is beside it, or the file's name says so."""
    place = name.removesuffix("data.pkl")
    return promised == "torch-zip" or not names.isdisjoint({f"{place}version", f"{place}.data/version"})


def _is_something_else(source: ByteSource, head: bytes) -> bool:
    """Return whether a file with torch's suffix is another framework's (TensorFlow and MindSpore write ``.ckpt`` too).

    Such a file must not be refused for ever as a broken zip. A file that is empty, all zeros, or ends like a zip still
    counts as torch's: it is incomplete, or damaged at its start.
    """
    if not head[:_BEGINNING_BYTES].strip(b"\0"):
        return False
    tail_bytes = min(_TAIL_BYTES, source.size_bytes)
    return b"PK\x05\x06" not in source.read_at(source.size_bytes - tail_bytes, tail_bytes)


def _is_cut_off(source: ByteSource, head: bytes) -> bool:
    """Return whether the file is shorter than, and equal to the start of, the first bytes of a torch file."""
    return source.size_bytes < _BEGINNING_BYTES and (b"PK\x03\x04".startswith(head) or _LEGACY_OPENING.startswith(head))


def _is_almost_legacy(head: bytes) -> bool:
    """Return whether the file begins like one of torch before 1.6, with at most a few damaged bytes."""
    same: int = sum(map(eq, head, _LEGACY_OPENING))
    return same >= len(_LEGACY_OPENING) - _LEGACY_DAMAGED_BYTES_MAX


def _by_head(head: bytes, size_bytes: int, promised: str | None) -> str | None:
    """Return the container that the file's first bytes show."""
    if _LEGACY_TORCH.match(head) or _is_almost_legacy(head):
        return "torch-legacy"
    if head[:4] == b"GGUF":
        return "gguf"
    if head[:8] == b"\x89HDF\r\n\x1a\n":
        return "hdf5"
    if _ONNX.match(head):
        return "onnx"
    if _begins_safetensors(head, size_bytes):
        return "safetensors"
    # A bare pickle alone shows nothing; under torch's suffix it is what torch.load would load
    return "pickle" if promised == "torch-zip" and _PICKLE.match(head) else None


def _of_python(head: bytes, size_bytes: int, path: bytes) -> str | None:
    """Return the container of a pickle (by its name or its first frame), of flax and JAX, or of boosted trees."""
    frame = _FRAME.match(head)
    if frame is not None and 0 < int.from_bytes(frame[1], "little") <= size_bytes - frame.end():
        return "pickle"
    if begins_whole(head, size_bytes, path):
        return "ocdbt"
    if _FLAX_NAME.fullmatch(path) and _MAP.match(head):
        return "flax-msgpack"
    booster = "lightgbm" if begins_as_lightgbm(head) else begins_as_xgboost(head)
    if booster is not None or is_packed_pickle(path, head):
        return booster or "packed-pickle"
    return "pickle" if _PICKLE_NAME.fullmatch(path) and _PICKLE.match(head) else None


def _begins_safetensors(head: bytes, size_bytes: int) -> bool:
    header_bytes = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and header_bytes <= min(_SAFETENSORS_HEADER_BYTES_MAX, size_bytes - 8)
