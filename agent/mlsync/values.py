"""The vocabulary of proof: levels, findings and their severity, and the proof that a manifest keeps of a checkpoint.

``Finding`` and ``Proof`` stand in stored objects as MessagePack arrays: the order of their fields is the format
(docs/format.md, "Proof, finding, trouble"), and so are the numbers of ``Level`` and ``Severity``.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, Literal, TypeAlias

import msgspec
from msgspec.structs import force_setattr

#: The largest count of things or of bytes: what a file system keeps.
COUNT_MAX: Final = (1 << 63) - 1

Fact: TypeAlias = str | int | float | bool
#: A fault of a tensor's numbers. zero: all of them are zero. constant: all are one other number. saturated: some are at
#: the limit of float16.
NumberFault = Literal["nan", "inf", "zero", "constant", "saturated"]


class Level(IntEnum):
    """What holds of a checkpoint, each level with those below it."""

    BYTES = 0  # its bytes are those that were backed up
    CONTAINER = 1  # its container is sound
    MEANING = 2  # its tensors and metadata fit together
    DEVICE = 3  # its tensors arrived on the device
    NUMBERS = 4  # their numbers were counted there
    FRAMEWORK = 5  # its framework, or a command of the user's, loaded it


class Severity(IntEnum):
    """How a finding counts."""

    NOTE = 1
    WARN = 2
    REFUSE = 3


def storable(text: str) -> str:
    """Return *text* with what UTF-8 has no bytes for written out: texts out of a hostile checkpoint may hold it."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def is_count(number: int) -> bool:
    """Return whether *number* can be a count of things or of bytes."""
    return 0 <= number <= COUNT_MAX


class Finding(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Something that a proof found: at which level, how grave, what, and where in the file."""

    level: int
    severity: Severity
    what: str
    record: str | None = None
    offset: int | None = None

    @property
    def place(self) -> str:
        """Where it was found, to be read after what was."""
        place = f" in record {self.record!r}" if self.record is not None else ""
        return place + (f" at offset {self.offset}" if self.offset is not None else "")

    def __post_init__(self) -> None:
        """Make the texts storable, and leave out an offset that no file has."""
        force_setattr(self, "what", storable(self.what))
        if self.record is not None:
            force_setattr(self, "record", storable(self.record))
        if self.offset is not None and not is_count(self.offset):
            force_setattr(self, "offset", None)


class Proof(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What was checked of a checkpoint: *level* is the highest that it passed, on *device*.

    *torch* is the version of torch that counted there, or ``numpy`` and its version.
    """

    level: int
    container: str
    device: str
    torch: str
    proved_ns: int
    seconds: float
    tensor_count: int
    tensor_bytes: int
    facts: dict[str, Fact]
    findings: list[Finding]
    shortfall: str = ""  # why a higher level could not be had: no device, no numpy, out of memory ...

    @property
    def is_broken(self) -> bool:
        """Whether a finding refuses the checkpoint; in a version, only one that was proved again later is broken."""
        return any(finding.severity is Severity.REFUSE for finding in self.findings)

    def is_pending(self, required_level: int) -> bool:
        """Return whether the checkpoint is below *required_level* and may still reach it.

        One without a shortfall cannot: there is nothing more to check in a file of its kind.
        """
        return self.level < required_level and bool(self.shortfall) and not self.is_broken

    @property
    def refusal(self) -> str:
        """What refuses the checkpoint, and where in it; empty if nothing does."""
        refusals = [finding for finding in self.findings if finding.severity is Severity.REFUSE]
        return "; ".join(f"level {finding.level}: {finding.what}{finding.place}" for finding in refusals)

    def __post_init__(self) -> None:
        """Make the texts storable."""
        facts = {storable(name): storable(fact) if isinstance(fact, str) else fact for name, fact in self.facts.items()}
        force_setattr(self, "facts", facts)
        force_setattr(self, "shortfall", storable(self.shortfall))
