"""The ``MLmodel`` of a model for which none was logged: what MLflow's ``pyfunc`` needs to load it."""

from __future__ import annotations

import json
import platform
from typing import Any, Final

from mlsync.registry.source import ModelSource

MLMODEL: Final = "MLmodel"
_LOADER: Final = "mlsync.mlflow_plugin.weights"


def mlmodel_of(source: ModelSource, file_name: str | None) -> bytes:
    """Return the content of ``MLmodel``, JSON, which is YAML too; *file_name* if the source is a file."""
    loads: dict[str, Any] = {"loader_module": _LOADER, "python_version": platform.python_version()}
    if file_name is not None:
        loads["data"] = file_name
    about = {"run": source.run, "version": source.number, "path": source.path.decode(errors="replace")}
    flavors = {"python_function": loads, "mlsync": about}
    # Escaped: names that are no UTF-8 have no other form in JSON.
    return (json.dumps({"artifact_path": "model", "flavors": flavors}, indent=2) + "\n").encode()
