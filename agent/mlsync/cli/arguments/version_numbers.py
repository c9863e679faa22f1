"""VersionNumbers of versions on the command line: single ones, and ranges of those that there are."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import click

from mlsync.errors import ConfigInvalid
from mlsync.repository.names import VERSION_MAX

_NUMBERS: Final = re.compile(r"(\d{1,10})(?:-(\d{1,10}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class VersionNumbers:
    """What was asked for: *single* numbers, and *ranges* from one number to another, both included."""

    single: tuple[int, ...]
    ranges: tuple[tuple[int, int], ...]

    def chosen(self, there: Collection[int]) -> list[int]:
        """Return the single numbers, and those *there* that are in a range; raise ``ConfigInvalid`` if none is."""
        found = set(self.single)
        for first, last in self.ranges:
            inside = {number for number in there if first <= number <= last}
            if not inside:
                raise ConfigInvalid(f"no such version from {first} to {last}", advice="mlsync versions --all lists all")
            found |= inside
        return sorted(found)


def checked_numbers(_context: click.Context, _argument: click.Parameter, value: tuple[str, ...]) -> VersionNumbers:
    """Return the numbers of the arguments, or refuse what is none before anybody has to type a passphrase."""
    single, ranges = [], []
    for text in value:
        found = _NUMBERS.fullmatch(text)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if not 0 < first <= last <= VERSION_MAX:
            raise ConfigInvalid(f"not a number of a version: {text!r}", advice="give numbers such as 3, or 5-20")
        if found and found[2]:
            ranges.append((first, last))
        else:
            single.append(first)
    return VersionNumbers(tuple(single), tuple(ranges))
