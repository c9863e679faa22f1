"""Commands against repositories that are missing, foreign, damaged, locked or out of reach."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time

import pytest
from machine import MLSYNC, content, write_training

COMMANDS = (
    ["backup"],
    ["agent"],
    ["versions"],
    ["show"],
    ["restore", "--to", "out"],
    ["verify"],
    ["check"],
)


def is_whole(machine, *, version=2):
    """Whether the version comes back as the training directory was."""
    out = machine.base / "whole"
    machine.good("restore", "--version", version, "--to", out)
    return content(out) == content(machine.training)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_no_repository(fresh, command):
    """Where there is no repository every command ends with 10, says where it looked and what makes one."""
    write_training(fresh.training)
    fresh.configure()
    done = fresh.run(*command)
    assert (done.status, done.out) == (10, "")
    assert str(fresh.repository) in done.err
    assert "mlsync init" in done.err
    assert not fresh.repository.exists()


def test_no_repository_before_a_passphrase_is_wanted(fresh):
    """That there is no repository is said before anybody is asked for a passphrase."""
    done = fresh.run("versions", "--repo", fresh.url, CREDENTIALS_DIRECTORY="")
    assert done.status == 10


def test_init_makes_the_repository_that_a_configuration_names(fresh):
    """Without a URL ``mlsync init`` makes what the configuration names, as the messages advise, and changes no file."""
    write_training(fresh.training)
    fresh.configure()
    before = fresh.configuration.read_bytes()
    for option, value in (("--watch", fresh.training), ("--endpoint-url", "http://127.0.0.1")):
        done = fresh.run("init", option, value)
        assert (done.status, str(fresh.configuration) in done.err) == (2, True)
        assert not fresh.repository.exists()
    fresh.good("init")
    assert fresh.configuration.read_bytes() == before
    fresh.good("backup")
    assert fresh.run("init").status == 11


def test_init_refuses_a_repository(saved):
    """``mlsync init`` on a repository ends with 11, says so, writes no configuration, and leaves all as it was."""
    before = content(saved.repository)
    other = saved.base / "other.toml"
    done = saved.run("init", saved.url, "--config", other)
    assert done.status == 11
    assert "there is a repository already" in done.err
    assert saved.url in done.err
    assert not other.exists()
    assert content(saved.repository) == before


def test_init_refuses_a_configuration(saved, tmp_path):
    """``mlsync init`` over a configuration ends with 2, names it, makes no repository, and leaves it as it was."""
    before = saved.configuration.read_bytes()
    done = saved.run("init", tmp_path / "another")
    assert done.status == 2
    assert f"there is a configuration already: {saved.configuration}" in done.err
    assert saved.configuration.read_bytes() == before
    assert not (tmp_path / "another").exists()


def test_newer_header(saved):
    """A repository of a newer format ends every command with 12 and says that mlsync is to be upgraded."""
    header = saved.object("repository")
    original = header.read_bytes()
    text = original.decode("latin-1")
    newer = re.sub(r'("format": ?)1\b', r"\g<1>2", text)
    assert newer != text
    header.chmod(0o600)
    header.write_bytes(newer.encode("latin-1"))
    for command in COMMANDS:
        done = saved.run(*command)
        assert done.status == 12, (command, done)
        assert "format" in done.err
        assert "upgrade mlsync" in done.err
    header.write_bytes(original)
    assert is_whole(saved)


def test_newer_manifest(saved):
    """A version of a newer format is named by ``check`` and refused by its number; the version before it restores."""
    manifest = saved.object("versions/*/*", 1)
    change(manifest, lambda body: body[:8] + bytes([body[8] + 1]) + body[9:])
    done = saved.run("restore", "--version", 2, "--to", "out")
    assert done.status == 12, done
    assert manifest.name in done.err
    checked = saved.run("check")
    assert checked.status == 12
    assert f"{manifest.name}: newer, not checked: format 2" in checked.out
    assert "no problem, 1 object not checked" in checked.out
    saved.good("restore", "--version", 1, "--to", "one")


def test_odd_names(saved):
    """A copy of a manifest beside it is told of, and is no problem."""
    manifest = saved.object("versions/*/*", 1)
    manifest.with_name(f"{manifest.name}.bak").write_bytes(manifest.read_bytes())
    checked = saved.good("check")
    assert "looks like the manifest of version 2 with '.bak' after its name" in checked.out
    assert checked.out.endswith("no problem\n")


def change(path, how):
    """The object holds something else."""
    path.chmod(0o600)
    body = how(path.read_bytes())
    path.unlink()
    path.write_bytes(body)


def flipped(body):
    """One bit in the middle is another."""
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]


def biggest_pack(machine):
    """The pack that holds the checkpoint."""
    return max(machine.repository.glob("packs/*/*"), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize(
    ("damage", "status", "checked_without_data"),
    [
        (lambda pack: change(pack, flipped), 31, False),
        (lambda pack: change(pack, lambda body: body[: len(body) // 2]), 31, True),
        (lambda pack: pack.unlink(), 30, True),
    ],
    ids=["damaged", "truncated", "missing"],
)
def test_spoilt_pack(saved, damage, status, checked_without_data):
    """A damaged, truncated or missing pack is named, with both versions it touches, and costs no other file."""
    pack = biggest_pack(saved)
    damage(pack)
    name = str(pack.relative_to(saved.repository))
    for command in (["restore", "--to", "out"], ["verify"]):
        done = saved.run(*command)
        assert done.status == status, done
        assert name in done.err
    assert not (saved.base / "out" / "weights" / "last.pt").exists()
    done = saved.run("check", "--read-data")
    assert done.status == 33
    assert name in done.out
    assert "yolo/1, yolo/2" in done.out
    assert (saved.run("check").status == 33) is checked_without_data
    saved.good("restore", "results.csv", "--to", "log")
    assert (saved.base / "log" / "results.csv").read_bytes() == (saved.training / "results.csv").read_bytes()


def test_swapped_packs(saved):
    """Two packs that changed places are both named by ``check``, and neither is restored from."""
    one, two = sorted(saved.repository.glob("packs/*/*"), key=lambda path: path.stat().st_size)[-2:]
    first, second = one.read_bytes(), two.read_bytes()
    change(one, lambda _: second)
    change(two, lambda _: first)
    assert saved.run("restore", "--to", "out").status == 31
    done = saved.run("check", "--read-data")
    assert done.status == 33
    assert all(str(pack.relative_to(saved.repository)) in done.out for pack in (one, two))


def test_the_next_backup_stores_again_what_was_lost(saved):
    """A backup after a pack was lost names it, stores again what the directory holds, and is whole."""
    pack = biggest_pack(saved)
    pack.unlink()
    (saved.training / "results.csv").write_text("epoch,loss\n1,0.5\n2,0.25\n3,0.1\n")
    done = saved.good("backup")
    assert pack.name in done.err
    assert "stored again" in done.err
    assert is_whole(saved, version=3)


def test_swapped_versions(saved):
    """Two versions that changed places are found out by ``check`` and ``restore``."""
    one, two = saved.object("versions/*/*", 0), saved.object("versions/*/*", 1)
    first, second = one.read_bytes(), two.read_bytes()
    change(one, lambda _: second)
    change(two, lambda _: first)
    assert saved.run("restore", "--to", "out").status == 32
    done = saved.run("check")
    assert done.status == 33
    assert one.name in done.out
    assert two.name in done.out


def test_spoilt_version(saved):
    """A damaged version is named; the others restore."""
    change(saved.object("versions/*/*", 1), flipped)
    done = saved.run("restore", "--to", "out")
    assert done.status == 16
    assert "0000000002" in done.err
    assert saved.run("restore", "--version", 2, "--to", "out").status == 32
    assert "0000000002" in saved.run("check").out
    done = saved.good("restore", "--version", 1, "--to", "one")
    assert "0000000002 is skipped" in done.err


def test_missing_first_version(saved):
    """A version that is gone from the history is named by ``check``; the others restore."""
    saved.object("versions/*/*", 0).unlink()
    done = saved.run("check")
    assert done.status == 33
    assert "0000000001: the manifest is missing" in done.out
    assert is_whole(saved)


def test_history_that_shrank(saved):
    """A store that hides the last version stops the backup with 16, which says what to do."""
    saved.object("versions/*/*", 1).unlink()
    done = saved.run("backup")
    assert done.status == 16
    assert "version 2" in done.err
    assert "delete the local state" in done.err
    saved.good("restore", "--to", "one", "--accept-rollback")


def test_spoilt_key_slot(saved):
    """A damaged key slot is named; nothing else was touched, so a copy of it opens everything again."""
    slot = saved.object("keys/*")
    copy = slot.read_bytes()
    change(slot, lambda body: body[: len(body) // 2])
    done = saved.run("versions")
    assert done.status == 22
    assert slot.name in done.err
    change(slot, lambda _: copy)
    assert is_whole(saved)


def test_missing_key_slots(saved):
    """A repository whose key slots are all gone is not taken for a wrong passphrase."""
    shutil.rmtree(saved.repository / "keys")
    done = saved.run("versions")
    assert done.status == 30
    assert "no key slot" in done.err


def test_no_store(fresh):
    """A store that refuses connections is said to be away within seconds, with its address, and the status is 73."""
    began = time.monotonic()
    done = fresh.run(
        "versions", "--repo", "s3://bucket/x", "--endpoint-url", "http://127.0.0.1:9",
        AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY="b",
    )  # fmt: skip
    assert done.status == 73
    assert "127.0.0.1:9" in done.err
    assert "Traceback" not in done.err
    # Not a measurement: a minute, which the retries of work under way may take, would be a hang to a person.
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("url", "status", "words"),
    [
        ("gopher://x/y", 2, '"file:///directory" or "s3://bucket/prefix"'),
        ("repository", 10, "/repository"),
        ("s3://key:secret@bucket/x", 2, "without credentials"),
        ("file://elsewhere/directory", 2, "file:///directory"),
        ("s3://b/x", 75, "not a bucket and prefix"),
        ("~nobody-of-that-name/x", 2, "the home directory of ~nobody-of-that-name is not known"),
    ],
)
def test_places_that_are_none(fresh, url, status, words):
    """A URL that names no store is refused in words that say how one is written."""
    done = fresh.run("versions", "--repo", url)
    assert (done.status, done.out) == (status, "")
    assert words in done.err
    assert "secret" not in done.err


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["show", "9"], 15, "no version 9, only 1 to 2"),
        (["show", "soon"], 15, "no version of run 'yolo' is pinned"),
        (["show", "2001-01-01"], 15, "no version as old as 2001-01-01"),
        (["show", "--run", "other"], 14, "there are: yolo"),
        (["versions", "other"], 14, "there are: yolo"),
        (["restore", "--to", "out", "weights/none.pt"], 19, "weights/none.pt"),
        (["restore", "--to", "out", "../../etc/passwd"], 19, "../../etc/passwd"),
        (["restore", "--to", "out", "--delete", "args.yaml"], 2, "--delete"),
        (["backup", "other"], 2, "there are: yolo"),
        (["verify", "--device", "tpu"], 2, "'tpu' is not one of"),
    ],
)
def test_what_is_not_there(saved, arguments, status, words):
    """What is asked for and not there is named, with what there is instead."""
    done = saved.run(*arguments)
    assert (done.status, done.out) == (status, ""), done
    assert words in done.err
    assert not (saved.base / "out").exists()


def test_no_version_yet(machine):
    """A repository without a version is no error to look at, and one to restore from."""
    assert machine.good("versions").out == "no version yet\n"
    assert machine.good("check").out.endswith("no problem\n")
    done = machine.run("restore", "--to", "out")
    assert done.status == 14
    assert "holds no version yet" in done.err


def test_two_at_one_run(machine):
    """A second agent or backup on a run says who has it and ends with 13, and the first one goes on."""
    first = subprocess.Popen(
        [MLSYNC, "agent", "--quickly"],
        env=machine.environment(),
        stderr=subprocess.PIPE,
        text=True,
        cwd=machine.base,
        start_new_session=True,
    )
    try:
        assert first.stderr is not None
        assert f"yolo: watching {machine.training} for {machine.url}" in first.stderr.readline()
        # Between them is what it says of this machine's disks and of the key slots.
        while "version 1" not in (said := first.stderr.readline()):
            assert said
        for command in (["backup"], ["agent"]):
            done = machine.run(*command)
            assert done.status == 13, done
            assert f"process {first.pid}" in done.err
            assert "yolo" in done.err
        assert first.poll() is None
    finally:
        first.send_signal(signal.SIGTERM)
        assert first.wait(30) == 0
        first.stderr.close()
    assert machine.good("backup").out.startswith("yolo: nothing changed")
