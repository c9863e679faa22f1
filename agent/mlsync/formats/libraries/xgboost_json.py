"""XGBoost's models in JSON, decoded into the wanted fields; lists stay text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import msgspec

from mlsync.formats.faults import NotChecked, read_bounded
from mlsync.formats.layout import ByteSource, ContainerBroken
from mlsync.formats.libraries.boosting import BoosterLayout
from mlsync.formats.libraries.xgboost_model import (
    LIST_BYTES_MAX,
    NODE_LISTS,
    BoosterModel,
    BoosterTree,
    booster_layout,
    check_tree,
    refuse_model,
)

JSON_BYTES_MAX = 32 << 20
_WHOLE_NUMBERS = re.compile(r"\[\s*(?:-?[0-9]{1,10}(?:\s*,\s*-?[0-9]{1,10})*+)?\s*\]")
_VERSION = re.compile(rb"\[\s*([0-9]{1,9})\s*,\s*([0-9]{1,9})\s*,\s*([0-9]{1,9})\s*\]")
# XGBoost writes them, and JSON does not have them; no name that is asked for has one in it
_NO_JSON: Final = (b"Infinity", b"NaN")
_NO_LIST: Final = msgspec.Raw(b"")


class _Nodes(msgspec.Struct, gc=False):
    num_nodes: str


class _JsonTree(msgspec.Struct, gc=False):
    left_children: msgspec.Raw
    right_children: msgspec.Raw
    parents: msgspec.Raw
    split_indices: msgspec.Raw
    split_conditions: msgspec.Raw
    default_left: msgspec.Raw
    tree_param: _Nodes


class _Told(msgspec.Struct):
    num_trees: str


class _Trees(msgspec.Struct):
    trees: list[_JsonTree] | None = None
    gbtree_model_param: _Told | None = None
    tree_info: msgspec.Raw = _NO_LIST
    iteration_indptr: msgspec.Raw = _NO_LIST
    weights: msgspec.Raw = _NO_LIST
    boosted_rounds: int | None = None


class _Inner(msgspec.Struct):
    model: _Trees


class _Booster(msgspec.Struct):
    model: _Trees | None = None
    gbtree: _Inner | None = None
    weight_drop: msgspec.Raw = _NO_LIST


class _About(msgspec.Struct):
    num_feature: str


class _Objective(msgspec.Struct):
    name: str | None = None


class _Learner(msgspec.Struct):
    gradient_booster: _Booster
    learner_model_param: _About
    objective: _Objective | None = None


class _File(msgspec.Struct):
    learner: _Learner
    version: msgspec.Raw = _NO_LIST


# Made by the thread that imports this: a first decoding in several at once would crash.
_file_decoder: Final = msgspec.json.Decoder(_File)


def read_xgboost_json_layout(source: ByteSource) -> BoosterLayout:
    """Return levels 1 and 2 of a model in JSON: it parses to its end, and its counts agree."""
    if source.size_bytes > JSON_BYTES_MAX:
        raise NotChecked(f"JSON of {source.size_bytes} bytes is larger than is checked")
    file = _decoded(read_bounded(source, 0, source.size_bytes, "model"))
    booster = file.learner.gradient_booster
    trees = booster.model or (booster.gbtree.model if booster.gbtree is not None else None)
    if trees is None:
        raise NotChecked("model without a booster that is known here")
    arrays = 0
    for place, tree in enumerate(trees.trees or ()):
        lists = {name: _count(getattr(tree, name)) or 0 for name in NODE_LISTS}
        arrays += check_tree(BoosterTree(tree.tree_param.num_nodes, lists, _children(tree)), place)
    rounds = _last(trees.iteration_indptr)
    model = BoosterModel(
        {"num_feature": file.learner.learner_model_param.num_feature},
        file.learner.objective and file.learner.objective.name,
        _dotted(bytes(file.version)),
        trees.gbtree_model_param and trees.gbtree_model_param.num_trees,
        _count(trees.tree_info),
        rounds,
        _count(booster.weight_drop),
        _count(trees.weights),
        trees.boosted_rounds if trees.trees is None else (_count(trees.iteration_indptr) or 1) - 1,
    )
    return booster_layout(
        "xgboost-json", source.size_bytes, model, None if trees.trees is None else len(trees.trees), arrays
    )


def _decoded(data: bytes) -> _File:
    """Return the model. XGBoost writes NaN and Infinity, which JSON does not have; they are read as zeros."""
    try:
        for word in _NO_JSON:
            data = data.replace(word, b"0")
        return _file_decoder.decode(data)
    except msgspec.ValidationError as error:
        raise NotChecked(f"a model that is not known here: {str(error)[:200]}") from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ContainerBroken(f"does not parse: {str(error)[:100]}") from None


def _dotted(version: bytes) -> str | None:
    match = _VERSION.fullmatch(version)
    return b".".join(match.groups()).decode() if match is not None else None


def _count(raw: msgspec.Raw) -> int | None:
    """Return how many items a list of numbers has, by its text."""
    text = bytes(raw).strip()
    if not text:
        return None
    if text[:1] != b"[" or text.count(b"[") != 1:
        raise NotChecked("list of what is not known here")
    return text.count(b",") + 1 if text[1:-1].strip() else 0


def _children(tree: _JsonTree) -> Iterator[int]:
    for raw in (tree.left_children, tree.right_children):
        yield from _whole_numbers(raw)


def _whole_numbers(raw: msgspec.Raw) -> Iterator[int]:
    text = bytes(raw).decode("latin-1")
    if len(text) > LIST_BYTES_MAX:
        raise NotChecked("tree of more nodes than is checked")
    if _WHOLE_NUMBERS.fullmatch(text) is None:
        refuse_model("list of children is none of whole numbers")
    inside = text.strip()[1:-1].strip()
    return map(int, inside.split(",")) if inside else iter(())


def _last(raw: msgspec.Raw) -> int | None:
    numbers = list(_whole_numbers(raw)) if bytes(raw) else []
    return numbers[-1] if numbers else None
