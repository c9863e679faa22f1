"""Files of a version that look like models of an unknown kind: they are stored, and not proved.

The entries alone show it, by name, size and how well the bytes were compressed: no file is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from mlsync.formats.sniff import is_checkpoint_name
from mlsync.repository.encoding.tokens import EntryKind
from mlsync.repository.manifest import Entry
from mlsync.source.exclude import Excludes
from mlsync.source.paths import display
from mlsync.source.state import State

#: Endings that models have, and whose they are.
MODEL_ENDINGS: Final = {
    **dict.fromkeys(("pdparams", "pdopt", "pdmodel", "pdiparams"), "PaddlePaddle"),
    **dict.fromkeys(("engine", "plan", "trt"), "TensorRT"),
    **dict.fromkeys(("caffemodel", "solverstate"), "Caffe"),
    **dict.fromkeys(("ggml", "ggjt", "llamafile"), "llama.cpp"),
    **dict.fromkeys(("cbm", "ubj", "xgb", "lgb", "bst"), "CatBoost, XGBoost, LightGBM"),
    **dict.fromkeys(("rknn", "dlc", "hef", "om", "kmodel"), "compilers for accelerators"),
    **dict.fromkeys(("pte", "ptc"), "ExecuTorch"),
    **dict.fromkeys(("mnn", "tnnmodel", "paddle"), "MNN, TNN, PaddlePaddle"),
    **dict.fromkeys(("mdl", "raw_mdl"), "Kaldi"),
    "joblib": "joblib, packed in a way that is not looked into",
    "tflite": "LiteRT (TensorFlow Lite)",
    "pb": "TensorFlow's frozen graphs",
    "mlmodel": "Core ML",
    "params": "MXNet",
    "weights": "Darknet",
    "t7": "Lua Torch",
    "eqx": "Equinox",
    "mindir": "MindSpore",
    "skops": "skops",
    "model": "XGBoost, gensim and others",
    "mar": "TorchServe",
    "npk": "Burn",
    "bson": "Flux",
    "jld2": "Lux",
}
_SMALLEST_BYTES: Final = 1 << 10
# A TensorFlow graph without weights, or a tokenizer, holds few numbers.
_SMALLEST_WEAK_BYTES: Final = 1 << 20
_WEAK_ENDINGS: Final = frozenset({"pb", "model", "params", "weights", "bson", "plan", "paddle"})
_NO_MODEL: Final = re.compile(
    rb"(.*/)?(tokenizer|spiece|sentencepiece\.bpe|spm|saved_model|keras_metadata)\.(model|pb)"
)
# A file with another ending, or none, counts as a model if it is large and hardly compresses, as floats do: texts and
# tokens shrink to a half and less.
_LARGE_BYTES: Final = 32 << 20
_PACKED_TO: Final = 0.7
_OTHERS: Final = {
    "pictures, sounds, films": (
        "jpg jpeg png gif bmp tif tiff webp heic avif svg dcm nii exr mp4 avi mkv mov webm mpg mpeg m4v wav mp3 "
        "flac ogg opus m4a aac ply las laz pcd obj glb stl"
    ),
    "data sets, and what they are packed in": (
        "npy npz mat csv tsv json jsonl parquet arrow feather orc avro tfrecord tfrecords record rec idx lmdb mdb "
        "beton mds zarr h5ad loom fasta fastq bam sdf db sqlite sqlite3 duckdb leveldb ldb sst rdb zip tar tgz gz "
        "bz2 xz zst lz4 7z rar ffcv lst cache tokens faiss index ann"
    ),
    "logs, traces, dumps": ("log txt out err wandb trace nsys-rep ncu-rep qdrep hprof prof pstats dmp core mlflow aim"),
    "programs and documents": (
        "so dll dylib a o exe pyc whl jar deb rpm egg cubin ptx fatbin pdf ps doc docx ppt pptx xls xlsx html "
        "ipynb pack iso img sif qcow2 vmdk"
    ),
}
_OTHER_ENDINGS: Final = frozenset(ending for endings in _OTHERS.values() for ending in endings.split())
# Data by its name, whatever its ending: nanoGPT's train.bin, MNIST's idx files, images of CIFAR, TensorBoard's events.
_DATA_NAME: Final = re.compile(
    rb"(?:train|val|valid|validation|test|eval|dev|data|dataset|corpus|tokens?|images?|labels?|replay|buffer|events\.out"
    rb"|data_batch|test_batch|core|.*tfevents|.*tfrecord|.*[-_.](?:tokens?|train|val|valid|test|document))"
    rb"(?:[-_.].*)?",
    re.IGNORECASE | re.DOTALL,
)
_DATA_DIRECTORY: Final = re.compile(
    rb"(?:.*/)?(?:datas?|datasets?|\.?cache|\.git|blobs|images|videos?|logs?|replay(?:_buffer)?|wandb|mlruns)/.*",
    re.IGNORECASE | re.DOTALL,
)
# Pieces of what is understood as a whole: chunks of Orbax and zarr, tensors beside an ONNX graph.
_PIECE: Final = re.compile(rb"(?:.*/)?(?:d/[0-9a-f]{32}|(?:c/)?\d+(?:[./]\d+)*|[^/]*\.onnx[._]data|[^/]*\.onnx\.[^/]*)")
_NAMED_MAX: Final = 3


def kind_of(entry: Entry, leave: Excludes | None = None) -> str | None:
    """Return a file's ending, or ``""``, if it looks like a model and has no proof; else ``None``."""
    if entry.kind is not EntryKind.FILE or entry.proof is not None or entry.size_bytes < _SMALLEST_BYTES:
        return None
    path = entry.path
    if _NO_MODEL.fullmatch(path):
        return None
    name = path.rpartition(b"/")[2]
    ending = name.rpartition(b".")[2].decode("ascii", "replace").lower() if b"." in name[1:] else ""
    looks = _is_named_like_one(path, ending, entry.size_bytes) or _holds_numbers(entry, name, ending)
    if not looks or (leave is not None and leave.match(path, is_directory=False)):
        return None
    return ending


