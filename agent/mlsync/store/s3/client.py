"""The connection to an S3 server: one client of botocore, made so that it tries once and copies no body."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import boto3
import msgspec
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from mlsync import errors
from mlsync.store.options import StoreOptions
from mlsync.store.s3.clock import ServerClock
from mlsync.store.s3.connection import make_cuttable
from mlsync.store.s3.credentials import SignIn, are_renewed
from mlsync.store.s3.error_table import OF_ANOTHER, Explained
from mlsync.store.s3.errors import MAY_LACK_PAYER, is_transient, refuses_path_form, status_of, translating

_CONNECT_TIMEOUT_S: Final = 10
# A transfer that moves no byte for so long is cut and tried again: a connection may hang forever.
_READ_TIMEOUT_S: Final = 30
_CONNECTIONS_MAX: Final = 32
_AWS: Final = ".amazonaws.com"
_OK: Final = 200
_FORBIDDEN: Final = 403
_DEFAULT_REGION: Final = "us-east-1"


def is_aws(endpoint: str) -> bool:
    """Return whether an endpoint's host is AWS's own (not that of China, which has prices of its own)."""
    return endpoint.partition(":")[0].endswith(".amazonaws.com")


class Client:
    """Sends requests to the server; moves the bucket's name into the host name if the server demands it."""

    def __init__(self, options: StoreOptions, location: str) -> None:
        self._options = options
        self._location = location
        self._lock = threading.Lock()
        self._uses_virtual_form = options.addressing != "auto"
        with translating(location):
            self.botocore: Any = make_client(options, location)
        self.clock = ServerClock(self.botocore)
        self._always = _always(options)
        self.endpoint: str = urlsplit(self.botocore.meta.endpoint_url).netloc
        self._belongs_elsewhere: bool | None = None
        # A bucket that makes requesters pay refuses like one that denies a right.
        self.may_lack_payer = _AWS in self.botocore.meta.endpoint_url and not options.requester_pays

    def call(self, operation: str, arguments: Mapping[str, Any]) -> Any:
        """Return botocore's answer.

        With *addressing* ``auto`` the bucket's name is in the path first, except at AWS, because most servers want it
        there. A server that refuses that gets this request, and all later ones, with the name in the host name.
        """
        client = self.botocore
        if self._always:
            arguments = {**self._always_of(operation), **arguments}
        try:
            return getattr(client, operation)(**arguments)
        except ClientError as error:
            if status_of(error) == _FORBIDDEN and self._is_of_another(str(arguments.get("Bucket"))):
                what = f"the bucket belongs to another account than {self._options.expected_bucket_owner}"
                raise Explained(what, OF_ANOTHER) from error
            if self.may_lack_payer:
                error.response.setdefault("ResponseMetadata", {})[MAY_LACK_PAYER] = True
            if self._options.addressing != "auto" or not refuses_path_form(error):
                raise
            self._use_virtual_form()
            if self.botocore is client:
                raise
        body: Any = arguments.get("Body")
        if hasattr(body, "seek"):
            body.seek(0)
        return getattr(self.botocore, operation)(**arguments)

    def _is_of_another(self, bucket: str) -> bool:
        """Return whether the bucket is not the expected owner's, which S3 refuses like a right that is missing.

        It is if the same request, which reads nothing, is allowed without the owner. That is asked once.
        """
        owner = self._options.expected_bucket_owner
        if owner is None or self._belongs_elsewhere is not None:
            return bool(self._belongs_elsewhere)
        with_owner, without = self._bucket_status(bucket, ExpectedBucketOwner=owner), self._bucket_status(bucket)
        if with_owner and without:
            self._belongs_elsewhere = (with_owner, without) == (_FORBIDDEN, _OK)
        return bool(self._belongs_elsewhere)

    def _bucket_status(self, bucket: str, **more: str) -> int:
        """Return the status of a HEAD for the bucket, 0 if there was no answer."""
        try:
            self.botocore.head_bucket(Bucket=bucket, **more)
        except ClientError as error:
            return status_of(error)
        except BotoCoreError:
            return 0
        return _OK

    def _always_of(self, operation: str) -> Mapping[str, str]:
        """Return what every request says that can say it, for one operation."""
        meta = self.botocore.meta
        known = meta.service_model.operation_model(meta.method_to_api_mapping[operation]).input_shape.members
        return {name: value for name, value in self._always.items() if name in known}

    @property
    def options(self) -> StoreOptions:
        """The options by which another client reaches the server as this one does by now."""
        return (
            msgspec.structs.replace(self._options, addressing="virtual")
            if self._is_virtual_by_refusal()
            else self._options
        )

    def _is_virtual_by_refusal(self) -> bool:
        return self._options.addressing == "auto" and self._uses_virtual_form

    def is_transient(self, error: Exception) -> bool:
        """Return whether botocore's error behind *error* may pass, or was about a clock or keys that are right now."""
        return is_transient(error) or self.clock.explains(error) or are_renewed(error)

    def now_s(self) -> float:
        """Return what the server's clock shows, as far as its answers have said it."""
        return self.clock.now_s()

    def close(self) -> None:
        """Close the connections."""
        self.botocore.close()

    def _use_virtual_form(self) -> None:
        """Put the bucket's name into the host name from now on."""
        with self._lock:
            if not self._uses_virtual_form:
                self._uses_virtual_form = True
                # Requests under way keep the old client; its connections close with it.
                client = make_client(msgspec.structs.replace(self._options, addressing="virtual"), self._location)
                self.botocore, self.clock = client, ServerClock(client)


