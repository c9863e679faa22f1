"""How long a process has from SIGTERM until it is killed, by what is seen of the place."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlsync.preemption.find import DMI, find_platforms

#: Where nothing is known to kill sooner: systemd gives 90 s, Kubernetes and Slurm 30 s.
ELSEWHERE_S: Final = 30.0
_CONTAINER_S: Final = 10.0
_GKE_SPOT_S: Final = 15.0
_KILL_WAIT_S: Final = 30.0
# What is kept back, for the end of the processes and the last requests.
_MARGIN_SHARE: Final = 0.2
_MARGIN_S_MAX: Final = 5.0
_PLAN_S_MIN: Final = 1.0
# Files that Docker and Podman put into each container.
_CONTAINER_MARKS: Final = (".dockerenv", "run/.containerenv")
_SYSTEMD_RUNS: Final = "run/systemd/system"
_SLURM_CONF: Final = "etc/slurm/slurm.conf"
_CONF_BYTES_MAX: Final = 1 << 20
_KILL_WAIT: Final = re.compile(r"^\s*KillWait\s*=\s*(\d{1,5})\s*(?:#.*)?$", re.ASCII | re.IGNORECASE | re.MULTILINE)
# Who puts a process there says itself when it kills, whatever container that is.
_MANAGED: Final = frozenset(("runpod", "sagemaker", "kubernetes", "slurm"))


@dataclass(frozen=True, slots=True)
class Grace:
    """SIGKILL comes *kill_s* after SIGTERM; *why* says how that is known."""

    kill_s: float
    why: str

    @property
    def plan_s(self) -> float:
        """What of it to plan with."""
        return max(_PLAN_S_MIN, self.kill_s - min(_MARGIN_S_MAX, _MARGIN_SHARE * self.kill_s))


def grace_here(
    names: Sequence[str] | None = None,
    *,
    dmi: Path = DMI,
    root: Path = Path("/"),
    environ: Mapping[str, str] = os.environ,
) -> Grace:
    """Return the shortest time that anything which is seen here leaves; *names* are the configuration's platforms.

    Nothing is asked. ``ConfigInvalid`` as ``find_platforms``.
    """
    found = {one.platform.name for one in find_platforms(names or None, dmi=dmi, environ=environ)}
    return min(_known(found, root, environ), key=lambda one: one.kill_s)


def _known(found: set[str], root: Path, environ: Mapping[str, str]) -> Iterator[Grace]:
    if "runpod" in found:
        yield Grace(5.0, "RunPod kills so soon after SIGTERM")
    if "sagemaker" in found:
        yield Grace(120.0, "SageMaker kills so long after SIGTERM")
    if {"kubernetes", "gcp"} <= found:
        yield Grace(_GKE_SPOT_S, "spot nodes of GKE leave pods so long")
    elif "kubernetes" in found:
        yield Grace(30.0, "terminationGracePeriodSeconds is so long by default, and a pod cannot see its own")
    if "slurm" in found:
        yield _slurm(root, environ)
    if found.isdisjoint(_MANAGED):
        mark = next((name for name in _CONTAINER_MARKS if (root / name).exists()), None)
        # Where systemd has booted, in a container too, it gives its units longer.
        if (mark is not None or environ.get("container")) and not (root / _SYSTEMD_RUNS).is_dir():
            yield Grace(_CONTAINER_S, "docker stop kills so soon after SIGTERM by default")
        else:
            yield Grace(ELSEWHERE_S, "nothing that is seen here kills sooner")


def _slurm(root: Path, environ: Mapping[str, str]) -> Grace:
    file = Path(environ.get("SLURM_CONF") or root / _SLURM_CONF)
    try:
        if not file.is_file():
            raise FileNotFoundError(file)
        with file.open("rb") as stream:
            text = stream.read(_CONF_BYTES_MAX).decode("utf-8", "replace")
    except OSError:
        text = ""
    said = _KILL_WAIT.findall(text)
    if said:
        # A preemption may leave less: the partition's GraceTime, which is told nowhere on the node.
        return Grace(float(said[-1]), f"KillWait in {file}")
    return Grace(_KILL_WAIT_S, "KillWait of Slurm is so long by default")
