"""The checks that need no store: bounds of time, room, watches, files, and what proofs are made with."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from mlsync.doctor import inotify, readable
from mlsync.doctor.device import device_found
from mlsync.doctor.findings import Check, Diagnosis, Grade, examine
from mlsync.doctor.mounts import Mount
from mlsync.doctor.pressure import diagnose_pressure
from mlsync.doctor.readable import diagnose_readable
from mlsync.doctor.room import room_at
from mlsync.errors import StoreUnavailable


def test_no_check_stops_the_others():
    """One that hangs, one that raises and one with a fault of its own are unknown, and the rest is there in order."""
    gate = threading.Event()

    def hangs():
        yield Diagnosis("a", Grade.FINE, "seen before it hung")
        gate.wait()

    def away():
        raise StoreUnavailable("the store is away")

    def faulty():
        raise ZeroDivisionError("by zero")

    late = Diagnosis("f", Grade.GRAVE, "too late")
    checks = [Check("a", hangs, 0.05), Check("b", away), Check("c", faulty), Check("d", list)]
    checks.append(Check("e", lambda: [Diagnosis("e", Grade.GRAVE, "grave")]))
    checks.append(Check("f", lambda: iter(gate.wait, True), 0.05, late))
    found = examine(checks)
    gate.set()
    assert [(one.subject, one.grade) for one in found] == [
        ("a", Grade.FINE),
        ("a", Grade.UNKNOWN),
        ("b", Grade.UNKNOWN),
        ("c", Grade.UNKNOWN),
        ("e", Grade.GRAVE),
        ("f", Grade.GRAVE),
    ]
    said = " ".join(one.what for one in found)
    assert all(word in said for word in ("within 0.05 s", "the store is away", "ZeroDivisionError: by zero"))


@pytest.mark.parametrize(
    ("free_blocks", "free_inodes", "grade"),
    [
        (10 << 20, 10**6, Grade.FINE),
        (1 << 20, 10**6, Grade.WARNING),
        (100, 10**6, Grade.GRAVE),
        (10 << 20, 9, Grade.WARNING),
    ],
)
def test_room_is_graded_by_what_is_free_for_this_user(tmp_path, free_blocks, free_inodes, grade):
    """Little room or few inodes are a warning, no room is grave; a directory that is not there yet is judged too."""
    asked = []

    def look(place):
        asked.append(place)
        return SimpleNamespace(f_bavail=free_blocks, f_frsize=4096, f_files=10**6, f_favail=free_inodes)

    assert room_at(tmp_path / "not/yet", "room", 5 << 30, look=look).grade is grade
    assert asked == [tmp_path]


def test_a_file_system_without_inodes_has_room(tmp_path):
    """Where no inodes are counted, as on btrfs, their number says nothing."""
    found = SimpleNamespace(f_bavail=10 << 20, f_frsize=4096, f_files=0, f_favail=0)
    assert room_at(tmp_path, "room", 1, look=lambda _: found).grade is Grade.FINE


def proc(base: Path, *processes: int) -> Path:
    """A /proc with limits of 100 watches and 2 instances, and a process for each number of watches."""
    limits = base / "sys/fs/inotify"
    limits.mkdir(parents=True)
    (limits / "max_user_watches").write_text("100\n")
    (limits / "max_user_instances").write_text("2\n")
    for number, watches in enumerate(processes, 1):
        (base / f"{number}/fdinfo").mkdir(parents=True)
        lines = "".join(f"inotify wd:{one} ino:1 sdev:1\n" for one in range(watches))
        (base / f"{number}/fdinfo/3").write_text(f"pos: 0\n{lines}")
    return base


def test_watches_in_use_are_those_of_this_users_processes(tmp_path):
    """Each descriptor's list of watches is counted, whatever else is in /proc."""
    (tmp_path / "self").mkdir()
    found = inotify.limits(proc(tmp_path, 90, 0, 5), os.geteuid())
    assert (found.watches, found.used_watches, found.used_instances) == (100, 95, 2)
    assert inotify.limits(tmp_path, os.geteuid() + 1).used_watches == 0


@pytest.mark.parametrize(
    ("needed", "used", "instances", "grade"),
    [(5, 95, 1, Grade.FINE), (6, 95, 1, Grade.WARNING), (5, 0, 2, Grade.WARNING)],
)
def test_watches_that_do_not_fit_are_a_warning(needed, used, instances, grade):
    """Too few watches or no instance is told with the line that raises the limits."""
    (found,) = inotify.diagnose_inotify(needed, inotify.Limits(100, 2, used, instances))
    assert found.grade is grade
    assert ("sysctl -w" in found.advice) is (grade is Grade.WARNING)


