"""What a check finds in objects that were sealed right and hold what is not so, and whom it names for it."""

from __future__ import annotations

import os
import shutil

import msgspec
import pytest

from flow_parts import RUN, World, keys_of, noise
from mlsync.codec.digest import run_id
from mlsync.errors import FormatUnsupported, ObjectArchived, StoreBroken
from mlsync.monitor import SilentMonitor
from mlsync.repository import names, sealed_object
from mlsync.repository.commit import commit
from mlsync.repository.later_proof import LaterProof, ProvedFile
from mlsync.repository.manifest import Manifest, Previous
from mlsync.repository.repository import Repository
from mlsync.store.counting import CountingStore
from mlsync.upkeep.check import check
from mlsync.values import Proof

MODES = pytest.mark.parametrize("read_data", [False, True], ids=["quick", "read data"])
# What each version changes, and what none does.
FROZEN = noise(40_000, 99)


class History:
    """A run whose versions are forged: committed with the right keys, and whatever in them."""

    def __init__(self, world: World) -> None:
        self.world = world
        world.write("last.bin", noise(5_000, 1))
        world.write("frozen.bin", FROZEN)
        world.write("empty", b"")
        world.backup()
        self.first = world.manifest(1)
        self.last = self._previous(1)

    def add(self, change=None, **fields: object) -> int:
        """Commit one more version of the first one's entries, those named *change* replaced."""
        number = fields.pop("number", self.last.number + 1)
        entries = tuple(
            msgspec.structs.replace(entry, **(change or {}).get(entry.path, {})) for entry in self.first.entries
        )
        values = {
            "number": number,
            "previous": self.last,
            "created_ns": self.first.root.created_ns + number,
        }
        root = msgspec.structs.replace(self.first.root, **(values | fields))
        commit(self.world.repository, Manifest(root, entries), lambda _: None)
        self.last = self._previous(number)
        return number

    def _previous(self, number: int) -> Previous:
        return Previous(number, self.world.repository.stored(RUN, number).digest)

    def ref(self, path: bytes, **changes: object) -> dict[str, object]:
        """A file's chunks with the first one's reference changed."""
        first, *rest = next(entry for entry in self.first.entries if entry.path == path).chunks
        return {"chunks": (msgspec.structs.replace(first, **changes), *rest)}

    def problems(self, *, read_data: bool = True) -> list[tuple[str, tuple[int, ...]]]:
        """The kind of object and the versions of each problem."""
        found = self.world.check(read_data=read_data).problems
        assert all(run == RUN for problem in found for run, _ in problem.versions)
        return [(problem.key.partition("/")[0], tuple(number for _, number in problem.versions)) for problem in found]


@pytest.fixture
def history(world):
    """A run with one honest version."""
    return History(world)


def test_an_honest_history_has_no_problem(history):
    """Versions that hold what they say: nothing is named, so that what follows means something."""
    for _ in range(3):
        history.add()
    for read_data in (False, True):
        result = history.world.check(read_data=read_data)
        assert (result.problems, result.unchecked, result.oddities, result.left_open) == ([], [], [], None)


# ---------------------------------------------------------------- digests and summaries


@pytest.mark.parametrize("path", [b"last.bin", b"frozen.bin"])
def test_a_digest_that_is_not_the_files_is_found_by_reading(history, path):
    """The bytes of a file have another digest than its entry says: named with path and all versions that say so."""
    history.add()
    forged = {path: {"digest": bytes(16)}}
    numbers = (history.add(forged), history.add(forged))
    history.add()
    assert history.problems(read_data=False) == []
    assert history.problems() == [("versions", numbers)]
    (problem,) = history.world.check().problems
    assert problem.key == history.world.repository.version_key(RUN, 2 + 1)
    assert path.decode() in problem.text
    assert "digest" in problem.text


