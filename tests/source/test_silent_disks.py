"""Which file systems report every change."""

from __future__ import annotations

from mlsync.source import silent_disks
from mlsync.source.silent_disks import silent_kind


def test_the_kernel_says_what_a_directory_is_on(tmp_path, monkeypatch):
    """A local disk reports all; the type that the kernel gives decides; what is not there has none."""
    assert silent_kind(tmp_path) is None
    monkeypatch.setattr(silent_disks, "_SILENT", {0x9FA0: "processes"})
    assert silent_kind("/proc") == "processes"
    assert silent_kind(tmp_path) is None
    assert silent_kind(tmp_path / "gone") is None
