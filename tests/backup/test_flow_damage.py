"""Each object of a repository is damaged in each way, and each command answers rightly or names what is wrong."""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path

import pytest

from flow_parts import PASSPHRASE, RUN, World, keys_of, noise, outcome, small_checkpoint, tree_of
from mlsync import errors
from mlsync.proof.options import ProofOptions
from mlsync.proof.prover import Prover
from mlsync.repository import names
from mlsync.repository.repository import Repository
from mlsync.source.takeover import allow_takeover
from mlsync.store.directory.store import DirectoryStore

HARMS = ("deleted", "cut in half", "cut by a byte", "first byte", "middle byte", "last byte", "longer", "swapped")
HONEST = (errors.Damage, errors.KeyProblem, errors.RepositoryMissing, errors.FormatUnsupported)


class Sample:
    """Three versions in a directory, whose packs and manifests are known by what they are for."""

    def __init__(self, base: Path) -> None:
        self.base = base
        world = World(base / "world", DirectoryStore(base / "world" / "repo", create=True))
        self.trees = {}
        for number in (1, 2, 3):
            world.write(f"epoch{number}.bin", noise(9_000, number))
            world.write("last.pt", small_checkpoint(number))
            world.append("log.csv", b"%d,0.5\n" % number) if number > 1 else world.write("log.csv", b"epoch,loss\n")
            world.backup()
            self.trees[number] = world.tree()
        self.keys = keys_of(world.store)
        self.needs = {
            number: {names.pack(ref.pack) for entry in world.manifest(number).entries for ref in entry.chunks}
            | {world.repository.version_key(RUN, number)}
            for number in (1, 2, 3)
        }
        world.close()
        other = World(base / "other", DirectoryStore(base / "other" / "repo", create=True))
        other.close()

    def copy(self, base: Path) -> World:
        """The world as it was, somewhere else."""
        shutil.copytree(self.base / "world", base, symlinks=True)
        world = World(base, DirectoryStore(base / "repo"), is_there=True)
        # The copy goes on where the world stood.
        allow_takeover(world.state.directory, RUN, os.fsencode(world.directory), 0)
        return world

    def objects(self, kind: str) -> list[str]:
        """The names of the objects of a kind."""
        prefixes = {"header": names.HEADER, "slot": names.KEY_SLOTS, "pack": names.PACKS, "manifest": names.VERSIONS}
        return [key for key in self.keys if key.startswith(prefixes[kind])]

    def brother(self, key: str) -> Path:
        """Another object of the same kind: of this repository, or of another one where this has only one."""
        prefix = key.rpartition("/")[0].partition("/")[0]
        brothers = [other for other in self.keys if other.startswith(prefix) and other != key]
        if brothers:
            return self.base / "world" / "repo" / brothers[0]
        other = self.base / "other" / "repo"
        return other / names.HEADER if key == names.HEADER else next((other / prefix).iterdir())


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return Sample(tmp_path_factory.mktemp("sample"))


