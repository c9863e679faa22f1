"""Level 4: findings from the device's counts of a checkpoint's numbers, with the severity of the policy."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from math import isfinite, sqrt
from typing import TYPE_CHECKING

from mlsync.formats.layout import Content, Storage
from mlsync.formats.roles import Role, roles_of
from mlsync.values import Fact, Finding, Level, NumberFault, Severity

if TYPE_CHECKING:
    # It imports numpy, which the idle agent does without.
    from mlsync.proof.windows import Counts

_FINDINGS_MAX = 100
# Smaller tensors are often constant for good reasons: biases, counters, moments before the first step
_ALIKE_BYTES_MIN = 64 << 10
# What a module learns, whatever its numbers are
_LEARNED = (".weight", ".bias")


def number_findings(
    content: Content, counts: Mapping[int, Counts], refuse: Collection[NumberFault], warn: Collection[NumberFault]
) -> list[Finding]:
    """Return the findings, most severe first, at most a hundred; *refuse* wins over *warn*.

    Both apply to weights and optimizers' state: faults of other tensors are notes.
    """
    faults = {
        storage.name: (storage, found, _is_mask(storage, count))
        for index, count in counts.items()
        if (found := list(_faults(storage := content.storages[index], count)))
    }
    names = _names_of(content, faults)
    findings = []
    for storage, found, is_mask in faults.values():
        name, role = names.get(storage.name, (storage.name, "weight"))
        is_noted = role == "noted" or (role == "weight" and is_mask and not name.endswith(_LEARNED))
        for fault, what in found:
            severity = _severity(fault, refuse, warn) if not is_noted else Severity.NOTE
            findings.append(Finding(Level.NUMBERS, severity, f"{what} in {name}", storage.name, storage.offset))
    findings.sort(key=lambda finding: finding.severity, reverse=True)
    return findings[:_FINDINGS_MAX]


def _severity(fault: NumberFault, refuse: Collection[NumberFault], warn: Collection[NumberFault]) -> Severity:
    if fault in refuse:
        return Severity.REFUSE
    return Severity.WARN if fault in warn else Severity.NOTE


def _names_of(content: Content, storages: Collection[str]) -> dict[str, tuple[str, Role]]:
    """Return for each of *storages* the tensor that names it, and the most important role of its tensors."""
    names: dict[str, tuple[str, Role]] = {}
    if not storages:
        return names
    for tensor, role in zip(content.tensors, roles_of(content.tensors), strict=True):
        if tensor.storage in storages and names.get(tensor.storage, ("", "noted"))[1] == "noted":
            names[tensor.storage] = tensor.name, role
    return names


def _is_mask(storage: Storage, count: Counts) -> bool:
    """Return whether all numbers are zero or infinite (or at float16's limit), and both occur: an attention mask."""
    hidden = max(count.infinite, count.saturated)
    return count.zero > 0 and hidden > 0 and count.zero + hidden == count.counted_bytes // storage.item_bytes


def number_facts(counts: Mapping[int, Counts]) -> dict[str, Fact]:
    """Return the counts of the whole file, and the norm of its numbers if there are some and all are finite."""
    facts: dict[str, Fact] = {
        "nan_count": sum(count.nan for count in counts.values()),
        "infinite_count": sum(count.infinite for count in counts.values()),
        "zero_count": sum(count.zero for count in counts.values()),
        "saturated_count": sum(count.saturated for count in counts.values()),
    }
    sums = [count.square_sum for count in counts.values() if count.square_sum is not None]
    if sums and len(sums) == len(counts) and isfinite(norm := sqrt(sum(sums))):
        # As many digits as are equal on every device, whatever its order of summation.
        facts["norm"] = float(f"{norm:.6g}")
    return facts


def _faults(storage: Storage, count: Counts) -> Iterator[tuple[NumberFault, str]]:
    if count.nan:
        yield "nan", f"{count.nan} NaN"
    if count.infinite:
        yield "inf", f"{count.infinite} infinite numbers"
    if count.saturated:
        yield "saturated", f"{count.saturated} numbers at the limit of float16"
    if storage.length >= _ALIKE_BYTES_MIN and count.low is not None and count.low == count.high:
        yield "constant" if count.low else "zero", f"all numbers are {count.low or 0:g}"
