"""Where secrets come from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mlsync.app.secrets import find_new_secret, find_secret
from mlsync.config.model import KeySettings
from mlsync.errors import ConfigInvalid, PassphraseMissing
from mlsync.kms.key import AwsKey
from mlsync.repository.keys.keyslot import KeyFile, KmsKey, Passphrase


@pytest.fixture
def secret_file(tmp_path):
    def make(content, mode=0o600, name="secret"):
        file = tmp_path / name
        file.write_bytes(content)
        file.chmod(mode)
        return file

    return make


def test_a_passphrase_file_loses_its_line_end(secret_file):
    """One line end behind a passphrase is not part of it, a second one is."""
    assert find_secret(KeySettings(passphrase_file=secret_file(b"a b\n")), environ={}) == Passphrase(b"a b")
    assert find_secret(KeySettings(passphrase_file=secret_file(b"a\n\n")), environ={}) == Passphrase(b"a\n")
    assert find_secret(KeySettings(passphrase_file=secret_file(b"a\r\n")), environ={}) == Passphrase(b"a")


def test_a_key_file_is_taken_byte_by_byte(secret_file):
    """A key file's last byte is kept even if it is a line end."""
    assert find_secret(KeySettings(key_file=secret_file(b"\x00\xff\n")), environ={}) == KeyFile(b"\x00\xff\n")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_file_that_others_may_read_is_refused(mode, secret_file):
    """A secret that others may read is refused, and the cure is named."""
    file = secret_file(b"x", mode)
    with pytest.raises(PassphraseMissing) as raised:
        find_secret(KeySettings(passphrase_file=file), environ={})
    assert str(raised.value) == f"other users may read this secret, its mode is {mode:04o}: {file} (chmod 600 {file})"


def test_options_come_before_the_variable_and_that_before_the_configuration(secret_file):
    """The nearer place wins."""
    option, configured = (KeySettings(passphrase_file=secret_file(name.encode(), name=name)) for name in ("o", "c"))
    assert find_secret(configured, option, passphrase="variable", environ={}) == Passphrase(b"o")
    assert find_secret(configured, passphrase="variable", environ={}) == Passphrase(b"variable")
    assert find_secret(configured, environ={}) == Passphrase(b"c")


def test_a_systemd_credential_is_found(tmp_path):
    """A credential that systemd laid ready is taken although its access list shows as a group's right."""
    (tmp_path / "mlsync-passphrase").write_bytes(b"credential\n")
    (tmp_path / "mlsync-passphrase").chmod(0o440)
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert find_secret(KeySettings(), environ=environ) == Passphrase(b"credential")
    (tmp_path / "mlsync-passphrase").unlink()
    (tmp_path / "mlsync-key").write_bytes(b"k\n")
    assert find_secret(KeySettings(), environ=environ) == KeyFile(b"k\n")


def test_a_person_is_asked_twice_for_a_new_passphrase():
    """Two different answers make no passphrase."""
    answers = iter(["one", "two"])
    with pytest.raises(PassphraseMissing, match="differ"):
        find_secret(KeySettings(), environ={}, prompt=lambda _: next(answers), confirm=True)
    answers = iter(["one", "one"])
    assert find_secret(KeySettings(), environ={}, prompt=lambda _: next(answers), confirm=True) == Passphrase(b"one")


def test_without_any_secret_all_ways_are_told(monkeypatch):
    """Nobody at a terminal and no secret anywhere: the error lists the ways to give one."""
    with open(os.devnull) as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        with pytest.raises(PassphraseMissing) as raised:
            find_secret(KeySettings(), environ={})
    for way in ("--passphrase-file", "--key-file", "MLSYNC_PASSPHRASE", "mlsync-passphrase", "terminal"):
        assert way in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"\n"])
def test_an_empty_secret_is_refused(content, secret_file):
    """An empty file, or an empty variable, is a mistake and no passphrase."""
    with pytest.raises(PassphraseMissing, match="empty"):
        find_secret(KeySettings(passphrase_file=secret_file(content)), environ={})
    with pytest.raises(PassphraseMissing, match="empty"):
        find_secret(KeySettings(), passphrase="", environ={})


