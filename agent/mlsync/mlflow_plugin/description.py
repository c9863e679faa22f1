"""The ``MLmodel`` of a model for which none was logged: what MLflow's ``pyfunc`` needs to load it."""

from __future__ import annotations

import json
import os
import platform
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from mlsync.mlflow_plugin.source_files import Listed, SourceFiles

MLMODEL: Final = "MLmodel"
_LOADER: Final = "mlsync.mlflow_plugin.weights"


def described(files: SourceFiles) -> list[Listed]:
    """Return the file ``MLmodel``, as it is listed."""
    from mlsync.mlflow_plugin.source_files import Listed

    return [Listed(MLMODEL, is_directory=False, size_bytes=len(mlmodel_of(files)))]


def mlmodel_of(files: SourceFiles) -> bytes:
    """Return the content of ``MLmodel``: JSON, which is YAML too."""
    source, single = files.source, files.single()
    loads: dict[str, Any] = {"loader_module": _LOADER, "python_version": platform.python_version()}
    if single is not None:
        loads["data"] = os.fsdecode(single.path.rpartition(b"/")[2])
    about = {"run": source.run, "version": source.number, "path": os.fsdecode(source.path)}
    flavors = {"python_function": loads, "mlsync": about}
    # Escaped: names that are no UTF-8 have no other form in JSON.
    return (json.dumps({"artifact_path": "model", "flavors": flavors}, indent=2) + "\n").encode()
