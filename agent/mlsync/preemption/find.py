"""Which platform this is: by what its firmware says of the machine, and by the environment."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlsync.preemption.asian_clouds import ALIBABA_SERVICE, TENCENT_SERVICE, Alibaba, Tencent
from mlsync.preemption.aws import SERVICE as AWS_SERVICE
from mlsync.preemption.aws import Aws
from mlsync.preemption.azure import SERVICE as AZURE_SERVICE
from mlsync.preemption.azure import Azure
from mlsync.preemption.by_signal import Kubernetes, PlainSignal, Runpod, SageMaker, Slurm, Vast
from mlsync.preemption.google import SERVICE as GOOGLE_SERVICE
from mlsync.preemption.google import Google
from mlsync.preemption.metadata import Endpoint
from mlsync.preemption.notice import word
from mlsync.preemption.platform import Platform

DMI: Final = Path("/sys/class/dmi/id")
# Every virtual machine of Azure's has it, and no other one of Microsoft's hypervisor.
_AZURE_TAG: Final = "7783-7084-3265-9085-8269-3286-77"
_FIELD_BYTES_MAX: Final = 256
# By the variable that marks the place. Whose machine it is, is not said to these containers.
_RENTED: Final[Mapping[str, Callable[[], Platform]]] = {
    "RUNPOD_POD_ID": Runpod,
    "VAST_CONTAINERLABEL": Vast,
    "SM_TRAINING_ENV": SageMaker,
}
_MAKERS: Final[Mapping[str, Callable[[Mapping[str, str]], Platform]]] = {
    "aws": lambda environ: Aws(Endpoint.overridden(AWS_SERVICE, environ)),
    "gcp": lambda environ: Google(Endpoint.overridden(GOOGLE_SERVICE, environ)),
    "azure": lambda environ: Azure(Endpoint.overridden(AZURE_SERVICE, environ)),
    "alibaba": lambda environ: Alibaba(Endpoint.overridden(ALIBABA_SERVICE, environ)),
    "tencent": lambda environ: Tencent(Endpoint.overridden(TENCENT_SERVICE, environ)),
    "runpod": lambda _environ: Runpod(),
    "vast": lambda _environ: Vast(),
    "sagemaker": lambda _environ: SageMaker(),
    "slurm": Slurm,
    "kubernetes": lambda _environ: Kubernetes(),
    "signal": lambda _environ: PlainSignal(),
}


@dataclass(frozen=True, slots=True)
class FoundPlatform:
    """A platform, and *why* it was taken for it."""

    platform: Platform
    why: str


def find_platforms(
    names: Sequence[str] | None = None, *, dmi: Path = DMI, environ: Mapping[str, str] = os.environ
) -> list[FoundPlatform]:
    """Return the platforms of the configuration's *names*, or with ``None`` those that this machine shows.

    At least one: where nothing else is seen, a signal is the notice. Raises ``ConfigInvalid`` if the environment
    overrides the metadata service by another machine's address.
    """
    if names is not None:
        return [FoundPlatform(_MAKERS[name](environ), "the configuration says so") for name in names]
    found = [FoundPlatform(_MAKERS[name](environ), why) for name, why in _seen(dmi, environ)]
    return found or [FoundPlatform(PlainSignal(), "nothing else is seen")]


def _seen(dmi: Path, environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for variable, maker in _RENTED.items():
        if environ.get(variable):
            yield maker().name, f"{variable} is set"
            return
    cloud = _cloud(dmi)
    if cloud is not None:
        yield cloud
    for variable, name in (("SLURM_JOB_ID", "slurm"), ("KUBERNETES_SERVICE_HOST", "kubernetes")):
        if environ.get(variable):
            yield name, f"{variable} is set"


def _cloud(dmi: Path) -> tuple[str, str] | None:
    """Return the cloud that the machine's firmware names, and how."""
    vendor, product = _field(dmi, "sys_vendor"), _field(dmi, "product_name")
    if vendor == "Amazon EC2" or "amazon" in _field(dmi, "bios_version").lower():
        return "aws", "the firmware is Amazon's"
    if _field(dmi, "chassis_asset_tag") == _AZURE_TAG:
        return "azure", "the chassis has Azure's tag"
    by_name = {"Google": "gcp", "Alibaba": "alibaba", "Tencent": "tencent"}
    for mark, name in by_name.items():
        if vendor.startswith(mark) or product.startswith(mark):
            return name, f"the firmware says {word(vendor or product)}"
    return None


def _field(dmi: Path, name: str) -> str:
    try:
        with open(dmi / name, "rb") as file:
            return file.read(_FIELD_BYTES_MAX).decode("utf-8", "replace").strip()
    except OSError:
        return ""
