"""How many versions a policy may remove in one go without being told the number."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from mlsync.errors import RemovalRefused
from mlsync.retention.policy import PolicyOutcome

_PERCENT: Final = re.compile(r"([0-9]{1,3})%")
_PERCENT_MAX: Final = 100
ALLOWED: Final = 'a share like "50%", or a number of versions'


class RemovalLimit(msgspec.Struct, frozen=True):
    """A share of a run's versions in percent, or a number of them."""

    amount: int
    is_percent: bool

    def allows(self, removed_count: int, there_count: int) -> bool:
        """Return whether so many of the versions that are there may be removed."""
        return removed_count * 100 <= self.amount * there_count if self.is_percent else removed_count <= self.amount

    def __str__(self) -> str:
        return f"{self.amount}%" if self.is_percent else str(self.amount)


def parse_limit(value: object) -> RemovalLimit:
    """Return the limit that *value* says; raise ``ValueError`` if it is none."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return RemovalLimit(value, is_percent=False)
    found = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    if found is None or int(found[1]) > _PERCENT_MAX:
        raise ValueError(ALLOWED)
    return RemovalLimit(int(found[1]), is_percent=True)


def refuse_too_many(evaluated: Sequence[tuple[PolicyOutcome, RemovalLimit]], confirmed_count: int | None) -> None:
    """Raise ``RemovalRefused`` if more goes than a run's limit allows, and *confirmed_count* is not that number.

    The number is of all these runs together. A number that is given must be right, even below the limits: whoever
    gave it saw another list.
    """
    total = sum(len(one.removed) for one, _ in evaluated)
    if confirmed_count is not None:
        if confirmed_count != total:
            what = f"{total} versions would be removed, and {confirmed_count} were confirmed"
            raise RemovalRefused(what, advice="see --dry-run")
        return
    for one, limit in evaluated:
        if not limit.allows(len(one.removed), one.there_count):
            what = (
                f"{len(one.removed)} of the {one.there_count} versions of run {one.run!r} would be removed, "
                f"and max_remove allows {limit}"
            )
            raise RemovalRefused(what, advice=f"see --dry-run; if it is right: --yes-remove {total}")
