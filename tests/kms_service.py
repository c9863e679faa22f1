"""A stand-in for AWS KMS, a process of its own: keys that wrap and unwrap, over HTTP and in JSON as AWS's.

It knows what botocore calls Encrypt, Decrypt, CreateKey, ReplicateKey, CreateAlias, DisableKey, EnableKey and
ScheduleKeyDeletion, and refuses as KMS does: by the Region and the access key of the signature, the state of the key,
the key that a secret is from, and the encryption context. ``MLSYNC_TEST_KMS_URL`` names another server instead, such as
moto's, which can do all of this but ``answer``.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ACCOUNT = "111122223333"
REGION = "eu-central-1"
ACCESS_KEY, SECRET_KEY = "AKIDTESTKMS", "kms-secret-key"
_SCOPE = re.compile(r"Credential=([^/]+)/\d{8}/([a-z0-9-]+)/kms/")


class KmsService:
    """The running process; ``url`` is where it answers."""

    def __init__(self) -> None:
        self.url = os.environ.get("MLSYNC_TEST_KMS_URL", "")
        self._process = None
        self._administrators: dict[str, Any] = {}
        if not self.url:
            self._process = subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, text=True)
            self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}"

    def new_key(self, **options) -> str:
        """The ARN of a new key."""
        return self.administer("create_key", **options)["KeyMetadata"]["Arn"]

    def administer(self, action: str, region: str = REGION, **arguments) -> Any:
        """What an administrator's call returns."""
        if region not in self._administrators:
            import boto3

            keys = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY}
            client = boto3.client("kms", endpoint_url=self.url, region_name=region, **keys)
            self._administrators[region] = client
        return getattr(self._administrators[region], action)(**arguments)

    def answer(self, key: str, status: int, body: dict[str, str] | str | None) -> None:
        """Have each request about *key* answered so, ``None`` for as ever."""
        self._ask("Answer", {"KeyId": key, "Status": status, "Body": body})

    def asked(self) -> list[dict[str, Any]]:
        """The requests to wrap and unwrap since the last look: their action, key and context."""
        return self._ask("Asked", {})["Asked"]

    def stop(self) -> None:
        """Stop it."""
        for client in self._administrators.values():
            client.close()
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process.stdout.close()

    def _ask(self, action: str, body: dict[str, Any]) -> Any:
        from urllib.request import Request, urlopen

        request = Request(self.url, json.dumps(body).encode(), {"X-Amz-Target": f"StandIn.{action}"})
        with urlopen(request, timeout=10) as answer:
            return json.load(answer)


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(status)
        self.status = status
        self.body = body


def refused(code: str, message: str, status: int = 400) -> Refusal:
    """An error as KMS gives it."""
    return Refusal(status, {"__type": code, "Message": message})


