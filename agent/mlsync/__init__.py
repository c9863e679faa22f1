"""mlsync keeps checkpoints as encrypted, deduplicated versions and proves that they load before it calls them saved.

For programs: ``mlsync.now`` in a training, ``mlsync.versions`` and ``mlsync.restore`` in a notebook (docs/python.md).
"""

# As typing's, which is not imported: this module is loaded with every command.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from mlsync.python.notebook import restore as restore
    from mlsync.python.notebook import versions as versions
    from mlsync.python.now import now as now
    from mlsync.python.values import RestoredVersion as RestoredVersion
    from mlsync.python.values import ToldSave as ToldSave
    from mlsync.python.values import VersionRow as VersionRow
    from mlsync.python.values import VersionTable as VersionTable

__version__ = "0.1.0"

# Loaded when they are used first: an import of mlsync alone costs a training nothing.
_HOMES = {
    "now": "now",
    "restore": "notebook",
    "versions": "notebook",
    "RestoredVersion": "values",
    "ToldSave": "values",
    "VersionRow": "values",
    "VersionTable": "values",
}


def __getattr__(name: str) -> object:
    """Return what programs use of mlsync."""
    from importlib import import_module

    if name in _HOMES:
        found = globals()[name] = getattr(import_module(f"mlsync.python.{_HOMES[name]}"), name)
        return found
    if name == "errors":
        return import_module("mlsync.errors")
    raise AttributeError(f"module 'mlsync' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return what there is, for completion in notebooks."""
    return sorted({*globals(), *_HOMES, "errors"})
