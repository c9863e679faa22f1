"""LightGBM's models, which are text: a header with the length of each tree, the trees, and an end mark.

Each tree is read by itself, and its arrays must have as many numbers as it has leaves or nodes.
"""

from __future__ import annotations

import re
from typing import NoReturn

from mlsync.formats.faults import MeaningBroken, NotChecked, read_bounded
from mlsync.formats.layout import ByteSource, ContainerBroken
from mlsync.formats.libraries.boosting import BoosterLayout
from mlsync.values import Fact

HEAD_BYTES_MAX = 8 << 20
TREE_BYTES_MAX = 4 << 20
TREES_MAX = 200_000
_HEAD_STEP_BYTES = 64 << 10
_TAIL_BYTES = 64 << 10
_TEXT_CHARS_MAX = 200
_FIRST_TREE = b"\n\nTree=0\n"
_END = b"end of trees"
_LINE = re.compile(rb"^([a-z_]+)=([^\n]*)$", re.MULTILINE)
_SIZES = re.compile(rb"[0-9 ]*")
_NUMBER = re.compile(rb"[0-9]{1,9}")
_NUMBERS = re.compile(rb"-?[0-9]{1,9}(?: -?[0-9]{1,9})*+")
_OF_HEAD = frozenset({b"version", b"max_feature_idx", b"num_tree_per_iteration", b"objective", b"tree_sizes"})
_OF_NODES = (b"split_feature", b"threshold", b"decision_type", b"left_child", b"right_child")
_OF_TREE = frozenset({b"num_leaves", b"leaf_value", *_OF_NODES})


def begins_as_lightgbm(head: bytes) -> bool:
    """Return whether a file begins as a model of LightGBM does."""
    return head.startswith(b"tree\nversion=v")


def read_lightgbm_layout(source: ByteSource) -> BoosterLayout:
    """Return levels 1 and 2: every tree is as long as the head says, and the list of trees has an end."""
    head, at = _head(source)
    features = _number(head, b"max_feature_idx", 0)
    sizes = _sizes(head)
    arrays = 0
    for place, size in enumerate(sizes):
        if at + size > source.size_bytes:
            raise ContainerBroken(f"file ends inside of tree {place}", offset=source.size_bytes)
        if size > TREE_BYTES_MAX:
            raise NotChecked(f"tree of {size} bytes is larger than is checked", offset=at)
        arrays += _check_tree(read_bounded(source, at, size, "tree"), place, features, at)
        at += size
    _check_end(source, at)
    facts: dict[str, Fact] = {
        "framework": "lightgbm",
        "framework_version": head[b"version"].decode("latin-1")[:_TEXT_CHARS_MAX],
        "tree_count": len(sizes),
        "feature_count": features + 1,
        "step": len(sizes) // max(_number(head, b"num_tree_per_iteration", 0), 1),
    }
    if b"objective" in head:
        facts["objective"] = head[b"objective"].decode("utf-8", "replace")[:_TEXT_CHARS_MAX]
    return BoosterLayout("lightgbm", source.size_bytes, (), arrays, tuple(facts.items()))


def _head(source: ByteSource) -> tuple[dict[bytes, bytes], int]:
    """Return the wanted lines of the header, and the offset of the first tree, or of the end if there is none."""
    length = _HEAD_STEP_BYTES
    while True:
        length = min(length, source.size_bytes)
        data = read_bounded(source, 0, length, "head")
        at = data.find(_FIRST_TREE)
        skipped = 2
        if at < 0 and (at := data.find(b"\n\n" + _END)) < 0 and length < min(HEAD_BYTES_MAX, source.size_bytes):
            length *= 8
            continue
        if at < 0 and length < source.size_bytes:
            raise NotChecked("head is larger than is checked", offset=length)
        if at < 0:
            raise ContainerBroken("file ends inside of its head", offset=length)
        if not begins_as_lightgbm(data):
            raise ContainerBroken("no model of LightGBM", offset=0)
        return _lines(data[: at + 1], _OF_HEAD), at + skipped


def _lines(data: bytes, wanted: frozenset[bytes]) -> dict[bytes, bytes]:
    return {match[1]: match[2] for match in _LINE.finditer(data) if match[1] in wanted}


def _sizes(head: dict[bytes, bytes]) -> list[int]:
    text = head.get(b"tree_sizes")
    if text is None:
        raise NotChecked("model that does not tell how long its trees are")
    if _SIZES.fullmatch(text) is None or text.count(b" ") >= TREES_MAX:
        raise NotChecked("sizes of trees that are not known here, or more trees than are checked")
    return [int(size[:10]) for size in text.split()]


def _check_tree(data: bytes, place: int, features: int, at: int) -> int:
    """Return how many arrays a tree has, after a check that each has one number per leaf or node."""
    if not data.startswith(b"Tree=%d\n" % place):
        _refuse(f"tree {place} does not begin where the head says", at)
    lines = _lines(data, _OF_TREE)
    leaves = _number(lines, b"num_leaves", at)
    arrays = sum(b" " in match[2] for match in _LINE.finditer(data))
    if leaves <= 1:
        return arrays
    counts = {b"leaf_value": leaves, **dict.fromkeys(_OF_NODES, leaves - 1)}
    for name, wanted in counts.items():
        count = lines.get(name, b"").strip().count(b" ") + 1
        if count != wanted:
            _refuse(f"tree {place}: {name.decode()} has {count} numbers, and needs {wanted}", at)
    for name, least, most in (
        (b"left_child", -leaves, leaves - 2),
        (b"right_child", -leaves, leaves - 2),
        (b"split_feature", 0, features),
    ):
        if _NUMBERS.fullmatch(lines[name].strip()) is None:
            _refuse(f"tree {place}: {name.decode()} is no list of whole numbers", at)
        numbers = lines[name].split()
        if min(map(int, numbers)) < least or max(map(int, numbers)) > most:
            _refuse(f"tree {place}: {name.decode()} names what there is not", at)
    return arrays


def _check_end(source: ByteSource, at: int) -> None:
    if read_bounded(source, at, min(len(_END), source.size_bytes - at), "end of the trees") != _END:
        _refuse("the list of trees has no end where the head says", at)
    tail_at = max(at, source.size_bytes - _TAIL_BYTES)
    tail = source.read_at(tail_at, source.size_bytes - tail_at)
    if b"\nparameters:" in tail and b"\nend of parameters" not in tail:
        raise ContainerBroken("file ends inside of its parameters", offset=source.size_bytes)


def _number(lines: dict[bytes, bytes], name: bytes, at: int) -> int:
    text = lines.get(name, b"")
    if _NUMBER.fullmatch(text) is None:
        _refuse(f"{name.decode()} is no number", at)
    return int(text)


def _refuse(reason: str, at: int) -> NoReturn:
    raise MeaningBroken(reason, offset=at)
