"""Requests to AWS KMS: Encrypt and Decrypt by one key, and what its errors mean to a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Self
from urllib.parse import urlsplit

from botocore import exceptions as aws
from botocore.config import Config
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from mlsync.errors import ConfigInvalid, KeyProblem, KeyServiceRefused, KeyServiceUnavailable
from mlsync.store.s3.client import signed_in
from mlsync.store.s3.error_table import CERTIFICATE, SignInFailed
from mlsync.store.s3.errors import answer_text, code_of, reason_of, status_of, translation_of

# A person waits for the answer. botocore tries again by itself; nothing above it does.
_CONNECT_TIMEOUT_S: Final = 5
_READ_TIMEOUT_S: Final = 10
_TRIES: Final = 3
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})

_POLICY = "allow kms:{action} for these credentials in the key's policy and in theirs: docs/keys.md has both"
_KEYS = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the profile"
_CLOCK = "set this machine's clock, or get new credentials"
_STATE = "an administrator of the key can enable it or cancel its deletion"
_REGION = "check the key's id and its Region: an ARN has both; else kms_region under [key], or --kms-region"
_USAGE = "it takes a symmetric key for encryption and decryption (SYMMETRIC_DEFAULT)"
_BUSY = "KMS asks for fewer requests, or has a fault of its own; try later"
_ADDRESS = "check that KMS is at that address: kms_endpoint_url under [key], --kms-endpoint-url or AWS_ENDPOINT_URL_KMS"
_AUTHORITY = "name the authority that signed its certificate in AWS_CA_BUNDLE"

# By the code in the answer: what it means in our words, and what to do.
_REFUSALS: Final[Mapping[str, tuple[str, str]]] = {
    "AccessDeniedException": ("KMS denies it", _POLICY),
    "UnrecognizedClientException": ("KMS does not know the access key", _KEYS),
    "InvalidClientTokenId": ("KMS does not know the access key", _KEYS),
    "InvalidSignatureException": ("KMS refuses the signature", f"{_KEYS}, and this machine's clock"),
    "SignatureDoesNotMatch": ("KMS refuses the signature", f"{_KEYS}, and this machine's clock"),
    "IncompleteSignature": ("KMS refuses the signature", _KEYS),
    "MissingAuthenticationToken": ("KMS refuses the signature", _KEYS),
    "ExpiredTokenException": ("the credentials have expired", _CLOCK),
    "ExpiredToken": ("the credentials have expired", _CLOCK),
    "RequestExpired": ("the credentials or the request have expired", _CLOCK),
    "DisabledException": ("the key is disabled", _STATE),
    "KMSInvalidStateException": ("the key cannot be used in its state", _STATE),
    "NotFoundException": ("there is no such key", _REGION),
    "InvalidArnException": ("there is no such key", _REGION),
    "InvalidKeyUsageException": ("the key is not for encryption", _USAGE),
    "ValidationException": ("KMS cannot do that with this key", _USAGE),
}
# The key service itself, and what is between: they may pass.
_TRANSIENT: Final = frozenset(
    {
        "KeyUnavailableException",
        "DependencyTimeoutException",
        "KMSInternalException",
        "InternalFailure",
        "InternalServerError",
        "ServiceUnavailable",
        "ServiceUnavailableException",
        "ThrottlingException",
        "Throttling",
        "LimitExceededException",
        "RequestLimitExceeded",
    }
)
# Another key wrapped the secret, or something of what is bound to it was changed.
_NOT_OURS: Final = frozenset({"InvalidCiphertextException", "IncorrectKeyException"})


@dataclass(slots=True)
class Requests:
    """A client of KMS for one key; close it after use."""

    name: str
    region: str | None
    endpoint_url: str | None
    profile: str | None
    _client: Any = None

    def __enter__(self) -> Self:
        """Connect; raise ``ConfigInvalid`` for a place to which no secret may go."""
        with self._translating("connect"):
            session = signed_in(self.profile, self.region, tries=_TRIES)[0]
            if session.region_name is None:
                advice = "give the key's ARN, or kms_region under [key]"
                raise ConfigInvalid("no Region for AWS KMS", where=self.name, advice=advice)
            config = Config(
                retries={"total_max_attempts": _TRIES, "mode": "standard"},
                connect_timeout=_CONNECT_TIMEOUT_S,
                read_timeout=_READ_TIMEOUT_S,
            )
            try:
                self._client = session.client("kms", endpoint_url=self.endpoint_url, config=config)
            except ValueError as error:
                raise ConfigInvalid("the address of AWS KMS is not a URL", where=self.endpoint_url) from error
        self._refuse_open_network()
        return self

    def __exit__(self, *exc: object) -> None:
        """Close the connections."""
        self._client.close()

    @property
    def where(self) -> str:
        """The key and the host that was asked."""
        host = "" if self._client is None else f" at {urlsplit(self._client.meta.endpoint_url).netloc}"
        return self.name + host

    def encrypt(self, secret: bytes, context: Mapping[str, str]) -> tuple[str, bytes]:
        """Return the ARN of the key, and *secret* wrapped by it and bound to *context*."""
        with self._translating("Encrypt"):
            done = self._client.encrypt(KeyId=self.name, Plaintext=secret, EncryptionContext=dict(context))
            return str(done["KeyId"]), bytes(done["CiphertextBlob"])

    def decrypt(self, wrapped: bytes, context: Mapping[str, str]) -> bytes | None:
        """Return the secret, ``None`` if this key did not wrap it with that *context*."""
        with self._translating("Decrypt"):
            try:
                # KMS finds the key from the secret itself unless it is told: any key that these credentials may use.
                done = self._client.decrypt(KeyId=self.name, CiphertextBlob=wrapped, EncryptionContext=dict(context))
            except aws.ClientError as error:
                if code_of(error) in _NOT_OURS:
                    return None
                raise
            return bytes(done["Plaintext"])

    def _refuse_open_network(self) -> None:
        """Raise ``ConfigInvalid`` for an address without TLS: the secret is in requests and answers."""
        place = urlsplit(self._client.meta.endpoint_url)
        if place.scheme != "https" and place.hostname not in _LOOPBACK:
            self._client.close()
            what = "without https the network would see the secret that AWS KMS unwraps"
            raise ConfigInvalid(what, where=self._client.meta.endpoint_url, advice="give an address with https://")

    @contextmanager
    def _translating(self, action: str) -> Iterator[None]:
        try:
            yield
        except aws.ClientError as error:
            raise _refusal(error, action, self.where) from error
        except aws.NoRegionError as error:
            advice = "give the key's ARN, or kms_region under [key]"
            raise ConfigInvalid("no Region for AWS KMS", where=self.name, advice=advice) from error
        except (aws.BotoCoreError, ResponseParserError, HTTPError) as error:
            raise _without_answer(error, self.where) from error
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            # botocore's parsers rely on the form that an answer of KMS has.
            raise KeyServiceRefused("the answer is none of AWS KMS", where=self.where, advice=_ADDRESS) from error


def _refusal(error: aws.ClientError, action: str, where: str) -> KeyProblem:
    code, answer = code_of(error), answer_text(error)
    if code in _REFUSALS:
        what, advice = _REFUSALS[code]
        return KeyServiceRefused(f"{what}; the answer was {answer}", where=where, advice=advice.format(action=action))
    if code in _TRANSIENT or status_of(error) >= 500:  # noqa: PLR2004 - the faults of HTTP's servers
        return KeyServiceUnavailable(f"KMS answered {answer}", where=where, advice=_BUSY)
    return KeyServiceRefused(f"KMS answered {answer}", where=where, advice=_ADDRESS)


def _without_answer(error: Exception, where: str) -> KeyProblem:
    """Return our error for what came before an answer: credentials, the network, a certificate, a proxy."""
    found = translation_of(error)
    if isinstance(error, SignInFailed):
        what = str(error)
    elif isinstance(error, aws.NoCredentialsError | aws.PartialCredentialsError | aws.ProfileNotFound):
        what = f"there are no credentials for AWS KMS: {error}".rstrip(".")
    else:
        what = f"AWS KMS did not answer: {reason_of(error)}"
    advice = _AUTHORITY if found is CERTIFICATE else found.advice if found is not None else _ADDRESS
    if found is not None and found.is_transient:
        return KeyServiceUnavailable(what, where=where, advice=advice)
    return KeyServiceRefused(what, where=where, advice=advice)
