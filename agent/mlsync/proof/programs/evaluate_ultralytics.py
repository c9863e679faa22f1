"""Measures a checkpoint as ``model.val`` of Ultralytics does, on the dataset of its training.

``evaluate_ultralytics.py CHECKPOINT DIRECTORY RESULT DEVICE``. Started by path, in the Python that has Ultralytics. It
fetches nothing: ends with 75 if the dataset or Ultralytics is not on this machine, and otherwise with what a Python
ends with that met an exception.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
# This file's directory is no place for modules of others: its neighbours would be taken for them.
sys.path[:] = [place for place in sys.path if place != HERE]
chosen_device = runpy.run_path(os.path.join(HERE, "load_device.py"))["chosen_device"]

CANNOT_TELL = 75
#: Settings of the training that its validation used too.
TAKEN_OVER = ("imgsz", "batch", "single_cls", "rect", "half", "dnn", "iou", "max_det")


class NotHere(Exception):
    """Something that the validation needs is not on this machine."""


def main() -> None:
    """Validate, and write the numbers."""
    checkpoint, directory, result, wanted = sys.argv[1:5]
    # An evaluation fetches nothing and installs nothing.
    os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false", YOLO_VERBOSE="false")
    try:
        import torch
        import yaml
        from ultralytics import YOLO
    except ImportError as error:
        sys.exit(cannot_tell(f"this Python has no Ultralytics: {error}"))
    try:
        device = chosen_device(torch, wanted)
        model = YOLO(checkpoint)
        settings = {**settings_in(model.ckpt), **settings_beside(Path(directory), Path(checkpoint), yaml)}
        data = dataset_of(settings.get("data"), Path.home(), yaml)
    except (NotHere, RuntimeError) as error:
        sys.exit(cannot_tell(str(error)))
    except ModuleNotFoundError as error:
        sys.exit(cannot_tell(f"this Python has not all that the checkpoint is made of: {error}"))
    taken = {name: settings[name] for name in TAKEN_OVER if settings.get(name) is not None}
    batch = taken.get("batch")
    if not isinstance(batch, int) or batch < 1:
        taken["batch"] = 16  # -1 is for training: it looks for the most that fits
    metrics = model.val(
        data=data, device=device, workers=0, plots=False, verbose=False, project=str(Path.home()), **taken
    )
    numbers = {name: float(value) for name, value in metrics.results_dict.items()}
    Path(result).write_text(json.dumps(numbers), encoding="utf-8")


def settings_in(checkpoint: Any) -> dict[str, Any]:
    """Return the settings of the training that stand in a checkpoint."""
    found = checkpoint.get("train_args") if isinstance(checkpoint, dict) else None
    return dict(found) if isinstance(found, dict) else {}


def settings_beside(directory: Path, checkpoint: Path, yaml: Any) -> dict[str, Any]:
    """Return what ``args.yaml`` says in the nearest directory above the checkpoint."""
    for place in checkpoint.parents:
        file = place / "args.yaml"
        if file.is_file():
            found = yaml.safe_load(file.read_text(encoding="utf-8", errors="replace"))
            return dict(found) if isinstance(found, dict) else {}
        if place == directory:
            break
    return {}


def dataset_of(said: Any, home: Path, yaml: Any) -> str:
    """Return the dataset that the training used, as Ultralytics takes it; raise ``NotHere``."""
    if not isinstance(said, str) or not said:
        raise NotHere("neither the checkpoint nor an args.yaml beside it names the dataset of its training")
    place = find(said)
    if place.is_dir():
        return str(place)  # of a classification
    described = yaml.safe_load(place.read_text(encoding="utf-8", errors="replace"))
    if not isinstance(described, dict):
        raise NotHere(f"{place} describes no dataset")
    root = root_of(described, place)
    split = described.get("val") or described.get("validation")
    if not split:
        raise NotHere(f"{place} names no pictures to validate with: val is not there")
    wanted = split if isinstance(split, list) else [split]
    lacking = [one for one in wanted if not (root / str(one)).exists()]
    if lacking:
        raise NotHere(f"the dataset of the training is not on this machine: there is no {root / str(lacking[0])}")
    # Without what would fetch it, and with its place as it is here.
    own = {name: value for name, value in described.items() if name != "download"} | {"path": str(root)}
    own.setdefault("train", split)
    file = home / "data.yaml"
    file.write_text(yaml.safe_dump(own), encoding="utf-8")
    return str(file)


def find(said: str) -> Path:
    """Return the place of a dataset's description, also of those that Ultralytics brings along."""
    from ultralytics.utils import ROOT

    beside = os.environ.get("MLSYNC_EVALUATE_RUN_DIRECTORY", "")
    places: list[Path] = [Path(said), ROOT / "cfg" / "datasets" / Path(said).name]
    # A training names it as seen from where it was started: that is mostly above its run's directory.
    places += [place / said for place in (Path(beside), *Path(beside).parents) if beside]
    for place in places:
        if place.is_absolute() and place.exists():
            return place
    raise NotHere(f"the dataset of the training is not on this machine: there is no {said}")


def root_of(described: dict[str, Any], place: Path) -> Path:
    """Return the directory that a description's paths are in, as Ultralytics finds it."""
    from ultralytics.utils import DATASETS_DIR

    root = Path(str(described.get("path") or place.parent))
    if root.is_absolute():
        return root
    known: tuple[Path, ...] = (place.parent / root, Path(DATASETS_DIR) / root)
    return next((one for one in known if one.exists()), known[-1])


def cannot_tell(why: str) -> int:
    """Say why there is no answer here; the exit status for it."""
    sys.stderr.write(why + "\n")
    return CANNOT_TELL


if __name__ == "__main__":
    main()
