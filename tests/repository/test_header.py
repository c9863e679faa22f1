"""The repository's header."""

from __future__ import annotations

import json

import pytest
from format_parts import KEYS, MASTER, PASSPHRASE, REPOSITORY_ID, body_of, flip, new_repository, replace_object

from doubles.memory_store import MemoryStore
from mlsync.codec.keys import Keys
from mlsync.errors import FormatUnsupported, ObjectDamaged, ObjectMissing, RepositoryExists, RepositoryMissing
from mlsync.repository import header, names
from mlsync.repository.repository import Repository

BODY = header.encode(KEYS, conditional_create=True)


@pytest.mark.parametrize("conditional_create", [True, False])
def test_a_header_reads_back(conditional_create):
    """What was written is read, and recognised with the keys of the repository."""
    found = header.decode(header.encode(KEYS, conditional_create=conditional_create), "memory:")
    assert (found.repository_id, found.conditional_create) == (REPOSITORY_ID, conditional_create)
    assert found.is_of(KEYS)


def test_a_header_is_plain_json():
    """A person who finds a bucket sees what it is."""
    assert json.loads(BODY)["mlsync"] == "repository"
    assert json.loads(BODY)["format"] == 1


def test_every_changed_byte_is_found_out():
    """No byte of the header can change without the header being refused, its blanks included."""
    for offset in range(len(BODY)):
        with pytest.raises((ObjectDamaged, FormatUnsupported)):
            _open(flip(offset)(BODY))


@pytest.mark.parametrize("keys", [Keys(bytes(32), REPOSITORY_ID), Keys(MASTER, bytes(16))])
def test_other_keys_are_not_the_headers(keys):
    """Another master key, or another repository under the same key, is found out before anything is read."""
    assert not header.decode(BODY, "memory:").is_of(keys)


def test_a_changed_field_is_found_out_by_the_key():
    """A store that says of itself that it cannot create conditionally, when it was not so, is not believed."""
    changed = BODY.replace(b"true", b"false")
    assert not header.decode(changed, "memory:").is_of(KEYS)
    store = new_repository().store
    replace_object(store, names.HEADER, lambda body: body.replace(b"true", b"false"))
    with pytest.raises(ObjectDamaged, match="the header was changed"):
        Repository.open(store, PASSPHRASE)


def test_a_newer_format_is_refused_by_number():
    """A header of format 2, whatever else it holds, is refused with both numbers and the advice to upgrade."""
    newer = b'{"mlsync": "repository", "format": 2, "something": ["new"]}'
    with pytest.raises(FormatUnsupported, match=r"format 2 .* reads format 1.*upgrade"):
        header.decode(newer, "memory:")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[" * 3000,
        b"\xff\xfe",
        BODY[:-1],
        BODY + b" ",
        BODY.replace(b'"repository"', b'"key-slot"'),
        BODY.replace(b"4041", b"40 41"),
        BODY.replace(b"4041", b""),
        BODY.replace(b"}", b', "more": 1}'),
        BODY.replace(b'"format": 1,', b'"format": 1, "format": 1,'),
        BODY.replace(b'"check": "', b'"check": "\xc3\xa4'),
    ],
)
def test_what_is_not_a_header_is_refused(body):
    """Another object, a field more or less, another spelling of the same: damage, by name, and no other error."""
    with pytest.raises(ObjectDamaged, match="repository"):
        _open(body)


def test_a_header_longer_than_any_is_damage():
    """A store that sends a gigabyte for a header is stopped at the bound."""
    store = new_repository().store
    replace_object(store, names.HEADER, lambda body: body + b" " * header.HEADER_BYTES_MAX)
    with pytest.raises(ObjectDamaged, match="longer"):
        Repository.open(store, PASSPHRASE)


def test_no_header_is_no_repository():
    """A place without header is named as such, with the command that makes one."""
    with pytest.raises(RepositoryMissing, match="mlsync init"):
        Repository.open(MemoryStore(), PASSPHRASE)


def test_create_refuses_a_repository_that_is_there():
    """A second init changes nothing."""
    store = new_repository().store
    before = {info.key: body_of(store, info.key) for info in store.list("")}
    with pytest.raises(RepositoryExists):
        new_repository(store)
    assert {info.key: body_of(store, info.key) for info in store.list("")} == before


def test_create_refuses_packs_without_a_header():
    """A repository that lost its header is not buried under a new one."""
    store = MemoryStore()
    store.put(names.pack(bytes(16)), b"a pack")
    with pytest.raises(RepositoryExists, match="header is missing"):
        new_repository(store)


def test_a_header_without_key_slots_is_named():
    """Where all key slots are gone, that is what is said."""
    store = MemoryStore()
    store.put(names.HEADER, BODY)
    with pytest.raises(ObjectMissing, match="no key slot"):
        Repository.open(store, PASSPHRASE)


def _open(body):
    if not header.decode(body, "memory:").is_of(KEYS):
        raise ObjectDamaged("repository: the check")
