"""Writes the directories of zarr of this folder: ``python make_zarr.py FOLDER``, with zarr 3.1.6."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec


def main(folder: Path) -> None:
    """Write one group of each version: plain, packed and summed arrays, shards, names of both kinds, a scalar."""
    values = np.arange(24, dtype="f4").reshape(6, 4)
    for version in (2, 3):
        group = zarr.open_group(folder / f"v{version}", mode="w", zarr_format=version)
        plain = group.create_array("plain", shape=(6, 4), chunks=(4, 4), dtype="f4", compressors=None)
        plain[:] = values + 1
        packed = group.create_array("packed", shape=(6, 4), chunks=(4, 4), dtype="f4")
        packed[:] = values + 1
        scalar = group.create_array("scalar", shape=(), dtype="i8", compressors=None)
        scalar[...] = 7
        names = {"name": "v2", "separator": "/" if version == 2 else "."}
        other = group.create_array(
            "named", shape=(6, 4), chunks=(4, 4), dtype="bool", compressors=None, chunk_key_encoding=names
        )
        other[:] = True
        texts = group.create_array("texts", shape=(4,), chunks=(4,), dtype="U3" if version == 2 else str)
        texts[:] = np.array(["a", "b", "c", "d"])
    summed = group.create_array(
        "summed", shape=(6,), chunks=(4,), dtype="f8", serializer=BytesCodec(), compressors=[Crc32cCodec()]
    )
    summed[:] = np.arange(1, 7)
    sharded = group.create_array("sharded", shape=(8, 8), chunks=(2, 2), shards=(4, 4), dtype="i2")
    sharded[:4] = 3


if __name__ == "__main__":
    main(Path(sys.argv[1]))
