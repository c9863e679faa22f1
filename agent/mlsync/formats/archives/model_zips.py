"""Which model a zip is that ``torch.save`` did not write, by the names of its records."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

_PT2: Final = re.compile(r"([^/]+/)?archive_format")
_PT2_WEIGHTS: Final = re.compile(r"([^/]+/)?data/(weights|constants)/[^/]+")
_PACKAGE: Final = re.compile(r"([^/]+/)?\.data/extern_modules")
_PACKAGE_FIRST: Final = re.compile(r"([^/]+/)?\.data/([0-9]+\.storage|extern_modules|version|serialization_id)")
# Weights inside of a zip, under the names that their own programs give them
_WEIGHTS: Final = re.compile(r"(.*/)?[^/]*\.(h5|hdf5|keras|pth|pt|ckpt|safetensors|npy|npz|gguf|onnx)", re.IGNORECASE)
_KERAS: Final = frozenset({"config.json", "metadata.json", "model.weights.h5"})
_MARKS: Final = frozenset({"_stable_baselines3_version", "serialized_exported_program.json"})


def kind_of_zip(names: Collection[str]) -> str | None:
    """Return "pt2" for an exported program, "zip" for another model, ``None`` for a zip of something else."""
    if any(_PT2.fullmatch(name) for name in names) and any("/models/" in f"/{name}" for name in names):
        return "pt2"
    if is_torch_package(names) or any(name in _MARKS or _WEIGHTS.fullmatch(name) for name in names):
        return "zip"
    return None


def has_weights_name(name: str) -> bool:
    """Return whether a record has the name of a file of weights."""
    return _WEIGHTS.fullmatch(name) is not None


def program_of(names: Collection[str]) -> str | None:
    """Return the program that wrote the zip, if it is one whose files are known by their names."""
    if is_torch_package(names):
        return "torch-package"
    if "_stable_baselines3_version" in names:
        return "stable-baselines3"
    return "keras" if set(names) >= _KERAS else None


def is_torch_package(names: Collection[str]) -> bool:
    """Return whether ``torch.package`` wrote the zip; a ``data.pkl`` in it is none of ``torch.save``."""
    return any(_PACKAGE.fullmatch(name) for name in names)


def kind_by_first_record(name: str) -> str | None:
    """Return the same for a zip whose directory is not there (yet)."""
    if _PT2_WEIGHTS.fullmatch(name):
        return "pt2"
    return "zip" if _WEIGHTS.fullmatch(name) or _PACKAGE_FIRST.fullmatch(name) or name in _MARKS else None
