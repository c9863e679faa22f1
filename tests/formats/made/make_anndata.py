"""Writes ``small.h5ad`` of this folder: ``python make_anndata.py FOLDER``, with anndata 0.12.19."""

from __future__ import annotations

import sys
from pathlib import Path

import anndata
import numpy as np

if __name__ == "__main__":
    cells = anndata.AnnData(X=np.arange(6, dtype="f4").reshape(3, 2))
    cells.layers["counts"] = np.arange(6, dtype="i4").reshape(3, 2)
    cells.write_h5ad(Path(sys.argv[1]) / "small.h5ad")
