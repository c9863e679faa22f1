"""Makes the pickles of ``tests/formats/pickles/test_pickle_file.py``: ``python make_pickles.py FOLDER``.

Run with Python 3.11, numpy 2.4.6, joblib 1.6.0, lz4 4.4.5 and scikit-learn 1.9.1. The folder is this one.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import joblib
import numpy as np
from sklearn.ensemble import GradientBoostingClassifier


def state() -> dict[str, object]:
    """A model by hand: arrays of several types and orders, one twice, one of objects, and texts."""
    random = np.random.default_rng(7)
    weight = random.standard_normal((24, 16)).astype("f4")
    return {
        "epoch": 7,
        "weight": weight,
        "again": weight,
        "by_columns": np.asfortranarray(random.standard_normal((12, 20))),
        "labels": np.arange(600, dtype="i8"),
        "small": np.ones(3, "f4"),
        "names": np.array(["cat", {"dog": 1}, np.arange(400, dtype="i4")], dtype=object),
        "texts": np.array([f"class {n}" for n in range(40)]),
        "table": np.zeros(90, dtype=[("id", "i4"), ("score", "f8")]),
        "big_endian": np.arange(300, dtype=">f8"),
        "scalar": np.float64(0.5),
        "empty": np.zeros((0, 5), "f4"),
    }


def main(folder: Path) -> None:
    """Write one file for each way."""
    folder.mkdir(parents=True, exist_ok=True)
    joblib.dump(state(), folder / "state.joblib")
    for protocol in (4, 5):
        (folder / f"state-{protocol}.pkl").write_bytes(pickle.dumps(state(), protocol))
    rows = np.random.default_rng(0).normal(size=(200, 6))
    model = GradientBoostingClassifier(n_estimators=20).fit(rows, rows[:, 0] > 0)
    joblib.dump(model, folder / "boosting.joblib")
    for way in ("zlib", "gzip", "bz2", "lzma", "xz", "lz4"):
        joblib.dump(state(), folder / f"{way}.joblib", compress=(way, 3))
    with (folder / "several.pkl").open("wb") as file:
        for part in range(3):
            pickle.dump({"part": part, "rows": np.full((30, 10), part, "f4")}, file)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
