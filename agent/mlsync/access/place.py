"""How a policy names the objects of a repository: as AWS writes resources, as MinIO does, or as Aliyun."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final


class PolicyForm(Enum):
    """Whose policies."""

    AWS = "aws"
    MINIO = "minio"
    RAM = "ram"


_AWS_ESCAPES: Final = str.maketrans({"*": "${*}", "?": "${?}", "$": "${$}"})
# The others have no way to write an asterisk; a question mark stands for any one character.
_ANY_CHARACTER: Final = str.maketrans({"*": "?"})


def _escaped_for_aws(text: str) -> str:
    return text.translate(_AWS_ESCAPES)


def _widened(text: str) -> str:
    # "${" would begin a variable.
    return text.replace("${", "?{").translate(_ANY_CHARACTER)


@dataclass(frozen=True, slots=True)
class PolicyPlace:
    """A bucket and the prefix of a repository in it; *partition* is AWS's, as ``aws-cn``."""

    bucket: str
    prefix: str
    form: PolicyForm = PolicyForm.AWS
    partition: str = "aws"

    @property
    def bucket_name(self) -> str:
        """The bucket as a resource."""
        head = "acs:oss:*:*:" if self.form is PolicyForm.RAM else f"arn:{self.partition}:s3:::"
        return head + self.bucket

    def names(self, begins: Iterable[str] = ("",)) -> list[str]:
        """Return the objects as resources whose keys begin with one of *begins*."""
        return [f"{self.bucket_name}/{self._written(self.below + begin)}*" for begin in begins]

    @property
    def below(self) -> str:
        """What all keys of the repository begin with."""
        return f"{self.prefix}/" if self.prefix else ""

    @property
    def listed(self) -> str:
        """A pattern for what listings of the repository begin with."""
        return f"{self._written(self.below)}*"

    @property
    def is_widened(self) -> bool:
        """Whether the policy also names other objects, because its form cannot write one character of the prefix."""
        return self.form is not PolicyForm.AWS and _widened(self.prefix) != self.prefix

    @property
    def _written(self) -> Callable[[str], str]:
        return _escaped_for_aws if self.form is PolicyForm.AWS else _widened
