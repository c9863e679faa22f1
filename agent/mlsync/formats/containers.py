"""The entry to the parsers: the layout (level 1) and the content (level 2) of a file, by its container."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from mlsync.formats.archives.inner_files import read_inner_files
from mlsync.formats.archives.nemo_tar import NemoLayout, read_nemo_content, read_nemo_layout
from mlsync.formats.dcp.metadata import read_dcp_metadata_content, read_dcp_metadata_layout
from mlsync.formats.facts import with_counts, with_numbers
from mlsync.formats.gc_pause import gc_paused
from mlsync.formats.hdf5.container import Hdf5Layout, read_hdf5_content, read_hdf5_layout
from mlsync.formats.layout import ByteSource, ContainerBroken, Content, Layout, Storage
from mlsync.formats.libraries.boosting import BoosterLayout, read_booster_content
from mlsync.formats.libraries.flax_msgpack import FlaxLayout, read_flax_content, read_flax_layout
from mlsync.formats.libraries.gguf import GgufLayout, read_gguf_content, read_gguf_layout
from mlsync.formats.libraries.lightgbm_model import read_lightgbm_layout
from mlsync.formats.libraries.ocdbt import read_ocdbt_layout
from mlsync.formats.libraries.onnx import OnnxLayout, read_onnx_content, read_onnx_layout
from mlsync.formats.libraries.safetensors import SafetensorsLayout, read_safetensors_content, read_safetensors_layout
from mlsync.formats.libraries.tensorflow_bundle import IndexLayout, read_index_content, read_index_layout
from mlsync.formats.libraries.xgboost_binary import read_xgboost_binary_layout
from mlsync.formats.libraries.xgboost_json import read_xgboost_json_layout
from mlsync.formats.pickles.packed_file import (
    PackedPickleLayout,
    read_packed_pickle_content,
    read_packed_pickle_layout,
)
from mlsync.formats.pickles.pickle_file import PickleLayout, read_pickle_content, read_pickle_layout
from mlsync.formats.sniff import identify
from mlsync.formats.torch.content import read_torch_content, read_torch_layout
from mlsync.formats.torch.legacy import read_legacy_content, read_legacy_layout
from mlsync.formats.torch.pt2 import read_pt2_content
from mlsync.formats.zips.npz import read_npz_content
from mlsync.formats.zips.zip_layout import ZipLayout, read_zip_layout

#: Recognised, but not parsed alone: only its digest is checked. ``read_dcp_shard`` parses a shard of a distributed
#: checkpoint with its metadata, and ``read_shard`` one of TensorFlow with its index.
NOT_UNDERSTOOD = frozenset({"dcp", "tensorflow-shard"})
#: Descriptions of the shards of a distributed checkpoint: of all of them, or of one rank's.
METADATA = frozenset({"dcp-metadata", "dcp-rank-metadata"})
_LAYOUTS: Final[Mapping[str, Callable[[ByteSource], Layout]]] = {
    "flax-msgpack": read_flax_layout,
    "gguf": read_gguf_layout,
    "ocdbt": read_ocdbt_layout,
    "hdf5": read_hdf5_layout,
    "lightgbm": read_lightgbm_layout,
    "nemo": read_nemo_layout,
    "onnx": read_onnx_layout,
    "packed-pickle": read_packed_pickle_layout,
    "pickle": read_pickle_layout,
    "safetensors": read_safetensors_layout,
    "tensorflow-index": read_index_layout,
    "torch-legacy": read_legacy_layout,
    "torch-zip": read_torch_layout,
    "xgboost-json": read_xgboost_json_layout,
    "xgboost-ubj": read_xgboost_binary_layout,
}

#: Containers that are checked inside an archive.
_INNER: Final = frozenset({"gguf", "hdf5", "npz", "safetensors", "torch-legacy", "torch-zip"})
_ZIP_CONTENTS: Final[Mapping[str, Callable[[ByteSource, ZipLayout], Content | None]]] = {
    "torch-zip": read_torch_content,
    "npz": read_npz_content,
    "pt2": read_pt2_content,
}


@gc_paused
def read_layout(source: ByteSource, container: str) -> Layout:
    """Return level 1 of a file that ``identify`` called *container*; raise ``ContainerBroken``."""
    if container in NOT_UNDERSTOOD:
        return Layout(container, source.size_bytes, ())
    if container in METADATA:
        return read_dcp_metadata_layout(source, container)
    reader = _LAYOUTS.get(container)
    return reader(source) if reader is not None else read_zip_layout(source, container)


@gc_paused
def read_content(source: ByteSource, layout: Layout) -> Content | None:
    """Return level 2 of a file whose level 1 is *layout*, or ``None`` if there is nothing to check."""
    if isinstance(layout, GgufLayout):
        return read_gguf_content(layout)
    if isinstance(layout, IndexLayout):
        return read_index_content(layout)
    if isinstance(layout, BoosterLayout):
        return read_booster_content(layout)
    if isinstance(layout, PickleLayout | FlaxLayout):
        return with_counts(
            read_pickle_content(layout) if isinstance(layout, PickleLayout) else read_flax_content(layout)
        )
    if layout.container in METADATA:
        return read_dcp_metadata_content(source, is_part=layout.container == "dcp-rank-metadata")
    content = _read_tensors(source, layout)
    return with_counts(with_numbers(source, content)) if content is not None else None


def _read_tensors(source: ByteSource, layout: Layout) -> Content | None:
    if isinstance(layout, SafetensorsLayout):
        return read_safetensors_content(layout)
    if layout.container == "torch-legacy":
        return read_legacy_content(source, layout)
    if isinstance(layout, ZipLayout | NemoLayout):
        return _read_archive(source, layout)
    if isinstance(layout, Hdf5Layout):
        return read_hdf5_content(layout)
    if isinstance(layout, OnnxLayout):
        return read_onnx_content(layout)
    return read_packed_pickle_content(source, layout) if isinstance(layout, PackedPickleLayout) else None


def _read_archive(source: ByteSource, layout: ZipLayout | NemoLayout) -> Content | None:
    if isinstance(layout, NemoLayout):
        return read_nemo_content(source, layout, _look_inside)
    reader = _ZIP_CONTENTS.get(layout.container)
    return reader(source, layout) if reader is not None else read_inner_files(source, layout, _look_inside)


def _look_inside(source: ByteSource, name: bytes) -> Content | None:
    """Return the content of a file inside an archive, if its container can be checked by itself."""
    container = identify(source, name)
    if container not in _INNER:
        return None
    layout = read_layout(source, container)
    content = read_gguf_content(layout) if isinstance(layout, GgufLayout) else _read_tensors(source, layout)
    return with_numbers(source, content) if content is not None else None


def storages_of(source: ByteSource, layout: Layout) -> tuple[Storage, ...]:
    """Return the storages of a file (offset, length, element width), for cutting and compressing it well.

    A file that does not parse has none: the proof reports the reason later, and must not depend on this call.
    """
    if isinstance(layout, PackedPickleLayout):
        return ()  # there are none, and to find that out the file would be decompressed once more
    try:
        content = read_content(source, layout)
    except ContainerBroken:
        return ()
    return content.storages if content is not None else ()
