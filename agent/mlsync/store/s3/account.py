"""The account behind the credentials: its number, a role of IAM by which S3 replicates, and whether a key works."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import unquote

from botocore.config import Config
from botocore.exceptions import ClientError

from mlsync import errors
from mlsync.store.options import StoreOptions
from mlsync.store.s3.client import signed_in
from mlsync.store.s3.errors import answer_text, code_of, translating

_TRIES: Final = 3
_CONNECT_TIMEOUT_S: Final = 5
_READ_TIMEOUT_S: Final = 10
_DENIED: Final = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "NotAuthorized"}
_NO_KEY: Final = {"NotFoundException", "InvalidArnException"}
_DEFAULT_REGION: Final = "us-east-1"
# The policy that mlsync puts into the role, by this name alone.
POLICY_NAME: Final = "mlsync-replication"


class Account:
    """Asks IAM, STS and KMS; every method raises a ``StoreError`` if the answer cannot be had."""

    def __init__(self, options: StoreOptions, endpoint_url: str | None) -> None:
        self._options = options
        self._endpoint_url = endpoint_url
        self._clients: dict[tuple[str, str | None], Any] = {}

    def number(self) -> str:
        """Return the number of the account."""
        with self._asking("sts", "sts:GetCallerIdentity") as sts:
            return str(sts.get_caller_identity()["Account"])

    def role(self, name: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Return whom a role trusts and what our policy in it allows (empty without one), ``None`` without a role."""
        with self._asking("iam", "iam:GetRole and iam:GetRolePolicy") as iam:
            try:
                trust = _document(iam.get_role(RoleName=name)["Role"]["AssumeRolePolicyDocument"])
            except ClientError as error:
                if code_of(error) == "NoSuchEntity":
                    return None
                raise
            try:
                policy = iam.get_role_policy(RoleName=name, PolicyName=POLICY_NAME)["PolicyDocument"]
            except ClientError as error:
                if code_of(error) == "NoSuchEntity":
                    return trust, {}
                raise
            return trust, _document(policy)

    def write_role(self, name: str, trust: Mapping[str, Any], policy: Mapping[str, Any]) -> bool:
        """Make a role, or set whom it trusts, and put our policy in; return whether it was made."""
        rights = "iam:CreateRole, iam:UpdateAssumeRolePolicy and iam:PutRolePolicy"
        made = True
        with self._asking("iam", rights) as iam:
            try:
                iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))
            except ClientError as error:
                if code_of(error) != "EntityAlreadyExists":
                    raise
                made = False
                iam.update_assume_role_policy(RoleName=name, PolicyDocument=json.dumps(trust))
            iam.put_role_policy(RoleName=name, PolicyName=POLICY_NAME, PolicyDocument=json.dumps(policy))
        return made

    def key_fault(self, key: str, region: str) -> str | None:
        """Return why a key of KMS encrypts nothing, ``None`` if it does."""
        with self._asking("kms", "kms:DescribeKey", region) as kms:
            try:
                found = kms.describe_key(KeyId=key)["KeyMetadata"]
            except ClientError as error:
                if code_of(error) in _NO_KEY:
                    return "there is no such key"
                raise
        state = str(found.get("KeyState", "Enabled"))
        if state not in ("Enabled", "Creating", "Updating"):
            return f"its state is {state}"
        return None if found.get("KeyUsage", "ENCRYPT_DECRYPT") == "ENCRYPT_DECRYPT" else "it is not for encryption"

    def close(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            client.close()

    @contextmanager
    def _asking(self, service: str, right: str, region: str | None = None) -> Iterator[Any]:
        where = service.upper()
        with translating(where):
            try:
                yield self._client(service, region)
            except ClientError as error:
                if code_of(error) in _DENIED:
                    advice = f"allow these credentials {right}"
                    raise errors.StoreDenied(f"{where} answered {answer_text(error)}", advice=advice) from error
                raise

    def _client(self, service: str, region: str | None) -> Any:
        if (service, region) not in self._clients:
            session, _ = signed_in(self._options.profile, region or self._options.region, tries=_TRIES)
            config = Config(
                retries={"total_max_attempts": _TRIES, "mode": "standard"},
                connect_timeout=_CONNECT_TIMEOUT_S,
                read_timeout=_READ_TIMEOUT_S,
            )
            self._clients[service, region] = session.client(
                service,
                region_name=region or session.region_name or _DEFAULT_REGION,
                endpoint_url=self._endpoint_url,
                verify=self._options.ca_file,
                config=config,
            )
        return self._clients[service, region]


def _document(found: object) -> dict[str, Any]:
    """Return a policy, which some answers have as encoded text."""
    value = json.loads(unquote(found)) if isinstance(found, str) else found
    return dict(value) if isinstance(value, Mapping) else {}