def test_right_chunks_in_a_wrong_order_are_found(world):
    """Each chunk is the right one by its name; that their order is not, only the file's digest tells."""
    world.write("a.csv", b"".join(b"%d,%s\n" % (n, noise(20, n).hex().encode()) for n in range(60_000)))
    world.backup()
    manifest = world.manifest(1)
    (entry,) = manifest.entries
    first, *middle, last = entry.chunks
    assert middle, "the file is cut into three chunks at least"
    swapped = msgspec.structs.replace(entry, chunks=(last, *middle, first))
    previous = Previous(1, world.repository.stored(RUN, 1).digest)
    root = msgspec.structs.replace(manifest.root, number=2, previous=previous)
    commit(world.repository, Manifest(root, (swapped,)), lambda _: None)
    (problem,) = world.check().problems
    assert problem.versions == ((RUN, 2),)


@MODES
def test_the_digest_of_an_empty_file_is_compared_unread(history, read_data):
    """What has no chunks has one digest."""
    number = history.add({b"empty": {"digest": bytes(16)}})
    assert history.problems(read_data=read_data) == [("versions", (number,))]


@pytest.mark.parametrize("field", ["file_count", "size_bytes", "checkpoint_count", "lowest_level", "device"])
@MODES
def test_a_summary_is_compared_with_its_files(history, field, read_data):
    """A listing shows the summary alone, so it must be that of the files."""
    summary = history.first.root.summary
    value = {"device": "cuda:0", "lowest_level": 1}.get(field, getattr(summary, field) + 1 if field != "device" else "")
    extra = {"checkpoint_count": 1} if field == "lowest_level" else {}
    number = history.add(summary=msgspec.structs.replace(summary, **{field: value} | extra))
    assert history.problems(read_data=read_data) == [("versions", (number,))]


def test_each_chunk_is_read_once_however_many_versions_hold_it(world):
    """A frozen part in twenty versions, and a log that grows by lines: no more is read than lies in the packs."""
    log = b""
    for number in range(20):
        log += b"%d,%s\n" % (number, noise(3_000, number).hex().encode())
        world.write("log.csv", log)
        world.write("model.bin", FROZEN * 8 + noise(9_000, number))
        world.backup()
    store = CountingStore(world.store)
    result = check(Repository(store, world.repository.keys), SilentMonitor(), read_data=True)
    assert result.problems == []
    lists_bytes = sum(info.size_bytes for info in world.store.list(names.VERSIONS))
    assert store.read_bytes <= result.pack_bytes * 1.05 + 3 * lists_bytes


# ---------------------------------------------------------------- who is named

FALSE = {
    "offset": {"offset": 49},
    "beyond": {"offset": 1 << 39},
    "name": {"name": bytes(32)},
    "length": {"stored_bytes": 17},
    "ordinal": {"ordinal": 60_000},
}


@pytest.mark.parametrize("where", ["first", "last"])
@pytest.mark.parametrize("change", FALSE)
@MODES
def test_one_false_reference_names_one_version(world, change, where, read_data):
    """Twenty versions say where a chunk lies and one says otherwise: the pack says who is right, and one is named."""
    history = History(world)
    if where == "last":
        for _ in range(20):
            history.add()
    number = history.add({b"frozen.bin": history.ref(b"frozen.bin", **FALSE[change])})
    if where == "first":
        # As if no honest version had come before: the false one is what an ordinal is known by.
        world.store.delete(world.repository.version_key(RUN, 1))
        history.last = Previous(number, history.last.digest)
        for _ in range(20):
            history.add()
    found = [one for one in history.problems(read_data=read_data) if one[0] == "packs"]
    if change == "ordinal" and not read_data:
        # Nobody else speaks of that ordinal, and the pack is not asked.
        assert found == []
        return
    assert found == [("packs", (number,))]


def test_a_false_reference_that_nobody_contradicts_is_found_by_reading(history):
    """What one version alone says of an ordinal is held against the pack's own list."""
    number = history.add({b"frozen.bin": history.ref(b"frozen.bin", ordinal=60_000)})
    assert history.problems() == [("packs", (number,))]


def test_a_damaged_chunk_names_the_versions_that_have_it(world):
    """Of two files in one pack one is damaged: a version that has only the other is not named."""
    world.write("a.bin", noise(9_000, 1))
    world.write("b.bin", noise(9_000, 2))
    world.backup()
    os.unlink(world.path("b.bin"))
    world.backup()
    (pack,) = keys_of(world.store, names.PACKS)
    ref = world.entry(b"b.bin", 1).chunks[0]
    content, modified_s = world.store._objects[pack]
    body = bytearray(content)
    body[ref.offset + 5] ^= 1
    world.store._objects[pack] = (bytes(body), modified_s)
    (problem,) = world.check().problems
    assert (problem.key, problem.versions) == (pack, ((RUN, 1),))
    assert f"chunk {ref.ordinal} of a pack is damaged" in problem.text


