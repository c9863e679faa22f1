"""What botocore's errors become: our errors, whether they are transient, and advice."""

from __future__ import annotations

from dataclasses import dataclass

from botocore import exceptions as aws
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from mlsync import errors
from mlsync.store.base import ARCHIVED_ADVICE


@dataclass(frozen=True, slots=True)
class Translation:
    """Our error for an error of botocore: its class, whether a retry may help, and advice for a person."""

    kind: type[errors.StoreError]
    is_transient: bool
    advice: str | None = None


class Explained(aws.BotoCoreError):  # type: ignore[misc]  # botocore is without types here
    """A failure of which more is known than botocore says: *what* it is, and *translation*, which of our errors."""

    def __init__(self, what: str, translation: Translation) -> None:
        Exception.__init__(self, what)
        self.translation = translation


class SignInFailed(Explained):
    """Signing in returned no credentials; *what* says how it was tried."""


_AWAY = "check the network and the endpoint; nothing was lost"
PROXY = Translation(errors.StoreUnavailable, True, "check the proxy that HTTPS_PROXY or HTTP_PROXY names, and NO_PROXY")
PROXY_REFUSES = Translation(
    errors.StoreUnavailable, False, "give the proxy's user and password in HTTPS_PROXY or HTTP_PROXY, or fix NO_PROXY"
)
BUSY = Translation(errors.StoreUnavailable, True, "the store asks for fewer requests; try later")
_FAULT = Translation(errors.StoreUnavailable, True, "the store has an internal fault; see its status page or log")
_DAMAGED_IN_TRANSIT = Translation(errors.StoreUnavailable, True, "check the network: it damages what mlsync sends")
_CONFLICT = Translation(errors.StoreUnavailable, True, "another writer creates the same object; run only one of them")
_TAKEN = Translation(errors.AlreadyExists, False)
_MISSING = Translation(errors.NotFound, False)
_BAD_KEYS = Translation(
    errors.StoreDenied, False, "check the access key and the secret key, and that they are this store's"
)
_BAD_KEY_ID = Translation(
    errors.StoreDenied, False, "check the access key (AWS_ACCESS_KEY_ID) and that it is this store's"
)
_BAD_SECRET = Translation(
    errors.StoreDenied, False, "check the secret key (AWS_SECRET_ACCESS_KEY): it does not fit the access key"
)
_EXPIRED = Translation(errors.StoreDenied, False, "get new temporary credentials, or use a profile that renews them")
FORBIDDEN = Translation(
    errors.StoreDenied, False, "check that the credentials allow GetObject, PutObject and ListBucket there"
)
FORBIDDEN_OR_PROXY = Translation(errors.StoreDenied, False, f"{FORBIDDEN.advice}, and that no proxy in between refuses")
# The rights that an operation needs, by their names in policies. Without the right to list, S3 also refuses requests
# for objects that do not exist.
RIGHTS = {
    "ListObjectsV2": "s3:ListBucket",
    "GetObject": "s3:GetObject and s3:ListBucket",
    "HeadObject": "s3:GetObject and s3:ListBucket",
    "PutObject": "s3:PutObject",
    "CopyObject": "s3:GetObject of the other bucket and s3:PutObject",
    "UploadPartCopy": "s3:GetObject of the other bucket and s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "ListParts": "s3:ListMultipartUploadParts",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "DeleteObject": "s3:DeleteObject",
    "RestoreObject": "s3:RestoreObject",
    "PutObjectRetention": "s3:PutObjectRetention and s3:GetObjectRetention",
    "GetBucketVersioning": "s3:GetBucketVersioning",
    "GetObjectLockConfiguration": "s3:GetBucketObjectLockConfiguration",
    "GetBucketLifecycleConfiguration": "s3:GetLifecycleConfiguration",
    "HeadBucket": "s3:ListBucket",
    "CreateBucket": "s3:CreateBucket",
    "GetPublicAccessBlock": "s3:GetBucketPublicAccessBlock",
    "PutPublicAccessBlock": "s3:PutBucketPublicAccessBlock",
    "PutBucketVersioning": "s3:PutBucketVersioning",
    "GetBucketEncryption": "s3:GetEncryptionConfiguration",
    "PutBucketEncryption": "s3:PutEncryptionConfiguration",
    "PutBucketLifecycleConfiguration": "s3:PutLifecycleConfiguration",
    "DeleteBucketLifecycle": "s3:PutLifecycleConfiguration",
    "PutObjectLockConfiguration": "s3:PutBucketObjectLockConfiguration",
    "GetBucketPolicy": "s3:GetBucketPolicy",
    "PutBucketPolicy": "s3:PutBucketPolicy",
    "GetBucketReplication": "s3:GetReplicationConfiguration",
    "PutBucketReplication": "s3:PutReplicationConfiguration and iam:PassRole",
    "DeleteBucketReplication": "s3:PutReplicationConfiguration",
}
_CLOCK = Translation(errors.StoreDenied, False, "set this machine's clock: it differs too much from the store's")
REGION = Translation(errors.StoreLocationInvalid, False, "set the bucket's own region")
OF_ANOTHER = Translation(errors.BucketOfAnother, False, errors.BucketOfAnother.usual_advice)
_KMS_DISABLED = Translation(
    errors.StoreDenied,
    False,
    "enable the key of KMS by which these objects are encrypted; for new ones kms_key_id under [s3] may name another",
)
_KMS_MISSING = Translation(
    errors.StoreDenied, False, "set kms_key_id under [s3] to a symmetric key of KMS in the bucket's region"
)
_FULL = Translation(errors.StoreFull, False, "free some room, or have the quota raised")
_NO_BUCKET = Translation(
    errors.StoreLocationInvalid, False, "make the bucket first, or check its name and the endpoint"
)
_NAME_TAKEN = Translation(errors.StoreDenied, False, "choose another name for the bucket")
_PROFILE = Translation(errors.StoreLocationInvalid, False, "fix the profile in ~/.aws/config, or name another one")
_NEEDS_CHECKSUM = (
    "if the bucket demands checksums or signed bodies, set payload_signing = always; if it is set already, the "
    "store's answer says what it wants"
)
_ADDRESSING = Translation(errors.StoreLocationInvalid, False, "set addressing = virtual: this store wants the bucket's "
                      "name in the host name")  # fmt: skip
