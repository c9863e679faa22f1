"""Writes the HDF5 files of this folder: ``python make_hdf5.py FOLDER``.

``model.h5`` and ``small.weights.h5`` by Keras 3.15.1 on torch; ``kinds.h5`` (the oldest form of everything) and
``latest.h5`` (``libver="latest"``), ``newer.h5`` (the same, with
many names and each index of chunks) and ``filters.h5`` (each filter) by h5py 3.16.0 with HDF5 2.0.0.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import h5py
import numpy as np


def fill(file: h5py.File) -> None:
    """Datasets of each layout and of many types, in groups, with attributes."""
    group = file.create_group("a/b")
    group.attrs["note"] = "x" * 30
    group.create_dataset("plain", data=np.arange(40, dtype="<f4").reshape(5, 8))
    group.create_dataset("half", data=np.arange(7, dtype="<f2"))
    group.create_dataset("big", data=np.arange(7, dtype=">f8"))
    group.create_dataset("scalar", data=np.float64(2.5))
    group.create_dataset("none", data=np.zeros((0, 3), "f4"))
    group.create_dataset("flags", data=np.array([True, False]))
    group.create_dataset("complex", data=np.array([1 + 2j]))
    file.create_dataset("chunks", data=np.arange(600, dtype="<i4").reshape(30, 20), chunks=(16, 16))
    file.create_dataset("packed", data=np.zeros((30, 20), "<f4"), chunks=(16, 16), compression="gzip")
    file.create_dataset("text", data="a text")
    file.create_dataset("unwritten", shape=(9,), dtype="<f4")
    for number in range(12):  # more than one node of a tree of names has
        file.create_dataset(f"many/w{number:03}", data=np.full(3, number, "<f4"))
    file["link"] = h5py.SoftLink("/a/b/plain")
    file["again"] = file["a/b/plain"]


def fill_filtered(file: h5py.File) -> None:
    """Datasets of chunks that went through each filter that there is without a plugin."""
    data = np.arange(300, dtype="<f4")
    kinds = {
        "deflated": {"compression": "gzip"},
        "moved": {"shuffle": True},
        "summed": {"fletcher32": True},
        "all": {"compression": "gzip", "shuffle": True, "fletcher32": True},
        "lzf": {"compression": "lzf", "fletcher32": True},
        "scaled": {"scaleoffset": 2},
    }
    for name, options in kinds.items():
        file.create_dataset(name, data=data, chunks=(160,), **options)
    odd = np.arange(7, dtype="u1")
    file.create_dataset("odd", data=odd, chunks=(7,), fletcher32=True)
    skipped = file.create_dataset("skipped", shape=(4,), dtype="<f4", chunks=(2,), compression="gzip", fletcher32=True)
    skipped.id.write_direct_chunk((0,), np.array([1, 2], "<f4").tobytes(), filter_mask=3)


def fill_newer(file: h5py.File) -> None:
    """A group of more names than its header or one block holds, and each of the newer indexes of chunks."""
    group = file.create_group("g")
    for number in range(77):
        name = f"{number:03}" + "n" * 40
        if number % 11:
            group[name] = group["000" + "n" * 40]
        else:
            group.create_dataset(name, data=np.array([number], "<i4"))
    file.create_dataset("listed", data=np.arange(5, dtype="<f4"), chunks=(2,))
    paged = file.create_dataset("paged", shape=(1100,), dtype="u1", chunks=(1,))
    paged[:6] = 7
    paged[1098:] = 9
    packed = file.create_dataset("packed", shape=(9,), dtype="<f4", chunks=(1,), compression="gzip")
    packed[8] = 1
    values = np.arange(12, dtype="<f4").reshape(3, 4)
    file.create_dataset("single", data=values, chunks=(3, 4))
    file.create_dataset("summed", data=values, chunks=(3, 4), compression="gzip", fletcher32=True)
    file.create_dataset("grows", data=values, chunks=(3, 4), maxshape=(None, 4))
    early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    early.set_chunk((2, 3))
    early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    h5py.h5d.create(file.id, b"row", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((3, 4)), dcpl=early)
    file["row"][:] = values


def main(folder: Path) -> None:
    """Write all files."""
    with h5py.File(folder / "kinds.h5", "w") as file:
        fill(file)
    with h5py.File(folder / "latest.h5", "w", libver="latest") as file:
        fill(file)
    with h5py.File(folder / "newer.h5", "w", libver="latest") as file:
        fill_newer(file)
    with h5py.File(folder / "filters.h5", "w") as file:
        fill_filtered(file)
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((7,)), keras.layers.Dense(5, name="one"), keras.layers.Dense(3, name="two")])
    model.compile("sgd", "mse")
    model.save(folder / "model.h5")
    model.save_weights(folder / "small.weights.h5")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