def do_harm(sample: Sample, place: Path, key: str, harm: str) -> None:
    body = bytearray(place.read_bytes())
    if harm == "deleted":
        place.unlink()
        return
    if harm == "cut in half":
        del body[len(body) // 2 :]
    elif harm == "cut by a byte":
        del body[-1]
    elif harm == "longer":
        body += b"x"
    elif harm == "swapped":
        body = bytearray(sample.brother(key).read_bytes())
    else:
        body[{"first byte": 0, "middle byte": len(body) // 2, "last byte": -1}[harm]] ^= 0x10
    os.chmod(place, 0o600)
    place.write_bytes(bytes(body))


def harmed(sample: Sample, base: Path, kind: str, harm: str):
    """Give a world for each object of a kind, that object damaged after it was opened."""
    for index, key in enumerate(sample.objects(kind)):
        world = sample.copy(base / str(index))
        do_harm(sample, world.base / "repo" / key, key, harm)
        yield key, world
        world.close()


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("kind", ["header", "slot"])
def test_a_damaged_header_or_key_slot_is_named_when_it_is_opened(sample, tmp_path, kind, harm):
    """A repository whose header or only key slot is not as it was written does not open, with an error that says so."""
    for key, world in harmed(sample, tmp_path, kind, harm):
        with pytest.raises(HONEST) as raised:
            Repository.open(world.store, PASSPHRASE)
        assert world.store.url in str(raised.value), key


def is_told(error: errors.Error | None, key: str) -> bool:
    """Whether an error names the object; a version whose manifest is gone is no version."""
    return (isinstance(error, errors.Damage) and key in str(error)) or isinstance(error, errors.VersionMissing)


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("kind", ["pack", "manifest"])
def test_restore_and_verify_give_the_right_bytes_or_name_the_object(sample, tmp_path, kind, harm):
    """Never is a wrong byte restored or proved; a version that does not need the damaged object is not disturbed."""
    for key, world in harmed(sample, tmp_path, kind, harm):
        for number, tree in sample.trees.items():
            if key not in sample.needs[number]:
                world.verify(number)
                assert world.restored(number) == tree
                continue
            restored, error = outcome(partial(world.restored, number))
            assert restored == tree or is_told(error, key)
            verified, error = outcome(partial(world.verify, number))
            assert verified.refused == {} if verified is not None else is_told(error, key)


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("kind", ["pack", "manifest"])
def test_check_names_the_object_and_the_versions(sample, tmp_path, kind, harm):
    """Reading all data finds each damage and says which versions it touches; of what is whole it says nothing."""
    for key, world in harmed(sample, tmp_path, kind, harm):
        problems = world.check().problems
        touched = {(RUN, number) for number, needs in sample.needs.items() if key in needs}
        assert touched <= {version for problem in problems for version in problem.versions if problem.key == key}
        assert {problem.key for problem in problems} == {key}


@pytest.mark.parametrize("harm", ["deleted", "cut in half"])
def test_a_quick_check_finds_what_is_missing_or_short(sample, tmp_path, harm):
    """Without reading any pack a check names packs that are gone or too short, with all versions that need them."""
    for key, world in harmed(sample, tmp_path, "pack", harm):
        result = world.check(read_data=False)
        touched = tuple((RUN, number) for number, needs in sample.needs.items() if key in needs)
        assert [(problem.key, problem.versions) for problem in result.problems] == [(key, touched)]
        assert result.read_bytes == 0


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("kind", ["pack", "manifest"])
def test_the_next_backup_is_right_or_says_what_is_wrong(sample, tmp_path, kind, harm):
    """What the next version holds comes back right or with an error that names the object; gone packs are made good."""
    for key, world in harmed(sample, tmp_path, kind, harm):
        world.append("log.csv", b"more\n")
        result, error = outcome(world.backup)
        if error is not None:
            assert kind == "manifest"
            assert is_told(error, key) or isinstance(error, errors.HistoryRolledBack)
            continue
        assert result.version == 4
        restored, error = outcome(partial(world.restored, 4))
        # What no longer is what it was, in a pack that nobody had reason to read, is found by verify and check.
        assert restored == world.tree() or (is_told(error, key) and harm not in ("deleted", "cut in half"))


def test_a_key_slot_that_is_gone_is_a_problem(world):
    """A check of a repository that is open says that its last key slot is gone."""
    world.write("a.bin", b"x")
    world.backup()
    for key in keys_of(world.store, names.KEY_SLOTS):
        world.store.delete(key)
    assert [problem.key for problem in world.check().problems] == [names.KEY_SLOTS]


def test_packs_of_no_version_are_counted_and_no_problem(world):
    """What a backup that did not end left behind is reported as unused."""
    world.write("last.pt", small_checkpoint())
    prover = Prover(ProofOptions(device="cpu", python="/nowhere/python"))
    with pytest.raises(errors.ProofUnavailable):
        world.backup(required_level=3, wait_for_proof=True, prover=prover)
    result = world.check()
    assert (result.unused_packs, result.problems) == (1, [])


def test_a_store_put_back_to_an_older_state_is_found_out(directory_world):
    """A repository that shows less than this machine saw stops the backup; its word is taken when the state is lost."""
    world = directory_world
    world.write("a.bin", b"1")
    world.backup()
    shutil.copytree(world.base / "repo", world.base / "older")
    world.write("a.bin", b"2")
    world.backup()
    shutil.rmtree(world.base / "repo")
    shutil.copytree(world.base / "older", world.base / "repo")
    world.store = DirectoryStore(world.base / "repo")
    world.reopen()
    world.write("a.bin", b"3")
    for _ in range(2):
        with pytest.raises(errors.HistoryRolledBack):
            world.backup()
    world.lose_state()
    assert world.backup().version == 2
    assert world.restored() == world.tree()


def test_another_history_under_the_same_number_is_found_out(world):
    """A last version that is another than the one that was seen stops the backup, though its number is right."""
    world.write("a.bin", b"1")
    world.backup()
    objects = dict(world.store._objects)
    world.save_state("first")
    world.write("a.bin", b"2")
    world.backup()
    world.save_state("second")
    world.store._objects = objects
    world.load_state("first")
    world.write("a.bin", b"other 2")
    world.backup()
    world.load_state("second")
    world.write("a.bin", b"3")
    with pytest.raises(errors.HistoryRolledBack):
        world.backup()
    assert tree_of(world.directory)[b"a.bin"][3] == b"3"


def test_a_version_that_does_not_follow_the_one_that_was_seen_is_found_out(world):
    """A newer version that was made after another history than the one seen here stops the backup."""
    world.write("a.bin", b"1")
    world.backup()
    first = dict(world.store._objects)
    key = world.repository.version_key(RUN, 1)
    world.save_state("first")
    world.lose_state()
    world.store.delete(key)
    for number in (1, 2):
        world.write("a.bin", b"other %d" % number)
        assert world.backup().version == number
    world.store._objects[key] = first[key]
    world.load_state("first")
    world.write("a.bin", b"3")
    with pytest.raises(errors.HistoryRolledBack):
        world.backup()
