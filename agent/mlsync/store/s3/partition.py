"""Which part of AWS a bucket is in, and in which Region, as AWS's own tools would say it: no request is made."""

from __future__ import annotations

from urllib.parse import urlsplit

import boto3
from botocore import exceptions as aws

from mlsync.store.options import StoreOptions

_USUAL = "aws"
_CHINA = (".amazonaws.com.cn", "aws-cn")


def partition_and_region(options: StoreOptions) -> tuple[str, str | None]:
    """Return the partition, as ``aws-cn``, and the Region if options, environment or profile have one."""
    try:
        session = boto3.session.Session(profile_name=options.profile, region_name=options.region)
        region: str | None = session.region_name
        if region is None:
            is_china = (urlsplit(options.endpoint_url or "").hostname or "").endswith(_CHINA[0])
            return _CHINA[1] if is_china else _USUAL, None
        return str(session.get_partition_for_region(region)), region
    except aws.BotoCoreError:
        # A profile that is not on this machine, or the Region of another provider.
        return _USUAL, options.region