def _always(options: StoreOptions) -> dict[str, str]:
    """Return what all requests say, of those that can."""
    said = {"RequestPayer": "requester"} if options.requester_pays else {}
    return said | ({"ExpectedBucketOwner": options.expected_bucket_owner} if options.expected_bucket_owner else {})


def signed_in(profile: str | None, region: str | None, *, tries: int) -> tuple[Any, SignIn]:
    """Return a session with credentials, and how it gets them.

    All its clients, also those that fetch credentials, try so many times and never wait forever.
    """
    session = boto3.session.Session(profile_name=profile, region_name=region)
    patience = Config(
        retries={"total_max_attempts": tries, "mode": "standard"},
        connect_timeout=_CONNECT_TIMEOUT_S,
        read_timeout=_READ_TIMEOUT_S,
    )
    session._session.set_default_client_config(patience)  # noqa: SLF001 - public in botocore, hidden by boto3
    return session, SignIn(session)


def make_client(options: StoreOptions, location: str) -> Any:
    """Return a client that tries once, never waits forever, and hashes bodies only if *options* say so."""
    s3: dict[str, object] = {"payload_signing_enabled": options.payload_signing == "always"}
    # With "auto" the profile decides: s3 = addressing_style = ... in ~/.aws/config.
    if options.addressing != "auto":
        s3["addressing_style"] = options.addressing
    # One layer retries, and it is RetryingStore.
    session, sign_in = signed_in(options.profile, options.region, tries=1)
    config = Config(
        max_pool_connections=_CONNECTIONS_MAX,
        tcp_keepalive=True,
        # mlsync sends the checksums, in headers; botocore would send them after the body, which some servers refuse.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        # botocore would refuse a memoryview as a body, although everything below it takes one.
        parameter_validation=False,
        s3=s3,
    )
    try:
        client = session.client(
            "s3",
            region_name=session.region_name or _DEFAULT_REGION,
            endpoint_url=options.endpoint_url,
            verify=options.ca_file,
            config=config,
        )
    except ValueError as error:
        raise errors.StoreLocationInvalid(
            f"the endpoint is not a URL: {options.endpoint_url}", where=location
        ) from error
    sign_in.watch(client)
    make_cuttable(client, _READ_TIMEOUT_S)
    return client
