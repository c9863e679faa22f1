"""What the plugin reads: the files of the version that was registered, from the repository that it was in."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace

import pytest
import torch

from flow_parts import RUN, World, small_checkpoint
from mlsync.errors import ConfigInvalid, HistoryRolledBack, PathMissing, StoreError, VersionMissing
from mlsync.mlflow_plugin.description import MLMODEL
from mlsync.mlflow_plugin.source_files import SourceFiles
from mlsync.mlflow_plugin.weights import _load_pyfunc
from mlsync.registry.source import ModelSource
from mlsync.repository.history.decisions import By, mark_gone
from mlsync.store.directory.store import DirectoryStore
from mlsync.upkeep.forget import BY_HAND, forget

PASSPHRASE = "correct horse battery"


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A directory repository with two versions, and an environment that opens it."""
    world = World(tmp_path, DirectoryStore(tmp_path / "repo", create=True))
    for epoch in (1, 2):
        world.write("weights/best.pt", small_checkpoint(epoch))
        world.write("a b/%41#.txt", b"odd")
        world.backup()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "states"))
    monkeypatch.setattr("mlsync.mlflow_plugin.source_files.find_secret", lambda *_arguments, **_more: _passphrase())
    yield world
    world.close()


def _passphrase():
    from flow_parts import PASSPHRASE as OPENS

    return OPENS


def source(world, number=2, path=b"weights/best.pt", **changes):
    """The source of a version."""
    stored = world.repository.stored(RUN, number)
    made = ModelSource(
        RUN, number, path, f"file://{world.base}/repo", world.repository.repository_id.hex(), stored.digest.hex()
    )
    return replace(made, **changes).uri


def content(files, path):
    """A file as it is downloaded."""
    stream = io.BytesIO()
    files.write(path, stream)
    return stream.getvalue()


def test_a_file_is_listed_and_read(world):
    """As MLflow's client asks: the source's directory, the file, and what is below the file, which is nothing."""
    files = SourceFiles(source(world))
    assert [(one.path, one.is_directory) for one in files.listed("")] == [("best.pt", False)]
    assert files.listed("best.pt") == []
    assert content(files, "best.pt") == small_checkpoint(2)
    with pytest.raises(PathMissing):
        content(files, "other.pt")


def test_a_whole_version_is_listed_by_directory(world):
    """Directories first level by first level, names as they are, and each file as it is."""
    files = SourceFiles(source(world, path=b""))
    assert sorted((one.path, one.is_directory) for one in files.listed("")) == [("a b", True), ("weights", True)]
    assert [one.path for one in files.listed("a b")] == ["a b/%41#.txt"]
    assert content(files, "a b/%41#.txt") == b"odd"
    assert files.listed("nobody") == []
    with pytest.raises(PathMissing):
        content(files, "../../etc/passwd")


def test_a_description_is_made_where_there_is_none(world):
    """It names the loader and the file, and is JSON."""
    said = json.loads(content(SourceFiles(source(world)), MLMODEL))
    assert said["flavors"]["python_function"]["data"] == "best.pt"
    assert said["flavors"]["mlsync"] == {"run": RUN, "version": 2, "path": "weights/best.pt"}
    world.write(MLMODEL, b"own")
    world.backup()
    assert content(SourceFiles(source(world, 3, b"")), MLMODEL) == b"own"


def test_an_older_version_stays_what_it_was(world):
    """The number in the source counts, whatever came later."""
    assert content(SourceFiles(source(world, 1)), "best.pt") == small_checkpoint(1)


def test_another_version_under_the_number_is_refused(world):
    """The manifest's digest binds the model to what was registered."""
    with pytest.raises(HistoryRolledBack, match="another one than was registered"):
        SourceFiles(source(world, manifest="ab" * 32)).listed("")


def test_a_version_that_is_gone_says_so(world):
    """Somebody unregistered it, and it was pruned."""
    uri = source(world, 1)
    digest = world.repository.stored(RUN, 1).digest
    by = By("h", 1)
    world.write("log", b"3")
    world.backup()
    forget(world.repository, RUN, [(1, BY_HAND)], by)
    mark_gone(world.repository, RUN, None, {1: digest}, by)
    with pytest.raises(VersionMissing, match="was removed"):
        SourceFiles(uri).listed("")


def test_another_repository_at_the_place_is_refused(world):
    """A source can name any place; the id says which repository it has to be."""
    with pytest.raises(ConfigInvalid, match="not the one that this machine finds"):
        SourceFiles(source(world, repository_id="ab" * 16)).listed("")
    with pytest.raises((ConfigInvalid, StoreError)):
        SourceFiles(source(world, repository=f"file://{world.base}/nowhere")).listed("")


def test_a_machine_that_knows_the_repository_elsewhere_uses_that(world, monkeypatch):
    """It moved; the machine's own configuration is of the same id."""
    shutil.move(world.base / "repo", world.base / "moved")
    monkeypatch.setenv("MLSYNC_REPOSITORY", str(world.base / "moved"))
    assert content(SourceFiles(source_of_old(world)), "best.pt") == small_checkpoint(2)


def source_of_old(world):
    """The source as it was registered before the repository moved."""
    world.use(DirectoryStore(world.base / "moved", create=False))
    return source(world)


def test_damage_is_no_model(world):
    """What does not open is an error, and not a file."""
    from mlsync.errors import Damage

    files = SourceFiles(source(world))
    files.listed("")
    for pack in (world.base / "repo/packs").rglob("*"):
        if pack.is_file():
            body = bytearray(pack.read_bytes())
            body[len(body) // 2] ^= 1
            pack.chmod(0o600)
            pack.write_bytes(body)
    with pytest.raises(Damage):
        content(files, "best.pt")


def test_weights_are_tensors_and_no_code_runs(tmp_path):
    """A checkpoint of plain values loads; one that would run code when it is unpickled is refused, and runs none."""
    plain = tmp_path / "best.pt"
    torch.save({"model": {"w": torch.ones(2)}, "epoch": 3}, plain)
    loaded = _load_pyfunc(str(plain))
    assert loaded.get_raw_model()["model"]["w"].tolist() == [1, 1]
    with pytest.raises(ConfigInvalid, match="weights alone"):
        loaded.predict([1])
    evil = tmp_path / "evil.pt"
    torch.save({"model": _Evil(tmp_path / "ran")}, evil)
    with pytest.raises(ConfigInvalid, match="nothing of it is run"):
        _load_pyfunc(str(evil))
    assert not (tmp_path / "ran").exists()


class _Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, file) -> None:
        self.file = file

    def __reduce__(self):
        return type(self.file).touch, (self.file,)


def test_safetensors_and_directories_are_loaded(tmp_path):
    """Of a directory all files with weights, by path; what holds none is refused."""
    from safetensors.torch import save_file

    (tmp_path / "model").mkdir()
    save_file({"w": torch.zeros(3)}, tmp_path / "model/a.safetensors")
    torch.save({"w": torch.ones(1)}, tmp_path / "model/b.pt")
    (tmp_path / "model/MLmodel").write_text("{}")
    assert sorted(_load_pyfunc(str(tmp_path / "model")).get_raw_model()) == ["a.safetensors", "b.pt"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigInvalid, match="no file with weights"):
        _load_pyfunc(str(tmp_path / "empty"))
    with pytest.raises(ConfigInvalid, match="no kind of file"):
        _load_pyfunc(str(tmp_path / "model/MLmodel"))
