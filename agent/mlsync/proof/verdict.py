"""What a proof says of one file: how far it got, on what, and what it found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mlsync.errors import ProofUnavailable
from mlsync.formats.layout import Fact

Severity = Literal["refuse", "warn", "note"]
#: proved: every level that was wanted holds. broken: it does not load, or not with what was saved. unavailable: the
#: device's part could not be had. unknown: nothing speaks against it, but it is of no kind that is checked further.
Status = Literal["proved", "broken", "unavailable", "unknown"]

LEVEL_BYTES, LEVEL_CONTAINER, LEVEL_MEANING, LEVEL_DEVICE, LEVEL_NUMBERS, LEVEL_FRAMEWORK = range(6)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was noticed, at which level and where in the file."""

    level: int
    severity: Severity
    what: str
    record: str | None = None
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome for one file; *level* is the highest that holds, *device* is empty if none was needed.

    *left* says what was not done here and may be elsewhere.
    """

    status: Status
    level: int
    container: str | None
    device: str = ""
    torch: str = ""
    findings: tuple[Finding, ...] = ()
    facts: dict[str, Fact] = field(default_factory=dict)
    tensor_count: int = 0
    tensor_bytes: int = 0
    seconds: float = 0.0
    error: ProofUnavailable | None = None
    left: str = ""
