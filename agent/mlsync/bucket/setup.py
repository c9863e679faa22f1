"""The story of a bucket's setup: look at what is there, plan, carry the plan out, look again."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import msgspec

from mlsync.bucket import replication
from mlsync.bucket.apply import BucketApplied, Doer, carry_out
from mlsync.bucket.facts import BucketFacts, RoleFacts, look, look_at_role
from mlsync.bucket.plan import Seen, plan, second_wanted
from mlsync.bucket.providers import Provider, provider_of
from mlsync.bucket.steps import BucketPlan
from mlsync.bucket.wanted import Wanted, check_regions
from mlsync.errors import ConfigInvalid, StoreLocationInvalid
from mlsync.store.options import StoreOptions
from mlsync.store.s3.account import Account
from mlsync.store.s3.settings import BucketSettings, Setting


@dataclass(slots=True)
class _Opened:
    settings: BucketSettings
    facts: BucketFacts
    region: str | None


class BucketSetup:
    """One bucket, and the second one if there is to be one; close it after use."""

    def __init__(self, wanted: Wanted, options: StoreOptions) -> None:
        self._wanted = wanted
        self._options = options
        self._opened: dict[str, _Opened] = {}
        self._account: Account | None = None
        self.seen: Seen | None = None

    @property
    def prefix(self) -> str:
        """The begin of the repository's keys, without a slash."""
        return self._wanted.prefix

    def plan(self) -> BucketPlan:
        """Look at everything, and return what has to change; nothing is changed."""
        self._close()
        first, provider = self._look(self._wanted.bucket, self._options, self._wanted.prefix)
        is_tls = urlsplit(self._options.endpoint_url or "https:").scheme == "https"
        seen = Seen(provider, first.facts, first.region, refuses_http=is_tls)
        second = second_wanted(self._wanted, first.facts)
        if second is not None and Setting.REPLICATION not in provider.lacks:
            seen = self._look_at_second(second.bucket, second.region, seen)
        check_regions(self._wanted, seen.region, seen.second_region)
        self.seen = seen
        return plan(self._wanted, seen)

    def carry_out(self, found: BucketPlan) -> BucketApplied:
        """Carry out a plan that was just made."""
        assert self._account is not None or not any(step.bucket == "" for step in found.changes)
        buckets = {name: one.settings for name, one in self._opened.items()}
        account = self._account or self._account_of(self.seen.provider if self.seen else None)
        return carry_out(found, Doer(buckets, account))

    def close(self) -> None:
        """Close the connections."""
        self._close()

    def _look_at_second(self, bucket: str, region: str | None, seen: Seen) -> Seen:
        options = msgspec.structs.replace(self._options, region=region or self._options.region)
        if seen.provider.is_aws:
            # An address of one region of AWS is none of another.
            options = msgspec.structs.replace(options, endpoint_url=None)
        second, _ = self._look(bucket, options, self._wanted.prefix, is_region_given=region is not None)
        if not second.facts.exists and region is None and seen.provider.has_iam:
            what = "there is no such bucket yet, and nobody said in which region to make it"
            raise ConfigInvalid(what, where=bucket, advice="give --second-region, as in --second-region eu-west-1")
        self._account = self._account_of(seen.provider)
        role = look_at_role(self._account, replication.role_name(self._wanted))
        return replace(seen, second=second.facts, second_region=second.region, role=role)

    def _look(
        self, bucket: str, options: StoreOptions, prefix: str, *, is_region_given: bool = True
    ) -> tuple[_Opened, Provider]:
        url = f"s3://{bucket}/{prefix}".rstrip("/")
        settings = BucketSettings(url, options)
        here = str(settings.client.botocore.meta.region_name)
        facts, provider = look(settings, lambda server: provider_of(options.endpoint_url, server))
        asked = options.region if is_region_given else None
        if facts.exists and asked and provider.has_iam and facts.region != asked:
            what = f"the bucket is in {facts.region}, and {asked} was asked for"
            settings.close()
            raise StoreLocationInvalid(what, where=url, advice=f"give {facts.region}, or choose another name")
        region = facts.region if facts.exists else options.region or (here if provider.is_aws else None)
        opened = self._opened[bucket] = _Opened(settings, facts, region)
        return opened, provider

    def _account_of(self, provider: Provider | None) -> Account:
        is_aws = provider is None or provider.is_aws
        # Servers that are not AWS have IAM, if they have it, at the same address.
        elsewhere = is_aws or "AWS_ENDPOINT_URL_IAM" in os.environ
        return Account(self._options, None if elsewhere else self._options.endpoint_url)

    def _close(self) -> None:
        for one in self._opened.values():
            one.settings.close()
        self._opened.clear()
        if self._account is not None:
            self._account.close()
            self._account = None


def as_asked(wanted: Wanted, options: StoreOptions) -> Seen:
    """Return what a plan goes by if both buckets are to be made; nobody is asked. For documents of other tools."""
    provider = provider_of(options.endpoint_url)
    if not provider.is_aws:
        raise ConfigInvalid(f"{provider.name} has no such documents", advice="they are for AWS: mlsync bucket apply")
    if options.region is None:
        raise ConfigInvalid("a document needs the bucket's region", advice="give --region, as in --region eu-central-1")
    seen = Seen(provider, BucketFacts(wanted.bucket, None, exists=False), options.region)
    if wanted.second is not None:
        if wanted.second.region is None:
            what = "a document needs the second bucket's region"
            raise ConfigInvalid(what, advice="give --second-region, as in --second-region eu-west-1")
        second = BucketFacts(wanted.second.bucket, None, exists=False)
        seen = replace(seen, second=second, second_region=wanted.second.region, role=RoleFacts())
    check_regions(wanted, seen.region, seen.second_region)
    return seen
