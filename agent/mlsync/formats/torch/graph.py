"""Find the tensors, and their names, in the graph of a pickle of torch.

The graph is hostile: it may share nodes and contain itself. It is walked by identity, each node once, without
recursion.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from mlsync.formats.faults import NotChecked
from mlsync.formats.layout import Tensor
from mlsync.formats.pickles.nodes import Call, Global, Members, Pairs, Persistent
from mlsync.formats.pickles.numpy_arrays import array_made_by
from mlsync.formats.strides import TENSORS_BYTES_MAX, held_bytes
from mlsync.formats.torch.tensors import (
    StorageTable,
    is_parameter_call,
    is_tensor_call,
    rebuilt_call,
    storage_id,
    tensor_view,
)

DEPTH_MAX = 300
_NAME_CHARS_MAX = 1024
_KEY_CHARS_MAX = 200
# More than any maker of tensors takes.
_ARGUMENTS_USUAL = 16
_PARAMETER_ARGUMENTS_MAX = 4  # tensor, whether it learns, hooks, state
_STATE_PARTS_MAX = 2  # dict, slots
# What torch.nn.Module keeps its children under: not part of any name that a user knows
_TRANSPARENT = frozenset({"", "_parameters", "_buffers", "_modules"})

# What can lead to a tensor
_WALKED = frozenset({Pairs, Members, list, tuple, Call, Persistent})

# A path is a linked list from the leaf up, so that a deep and wide graph costs nothing per level.
_Path = tuple["_Path", object, int] | None


class FoundTensors(NamedTuple):
    """The tensors of a pickle, and how many arrays it holds whose numbers were not looked at."""

    tensors: list[Tensor]
    aside_count: int


def tensors_in(root: object, table: StorageTable) -> FoundTensors:
    """Return every tensor once, under the first name that leads to it, in the order of the file."""
    tensors: list[Tensor] = []
    aside_count = 0
    left_bytes = TENSORS_BYTES_MAX
    seen: set[int] = set()
    makers = _Makers()
    # Iterators, not lists, of what is left of each container: a list may name one object a million times.
    waiting: list[Iterator[tuple[object, _Path]]] = [iter([(root, None)])]
    while waiting:
        following = next(waiting[-1], None)
        if following is None:
            waiting.pop()
            continue
        node, path = following
        if id(node) in seen:
            continue
        seen.add(id(node))
        if type(node) is Persistent:
            storage = storage_id(node)
            if storage is not None:
                table.add(storage)
            continue
        if type(node) is Call:
            node = rebuilt_call(node)
            if is_tensor_call(node):
                tensor = tensor_view(_name(path), node, table)
                left_bytes -= held_bytes(tensor)
                if left_bytes < 0:
                    msg = "more tensors, or longer names of them, than are checked"
                    raise NotChecked(msg)
                tensors.append(tensor)
                continue
            makers.refuse_unknown(node)
            aside_count += array_made_by(node) == "aside"
        depth = path[2] + 1 if path else 1
        if depth > DEPTH_MAX:
            msg = "objects nested more deeply than is checked"
            raise NotChecked(msg)
        waiting.append(iter(_parts(node, path, depth)) if isinstance(node, Call) else _below(node, path, depth))
    return FoundTensors(tensors, aside_count)


class _Makers:
    """Finds calls with a storage among their arguments: unknown functions that make tensors."""

    def __init__(self) -> None:
        # Kept so that their ids stay valid: a million calls may share a million arguments, which are checked once.
        self._judged: dict[int, tuple[object, ...]] = {}

    def refuse_unknown(self, call: Call) -> None:
        """Raise ``NotChecked`` for a call with a storage among its arguments."""
        if id(call.args) in self._judged:
            return
        for arg in call.args:
            if type(arg) is Persistent and storage_id(arg) is not None:
                name = f"{call.func.module}.{call.func.name}" if isinstance(call.func, Global) else "an object"
                msg = f"tensor made by {name[:128]}, which is not known here"
                raise NotChecked(msg)
        if len(call.args) > _ARGUMENTS_USUAL:
            self._judged[id(call.args)] = call.args


def _below(node: object, path: _Path, depth: int) -> Iterator[tuple[object, _Path]]:
    """Yield the parts of a container that can lead to a tensor: most parts are numbers, texts and empty calls."""
    for key, child in _children(node):
        if type(child) not in _WALKED:
            continue
        if not isinstance(child, Call) or child.args or child.then or is_tensor_call(child):
            yield child, (path, key, depth)


def _children(node: object) -> Iterable[tuple[object, object]]:
    """Return a container's parts with the keys under which they are known."""
    if isinstance(node, Pairs):
        return node.pairs()
    return enumerate(node) if isinstance(node, (list, tuple)) else ()


def _parts(call: Call, path: _Path, depth: int) -> list[tuple[object, _Path]]:
    """Return a call's arguments and what was done to the object afterwards, each as a node.

    A container among them has the call's own name, so that its parts are known as the call's. They are not looked up
    here: a million calls may share one state of a million parts, which must be walked once.
    """
    then = call.then
    unnamed: _Path = (path, "", depth)
    parts: list[tuple[object, _Path]] = [(call.args, path)]
    if is_parameter_call(call) and len(call.args) <= _PARAMETER_ARGUMENTS_MAX:
        parts = [(arg, unnamed) for arg in call.args]  # what a Parameter wraps is the parameter
    if then is not None:
        parts += [(then.kwargs, unnamed), (then.items, path), (then.pairs, path)]
        # (dict, slots): the state of an object that has both; else the state's own keys are the attributes
        states = then.state if type(then.state) is tuple and len(then.state) <= _STATE_PARTS_MAX else (then.state,)
        parts += [(state, path if isinstance(state, Pairs) else unnamed) for state in states]
    return [part for part in parts if type(part[0]) in _WALKED]


def _name(path: _Path) -> str:
    """Return the dotted name of what lies at *path*."""
    keys: list[str] = []
    chars = 0
    while path is not None and chars < _NAME_CHARS_MAX:
        path, key, _ = path
        if key in _TRANSPARENT if type(key) is str else type(key) is not int:
            continue
        text = key[:_KEY_CHARS_MAX] if isinstance(key, str) else str(key)
        keys.append(text)
        chars += len(text) + 1
    return ".".join(reversed(keys))
