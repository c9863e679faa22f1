"""Storage classes and what they charge: one table, of AWS's list prices, for what mlsync says before it costs money.

The prices are those of us-east-1 in US dollars, as AWS published them in June 2026. Other regions and contracts differ,
so every message says "list price". Nobody knows what other servers charge: they have no list here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, get_args

import msgspec

#: How fast an archived object is made readable, by the names that S3 uses.
Tier = Literal["expedited", "standard", "bulk"]
TIERS: Final[tuple[Tier, ...]] = get_args(Tier)
_GB: Final = 10**9
_MONTH_DAYS: Final = 30.0
DAY_S: Final = 86_400.0


class TierTerms(msgspec.Struct, frozen=True):
    """What one tier of thawing takes, in words and in hours at most, and its prices for a GB and for 1000 requests."""

    takes: str
    within_h: float
    usd_per_gb: float
    usd_per_1000: float


class StorageClass(msgspec.Struct, frozen=True):
    """One storage class: what storing a GB costs in a month, how long one pays at least, and how it thaws.

    A class without *tiers* is read at once. Those with *has_copy* give a readable copy for some days, which is stored,
    and paid, beside the object.
    """

    usd_per_gb_month: float
    minimum_days: int = 0
    tiers: Mapping[Tier, TierTerms] = msgspec.field(default_factory=dict)
    has_copy: bool = True


#: What Intelligent-Tiering calls the tiers that cannot be read at once, after the name of the class.
ARCHIVE_ACCESS: Final = "INTELLIGENT_TIERING/ARCHIVE_ACCESS"
DEEP_ARCHIVE_ACCESS: Final = "INTELLIGENT_TIERING/DEEP_ARCHIVE_ACCESS"
CLASSES: Final[Mapping[str, StorageClass]] = {
    "STANDARD": StorageClass(0.023),
    "REDUCED_REDUNDANCY": StorageClass(0.024),
    "STANDARD_IA": StorageClass(0.0125, 30),
    "ONEZONE_IA": StorageClass(0.01, 30),
    "INTELLIGENT_TIERING": StorageClass(0.023),
    "GLACIER_IR": StorageClass(0.004, 90),
    "GLACIER": StorageClass(
        0.0036,
        90,
        {
            "expedited": TierTerms("1 to 5 minutes", 0.1, 0.03, 10.0),
            "standard": TierTerms("3 to 5 hours", 5, 0.01, 0.05),
            "bulk": TierTerms("5 to 12 hours", 12, 0.0, 0.0),
        },
    ),
    "DEEP_ARCHIVE": StorageClass(
        0.00099,
        180,
        {
            "standard": TierTerms("up to 12 hours", 12, 0.02, 0.10),
            "bulk": TierTerms("up to 48 hours", 48, 0.0025, 0.025),
        },
    ),
    ARCHIVE_ACCESS: StorageClass(
        0.0036,
        0,
        {
            "expedited": TierTerms("1 to 5 minutes", 0.1, 0.03, 10.0),
            "standard": TierTerms("3 to 5 hours", 5, 0.0, 0.0),
            "bulk": TierTerms("5 to 12 hours", 12, 0.0, 0.0),
        },
        has_copy=False,
    ),
    DEEP_ARCHIVE_ACCESS: StorageClass(
        0.00099,
        0,
        {
            "standard": TierTerms("up to 12 hours", 12, 0.0, 0.0),
            "bulk": TierTerms("up to 48 hours", 48, 0.0, 0.0),
        },
        has_copy=False,
    ),
}
_UNKNOWN: Final = StorageClass(0.0)


def class_of(name: str) -> StorageClass:
    """Return what is known of a storage class; of an unknown one nothing is, and S3 shows none for its usual class."""
    return CLASSES.get(name or "STANDARD", _UNKNOWN)


class PriceList(msgspec.Struct, frozen=True):
    """A published price list: *name* says whose, where and of when."""

    name: str

    def thaw_usd(self, storage_class: str, tier: Tier, *, count: int, size_bytes: int, days: int) -> float | None:
        """Return what thawing *count* objects costs, with the readable copy for *days*; ``None`` if it is not known."""
        known = class_of(storage_class)
        terms = known.tiers.get(tier)
        if terms is None:
            return None
        copy_usd = CLASSES["STANDARD"].usd_per_gb_month * days / _MONTH_DAYS if known.has_copy else 0.0
        return size_bytes / _GB * (terms.usd_per_gb + copy_usd) + count / 1000 * terms.usd_per_1000

    def early_usd(self, storage_class: str, *, size_bytes: int, age_s: float) -> float:
        """Return what deleting an object of that age costs: the storage until the end of the class's minimum."""
        left_s = early_s(storage_class, age_s)
        return size_bytes / _GB * class_of(storage_class).usd_per_gb_month * left_s / DAY_S / _MONTH_DAYS


def early_s(storage_class: str, age_s: float) -> float:
    """Return how long before the end of its class's minimum an object of that age is; 0 if that is over."""
    return max(0.0, class_of(storage_class).minimum_days * DAY_S - max(0.0, age_s))


AWS_LIST: Final = PriceList("list price of AWS in us-east-1, June 2026")
