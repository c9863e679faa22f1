"""Loads a checkpoint's state into a model of the user's and runs it forward once.

Started by path, in the trainer's Python: ``load_state_dict.py PATH DEVICE MODULE:CALLABLE``. The callable gives
the model with an example of what it is called with (a tensor, or a tuple or dict of arguments); an
``example_input_array`` of the model's does for one too. PATH is a file, or a directory: of torch's distributed
checkpoints, or of Hugging Face's weights in one file or in several with an index. Ends with 0 if the state loads
strictly and the model runs, with 75 if that cannot be tried here, with 77 if there is no model's state, and otherwise
with what a Python ends with that met an exception.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

HERE = os.path.dirname(os.path.abspath(__file__))
# This file's directory is no place for modules of others: its neighbours would be taken for them.
sys.path[:] = [place for place in sys.path if place != HERE]
chosen_device = runpy.run_path(os.path.join(HERE, "load_device.py"))["chosen_device"]

CANNOT_TELL = 75
NOT_MEANT = 77
# Where trainers put the model's state, the most telling name first.
PLACES = ("model_state_dict", "state_dict", "model", "module", "net", "ema")
# What a directory has its weights by, where they are Hugging Face's.
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
KEYS_TOLD = 3


def main() -> None:
    """Build, load, run."""
    path, wanted, name = sys.argv[1:4]
    try:
        import torch

        device = chosen_device(torch, wanted)
        model, example = build(name)
    except Exception as error:  # noqa: BLE001 - whatever it is, the checkpoint was not looked at yet
        leave(CANNOT_TELL, f"no model to load it into: {type(error).__name__}: {error}")
    try:
        state = state_in(torch, Path(path), model)
    except ModuleNotFoundError as error:
        leave(CANNOT_TELL, f"this Python has not all that the checkpoint is made of: {error}")
    if state is None:
        leave(NOT_MEANT, "it holds no model's state")
    model.load_state_dict(state, strict=True)
    model.eval().to(device)
    with torch.inference_mode():
        run(model, moved(torch, example, device))


def build(name: str) -> Any:
    """Return the model and the example that it is run with."""
    module, _, attribute = name.partition(":")
    built = getattr(importlib.import_module(module), attribute)()
    model, example = built if isinstance(built, tuple) else (built, getattr(built, "example_input_array", None))
    if example is None:
        raise ValueError(f"{name} gives no example to run the model with")
    return model, example


def state_in(torch: Any, path: Path, model: Any) -> Any:
    """Return the state that a file or a directory holds for the model, ``None`` if it holds none for any."""
    if not path.is_dir():
        return model_state(torch, read(torch, path))
    for metadata in sorted(path.rglob(".metadata")):
        state = distributed_state(metadata.parent, model)
        if state is not None:
            return state
    for name in INDEXES:
        if (path / name).exists():
            return indexed_state(torch, path / name)
    return next((model_state(torch, read(torch, path / name)) for name in WEIGHTS if (path / name).exists()), None)


def read(torch: Any, path: Path) -> Any:
    """Return what the file holds; its classes are imported and their code is run, as in training."""
    with open(path, "rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
    if is_zip:
        return torch.load(path, map_location="cpu", weights_only=False)
    from safetensors.torch import load_file

    return load_file(path)


def model_state(torch: Any, content: Any) -> Any:
    """Return the state of a model that *content* is, or has at one of the usual places."""
    places = [content] + ([content.get(place) for place in PLACES] if isinstance(content, dict) else [])
    for place in places:
        state = place.state_dict() if isinstance(place, torch.nn.Module) else place
        if isinstance(state, dict) and state and all(isinstance(value, torch.Tensor) for value in state.values()):
            return state
    return None


# ---------------------------------------------------------------- several files


def indexed_state(torch: Any, index: Path) -> Any:
    """Return the state whose parts lie in the files that an index names."""
    names = json.loads(index.read_text("utf-8"))["weight_map"]
    state: dict[str, Any] = {}
    for name in sorted(set(names.values())):
        state |= read(torch, index.parent / name)
    odd = sorted(state.keys() ^ names.keys())
    if odd:
        sys.exit(f"the index and its files do not name the same weights: {shown(odd)}")
    return state


def distributed_state(directory: Path, model: Any) -> Any:
    """Return the model's state out of a distributed checkpoint, however many ranks wrote it; ``None`` if it has none.

    Read into the tensors that the model has: nothing but these is read, and a name or a shape that is missing is an
    error of the reader's. What the checkpoint has beside them is one of ours.
    """
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.state_dict_loader import load

    state = model.state_dict()
    metadata = FileSystemReader(directory).read_metadata()
    place, held = place_in(metadata, state)
    if place is None:
        return None
    unexpected = sorted(held - state.keys())
    if unexpected:
        sys.exit(f"Unexpected key(s) in the checkpoint: {shown(unexpected)}")
    nested = state
    for name in reversed(place):
        nested = {name: nested}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is one process
        load(nested, checkpoint_id=directory, no_dist=True)
    return state


def place_in(metadata: Any, state: Any) -> Any:
    """Return where in a distributed checkpoint the model's state lies, as a tuple of names, and its names there.

    That is the mapping that has most of the names that the model has. If none has any it is one of the usual places
    that holds tensors alone, as the state of a model all of whose names changed would; ``None`` if there is no such.
    """
    paths = metadata.planner_data or {}
    mappings: dict[tuple[Any, ...], dict[str, bool]] = {}
    for name, stored in metadata.state_dict_metadata.items():
        *place, key = paths.get(name) or (name,)
        mappings.setdefault(tuple(place), {})[str(key)] = hasattr(stored, "chunks")
    ranked = sorted(mappings, key=lambda place: (-len(mappings[place].keys() & state.keys()), usual(place)))
    for place in ranked:
        names = mappings[place]
        has_any = not state.keys().isdisjoint(names)
        if has_any or (usual(place) < len(PLACES) + 1 and all(names.values())):
            return place, {name for name, is_tensor in names.items() if is_tensor}
    return None, set()


def usual(place: tuple[Any, ...]) -> int:
    """Return how usual a place is for a model's state, the least number for the most usual."""
    if not place:
        return 0
    return 1 + PLACES.index(place[0]) if len(place) == 1 and place[0] in PLACES else 1 + len(PLACES)


def shown(names: list[str]) -> str:
    """Return the first of some names, and how many more there are."""
    more = f" and {len(names) - KEYS_TOLD} more" if len(names) > KEYS_TOLD else ""
    return ", ".join(names[:KEYS_TOLD]) + more


# ---------------------------------------------------------------- the model


def moved(torch: Any, value: Any, device: str) -> Any:
    """Return the example on the device."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: moved(torch, one, device) for key, one in value.items()}
    return tuple(moved(torch, one, device) for one in value) if isinstance(value, (tuple, list)) else value


def run(model: Any, example: Any) -> None:
    """Run the model forward."""
    if isinstance(example, dict):
        model(**example)
    elif isinstance(example, tuple):
        model(*example)
    else:
        model(example)


def leave(status: int, why: str) -> NoReturn:
    """Say why there is no answer, and end."""
    sys.stderr.write(why + "\n")
    sys.exit(status)


if __name__ == "__main__":
    main()
