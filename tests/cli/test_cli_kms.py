"""A repository that a key of AWS KMS opens: made, opened, listed, changed, and what is said when KMS refuses."""

from __future__ import annotations

import re

import pytest

from command_client import KEY
from kms_service import ACCESS_KEY, SECRET_KEY

pytestmark = pytest.mark.slow
ANOTHER = "arn:aws:kms:eu-central-1:111122223333:key/00000000-0000-0000-0000-000000000000"


@pytest.fixture
def kms(kms_process):
    """The variables with which a command finds the stand-in for KMS, and no other secret."""
    return {
        "AWS_ENDPOINT_URL_KMS": kms_process.url,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_EC2_METADATA_DISABLED": "true",
        "CREDENTIALS_DIRECTORY": "",
    }


@pytest.fixture
def key(kms_process):
    """The ARN of a new key."""
    return kms_process.new_key()


@pytest.fixture
def files(saved):
    """A machine with two versions, its key in a file."""
    (saved.base / "key").write_bytes(KEY)
    (saved.base / "key").chmod(0o600)
    return saved


@pytest.fixture
def added(files, key, kms):
    """The same, and the key of KMS opens its repository too."""
    files.good("key", "add", "--new-kms", key, "--key-file", "key", **kms)
    return files


def test_a_repository_is_made_and_used_with_a_key_of_kms(fresh, key, kms, kms_process):
    """The key goes into the configuration, which all later commands open the repository with, a restore as well."""
    (fresh.training).mkdir()
    (fresh.training / "results.csv").write_text("epoch\n1\n")
    made = fresh.good("init", fresh.url, "--watch", fresh.training, "--kms", key, **kms)
    assert "Add a second way in, in case that key is deleted: mlsync key add --recovery" in " ".join(made.out.split())
    assert f'kms_key = "{key}"' in fresh.configuration.read_text()
    fresh.good("backup", **kms)
    kms_process.asked()
    assert "train" in fresh.good("versions", **kms).out
    (asked,) = kms_process.asked()
    (slot,) = fresh.good("key", "list", "--json", **kms).json()["slots"]
    assert (slot["kind"], slot["kms_key"], slot["is_used"]) == ("aws-kms", key, True)
    assert (asked["action"], asked["key"], asked["context"]["mlsync"]) == ("Decrypt", key, "key-slot")
    options = ("--repo", fresh.url, "--kms", key, "--to", fresh.base / "back")
    done = fresh.good("restore", *options, MLSYNC_CONFIG="", **kms)
    assert (fresh.base / "back" / "results.csv").read_text() == "epoch\n1\n"
    assert f'kms_key = "{key}"' in done.out


def test_a_key_of_kms_opens_beside_the_others(added, key, kms):
    """It is listed with its ARN, and opens by option, by variable and by the configuration; so does the key file."""
    listed = added.good("key", "list", "--key-file", "key").out
    assert re.search(rf"^[0-9a-f]{{8}}  key of AWS KMS  0 +20[-0-9: ]+\n +{key}$", listed, re.MULTILINE), listed
    added.good("versions", "--kms", key, **kms)
    added.good("versions", MLSYNC_KMS_KEY=key, **kms)
    added.good("versions", "--key-file", "key", MLSYNC_KMS_KEY=ANOTHER)
    added.configuration.write_text(added.configuration.read_text() + f'\n[key]\nkms_key = "{key}"\n')
    added.good("versions", **kms)
    added.good("versions", "--key-file", "key")


def test_the_key_changes_to_one_of_kms_and_back(added, key, kms, kms_process):
    """Change and remove treat it as any other, and each key opens only its own slot."""
    other = kms_process.new_key()
    done = added.good("key", "change", "--kms", key, "--new-kms", other, **kms)
    assert done.out.startswith("added    ")
    assert "To open with it: kms_key under [key]" in done.out
    assert added.run("versions", "--kms", key, **kms).status == 21
    added.good("versions", "--kms", other, **kms)
    slots = added.good("key", "list", "--json", "--key-file", "key").json()["slots"]
    (kms_id,) = [one["id"] for one in slots if one["kms_key"] == other]
    again = added.run("key", "add", "--new-kms", other, "--key-file", "key", **kms)
    assert (again.status, "opens key slot " + kms_id[:8] in again.err) == (25, True)
    added.good("key", "remove", kms_id[:8], "--key-file", "key")
    refused = added.run("versions", "--kms", other, **kms)
    assert refused.status == 21
    assert "this key of AWS KMS opens no key slot" in refused.err


def test_what_kms_refuses_is_told_with_a_status_of_its_own(added, key, kms, kms_process):
    """A disabled key is 87, KMS away is 88, and another key slot still opens meanwhile."""
    kms_process.administer("disable_key", KeyId=key)
    refused = added.run("versions", "--kms", key, **kms)
    assert refused.status == 87
    words = " ".join(refused.err.split())
    assert "the key is disabled; the answer was DisabledException" in words
    assert "an administrator of the key can enable it" in words
    add = added.run("key", "add", "--new-kms", key, "--key-file", "key", **kms)
    assert add.status == 87
    assert len(added.good("key", "list", "--json", "--key-file", "key").json()["slots"]) == 2
    away = added.run("versions", "--kms", key, "--kms-endpoint-url", "http://127.0.0.1:1", **kms)
    assert away.status == 88
    assert "AWS KMS did not answer: Connection refused" in " ".join(away.err.split())
    added.good("versions", "--key-file", "key")
    kms_process.administer("enable_key", KeyId=key)
    added.good("versions", "--kms", key, **kms)


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (("--kms", "no key"), 2, "'no key' is no key of AWS KMS"),
        (("--kms", ANOTHER), 21, "this key of AWS KMS opens no key slot"),
        (("--kms", ANOTHER, "--key-file", "key"), 2, "both a key of AWS KMS and a secret's file"),
    ],
)
def test_a_wrong_key_asks_nobody(added, kms, kms_process, options, status, words):
    """What opens no slot, or is no key, is known without KMS."""
    kms_process.asked()
    done = added.run("versions", *options, **kms)
    assert (done.status, words in " ".join(done.err.split())) == (status, True), done.err
    assert kms_process.asked() == []


def test_an_address_without_https_is_refused(added, key, kms):
    """The secret would be in the answer, for the network to read."""
    done = added.run("versions", "--kms", key, "--kms-endpoint-url", "http://kms.example", **kms)
    assert done.status == 2
    assert "without https" in done.err


def test_two_secrets_in_the_environment_are_refused(files, kms):
    """MLSYNC_PASSPHRASE and MLSYNC_KMS_KEY leave open which one is meant."""
    done = files.run("versions", MLSYNC_KMS_KEY=ANOTHER, MLSYNC_PASSPHRASE="correct horse", **kms)
    assert done.status == 2
    assert "both MLSYNC_PASSPHRASE and MLSYNC_KMS_KEY are set" in " ".join(done.err.split())


def test_the_secret_is_in_no_log(added, key, kms):
    """With all logging, nothing of what goes to KMS and comes back is shown."""
    done = added.good("versions", "-vv", "--kms", key, **kms)
    assert "Plaintext" not in done.err
    assert "CiphertextBlob" not in done.err
    assert not re.search(r"[A-Za-z0-9+/]{43}=", done.err)
