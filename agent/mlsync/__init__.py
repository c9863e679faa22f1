"""mlsync keeps checkpoints as encrypted, deduplicated versions and proves that they load before it calls them saved.

For programs: ``mlsync.now`` in a training, ``mlsync.versions`` and ``mlsync.restore`` in a notebook (docs/python.md).
"""

import sys

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


if TYPE_CHECKING:
    from types import ModuleType as _Module
else:
    _Module = type(sys)  # the module that has its name need not be loaded


class _Callable(_Module):
    """A package of ours that has the name of something that programs call, and does that when it is called."""

    def __call__(self, *given: object, **named: object) -> object:
        return _of_programs(self.__name__.rpartition(".")[2])(*given, **named)  # type: ignore[operator]


class _Package(_Module):
    """This module: what programs call stays callable when the package of the same name is imported."""

    def __setattr__(self, name: str, value: object) -> None:
        # Python puts a package into the one above it, in the place of a function, once anything below it is imported.
        if name in _HOMES and isinstance(value, _Module):
            value.__class__ = _Callable
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def _of_programs(name: str) -> object:
    from importlib import import_module

    return getattr(import_module(f"mlsync.python.{_HOMES[name]}"), name)


def __getattr__(name: str) -> object:
    """Return what programs use of mlsync."""
    if name in _HOMES:
        found = globals()[name] = _of_programs(name)
        return found
    if name == "errors":
        from importlib import import_module

        return import_module("mlsync.errors")
    raise AttributeError(f"module 'mlsync' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return what there is, for completion in notebooks."""
    return sorted({*globals(), *_HOMES, "errors"})
