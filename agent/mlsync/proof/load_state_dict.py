"""Loads a checkpoint's state into a model of the user's and runs it forward once.

Started by path, in the trainer's Python: ``load_state_dict.py PATH auto|cuda|cpu MODULE:CALLABLE``. The callable gives
the model with an example of what it is called with (a tensor, or a tuple or dict of arguments); an
``example_input_array`` of the model's does for one too. Ends with 0 if the state loads strictly and the model runs,
with 75 if that cannot be tried here, with 77 if the file holds no model's state, and otherwise with what a Python ends
with that met an exception.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, NoReturn

# This file's directory is no place for modules of others: its neighbours would be taken for them.
sys.path[:] = [place for place in sys.path if place != os.path.dirname(os.path.abspath(__file__))]

CANNOT_TELL = 75
NOT_MEANT = 77
# Where trainers put the model's state, the most telling name first.
PLACES = ("model_state_dict", "state_dict", "model", "module", "net", "ema")


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
        state = model_state(torch, read(torch, path))
    except ModuleNotFoundError as error:
        leave(CANNOT_TELL, f"this Python has not all that the checkpoint is made of: {error}")
    if state is None:
        leave(NOT_MEANT, "it holds no model's state")
    model.load_state_dict(state, strict=True)
    model.eval().to(device)
    with torch.inference_mode():
        run(model, moved(torch, example, device))


def chosen_device(torch: Any, wanted: str) -> str:
    """Return the device by its name for torch."""
    if wanted != "cpu" and torch.cuda.is_available():
        return "cuda"
    if wanted == "cuda":
        raise RuntimeError("torch sees no GPU")
    return "cpu"


def build(name: str) -> Any:
    """Return the model and the example that it is run with."""
    module, _, attribute = name.partition(":")
    built = getattr(importlib.import_module(module), attribute)()
    model, example = built if isinstance(built, tuple) else (built, getattr(built, "example_input_array", None))
    if example is None:
        raise ValueError(f"{name} gives no example to run the model with")
    return model, example


def read(torch: Any, path: str) -> Any:
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
