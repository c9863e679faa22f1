"""How a policy names a key of AWS KMS: by the ARN that the key has, or by an alias that it may have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mlsync.kms.names import is_alias, region_of

_ANY: Final = "*"


@dataclass(frozen=True, slots=True)
class KeyName:
    """A key as a person calls it (ARN, id, alias), and where it is: any Region without a *region*."""

    name: str
    region: str | None = None
    partition: str = "aws"

    @property
    def resource(self) -> str:
        """The key as a resource. A policy cannot name an alias: then it is any key, and ``condition`` says which."""
        if region_of(self.name) is not None and not is_alias(self.name):
            return self.name
        return f"{self._begin}:key/{_ANY if is_alias(self.name) else self.name}"

    @property
    def condition(self) -> dict[str, dict[str, str]]:
        """What limits ``resource`` to the key: empty but for an alias."""
        if not is_alias(self.name):
            return {}
        return {"ForAnyValue:StringEquals": {"kms:ResourceAliases": self.name.rpartition(":")[2]}}

    @property
    def _begin(self) -> str:
        """What precedes the key's own part of an ARN; the account is any if it is not known."""
        if region_of(self.name) is not None:
            return self.name.rpartition(":")[0]
        return f"arn:{self.partition}:kms:{self.region or _ANY}:{_ANY}"
