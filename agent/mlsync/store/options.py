"""How to reach a store: settings that a URL does not contain, and never a secret."""

from __future__ import annotations

from typing import Literal

import msgspec

# The warning about a store without conditional create.
OVERWRITES = (
    "the store overwrites objects even when asked not to: of two machines that back up one run at the same moment, the "
    "later one would win; give every machine a run of its own"
)


class ObjectLock(msgspec.Struct, frozen=True):
    """How long after its creation nobody may delete or overwrite an object's bytes; *mode* says who can undo that.

    ``governance`` may be lifted by credentials with a right for that, ``compliance`` by nobody at all.
    """

    mode: Literal["governance", "compliance"]
    period_s: float


class StoreOptions(msgspec.Struct, frozen=True):
    """Settings for S3; a directory needs none.

    Keys come from the places where AWS's own tools look (environment, profile files, instance role); they are never an
    option.

    *payload_signing*: ``auto`` and ``never`` send ``UNSIGNED-PAYLOAD``, over https and http alike. Bodies are sealed,
    so mlsync detects changes in transit, and hashing them again costs two thirds of an upload's CPU time. With ``auto``
    the server compares each part with a CRC-32, which costs a tenth of that, and small objects with an MD5; with
    ``never`` only small objects. ``always`` also signs each body, for buckets whose policy demands it.

    *addressing*: where the bucket's name goes. ``auto`` follows the profile (``s3 = addressing_style``); without that,
    it is the host name at AWS and the path elsewhere, and the host name if a server refuses the path.

    *requester_pays* says with every request that its sender pays for it, and *expected_bucket_owner* has the server
    refuse every request if the bucket is not that account's.

    The rest is what each new object gets. *storage_class* is that of packs, *storage_class_others* that of all other
    objects, which must be readable at once. *tags* are the user's own, to which mlsync adds some; ``None`` means that
    there are none at all.
    """

    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    addressing: Literal["auto", "path", "virtual"] = "auto"
    ca_file: str | None = None
    payload_signing: Literal["auto", "always", "never"] = "auto"
    requester_pays: bool = False
    expected_bucket_owner: str | None = None
    sse: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = None
    kms_key_id: str | None = None
    bucket_key: bool | None = None
    storage_class: str | None = None
    storage_class_others: str | None = None
    tags: tuple[tuple[str, str], ...] | None = None
    acl: str | None = None
    object_lock: ObjectLock | None = None
