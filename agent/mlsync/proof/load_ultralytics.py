"""Loads a checkpoint as ``YOLO(path)`` does and runs it forward once: ``load_ultralytics.py PATH auto|cuda|cpu``.

Started by path, in the Python that has Ultralytics. Ends with 0 if it loads and runs, with 75 if that cannot be tried
here, and otherwise with what a Python ends with that met an exception.
"""

from __future__ import annotations

import os
import sys

# This file's directory is no place for modules of others: its neighbours would be taken for them.
sys.path[:] = [place for place in sys.path if place != os.path.dirname(os.path.abspath(__file__))]

CANNOT_TELL = 75
SIDE = 64
CHANNELS = 3


def main() -> None:
    """Load it, and run it forward."""
    path, device = sys.argv[1:3]
    # A proof fetches nothing and installs nothing.
    os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false")
    try:
        import torch
        from ultralytics import YOLO
    except ImportError as error:
        sys.exit(cannot_tell(f"this Python has no Ultralytics: {error}"))
    has_cuda = device != "cpu" and torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        sys.exit(cannot_tell("torch sees no GPU"))
    try:
        model = YOLO(path).model.float().eval().to("cuda" if has_cuda else "cpu")
    except ModuleNotFoundError as error:
        # Somebody's own layers, which this Python does not know.
        sys.exit(cannot_tell(f"this Python has not all that the checkpoint is made of: {error}"))
    channels = int((getattr(model, "yaml", None) or {}).get("channels", CHANNELS))
    with torch.inference_mode():
        model(torch.zeros(1, channels, SIDE, SIDE, device=next(model.parameters()).device))


def cannot_tell(why: str) -> int:
    """Say why there is no answer here; the exit status for it."""
    sys.stderr.write(why + "\n")
    return CANNOT_TELL


if __name__ == "__main__":
    main()
