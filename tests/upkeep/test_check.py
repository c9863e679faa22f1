"""What a check finds in correctly sealed objects with wrong content, and which versions it reports."""

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
from mlsync.repository.evaluation import Evaluation, Measure
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
    """A history without faults has no problems."""
    for _ in range(3):
        history.add()
    for read_data in (False, True):
        result = history.world.check(read_data=read_data)
        assert (result.problems, result.unchecked, result.oddities, result.left_open) == ([], [], [], None)


# ---------------------------------------------------------------- digests and summaries


@pytest.mark.parametrize("path", [b"last.bin", b"frozen.bin"])
def test_a_digest_that_is_not_the_files_is_found_by_reading(history, path):
    """A file whose bytes do not match its digest is reported with its path and all its versions."""
    history.add()
    forged = {path: {"digest": b"\1" + bytes(32)}}
    numbers = (history.add(forged), history.add(forged))
    history.add()
    assert history.problems(read_data=False) == []
    assert history.problems() == [("versions", numbers)]
    (problem,) = history.world.check().problems
    assert problem.key == history.world.repository.version_key(RUN, 2 + 1)
    assert path.decode() in problem.text
    assert "digest" in problem.text


def test_right_chunks_in_a_wrong_order_are_found(world):
    """A wrong order of right chunks is found by the file's digest alone."""
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
    """A file without chunks must have the digest of no bytes."""
    number = history.add({b"empty": {"digest": b"\1" + bytes(32)}})
    assert history.problems(read_data=read_data) == [("versions", (number,))]


@pytest.mark.parametrize("field", ["file_count", "size_bytes", "checkpoint_count", "lowest_level", "device"])
@MODES
def test_a_summary_is_compared_with_its_files(history, field, read_data):
    """A summary must match the version's files, because listings show only the summary."""
    summary = history.first.root.summary
    value = {"device": "cuda:0", "lowest_level": 1}.get(field, getattr(summary, field) + 1 if field != "device" else "")
    extra = {"checkpoint_count": 1} if field == "lowest_level" else {}
    number = history.add(summary=msgspec.structs.replace(summary, **{field: value} | extra))
    assert history.problems(read_data=read_data) == [("versions", (number,))]


def test_each_chunk_is_read_once_however_many_versions_hold_it(world):
    """For twenty versions with a frozen part and a growing log, a check reads each pack's bytes once."""
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
    """If one of twenty versions has a wrong reference, the pack decides, and only that version is reported."""
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
    """A wrong reference of only one version is compared with the pack's own list."""
    number = history.add({b"frozen.bin": history.ref(b"frozen.bin", ordinal=60_000)})
    assert history.problems() == [("packs", (number,))]


def test_a_damaged_chunk_names_the_versions_that_have_it(world):
    """If one of two files in a pack is damaged, versions with only the other are not reported."""
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
    """A check reports all damaged chunks of a pack, not only the first."""
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
    """Later proofs of another run, number or manifest, of unknown paths, or with impossible numbers are reported."""
    key = put_proof(history, later(history, **changes))
    (problem,) = history.world.check(read_data=read_data).problems
    assert (problem.key, problem.versions) == (key, ((RUN, 1),))


def test_a_later_proof_without_its_version_is_named(history):
    """A later proof without its version is reported: the store may hide the version."""
    key = put_proof(history, later(history, number=7), 7)
    (problem,) = history.world.check().problems
    assert (problem.key, problem.versions) == (key, ())
    assert "version 7, which is not in the store" in problem.text


def test_a_later_proof_of_a_version_that_does_not_open_is_not_named_too(history):
    """A later proof of a damaged manifest is not reported as a second problem."""
    put_proof(history, later(history))
    key = history.world.repository.version_key(RUN, 1)
    history.world.store._objects[key] = (b"nonsense", 0.0)
    assert [problem.key for problem in history.world.check().problems] == [key]


