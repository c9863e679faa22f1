"""All runs of a repository, by all machines: what ``mlsync status --fleet`` shows, from the store alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mlsync.cli.terminal import output
from mlsync.cli.terminal.table import TextTable
from mlsync.config.units import format_age
from mlsync.repository.ahead import ahead
from mlsync.repository.listing import runs
from mlsync.repository.repository import Repository
from mlsync.source.paths import natural
from mlsync.upkeep.forget import is_proved
from mlsync.versions.proof_status import ProofStatus, RunVersions, run_versions

# Runs with so many versions together are read at once: a root takes some KiB.
_VERSIONS_MAX: Final = 20_000


@dataclass(frozen=True, slots=True)
class FleetRun:
    """A run of the repository: its newest version, the newest that is proved, and the sums of all."""

    run: str
    newest: ProofStatus
    proved: ProofStatus | None
    version_count: int
    stored_bytes: int
    hidden: tuple[int, ...]

    @property
    def proved_s(self) -> float | None:
        """When the newest proved version was made, in seconds since 1970."""
        return None if self.proved is None else self.proved.root.created_ns / 1e9


def fleet_of(repository: Repository) -> list[FleetRun]:
    """Return every run of the repository, by name; this reads all manifests, as ``mlsync versions`` does."""
    found = ahead(
        lambda run: _run(run_versions(repository, run.name, with_forgotten=True)),
        sorted(runs(repository), key=lambda run: natural(run.name.encode())),
        weight_of=lambda run: len(run.numbers),
        weight_max=_VERSIONS_MAX,
    )
    told = (result() for _, result in found)
    return [one for one in told if one is not None]


def _run(versions: RunVersions) -> FleetRun | None:
    listed = [one for one in versions.statuses if one.root.number not in versions.decided.forgotten]
    if not listed:
        return None
    return FleetRun(
        listed[-1].root.run,
        listed[-1],
        next((one for one in reversed(listed) if is_proved(one) and one.hidden is None), None),
        len(listed),
        sum(one.root.summary.stored_bytes for one in versions.statuses),
        tuple(one.root.number for one in listed if one.hidden is not None),
    )


def print_fleet(fleet: Sequence[FleetRun], now_s: float) -> None:
    """Print a table of the runs, and what all of them stored."""
    if not fleet:
        output.say("no version yet")
        return
    table = TextTable(
        ("RUN", "NEWEST", "MADE", "LAST PROVED", "HOST", "VERSIONS", "SIZE", "STORED"), (1, 5, 6, 7), "; "
    )
    for one in fleet:
        root = one.newest.root
        proved = "never" if one.proved is None else f"{one.proved.root.number}, {_ago(one.proved_s, now_s)}"
        numbers = ", ".join(map(str, one.hidden[:5]))
        table.row(
            one.run,
            str(root.number),
            _ago(root.created_ns / 1e9, now_s),
            proved,
            root.host,
            str(one.version_count),
            output.size(root.summary.size_bytes),
            output.size(one.stored_bytes),
            remarks=(f"later proofs are missing of version {numbers}" if numbers else "",),
        )
    output.print_table(table)
    output.say()
    total = output.size(sum(one.stored_bytes for one in fleet))
    output.say(f"{output.count(len(fleet), 'run')}, {total} stored by their versions")


def _ago(moment_s: float | None, now_s: float) -> str:
    return "never" if moment_s is None else format_age(now_s - moment_s)
