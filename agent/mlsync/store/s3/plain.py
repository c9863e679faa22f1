"""Objects under names of users' own, for plain copies: as the store does it, but for its rule about keys."""

from __future__ import annotations

import msgspec

from mlsync.errors import ConfigInvalid
from mlsync.store.base import Upload
from mlsync.store.location import bucket_and_prefix
from mlsync.store.options import StoreOptions
from mlsync.store.s3.store import S3Store
from mlsync.store.s3.upload import S3Upload

# With at most 10,000 parts an object may have 312 GiB.
_PART_BYTES = 32 << 20
# What S3 allows, the prefix included.
_KEY_BYTES_MAX = 1024


class PlainS3Store(S3Store):
    """A bucket and prefix; a key is any name that no server resolves as a path or takes for a query."""

    def __init__(self, url: str, options: StoreOptions) -> None:
        super().__init__(*bucket_and_prefix(url), _for_others(options))

    @property
    def part_bytes(self) -> int:
        """The length of an upload's parts."""
        return _PART_BYTES

    def upload(self, key: str) -> Upload:
        """Begin an object."""
        return S3Upload(self, self.checked(key))

    def checked(self, key: str) -> str:
        """Return *key*; raise ``ConfigInvalid`` for one that is better not tried."""
        parts = key.split("/")
        is_name = key.isprintable() and "\\" not in key and {"", ".", ".."}.isdisjoint(parts)
        if not is_name or len((self._prefix + key).encode(errors="surrogateescape")) > _KEY_BYTES_MAX:
            what = f"a name that is not safe, or too long, in a bucket: {key[:200]!r}"
            raise ConfigInvalid(what, advice="export it to a directory")
        return key

    def _names(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + self.checked(key)}


def _for_others(options: StoreOptions) -> StoreOptions:
    """Return the settings without what is meant for the repository's bucket and its objects alone."""
    return msgspec.structs.replace(
        options,
        expected_bucket_owner=None,
        storage_class=None,
        storage_class_others=None,
        tags=None,
        object_lock=None,
    )
