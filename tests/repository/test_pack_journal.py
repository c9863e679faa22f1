"""Notes of packs on their way: they finish a pack where it was cut off, or cost nothing but what is sent again."""

from __future__ import annotations

import errno
import os
import stat

import pytest
from format_parts import KEYS, keys_under, noise, unknown

from doubles.faulty_store import Fault, FaultyStore, ProcessDied
from doubles.memory_store import MemoryStore
from mlsync.errors import StateDamaged, StateError, StoreUnavailable
from mlsync.repository import names
from mlsync.repository.pack import footer as pack_footer
from mlsync.repository.pack.builder import PackBuilder, buffer_bytes, finish_interrupted
from mlsync.repository.pack.journal import PackJournal
from mlsync.repository.writer import PackWriter
from mlsync.store.counting import CountingStore

PACK_ID = bytes(range(16))
PART_BYTES = 4096
PIECES = [noise(3000, seed) for seed in range(20)]


@pytest.fixture
def journal(tmp_path):
    """Notes in a directory that is not there yet."""
    return PackJournal(tmp_path / "uploads" / "run")


def builder_of(store, journal, pieces=PIECES):
    """A pack with some chunks, not finished."""
    builder = PackBuilder(store, KEYS, memoryview(bytearray(buffer_bytes(store))), PACK_ID, journal)
    refs = []
    for n, piece in enumerate(pieces):
        refs.append(builder.add(noise(32, n), memoryview(piece)))
        builder.send_parts()
    return builder, refs


def test_a_pack_that_was_cut_off_is_finished_with_the_chunks_that_had_come(journal):
    """Of every chunk that ends in or behind the last part that was sent before it, nothing is lost or sent again."""
    for count in range(1, len(PIECES) + 1):
        store = CountingStore(MemoryStore(PART_BYTES))
        _, refs = builder_of(store, journal, PIECES[:count])
        sent_bytes = store.written_bytes
        records = list(journal.interrupted())
        assert len(records) == (1 if sent_bytes else 0)
        for pack in records:
            assert pack.sent_bytes == sent_bytes
            found = finish_interrupted(store, KEYS, pack)
            assert found == refs[: len(found)]
            assert len(found) >= sent_bytes // 3016
            size_bytes = store.stat(names.pack(PACK_ID)).size_bytes
            assert pack_footer.read_refs(store, KEYS, PACK_ID, size_bytes) == found
            assert store.written_bytes == size_bytes
        journal.forget(PACK_ID)


@pytest.mark.parametrize("kind", ["die-before", "die-after"])
@pytest.mark.parametrize("method", ["upload.write", "upload.finish"])
def test_a_footer_that_may_have_been_sent_is_made_again_to_the_byte(journal, method, kind):
    """Whoever goes on after a death at the end of a pack sends what the dead one sent: one nonce, one footer."""
    whole = MemoryStore(PART_BYTES)
    builder_of(whole, None)[0].finish()
    last = {"upload.write": -(-len(whole.get(names.pack(PACK_ID), limit_bytes=1 << 20)) // PART_BYTES)}.get(method, 1)
    store = FaultyStore(MemoryStore(PART_BYTES), Fault(kind, last, method))
    builder, refs = builder_of(store, journal)
    with pytest.raises(ProcessDied):
        builder.finish()
    inner = store._store
    (pack,) = journal.interrupted()
    assert finish_interrupted(inner, KEYS, pack) == refs
    key = names.pack(PACK_ID)
    assert inner.get(key, limit_bytes=1 << 20) == whole.get(key, limit_bytes=1 << 20)
    assert inner.uploads == {}


def test_a_pack_is_finished_from_a_record_in_any_number_of_tries(journal):
    """Who dies while finishing leaves the same for the next one."""
    inner = MemoryStore(PART_BYTES)
    _, refs = builder_of(inner, journal)
    (pack,) = journal.interrupted()
    for method in ("resume", "upload.write", "upload.finish"):
        with pytest.raises(ProcessDied):
            finish_interrupted(FaultyStore(inner, Fault("die-before", 1, method)), KEYS, pack)
    assert finish_interrupted(inner, KEYS, pack) == refs[: len(pack.records)]


def test_a_pack_that_was_finished_before_it_could_be_said_is_taken(journal):
    """Who died between the pack's last call and its answer has left a pack that is whole, upload or no upload."""
    for upload_stays in (False, True):
        store = MemoryStore(PART_BYTES)
        _, refs = builder_of(store, journal)
        (pack,) = journal.interrupted()
        upload = dict(store.uploads)
        assert finish_interrupted(store, KEYS, pack) == refs[: len(pack.records)]
        if upload_stays:
            store.uploads.update(upload)
        assert finish_interrupted(store, KEYS, pack) == refs[: len(pack.records)]


@pytest.mark.parametrize("end", ["swept", "a part is lost", "another object is there", "another object is in the way"])
def test_a_record_whose_upload_is_gone_gives_nothing(journal, end):
    """What the store has no more is not relied on, and nothing is left of it."""
    store = MemoryStore(PART_BYTES)
    builder_of(store, journal)
    (pack,) = journal.interrupted()
    (parts,) = store.uploads.values()
    if end == "swept":
        store.remove_stale_uploads(-1)
    elif end == "a part is lost":
        del parts.content[PART_BYTES]
    elif end == "another object is there":
        store.remove_stale_uploads(-1)
        store.put(names.pack(PACK_ID), b"not this pack")
    else:
        store.put(names.pack(PACK_ID), b"not this pack")
    assert finish_interrupted(store, KEYS, pack) == []


def test_a_store_that_is_away_is_told_and_the_record_stays(journal):
    """An upload is not given up because the store does not answer now."""
    inner = MemoryStore(PART_BYTES)
    _, refs = builder_of(inner, journal)
    (pack,) = journal.interrupted()
    away = FaultyStore(inner, Fault("before", 1, lasts=True, is_transient=False))
    with pytest.raises(StoreUnavailable):
        finish_interrupted(away, KEYS, pack)
    assert [one.pack_id for one in journal.interrupted()] == [PACK_ID]
    assert finish_interrupted(inner, KEYS, pack) == refs[: len(pack.records)]


def test_every_damaged_byte_of_a_record_is_noticed(journal, tmp_path):
    """A record of which any byte is another, or that is cut anywhere, is none, and is removed."""
    path = tmp_path / "uploads" / "run" / PACK_ID.hex()
    store = MemoryStore(PART_BYTES)
    builder_of(store, journal, PIECES[:3])
    body = path.read_bytes()
    for place in range(0, len(body), 7):
        for damaged in (body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :], body[:place]):
            path.write_bytes(damaged)
            assert list(journal.interrupted()) == []
            assert not path.exists()
    path.write_bytes(body)
    assert [one.pack_id for one in journal.interrupted()] == [PACK_ID]


def test_a_record_under_another_name_and_other_files_are_no_records(journal, tmp_path):
    """What does not belong there is removed and gives nothing."""
    directory = tmp_path / "uploads" / "run"
    builder_of(MemoryStore(PART_BYTES), journal)
    os.rename(directory / PACK_ID.hex(), directory / ("ab" * 16))
    (directory / "something").write_bytes(b"")
    (directory / f"{PACK_ID.hex()}.new").write_bytes(b"half a record")
    assert list(journal.interrupted()) == []
    assert os.listdir(directory) == []


def test_records_are_private(journal, tmp_path):
    """Only this user can read a record, or its directory."""
    builder_of(MemoryStore(PART_BYTES), journal)
    directory = tmp_path / "uploads" / "run"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / PACK_ID.hex()).stat().st_mode) == 0o600


