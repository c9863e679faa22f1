"""What thawing some packs takes and costs, by storage class and tier: facts, which the caller puts into words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mlsync.cold.find import ColdPack
from mlsync.errors import ThawRefused
from mlsync.store.prices import TIERS, PriceList, Tier, class_of


@dataclass(frozen=True, slots=True)
class TierOffer:
    """One tier for the packs of one class, or of all: the time it *takes*, in words, and its price if that is known."""

    tier: Tier
    takes: str
    usd: float | None


@dataclass(frozen=True, slots=True)
class ColdShare:
    """The packs of one storage class: how many there are, how many *thawing* already, and what the others cost.

    There is no offer for what is being thawed already.
    """

    storage_class: str
    count: int
    size_bytes: int
    thawing_count: int
    offers: tuple[TierOffer, ...]


def cold_shares(packs: Iterable[ColdPack], prices: PriceList | None, days: int) -> list[ColdShare]:
    """Return the shares of the storage classes; without *prices* no price, and no time, which are those of a list."""
    by_class: dict[str, list[ColdPack]] = {}
    for pack in packs:
        by_class.setdefault(pack.storage_class, []).append(pack)
    return [_share(name, found, prices, days) for name, found in sorted(by_class.items())]


def _share(name: str, packs: Sequence[ColdPack], prices: PriceList | None, days: int) -> ColdShare:
    waiting = [pack for pack in packs if not pack.is_thawing]
    waiting_bytes = sum(pack.size_bytes for pack in waiting)
    offers = tuple(
        TierOffer(
            tier, terms.takes, prices.thaw_usd(name, tier, count=len(waiting), size_bytes=waiting_bytes, days=days)
        )
        for tier, terms in class_of(name).tiers.items()
        if prices is not None and waiting
    )
    size_bytes = sum(pack.size_bytes for pack in packs)
    return ColdShare(name, len(packs), size_bytes, len(packs) - len(waiting), offers)


def total_offers(shares: Sequence[ColdShare]) -> list[TierOffer]:
    """Return the tiers that all shares have, with the sum of their prices; each takes as long as the slowest."""
    totals: list[TierOffer] = []
    shares = [share for share in shares if share.thawing_count < share.count]
    for tier in TIERS:
        offers = [offer for share in shares for offer in share.offers if offer.tier == tier]
        if offers and len(offers) == len(shares):
            takes = _slowest((share.storage_class for share in shares), tier)
            totals.append(TierOffer(tier, takes, sum(offer.usd or 0.0 for offer in offers)))
    return totals


def refuse_tier(packs: Iterable[ColdPack], tier: Tier) -> None:
    """Raise ``ThawRefused`` if a class does not thaw by that tier; of a class that is not AWS's nobody knows."""
    for name in sorted({pack.storage_class for pack in packs}):
        tiers = class_of(name).tiers
        if tiers and tier not in tiers:
            others = ", ".join(f"--thaw {other} takes {terms.takes}" for other, terms in tiers.items())
            raise ThawRefused(f"{name} is never thawed {tier}; nothing was asked for", advice=others)


def slowest(packs: Iterable[ColdPack], tier: Tier) -> str:
    """Return how long a tier takes for the slowest class of *packs*, in words; empty if nobody knows."""
    return _slowest((pack.storage_class for pack in packs), tier)


def _slowest(names: Iterable[str], tier: Tier) -> str:
    known = [terms for name in set(names) if (terms := class_of(name).tiers.get(tier)) is not None]
    return max(known, key=lambda terms: terms.within_h).takes if known else ""
