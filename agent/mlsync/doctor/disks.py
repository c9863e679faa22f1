"""Does what lies on a disk outlive the machine? Tell it from the file system's kind and the disk's model.

A volume of several disks (md, LVM, dm-crypt) is followed down to its disks, and lasts as long as the shortest-lived.
Models are those that the clouds document; a cloud's disk of another model counts as unknown, never as lasting.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from mlsync.doctor.mounts import Mount, mount_of

SYS: Final = Path("/sys")
DEV: Final = Path("/dev")
# Volumes of volumes of volumes: deeper is a circle, or nothing that anybody would build.
_DEPTH_MAX: Final = 16
_MEMORY: Final = frozenset({"tmpfs", "ramfs", "devtmpfs", "hugetlbfs"})
_LAYERS: Final = frozenset({"overlay", "aufs", "fuse-overlayfs", "fuse.fuse-overlayfs"})
NETWORK: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "ceph", "lustre", "gpfs", "beegfs", "glusterfs", "afs", "weka", "wekafs", "pvfs2"}
)
_CLOUD_DISKS: Final = {
    "aws": "an EBS volume, EFS, or FSx",
    "gcp": "a Persistent Disk, Hyperdisk, or Filestore",
    "azure": "a managed disk, or Azure Files",
    "alibaba": "a cloud disk (ESSD), or NAS",
    "tencent": "a cloud disk (CBS), or CFS",
    "oracle": "a block volume, or File Storage",
}
_ANY_CLOUD: Final = "a disk or network volume that the provider keeps when the machine goes"
# Model as the kernel shows it without the blanks at its end; whether more may follow; what it is.
_DYING_MODELS: Final = (
    ("Amazon EC2 NVMe Instance Storage", False, "an instance store of AWS"),
    ("nvme_card", False, "a local SSD of Google Cloud"),
    ("EphemeralDisk", False, "a local SSD of Google Cloud"),
    ("Microsoft NVMe Direct Disk", True, "a local NVMe disk of Azure"),
)
_LASTING_MODELS: Final = (
    ("Amazon Elastic Block Store", False, "an EBS volume"),
    ("nvme_card-pd", False, "a Persistent Disk"),
    ("PersistentDisk", False, "a Persistent Disk"),
    ("MSFT NVMe Accelerator", True, "a managed disk of Azure"),
    ("Alibaba Cloud Elastic Block Storage", False, "a cloud disk of Alibaba Cloud"),
)
# Names of devices that are no disk of this machine.
_RAM_NAMES, _REMOTE_NAMES = ("ram", "zram"), ("rbd", "nbd", "drbd")
_HYPERVISORS: Final = ("qemu", "xen", "kvm", "vmware", "openstack", "red hat", "hetzner", "digitalocean", "bochs")
_AZURE_TAG: Final = "7783-7084-3265-9085-8269-3286-77"
_AZURE_WARNING: Final = "DATALOSS_WARNING_README.txt"


class Life(Enum):
    """How long a disk keeps what is written to it, the shortest first."""

    DIES = "dies with the machine"
    UNKNOWN = "is not known"
    OWN = "is this machine's own"
    LASTS = "outlives the machine"


@dataclass(frozen=True, slots=True)
class Medium:
    """Where a path lies: how long that lives, in words what it is, and the numbers of the devices below it."""

    life: Life
    what: str
    devices: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Host:
    """The facts that places are judged by; *sys* and *dev* are the directories of the kernel, or a copy of them."""

    mounts: list[Mount]
    sys: Path = SYS
    dev: Path = DEV

    @property
    def cloud(self) -> str:
        """The cloud that the machine says it is of, or empty."""
        said = {name: _read(self.sys / "class/dmi/id" / name) for name in ("sys_vendor", "chassis_asset_tag")}
        vendor = said["sys_vendor"].casefold()
        if said["chassis_asset_tag"] == _AZURE_TAG:
            return "azure"
        if said["chassis_asset_tag"] == "OracleCloud.com":
            return "oracle"
        for word, cloud in (("amazon", "aws"), ("google", "gcp"), ("alibaba", "alibaba"), ("tencent", "tencent")):
            if word in vendor:
                return cloud
        return ""

    @property
    def is_hardware(self) -> bool:
        """Whether the firmware names a maker of machines, and neither a cloud nor a hypervisor."""
        vendor = _read(self.sys / "class/dmi/id/sys_vendor").casefold()
        return bool(vendor) and not self.cloud and not any(word in vendor for word in _HYPERVISORS)

    @property
    def lasting_disks(self) -> str:
        """What to take here instead of a disk that dies."""
        return _CLOUD_DISKS.get(self.cloud, _ANY_CLOUD)


def medium_of(path: Path, host: Host, depth: int = 0) -> Medium:
    """Return where *path* lies, whether it exists yet or not."""
    mount = mount_of(path, host.mounts)
    if mount is None:
        return Medium(Life.UNKNOWN, "no mount that the kernel lists")
    by_kind = _by_kind(mount)
    if by_kind is not None:
        return by_kind
    media = [_judge(disk, host, depth) for disk in _disks(mount, host.sys)]
    if not media:
        return Medium(Life.UNKNOWN, f"a {mount.kind} file system on {mount.source}", frozenset({mount.number}))
    order = list(Life)
    shortest = min(media, key=lambda medium: order.index(medium.life))
    return Medium(shortest.life, shortest.what, frozenset().union(*(medium.devices for medium in media)))


def _by_kind(mount: Mount) -> Medium | None:
    """Return what the mount alone tells, or ``None`` where its disks decide."""
    number = frozenset({mount.number})
    if mount.kind in _MEMORY:
        return Medium(Life.DIES, f"memory ({mount.kind})", number)
    if mount.kind in _LAYERS:
        return Medium(Life.DIES, f"the container's own layer ({mount.kind})", number)
    if mount.kind in NETWORK:
        return Medium(Life.LASTS, f"a network file system ({mount.kind})", frozenset({mount.source}))
    if mount.kind.startswith("fuse.") or mount.kind in ("9p", "virtiofs"):
        return Medium(Life.UNKNOWN, f"a file system of another program or host ({mount.kind})", number)
    if (Path(mount.place) / _AZURE_WARNING).exists():
        return Medium(Life.DIES, "the temporary disk of an Azure machine", number)
    return None


def _disks(mount: Mount, sys: Path) -> Iterator[Path]:
    """Yield the directories in ``/sys`` of the disks below a mount, each once."""
    first = sys / "dev/block" / mount.number
    if not first.exists():
        # btrfs gives its mounts a number that is no device's.
        first = sys / "class/block" / mount.source.rpartition("/")[2]
    if first.exists():
        yield from dict.fromkeys(_leaves(first.resolve(), _DEPTH_MAX))


def _leaves(device: Path, depth: int) -> Iterator[Path]:
    if (device / "partition").exists():
        device = device.parent
    below = sorted((device / "slaves").iterdir()) if (device / "slaves").is_dir() and depth else []
    if not below:
        yield device
    for slave in below:
        yield from _leaves(slave.resolve(), depth - 1)


def _judge(device: Path, host: Host, depth: int) -> Medium:
    """Return how long a disk lives, by its name and model."""
    numbers = frozenset({_read(device / "dev") or device.name})
    backing = _read(device / "loop/backing_file")
    if backing and depth < _DEPTH_MAX:
        below = medium_of(Path(backing), host, depth + 1)
        return Medium(below.life, f"a file on {below.what}", below.devices)
    life, what = _by_name(device.name, _read(device / "device/model"), host)
    return Medium(life, what, numbers)


def _by_name(name: str, model: str, host: Host) -> tuple[Life, str]:
    if name.startswith(_RAM_NAMES):
        return Life.DIES, f"memory ({name})"
    if name.startswith(_REMOTE_NAMES):
        return Life.LASTS, f"a disk over the network ({name})"
    if _is_azures_temporary(name, host.dev):
        return Life.DIES, f"the temporary disk of an Azure machine ({name})"
    shown = f"{name}, {model}" if model else name
    for models, life in ((_DYING_MODELS, Life.DIES), (_LASTING_MODELS, Life.LASTS)):
        for known, is_start, what in models:
            if model == known or (is_start and model.startswith(known)):
                return life, f"{what} ({shown})"
    if host.is_hardware:
        return Life.OWN, f"a disk of this machine ({shown})"
    return Life.UNKNOWN, f"a disk of a virtual machine ({shown})"


def _is_azures_temporary(name: str, dev: Path) -> bool:
    link = dev / "disk/azure/resource"
    return link.is_symlink() and link.resolve().name == name


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""
