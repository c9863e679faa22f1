"""The table of storage classes: prices, times and minimums, and what is computed of them."""

from __future__ import annotations

import pytest

from mlsync.cold.find import ColdPack
from mlsync.cold.terms import cold_shares, refuse_tier, slowest, total_offers
from mlsync.errors import ThawRefused
from mlsync.store.prices import ARCHIVE_ACCESS, AWS_LIST, CLASSES, DEEP_ARCHIVE_ACCESS, TIERS, class_of, early_s
from mlsync.store.s3.client import is_aws

GB = 10**9
DAY_S = 86_400.0


def pack(storage_class, size_bytes=GB, *, is_thawing=False, number=0):
    """A cold pack."""
    return ColdPack(number.to_bytes(16, "big"), size_bytes, storage_class, is_thawing)


@pytest.mark.parametrize(
    ("storage_class", "tier", "usd"),
    [
        # 100 GB in 1,000 objects: retrieval, requests, and 100 GB of S3 Standard for 7 of 30 days (0.5367).
        ("GLACIER", "expedited", 3.0 + 10.0 + 0.536667),
        ("GLACIER", "standard", 1.0 + 0.05 + 0.536667),
        ("GLACIER", "bulk", 0.536667),
        ("DEEP_ARCHIVE", "standard", 2.0 + 0.1 + 0.536667),
        ("DEEP_ARCHIVE", "bulk", 0.25 + 0.025 + 0.536667),
        # No copy beside the object, and nothing for what is not hurried.
        (ARCHIVE_ACCESS, "expedited", 3.0 + 10.0),
        (ARCHIVE_ACCESS, "standard", 0.0),
        (DEEP_ARCHIVE_ACCESS, "bulk", 0.0),
    ],
)
def test_the_list_price_of_a_thaw(storage_class, tier, usd):
    """A thaw costs retrieval by the GB, by the request, and the copy's storage for its days."""
    found = AWS_LIST.thaw_usd(storage_class, tier, count=1000, size_bytes=100 * GB, days=7)
    assert found == pytest.approx(usd, abs=1e-5)


def test_a_tier_that_a_class_lacks_has_no_price():
    """Nothing is said of a tier that does not exist, nor of a class that nobody knows."""
    assert AWS_LIST.thaw_usd("DEEP_ARCHIVE", "expedited", count=1, size_bytes=GB, days=1) is None
    assert AWS_LIST.thaw_usd("COLD_OF_OTHERS", "standard", count=1, size_bytes=GB, days=1) is None


def test_every_class_that_thaws_says_how_long_each_tier_takes_and_slower_ones_are_not_dearer():
    """The table is in itself right: a slower tier takes longer, and costs no more."""
    for name, one in CLASSES.items():
        tiers = [tier for tier in TIERS if tier in one.tiers]
        assert list(one.tiers) == tiers, name
        terms = [one.tiers[tier] for tier in tiers]
        assert [each.within_h for each in terms] == sorted(each.within_h for each in terms), name
        assert [each.usd_per_gb for each in terms] == sorted((each.usd_per_gb for each in terms), reverse=True), name


@pytest.mark.parametrize(
    ("storage_class", "days"),
    [("STANDARD_IA", 30), ("ONEZONE_IA", 30), ("GLACIER", 90), ("GLACIER_IR", 90), ("DEEP_ARCHIVE", 180)],
)
def test_deletion_before_the_minimum_costs_the_storage_until_then(storage_class, days):
    """The fee is that of the days that are left, and nothing once the minimum is over."""
    assert early_s(storage_class, 0.0) == days * DAY_S
    assert early_s(storage_class, days * DAY_S) == 0
    assert early_s(storage_class, -5.0) == days * DAY_S, "a clock that is behind makes no minimum longer"
    per_month = class_of(storage_class).usd_per_gb_month
    half = AWS_LIST.early_usd(storage_class, size_bytes=100 * GB, age_s=days / 2 * DAY_S)
    assert half == pytest.approx(100 * per_month * days / 2 / 30)
    assert AWS_LIST.early_usd(storage_class, size_bytes=100 * GB, age_s=1000 * DAY_S) == 0


