"""What somebody wants of a bucket, as the options say it; whatever makes no sense is refused before anybody is asked.

An option that was not given is ``None``: then the bucket keeps what it has of it, and takes the default if it has
nothing. So a second run without options changes nothing, and no omission weakens what was set before.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from mlsync.errors import ConfigInvalid
from mlsync.kms.names import region_of
from mlsync.repository.names import PACKS
from mlsync.store.location import bucket_and_prefix
from mlsync.store.s3.settings import Setting

DAYS_MAX: Final = 36_500
# Uploads that mlsync means to go on with are up to three days old.
_OWN_UPLOADS_DAYS: Final = 3
_DAY_S: Final = 86_400
_INFREQUENT_DAYS: Final = 30
# From warm to cold, the order in which S3 moves objects on.
CLASSES: Final = ("STANDARD_IA", "INTELLIGENT_TIERING", "ONEZONE_IA", "GLACIER_IR", "GLACIER", "DEEP_ARCHIVE")
#: Classes from which an object has to be thawed before anybody can read it.
FROZEN: Final = ("GLACIER", "DEEP_ARCHIVE")
_INFREQUENT: Final = ("STANDARD_IA", "ONEZONE_IA")
NONE: Final = "none"
_KEY_ARN: Final = re.compile(r"arn:aws[a-z-]{0,24}:kms:[a-z0-9-]{1,40}:[0-9]{12}:key/[A-Za-z0-9-]{1,64}")
_TIER: Final = re.compile(r"([A-Za-z_]+):([0-9]{1,6})")


@dataclass(frozen=True, slots=True)
class PackTier:
    """Packs move to a storage class so many days after they were stored."""

    storage_class: str
    days: int


DEFAULT_TIERS: Final = (PackTier("STANDARD_IA", 30), PackTier("GLACIER_IR", 90))
DEFAULT_NONCURRENT_DAYS: Final = 30
DEFAULT_ABORT_DAYS: Final = 7


@dataclass(frozen=True, slots=True)
class DefaultLock:
    """New objects cannot be deleted for so many days."""

    days: int
    mode: str = "GOVERNANCE"


@dataclass(frozen=True, slots=True)
class Second:
    """The bucket that gets a copy of everything."""

    bucket: str
    region: str | None = None
    kms_key: str | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is wanted of the bucket and of the repository's prefix in it; ``None`` is as the bucket has it."""

    bucket: str
    prefix: str = ""
    tiers: tuple[PackTier, ...] | None = None
    noncurrent_days: int | None = None
    abort_days: int | None = None
    kms_key: str | None = None
    lock: DefaultLock | None = None
    second: Second | None = None
    skip: frozenset[Setting] = frozenset()
    grace_s: float = 7 * _DAY_S

    def __post_init__(self) -> None:
        """Raise ``ConfigInvalid`` for what a server would refuse, or what would eat the repository."""
        if self.tiers is not None:
            _check_tiers(self.tiers)
        for days, what in ((self.noncurrent_days, "--noncurrent-days"), (self.abort_days, "--abort-uploads-days")):
            if days is not None:
                _check_days(days, what)
        if self.abort_days is not None and self.abort_days <= _OWN_UPLOADS_DAYS:
            what = f"--abort-uploads-days {self.abort_days}: a backup goes on with uploads that are three days old"
            raise ConfigInvalid(what, advice=f"give {_OWN_UPLOADS_DAYS + 1} or more; the default is 7")
        if self.noncurrent_days is not None and self.noncurrent_days * _DAY_S < self.grace_s:
            what = (
                f"--noncurrent-days {self.noncurrent_days}: what is deleted by mistake would be gone before the grace "
                f"of {self.grace_s / _DAY_S:g} days under [retention] is over"
            )
            raise ConfigInvalid(what, advice="give as many days as the grace, or more")
        if self.lock is not None:
            _check_days(self.lock.days, "--lock-days")
        for key in (self.kms_key, None if self.second is None else self.second.kms_key):
            _check_key(key)
        if self.second is not None and Setting.REPLICATION in self.skip:
            raise ConfigInvalid("--replicate-to with --skip replication", advice="give one of them")
        if self.second is not None and self.second.bucket == self.bucket:
            raise ConfigInvalid("a bucket cannot be its own second copy", where=self.bucket, advice="name another one")

    @property
    def below(self) -> str:
        """The begin of the keys of the repository, empty if it has the whole bucket."""
        return f"{self.prefix}/" if self.prefix else ""

    @property
    def packs(self) -> str:
        """The begin of the keys of its packs."""
        return f"{self.below}{PACKS}"

    def rule_name(self, kind: str) -> str:
        """Return the name of our rule of that kind: another repository in the bucket has rules of its own."""
        tag = f"-{hashlib.sha256(self.prefix.encode()).hexdigest()[:8]}" if self.prefix else ""
        return f"mlsync-{kind}{tag}"


