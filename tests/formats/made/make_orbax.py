"""Makes the checkpoint of ``tests/formats/libraries/test_ocdbt.py``, its step 1: ``python make_orbax.py FOLDER``.

Run with Python 3.11, orbax-checkpoint 0.12.8, jax 0.10.2 and the tensorstore of that day.
"""

from __future__ import annotations

import sys

import jax.numpy as jnp
import orbax.checkpoint as ocp

STATE = {
    "params": {"w": jnp.arange(4000, dtype=jnp.float32).reshape(40, 100), "b": jnp.ones(16, jnp.bfloat16)},
    "step": jnp.int32(7),
}

if __name__ == "__main__":
    with ocp.CheckpointManager(sys.argv[1]) as manager:
        manager.save(1, args=ocp.args.StandardSave(STATE))
        manager.wait_until_finished()