@pytest.mark.parametrize("storage_class", ["STANDARD", "", "INTELLIGENT_TIERING", "OF_ANOTHER_SERVER"])
def test_classes_without_a_minimum(storage_class):
    """What has no minimum, or none that is known, costs nothing to delete."""
    assert early_s(storage_class, 0.0) == 0
    assert AWS_LIST.early_usd(storage_class, size_bytes=GB, age_s=0.0) == 0


def test_shares_leave_out_of_the_price_what_is_thawing_already():
    """Packs are told by class; what somebody asked for before is counted, and not paid for again."""
    packs = [pack("GLACIER"), pack("GLACIER", is_thawing=True), pack("DEEP_ARCHIVE", 2 * GB)]
    deep, flexible = cold_shares(packs, AWS_LIST, 30)
    assert (flexible.count, flexible.size_bytes, flexible.thawing_count) == (2, 2 * GB, 1)
    standard = next(offer for offer in flexible.offers if offer.tier == "standard")
    assert standard.usd == pytest.approx(0.01 + 0.00005 + 0.023)
    assert (deep.count, deep.size_bytes, deep.thawing_count) == (1, 2 * GB, 0)
    totals = {offer.tier: offer for offer in total_offers([deep, flexible])}
    assert set(totals) == {"standard", "bulk"}, "expedited is not to be had for all"
    assert totals["standard"].usd == pytest.approx(standard.usd + 2 * (0.02 + 0.023) + 0.0001)
    assert totals["standard"].takes == "up to 12 hours"
    assert totals["bulk"].takes == "up to 48 hours"


def test_what_is_all_being_thawed_costs_nothing_more_and_hinders_no_sum():
    """Nobody reads "free" of what was paid for; and a tier that such a class lacks is still offered for the others."""
    shares = cold_shares([pack("DEEP_ARCHIVE", is_thawing=True), pack("GLACIER")], AWS_LIST, 7)
    assert [share.offers == () for share in shares] == [True, False]
    assert [offer.tier for offer in total_offers(shares)] == ["expedited", "standard", "bulk"]
    assert total_offers(shares[:1]) == []


def test_a_server_whose_prices_nobody_knows_gets_none():
    """Without a list there is neither price nor time."""
    (share,) = cold_shares([pack("GLACIER")], None, 7)
    assert share.offers == ()
    assert total_offers([share]) == []


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("s3.us-east-1.amazonaws.com", True),
        ("s3.amazonaws.com:443", True),
        ("s3.cn-north-1.amazonaws.com.cn", False),
        ("minio.lab:9000", False),
        ("evilamazonaws.com", False),
        ("s3.amazonaws.com.evil.example", False),
    ],
)
def test_the_list_is_for_the_endpoints_of_aws_alone(endpoint, expected):
    """Other servers, and AWS in China, have other prices."""
    assert is_aws(endpoint) == expected


def test_a_tier_that_one_class_lacks_is_refused_with_those_that_it_has():
    """Nothing is asked for if a part of it could not be had; of classes of other servers nobody knows."""
    with pytest.raises(ThawRefused, match="DEEP_ARCHIVE is never thawed expedited") as caught:
        refuse_tier([pack("GLACIER"), pack("DEEP_ARCHIVE")], "expedited")
    assert caught.value.exit_code == 120
    assert "--thaw standard takes up to 12 hours" in str(caught.value)
    refuse_tier([pack("GLACIER"), pack("OF_OTHERS")], "expedited")
    assert slowest([pack("GLACIER"), pack("DEEP_ARCHIVE")], "standard") == "up to 12 hours"
    assert slowest([pack("OF_OTHERS")], "standard") == ""
