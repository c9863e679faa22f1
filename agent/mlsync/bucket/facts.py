"""What a bucket is set to, each setting as the server told it, or why it is not known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mlsync.bucket.providers import Provider
from mlsync.errors import StoreError
from mlsync.repository import names
from mlsync.store.base import MARKER
from mlsync.store.s3.account import Account
from mlsync.store.s3.settings import BucketSettings, Setting, lacks

_OURS: Final = (MARKER, *names.PREFIXES, "probe", "doctor-")


@dataclass(frozen=True, slots=True)
class SettingAnswer:
    """What is set (*document*, empty if nothing is); else the server lacks it, or *why* it is not known."""

    document: Mapping[str, Any] = field(default_factory=dict)
    is_lacking: bool = False
    why: str = ""

    @property
    def is_known(self) -> bool:
        """Whether the server told what is set."""
        return not self.is_lacking and not self.why


@dataclass(frozen=True, slots=True)
class BucketFacts:
    """A bucket as it is; one that *exists* not has no answers.

    *others* are the first parts of names in it that are not the repository's; *has_objects*: whether it has any.
    """

    bucket: str
    region: str | None
    exists: bool
    answers: Mapping[Setting, SettingAnswer] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    has_objects: bool = False

    def answer(self, setting: Setting) -> SettingAnswer:
        """Return what is set of that setting."""
        return self.answers.get(setting, SettingAnswer())


@dataclass(frozen=True, slots=True)
class RoleFacts:
    """The account, and the role by which S3 replicates (no *trust* if there is none); or *why* that is not known."""

    account: str = ""
    trust: Mapping[str, Any] | None = None
    policy: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""


def look(settings: BucketSettings, provider: Callable[[str], Provider]) -> tuple[BucketFacts, Provider]:
    """Return what the bucket is set to, and what kind of server has it; nothing is changed."""
    region = settings.region()
    kind = provider(settings.server)
    if region is None:
        lacking = {one: SettingAnswer(is_lacking=True) for one in Setting if one in kind.lacks}
        return BucketFacts(settings.bucket, None, exists=False, answers=lacking), kind
    answers = {one: _answer(settings, one, kind) for one in Setting}
    try:
        found = settings.top_names()
    except StoreError:
        found = []
    ours = f"{settings.prefix.partition('/')[0]}/" if settings.prefix else _OURS
    others = tuple(one for one in found if not one.startswith(ours))
    return BucketFacts(settings.bucket, region, True, answers, others, bool(found)), kind


def look_at_role(account: Account, name: str) -> RoleFacts:
    """Return the role of that name as it is."""
    number = ""
    try:
        number = account.number()
        found = account.role(name)
    except StoreError as error:
        return RoleFacts(number, why=str(error))
    return RoleFacts(number) if found is None else RoleFacts(number, *found)


def _answer(settings: BucketSettings, setting: Setting, provider: Provider) -> SettingAnswer:
    if setting in provider.lacks:
        return SettingAnswer(is_lacking=True)
    try:
        return SettingAnswer(settings.read(setting))
    except StoreError as error:
        return SettingAnswer(is_lacking=True) if lacks(error) else SettingAnswer(why=str(error))
