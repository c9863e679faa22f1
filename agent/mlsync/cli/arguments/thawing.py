"""What is in cold storage and must be read: a command tells what thawing costs, and has it thawed if asked to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar, cast

import click

from mlsync.cli.arguments.invocation import Invocation
from mlsync.cli.reports.cold_report import cold_json, cold_lines
from mlsync.cold.find import ColdPack, cold_packs, named_packs
from mlsync.cold.terms import refuse_tier
from mlsync.cold.thaw import ThawOptions, thaw
from mlsync.errors import ConfigInvalid, Error, ObjectArchived
from mlsync.monitor import Monitor
from mlsync.repository.repository import Repository
from mlsync.store.prices import TIERS, Tier

F = TypeVar("F", bound=Callable[..., Any])
DAYS: Final = 7
# As long as S3 itself would wait with the next payment.
_DAYS_MAX: Final = 365


def thaw_options(function: F) -> F:
    """Give a command ``--thaw`` and what belongs to it."""
    options = (
        click.option(
            "--thaw",
            "tier",
            type=click.Choice(TIERS),
            metavar="TIER",
            help="Thaw what is cold first, for MONEY: expedited, standard or bulk.",
        ),
        click.option(
            "--thaw-days", type=click.IntRange(1, _DAYS_MAX), metavar="N", help=f"Readable for N days; default {DAYS}."
        ),
        click.option("--no-wait", is_flag=True, help="With --thaw: end with 119 until it is done."),
        click.option("--ask-again", is_flag=True, help="Speed up what thaws, by a faster TIER."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def thaw_request(tier: str | None, thaw_days: int | None, *, no_wait: bool, ask_again: bool) -> ThawOptions | None:
    """Return what the options ask for; ``None`` without ``--thaw``."""
    if tier is None:
        if no_wait or ask_again or thaw_days is not None:
            what = "--thaw-days, --no-wait and --ask-again only apply to --thaw"
            raise ConfigInvalid(what, advice="give --thaw TIER too, or leave them out")
        return None
    return ThawOptions(cast("Tier", tier), thaw_days or DAYS, waits=not no_wait, again=ask_again)


@dataclass(slots=True)
class Thawing:
    """Tells of cold packs before they are read, and has them thawed if *request* says so."""

    repository: Repository
    invocation: Invocation
    monitor: Monitor
    request: ThawOptions | None = None
    stop: Callable[[], bool] = lambda: False
    _told: set[bytes] = field(default_factory=set)

    def ready(self, packs: Iterable[bytes]) -> bool:
        """Tell what of *packs* is cold; return whether it was waited for. Without a request, nothing else happens."""
        cold = cold_packs(self.repository, packs)
        if not cold:
            return False
        if self.request is not None:
            refuse_tier(cold, self.request.tier)
        self._tell(cold)
        if self.request is None:
            return False
        request = replace(self.request, stop=self.stop)
        done = thaw(self.repository.store, cold, request, self.monitor)
        self.monitor.notice("status", f"all of it is thawed, after {done.looks} looks in {done.waited_s:.0f} s")
        return True

    def ready_list(self, packs: Iterable[bytes]) -> None:
        """Do the same for the packs in which the list of files lies, which has to be read before all others."""
        cold = cold_packs(self.repository, packs)
        if cold:
            text = "the version's own list of files is in cold storage: it is thawed first, and then what it names"
            self.monitor.notice("status", text)
            self.ready(pack.pack_id for pack in cold)

    def tell_all(self) -> None:
        """Tell of all packs of the repository that are cold; a store that freezes nothing is not asked."""
        if self.repository.store.may_freeze:
            self.ready(pack_id for pack_id, _ in self.repository.packs())

    def explain(self, error: ObjectArchived) -> None:
        """Tell of the packs that an error names, unless they were told of."""
        try:
            cold = cold_packs(self.repository, named_packs(error) - self._told)
        except Error:
            return  # the error itself is what a person needs to see
        if cold:
            self._tell(cold)

    def _tell(self, cold: list[ColdPack]) -> None:
        days = DAYS if self.request is None else self.request.days
        prices = self.repository.store.price_list
        for line in cold_lines(cold, prices, days):
            self.monitor.notice("status", line)
        self._told.update(pack.pack_id for pack in cold)
        self.invocation.cold += cold_json(cold, prices, days)
