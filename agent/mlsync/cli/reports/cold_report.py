"""What lies in cold storage, in words and in JSON: size, class, and what the tiers take and cost by the list."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from mlsync.cli.terminal import output
from mlsync.cold.find import ColdPack
from mlsync.cold.terms import ColdShare, TierOffer, cold_shares, total_offers
from mlsync.store.prices import PriceList

_CENT: Final = 0.01


def cold_lines(packs: Sequence[ColdPack], prices: PriceList | None, days: int) -> Iterator[str]:
    """Yield what is cold, a line for each storage class, and what all of it costs."""
    shares = cold_shares(packs, prices, days)
    yield f"{_packs(packs)} must be thawed before this can be read"
    for share in shares:
        yield _line(share)
    offers = total_offers(shares)
    if prices is not None and offers:
        copies = f"with the readable copies for {output.count(days, 'day')}"
        yield f"in all {_offers(offers)} ({prices.name}, {copies}; what the network costs is not in it)"


def _line(share: ColdShare) -> str:
    text = f"{share.storage_class}: {output.count(share.count, 'pack')}, {output.size(share.size_bytes)}"
    if share.thawing_count:
        text += f", {share.thawing_count} of them being thawed"
    return text + (f": {_offers(share.offers)}" if share.offers else "")


def _offers(offers: Iterable[TierOffer]) -> str:
    return "; ".join(f"{offer.tier} {offer.takes}, {usd(offer.usd)}" for offer in offers)


def _packs(packs: Sequence[ColdPack]) -> str:
    text = "1 pack in cold storage" if len(packs) == 1 else f"{len(packs)} packs in cold storage"
    return f"{text} ({output.size(sum(pack.size_bytes for pack in packs))})"


def usd(amount: float | None) -> str:
    """Return a price, to the cent."""
    if amount is None:
        return "no price known"
    if 0 < amount < _CENT:
        return "less than a cent"
    return f"USD {amount:,.2f}" if amount else "free"


def cold_json(packs: Iterable[ColdPack], prices: PriceList | None, days: int) -> list[dict[str, object]]:
    """Return the storage classes of *packs*, each with its packs and offers."""
    packs = list(packs)
    return [
        {
            "storage_class": share.storage_class,
            "size_bytes": share.size_bytes,
            "packs": [
                {"object": pack.key, "size_bytes": pack.size_bytes, "thawing": pack.is_thawing}
                for pack in packs
                if pack.storage_class == share.storage_class
            ],
            "offers": [{"tier": offer.tier, "takes": offer.takes, "usd": _exact(offer.usd)} for offer in share.offers],
            "price_list": None if prices is None else prices.name,
        }
        for share in cold_shares(packs, prices, days)
    ]


def _exact(usd: float | None) -> float | None:
    return None if usd is None else round(usd, 6)
