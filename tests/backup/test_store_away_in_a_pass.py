"""The repository goes from under a backup that has begun: no version is made in another place, and none is lost."""

from __future__ import annotations

import os

import pytest

from doubles.memory_store import MemoryStore
from flow_parts import FAST, PASSPHRASE, RUN, keys_of, small_checkpoint
from mlsync.errors import RepositoryMissing
from mlsync.proof.options import ProofOptions
from mlsync.proof.prover import Prover
from mlsync.repository import names
from mlsync.repository.repository import Repository
from mlsync.store.directory.store import DirectoryStore


class Meanwhile(Prover):
    """Does something when it is made use of: after the packs were stored, before the version is committed."""

    def __init__(self, work) -> None:
        super().__init__(ProofOptions(device="none"))
        self._work = work

    def prove(self, source, path, metadata=None):
        """Do it, and prove."""
        work, self._work = self._work, lambda: None
        work()
        return super().prove(source, path, metadata)


def new_checkpoint(world, seed):
    """Something new to store and to prove."""
    world.write("last.pt", small_checkpoint(seed))


@pytest.mark.parametrize("has_version", [False, True])
def test_a_disk_that_goes_in_the_middle_of_a_pass_gets_no_version_elsewhere(directory_world, has_version):
    """Nothing stands in the bare mount point afterwards; when the disk is back, the next backup makes the version."""
    world = directory_world
    disk, away = world.base / "repo", world.base / "away"
    if has_version:
        new_checkpoint(world, 1)
        world.backup()

    def unmount():
        disk.rename(away)
        disk.mkdir()

    new_checkpoint(world, 2)
    with pytest.raises(RepositoryMissing):
        world.backup(prover=Meanwhile(unmount))
    assert list(disk.iterdir()) == []
    disk.rmdir()
    away.rename(disk)
    before = world.numbers()
    assert world.backup().version == len(before) + 1
    assert world.restored() == world.tree()
    assert world.check().problems == []


def test_a_header_that_is_gone_by_the_commit_stops_it(world):
    """On any store: what was a repository when the pass began has to be one when its version is committed."""
    new_checkpoint(world, 1)
    header = world.store._objects[names.HEADER]
    with pytest.raises(RepositoryMissing, match="is gone"):
        world.backup(prover=Meanwhile(lambda: world.store.delete(names.HEADER)))
    assert keys_of(world.store, names.VERSIONS) == []
    world.store._objects[names.HEADER] = header
    assert world.backup().version == 1


def test_another_repository_by_the_commit_stops_it(world):
    """A bucket that was emptied and begun anew in the middle of a pass gets no version of the old keys."""
    other = MemoryStore()
    Repository.create(other, PASSPHRASE, stretching=FAST)
    new_checkpoint(world, 1)

    def swap():
        world.store._objects[names.HEADER] = other._objects[names.HEADER]

    with pytest.raises(RepositoryMissing, match="another repository"):
        world.backup(prover=Meanwhile(swap))
    assert world.repository.numbers(RUN) == []


def test_opening_a_place_that_is_no_repository_deletes_nothing_there(tmp_path):
    """A wrong URL, or a bare mount point, may have a tmp of somebody else's."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / "thesis.odt").write_bytes(b"x")
    os.utime(tmp_path / "tmp" / "thesis.odt", (0, 0))
    store = DirectoryStore(tmp_path)
    with pytest.raises(RepositoryMissing):
        Repository.open(store, PASSPHRASE)
    store.close()
    assert (tmp_path / "tmp" / "thesis.odt").exists()