class Keys:
    """All keys and what was asked."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}
        self.material: dict[str, bytes] = {}
        self.usages: dict[str, str] = {}
        self.aliases: dict[str, str] = {}
        self.answers: dict[str, tuple[int, Any]] = {}
        self.asked: list[dict[str, Any]] = []

    def find(self, region: str, name: str) -> str:
        """The ARN of a key, by ARN, id or alias."""
        arn = name if name.startswith("arn:") else f"arn:aws:kms:{region}:{ACCOUNT}:{name}"
        arn = self.aliases.get(arn, arn)
        arn = arn if ":key/" in arn or ":alias/" in arn else f"arn:aws:kms:{region}:{ACCOUNT}:key/{name}"
        if arn in self.answers:
            raise Refusal(*self.answers[arn])
        if arn not in self.states or arn.split(":")[3] != region:
            kind = "Alias" if ":alias/" in arn else "Key"
            raise refused("NotFoundException", f"{kind} '{arn}' does not exist")
        return arn

    def usable(self, region: str, name: str) -> str:
        """The ARN of a key that is enabled and encrypts."""
        arn = self.find(region, name)
        if self.states[arn] == "Disabled":
            raise refused("DisabledException", f"{arn} is disabled.")
        if self.states[arn] != "Enabled":
            raise refused("KMSInvalidStateException", f"{arn} is pending deletion.")
        if self.usages[arn] != "ENCRYPT_DECRYPT":
            raise refused("InvalidKeyUsageException", f"{arn} key usage is {self.usages[arn]} which is not valid")
        return arn

    def create(self, region: str, asked: dict[str, Any]) -> dict[str, Any]:
        """A new key."""
        prefix = "mrk-" + uuid.uuid4().hex if asked.get("MultiRegion") else str(uuid.uuid4())
        return self._made(f"arn:aws:kms:{region}:{ACCOUNT}:key/{prefix}", os.urandom(32), asked)

    def _made(self, arn: str, material: bytes, asked: dict[str, Any]) -> dict[str, Any]:
        self.states[arn], self.material[arn] = "Enabled", material
        self.usages[arn] = asked.get("KeyUsage", "ENCRYPT_DECRYPT")
        return {"Arn": arn, "KeyId": arn.rpartition("/")[2]}

    def encrypt(self, region: str, asked: dict[str, Any]) -> dict[str, Any]:
        """A wrapped secret, which names its key, as KMS's do."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        arn = self.usable(region, asked["KeyId"])
        nonce, name = os.urandom(12), arn.rpartition("/")[2].encode()
        sealed = AESGCM(self.material[arn]).encrypt(nonce, base64.b64decode(asked["Plaintext"]), _context(asked))
        blob = bytes([len(name)]) + name + nonce + sealed
        return {"KeyId": arn, "CiphertextBlob": base64.b64encode(blob).decode()}

    def decrypt(self, region: str, asked: dict[str, Any]) -> dict[str, Any]:
        """The secret, for the same key and context."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        blob = base64.b64decode(asked["CiphertextBlob"])
        arn, own = self.usable(region, asked["KeyId"]), blob[1 : 1 + blob[0]]
        rest = blob[1 + blob[0] :]
        if not any(one.rpartition("/")[2].encode() == own for one in self.states) or len(rest) < 28:
            raise refused("InvalidCiphertextException", "")
        if own != arn.rpartition("/")[2].encode():
            what = "The key ID in the request does not identify a CMK that can perform this operation."
            raise refused("IncorrectKeyException", what)
        try:
            plain = AESGCM(self.material[arn]).decrypt(rest[:12], rest[12:], _context(asked))
        except InvalidTag:
            raise refused("InvalidCiphertextException", "") from None
        return {"KeyId": arn, "Plaintext": base64.b64encode(plain).decode()}

    def administer(self, action: str, region: str, asked: dict[str, Any]) -> dict[str, Any]:
        """What an administrator does."""
        if action == "CreateKey":
            return {"KeyMetadata": self.create(region, asked)}
        if action == "CreateAlias":
            target = self.find(region, asked["TargetKeyId"])
            alias = f"arn:aws:kms:{region}:{ACCOUNT}:{asked['AliasName']}"
            self.aliases[alias] = target
            return {}
        arn = self.find(region, asked["KeyId"])
        if action == "ReplicateKey":
            copy = arn.replace(f":{region}:", f":{asked['ReplicaRegion']}:")
            return {"ReplicaKeyMetadata": self._made(copy, self.material[arn], {})}
        self.states[arn] = {"DisableKey": "Disabled", "EnableKey": "Enabled"}.get(action, "PendingDeletion")
        return {}


def _context(asked: dict[str, Any]) -> bytes:
    return json.dumps(asked.get("EncryptionContext", {}), sort_keys=True).encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            status, answer = 200, self._answer(*self.headers["X-Amz-Target"].split("."), asked)
        except Refusal as error:
            status, answer = error.status, error.body
        body = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _answer(self, service, action, asked):
        keys = self.server.keys
        if service == "StandIn":
            return self._stand_in(action, asked)
        scope = _SCOPE.search(self.headers.get("Authorization", ""))
        if scope is None or scope[1] != ACCESS_KEY:
            raise refused("UnrecognizedClientException", "The security token included in the request is invalid.")
        if action not in ("Encrypt", "Decrypt"):
            return keys.administer(action, scope[2], asked)
        keys.asked.append(
            {"action": action, "key": asked["KeyId"], "context": asked.get("EncryptionContext"), "region": scope[2]}
        )
        return (keys.encrypt if action == "Encrypt" else keys.decrypt)(scope[2], asked)

    def _stand_in(self, action, asked):
        keys = self.server.keys
        if action == "Asked":
            found, keys.asked = keys.asked, []
            return {"Asked": found}
        keys.answers.pop(asked["KeyId"], None)
        if asked["Body"] is not None:
            keys.answers[asked["KeyId"]] = asked["Status"], asked["Body"]
        return {}

    def log_message(self, *_arguments):
        """Say nothing."""


def main() -> None:
    """Answer until the end; say at which port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.keys = Keys()
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever(poll_interval=0.05)


if __name__ == "__main__":
    # Started by its path, it would find other modules of the tests instead of libraries.
    sys.path.remove(str(Path(__file__).parent))
    main()