def _is_named_like_one(path: bytes, ending: str, size_bytes: int) -> bool:
    """Return whether a model's ending, or a name that promises a checkpoint, says so."""
    if ending in MODEL_ENDINGS:
        return ending not in _WEAK_ENDINGS or size_bytes >= _SMALLEST_WEAK_BYTES
    return is_checkpoint_name(path)


def _holds_numbers(entry: Entry, name: bytes, ending: str) -> bool:
    """Return whether a large file of no other known kind hardly compresses."""
    if entry.size_bytes < _LARGE_BYTES or ending in _OTHER_ENDINGS:
        return False
    if _DATA_NAME.fullmatch(name) or _DATA_DIRECTORY.fullmatch(entry.path) or _PIECE.fullmatch(entry.path):
        return False
    stored_bytes = sum(ref.stored_bytes for ref in entry.chunks)
    return stored_bytes > _PACKED_TO * entry.size_bytes


def not_understood(entries: Iterable[Entry], leave: Sequence[str] = ()) -> dict[bytes, str]:
    """Return the kind of each file that looks like a model and has no proof, except those that *leave* matches."""
    patterns = Excludes(leave) if leave else None
    kinds = ((entry.path, kind_of(entry, patterns)) for entry in entries)
    return {path: kind for path, kind in kinds if kind is not None}


def in_words(paths: Iterable[bytes]) -> str:
    """Return one line on such files."""
    named = sorted(paths)
    what = "file looks like a model and is" if len(named) == 1 else "files look like models and are"
    more = f" and {len(named) - _NAMED_MAX} more" if len(named) > _NAMED_MAX else ""
    shown = ", ".join(map(display, named[:_NAMED_MAX]))
    return f"{len(named)} {what} not understood: stored, not proved ({shown}{more})"


def new_kinds(found: dict[bytes, str], state: State, run: str, now_ns: int) -> str | None:
    """Return a warning of the files whose kind no warning of this run named before, if any; note those kinds."""
    kinds = {kind for kind in found.values() if state.last_ns(run, _mark(kind)) is None}
    for kind in kinds:
        state.set_last_ns(run, _mark(kind), now_ns)
    new = [path for path, kind in found.items() if kind in kinds]
    if not new:
        return None
    return f"{in_words(new)}; not_models under [[watch]] leaves such files unnamed"


def _mark(kind: str) -> str:
    return f"not understood: {kind}"
