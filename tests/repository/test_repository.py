"""A repository as the flows see it: versions that exist or do not, runs and their names, what crashes leave."""

from __future__ import annotations

import pytest
from format_parts import (
    PASSPHRASE,
    body_of,
    digest_of,
    file_entry,
    keys_under,
    new_repository,
    noise,
    replace_object,
    unknown,
    version,
    write_chunks,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from doubles.faulty_store import Fault, FaultyStore, ProcessDied
from doubles.memory_store import MemoryStore
from mlsync.errors import FormatUnsupported, ManifestDamaged, StoreUnavailable, VersionMissing, VersionTaken
from mlsync.repository import names
from mlsync.repository.commit import commit
from mlsync.repository.encoding import segments
from mlsync.repository.listing import last_page, run_names, runs
from mlsync.repository.manifest import Previous
from mlsync.repository.readable import newest_readable
from mlsync.repository.repository import Repository
from mlsync.store.counting import CountingStore

ENTRIES = (file_entry(b"a", digest=digest_of()),)


def test_versions_are_listed_by_number():
    """Numbers come rising, from where they are asked for."""
    repository = new_repository()
    for number in (1, 2, 3, 10, 11):
        commit(repository, version(ENTRIES, number), unknown)
    assert repository.numbers("run") == [1, 2, 3, 10, 11]
    assert repository.numbers("run", after=3) == [10, 11]
    assert repository.numbers("other") == []


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.one_of(st.integers(1, 60), st.integers(1, 5000)), max_size=200))
def test_the_newest_version_is_found(monkeypatch, numbers):
    """Whatever versions there are and however many come in a page, the newest is the one with the highest number."""
    monkeypatch.setattr("mlsync.repository.listing.PAGE_COUNT", 7)
    repository = new_repository()
    for number in numbers:
        repository.store.put(repository.version_key("run", number), b"")
    repository.store.put(repository.version_key("other", 6000), b"")
    assert [one.number for one in last_page(repository, "run")][-1:] == sorted(numbers)[-1:]
    assert repository.has_versions("run") == bool(numbers)


@pytest.mark.parametrize("count", [1, 999, 1000, 20_000])
def test_the_newest_version_is_found_in_few_pages(count):
    """One page for up to a thousand versions, and a dozen for twenty thousand."""
    repository = new_repository()
    for number in range(1, count + 1):
        repository.store.put(repository.version_key("run", number), b"")
    counted = CountingStore(repository.store)
    assert last_page(Repository(counted, repository.keys, conditional_create=True), "run")[-1].number == count
    assert counted.calls["list"] <= (1 if count < 1000 else 2 if count == 1000 else 12)


def test_the_names_of_runs_are_found_without_listing_their_versions():
    """A listing is begun once for each run and read no further than its first version."""
    repository = new_repository()
    for run, number in (("zebra", 1), ("ä-run", 1), ("zebra", 2)):
        commit(repository, version(ENTRIES, number, run=run), unknown)
    repository.store.put("versions/not-a-run", b"")
    assert sorted(run_names(repository)) == ["zebra", "ä-run"]


def test_runs_are_listed_by_name():
    """Each run comes with its numbers, though the store knows no name."""
    repository = new_repository()
    for run, number in (("zebra", 1), ("ä-run", 1), ("zebra", 2)):
        commit(repository, version(ENTRIES, number, run=run), unknown)
    assert [(run.name, run.numbers) for run in runs(repository)] == [("zebra", (1, 2)), ("ä-run", (1,))]
    assert "zebra" not in "".join(keys_under(repository.store, ""))


@pytest.mark.parametrize(("damaged", "left"), [(1, 2), (2, 1)])
def test_a_damaged_version_does_not_hide_its_run(damaged, left):
    """A run of which a manifest is damaged keeps its name, from another one."""
    repository = new_repository()
    for number in (1, 2):
        commit(repository, version(ENTRIES, number), unknown)
    replace_object(repository.store, repository.version_key("run", damaged), lambda body: body[:-1])
    assert [(run.name, run.numbers) for run in runs(repository)] == [("run", (1, 2))]
    assert list(run_names(repository)) == ["run"]
    replace_object(repository.store, repository.version_key("run", left), lambda body: b"")
    assert (runs(repository), list(run_names(repository))) == ([], [])
    assert set(repository.skipped) == {repository.version_key("run", number) for number in (1, 2)}
    assert all(isinstance(error, ManifestDamaged) for error in repository.skipped.values())


