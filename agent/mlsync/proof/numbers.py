"""Level 4: what the counts of the device say about a checkpoint's numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from mlsync.formats.layout import Content, Fact, Storage
from mlsync.proof.verdict import LEVEL_NUMBERS, Finding, Severity

if TYPE_CHECKING:
    # numpy would come with it, and the idle agent does without.
    from mlsync.proof.windows import Counts

_FINDINGS_MAX = 100
# Smaller tensors are often zero for good reasons: biases, counters, moments before the first step
_ZERO_BYTES_MIN = 64 << 10


def number_findings(content: Content, counts: Mapping[int, Counts], *, refuse_nan: bool) -> list[Finding]:
    """What a person should know, worst first, at most a hundred lines."""
    names: dict[str, str] = {}
    for tensor in content.tensors:
        names.setdefault(tensor.storage, tensor.name)
    severity: Severity = "refuse" if refuse_nan else "warn"
    findings = list(_worth_telling(content.storages, counts, names, severity))
    findings.sort(key=lambda finding: ("refuse", "warn", "note").index(finding.severity))
    return findings[:_FINDINGS_MAX]


def number_facts(counts: Mapping[int, Counts]) -> dict[str, Fact]:
    """The counts over the whole file."""
    return {
        "nan_count": sum(count.nan for count in counts.values()),
        "infinite_count": sum(count.infinite for count in counts.values()),
        "zero_count": sum(count.zero for count in counts.values()),
        "saturated_count": sum(count.saturated for count in counts.values()),
    }


def _worth_telling(
    storages: Sequence[Storage], counts: Mapping[int, Counts], names: Mapping[str, str], severity: Severity
) -> Iterator[Finding]:
    for index, count in counts.items():
        storage = storages[index]
        name = names.get(storage.name, storage.name)
        if count.nan or count.infinite:
            what = f"{count.nan} NaN and {count.infinite} infinite numbers in {name}"
            yield Finding(LEVEL_NUMBERS, severity, what, storage.name, storage.offset)
        if count.saturated:
            what = f"{count.saturated} numbers at the limit of float16 in {name}"
            yield Finding(LEVEL_NUMBERS, "warn", what, storage.name, storage.offset)
        if storage.length >= _ZERO_BYTES_MIN and count.low is not None and count.low == count.high:
            what = f"all numbers are {count.low:g} in {name}"
            yield Finding(LEVEL_NUMBERS, "note", what, storage.name, storage.offset)
