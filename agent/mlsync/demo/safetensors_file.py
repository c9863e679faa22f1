"""Read and write the safetensors format: a length, a JSON header, and the tensors' bytes.

Without the library, which mlsync would otherwise need on every machine: the format is simple, and the tests read these
files with the library.
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
    """Return a file with *tensors*, and with *texts* as its metadata."""
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
    """Return the tensors and texts of a file that ``packed`` made."""
    data_at = _LENGTH_BYTES + int.from_bytes(buffer[:_LENGTH_BYTES], "little")
    header = json.loads(buffer[_LENGTH_BYTES:data_at])
    texts: dict[str, str] = header.pop(_METADATA)
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        part = memoryview(buffer)[data_at + begin : data_at + end]
        tensors[name] = np.frombuffer(part, "<f4").reshape(entry["shape"])
    return tensors, texts
