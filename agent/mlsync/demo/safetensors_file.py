"""Tensors as one buffer in the format of safetensors, and back: a length, a header of JSON, and the tensors' bytes.

The demo needs no library for it, which each server that mlsync runs on would have to load: the format is a page, and
the tests read what is written here with the library.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

_LENGTH_BYTES = 8
_ALIGNMENT = 8
_METADATA = "__metadata__"


def packed(tensors: Mapping[str, NDArray[np.float32]], texts: Mapping[str, str]) -> bytes:
    """Return a file that holds *tensors* and, for who reads its header, *texts*."""
    header: dict[str, object] = {_METADATA: dict(texts)}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [begin, end]}
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % _ALIGNMENT)
    parts = (np.ascontiguousarray(tensor, "<f4").data for tensor in tensors.values())
    return b"".join((len(raw).to_bytes(_LENGTH_BYTES, "little"), raw, *parts))


def unpacked(buffer: bytes) -> tuple[dict[str, NDArray[np.float32]], dict[str, str]]:
    """Return tensors and texts of what ``packed`` made."""
    data_at = _LENGTH_BYTES + int.from_bytes(buffer[:_LENGTH_BYTES], "little")
    header = json.loads(buffer[_LENGTH_BYTES:data_at])
    texts: dict[str, str] = header.pop(_METADATA)
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        part = memoryview(buffer)[data_at + begin : data_at + end]
        tensors[name] = np.frombuffer(part, "<f4").reshape(entry["shape"])
    return tensors, texts
