"""A backup of a run whose packs were moved: what it reuses is named where it lies now, and nothing is sent again."""

from __future__ import annotations

import pytest

from compacting import compacted, delete_buried, planned
from flow_parts import World, noise
from mlsync.errors import ObjectArchived
from mlsync.repository import names
from mlsync.repository.encoding.segments import segment_refs
from mlsync.repository.repository import Repository
from mlsync.store.counting import CountingStore
from mlsync.versions.archived import naming_all

SIZE = 30_000


@pytest.fixture(params=["buried", "deleted"])
def world(request, tmp_path):
    """A run of one version whose packs were all moved; the old ones have tombstones, or are gone."""
    world = World(tmp_path)
    for number in range(4):
        world.write(f"file{number}", noise(SIZE, number))
    world.backup()
    world.old = {pack for pack, _ in world.repository.packs()}
    assert set(compacted(world.repository, choose=lambda _: True).moved) == world.old
    if request.param == "deleted":
        assert delete_buried(world.repository) == world.old
    world.use(world.counted)
    world.counted.reset()
    yield world
    world.close()


def named(world, number=None):
    """The packs that a version names."""
    return {ref.pack for entry in world.manifest(number).entries for ref in entry.chunks}


def test_what_did_not_change_is_named_where_it_lies_now(world):
    """One file more, and the next version names no moved pack; nothing but that file is sent."""
    world.write("more", noise(SIZE, 99))
    result = world.backup()
    assert (result.version, result.new_bytes) == (2, SIZE)
    assert not named(world) & world.old
    assert [text for level, text in world.monitor.notices if level != "info"] == []
    assert world.restored(2) == world.tree()
    assert world.restored(1).keys() == world.restored(2).keys() - {b"more"}


def test_the_local_state_learns_the_new_places(world):
    """The version after that costs no look at a record, and is no other one."""
    world.write("more", b"x")
    world.backup()
    world.use(CountingStore(world.store))
    assert world.backup().version == 0
    world.write("more", b"y")
    world.repository.moves.of = None  # nobody asks
    assert world.backup().version == 3
    assert not named(world) & world.old
    assert world.restored(3) == world.tree()


@pytest.mark.parametrize("change", ["touched", "appended", "copied", "renamed"])
def test_files_that_share_content_with_a_moved_pack(world, change):
    """Content that is stored already is not stored again, whether its file is read again or not."""
    if change == "touched":
        world.write("file0", noise(SIZE, 0))
        world.write("more", b"x")
    elif change == "appended":
        world.append("file1", b"a line more\n")
    elif change == "copied":
        world.write("copy", noise(SIZE, 2))
    else:
        (world.directory / "file3").rename(world.directory / "other")
    result = world.backup()
    assert result.version == 2
    assert result.new_bytes <= (SIZE + 12 if change == "appended" else 1)
    assert not named(world) & world.old
    assert world.restored(2) == world.tree()


def test_a_machine_without_local_state_does_the_same(world):
    """All is read again, all is found, and the version names the new places."""
    world.lose_state()
    world.write("more", b"x")
    result = world.backup()
    assert (result.version, result.new_bytes) == (2, 1)
    assert not named(world) & world.old
    assert world.restored(2) == world.tree()


def test_an_unchanged_run_asks_for_no_record(world):
    """A run without changes makes no version because packs were moved, and no call more."""
    assert world.backup().version == 0
    assert "get" not in world.counted.calls


def test_verify_reads_through_the_move(world):
    """A version that names moved packs verifies."""
    assert world.verify(1).read_bytes > 4 * SIZE


def test_a_liar_costs_an_upload_and_no_content(world):
    """If what a record leads to is gone, the content is stored again from the source."""
    for _, info in list(world.repository.packs()):
        if names.parse_pack(info.key) not in world.old:
            world.store.delete(info.key)
    world.write("more", b"x")
    assert world.backup().version == 2
    assert world.restored(2) == world.tree()


def test_a_forged_record_costs_an_upload_and_no_content(world):
    """Whoever has the key can make a record that lies; what it leads to is read before a version relies on it."""
    for pack_id, info in list(world.repository.packs()):
        if pack_id not in world.old:
            body = bytearray(world.store.get(info.key, limit_bytes=1 << 20))
            body[100] ^= 1
            world.store.delete(info.key)
            world.store.put(info.key, bytes(body))
    world.write("more", b"x")
    assert world.backup().version == 2
    assert [text for level, text in world.monitor.notices if level == "error"]
    assert world.restored(2) == world.tree()


def test_what_must_be_thawed_is_named_where_it_lies(world):
    """Of packs that are gone, those are named for thawing to which they were moved."""

    class Cold(CountingStore):
        def list(self, prefix, *, after=""):
            from msgspec.structs import replace

            return (replace(info, is_archived=True) for info in super().list(prefix, after=after))

    repository = Repository(Cold(world.store), world.repository.keys)
    error = ObjectArchived("cold", where=names.pack(next(iter(world.old))))
    shown = naming_all(repository, world.manifest(1), error).where.split(", ")
    there = {info.key for info in world.store.list(names.PACKS)}
    assert set(shown) <= there
    assert shown


def test_without_moves_a_backup_makes_not_one_call_more(tmp_path):
    """A run whose packs were never moved asks for no record and lists none."""
    world = World(tmp_path)
    world.write("file", noise(SIZE))
    world.backup()
    seen = []
    world.counted.call = lambda method, key, work: (seen.append((method, key)), work())[1]
    world.write("more", b"x")
    world.backup()
    world.restored(2)
    world.verify(2)
    assert [call for call in seen if call[1].startswith(names.MOVES)] == []
    assert planned(world.repository).packs == ()
    world.close()


@pytest.mark.parametrize("state", ["remembered", "lost"])
def test_a_long_list_of_files_is_named_where_it_lies_or_stored_again(tmp_path, state):
    """The chunks of a version's own list of files that were moved are in no new version by their old place."""
    world = World(tmp_path)
    for number in range(400):
        world.write(f"{number:03d}-{'x' * 200}", b"%d" % (number % 3))
    world.backup()
    old = {ref.pack for ref in segment_refs(world.manifest().root, "here")}
    assert compacted(world.repository, choose=lambda use: use.pack_id in old).moved
    if state == "lost":
        world.lose_state()
    world.write("zzz", b"x")
    assert world.backup().version == 2
    body = {ref.pack for ref in segment_refs(world.manifest().root, "here")}
    assert body
    assert not body & old
    assert world.restored(2) == world.tree()
    world.close()
