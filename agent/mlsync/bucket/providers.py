"""What servers lack of AWS's settings, and what follows: known beforehand, and said before anything is asked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from mlsync.store.s3.settings import Setting

# Parts of a lifecycle that a server may lack although it has lifecycles.
TIERS, OLD_VERSIONS, UPLOADS = "storage classes", "noncurrent versions", "incomplete uploads"


@dataclass(frozen=True, slots=True)
class Provider:
    """A kind of server.

    *lacks* says, for a setting or a part of the lifecycle, what follows from its absence. *classes* are the storage
    classes that objects can be moved to, ``None`` where that is not known. *has_iam* is whether roles, the account's
    number and keys can be asked for.
    """

    name: str
    host: str
    server: str = ""
    lacks: Mapping[Setting | str, str] = field(default_factory=dict)
    classes: tuple[str, ...] | None = None
    has_iam: bool = False

    @property
    def is_aws(self) -> bool:
        """Whether it is AWS itself."""
        return self.name == AWS_NAME


AWS_NAME: Final = "AWS"
_OWN_TOOLS = "set it in the provider's console or by its own API"
_PACKS_STAY = "packs stay in the class in which they are stored"
AWS: Final = Provider(
    AWS_NAME,
    r"(.*\.)?amazonaws\.com(\.cn)?",
    classes=("STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR", "GLACIER", "DEEP_ARCHIVE"),
    has_iam=True,
)
# By its documents of November 2026; a server that has learned more since is not asked for it.
PROVIDERS: Final = (
    AWS,
    Provider(
        "Aliyun OSS",
        r"(.*\.)?oss[a-z0-9-]*\.aliyuncs\.com",
        lacks={
            Setting.PUBLIC: f"a new bucket is private; {_OWN_TOOLS}",
            Setting.VERSIONS: f"a deleted object is gone; {_OWN_TOOLS}",
            Setting.ENCRYPTION: f"objects are sealed by mlsync in any case; {_OWN_TOOLS}",
            Setting.LOCK: f"credentials that may delete can delete versions; {_OWN_TOOLS} (WORM)",
            Setting.POLICY: f"http is not refused; {_OWN_TOOLS}",
            Setting.REPLICATION: f"mlsync copy --to makes a second copy; or {_OWN_TOOLS}",
            TIERS: _PACKS_STAY,
            OLD_VERSIONS: "there are none without versioning",
        },
    ),
    Provider(
        "Cloudflare R2",
        r"(.*\.)?r2\.cloudflarestorage\.com",
        lacks={
            Setting.PUBLIC: "a bucket is private unless a domain was given to it",
            Setting.VERSIONS: "a deleted object is gone",
            Setting.ENCRYPTION: "R2 encrypts every object by itself",
            Setting.LOCK: f"credentials that may delete can delete versions; {_OWN_TOOLS} (bucket locks)",
            Setting.POLICY: "R2 takes https alone",
            Setting.REPLICATION: "mlsync copy --to makes a second copy",
            OLD_VERSIONS: "there are none without versioning",
        },
        classes=("STANDARD_IA",),
    ),
    Provider(
        "Backblaze B2",
        r"(.*\.)?backblazeb2\.com",
        lacks={
            Setting.PUBLIC: "a bucket is private unless it was made public",
            Setting.POLICY: "B2 takes https alone",
            Setting.REPLICATION: f"mlsync copy --to makes a second copy; or {_OWN_TOOLS}",
            TIERS: "B2 has one class",
        },
    ),
    Provider(
        "MinIO",
        r"(play|dl)\.min\.io|minio([.-].*)?",
        "MinIO",
        lacks={
            Setting.PUBLIC: "a bucket is private unless a policy says otherwise",
            Setting.REPLICATION: "mlsync copy --to makes a second copy; or mc replicate add",
            TIERS: f"{_PACKS_STAY}; mc ilm tier makes classes",
            UPLOADS: "MinIO removes incomplete uploads by itself, after a day unless it is told otherwise",
        },
    ),
    Provider(
        "Ceph",
        r"(ceph|rgw)([.-].*)?",
        "Ceph",
        lacks={
            Setting.REPLICATION: "mlsync copy --to makes a second copy; zones are the administrator's",
            TIERS: f"{_PACKS_STAY}; classes are the administrator's; name one that is called as at AWS with --tier",
        },
    ),
    Provider(
        "SeaweedFS",
        r"seaweed(fs)?([.-].*)?",
        "SeaweedFS",
        lacks={
            Setting.PUBLIC: "a bucket is private unless a policy says otherwise",
            Setting.REPLICATION: "mlsync copy --to makes a second copy; or weed filer.sync",
            TIERS: f"{_PACKS_STAY}",
        },
    ),
)
#: A server of which nothing is known: it is asked.
UNKNOWN: Final = Provider("another server", "", has_iam=True)


def provider_of(endpoint_url: str | None, server: str = "") -> Provider:
    """Return what is at an endpoint, by its host's name, else by what the server calls itself in its answers."""
    if endpoint_url is None:
        return AWS
    host = (urlsplit(endpoint_url).hostname or "").lower()
    for one in PROVIDERS:
        if re.fullmatch(one.host, host):
            return one
    for one in PROVIDERS:
        if one.server and one.server.lower() in server.lower():
            return one
    return UNKNOWN