def test_files_that_cannot_be_secrets_are_refused(tmp_path, secret_file):
    """A missing file and a huge one are refused by name."""
    with pytest.raises(PassphraseMissing, match="No such file"):
        find_secret(KeySettings(passphrase_file=tmp_path / "absent"), environ={})
    with pytest.raises(PassphraseMissing, match="more than 65536 bytes"):
        find_secret(KeySettings(key_file=secret_file(bytes(65537))), environ={})


def test_two_kinds_at_once_are_refused(secret_file):
    """A passphrase file and a key file on one command line leave open which one is meant."""
    file = secret_file(b"x")
    with pytest.raises(ConfigInvalid, match="both"):
        find_secret(KeySettings(), KeySettings(passphrase_file=file, key_file=file), environ={})


def test_a_pipe_gives_a_passphrase():
    """A passphrase may come through a pipe, whatever its mode."""
    read, write = os.pipe()
    os.write(write, b"piped\n")
    os.close(write)
    try:
        settings = KeySettings(passphrase_file=Path(f"/dev/fd/{read}"))
        assert find_secret(settings, environ={}) == Passphrase(b"piped")
    finally:
        os.close(read)


KEY = "alias/training"


def test_a_key_of_kms_is_found_like_a_file(secret_file):
    """Options come before the variables, and these before the configuration, whatever kind of secret each names."""
    configured, file = KeySettings(kms_key=KEY), KeySettings(passphrase_file=secret_file(b"passphrase"))
    environ = {"MLSYNC_KMS_KEY": "alias/variable"}
    assert find_secret(configured, environ={}) == KmsKey(AwsKey(KEY))
    assert find_secret(configured, file, environ=environ) == Passphrase(b"passphrase")
    assert find_secret(file, configured, environ=environ) == KmsKey(AwsKey(KEY))
    assert find_secret(file, environ=environ) == KmsKey(AwsKey("alias/variable"))
    assert find_secret(configured, passphrase="variable", environ={}) == Passphrase(b"variable")


def test_how_kms_is_reached_may_stand_elsewhere_than_the_key():
    """Region, address and profile come from the options, else from the configuration, else from S3's profile."""
    configured = KeySettings(kms_region="eu-central-1", kms_endpoint_url="https://kms", kms_profile="keys")
    asked = KeySettings(kms_key=KEY)
    assert find_secret(configured, asked, profile="s3", environ={}) == KmsKey(
        AwsKey(KEY, "eu-central-1", "https://kms", "keys")
    )
    near = KeySettings(kms_key=KEY, kms_region="us-east-1", kms_endpoint_url="https://near")
    assert find_secret(configured, near, environ={}) == KmsKey(AwsKey(KEY, "us-east-1", "https://near", "keys"))
    assert find_secret(KeySettings(), asked, profile="s3", environ={}) == KmsKey(AwsKey(KEY, profile="s3"))
    assert find_new_secret(near, profile="s3") == KmsKey(AwsKey(KEY, "us-east-1", "https://near", "s3"))


def test_a_key_of_kms_and_a_secret_are_refused(secret_file):
    """Both in one place leave open which one is meant."""
    both = KeySettings(key_file=secret_file(bytes(32)), kms_key=KEY)
    for arguments in ((KeySettings(), both), (both,)):
        with pytest.raises(ConfigInvalid, match="both a key of AWS KMS and"):
            find_secret(*arguments, environ={})
    with pytest.raises(ConfigInvalid, match="both MLSYNC_PASSPHRASE and MLSYNC_KMS_KEY"):
        find_secret(KeySettings(), passphrase="x", environ={"MLSYNC_KMS_KEY": KEY})
    with pytest.raises(ConfigInvalid, match="is no key of AWS KMS"):
        find_secret(KeySettings(), environ={"MLSYNC_KMS_KEY": "a b"})
