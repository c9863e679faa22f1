"""The mark by which a machine is known again."""

from __future__ import annotations

import pytest

from mlsync.source import machine
from mlsync.source.machine import machine_mark

ID = "3d1219c7c4c5404aaa1f6d2a48adfda4"
BOOT = "e30d5b3a-7a55-4b2f-9b0e-2a5f4a0d4c11"


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Files in place of the system's."""
    files = tmp_path / "machine-id", tmp_path / "boot_id"
    monkeypatch.setattr(machine, "ID_FILES", files)
    return files


def test_a_machine_has_one_mark(files):
    """It is the same at each call, is 16 bytes, and is not the system's id, which stays on the machine."""
    files[0].write_text(ID + "\n")
    files[1].write_text(BOOT + "\n")
    mark = machine_mark()
    assert (len(mark), mark) == (16, machine_mark())
    assert mark != bytes.fromhex(ID)
    files[1].write_text("another start")
    assert machine_mark() == mark
    files[0].write_text(ID.replace("3", "4"))
    assert machine_mark() != mark


@pytest.mark.parametrize("content", ["", "uninitialized\n", "0" * 32, "abc", "ü" * 32])
def test_without_an_id_the_start_of_the_kernel_counts(files, content):
    """Containers have no id of their own: what is the same until the host is started anew is better than nothing."""
    files[0].write_text(content)
    assert machine_mark() == b""
    files[1].write_text(BOOT + "\n")
    assert len(machine_mark()) == 16