def test_every_damaged_chunk_of_a_pack_is_found(world):
    """The first damage does not end the reading of a pack: what is damaged behind it is named with it."""
    for number in range(1, 5):
        world.write(f"{number}.bin", noise(9_000, number))
    world.backup()
    refs = {number: world.entry(b"%d.bin" % number, 1).chunks[0] for number in range(1, 5)}
    for number in (1, 2, 4):
        os.unlink(world.path(f"{number}.bin"))
        world.backup()
    (pack,) = keys_of(world.store, names.PACKS)
    content, modified_s = world.store._objects[pack]
    body = bytearray(content)
    for number in (2, 4):
        body[refs[number].offset] ^= 1
    world.store._objects[pack] = (bytes(body), modified_s)
    (problem,) = world.check().problems
    assert f"chunks {refs[2].ordinal}, {refs[4].ordinal}" in problem.text
    assert problem.versions == ((RUN, 1), (RUN, 2), (RUN, 3))


# ---------------------------------------------------------------- later proofs and tombstones

PROOF = Proof(3, "torch-zip", "cpu", "2", 1, 0.5, 1, 1, {}, [])


def later(history: History, **changes: object) -> LaterProof:
    """A later proof of the first version, without files."""
    digest = history.world.repository.stored(RUN, 1).digest
    made = LaterProof(RUN, 1, digest, 1, "mlsync", "host", 0, "", 0, [])
    return msgspec.structs.replace(made, **changes)


def put_proof(history: History, proof: LaterProof, number: int = 1) -> str:
    """Seal a later proof beside a version of the run, whatever it says."""
    keys = history.world.repository.keys
    key = names.later_proof(run_id(keys.of("run id"), RUN), number, os.urandom(16))
    body = sealed_object.seal(keys, sealed_object.LATER_PROOF, key, msgspec.msgpack.encode(proof))
    history.world.store.put(key, body)
    return key


@pytest.mark.parametrize(
    "changes",
    [
        {"run": "another"},
        {"number": 2},
        {"manifest": bytes(32)},
        {"files": [ProvedFile(b"not there", PROOF)]},
        {"files": [ProvedFile(b"last.bin", PROOF)]},
        {"broken_count": 1},
        {"lowest_level": 6},
    ],
    ids=["run", "number", "manifest", "path", "no checkpoint", "broken", "level"],
)
@MODES
def test_a_later_proof_that_cannot_be_is_named(history, changes, read_data):
    """Of another run, number or manifest, of paths that are not there or are no checkpoint, with impossible numbers."""
    key = put_proof(history, later(history, **changes))
    (problem,) = history.world.check(read_data=read_data).problems
    assert (problem.key, problem.versions) == (key, ((RUN, 1),))


def test_a_later_proof_without_its_version_is_named(history):
    """A proof beside a version that is not in the store: a store that hid the version shows itself."""
    key = put_proof(history, later(history, number=7), 7)
    (problem,) = history.world.check().problems
    assert (problem.key, problem.versions) == (key, ())
    assert "version 7, which is not in the store" in problem.text


def test_a_later_proof_of_a_version_that_does_not_open_is_not_named_too(history):
    """One damage is one problem: what lies beside a damaged manifest says nothing new."""
    put_proof(history, later(history))
    key = history.world.repository.version_key(RUN, 1)
    history.world.store._objects[key] = (b"nonsense", 0.0)
    assert [problem.key for problem in history.world.check().problems] == [key]


def test_a_tombstone_without_its_pack_is_named(history):
    """A mark on a pack that is not there: either it should be gone with it, or the pack should be there."""
    (pack,) = keys_of(history.world.store, names.PACKS)
    history.world.store.put(names.tombstone(names.parse_pack(pack)), b"")
    assert history.world.check().problems == []
    gone = names.tombstone(bytes(16))
    history.world.store.put(gone, b"")
    assert [problem.key for problem in history.world.check().problems] == [gone]


