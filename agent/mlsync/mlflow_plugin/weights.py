"""What ``mlflow.pyfunc.load_model`` loads where no model was logged: weights as tensors, or an ONNX model that runs.

No code out of a file runs: torch reads with ``weights_only``, safetensors and ONNX hold none. What needs the classes of
its framework is for that framework: download the file and load it there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from mlsync.errors import ConfigInvalid

_TORCH: Final = (".pt", ".pth", ".ckpt", ".bin")
_SAFETENSORS: Final = ".safetensors"
_ONNX: Final = ".onnx"
_ADVICE: Final = "get it with mlflow.artifacts.download_artifacts(model_uri), and load it with its framework"


class Weights:
    """Tensors by file: ``model.unwrap_python_model()`` has no use for them, ``model.get_raw_model()`` returns them."""

    def __init__(self, files: Mapping[str, Any]) -> None:
        self._files = files

    def get_raw_model(self) -> Any:
        """Return what the file holds; of several files a dict by their paths."""
        return next(iter(self._files.values())) if len(self._files) == 1 else dict(self._files)

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> Any:
        """Refuse: weights alone say nothing of how they are computed with."""
        del model_input, params
        what = "this model is weights alone, which predict nothing without the code of the model"
        raise ConfigInvalid(what, advice=f"get_raw_model() has the tensors; or {_ADVICE}")


class OnnxModel:
    """An ONNX model, on the CPU."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def get_raw_model(self) -> Any:
        """Return the session of onnxruntime."""
        return self._session

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the outputs by name; the input is an array, or a dict or table of arrays by name."""
        del params
        import numpy as np  # late: with the model

        wanted = [one.name for one in self._session.get_inputs()]
        if isinstance(model_input, Mapping) or hasattr(model_input, "columns"):
            given = {name: np.asarray(model_input[name]) for name in wanted}
        else:
            given = {wanted[0]: np.asarray(model_input)}
        names = [one.name for one in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, given), strict=True))


def _load_pyfunc(path: str) -> Weights | OnnxModel:
    """Return what is at *path*; MLflow calls this by its name. Raises ``ConfigInvalid`` for what cannot be loaded."""
    place = Path(path)
    if place.is_file():
        return _onnx(place) if place.suffix == _ONNX else Weights({place.name: _tensors(place)})
    files = sorted(one for one in place.rglob("*") if one.suffix in (*_TORCH, _SAFETENSORS) and one.is_file())
    models = sorted(place.rglob(f"*{_ONNX}"))
    if len(models) == 1 and not files:
        return _onnx(models[0])
    if not files:
        raise ConfigInvalid("no file with weights that can be loaded here", where=path, advice=_ADVICE)
    return Weights({os.fspath(one.relative_to(place)): _tensors(one) for one in files})


def _tensors(file: Path) -> Any:
    if file.suffix == _SAFETENSORS:
        return _from_safetensors(file)
    if file.suffix not in _TORCH:
        raise ConfigInvalid("no kind of file with weights that can be loaded here", where=file.name, advice=_ADVICE)
    try:
        import torch  # late: it is large, and may not be there
    except ImportError:
        raise _lacking("torch", file) from None
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        what = "the file holds more than tensors and plain values, and nothing of it is run here"
        raise ConfigInvalid(what, where=file.name, advice=_ADVICE) from error


def _from_safetensors(file: Path) -> Any:
    for flavor in ("torch", "numpy"):
        try:
            return import_module(f"safetensors.{flavor}").load_file(file)
        except ImportError:
            continue
    raise _lacking("safetensors", file)


def _onnx(file: Path) -> OnnxModel:
    try:
        import onnxruntime  # late: it is large, and may not be there
    except ImportError:
        raise _lacking("onnxruntime", file) from None
    return OnnxModel(onnxruntime.InferenceSession(os.fspath(file), providers=["CPUExecutionProvider"]))


def _lacking(library: str, file: Path) -> ConfigInvalid:
    return ConfigInvalid(f"to load this file takes {library}", where=file.name, advice=f"pip install {library}")
