"""Loads a checkpoint as ``YOLO(path)`` does and runs it forward once: ``load_ultralytics.py PATH DEVICE``.

Started by path, in the Python that has Ultralytics. Ends with 0 if it loads and runs, with 75 if that cannot be tried
here, and otherwise with what a Python ends with that met an exception.
"""

from __future__ import annotations

import os
import runpy
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
# This file's directory is no place for modules of others: its neighbours would be taken for them.
sys.path[:] = [place for place in sys.path if place != HERE]
chosen_device = runpy.run_path(os.path.join(HERE, "load_device.py"))["chosen_device"]

CANNOT_TELL = 75
SIDE = 64
CHANNELS = 3


def main() -> None:
    """Load it, and run it forward."""
    path, wanted = sys.argv[1:3]
    # A proof fetches nothing and installs nothing.
    os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false")
    try:
        import torch
        from ultralytics import YOLO
    except ImportError as error:
        sys.exit(cannot_tell(f"this Python has no Ultralytics: {error}"))
    try:
        device = chosen_device(torch, wanted)
    except RuntimeError as error:
        sys.exit(cannot_tell(str(error)))
    try:
        model = YOLO(path).model.float().eval().to(device)
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
