"""Backups of directories that are not as one would wish, and restores of what they hold."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time

import pytest
from machine import NO_DEVICE, checkpoint, content

# Nothing is unreadable to root; for anybody else it is enough to be oneself.
OTHER_USER = 4321 if os.geteuid() == 0 else 0


def test_missing_directory(saved):
    """A directory that is not there ends the backup with 40, names it, and leaves the versions as they are."""
    before = content(saved.training)
    shutil.rmtree(saved.training)
    done = saved.run("backup")
    assert done.status == 40
    assert str(saved.training) in done.err
    saved.good("restore", "--to", "back")
    assert content(saved.base / "back") == before


def test_emptied_directory(saved):
    """A directory that became empty ends the backup with 43 and makes no version: a disk may not be mounted."""
    shutil.rmtree(saved.training)
    saved.training.mkdir()
    done = saved.run("backup")
    assert done.status == 43
    assert "version 2 stays the last one" in done.err
    assert "3" not in [version["version"] for version in saved.good("versions", "--json").json()["versions"]]


def test_most_checkpoints_gone(saved):
    """Checkpoints gone at once end the backup with 45; that it is meant is said by an option, and told by a restore."""
    for path in saved.training.rglob("*.pt"):
        path.unlink()
    (saved.training / "log.csv").write_bytes(b"a line")
    done = saved.run("backup")
    assert done.status == 45
    assert "is a disk not mounted? Version 2 stays the last one" in done.err
    done = saved.good("backup", "--accept-loss")
    assert "warning" in done.err
    done = saved.good("restore", "--to", "back")
    assert "warning" in done.err
    assert "version 3: most checkpoints are gone since version 2" in done.err
    assert "most checkpoints" not in saved.good("restore", "--version", "2", "--to", "older").err


def test_unfinished_files(saved):
    """Files named as unfinished are left out and named with -v and in JSON; a key of the configuration takes them."""
    (saved.training / "half.pt.part").write_bytes(b"1")
    (saved.training / "weights.tmp").write_bytes(b"2")
    done = saved.good("backup", "-v")
    assert "left out, as their names are those of unfinished files: half.pt.part, weights.tmp" in done.out
    assert "half.pt" not in saved.good("backup").out
    [run] = saved.good("backup", "--json").json()["runs"]
    assert (run["left_out_count"], run["left_out"]) == (2, ["half.pt.part", "weights.tmp"])
    said = [line for line in saved.good("show").out.splitlines() if "left out" in line]
    assert said == ["left out, if any: unfinished files, such as *.tmp and *.part"]
    saved.configure("keep_temporary = true\n" + NO_DEVICE)
    saved.good("backup")
    shown = saved.good("show").out
    assert "weights.tmp" in shown
    assert "left out" not in shown


def test_attributes_come_back_and_diff_shows_them(saved):
    """An attribute is restored, a changed one is why there is a version, and diff says so."""
    noted = saved.training / "noted.csv"
    noted.write_bytes(b"a line")
    try:
        os.setxattr(noted, "user.note", b"x")
    except OSError:
        pytest.skip("this file system has no such attributes")
    assert "extended attributes" not in saved.good("backup", "-v").err
    assert "1 extended attribute" in saved.good("show").out
    saved.good("restore", "--to", "back")
    assert os.getxattr(saved.base / "back" / "noted.csv", "user.note") == b"x"
    os.setxattr(noted, "user.note", b"y")
    assert "the extended attributes of noted.csv changed" in " ".join(saved.good("backup").out.split())
    assert "extended attributes changed" in saved.good("diff").out


STRANGE = (
    b"line\nbreak.csv",
    b"bytes-\xff\xfe.bin",
    b"n" * 255,
    "模型-épreuve.pt".encode(),
    b"-rf",
    b" ",
    b"back\\slash",
    b"esc\x1b[31m.txt",
    b"deep/" * 30 + b"file",
)


def test_strange_names(machine):
    """Names with line breaks, without UTF-8, of 255 bytes, and like options come back, and are shown on one line."""
    root = os.fsencode(machine.training)
    for number, name in enumerate(STRANGE):
        path = os.path.join(root, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(b"%d" % number)
    machine.good("backup")
    machine.good("restore", "--to", "back")
    assert content(machine.base / "back") == content(machine.training)
    shown = machine.good("show").out
    assert "line\\u000abreak.csv" in shown
    assert "bytes-\\xff\\xfe.bin" in shown
    assert "\x1b" not in shown
    assert {entry["path"] for entry in machine.good("show", "--json").json()["entries"]} >= {"line\\u000abreak.csv"}


def test_strange_names_one_by_one(machine):
    """A file with such a name can be asked for alone."""
    root = os.fsencode(machine.training)
    for name in STRANGE[:2]:
        with open(os.path.join(root, name), "wb") as file:
            file.write(name)
    machine.good("backup")
    for name in STRANGE[:2]:
        machine.good("restore", "--to", "one", os.fsdecode(name))
    assert content(machine.base / "one") == {name: name for name in STRANGE[:2]}


def test_odd_files(machine):
    """Empty files, links, hard links, holes and empty directories come back; a FIFO is no file and no fault."""
    train = machine.training
    (train / "empty").write_bytes(b"")
    (train / "nothing").mkdir()
    (train / "link").symlink_to("weights/last.pt")
    os.link(train / "args.yaml", train / "same.yaml")
    os.mkfifo(train / "pipe")
    with (train / "sparse").open("wb") as file:
        file.truncate(8 << 20)
    machine.good("backup")
    machine.good("restore", "--to", "back")
    back = machine.base / "back"
    assert content(back)[b"empty"] == b""
    assert content(back).get(b"sparse") == bytes(8 << 20)
    assert (back / "sparse").stat().st_blocks < 100
    assert os.readlink(back / "link") == "weights/last.pt"
    assert (back / "same.yaml").stat().st_ino == (back / "args.yaml").stat().st_ino
    assert (back / "nothing").is_dir()
    assert not (back / "pipe").exists()


def test_zero_byte_checkpoint(saved):
    """A checkpoint that was just cut to nothing is taken for one that is being written: its last content stands."""
    last = saved.training / "weights" / "last.pt"
    before = last.read_bytes()
    last.write_bytes(b"")
    done = saved.run("backup")
    assert done.status == 42
    assert "weights/last.pt: torn" in done.err
    saved.good("restore", "--to", "back")
    assert (saved.base / "back" / "weights" / "last.pt").read_bytes() == before


def test_unreadable_file(saved):
    """A file that cannot be read is named, keeps its last content, and gives 41; the rest is saved."""
    secret = saved.training / "results.csv"
    before = secret.read_bytes()
    secret.write_text("newer\n")
    secret.chmod(0o000)
    (saved.training / "args.yaml").write_text("lr0: 0.02\n")
    for path in (
        saved.base,
        saved.home,
        saved.repository,
        saved.state,
        *saved.repository.rglob("*"),
        *saved.state.rglob("*"),
    ):
        os.chown(path, OTHER_USER or -1, OTHER_USER or -1)
    os.chown(saved.configuration, OTHER_USER or -1, OTHER_USER or -1)
    for directory in saved.base.parents:
        if directory.stat().st_uid == 0 and not directory.stat().st_mode & 0o001:
            directory.chmod(directory.stat().st_mode | 0o011)
    done = saved.run("backup", uid=OTHER_USER)
    assert done.status == 41, done
    assert "results.csv: unreadable" in done.err
    assert "version 2's content is kept" in done.err
    # He, for root does not obey a configuration of his.
    saved.good("restore", "--to", "back", uid=OTHER_USER)
    assert (saved.base / "back" / "results.csv").read_bytes() == before
    assert (saved.base / "back" / "args.yaml").read_text() == "lr0: 0.02\n"


def with_a_flipped_bit(content: bytes) -> bytes:
    """The checkpoint with a tensor's byte damaged where its record has a checksum."""
    damaged = bytearray(content)
    damaged[len(content) // 2] ^= 1
    return bytes(damaged)


def test_broken_checkpoint(saved):
    """A checkpoint that does not load is named, keeps its last content, and gives 50; ``show`` says so too."""
    last = saved.training / "weights" / "last.pt"
    good = last.read_bytes()
    last.write_bytes(with_a_flipped_bit(good))
    (saved.training / "args.yaml").write_text("lr0: 0.02\n")
    done = saved.run("backup")
    assert done.status == 50, done
    assert "weights/last.pt" in done.err
    assert "version 2's content is kept" in done.err
    saved.good("restore", "--to", "back")
    assert (saved.base / "back" / "weights" / "last.pt").read_bytes() == good
    assert "weights/last.pt" in saved.good("versions").out
    assert "the content of version 2 is kept" in saved.good("show").out
    last.write_bytes(checkpoint(3))
    saved.good("backup")


def test_the_gravest_trouble_gives_the_status(saved):
    """Of a broken checkpoint and a torn one that are both named, the broken one decides the status."""
    weights = saved.training / "weights"
    good = (weights / "last.pt").read_bytes()
    (weights / "best.pt").write_bytes(good[: len(good) // 2])
    (weights / "last.pt").write_bytes(with_a_flipped_bit(good))
    done = saved.run("backup")
    assert "weights/best.pt: torn" in done.err
    assert "weights/last.pt: broken" in done.err
    assert done.status == 50


def test_checkpoint_that_was_never_whole(machine):
    """A torn checkpoint without an earlier version is left out and named; the rest is saved."""
    (machine.training / "weights" / "last.pt").write_bytes(checkpoint()[:-200])
    done = machine.run("backup")
    assert done.status == 42
    assert "no earlier content, left out" in done.err
    machine.good("restore", "--to", "back")
    assert sorted(content(machine.base / "back")) == [b"args.yaml", b"results.csv"]


def test_files_that_vanish(machine):
    """Files that are deleted while the backup reads cost no version: it holds each file whole or not at all."""
    many = machine.training / "many"
    many.mkdir()
    for number in range(300):
        (many / f"{number:03}").write_bytes(b"%03d" % number * 1000)
    stop = threading.Event()

    def churn():
        number = 0
        while not stop.is_set() and number < 300:
            (many / f"{number:03}").unlink()
            number += 1
            time.sleep(0.002)

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        done = machine.run("backup")
    finally:
        stop.set()
        thread.join()
    assert done.status in (0, 41, 42), done
    machine.good("restore", "--to", "back")
    back = content(machine.base / "back")
    assert back[b"args.yaml"] == (machine.training / "args.yaml").read_bytes()
    assert all(body == path[-3:] * 1000 for path, body in back.items() if path.startswith(b"many/"))


def test_one_failing_run_of_two(machine):
    """Of two runs, one that cannot be backed up does not keep the other from its version; the status is its error's."""
    machine.configure(f'[[watch]]\ndirectory = "{machine.base}/gone"\n' + NO_DEVICE)
    done = machine.run("backup")
    assert done.status == 40
    assert "yolo: version 1" in done.out
    assert "gone" in done.err


@pytest.mark.parametrize("require", [False, True])
def test_no_numpy(machine, require):
    """Without numpy the version is committed at L2 and pending, or waits with 59 if the configuration names a level."""
    bare = machine.base / "bare" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare.parent.parent], check=True)
    machine.configure(f'[proof]\npython = "{bare}"\n' + ("require = 3\n" if require else ""))
    done = machine.run("backup")
    if require:
        assert done.status == 59
        assert "numpy" in done.err
        assert str(bare) in done.err
        assert machine.good("versions").out == "no version yet\n"
        return
    assert done.status == 0, done
    assert "1 of them pending" in done.out
    assert "L2 (pending L3)" in machine.good("versions", COLUMNS="100").out
    assert "pending: weights/last.pt: The proof's Python has no numpy" in machine.good("show", COLUMNS="200").out
    machine.good("restore", "--to", "back")
    assert content(machine.base / "back") == content(machine.training)


def test_no_python_for_the_proof(machine):
    """A proof.python that is not there is named, and the files are safe all the same."""
    machine.configure('[proof]\npython = "/nonexistent/python"\n')
    done = machine.run("backup")
    assert done.status == 0, done
    assert "/nonexistent/python" in machine.good("show").out
    machine.good("restore", "--to", "back")
    assert content(machine.base / "back") == content(machine.training)


def test_no_gpu(saved):
    """``verify --device cuda`` without a GPU ends with 51 and says so; with cpu it proves."""
    saved.configure("")
    done = saved.run("verify", "--device", "cuda", CUDA_VISIBLE_DEVICES="")
    assert (done.status, done.out) == (51, "")
    assert "CUDA" in done.err
    done = saved.good("verify", "--device", "cpu", CUDA_VISIBLE_DEVICES="")
    assert "L4 cpu  weights/last.pt" in done.out


def test_verify_goes_by_the_configuration(saved):
    """``verify`` without --device proves where the configuration says, and with it where the command line says."""
    assert "L2     weights/last.pt" in saved.good("verify").out
    saved.configure('[proof]\ndevice = "cpu"\n')
    assert "L4 cpu  weights/last.pt" in saved.good("verify").out


def test_killed_restore_goes_on(saved):
    """A restore over what another one left is finished, and files that are right are left alone."""
    saved.good("restore", "--to", "back")
    back = saved.base / "back"
    (back / "results.csv").write_text("mine\n")
    (back / "extra").write_text("mine\n")
    untouched = (back / "weights" / "last.pt").stat().st_ino
    done = saved.good("restore", "--to", "back")
    assert "1 file written" in done.out
    assert "2 right already" in done.out
    assert (back / "weights" / "last.pt").stat().st_ino == untouched
    assert (back / "extra").exists()
    saved.good("restore", "--to", "back", "--delete")
    assert content(back) == content(saved.training)


def test_something_in_the_way(saved):
    """A directory where a file is to stand ends the restore with 60, is named, and is left as it is."""
    way = saved.base / "back" / "results.csv"
    (way / "precious").mkdir(parents=True)
    done = saved.run("restore", "--to", "back")
    assert done.status == 60, done
    assert "results.csv" in done.err
    assert (way / "precious").is_dir()


def test_times(saved):
    """A version can be named by a time: the last one made by then."""
    made = [version["made"] for version in saved.good("versions", "--json").json()["versions"]]
    assert [saved.good("show", text, "--json").json()["version"] for text in made] == [1, 2]
    listed = saved.good("versions").out.splitlines()[3].split()[1:3]
    assert saved.good("show", " ".join(listed), "--json").json()["version"] == 2
    assert saved.good("show", "2100-01-01", "--json").json()["version"] == 2


def test_delete_heeds_the_configuration_and_asks(saved):
    """``--delete`` spares what the configuration excludes, and wants ``--yes`` for much that no restore made."""
    saved.configure('exclude = ["cache/"]\n[proof]\ndevice = "none"\n')
    out = saved.base / "out"
    (out / "cache").mkdir(parents=True)
    for name in ("cache/kept", "one", "two"):
        (out / name).write_text("mine")
    done = saved.run("restore", "--to", "out", "--delete")
    assert done.status == 63, done
    assert "2 of the 2 files" in done.err
    assert sorted(path.name for path in out.iterdir()) == ["cache", "one", "two"]
    saved.good("restore", "--to", "out", "--delete", "--yes")
    assert content(out) == content(saved.training) | {b"cache/kept": b"mine"}
    saved.good("restore", "--to", "out", "--delete", "--delete-excluded", "--yes")
    assert content(out) == content(saved.training)


def test_models_that_are_not_understood(saved):
    """They are named on stderr once, by show and in JSON each time, and not at all if the configuration says so."""
    (saved.training / "net.pdparams").write_bytes(os.urandom(2000))
    line = "1 file looks like a model and is not understood: stored, not proved (net.pdparams)"
    assert line in saved.good("backup").err
    assert line in saved.good("show", COLUMNS="100").out
    assert saved.good("show", "--json").json()["not_understood"] == ["net.pdparams"]
    (saved.training / "net.pdparams").write_bytes(os.urandom(2000))
    done = saved.good("backup", "--json")
    assert line not in done.err
    [run] = done.json()["runs"]
    assert (run["not_understood_count"], run["not_understood"]) == (1, ["net.pdparams"])
    saved.configure('not_models = ["*.pdparams"]\n' + NO_DEVICE)
    assert "looks like" not in saved.good("show").out
