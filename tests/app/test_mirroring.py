"""What the agent's process copies to a mirror, with real repositories: which versions, and what it says of the rest."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from doubles.recording_monitor import RecordingMonitor
from flow_parts import RUN, World, noise
from mlsync.app.mirroring import copy_to_mirror
from mlsync.config.model import Config, MirrorSettings
from mlsync.errors import RepositoryMissing
from mlsync.mirror.account import CopyOptions
from mlsync.mirror.copying import copy_versions
from mlsync.repository.repository import Repository
from mlsync.retention.grammar import parse_rules
from mlsync.store.directory.store import DirectoryStore


class Parts:
    """A run of three versions, and a directory in which a mirror was made."""

    def __init__(self, tmp_path):
        self.world, self.place = World(tmp_path), tmp_path / "mirror"
        for number in range(3):
            self.backup(number)
        self.session = SimpleNamespace(
            repository=self.world.repository, config=Config(self.world.repository.store.url, tmp_path / "state")
        )

    def backup(self, number):
        """One more version."""
        self.world.write("last.bin", noise(20_000, number))
        self.world.backup()

    def make(self):
        """The mirror, with what is there by now."""
        store = DirectoryStore(self.place, create=True)
        copy_versions(self.world.repository, store, CopyOptions(1, "host", create=True), RecordingMonitor())
        store.close()

    def copy(self, runs=(RUN,), newest_only=None, **settings):
        """What the agent's process does."""
        mirror = MirrorSettings(self.place.as_uri(), "far", **settings)
        monitor, stop = RecordingMonitor(), threading.Event()
        return copy_to_mirror(self.session, mirror, runs, monitor, stop, newest_only=newest_only or {})

    def there(self):
        """The versions in the mirror."""
        store = DirectoryStore(self.place)
        numbers = Repository(store, self.world.repository.keys).numbers(RUN)
        store.close()
        return numbers


@pytest.fixture
def parts(tmp_path):
    made = Parts(tmp_path)
    yield made
    made.world.close()


def test_what_is_missing_is_copied(parts):
    """Each version once, and then nothing is behind; a run that nobody made is no error."""
    parts.make()
    parts.backup(7)
    done = parts.copy(runs=(RUN, "nobody"))
    assert (done["versions"], done["runs"]) == (1, {RUN: {"copied": 4, "newest": 4, "behind": 0}})
    assert parts.copy()["versions"] == 0
    assert parts.copy(runs=("nobody",)) == {"runs": {}, "versions": 0, "bytes": 0, "faults": []}


@pytest.mark.parametrize("is_there", [False, True])
def test_a_directory_without_a_mirror_stays_as_it_is(parts, is_there):
    """Its disk may not be mounted; the message says what the first copy takes."""
    if is_there:
        parts.place.mkdir()
    with pytest.raises(RepositoryMissing) as caught:
        parts.copy()
    assert "mlsync copy --to far --create" in caught.value.advice
    assert not is_there or list(parts.place.iterdir()) == []


def test_a_mirror_has_rules_of_its_own(parts):
    """Only what they keep is copied, and what is left out is not behind."""
    parts.make()
    for number in (7, 8, 9):
        parts.backup(number)
    done = parts.copy(keep=parse_rules(["last 2"]))
    assert (parts.there(), done["runs"][RUN]["behind"]) == ([1, 2, 3, 5, 6], 0)


def test_in_a_hurry_the_newest_version_comes_first(parts):
    """The others come with the next copy."""
    parts.make()
    for number in (7, 8):
        parts.backup(number)
    parts.copy(newest_only={RUN: 5})
    assert parts.there() == [1, 2, 3, 5]
    parts.copy()
    assert parts.there() == [1, 2, 3, 4, 5]


def test_another_version_of_the_same_number_is_not_safe(parts):
    """The repository was put back to an older state and went on, or the mirror was: what is there is none of it."""
    parts.make()
    (victim,) = parts.place.glob("versions/*/0000000003")
    victim.chmod(0o600)
    victim.write_bytes(b"x" * victim.stat().st_size)
    done = parts.copy()
    assert done["runs"][RUN]["behind"] == 1
    assert "is another one in the mirror" in done["faults"][0]
