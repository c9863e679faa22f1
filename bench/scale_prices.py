"""What providers charge, and what teams pay a month: worked out from the requests and bytes that scale.py counted.

Prices are list prices in US dollars, before taxes, of the first step where more costs less. Each says from which page
it is, and when that was read. A GB has 10^9 bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

GB = 10**9
GRACE_DAYS, MONTH_DAYS = 7, 30
# A forgotten version is no younger than the grace, waits as long, and so do its marked packs.
GRACES = 3


@dataclass(frozen=True)
class Prices:
    """What one provider charges: for 1,000 requests of a kind, for a GB and month, and for a GB that leaves."""

    name: str
    put: float
    list: float
    get: float
    month: float
    internet: float
    region: float
    source: str
    read: str

    def requests_usd(self, costs: Mapping[str, float]) -> float:
        """What the requests of a command cost; deletions are free everywhere here."""
        return (costs["put"] * self.put + costs["list"] * self.list + costs["get"] * self.get) / 1000


PROVIDERS = (
    Prices(
        "AWS S3 Standard, us-east-1",
        *(0.005, 0.005, 0.0004, 0.023, 0.09, 0.02),
        "aws.amazon.com/s3/pricing",
        "storage: June 2026; the rest before, not looked up anew",
    ),
    Prices(
        "Google Cloud Storage Standard, us-central1",
        *(0.005, 0.005, 0.0004, 0.02, 0.12, 0.02),
        "cloud.google.com/storage/pricing",
        "storage: September 2026; the rest before, not looked up anew",
    ),
    Prices(
        "Cloudflare R2 Standard",
        *(0.0045, 0.0045, 0.00036, 0.015, 0.0, 0.0),
        "developers.cloudflare.com/r2/pricing",
        "August 2026",
    ),
    Prices(
        "Backblaze B2",
        *(0.0, 0.004, 0.0004, 0.006, 0.01, 0.01),
        "backblaze.com/cloud-storage/pricing",
        "before, not looked up anew; three times of what is stored leaves free of charge",
    ),
)


@dataclass(frozen=True)
class Team:
    """A team, and what it makes in a month: *versions* of *gb* each, all of them new, in so many *runs*."""

    name: str
    versions: int
    gb: float
    runs: int
    kept_of_run: int = 50

    @property
    def kept(self) -> int:
        """How many versions the rules keep."""
        return min(self.versions, self.kept_of_run * self.runs)

    @property
    def kept_with_grace(self) -> int:
        """The same, with those that are too young to go, forgotten and waiting, or whose packs are."""
        return max(self.kept, round(self.versions * GRACES * GRACE_DAYS / MONTH_DAYS))


TEAMS = (
    Team("one researcher, YOLO", 3_000, 0.02, 1),
    Team("ten people, 7B", 7_200, 16, 10),
    Team("100 agents", 72_000, 20, 100),
)


@dataclass(frozen=True)
class Month:
    """What a team pays a month, in dollars; *differences* is what of the bytes is stored, 1.0 if all are."""

    requests: float
    added: float
    kept: float
    kept_with_grace: float
    mirror_traffic: float
    mirror_storage: float
    read_back_outside: float

    @property
    def total(self) -> float:
        """With retention and its grace, without a mirror."""
        return self.requests + self.kept_with_grace

    @property
    def total_with_mirror(self) -> float:
        """With a mirror in another region beside it, of which the same versions stay."""
        return self.total + self.mirror_traffic + self.mirror_storage


#: What a backup of a new save costs, by its MiB.
Sizes = Mapping[int, Mapping[str, float]]


def sizes_in(result: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]) -> Sizes:
    """Return what was measured of new saves: the small one of the histories, and those of the two sizes."""
    name = "backup, a new save"
    smallest = result["one_run"][min(result["one_run"], key=int)]
    return {1: smallest[name]} | {int(mib): costs[name] for mib, costs in result["by_size"].items()}


def month(team: Team, prices: Prices, sizes: Sizes, differences: float | None = None) -> Month:
    """Return what a team pays.

    With *differences* such a share of the bytes is stored, and what changed is read twice, to prove it.
    """
    stored_gb = team.gb * (1.0 if differences is None else differences)
    reads = 1 if differences is None else 2
    counts = backup_requests(stored_gb, sizes)
    counts["get"] *= reads
    return Month(
        requests=team.versions * prices.requests_usd(counts),
        added=team.versions * stored_gb * prices.month,
        kept=team.kept * stored_gb * prices.month,
        kept_with_grace=team.kept_with_grace * stored_gb * prices.month,
        mirror_traffic=team.versions * stored_gb * prices.region,
        mirror_storage=team.kept_with_grace * stored_gb * prices.month,
        read_back_outside=team.versions * stored_gb * prices.internet * reads,
    )


def backup_requests(gb: float, sizes: Sizes) -> dict[str, float]:
    """Return the requests of a backup of so many GB: on the line through the two sizes around, or the two largest."""
    mib, known = gb * GB / 2**20, sorted(sizes)
    above = next((place for place, size in enumerate(known) if size >= mib), len(known) - 1)
    small, large = known[max(0, above - 1)], known[max(1, above)]
    share = (mib - small) / (large - small)
    kinds = ("put", "list", "get")
    return {kind: max(0.0, sizes[small][kind] + share * (sizes[large][kind] - sizes[small][kind])) for kind in kinds}
