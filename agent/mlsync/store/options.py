"""How to reach a store: what a URL does not say, and never a secret."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# What a person should know of a store in which conditional create does not work.
OVERWRITES = (
    "the store overwrites objects even where it is asked not to: of two machines that back up one run at the same "
    "moment, the later one would win; give every machine a run of its own"
)


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """Settings for S3; a directory needs none.

    Keys come from where AWS's own tools look (environment, profile files, instance role) and are never an option.

    *payload_signing*: ``auto`` and ``never`` send ``UNSIGNED-PAYLOAD``, over https and http alike. Our bytes are
    sealed, so whoever changes them on the way is found out, and hashing them again costs two thirds of an upload's CPU.
    ``auto`` has the server hold each part against a CRC-32, which costs a tenth of that, and small objects against an
    MD5; ``never`` sums small objects alone. ``always`` signs each body too: for buckets whose policy demands it.

    *addressing*: ``auto`` is what the profile says (``s3 = addressing_style``), else the host's name at AWS and the
    path elsewhere, and the host's name where a server refuses the path.
    """

    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    addressing: Literal["auto", "path", "virtual"] = "auto"
    ca_file: str | None = None
    payload_signing: Literal["auto", "always", "never"] = "auto"