def test_a_replaced_version_is_found_past_what_does_not_open(history):
    """Something planted between two versions does not hide that the older one is not the one that was followed."""
    store, repository = history.world.store, history.world.repository
    store.put(repository.version_key(RUN, 2), b"planted")
    history.last = Previous(2, bytes(32))
    number = history.add(previous=Previous(1, history.world.repository.stored(RUN, 1).digest))
    store.delete(repository.version_key(RUN, 1))
    history.add(number=1, previous=None)
    problems = {problem.key: problem.text for problem in history.world.check().problems}
    assert "not the one that it was made to follow" in problems[repository.version_key(RUN, number)]


# ---------------------------------------------------------------- what is no damage

NEWER_SLOT = b'{"mlsync": "key-slot", "format": 1, "kind": "cloud-key", "of": "a newer mlsync"}'


@MODES
def test_a_key_slot_of_an_unknown_kind_is_not_checked(history, read_data):
    """It may stand beside the others for ever: it is named as newer, and leaves nothing open."""
    key = names.key_slot(bytes(16))
    history.world.store.put(key, NEWER_SLOT)
    result = history.world.check(read_data=read_data)
    assert [(one.key, one.text.partition(":")[0]) for one in result.unchecked] == [(key, "newer, not checked")]
    assert (result.problems, result.left_open) == ([], None)


def test_a_pack_of_a_newer_format_that_no_version_needs_leaves_nothing_open(history):
    """A newer mlsync beside this one: its packs are named as not checked, and are no problem."""
    pack = bytes(range(16))
    history.world.store.put(names.pack(pack), b"mlsyncP\0\2\0" + noise(200))
    result = history.world.check()
    assert [(one.key, one.versions) for one in result.unchecked] == [(names.pack(pack), ())]
    assert (result.problems, result.left_open, result.unused_packs) == ([], None, 1)


def test_a_pack_of_a_newer_format_that_a_version_needs_leaves_that_open(history):
    """A version that is not looked at whole is not said to be whole: the check ends with 12."""
    (pack,) = keys_of(history.world.store, names.PACKS)
    content, modified_s = history.world.store._objects[pack]
    history.world.store._objects[pack] = (content[:8] + b"\2\0" + content[10:], modified_s)
    result = history.world.check()
    assert [(one.key, one.versions) for one in result.unchecked] == [(pack, ((RUN, 1),))]
    assert result.problems == []
    assert isinstance(result.left_open, FormatUnsupported)


class _Cold(CountingStore):
    """A store one of whose packs lies in cold storage."""

    cold = ""

    def read(self, key: str, offset: int, into: memoryview) -> None:
        if key == self.cold:
            raise ObjectArchived("the object is archived", where=key, advice="have it thawed")
        super().read(key, offset, into)


def test_a_pack_in_cold_storage_is_named_once_and_the_rest_is_checked(world):
    """What cannot be read now is not damage: each such pack is named with its versions, and others are still read."""
    for number in range(1, 4):
        world.write(f"{number}.bin", noise(9_000, number))
        world.backup()
    store = _Cold(world.store)
    store.cold = names.pack(world.entry(b"2.bin", 3).chunks[0].pack)
    damaged = names.pack(world.entry(b"3.bin", 3).chunks[0].pack)
    content, modified_s = world.store._objects[damaged]
    world.store._objects[damaged] = (content[:100] + bytes([content[100] ^ 1]) + content[101:], modified_s)
    result = check(Repository(store, world.repository.keys), SilentMonitor(), read_data=True)
    assert [(one.key, one.versions) for one in result.unchecked] == [(store.cold, ((RUN, 2), (RUN, 3)))]
    assert "in cold storage, not checked" in result.unchecked[0].text
    assert "have it thawed" in result.unchecked[0].text
    assert [(one.key, one.versions) for one in result.problems] == [(damaged, ((RUN, 3),))]
    assert isinstance(result.left_open, ObjectArchived)