# From servers that want the bucket's name in the host name: Aliyun OSS, Tencent COS, Volcengine TOS, Huawei OBS.
PATH_FORM_REFUSED = frozenset(
    {"SecondLevelDomainForbidden", "PathStyleDomainForbidden", "InvalidPathAccess", "VirtualHostDomainRequired"}
)
UNKNOWN_ANSWER = Translation(errors.StoreBroken, False, "check that the endpoint speaks S3")

# By the code in the answer's body.
BY_CODE: dict[str, Translation] = {
    "InternalError": _FAULT,  # AWS asks for a retry
    "ServiceUnavailable": BUSY,
    "SlowDown": BUSY,
    "Throttling": BUSY,
    "ThrottlingException": BUSY,
    "TooManyRequests": BUSY,
    "RequestLimitExceeded": BUSY,
    "BandwidthLimitExceeded": BUSY,
    "SlowDownRead": BUSY,  # MinIO's names for it
    "SlowDownWrite": BUSY,
    "RequestTimeout": _FAULT,  # our bytes arrived too slowly; a 400, yet transient
    "PriorRequestNotComplete": _FAULT,
    "IncompleteBody": _DAMAGED_IN_TRANSIT,  # the connection broke inside a body
    "BadDigest": _DAMAGED_IN_TRANSIT,  # the body changed after mlsync computed its checksum
    "XAmzContentSHA256Mismatch": _DAMAGED_IN_TRANSIT,
    "ConditionalRequestConflict": _CONFLICT,  # two conditional creates at once; the winner is not known yet
    "OperationAborted": _CONFLICT,
    "PreconditionFailed": _TAKEN,  # If-None-Match: * failed
    "ObjectAlreadyExists": _TAKEN,
    "FileAlreadyExists": _TAKEN,  # Aliyun OSS
    "NoSuchKey": _MISSING,
    "NoSuchUpload": _MISSING,  # aborted, or completed by a try whose answer was lost
    "NoSuchBucket": _NO_BUCKET,
    "InvalidBucketName": _NO_BUCKET,
    "BucketAlreadyExists": _NAME_TAKEN,
    "BucketAlreadyOwnedByYou": _NAME_TAKEN,
    "InvalidBucketState": Translation(errors.StoreBroken, False, "object lock needs versioning; turn that on first"),
    "InvalidAccessKeyId": _BAD_KEY_ID,
    "SignatureDoesNotMatch": _BAD_SECRET,
    "AuthorizationHeaderMalformed": REGION,  # signed for another region
    "PermanentRedirect": REGION,
    "IllegalLocationConstraintException": REGION,
    "ExpiredToken": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
    "InvalidToken": _EXPIRED,
    "RequestTimeTooSkewed": _CLOCK,
    "RequestExpired": _CLOCK,
    "AccessDenied": FORBIDDEN,
    "AllAccessDisabled": FORBIDDEN,
    "AccountProblem": FORBIDDEN,
    "MethodNotAllowed": Translation(errors.StoreDenied, False, "the store or an object lock does not allow this"),
    "GlacierExpeditedRetrievalNotAvailable": Translation(
        errors.ThawRefused, False, "--thaw standard takes hours, and is always to be had; or try expedited again later"
    ),
    "InvalidObjectState": Translation(errors.ObjectArchived, False, ARCHIVED_ADVICE),
    **dict.fromkeys(PATH_FORM_REFUSED, _ADDRESSING),
    # What S3 hands on of KMS, when it writes or reads.
    "KMS.DisabledException": _KMS_DISABLED,
    "KMS.NotFoundException": _KMS_MISSING,
    "KMS.KMSInvalidStateException": _KMS_DISABLED,
    "KMS.InvalidKeyUsageException": _KMS_MISSING,
    "QuotaExceeded": _FULL,
    "InsufficientStorage": _FULL,
    "XMinioStorageFull": _FULL,
    "XMinioAdminBucketQuotaExceeded": _FULL,
    "InvalidRange": Translation(errors.StoreBroken, False, "the object is shorter than what was written"),
    "InvalidPart": Translation(errors.StoreBroken, False, "the store lost a part of an upload; begin it again"),
    "InvalidRequest": Translation(errors.StoreBroken, False, _NEEDS_CHECKSUM),
    "MissingContentLength": Translation(errors.StoreBroken, False, "something in between drops Content-Length"),
}