def tiers_of(words: Sequence[str]) -> tuple[PackTier, ...] | None:
    """Return the storage classes that ``--tier`` names, ``None`` if it was not given."""
    if not words:
        return None
    if list(words) == [NONE]:
        return ()
    tiers = []
    for word in words:
        found = _TIER.fullmatch(word)
        if found is None:
            advice = f"give CLASS:DAYS, as in --tier STANDARD_IA:30; {NONE} alone for no class at all"
            raise ConfigInvalid(f"--tier {word} is no storage class with days", advice=advice)
        tiers.append(PackTier(found[1].upper(), int(found[2])))
    return tuple(tiers)


def second_of(url: str | None, region: str | None, kms_key: str | None, prefix: str) -> Second | None:
    """Return the second bucket that the options name."""
    if url is None:
        if region is not None or kms_key is not None:
            raise ConfigInvalid("--second-region and --second-kms-key are about a second bucket",
                                advice="name it: --replicate-to s3://BUCKET")  # fmt: skip
        return None
    bucket, second_prefix = bucket_and_prefix(url)
    if second_prefix not in ("", prefix):
        what = f"S3 replicates objects under their own names, so the second copy is at s3://{bucket}/{prefix}"
        raise ConfigInvalid(what, where=url, advice=f"give s3://{bucket}; mlsync copy --to copies to another prefix")
    return Second(bucket, region, kms_key)


def check_regions(wanted: Wanted, region: str | None, second_region: str | None) -> None:
    """Raise ``ConfigInvalid`` for keys of KMS that are not where their bucket is."""
    of_second = None if wanted.second is None else wanted.second.kms_key
    for key, place, bucket in ((wanted.kms_key, region, "the bucket"), (of_second, second_region, "the second bucket")):
        if key and key != NONE and place and region_of(key) != place:
            what = f"the key is in {region_of(key)}, and {bucket} in {place}"
            raise ConfigInvalid(what, where=key, advice=f"give a key of {place}: S3 uses no other")


def _check_tiers(tiers: Sequence[PackTier]) -> None:
    for tier in tiers:
        if tier.storage_class not in CLASSES:
            advice = f"there are {', '.join(CLASSES)}"
            raise ConfigInvalid(f"--tier {tier.storage_class}:{tier.days}: no such storage class", advice=advice)
        if tier.days > DAYS_MAX:
            raise ConfigInvalid(f"--tier {tier.storage_class}:{tier.days}: at most {DAYS_MAX} days")
        if tier.storage_class in _INFREQUENT and tier.days < _INFREQUENT_DAYS:
            what = f"--tier {tier.storage_class}:{tier.days}: S3 moves nothing there before {_INFREQUENT_DAYS} days"
            raise ConfigInvalid(what, advice=f"give {_INFREQUENT_DAYS} days or more")
    for earlier, later in pairwise(tiers):
        _check_order(earlier, later)


def _check_order(earlier: PackTier, later: PackTier) -> None:
    """Raise ``ConfigInvalid`` unless objects can go on from the one class to the other."""
    shown = f"--tier {earlier.storage_class}:{earlier.days} --tier {later.storage_class}:{later.days}"
    is_colder = CLASSES.index(later.storage_class) > CLASSES.index(earlier.storage_class)
    if not is_colder or (earlier.storage_class, later.storage_class) == ("ONEZONE_IA", "GLACIER_IR"):
        what = f"{shown}: S3 moves nothing from {earlier.storage_class} to {later.storage_class}"
        raise ConfigInvalid(what, advice=f"it moves in this order alone: {', '.join(CLASSES)}")
    if later.days <= earlier.days:
        raise ConfigInvalid(f"{shown}: the later class needs more days", advice="give them from warm to cold")
    if earlier.storage_class in _INFREQUENT and later.days < earlier.days + _INFREQUENT_DAYS:
        what = f"{shown}: an object stays in {earlier.storage_class} for {_INFREQUENT_DAYS} days at least"
        raise ConfigInvalid(what, advice=f"give {earlier.days + _INFREQUENT_DAYS} days or more")


def _check_days(days: int, option: str) -> None:
    if not 1 <= days <= DAYS_MAX:
        raise ConfigInvalid(f"{option} {days}: from 1 to {DAYS_MAX} days")


def _check_key(key: str | None) -> None:
    if key not in (None, NONE) and not _KEY_ARN.fullmatch(str(key)):
        advice = "give the key's ARN, as in arn:aws:kms:eu-central-1:111122223333:key/1234abcd-..."
        raise ConfigInvalid(f"{key!r} is not the ARN of a key of AWS KMS", advice=advice)
