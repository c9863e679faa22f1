"""XGBoost's models, in JSON and in Universal Binary JSON: their counts must agree, and children must be nodes.

This module has what both forms share; ``xgboost_json`` and ``xgboost_binary`` read them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple, NoReturn

from mlsync.formats.faults import MeaningBroken, NotChecked
from mlsync.formats.libraries.boosting import BoosterLayout
from mlsync.values import Fact

LIST_BYTES_MAX = 4 << 20
_TEXT_CHARS_MAX: Final = 200
_COUNT_MAX: Final = 1 << 63
_JSON = re.compile(rb'\{\s*(?:"version"\s*:\s*\[[0-9, ]*\]\s*,\s*)?"learner"\s*:')
_BINARY = re.compile(rb"\{(?:L\0{7}|[iU])\x07learner\{", re.DOTALL)
_NUMBER = re.compile(r"[0-9]{1,18}")
NODE_LISTS: Final = ("left_children", "right_children", "parents", "split_indices", "split_conditions", "default_left")


def begins_as_xgboost(head: bytes) -> str | None:
    """Return the container of a file that begins like a model of XGBoost, else ``None``."""
    if _BINARY.match(head):
        return "xgboost-ubj"
    return "xgboost-json" if _JSON.match(head) else None


class BoosterTree(NamedTuple):
    """One tree: how many nodes it says it has, how long its lists are, which nodes are whose children."""

    nodes: str
    lengths: dict[str, int]
    children: Iterable[int]


class BoosterModel(NamedTuple):
    """A model beside its trees."""

    about: dict[str, object]
    objective: object
    version: object
    trees_told: object
    info_count: int | None
    last_round: int | None
    drop_count: int | None
    weight_count: int | None
    rounds: object


def check_tree(tree: BoosterTree, place: int) -> int:
    """Return how many lists a tree has, after a check of their lengths and of the children that they name."""
    nodes = _whole(tree.nodes, f"tree {place}: number of nodes")
    for name, length in tree.lengths.items():
        if length != nodes:
            refuse_model(f"tree {place}: {name} has {length} numbers, and {nodes} nodes")
    if any(not -1 <= child < nodes for child in tree.children):
        refuse_model(f"tree {place}: a node has a child that there is not")
    return len(tree.lengths)


def booster_layout(
    container: str, size_bytes: int, model: BoosterModel, trees: int | None, arrays: int
) -> BoosterLayout:
    """Return the layout of a model whose trees were checked, after a check of its counts."""
    features = _whole(model.about.get("num_feature"), "number of features")
    if trees is not None:
        _check_counts(model, trees)
    elif model.weight_count is not None and model.weight_count % (features + 1):
        refuse_model(f"{model.weight_count} weights of {features} features")
    facts: dict[str, Fact] = {"framework": "xgboost", "feature_count": min(features, _COUNT_MAX - 1)}
    if isinstance(model.version, str):
        facts["framework_version"] = model.version[:_TEXT_CHARS_MAX]
    if isinstance(model.objective, str):
        facts["objective"] = model.objective[:_TEXT_CHARS_MAX]
    if trees is not None:
        facts["tree_count"] = trees
    if isinstance(model.rounds, int) and 0 <= model.rounds < _COUNT_MAX:
        facts["step"] = model.rounds
    return BoosterLayout(container, size_bytes, (), arrays + (trees is None), tuple(facts.items()))


def _check_counts(model: BoosterModel, trees: int) -> None:
    """There are as many trees as the model says in each of several places."""
    told = _whole(model.trees_told, "number of trees")
    counts = {
        "its own count": told,
        "the groups of trees": model.info_count,
        "the weights of trees": model.drop_count,
        "the end of the last round": model.last_round,
    }
    for what, count in counts.items():
        if count not in (None, trees):
            refuse_model(f"{trees} trees, and {count} by {what}")


def _whole(text: object, what: str) -> int:
    if not isinstance(text, str) or _NUMBER.fullmatch(text) is None:
        raise NotChecked(f"{what} is not told as it is known here")
    return int(text)


def refuse_model(reason: str) -> NoReturn:
    """Raise ``MeaningBroken``: the model contradicts itself."""
    raise MeaningBroken(reason)
