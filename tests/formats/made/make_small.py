"""Writes the smallest files of this folder for ``../differential.py``: ``python make_small.py FOLDER``.

``small.h5`` (the oldest form of everything) and ``small-latest.h5`` (the newest) by h5py 3.16.0 with HDF5 2.0.0;
``small.msgpack`` by flax 0.12.8; ``small.joblib`` by joblib 1.6.0 with numpy 2.4.6.
"""

from __future__ import annotations

import sys
from pathlib import Path

import h5py
import joblib
import numpy as np
from flax import serialization


def fill(file: h5py.File) -> None:
    """A group, datasets of three layouts, an attribute."""
    group = file.create_group("layer")
    group.attrs["note"] = "text"
    group.create_dataset("kernel", data=np.arange(12, dtype="<f4").reshape(3, 4))
    group.create_dataset("bias", data=np.arange(5, dtype="<f2"))
    file.create_dataset("steps", data=np.arange(8, dtype="<i4"), chunks=(4,))


def arrays() -> dict[str, object]:
    """Two arrays that are large enough to be looked at, and what is kept beside them."""
    return {
        "epoch": 3,
        "weight": np.random.default_rng(5).standard_normal((16, 20)).astype("f4"),
        "labels": np.arange(150),
        "name": "run",
        "rate": 0.125,
        "done": False,
    }


def main(folder: Path) -> None:
    """Write all files."""
    with h5py.File(folder / "small.h5", "w") as file:
        fill(file)
    with h5py.File(folder / "small-latest.h5", "w", libver="latest") as file:
        group = file.create_group("layer")
        group.create_dataset("kernel", data=np.arange(12, dtype="<f4").reshape(3, 4))
    values = {
        "params": {"kernel": np.arange(12, dtype="f4").reshape(3, 4), "bias": np.arange(5, dtype="f2")},
        "step": 7,
    }
    (folder / "small.msgpack").write_bytes(serialization.msgpack_serialize(values))
    joblib.dump(arrays(), folder / "small.joblib")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