def test_planted_objects_do_not_make_a_run():
    """A run of which nothing opens has no name, and however many objects it has, few of them are looked at."""
    repository = new_repository()
    commit(repository, version(ENTRIES), unknown)
    for number in range(1, 400):
        repository.store.put(names.version(b"\0" * 16, number), b"planted")
    for number in range(400):
        repository.store.put(f"versions/{'0' * 32}/not-a-version-{number:03}", b"planted")
    counted = CountingStore(repository.store)
    again = Repository(counted, repository.keys)
    assert list(run_names(again)) == ["run"]
    assert (counted.calls["list"] <= 5, counted.calls["get"] <= 80) == (True, True)
    assert [run.name for run in runs(again)] == ["run"]
    assert all(key.startswith(f"versions/{'0' * 32}/") for key in again.skipped)


@pytest.mark.parametrize("planted", [[9_999_999_999], range(9_999_997_000, 10**10), range(4, 3000, 2), []])
@pytest.mark.parametrize("count", [3, 1500])
def test_the_newest_that_opens_is_found_among_planted_objects(monkeypatch, planted, count):
    """Wherever objects were planted, the newest version is the newest that opens; all others are noted."""
    monkeypatch.setattr("mlsync.repository.listing.PAGE_COUNT", 100)
    repository = new_repository()
    last = commit(repository, version(ENTRIES, count), unknown)
    for number in {*range(1, count), *planted} - {count}:
        repository.store.put(repository.version_key("run", number), b"planted")
    counted = CountingStore(repository.store)
    again = Repository(counted, repository.keys)
    stored = newest_readable(again, "run")
    assert (stored.root.number, stored.digest) == (count, last.digest)
    above = {number for number in planted if number > count}
    assert {repository.version_key("run", number) for number in above} <= set(again.skipped)
    assert counted.calls["list"] <= 20 * (1 + len(above) // 100)
    known = {one.number: one.stamp for one in again.listed("run") if one.number != count}
    counted.reset()
    assert newest_readable(again, "run", known=known).root.number == count
    assert counted.calls["get"] == 1


def test_an_object_that_only_claims_to_be_newer_is_passed_over():
    """What nobody authenticated may say of itself what it will; a version that opens and is newer is refused."""
    repository = new_repository()
    commit(repository, version(ENTRIES, 1), unknown)
    body = repository.store.get(repository.version_key("run", 1), limit_bytes=1 << 20)
    repository.store.put(repository.version_key("run", 2), body[:8] + b"\2\0" + body[10:])
    assert newest_readable(repository, "run").root.number == 1
    with pytest.raises(FormatUnsupported, match="format 2"):
        repository.stored("run", 2)


def test_a_number_is_taken_once():
    """A second writer of the same number is refused, and the first one's version stands."""
    repository = new_repository()
    first = commit(repository, version(ENTRIES), unknown)
    with pytest.raises(VersionTaken, match="another writer"):
        commit(repository, version(ENTRIES), unknown)
    assert repository.stored("run", 1).digest == first.digest


@pytest.mark.parametrize("change", [lambda body: b"planted", lambda body: body[:8] + b"\2\0" + body[10:]])
def test_a_number_that_no_version_takes_is_called_planted(change):
    """The error of a commit says whether a version or another object has its number, also one of a newer format."""
    repository = new_repository()
    commit(repository, version(ENTRIES), unknown)
    with pytest.raises(VersionTaken) as caught:
        commit(repository, version(ENTRIES), unknown)
    assert not caught.value.is_planted
    replace_object(repository.store, repository.version_key("run", 1), change)
    with pytest.raises(VersionTaken, match="something that is no version") as caught:
        commit(repository, version(ENTRIES), unknown)
    assert caught.value.is_planted


def test_a_commit_says_how_much_it_stored(monkeypatch):
    """What it stored is the packs of its body, the run's registration, the manifest and its copy, to the byte."""
    monkeypatch.setattr(segments, "INLINE_BYTES_MAX", 0)
    repository = new_repository()
    before = {info.key for info in repository.store.list("")}
    committed = commit(repository, version(ENTRIES), unknown)
    made = [info for info in repository.store.list("") if info.key not in before]
    assert committed.stored_bytes == sum(info.size_bytes for info in made)
    assert len(made) == 4


def test_a_version_carries_the_digest_of_the_one_before():
    """What a manifest says of the one before is the SHA-256 that the commit gave and that reading gives."""
    repository = new_repository()
    first = commit(repository, version(ENTRIES), unknown)
    commit(repository, version(ENTRIES, 2, Previous(1, first.digest)), unknown)
    assert repository.stored("run", 2).root.previous == Previous(1, repository.stored("run", 1).digest)


def test_versions_that_are_not_there_are_missing():
    """Neither another number nor another run is found, and both say so; what is there is found."""
    repository = new_repository()
    commit(repository, version(ENTRIES), unknown)
    assert repository.stored("run", 1).root.number == 1
    for run, number in (("run", 2), ("other", 1)):
        with pytest.raises(VersionMissing, match=run):
            repository.stored(run, number)


def test_packs_are_found_and_described():
    """Every pack is listed with its length, and tells its chunks by itself."""
    repository = new_repository()
    refs = write_chunks(repository.store, repository.keys, [noise(100)])
    ((pack_id, info),) = repository.packs()
    assert repository.has_pack(pack_id)
    assert not repository.has_pack(bytes(16))
    assert repository.pack_refs(pack_id, info.size_bytes) == refs


def test_tombstones_are_seen():
    """A tombstone counts by its name, whatever it holds."""
    repository = new_repository()
    repository.store.put(names.tombstone(bytes(16)), b"anything")
    repository.store.put(names.TOMBSTONES + "not-one", b"")
    assert repository.tombstones() == {bytes(16)}


def test_what_is_not_ours_is_left_alone():
    """Other objects in the place are neither packs nor versions nor key slots that lock anybody out."""
    repository = new_repository()
    commit(repository, version(ENTRIES), unknown)
    for key in ("packs/zz/readme", "packs/00/0123", "versions/x", "keys/readme", "other/thing"):
        repository.store.put(key, b"somebody else's")
    again = Repository.open(repository.store, PASSPHRASE)
    assert [run.numbers for run in runs(again)] == [(1,)]
    assert list(again.packs()) == []


@pytest.mark.parametrize("kind", ["die-before", "die-after"])
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_crash_leaves_a_version_or_none(kind, nth, monkeypatch):
    """Killed before or after any write of a commit, the version is there whole or not at all."""
    monkeypatch.setattr(segments, "INLINE_BYTES_MAX", 0)
    store = MemoryStore()
    new_repository(store)
    dying = Repository.open(FaultyStore(store, Fault(kind, nth, "put")), PASSPHRASE)
    with pytest.raises(ProcessDied):
        commit(dying, version(ENTRIES), unknown)
    found = Repository.open(store, PASSPHRASE)
    is_there = (kind, nth) == ("die-after", 3)
    assert found.numbers("run") == ([1] if is_there else [])
    assert len(list(found.packs())) == (0 if (kind, nth) == ("die-before", 1) else 1)
    if is_there:
        assert found.manifest(found.stored("run", 1)).entries == ENTRIES
    else:
        commit(found, version(ENTRIES), unknown)
        assert found.manifest(found.stored("run", 1)).entries == ENTRIES


def test_a_commit_that_fails_leaves_no_version(monkeypatch):
    """A store that is away while the list of files is stored means no version, and the store's own error."""
    monkeypatch.setattr(segments, "INLINE_BYTES_MAX", 0)
    store = MemoryStore()
    new_repository(store)
    away = Repository.open(FaultyStore(store, Fault("before", 1, "put", lasts=True)), PASSPHRASE)
    with pytest.raises(StoreUnavailable):
        commit(away, version(ENTRIES), unknown)
    assert Repository.open(store, PASSPHRASE).numbers("run") == []


def test_nothing_readable_stands_in_the_store():
    """Neither a path, a run's name, a host, a directory nor content can be read in any object."""
    repository = new_repository()
    secret = b"the loss went down and down " * 9
    refs = write_chunks(repository.store, repository.keys, [secret])
    commit(repository, version([file_entry(b"secret-path.pt", refs, [secret])], run="secret-run"), unknown)
    everything = b"".join(body_of(repository.store, key) + key.encode() for key in keys_under(repository.store, ""))
    for word in (b"secret", b"loss", b"node-1", b"/data", b"mlsync 0.1.0"):
        assert word not in everything
