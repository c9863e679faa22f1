"""What a person should know who gives somebody a policy: what each right is for, and what the policy cannot do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mlsync.access.place import PolicyForm
from mlsync.access.policy import USER_CHARS_MAX, PolicyRequest, chars_of
from mlsync.access.rights import CREATES, ROLES_DO, Scope, rights_of
from mlsync.monitor import NoticeLevel

_AWS_HOSTS: Final = (".amazonaws.com", ".amazonaws.com.cn", ".amazonaws.eu", ".api.aws")
_ALIYUN_HOSTS: Final = (".aliyuncs.com",)
_OVERWRITES: Final = (
    "this form has no condition against overwriting: whoever may create objects can replace them; have the bucket keep "
    "versions, or lock its objects"
)
_PACKS: Final = (
    "--run limits what is created, but for packs, which all runs share: the holder still reads every run, and can fill "
    "the bucket"
)
_BUCKET_KEY: Final = "if a key of AWS KMS encrypts the bucket's objects, name it by --sse-kms-key"


def remarks(
    asked: PolicyRequest, policy: dict[str, object], *, endpoint: str | None
) -> Iterator[tuple[NoticeLevel, str]]:
    """Yield what to say, the important first; *endpoint* is the host of the store, ``None`` for AWS."""
    form = asked.place.form
    yield from _of_form(form, endpoint)
    if form is not PolicyForm.AWS and asked.role in CREATES:
        yield "warning", _OVERWRITES
    if asked.place.is_widened:
        what = "this form cannot write the character * or $ of the prefix: the policy also names prefixes that have "
        yield "warning", f"{what}another character there"
    if form is PolicyForm.AWS and chars_of(policy) > USER_CHARS_MAX:
        what = f"the policy has {chars_of(policy)} characters, and a user's own policies may have {USER_CHARS_MAX}"
        yield "status", f"{what}: make it a managed policy, or a role's"
    yield "info", f"{asked.role.value}: {ROLES_DO[asked.role]}"
    if asked.run is not None:
        yield "info", _PACKS
    for right in rights_of(asked.role, asked.settings):
        name = right.oss if form is PolicyForm.RAM else right.name
        if name is not None and right.scope is not Scope.SSE_KEY and right.scope is not Scope.SLOT_KEY:
            yield "info", f"{name}: {right.purpose}"
    if form is PolicyForm.AWS and asked.sse_key is None:
        yield "info", _BUCKET_KEY


def _of_form(form: PolicyForm, endpoint: str | None) -> Iterator[tuple[NoticeLevel, str]]:
    """Yield that the form is not the store's."""
    if endpoint is None or form is PolicyForm.MINIO:
        return
    is_aws, is_aliyun = endpoint.endswith(_AWS_HOSTS), endpoint.endswith(_ALIYUN_HOSTS)
    if is_aliyun and form is not PolicyForm.RAM:
        yield "warning", f"{endpoint} is Aliyun's, which takes --form ram"
    elif not is_aliyun and form is PolicyForm.RAM:
        yield "warning", f"{endpoint} is not Aliyun's, whose form this is"
    elif not is_aws and not is_aliyun:
        yield "warning", f"{endpoint} is not AWS: other servers may not know the conditions; --form minio has few"
