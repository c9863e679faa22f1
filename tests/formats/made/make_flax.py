"""Makes the files of ``tests/formats/libraries/test_flax_msgpack.py``: ``python make_flax.py FOLDER``.

Run with Python 3.11, flax 0.12.8, jax 0.10.2 and optax 0.2.8. The folder is this one.
"""

from __future__ import annotations

import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import serialization
from flax.training import train_state


class Model(nn.Module):
    """Two layers, one of them in bfloat16."""

    @nn.compact
    def __call__(self, rows):
        """What the layers make of rows."""
        return nn.Dense(4, param_dtype=jnp.bfloat16)(nn.relu(nn.Dense(32)(rows)))


def main(folder: Path) -> None:
    """Write a training's state, and a map of several kinds of values."""
    model = Model()
    params = model.init(jax.random.PRNGKey(0), jnp.ones((1, 24)))["params"]
    state = train_state.TrainState.create(apply_fn=model.apply, params=params, tx=optax.adam(1e-3))
    (folder / "state.msgpack").write_bytes(serialization.to_bytes(state.replace(step=300)))
    values = {
        "epoch": 3,
        "rows": np.arange(600, dtype="i4").reshape(20, 30),
        "complex": 1 + 2j,
        "scalar": np.float32(3),
        "text": "words",
        "none": None,
        "flag": True,
        "half": 0.5,
        "list": [1, -70000, {"inner": np.ones(5, "f8")}],
    }
    (folder / "values.msgpack").write_bytes(serialization.msgpack_serialize(values))
    serialization.MAX_CHUNK_SIZE = 1000  # as if 1 GiB had been exceeded
    chunked = {"large": np.arange(900, dtype="f4").reshape(30, 30)}
    (folder / "chunked.msgpack").write_bytes(serialization.msgpack_serialize(chunked))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
