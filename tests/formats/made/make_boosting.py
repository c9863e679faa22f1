"""Writes the models of boosted trees of this folder: ``python make_boosting.py FOLDER``.

Run with xgboost 3.2.0 and lightgbm 4.7.0. XGBoost's deprecated binary form is written by none that can be had any more.
"""

from __future__ import annotations

import sys
from pathlib import Path

import lightgbm
import numpy as np
import xgboost


def main(folder: Path) -> None:
    """Write trees of one number and of several, dropped trees, categories, a linear model; text of two kinds."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    rows = random.normal(size=(300, 6)).astype("f4")
    labels = (rows[:, 0] + rows[:, 1] * rows[:, 2] > 0).astype(int)
    classes = random.integers(0, 3, 300)
    kinds = rows.copy()
    kinds[:, 3] = random.integers(0, 8, 300)
    plain = xgboost.DMatrix(rows, label=labels, feature_names=list("abcdef"))
    several = xgboost.DMatrix(rows, label=classes)
    both = xgboost.DMatrix(rows, label=np.stack([labels, 1 - labels], 1))
    categories = xgboost.DMatrix(kinds, label=labels, feature_types=list("qqqcqq"), enable_categorical=True)
    drop = {"objective": "multi:softprob", "num_class": 3, "max_depth": 2, "booster": "dart"}
    vector = {"multi_strategy": "multi_output_tree", "tree_method": "hist", "max_depth": 2}
    for name, settings, data in (
        ("plain", {"objective": "binary:logistic", "max_depth": 3}, plain),
        ("dart", drop, several),
        ("vector", vector, both),
        ("categories", {"max_depth": 3}, categories),
        ("linear", {"booster": "gblinear"}, plain),
    ):
        model = xgboost.train(settings, data, num_boost_round=2)
        for ending in ("json", "ubj"):
            model.save_model(folder / f"{name}.{ending}")
    settings = {"objective": "binary", "num_leaves": 7, "verbose": -1}
    lightgbm.train(settings, lightgbm.Dataset(rows, labels), 5).save_model(folder / "plain.txt")
    settings = {"objective": "multiclass", "num_class": 3, "num_leaves": 5, "verbose": -1, "linear_tree": True}
    data = lightgbm.Dataset(kinds, classes, categorical_feature=[3])
    lightgbm.train(settings, data, 2).save_model(folder / "linear.txt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
