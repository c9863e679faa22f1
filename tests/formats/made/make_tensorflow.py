"""Makes the checkpoints of ``tests/formats/libraries/test_tensorflow_bundle.py``: ``python make_tensorflow.py FOLDER``.

Run with Python 3.11 and tensorflow-cpu 2.21.0. The folder is ``made/tensorflow``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf


class Model(tf.Module):
    """Variables of several types, one of texts."""

    def __init__(self) -> None:
        super().__init__()
        self.w = tf.Variable(np.random.default_rng(1).normal(size=(24, 16)).astype("f4"), name="w")
        self.b = tf.Variable(np.arange(40, dtype="i8"))
        self.h = tf.Variable(tf.cast(tf.ones((30, 10)), tf.bfloat16))
        self.t = tf.Variable(["a", "longer text"])
        self.f = tf.Variable(True)
        self.c = tf.Variable(np.ones((3, 3), "f8"))
        self.step = tf.Variable(12, dtype=tf.int64)


def partitioned(folder: Path) -> None:
    """What TensorFlow 1 wrote: a variable in slices."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        v1.get_variable("part", shape=(64, 8), partitioner=v1.fixed_size_partitioner(2))
        v1.get_variable("plain", shape=(8,))
        v1.get_variable("global_step", initializer=np.int64(7))
        session.run(v1.global_variables_initializer())
        v1.train.Saver(sharded=True).save(session, str(folder / "model.ckpt"), global_step=7, write_meta_graph=False)


def main(folder: Path) -> None:
    """Write a checkpoint of TensorFlow 2, a SavedModel's variables, and a checkpoint of TensorFlow 1."""
    folder.mkdir(parents=True, exist_ok=True)
    model = Model()
    tf.train.Checkpoint(model=model, step=model.step).write(str(folder / "ckpt-1"))
    tf.saved_model.save(model, str(folder / "saved"))
    partitioned(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
