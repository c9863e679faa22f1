"""Copies of versions with differences: bases come along, and under another key nothing is a difference any more."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import difference_parts
from compacting import compacted, delete_buried
from difference_parts import History, put_differences, put_one, trained, weights
from doubles.memory_store import MemoryStore
from doubles.recording_monitor import RecordingMonitor
from mlsync.cold.find import cold_packs
from mlsync.mirror.account import CopyOptions
from mlsync.mirror.copying import copy_versions
from mlsync.mirror.rekey import copy_rekeyed
from mlsync.monitor import SilentMonitor
from mlsync.repository import names
from mlsync.repository.keys.keyslot import KeyFile, Passphrase, Stretching
from mlsync.repository.manifest import refs_of
from mlsync.repository.repository import Repository
from mlsync.restore.restore import RestoreOptions, restore
from mlsync.upkeep.check import check

NOW_NS = 4 * 10**18


def content_of(repository, number):
    """The bytes of a version's file."""
    (entry,) = repository.entries(repository.stored("run", number))
    with repository.reader() as reader:
        return b"".join(bytes(plain) for plain in reader.stream(entry.chunks))


def test_a_mirror_of_one_version_has_its_bases():
    """A version that is copied alone brings the pack of its base, though the base's own version stays behind."""
    history = History()
    history.drop(1)
    target = MemoryStore()
    options = CopyOptions(now_ns=NOW_NS, host="host", create=True, verify=True)
    result = copy_versions(history.repository, target, options, RecordingMonitor())
    assert result.pack_count == 3
    mirror = Repository.open(target, Passphrase(b"a passphrase"))
    problems = check(mirror, SilentMonitor(), read_data=True).problems
    assert [one.key for one in problems if not one.key.startswith("versions/")] == []
    assert [content_of(mirror, number) for number in (2, 3)] == [history.plains[2], history.plains[3]]


def test_a_copy_that_goes_on_after_a_base_is_gone_lists_nothing_that_needs_it(monkeypatch):
    """A broken-off copy left a pack of differences; its base is moved and gone since, and a reader would want it."""
    # The bases' pack has a smaller chunk too, which is the one that is moved when nothing is needed of it.
    monkeypatch.setattr(difference_parts, "put_one", functools.partial(put_one, beside=b"small"))
    history, target = History(), MemoryStore()
    history.drop(1)
    options = CopyOptions(now_ns=NOW_NS, host="host", create=True)
    copy_versions(history.repository, target, options, RecordingMonitor())
    for number in (2, 3):
        key = history.repository.version_key("run", number)
        for one in (key, names.copy_of(key)):
            target.delete(one)
    target.delete(names.pack(history.base.pack))
    history.drop(3)
    for gone in (history.refs[2].pack, history.base.pack):
        assert compacted(history.repository).left == {}
        assert delete_buried(history.repository) == {gone}
    left_out = copy_versions(history.repository, target, options, RecordingMonitor()).left_out
    assert [one.number for one in left_out] == [2]
    assert "prune the mirror" in left_out[0].why
    target.delete(names.pack(history.refs[2].pack))
    assert copy_versions(history.repository, target, options, RecordingMonitor()).left_out == []
    assert content_of(Repository.open(target, Passphrase(b"a passphrase")), 2) == history.plains[2]


def test_a_copy_under_another_key_has_no_differences():
    """Each chunk stands by itself there, under its new name, and a later copy goes on from that."""
    history = History()
    theirs = Repository.create(MemoryStore(), KeyFile(bytes(range(32))), stretching=Stretching(64, 1, 1))
    options = CopyOptions(now_ns=NOW_NS, host="host", verify=True)
    assert copy_rekeyed(history.repository, theirs, options, RecordingMonitor()).left_out == []
    history.plains[4] = trained(weights(), 44)
    refs = put_differences(history.store, history.repository.keys, history.base, weights(), [history.plains[4]])
    history.commit(4, refs)
    assert copy_rekeyed(history.repository, theirs, options, RecordingMonitor()).left_out == []
    for number in (1, 2, 3, 4):
        assert content_of(theirs, number) == history.plains[number]
        assert {ref.base for ref in refs_of(theirs.entries(theirs.stored("run", number)))} == {None}


def test_a_restore_asks_for_the_packs_of_bases(tmp_path):
    """What has to be thawed for a version are its own packs and those of its bases."""
    history, asked = History(), []
    manifest = history.repository.manifest(history.repository.stored("run", 2))
    options = RestoreOptions(ready=lambda packs: bool(asked.append(packs)))
    target = tmp_path / "restored"
    assert restore(history.repository, manifest, os.fsencode(target), options, SilentMonitor()).failures == ()
    assert asked == [{history.base.pack, history.refs[2].pack}]
    assert Path(target, "a").read_bytes() == history.plains[2]
    assert cold_packs(history.repository, asked[0]) == []