# By the answer's status, if the code says nothing: HEAD has no body, and proxies use words of their own.
BY_STATUS: dict[int, Translation] = {
    400: Translation(errors.StoreBroken, False, "check region and endpoint, and whether temporary keys have expired"),
    401: _BAD_KEYS,
    403: FORBIDDEN_OR_PROXY,
    404: _MISSING,
    407: PROXY_REFUSES,
    408: _FAULT,
    409: _CONFLICT,
    412: _TAKEN,
    429: BUSY,
    500: _FAULT,
    502: Translation(errors.StoreUnavailable, True, "something between here and the store does not reach it"),
    503: BUSY,
    504: Translation(errors.StoreUnavailable, True, "something between here and the store does not reach it"),
    507: _FULL,
    509: BUSY,
}

# By class, in this order: the special before the general.
BY_CLASS: tuple[tuple[type[Exception], Translation], ...] = (
    (aws.NoCredentialsError, Translation(errors.StoreDenied, False, "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                                     "or name a profile")),
    (aws.PartialCredentialsError, Translation(errors.StoreDenied, False, "give the access key and the secret key")),
    # Instance roles and single sign-on ask a service, which may be temporarily unavailable.
    (aws.CredentialRetrievalError, Translation(errors.StoreDenied, True, "check the profile or the instance's role")),
    (aws.MetadataRetrievalError, Translation(errors.StoreDenied, True, "check the instance's role")),
    (aws.TokenRetrievalError, Translation(errors.StoreDenied, False, "sign in again: aws sso login")),
    (aws.SSOError, Translation(errors.StoreDenied, False, "sign in again: aws sso login")),
    (aws.ProfileNotFound, _PROFILE),
    (aws.InvalidConfigError, _PROFILE),  # a role without a source, a source that does not exist
    (aws.InfiniteLoopConfigError, _PROFILE),
    (aws.UnknownCredentialError, _PROFILE),
    (aws.ConfigParseError, _PROFILE),
    (aws.NoRegionError, REGION),
    (aws.InvalidRegionError, REGION),
    (aws.ParamValidationError, _NO_BUCKET),
    (aws.ConnectionError, Translation(errors.StoreUnavailable, True, _AWAY)),  # no name, no route, refused, slow
    (aws.HTTPClientError, Translation(errors.StoreUnavailable, True, _AWAY)),  # reset, silent, cut in the middle
    (aws.IncompleteReadError, Translation(errors.StoreUnavailable, True, _AWAY)),  # fewer bytes than announced
    (HTTPError, _DAMAGED_IN_TRANSIT),  # botocore passes this on: TLS found a body changed in transit
    # A proxy's error page instead of XML.
    (ResponseParserError, Translation(errors.StoreUnavailable, True, UNKNOWN_ANSWER.advice)),
    # A redirect to the bucket's region after a body was sent: botocore knows the region now, and uses it next time.
    (aws.UnseekableStreamError, Translation(errors.StoreLocationInvalid, True, REGION.advice)),
)  # fmt: skip

NO_HOST = Translation(errors.StoreUnavailable, True, "check how the endpoint is spelled, and this machine's DNS")
CERTIFICATE = Translation(errors.StoreUnavailable, False, "name the authority that signed its certificate: ca_file")
