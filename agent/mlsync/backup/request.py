"""What a backup is asked for, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mlsync.proving.policy import NO_POLICY, Policy
from mlsync.repository.manifest import Trouble
from mlsync.source.scan import LeftOut

if TYPE_CHECKING:
    from mlsync.proving.load import LoadingOptions


@dataclass(frozen=True, slots=True)
class Source:
    """A watched directory and the run that it belongs to.

    *keep_temporary*: names that writers use before they are done are taken as any others. *not_models* are patterns of
    files that are not named although they look like models that are not understood.
    """

    run: str
    directory: bytes
    exclude: tuple[str, ...] = ()
    keep_temporary: bool = False
    not_models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BackupOptions:
    """How a backup is done; *stop* is asked at safe points.

    *read_back* says what comes back from the store before a version is committed: what is ``new`` in it, ``all`` of it,
    or ``none``, which leaves its proof to later. *uploads* is the directory where it is noted how uploads that are cut
    off are gone on with; ``None``: nowhere. *loading* says how new checkpoints are loaded by a framework, if they are,
    and *policy* is by what wishes they are refused: what another one refused is looked at again. With
    *accept_loss* a version is made at once although most checkpoints are gone.
    """

    required_level: int = 3
    wait_for_proof: bool = False
    read_back: Literal["new", "all", "none"] = "new"
    uploads: Path | None = None
    loading: LoadingOptions | None = None
    policy: Policy = NO_POLICY
    accept_loss: bool = False
    stop: Callable[[], bool] = lambda: False
    sleep: Callable[[float], None] = time.sleep
    now_ns: Callable[[], int] = time.time_ns


@dataclass(slots=True)
class BackupResult:
    """What a backup did: *version* is 0 where nothing had changed since *previous*.

    *notes* are what a person should know of the version as a whole; they stand in its manifest. *left_out* is what was
    left out as unfinished, by its name; *unkept* are files that were read and have attributes that no version keeps.
    *not_understood* are files of a new version that look like models and are of no kind that is known.
    """

    run: str
    previous: int
    version: int = 0
    scanned_count: int = 0
    changed_count: int = 0
    size_bytes: int = 0
    read_bytes: int = 0
    new_bytes: int = 0
    stored_bytes: int = 0
    read_back_bytes: int = 0
    lowest_level: int = 0
    checkpoint_count: int = 0
    device: str = ""
    store_seconds: float = 0.0
    prove_seconds: float = 0.0
    store_cpu_seconds: float = 0.0
    prove_cpu_seconds: float = 0.0
    seconds: float = 0.0
    troubles: tuple[Trouble, ...] = ()
    notes: tuple[str, ...] = ()
    pending: tuple[str, ...] = field(default=())
    left_out: LeftOut = field(default_factory=LeftOut)
    unkept: LeftOut = field(default_factory=LeftOut)
    not_understood: tuple[bytes, ...] = ()
