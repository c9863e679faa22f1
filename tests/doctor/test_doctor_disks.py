"""How long a disk lives, by a list of mounts and a copy of ``/sys`` that a test makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlsync.doctor.disks import Host, Life, medium_of
from mlsync.doctor.findings import Grade
from mlsync.doctor.media import diagnose_repository, diagnose_watch
from mlsync.doctor.mounts import mount_of, mounts

EBS, INSTANCE_STORE = "Amazon Elastic Block Store", "Amazon EC2 NVMe Instance Storage"


class Machine:
    """A machine of disks and mounts, below a directory of the test."""

    def __init__(self, base: Path, vendor: str = "Amazon EC2") -> None:
        self.base, self.sys, self.dev = base, base / "sys", base / "dev"
        self.lines: list[str] = []
        (self.sys / "class/dmi/id").mkdir(parents=True)
        (self.sys / "class/dmi/id/sys_vendor").write_text(vendor + "\n")
        (self.sys / "dev/block").mkdir(parents=True)
        (self.sys / "class/block").mkdir(parents=True)

    def disk(self, name: str, number: str, model: str = "", slaves: tuple[str, ...] = (), within: str = "") -> Path:
        """A disk, a volume of *slaves*, or a partition *within* a disk."""
        device = self.sys / "devices" / within / name
        (device / "slaves").mkdir(parents=True)
        (device / "dev").write_text(f"{number}\n")
        if within:
            (device / "partition").write_text("1\n")
        if model:
            (device / "device").mkdir()
            (device / "device/model").write_text(f"{model:<40}\n")
        for slave in slaves:
            (device / "slaves" / slave).symlink_to(self.sys / "class/block" / slave)
        (self.sys / "dev/block" / number).symlink_to(device)
        (self.sys / "class/block" / name).symlink_to(device)
        return device

    def mount(self, place: str, number: str = "0:99", kind: str = "ext4", source: str = "/dev/x") -> None:
        """One more line of mountinfo, for a directory below the test's."""
        at = str(self.base / place).rstrip("/").replace(" ", "\\040")
        self.lines.append(f"{len(self.lines)} 1 {number} / {at} rw,relatime shared:1 - {kind} {source} rw")

    @property
    def host(self) -> Host:
        """The facts."""
        return Host(mounts("\n".join(self.lines)), self.sys, self.dev)

    def life(self, place: str) -> Life:
        """How long what lies there lives."""
        return medium_of(self.base / place, self.host).life


@pytest.fixture
def machine(tmp_path) -> Machine:
    """A machine of AWS without disks."""
    return Machine(tmp_path)


@pytest.mark.parametrize(
    ("model", "life"),
    [
        (INSTANCE_STORE, Life.DIES),
        (EBS, Life.LASTS),
        ("nvme_card", Life.DIES),
        ("nvme_card-pd", Life.LASTS),
        ("EphemeralDisk", Life.DIES),
        ("PersistentDisk", Life.LASTS),
        ("Microsoft NVMe Direct Disk", Life.DIES),
        ("Microsoft NVMe Direct Disk v2", Life.DIES),
        ("MSFT NVMe Accelerator v1.0", Life.LASTS),
        ("Alibaba Cloud Elastic Block Storage", Life.LASTS),
        ("A disk of next year", Life.UNKNOWN),
        ("nvme_card-next", Life.UNKNOWN),
    ],
)
def test_models_of_clouds(machine, model, life):
    """A cloud's disk is known by its model, with the blanks that the kernel puts behind it; another one is unknown."""
    machine.disk("nvme1n1", "259:0", model)
    machine.mount("data", "259:0")
    assert machine.life("data/runs") is life


def test_a_volume_lasts_as_long_as_its_shortest_lived_disk(machine):
    """A partition, RAID, LVM and encryption are followed to the disks, and one instance store among them decides."""
    machine.disk("nvme0n1", "259:0", EBS)
    machine.disk("nvme1n1", "259:1", INSTANCE_STORE)
    machine.disk("nvme1n1p1", "259:2", within="nvme1n1")
    machine.disk("md0", "9:0", slaves=("nvme0n1", "nvme1n1p1"))
    machine.disk("dm-0", "253:0", slaves=("md0",))
    machine.disk("dm-1", "253:1", slaves=("dm-0",))
    machine.mount("data", "253:1")
    machine.mount("safe", "259:0")
    assert (machine.life("data"), machine.life("safe")) == (Life.DIES, Life.LASTS)
    assert "nvme1n1" in medium_of(machine.base / "data", machine.host).what


def test_volumes_in_a_circle_end(machine):
    """Two volumes that name each other are an answer, and no endless walk."""
    machine.disk("dm-0", "253:0", slaves=("dm-1",))
    machine.disk("dm-1", "253:1", slaves=("dm-0",))
    machine.mount("data", "253:0")
    assert machine.life("data") is Life.UNKNOWN