def test_what_is_not_ours_is_odd_and_no_problem(history):
    """Names that no mlsync makes are listed and left alone; one that looks like a manifest is told as that."""
    store, run_key = history.world.store, history.world.repository.version_key(RUN, 1)
    odd = {
        f"{run_key}.old": "looks like the manifest of version 1 with '.old' after its name",
        "versions/readme": "not an object of mlsync",
        f"{names.VERSIONS}{'0' * 32}/{'0' * 10}": "not an object of mlsync",
        "packs/00/1234": "not an object of mlsync",
        "keys/readme.txt": "not an object of mlsync",
        "proofs/x": "not an object of mlsync",
        "tombstones/x": "not an object of mlsync",
    }
    for key in odd:
        store.put(key, b"x")
    result = history.world.check()
    assert result.problems == []
    assert {oddity.key: oddity.text.partition(":")[0] for oddity in result.oddities} == {
        key: text.partition(":")[0] for key, text in odd.items()
    }


@pytest.mark.parametrize("kind", ["directory", "full directory", "pipe", "link"])
@MODES
def test_what_is_no_file_in_an_objects_place_is_a_problem(directory_world, kind, read_data):
    """A directory, pipe or link where the next manifest, or the one of a version, belongs is named there."""
    world = directory_world
    for number in (1, 2):
        world.write("a.bin", noise(9_000, number))
        world.backup()
    place = world.base / "repo" / world.repository.version_key(RUN, 3)
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "link":
        place.symlink_to("/etc/passwd")
    else:
        place.mkdir()
    if kind == "full directory":
        (place / "x").write_bytes(b"x")
    result = world.check(read_data=read_data)
    key = world.repository.version_key(RUN, 3)
    assert key in {problem.key for problem in result.problems}
    assert result.version_count == 2
    place.unlink() if kind in ("pipe", "link") else shutil.rmtree(place)
    os.rename(world.base / "repo" / world.repository.version_key(RUN, 2), place.with_name("kept"))
    (world.base / "repo" / world.repository.version_key(RUN, 2)).mkdir()
    problems = {problem.key: problem.text for problem in world.check(read_data=read_data).problems}
    assert "a directory is where an object belongs" in problems[world.repository.version_key(RUN, 2)]


def test_names_that_are_no_keys_are_odd(directory_world):
    """Other files in a directory store, whatever they are called, are listed on one line each, and are no problem."""
    world = directory_world
    world.write("a.bin", noise(9_000, 1))
    world.backup()
    folder = world.base / "repo" / names.VERSIONS
    key = world.repository.version_key(RUN, 1)
    (world.base / "repo" / f"{key} (copy)").write_bytes(b"x")
    (folder / "An\nEmpty Directory").mkdir()
    with open(os.fsencode(folder) + b"/\xff", "wb"):
        pass
    result = world.check()
    assert result.problems == []
    assert {oddity.key for oddity in result.oddities} == {
        f"{key} (copy)",
        f"{names.VERSIONS}An\\u000aEmpty Directory",
        f"{names.VERSIONS}\\xff",
    }


def test_a_listing_that_ends_early_is_a_problem_and_not_the_end(directory_world):
    """What could be listed is checked, a pack behind is not called missing, and that there is more is named."""
    world = directory_world
    world.write("a.bin", noise(9_000, 1))
    world.backup()
    folder = world.base / "repo" / names.PACKS
    (folder / "-").symlink_to("/nowhere")  # before all packs
    result = world.check()
    assert (result.version_count, result.pack_count) == (1, 1)
    texts = {problem.key: problem.text for problem in result.problems}
    assert "the listing is incomplete" in texts.pop(names.PACKS)
    assert texts == {}


class _Puzzling(CountingStore):
    """A store that answers reads of packs in a way that says nothing of them."""

    def read(self, key: str, offset: int, into: memoryview) -> None:
        raise StoreBroken("The store answers 501", where=key)


def test_an_error_of_the_store_is_not_taken_for_damage(history):
    """What the store cannot do says nothing of any object: the check ends with the store's error."""
    store = _Puzzling(history.world.store)
    repository = Repository(store, history.world.repository.keys)
    assert check(repository, SilentMonitor()).problems == []
    with pytest.raises(StoreBroken, match="501"):
        check(repository, SilentMonitor(), read_data=True)
