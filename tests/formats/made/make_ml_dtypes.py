"""Writes a file like ``ml_dtypes.npz``: run with ml_dtypes 0.6.0 and numpy 2.4.6, as ``python make_ml_dtypes.py``.

numpy has no name for these types: it writes them as raw bytes, ``|V2`` and ``|V1``.
"""

from pathlib import Path

import ml_dtypes
import numpy as np


def main() -> None:
    """Weights in bfloat16 and in float8."""
    generator = np.random.default_rng(5)
    np.savez(
        Path(__file__).with_name("ml_dtypes.npz"),
        w=generator.standard_normal(60).astype(ml_dtypes.bfloat16),
        f8=generator.standard_normal(60).astype(ml_dtypes.float8_e4m3fn),
    )


if __name__ == "__main__":
    main()
