"""Which tensors of a checkpoint are weights, which are an optimizer's state, and which are bookkeeping.

Only names tell: a state dict does not distinguish parameters from buffers. A tensor is a weight unless its name says
otherwise, so that bad numbers in it are reported.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod
from typing import Literal

from mlsync.formats.layout import Tensor

#: noted: bookkeeping, masks and limits, which may well be infinite.
Role = Literal["weight", "optimizer", "noted"]

#: The keys under which trainers save a model, the model that is used for inference first.
MODEL_ROOTS = ("ema", "model", "state_dict", "model_state_dict", "module", "net")
_OPTIMIZERS = re.compile(r"(?:^|_)optim(?:i[sz]er)?s?(?:$|[_A-Z0-9])|^opt_states?$")
# What a trainer saves besides: the best score so far (at first infinite), schedules, random states
_BESIDE = frozenset(
    {
        *(
            "callbacks",
            "loops",
            "hyper_parameters",
            "hparams",
            "train_args",
            "args",
            "config",
            "cfg",
            "meta",
            "metadata",
        ),
        *("lr_scheduler", "lr_schedulers", "scheduler", "schedulers", "lr_sched", "sched", "scaler", "grad_scaler"),
        *("meta", "metadata", "metrics", "train_metrics", "train_results", "history", "progress", "stats"),
        *("rng", "rng_state", "rng_states", "random_state", "random_states"),
    }
)
_MOMENTS = r"exp_\w+|max_exp_avg_sq|momentum_buffer|square_avg|grad_avg|acc_delta|state[12]|prev|sum|step"
_MOMENT = re.compile(rf"(?:^|\.)state\.(?:\d+\.(?!weight$|bias$)\w+|(?:.*\.)?(?:{_MOMENTS}))$", re.DOTALL)
_LIMIT = re.compile(r"(?:^|_)(?:masks?|masked_bias|thresh(?:old)?s?)$|^(?:min|max)_vals?$")
_SCORE = re.compile(r"(?:^|_)(?:best|loss|metric|score|fitness|kth|min|max|patience)(?:$|_)")
_PARTS = 3  # how many parts of a name are searched for an optimizer's name


def roles_of(tensors: Sequence[Tensor]) -> list[Role]:
    """Return the role of each tensor, in their order."""
    roots: dict[str, Role | None] = {}
    names = [tensor.name for tensor in tensors]
    for name in names:
        root = root_of(name)
        if root not in roots:
            roots[root] = _of_root(root)
    has_model = any(root in roots for root in MODEL_ROOTS)
    return [_role(tensor, roots[root_of(tensor.name)], has_model=has_model) for tensor in tensors]


def root_of(name: str) -> str:
    """Return the first part of a name, up to the first dot, or in HDF5 the first slash."""
    root = name.partition(".")[0]
    return root.partition("/")[0] if "/" in root else root


def is_optimizers(key: str) -> bool:
    """Return whether *key* is a name for an optimizer's state."""
    return _OPTIMIZERS.search(key) is not None


def _of_root(root: str) -> Role | None:
    """Return the role of everything below a top-level name; ``None`` if the rest of the name decides."""
    if is_optimizers(root):
        return "optimizer"
    return "noted" if root in _BESIDE else None


def _role(tensor: Tensor, of_root: Role | None, *, has_model: bool) -> Role:
    if of_root is not None:
        return of_root
    name = tensor.name
    root, dot, rest = name.partition(".")
    leaf = name.rpartition(".")[2]
    if root not in MODEL_ROOTS and dot:
        if "state." in name and _MOMENT.search(name):
            return "optimizer"
        if "opt" in rest and any(is_optimizers(part) for part in name.split(".", _PARTS)[1:_PARTS] if part != leaf):
            return "optimizer"
    if leaf not in ("weight", "bias") and _is_limit(tensor, leaf, alone=has_model and not dot):
        return "noted"
    return "weight"


def _is_limit(tensor: Tensor, leaf: str, *, alone: bool) -> bool:
    """Return whether a tensor is a mask or a limit by its name, or one number that a trainer keeps beside the model."""
    if _LIMIT.search(leaf):
        return True
    return (alone or _SCORE.search(leaf) is not None) and prod(tensor.shape) == 1