def test_a_record_holds_no_plain_bytes(journal, tmp_path):
    """What lies in a record is what lies in the store: sealed."""
    builder_of(MemoryStore(PART_BYTES), journal, [b"a secret sentence. " * 30 + noise(3000, 1), noise(3000, 2)])
    assert b"a secret sentence" not in (tmp_path / "uploads" / "run" / PACK_ID.hex()).read_bytes()


def test_a_full_disk_costs_the_record_and_not_the_backup(journal, monkeypatch):
    """Where a record cannot be written there is none any more, and the pack goes up all the same."""
    store = MemoryStore(PART_BYTES)
    builder, _ = builder_of(store, journal, PIECES[:3])
    assert list(journal.interrupted())

    real_open = os.open

    def full(path, flags, *arguments, **options):
        if flags & os.O_CREAT:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_open(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", full)
    builder.finish()
    monkeypatch.undo()
    assert list(journal.interrupted()) == []
    assert keys_under(store, "packs/") == [names.pack(PACK_ID)]


def test_a_record_of_a_newer_coding_is_none(journal, monkeypatch):
    """A record that a newer mlsync left is not half understood: an older one sends again."""
    builder_of(MemoryStore(PART_BYTES), journal)
    monkeypatch.setattr("mlsync.repository.pack.journal._CODINGS", frozenset({1}))
    assert list(journal.interrupted()) == []


@pytest.mark.parametrize("calls", [("fsync", "unlink"), ("fsync",)])
def test_a_record_that_cannot_be_removed_ends_the_pack(journal, monkeypatch, calls):
    """An old record would have another footer made under the same nonce: rather no pack than that."""
    builder, _ = builder_of(MemoryStore(PART_BYTES), journal, PIECES[:3])

    def denied(*_arguments, **_options):
        raise OSError(errno.EROFS, "Read-only file system")

    for call in calls:
        monkeypatch.setattr(os, call, denied)
    with pytest.raises(StateError, match="cannot be removed"):
        builder.finish()


def test_a_writer_leaves_no_record_of_what_is_remembered(journal, tmp_path):
    """A record goes when the pack's chunks are remembered, and not before."""
    writer = PackWriter(MemoryStore(PART_BYTES), KEYS, unknown, lanes=1, journal=journal)
    for piece in PIECES:
        writer.put(memoryview(piece))
    writer.finish()
    assert len(list(journal.interrupted())) == 1
    remembered = []
    writer.remember_durable(
        lambda refs: remembered.extend((ref.pack, len(list(journal.interrupted()))) for ref in refs)
    )
    assert [count for _, count in remembered] == [1] * len(PIECES)
    assert os.listdir(tmp_path / "uploads" / "run") == []


def test_records_that_cannot_be_listed_are_an_error_of_the_state(tmp_path):
    """A file where the state's directory was is told as damage of the state, with its place."""
    (tmp_path / "state").write_bytes(b"")
    with pytest.raises(StateDamaged, match="Not a directory"):
        list(PackJournal(tmp_path / "state" / "uploads" / "run").interrupted())
