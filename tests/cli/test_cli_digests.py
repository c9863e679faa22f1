"""``show --digests``: lines by which ``b3sum`` compares a directory with a version."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from blake3 import blake3

from mlsync.cli.reports.digest_lines import check_line

ODD = ("plain.txt", "two\nlines", "back\\slash", "car\rriage", " blank ", "ünïcode", "\\", "tab\there")


@pytest.fixture
def odd(machine):
    """A run with odd names, links, an empty file, and sparse files: of a short hole and of a long one."""
    for number, name in enumerate(ODD):
        (machine.training / name).write_text(f"content {number}\n")
    (machine.training / "empty").touch()
    (machine.training / "sub").mkdir()
    (machine.training / "sub" / "hard").hardlink_to(machine.training / "plain.txt")
    (machine.training / "soft").symlink_to("plain.txt")
    Path(os.fsdecode(os.fsencode(machine.training) + b"/not-\xff")).write_bytes(b"x")
    for name, hole_bytes in (("short.bin", 1 << 20), ("long.bin", 1 << 40)):
        with (machine.training / name).open("wb") as file:
            file.write(b"x" * 4096)
            file.truncate(4096 + hole_bytes)
    machine.good("backup")
    return machine


def read(lines):
    """What a reader of such a list makes of it: digests by name."""
    found = {}
    for line in lines.splitlines():
        digest, blanks, name = line.removeprefix("\\").partition("  ")
        assert (len(digest), blanks) == (64, "  ")
        if line.startswith("\\"):
            name = name.replace("\\\\", "\0").replace("\\n", "\n").replace("\\r", "\r").replace("\0", "\\")
        found[name] = digest
    return found


def test_the_digests_are_those_of_the_files(odd):
    """Each file and further name has the BLAKE3 of its bytes, holes as zeros; who has none is named on stderr."""
    done = odd.good("show", "--digests")
    found = read(done.out)
    short = blake3(b"x" * 4096 + bytes(1 << 20)).hexdigest()
    assert found.pop("short.bin") == short
    names = {os.path.relpath(path, odd.training): path for path in odd.training.rglob("*") if path.is_file()}
    names = {name: path for name, path in names.items() if name.isprintable() or name in ODD}
    wanted = {n: blake3(p.read_bytes()).hexdigest() for n, p in names.items() if n not in ("soft", "long.bin")}
    wanted.pop("short.bin")
    assert found == wanted
    assert found["sub/hard"] == found["plain.txt"]
    assert "1 file with holes that are too long to hash: long.bin" in done.err
    assert "1 file with a name that is no UTF-8, which b3sum does not read: not-\\xff" in done.err
    entries = {entry["path"]: entry["blake3"] for entry in odd.good("show", "--json", "--digests").json()["entries"]}
    assert entries["short.bin"] == short
    assert entries["long.bin"] is entries["sub"] is entries["soft"] is entries["sub/hard"] is None


def test_b3sum_reads_the_digests_in_the_restored_directory(odd):
    """``b3sum --check`` finds every file of a restored directory right, and one that was changed wrong."""
    if shutil.which("b3sum") is None:
        pytest.skip("b3sum is not installed")
    place, lines = odd.base / "restored", odd.base / "digests"
    # Older releases of b3sum know no escape for a carriage return.
    kept = [line for line in odd.good("show", "--digests").out.splitlines() if "riage" not in line]
    lines.write_text("\n".join(kept) + "\n")
    odd.good("restore", "--to", place)
    assert subprocess.run(["b3sum", "--check", lines], cwd=place, check=False, capture_output=True).returncode == 0
    (place / "back\\slash").write_text("other\n")
    done = subprocess.run(["b3sum", "--check", lines], cwd=place, check=False, capture_output=True)
    assert (done.returncode, done.stdout.count(b"FAILED")) == (1, 1)


def test_names_are_escaped_as_coreutils_reads_them(tmp_path):
    """``sha256sum --check``, which reads lines of the same form, finds the file of every odd name."""
    if shutil.which("sha256sum") is None:
        pytest.skip("sha256sum is not installed")
    lines = []
    for name in ODD:
        (tmp_path / name).write_text(name)
        lines.append(check_line(hashlib.sha256(name.encode()).hexdigest(), name))
    said = subprocess.run(
        ["sha256sum", "--check", "--strict"],
        cwd=tmp_path,
        input="\n".join(lines).encode(),
        check=True,
        capture_output=True,
    )
    assert said.stdout.count(b": OK\n") == len(ODD)
