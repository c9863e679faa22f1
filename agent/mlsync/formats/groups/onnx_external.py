"""ONNX graphs whose tensors lie in files beside them."""

from __future__ import annotations

import os
from collections.abc import Iterator

from mlsync.formats.groups.tree import Tree, Unit, join, shown, unit_of
from mlsync.formats.layout import ContainerBroken
from mlsync.formats.libraries.onnx import read_external

# A graph whose tensors lie elsewhere has some MiB at most; one that holds them is of no interest here
_ONNX_BYTES_MAX = 8 << 20


def onnx(tree: Tree, directory: bytes) -> Iterator[Unit]:
    """Yield a graph whose tensors lie in files beside it, in its directory or below."""
    for name in tree.directories[directory]:
        path = join(directory, name)
        if not name.lower().endswith(b".onnx") or tree.files[path] > _ONNX_BYTES_MAX:
            continue
        try:
            needed = {
                os.fsencode(place.removeprefix("./")): size
                for place, size in read_external(tree.read(path) or b"").items()
            }
        except (ContainerBroken, UnicodeEncodeError):
            continue  # which is this file's own fault, and is told of it
        if needed:
            places = {join(directory, place): size for place, size in needed.items()}
            lacking = next(
                (
                    f"{shown(place)} is missing" if place not in tree.files else f"{shown(place)} is too short"
                    for place, size in sorted(places.items())
                    if tree.files.get(place, -1) < size
                ),
                None,
            )
            yield unit_of("onnx", directory, (place for place in (path, *places) if place in tree.files), lacking)
