"""Loads a directory with ``from_pretrained`` and runs the model forward once.

Started by path, in the trainer's Python: ``load_transformers.py DIRECTORY DEVICE`` (as in ``load_device.py``). The
class is the one that ``config.json`` names; no code out of the directory is run but what a pickle of weights
holds. Ends with 0 if every weight of the model is there, none is left over, and the model runs; with 75 if that cannot
be tried here, with 77 if the directory describes no model, and otherwise with what a Python ends with that met an
exception.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import runpy
import sys
from typing import Any, NoReturn

HERE = os.path.dirname(os.path.abspath(__file__))
# This file's directory is no place for modules of others: its neighbours would be taken for them.
sys.path[:] = [place for place in sys.path if place != HERE]
chosen_device = runpy.run_path(os.path.join(HERE, "load_device.py"))["chosen_device"]

CANNOT_TELL = 75
NOT_MEANT = 77
# Adapters and the shards of other ways to save are no model by themselves.
WEIGHTS = re.compile(r"model.*\.safetensors|pytorch_model.*\.bin")
KEYS_TOLD = 3
TOKENS = 8


def main() -> None:
    """Load, compare, run."""
    directory, wanted = sys.argv[1:3]
    # A proof fetches nothing.
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
    name = described(directory)
    try:
        import torch
        import transformers

        device = chosen_device(torch, wanted)
    except (ImportError, RuntimeError) as error:
        leave(CANNOT_TELL, f"this Python cannot load it: {type(error).__name__}: {error}")
    kind = getattr(transformers, name, None)
    if kind is None:
        leave(CANNOT_TELL, f"transformers {transformers.__version__} has no {name}, and no code beside weights is run")
    model, info = load(kind, directory)
    refuse_misfits(info)
    model.eval().to(device)
    with torch.inference_mode():
        run(torch, model, device)


def described(directory: str) -> str:
    """Return the class that the directory's ``config.json`` names; ends if there is none, or nothing to load."""
    path = os.path.join(directory, "config.json")
    if not os.path.exists(path):
        leave(NOT_MEANT, "there is no config.json")
    with open(path, encoding="utf-8") as file:
        config = json.load(file)
    names = config.get("architectures") or []
    if not names:
        leave(NOT_MEANT, "config.json names no architecture")
    if not any(WEIGHTS.fullmatch(name) for name in os.listdir(directory)):
        leave(NOT_MEANT, "there are no weights beside config.json")
    return str(names[0])


def load(kind: Any, directory: str) -> Any:
    """Return the model, and what did not fit between it and its weights."""
    try:
        # Shapes that do not fit are told by name afterwards, instead of with advice on this very argument.
        return kind.from_pretrained(
            directory,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except ImportError as error:
        # A quantisation, say, whose library is not here.
        leave(CANNOT_TELL, f"this Python has not all that it takes: {error}")


def refuse_misfits(info: Any) -> None:
    """End if a weight is missing, left over or of another shape: ``from_pretrained`` itself only warns of it."""
    wrong = []
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        found = sorted(map(str, info.get(what) or ()))
        if found:
            more = f" and {len(found) - KEYS_TOLD} more" if len(found) > KEYS_TOLD else ""
            wrong.append(f"{what.replace('_', ' ')}: {', '.join(found[:KEYS_TOLD])}{more}")
    if wrong:
        sys.exit("; ".join(wrong))


def run(torch: Any, model: Any, device: str) -> None:
    """Run the model forward on a few tokens; one that takes something else, as pictures, is loaded and not run."""
    parameters = inspect.signature(model.forward).parameters
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = {name for name, one in parameters.items() if one.default is one.empty and one.kind not in kinds}
    if model.main_input_name != "input_ids" or not needed <= {"input_ids"}:
        return
    # The first of any vocabulary.
    tokens = torch.zeros(1, TOKENS, dtype=torch.long, device=device)
    takes_answer = model.config.is_encoder_decoder and "decoder_input_ids" in parameters
    model(input_ids=tokens, **({"decoder_input_ids": tokens} if takes_answer else {}))


def leave(status: int, why: str) -> NoReturn:
    """Say why there is no answer, and end."""
    sys.stderr.write(why + "\n")
    sys.exit(status)


if __name__ == "__main__":
    main()
