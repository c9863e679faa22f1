"""What a whole repository needs: unknown features keep this mlsync out, and nobody without the key can set one."""

from __future__ import annotations

import pytest
from format_parts import PASSPHRASE, new_repository

from doubles.memory_store import MemoryStore
from mlsync.codec.keys import Keys
from mlsync.errors import FormatUnsupported, StoreUnavailable
from mlsync.repository import features, names
from mlsync.repository.features import feature_key, is_feature
from mlsync.repository.repository import Repository

NAME = "moved-chunks"


def test_an_unknown_feature_keeps_this_mlsync_out():
    """A repository that uses what this mlsync does not know is not opened, and the message names it."""
    repository = new_repository()
    key = feature_key(repository.keys, NAME)
    repository.store.put(key, b"")
    with pytest.raises(FormatUnsupported) as caught:
        Repository.open(repository.store, PASSPHRASE)
    assert caught.value.what == "the repository uses 'moved-chunks', which is not known here"
    assert caught.value.where.endswith(f" {key}")
    assert caught.value.advice == "upgrade mlsync"


def test_a_known_feature_is_no_obstacle(monkeypatch):
    """A feature that this mlsync knows does not keep it out; one beside it that it does not know does."""
    repository = new_repository()
    repository.store.put(feature_key(repository.keys, NAME), b"")
    monkeypatch.setattr(features, "_KNOWN", frozenset({NAME}))
    assert Repository.open(repository.store, PASSPHRASE).keys == repository.keys
    repository.store.put(feature_key(repository.keys, "z"), b"")
    with pytest.raises(FormatUnsupported, match="uses 'z'"):
        Repository.open(repository.store, PASSPHRASE)


def test_what_nobody_with_the_key_set_keeps_nobody_out():
    """A name whose tag is not of this repository's keys is ignored, and not read: anybody may have planted it."""
    repository = new_repository()
    planted = [
        names.feature(NAME, bytes(16)),
        feature_key(Keys(repository.keys.master, bytes(16)), NAME),
        feature_key(Keys(bytes(32), repository.repository_id), NAME),
        feature_key(repository.keys, NAME).replace(NAME, "other"),
        feature_key(repository.keys, NAME) + "/more",
        "features/" + NAME,
    ]
    for key in planted:
        repository.store.put(key, b"planted")
        assert not is_feature(repository.keys, key)
    assert Repository.open(repository.store, PASSPHRASE).keys == repository.keys


def test_an_error_of_the_store_is_not_taken_for_an_answer():
    """Where features cannot be listed, the repository is not opened: it may use one."""
    repository = new_repository()

    class Away(MemoryStore):
        def get(self, key, *, limit_bytes):
            return repository.store.get(key, limit_bytes=limit_bytes)

        def list(self, prefix, *, after=""):
            if prefix == names.FEATURES:
                raise StoreUnavailable("away")
            return repository.store.list(prefix, after=after)

    with pytest.raises(StoreUnavailable):
        Repository.open(Away(), PASSPHRASE)
