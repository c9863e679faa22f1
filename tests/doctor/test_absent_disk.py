"""Whether a path that is not there belongs to a disk that is not mounted."""

from __future__ import annotations

import pytest

from mlsync.doctor.absent_disk import looks_unmounted, unmounted_at

FSTAB = """# a comment
UUID=1 / ext4 defaults 0 1
UUID=2 none swap sw 0 0
/dev/sdb1 /data ext4 nofail 0 2
server:/x /data/my\\040runs nfs4 noauto 0 0
broken
"""


@pytest.fixture
def unmounted(tmp_path):
    """What is unmounted above a path, when *mounted* is all that is."""

    def find(path, mounted=("/",)):
        lines = [f"1 0 8:1 / {place} rw - ext4 /dev/sda1 rw\n" for place in mounted]
        (tmp_path / "mountinfo").write_text("".join(lines))
        (tmp_path / "fstab").write_text(FSTAB)
        return unmounted_at(type(tmp_path)(path), fstab=tmp_path / "fstab", mounted=tmp_path / "mountinfo")

    return find


@pytest.mark.parametrize(
    ("path", "mounted", "place"),
    [
        ("/data/repo", ("/",), "/data"),
        ("/data", ("/",), "/data"),
        ("/data/repo", ("/", "/data"), None),
        ("/data/my runs/repo", ("/", "/data"), "/data/my runs"),
        ("/data/my runs/repo", ("/", "/data", "/data/my\\040runs"), None),
        ("/database/repo", ("/",), None),
        ("/srv/repo", ("/",), None),
    ],
)
def test_what_fstab_mounts_and_is_not_mounted_is_named(unmounted, path, mounted, place):
    """The deepest mount point of fstab above the path that has no mount is named, and nothing beside it."""
    assert unmounted(path, mounted) == place


def test_a_machine_without_fstab_names_nothing(tmp_path):
    """A container has no fstab, and nothing is known of its mounts."""
    assert unmounted_at(tmp_path / "repo", fstab=tmp_path / "none") is None


def test_a_bare_mount_point_looks_unmounted(tmp_path, monkeypatch):
    """The nearest directory that exists is empty: at the path, above it, and no longer when anything is in it."""
    (tmp_path / "mount").mkdir()
    assert looks_unmounted(tmp_path / "mount")
    assert looks_unmounted(tmp_path / "mount" / "deep" / "repo")
    with monkeypatch.context() as mounted:
        # An empty disk is mounted there.
        mounted.setattr(type(tmp_path), "is_mount", lambda _self: True)
        assert not looks_unmounted(tmp_path / "mount")
    (tmp_path / "mount" / "other").write_bytes(b"")
    assert not looks_unmounted(tmp_path / "mount")
    assert not looks_unmounted(tmp_path / "mount" / "deep" / "repo")