def test_a_network_file_system_reports_not_all(tmp_path):
    """Below NFS rescans find what other machines change, and a local file system says nothing."""
    for kind, count in (("nfs4", 1), ("fuse.sshfs", 1), ("ext4", 0)):
        assert len(list(inotify.diagnose_events(tmp_path, [Mount("/", kind, "x", "0:1")]))) == count


def test_directories_are_counted_to_a_bound(tmp_path):
    """Each directory needs a watch; the counting ends at the most."""
    for name in ("a/b", "c"):
        (tmp_path / name).mkdir(parents=True)
    assert inotify.count_directories(tmp_path) == 4
    assert inotify.count_directories(tmp_path, 2) == 2


def test_files_that_cannot_be_read_are_grave_and_named(tmp_path, monkeypatch):
    """A file without the right to read is named; links that lead nowhere and names that are no UTF-8 are no fault."""
    (tmp_path / "last.pt").write_bytes(b"x")
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / os.fsdecode(b"\xff.pt")).write_bytes(b"x")
    assert [one.grade for one in diagnose_readable(tmp_path, "yolo")] == [Grade.FINE]
    # Root may read everything: what the kernel would say to others is said in its place.
    monkeypatch.setattr(readable.os, "access", lambda path, _mode, **_more: not path.endswith(b"last.pt"))
    (found,) = diagnose_readable(tmp_path, "yolo")
    assert found.grade is Grade.GRAVE
    assert "last.pt" in found.what


def test_a_directory_that_is_not_there_yet_is_a_warning(tmp_path):
    """A missing directory may come; a file in its place is grave."""
    (tmp_path / "file").touch()
    assert [one.grade for one in diagnose_readable(tmp_path / "none", "yolo")] == [Grade.WARNING]
    assert [one.grade for one in diagnose_readable(tmp_path / "file", "yolo")] == [Grade.GRAVE]


def test_many_files_are_not_all_looked_at(tmp_path):
    """Beyond the most the rest is unknown, and what was seen counts."""
    for number in range(4):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}/x").touch()
    assert [one.grade for one in diagnose_readable(tmp_path, "yolo", 2)] == [Grade.UNKNOWN, Grade.FINE]


PYTHON = {"python": "3.12.1", "numpy": True, "has_torch": True, "torch": "2.9.0", "cuda": "12.8", "gpus": 2}


@pytest.mark.parametrize(
    ("device", "answers", "no_gpu", "grades"),
    [
        ("auto", PYTHON, "", [Grade.FINE]),
        ("auto", PYTHON | {"gpus": 0}, "", [Grade.WARNING]),
        ("cuda:0", PYTHON | {"gpus": 0}, "", [Grade.GRAVE]),
        ("auto", {"python": "3", "numpy": True, "has_torch": False}, "", [Grade.WARNING]),
        ("auto", {"python": "3", "numpy": True, "has_torch": True}, "", [Grade.UNKNOWN]),
        ("auto", PYTHON, "no GPU is here", [Grade.FINE]),
        ("cuda", PYTHON, "no GPU is here", [Grade.GRAVE]),
        ("cpu", PYTHON | {"numpy": False}, "", [Grade.WARNING, Grade.FINE]),
        ("auto", "it cannot be started: No such file or directory", "", [Grade.GRAVE]),
    ],
)
def test_what_proofs_are_made_with(device, answers, no_gpu, grades):
    """A GPU that proofs cannot use is a warning, and grave where the configuration asks for one."""
    assert [one.grade for one in device_found(device, "/opt/python", answers, no_gpu)] == grades


def test_a_kernel_without_pressure_is_fine_and_said(tmp_path):
    """What mlsync then does without is named; where the kernel tells, the place is."""
    (absent,) = diagnose_pressure({"disk": tmp_path / "io", "memory": tmp_path / "memory"})
    assert (absent.grade, "priority alone" in absent.means) == (Grade.FINE, True)
    (tmp_path / "io.pressure").write_text("some avg10=1.00 avg60=0.00 avg300=0.00 total=5\n")
    (found,) = diagnose_pressure({"disk": tmp_path / "io.pressure"})
    assert (found.grade, found.means) == (Grade.FINE, "")
    assert str(tmp_path / "io.pressure") in found.what