def test_btrfs_is_found_by_its_source(machine):
    """A mount whose number is no device's is looked up by the name of its source."""
    machine.disk("nvme1n1", "259:1", INSTANCE_STORE)
    machine.mount("data", "0:47", kind="btrfs", source="/dev/nvme1n1")
    assert machine.life("data") is Life.DIES


def test_a_loop_lives_as_long_as_its_file(machine):
    """A file system in a file lies where the file lies."""
    machine.mount("tmp", kind="tmpfs")
    device = machine.disk("loop0", "7:0")
    (device / "loop").mkdir()
    (device / "loop/backing_file").write_text(f"{machine.base}/tmp/image\n")
    machine.mount("data", "7:0")
    assert machine.life("data") is Life.DIES


@pytest.mark.parametrize(
    ("kind", "life"),
    [("tmpfs", Life.DIES), ("overlay", Life.DIES), ("nfs4", Life.LASTS), ("fuse.s3fs", Life.UNKNOWN)],
)
def test_file_systems_without_a_disk(machine, kind, life):
    """Memory and a container's layer die, a network file system stays, a program's file system is unknown."""
    machine.mount("data", kind=kind)
    assert machine.life("data") is life


def test_azures_temporary_disk_is_known_by_its_link_or_its_file(machine):
    """It has the model of every disk of Azure; a link of udev or the warning on it tells."""
    machine.disk("sdb", "8:16", "Virtual Disk")
    machine.mount("mnt", "8:16")
    assert machine.life("mnt") is Life.UNKNOWN
    (machine.dev / "disk/azure").mkdir(parents=True)
    (machine.dev / "disk/azure/resource").symlink_to("../../sdb")
    assert machine.life("mnt") is Life.DIES
    (machine.dev / "disk/azure/resource").unlink()
    (machine.base / "mnt").mkdir()
    (machine.base / "mnt/DATALOSS_WARNING_README.txt").touch()
    assert machine.life("mnt") is Life.DIES


def test_a_machine_with_a_maker_has_disks_of_its_own(tmp_path):
    """On hardware a disk of any model is the machine's own; without a maker's name it is unknown."""
    for vendor, life in (("Dell Inc.", Life.OWN), ("QEMU", Life.UNKNOWN), ("", Life.UNKNOWN)):
        machine = Machine(tmp_path / f"vendor {vendor}", vendor)
        machine.disk("nvme0n1", "259:0", "Samsung SSD 990 PRO 2TB")
        machine.mount("a disk", "259:0")
        assert machine.life("a disk") is life


def test_the_longest_and_latest_mount_counts(machine):
    """A mount below another one is not it, one of two at the same place covers the other, and names need not match."""
    machine.mount("", kind="ext4")
    machine.mount("data", kind="xfs")
    machine.mount("data", kind="tmpfs")
    listed = machine.host.mounts
    kinds = {place: mount_of(machine.base / place, listed).kind for place in ("data/x", "database", "other")}
    assert kinds == {"data/x": "tmpfs", "database": "ext4", "other": "ext4"}


def test_a_list_of_mounts_may_be_odd(machine):
    """Lines that are none are left out, and without any the medium is unknown."""
    assert mounts("\n1 2\n - ext4 x\nwords without a dash at all here") == []
    assert machine.life("data") is Life.UNKNOWN


def test_a_dying_training_is_a_warning_and_a_dying_repository_is_grave(machine):
    """Versions elsewhere outlive the training's disk; a repository on one that dies protects nothing."""
    machine.disk("nvme1n1", "259:1", INSTANCE_STORE)
    machine.mount("nvme", "259:1")
    (watched,) = diagnose_watch(machine.base / "nvme/runs", "yolo", machine.host, None)
    assert (watched.grade, watched.subject) == (Grade.WARNING, "disk of run yolo")
    assert "an EBS volume" in watched.advice
    (kept,) = diagnose_repository(machine.base / "nvme/repo", machine.host)
    assert kept.grade is Grade.GRAVE
    assert "s3://" in kept.advice


def test_a_repository_on_the_trainings_disk_is_named(machine):
    """One disk below both is told, also through a partition; two disks are not."""
    for number in (0, 1):
        machine.disk(f"nvme{number}n1", f"259:{number}", EBS)
        machine.mount(f"disk{number}", f"259:{number}")
    machine.disk("nvme0n1p1", "259:9", within="nvme0n1")
    machine.mount("part", "259:9")
    same = list(diagnose_watch(machine.base / "disk0", "yolo", machine.host, machine.base / "part/repo"))
    assert [one.grade for one in same] == [Grade.FINE, Grade.WARNING]
    other = list(diagnose_watch(machine.base / "disk0", "yolo", machine.host, machine.base / "disk1/repo"))
    assert [one.grade for one in other] == [Grade.FINE]