def put_evaluation(history: History, number: int = 1, **changes: object) -> str:
    """Seal an evaluation beside a version of the run, whatever it says."""
    keys, digest = history.world.repository.keys, history.world.repository.stored(RUN, 1).digest
    numbers = [Measure("loss", 0.5)]
    made = Evaluation(RUN, number, digest, 1, "mlsync", "host", "eval.py", bytes(32), b"last.bin", "", 0.5, numbers)
    key = names.evaluation(run_id(keys.of("run id"), RUN), number, os.urandom(16))
    plain = msgspec.msgpack.encode(msgspec.structs.replace(made, **changes))
    history.world.store.put(key, sealed_object.seal(keys, sealed_object.EVALUATION, key, plain))
    return key


def test_evaluations_are_looked_at(history):
    """A sound evaluation is no problem; one of another manifest, one cut, and one without its version are."""
    put_evaluation(history)
    assert history.world.check().problems == []
    foreign = put_evaluation(history, manifest=bytes(32))
    lonely = put_evaluation(history, number=7)
    cut = put_evaluation(history)
    history.world.store._objects[cut] = (history.world.store._objects[cut][0][:-1], 0.0)
    found = {problem.key: problem.versions for problem in history.world.check().problems}
    assert found == {foreign: ((RUN, 1),), cut: ((RUN, 1),), lonely: ()}


def test_a_tombstone_without_its_pack_is_named(history):
    """A tombstone without its pack is reported."""
    (pack,) = keys_of(history.world.store, names.PACKS)
    history.world.store.put(names.tombstone(names.parse_pack(pack)), b"")
    assert history.world.check().problems == []
    gone = names.tombstone(bytes(16))
    history.world.store.put(gone, b"")
    assert [problem.key for problem in history.world.check().problems] == [gone]


def test_a_replaced_version_is_found_past_what_does_not_open(history):
    """A replaced version is found even if the version in between does not open."""
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
    """A newer key slot is reported as unchecked, and does not leave the check incomplete."""
    key = names.key_slot(bytes(16))
    history.world.store.put(key, NEWER_SLOT)
    result = history.world.check(read_data=read_data)
    assert [(one.key, one.text.partition(":")[0]) for one in result.unchecked] == [(key, "newer, not checked")]
    assert (result.problems, result.left_open) == ([], None)


def test_a_pack_of_a_newer_format_that_no_version_needs_leaves_nothing_open(history):
    """A newer pack that no version needs is reported as unchecked, and is no problem."""
    pack = bytes(range(16))
    history.world.store.put(names.pack(pack), b"mlsyncP\0\2\0" + noise(200))
    result = history.world.check()
    assert [(one.key, one.versions) for one in result.unchecked] == [(names.pack(pack), ())]
    assert (result.problems, result.left_open, result.unused_packs) == ([], None, 1)


def test_a_pack_of_a_newer_format_that_a_version_needs_leaves_that_open(history):
    """If a version needs a newer pack, the check ends with 12."""
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
    """An archived pack is reported once with its versions, and the others are still read."""
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
    """Foreign names are listed as oddities; one that looks like a manifest is described as such."""
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
    """A directory, pipe or link in the place of a manifest is a problem."""
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
    problems = [(problem.key, problem.text) for problem in world.check(read_data=read_data).problems]
    assert (world.repository.version_key(RUN, 2), "a directory is where an object belongs") in problems


def test_names_that_are_no_keys_are_odd(directory_world):
    """Other files in a directory store are oddities, one line each."""
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
    """If a listing ends early, that is reported, the rest is checked, and unlisted packs are not called missing."""
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
    """A store error that is not about an object ends the check."""
    store = _Puzzling(history.world.store)
    repository = Repository(store, history.world.repository.keys)
    assert check(repository, SilentMonitor()).problems == []
    with pytest.raises(StoreBroken, match="501"):
        check(repository, SilentMonitor(), read_data=True)
