"""The golden repositories: what every released mlsync wrote is listed, checked and restored by this one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from pathlib import Path

import pytest

from mlsync.codec.compression import Coding
from mlsync.codec.digest import FileDigestKind
from mlsync.monitor import SilentMonitor
from mlsync.repository.encoding.segments import segment_refs
from mlsync.repository.encoding.tokens import EntryKind, TroubleKind
from mlsync.repository.evaluation import newest_numbers
from mlsync.repository.keys.keyslot import KeyFile, Passphrase
from mlsync.repository.listing import runs
from mlsync.repository.repository import Repository
from mlsync.restore.restore import RestoreOptions, restore
from mlsync.store.directory.store import DirectoryStore
from mlsync.upkeep.check import check

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir() and not path.name.startswith(("_", ".")))
EXPECTED = {name: json.loads((GOLDEN / name / "expected.json").read_text()) for name in NAMES}
VERSIONS = [(name, index) for name in NAMES for index in range(len(EXPECTED[name]["versions"]))]


@pytest.fixture
def open_golden(tmp_path):
    """Opens a copy of a golden repository: not even a lock file is left beside what is kept for ever."""

    def open_copy(name, unlock=None):
        shutil.copytree(GOLDEN / name / "repository", tmp_path / "repository")
        unlock = unlock or Passphrase(EXPECTED[name]["passphrase"].encode())
        repository = Repository.open(DirectoryStore(tmp_path / "repository"), unlock)
        opened.append(repository)
        return repository

    opened = []
    yield open_copy
    for repository in opened:
        repository.close()


def test_there_is_one_for_every_format():
    """Each format that was ever released has a golden repository, and each is read by the tests below."""
    assert NAMES == ["1-directory"]
    assert all((GOLDEN / name / "repository" / "repository").is_file() for name in NAMES)


@pytest.mark.parametrize(("name", "codings"), [("1-directory", set(Coding))])
def test_each_holds_everything(open_golden, name, codings):
    """Every kind of entry, a hole, a proof, a trouble, a list of files in chunks, all codings of its day."""
    repository = open_golden(name)
    stored = [repository.stored(run.name, number) for run in runs(repository) for number in run.numbers]
    entries = [entry for one in stored for entry in repository.entries(one)]
    assert {entry.kind for entry in entries} == set(EntryKind)
    assert {ref.coding for entry in entries for ref in entry.chunks} == codings
    assert {FileDigestKind(entry.digest[0]) for entry in entries if entry.holes} == set(FileDigestKind)
    assert {entry.proof.container for entry in entries if entry.proof} == {"torch-zip", "safetensors"}
    assert any(one.root.troubles for one in stored)
    assert any(segment_refs(one.root, one.key) for one in stored)
    assert any(segment.inline is not None for one in stored for segment in one.root.segments)


def test_no_file_was_changed():
    """Golden repositories are never edited: every file is there, is the one that was made, and no other is."""
    listed = dict(reversed(line.split("  ", 1)) for line in (GOLDEN / "SHA256SUMS").read_text().splitlines())
    found = [path for name in NAMES for path in (GOLDEN / name).rglob("*") if path.is_file()]
    assert {str(path.relative_to(GOLDEN)): _sha256(path) for path in found} == listed


@pytest.mark.parametrize("name", NAMES)
def test_every_byte_is_sound(open_golden, name):
    """A check that reads all data finds nothing wrong."""
    result = check(open_golden(name), SilentMonitor(), read_data=True)
    assert result.problems == []
    assert result.version_count == len(EXPECTED[name]["versions"])
    assert result.unused_packs == 0


@pytest.mark.parametrize("name", NAMES)
def test_the_key_file_opens_it_too(open_golden, name):
    """Both key slots still open."""
    repository = open_golden(name, KeyFile(bytes.fromhex(EXPECTED[name]["key_file"])))
    numbers = {}
    for version in EXPECTED[name]["versions"]:
        numbers.setdefault(version["run"], []).append(version["number"])
    assert {run.name: list(run.numbers) for run in runs(repository)} == numbers


@pytest.mark.parametrize(("name", "index"), VERSIONS)
def test_a_version_lists_what_it_held(open_golden, name, index):
    """Every entry of a manifest reads as it was written down when it was made."""
    expected = EXPECTED[name]["versions"][index]
    repository = open_golden(name)
    manifest = repository.manifest(repository.stored(expected["run"], expected["number"]))
    assert manifest.root.created_ns == expected["created_ns"]
    assert (manifest.root.previous.number if manifest.root.previous else None) == expected["previous"]
    assert (manifest.root.origin.machine.decode(), list(manifest.root.notes)) == (
        expected["machine"],
        expected["notes"],
    )
    assert [oct(manifest.root.top.mode), manifest.root.top.mtime_ns] == expected["top"]
    troubles = [(os.fsencode(path), TroubleKind[kind], kept) for path, kind, kept in expected["troubles"]]
    assert [(trouble.path, trouble.kind, trouble.kept) for trouble in manifest.root.troubles] == troubles
    entries = {entry.path: entry for entry in manifest.entries if not entry.path.startswith(b"labels/")}
    assert len(manifest.entries) - len(entries) == expected["label_count"]
    assert sorted(entries) == sorted(os.fsencode(path) for path in expected["entries"])
    for path, fields in expected["entries"].items():
        entry = entries[os.fsencode(path)]
        assert (entry.kind, oct(entry.mode)) == (EntryKind[fields["kind"]], fields["mode"])
        assert (entry.mtime_ns, entry.size_bytes) == (fields["mtime_ns"], fields["size_bytes"])
        assert (entry.target, [list(hole) for hole in entry.holes]) == (os.fsencode(fields["target"]), fields["holes"])
        assert (None if entry.blake3 is None else entry.blake3.hex()) == fields["blake3"]
        assert ([entry.proof.level, entry.proof.container] if entry.proof else None) == fields["proof"]


@pytest.mark.parametrize(("name", "index"), VERSIONS)
def test_a_version_has_its_later_proofs(open_golden, name, index):
    """What was proved after the commit is read, says how far, and is of the version."""
    expected = EXPECTED[name]["versions"][index]
    repository = open_golden(name)
    later = repository.later_proofs(repository.stored(expected["run"], expected["number"]))
    levels = {os.fsdecode(file.path): file.proof.level for proof in later.proofs for file in proof.files}
    assert levels == expected.get("proved_later", {})


@pytest.mark.parametrize(("name", "index"), VERSIONS)
def test_a_version_has_its_evaluations(open_golden, name, index):
    """What was measured of a version is read, and is of that version."""
    expected = EXPECTED[name]["versions"][index]
    repository = open_golden(name)
    found = repository.evaluations(repository.stored(expected["run"], expected["number"]))
    assert newest_numbers(found) == expected.get("evaluated", {})


@pytest.mark.parametrize(("name", "index"), VERSIONS)
def test_a_version_is_restored(open_golden, name, index, tmp_path):
    """Every file, link and directory comes back with its bytes, mode, time and holes."""
    expected = EXPECTED[name]["versions"][index]
    repository = open_golden(name)
    manifest = repository.manifest(repository.stored(expected["run"], expected["number"]))
    target = tmp_path / "restored"
    restore(repository, manifest, os.fsencode(target), RestoreOptions(), SilentMonitor())
    found = {os.path.relpath(path, target): path for path in target.rglob("*")}
    labels = [path for relative, path in found.items() if relative.startswith("labels/")]
    assert len(labels) == expected["label_count"]
    assert all(path.stat().st_size == 0 for path in labels)
    assert found.keys() - {os.path.relpath(path, target) for path in labels} == expected["entries"].keys()
    for relative, fields in expected["entries"].items():
        _compare(found[relative], fields, target)


def _compare(path, fields, target):
    found = path.lstat()
    if fields["kind"] == "SYMLINK":
        assert os.readlink(path) == fields["target"]
        assert found.st_mtime_ns == fields["mtime_ns"]
        return
    assert oct(stat.S_IMODE(found.st_mode)) == fields["mode"]
    assert found.st_mtime_ns == fields["mtime_ns"]
    if fields["kind"] == "DIRECTORY":
        assert path.is_dir()
        return
    assert _sha256(path) == fields["sha256"]
    if fields["kind"] == "HARD_LINK":
        assert path.samefile(target / fields["target"])
    if fields["holes"]:
        assert found.st_blocks * 512 < fields["size_bytes"] // 2


def _sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()
