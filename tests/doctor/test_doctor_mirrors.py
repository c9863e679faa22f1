"""What ``mlsync doctor`` says of mirrors: whether they are elsewhere, and whether they are copies of the repository."""

from __future__ import annotations

import pytest
from test_doctor_disks import EBS, INSTANCE_STORE, Machine

from doubles.memory_store import MemoryStore
from mlsync.config.model import Config, MirrorSettings, S3Settings
from mlsync.doctor.findings import Grade
from mlsync.doctor.media import diagnose_media
from mlsync.doctor.mirrors import diagnose_copy
from mlsync.repository.keys.keyslot import Passphrase, Stretching
from mlsync.repository.repository import Repository
from mlsync.store.directory.store import DirectoryStore

CHEAP = Stretching(64, 1, 1)


@pytest.fixture
def disks(tmp_path):
    """Two lasting disks and one that dies with the machine."""
    machine = Machine(tmp_path)
    for number, model in enumerate((EBS, EBS, INSTANCE_STORE)):
        machine.disk(f"nvme{number}n1", f"259:{number}", model)
        machine.mount(f"disk{number}", f"259:{number}")
    return machine


def grades(machine, repository, mirror, **s3):
    """How the repository's disk and the mirror's place stand."""
    mirrors = (MirrorSettings(mirror, "far", s3=S3Settings(**s3)),)
    config = Config(repository, machine.base / "disk0/state", mirrors=mirrors)
    found = {one.subject: one for one in diagnose_media(config, machine.host)}
    kept = found.get("disk of the repository")
    return (None if kept is None else kept.grade), found["mirror far"].grade, found["mirror far"].what


def test_a_repository_that_dies_is_not_grave_with_a_mirror_elsewhere(disks):
    """A bucket, or a disk that stays; a mirror that dies too changes nothing."""
    dying = f"file://{disks.base}/disk2/r"
    assert grades(disks, dying, "s3://far/x")[:2] == (Grade.FINE, Grade.FINE)
    assert grades(disks, dying, f"file://{disks.base}/disk1/m")[:2] == (Grade.FINE, Grade.FINE)
    assert grades(disks, dying, f"file://{disks.base}/disk2/m")[:2] == (Grade.GRAVE, Grade.WARNING)


def test_a_mirror_at_the_same_place_is_a_warning(disks):
    """One disk, or one bucket of one server, is lost at once."""
    near = f"file://{disks.base}/disk0/r"
    assert "on the repository's disk" in grades(disks, near, f"file://{disks.base}/disk0/m")[2]
    assert grades(disks, near, f"file://{disks.base}/disk1/m")[1] is Grade.FINE
    assert grades(disks, "s3://near/x", "s3://near/y") == (
        None,
        Grade.WARNING,
        "the mirror is in the repository's bucket",
    )
    assert grades(disks, "s3://near/x", "s3://other/x")[1] is Grade.FINE
    assert grades(disks, "s3://near/x", "s3://near/x", endpoint_url="https://other")[1] is Grade.FINE


def test_what_is_at_the_mirrors_place_is_told(tmp_path):
    """A copy, nothing yet, another repository, or a server that is away."""
    own = Repository.create(MemoryStore(), Passphrase(b"correct horse"), stretching=CHEAP)
    other = tmp_path / "other"
    Repository.create(DirectoryStore(other, create=True), Passphrase(b"correct horse"), stretching=CHEAP).close()

    def grade(url, repository_id=own.repository_id, **s3):
        (found,) = diagnose_copy(MirrorSettings(url, "far", s3=S3Settings(**s3)), lambda: repository_id)
        return found.grade, found.advice

    assert grade(f"file://{other}")[0] is Grade.GRAVE
    assert grade(f"file://{tmp_path}/none") == (
        Grade.WARNING,
        "mount its disk; the first time: mlsync copy --to far --create",
    )
    found = Repository.look(DirectoryStore(other)).repository_id
    assert grade(f"file://{other}", found)[0] is Grade.FINE
