"""The agent opens its repository with a key of AWS KMS once, and waits for KMS as it waits for the store."""

from __future__ import annotations

import dataclasses
import threading

import pytest

from kms_service import ACCESS_KEY, SECRET_KEY
from mlsync.cli.agent import _find
from mlsync.config.model import Config
from mlsync.errors import KeyServiceRefused, KeyServiceUnavailable
from mlsync.kms.key import AwsKey
from mlsync.repository.keys.keyslot import KmsKey
from mlsync.repository.repository import Repository
from mlsync.service.backup_job import RepositoryOpener
from mlsync.store.directory.store import DirectoryStore

pytestmark = pytest.mark.slow


@pytest.fixture
def opener(kms_process, tmp_path, monkeypatch):
    """What opens a repository with a new key of KMS in a process of its own, and the repository's keys."""
    variables = {"AWS_ENDPOINT_URL_KMS": kms_process.url, "AWS_ACCESS_KEY_ID": ACCESS_KEY}
    for name, value in (variables | {"AWS_SECRET_ACCESS_KEY": SECRET_KEY}).items():
        monkeypatch.setenv(name, value)
    unlock = KmsKey(AwsKey(kms_process.new_key()))
    repository = Repository.create(DirectoryStore(tmp_path / "repository", create=True), unlock)
    repository.close()
    config = Config.for_repository((tmp_path / "repository").as_uri())
    config = dataclasses.replace(config, state_directory=tmp_path / "state")
    kms_process.asked()
    return RepositoryOpener(config, unlock), repository.keys


def test_kms_is_asked_once_and_waited_for(opener, kms_process):
    """While KMS has a fault the agent waits; then the key is kept, and no later pass asks KMS."""
    opener, keys = opener
    name = opener._unlock.service.name

    def find():
        return _find(opener.config, lambda _config: opener.opened(threading.Event()))

    kms_process.answer(name, 400, {"__type": "DependencyTimeoutException"})
    assert isinstance(find(), KeyServiceUnavailable)
    kms_process.answer(name, 400, {"__type": "AccessDeniedException"})
    with pytest.raises(KeyServiceRefused):
        find()
    kms_process.answer(name, 0, None)
    kms_process.asked()
    assert find() is None
    assert opener.opened(threading.Event()).keys == keys
    assert [one["action"] for one in kms_process.asked()] == ["Decrypt"]
    kms_process.administer("disable_key", KeyId=name)
    assert opener.opened(threading.Event()).keys == keys
