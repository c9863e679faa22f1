"""What the configuration calls the platforms."""

from __future__ import annotations

from typing import Final

NAMES: Final = (
    "aws",
    "gcp",
    "azure",
    "alibaba",
    "tencent",
    "runpod",
    "vast",
    "sagemaker",
    "slurm",
    "kubernetes",
    "signal",
)
