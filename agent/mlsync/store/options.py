"""How to reach a store: settings that a URL does not contain, and never a secret."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# The warning about a store without conditional create.
OVERWRITES = (
    "the store overwrites objects even when asked not to: of two machines that back up one run at the same moment, the "
    "later one would win; give every machine a run of its own"
)


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """Settings for S3; a directory needs none.

    Keys come from the places where AWS's own tools look (environment, profile files, instance role); they are never an
    option.

    *payload_signing*: ``auto`` and ``never`` send ``UNSIGNED-PAYLOAD``, over https and http alike. Bodies are sealed,
    so mlsync detects changes in transit, and hashing them again costs two thirds of an upload's CPU time. With ``auto``
    the server compares each part with a CRC-32, which costs a tenth of that, and small objects with an MD5; with
    ``never`` only small objects. ``always`` also signs each body, for buckets whose policy demands it.

    *addressing*: where the bucket's name goes. ``auto`` follows the profile (``s3 = addressing_style``); without that,
    it is the host name at AWS and the path elsewhere, and the host name if a server refuses the path.
    """

    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    addressing: Literal["auto", "path", "virtual"] = "auto"
    ca_file: str | None = None
    payload_signing: Literal["auto", "always", "never"] = "auto"
