"""Full disks at the repository, at the local state, and where a restore writes to: real, small file systems."""

from __future__ import annotations

import os
import re
import subprocess
from contextlib import contextmanager

import pytest
from machine import NO_DEVICE, content


def mount(place, size_bytes):
    """A file system of that size is at *place*; skips where mounting is not allowed."""
    place.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", place],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")


@contextmanager
def small(place, size_bytes):
    """A small file system at *place*, with what was there."""
    before = content(place) if place.exists() else {}
    mount(place, size_bytes)
    try:
        for path, body in before.items():
            target = os.path.join(os.fsencode(place), path)
            os.makedirs(os.path.dirname(target), exist_ok=True, mode=0o700)
            with open(target, "wb") as file:
                file.write(body)
        yield
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def grow(place, size_bytes):
    """Somebody made room."""
    subprocess.run(["mount", "-o", f"remount,size={size_bytes}", place], check=True)


def test_full_repository(machine):
    """A full repository ends the backup with 74 and no version; what was there restores, and with room it goes on."""
    with small(machine.repository, 4 << 20):
        machine.good("backup")
        (machine.training / "big.bin").write_bytes(os.urandom(8 << 20))
        done = machine.run("backup")
        assert done.status == 74, done
        assert "full" in done.err
        assert str(machine.repository) in done.err
        assert "free some room" in done.err
        assert "prune" not in done.err  # no command does that
        assert [one["version"] for one in machine.good("versions", "--json").json()["versions"]] == [1]
        machine.good("restore", "--to", "one")
        machine.good("check", "--read-data")
        grow(machine.repository, 32 << 20)
        machine.good("backup")
        machine.good("restore", "--to", "two")
        assert content(machine.base / "two") == content(machine.training)


def test_full_repository_at_init(fresh):
    """``init`` where there is no room ends with 74, and leaves no configuration of a repository that is not there."""
    fresh.base.joinpath("disk").mkdir()
    with small(fresh.base / "disk", 4096):
        (fresh.base / "disk" / "filler").write_bytes(b"x" * 4096)
        done = fresh.run("init", fresh.base / "disk" / "repository")
        assert done.status == 74, done
        assert not fresh.configuration.exists()


def test_full_state(machine):
    """A full disk at the local state ends the backup with 80, names the place, and the next one with room is whole."""
    with small(machine.state, 1 << 16):
        (machine.state / "filler").write_bytes(b"x" * (1 << 16))
        done = machine.run("backup")
        assert done.status == 80, done
        assert str(machine.state) in done.err
        (machine.state / "filler").unlink()
        grow(machine.state, 1 << 22)
        machine.good("backup")
    machine.good("restore", "--to", "back")
    assert content(machine.base / "back") == content(machine.training)


def test_state_that_fills_up(machine):
    """A state that fills up while it is written costs no version that is committed and none that comes after."""
    for number in range(400):
        (machine.training / f"{number:03}.txt").write_text(str(number))
    with small(machine.state, 1 << 17):
        done = machine.run("backup")
        assert done.status in (0, 80), done
        assert "Traceback" not in done.err
        grow(machine.state, 1 << 23)
        machine.good("backup")
        machine.good("check", "--read-data")
    machine.good("restore", "--to", "back")
    assert content(machine.base / "back") == content(machine.training)


def test_full_target(machine):
    """A restore that does not fit ends with 61 before it writes, says how much is needed, and with room it is whole."""
    (machine.training / "big.bin").write_bytes(os.urandom(4 << 20))
    machine.good("backup")
    target = machine.base / "target"
    with small(target, 1 << 20):
        (target / "results.csv").write_text("mine\n")
        done = machine.run("restore", "--to", target)
        assert done.status == 61, done
        assert str(target) in done.err
        assert re.search(r"the restore needs 4,\d{3},\d{3} bytes, and [\d,]+ are free", " ".join(done.err.split()))
        assert "no file was changed" in done.err
        assert content(target) == {b"results.csv": b"mine\n"}
        grow(target, 8 << 20)
        machine.good("restore", "--to", target)
        assert content(target) == content(machine.training)


def test_read_only_repository(machine):
    """A repository on a read-only file system restores and checks; a backup ends with 72 and says why."""
    machine.good("backup")
    (machine.training / "args.yaml").write_text("lr0: 0.02\n")
    with small(machine.repository, 8 << 20):
        subprocess.run(["mount", "-o", "remount,ro", machine.repository], check=True)
        machine.good("restore", "--to", "back")
        machine.good("check", "--read-data")
        done = machine.run("backup")
        assert done.status == 72, done
        assert "read-only" in done.err


def test_read_only_target(machine):
    """A restore to a read-only place ends with 60 and names it."""
    machine.good("backup")
    target = machine.base / "target"
    with small(target, 1 << 20):
        subprocess.run(["mount", "-o", "remount,ro", target], check=True)
        done = machine.run("restore", "--to", target)
        assert done.status == 60, done
        assert str(target) in done.err
        assert "Read-only" in done.err or "read-only" in done.err


def test_damaged_state(saved):
    """A damaged local state ends the backup with 81, says that it may be deleted, and after that all goes on."""
    (saved.training / "own").write_text("1")
    saved.good("backup")
    database = next(saved.state.glob("*/state.sqlite"))
    database.write_bytes(b"no database" * 1000)
    done = saved.run("backup")
    if done.status != 0:
        assert done.status == 81, done
        assert str(database) in done.err
        assert "delete" in done.err
        database.unlink()
        saved.good("backup")
    saved.configure(NO_DEVICE)
    saved.good("restore", "--to", "back")
    assert content(saved.base / "back") == content(saved.training)
