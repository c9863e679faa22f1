"""``mlsync key``: what opens the repository is listed, added, changed and removed, and nobody is locked out."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
from keyboard import Terminal

from command_client import KEY

OTHER = "another passphrase"
TEXT = re.compile(r"([0-9A-Z]{5}-){4}[0-9A-Z]{5}\n +([0-9A-Z]{5}-){4}[0-9A-Z]{5}\n +([0-9A-Z]{5}-){2}[0-9A-Z]{5}")


@pytest.fixture
def files(saved):
    """The machine's key in a file, and files with a new passphrase and a new key."""
    for name, content in (("key", KEY), ("new", OTHER.encode() + b"\n"), ("new-key", bytes(40))):
        (saved.base / name).write_bytes(content)
        (saved.base / name).chmod(0o600)
    return saved


def as_other(machine, *arguments):
    """Run a command with the new passphrase."""
    return machine.run(*arguments, "--passphrase-file", machine.base / "new")


def test_the_slots_are_listed(saved):
    """The list has the id, the kind, the moment, and says which one was used; JSON has the same."""
    (slot,) = saved.good("key", "list", "--json").json()["slots"]
    assert (slot["kind"], slot["is_used"], slot["trouble"], slot["memory_kib"]) == ("key-file", True, None, 0)
    head, line = saved.good("key", "list").out.splitlines()
    assert head.split()[:3] == ["ID", "KIND", "EPOCH"]
    assert line.startswith(f"{slot['id'][:8]}  key file  ")
    assert line.endswith("  opened the repository just now")


def test_an_added_passphrase_opens(files):
    """After add both open, and the table says which one did."""
    done = files.good("key", "add", "--new-passphrase-file", "new")
    assert re.fullmatch(r"added    [0-9a-f]{8}  passphrase; the repository opened with it\n", done.out)
    files.good("versions")
    listed = as_other(files, "key", "list", "--json").json()["slots"]
    assert [(one["kind"], one["is_used"]) for one in listed] == [("key-file", False), ("passphrase", True)]


def test_a_recovery_key_opens_where_a_passphrase_is_asked_for(files):
    """The recovery key is shown once, in lines that fit on paper, and opens the repository on a fresh machine."""
    out = files.good("key", "add", "--recovery").out
    text = "".join(TEXT.search(out)[0].split())
    assert "shown only now" in out
    assert all(len(line) <= 80 for line in out.splitlines())
    typed = "-".join(re.findall(".{5}", text.replace("-", ""))).lower()
    shown = files.good("versions", "--repo", files.url, MLSYNC_PASSPHRASE=typed)
    assert "yolo" in shown.out
    wrong = files.run("versions", MLSYNC_PASSPHRASE=typed[:6] + ("a" if typed[6] != "a" else "b") + typed[7:])
    assert wrong.status == 21
    assert "a mistake in group 2 of 13: MLSYNC_PASSPHRASE (compare each letter with the paper)" in wrong.err
    assert files.good("key", "list").out.count("recovery key") == 1


def test_json_has_the_recovery_key(files):
    """A program that prints the paper gets the key as one line."""
    done = files.good("key", "add", "--recovery", "--json").json()
    assert done["removed"] is None
    assert files.good("versions", MLSYNC_PASSPHRASE=done["recovery_key"]).out


def test_a_change_locks_the_old_one_out(files):
    """After change the new passphrase opens, and the key that opened before opens nothing."""
    done = files.good("key", "change", "--new-passphrase-file", "new")
    added, removed = done.out.splitlines()
    assert added.startswith("added    ")
    assert removed.startswith("removed  ")
    assert files.run("versions").status == 21
    assert as_other(files, "backup").status == 0
    assert as_other(files, "check").status == 0


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_two_changes_at_once_are_told(files, options):
    """A change during which another process changed the same slot names that one's slot, and what removes it."""
    terminal = Terminal(files, "key", "change", *options, COLUMNS="80")
    terminal.expect("New passphrase: ")
    theirs = files.good("key", "change", "--new-key-file", "new-key", "--json").json()
    assert theirs["added_by_others"] == []
    terminal.type("tip top hat\n")
    terminal.expect("again: ")
    terminal.type("tip top hat\n")
    status, shown = terminal.end()
    assert status == 0, shown
    words = " ".join(shown.split())
    slot_id = theirs["added"]
    moment = r"20[0-9]{2}-[0-9]{2}-[0-9]{2} [0-9:]{8} [A-Z]+;"
    warning = f"warning: somebody else added key slot {slot_id[:8]} during the change, at {moment}"
    assert re.search(warning, words), words
    assert f"mlsync key remove {slot_id[:8]}" in words
    assert f"somebody else removed the old key slot {theirs['removed'][:8]} first" in words
    assert all(len(line) <= 80 for line in shown.splitlines() if not line.startswith("{"))
    if options:
        mine = json.loads(next(line for line in shown.splitlines() if line.startswith("{")))
        assert (mine["removed"], [one["id"] for one in mine["added_by_others"]]) == (None, [slot_id])
    assert files.run("versions").status == 21
    files.good("versions", "--key-file", "new-key")
    files.good("key", "remove", slot_id[:8], MLSYNC_PASSPHRASE="tip top hat")
    assert files.run("versions", "--key-file", "new-key").status == 21


def test_a_slot_is_removed_by_the_start_of_its_id(files):
    """Eight characters of the id are enough; after that its passphrase opens nothing."""
    slot_id = files.good("key", "add", "--new-passphrase-file", "new", "--json").json()["added"]
    assert files.good("key", "remove", slot_id[:8]).out == f"removed  {slot_id[:8]}\n"
    assert as_other(files, "versions").status == 21
    again = files.run("key", "remove", slot_id[:8])
    assert again.status == 24
    assert "there is no key slot" in again.err


def test_the_slot_in_use_stays(files):
    """What opened the repository is not removed, and the message says what does it."""
    (slot,) = files.good("key", "list", "--json").json()["slots"]
    done = files.run("key", "remove", slot["id"])
    assert done.status == 25
    assert "mlsync key change" in done.err
    files.good("versions")


def test_what_opens_already_is_not_added(files):
    """The same key a second time is refused with 25, and changes nothing."""
    for command in ("add", "change"):
        done = files.run("key", command, "--new-key-file", "key")
        assert done.status == 25
        assert "already; nothing was added" in done.err
    assert len(files.good("key", "list", "--json").json()["slots"]) == 1


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--new-passphrase-file", "new", "--new-key-file", "new-key"], 2, "several new keys at once"),
        (["--new-key-file", "new-key", "--recovery"], 2, "several new keys at once"),
        (["--new-kms", "alias/a", "--recovery"], 2, "several new keys at once"),
        (["--new-kms", "no key"], 2, "is no key of AWS KMS"),
        (["--new-key-file", "nowhere"], 20, "No such file"),
        (["--new-key-file", "short"], 2, "at least 32 random bytes"),
        (["--new-passphrase-file", "weak"], 23, "can be guessed"),
        ([], 20, "give --new-passphrase-file, --new-key-file, --new-kms or --recovery"),
    ],
)
def test_what_cannot_be_added(files, options, status, words):
    """A missing, short, open or weak secret is refused, and the repository has the slots that it had."""
    for name in ("weak", "short"):
        (files.base / name).write_bytes(b"1234567")
        (files.base / name).chmod(0o600)
    done = files.run("key", "add", *options)
    assert (done.status, words in done.err) == (status, True), done.err
    assert len(files.good("key", "list", "--json").json()["slots"]) == 1


def test_a_file_that_others_may_read_is_no_secret(files):
    """A new secret is held to the modes of any other one."""
    (files.base / "new").chmod(0o644)
    assert "other users may read" in files.run("key", "add", "--new-passphrase-file", "new").err


def test_the_recovery_key_is_in_no_log(files):
    """With -vv the steps are logged, and the key is only in what was asked for."""
    done = files.good("key", "add", "--recovery", "-vv")
    text = "".join(TEXT.search(done.out)[0].split())
    assert text[:5] not in done.err
    found = subprocess.run(["grep", "-rl", text[:11], files.base], capture_output=True, text=True, check=False)
    assert found.stdout == ""


def test_without_a_command_it_says_what_there_is(saved):
    """``mlsync key`` alone lists its commands, and an unknown one gets the nearest."""
    done = saved.run("key")
    assert all(word in done.out + done.err for word in ("list", "add", "change", "remove"))
    assert "Did you mean" in saved.run("key", "lst").err or "did you mean" in saved.run("key", "lst").err


def test_the_key_is_rotated(files):
    """What opened the repository still does, the backup goes on, and every other secret has to be added anew."""
    slot_id = files.good("key", "add", "--new-passphrase-file", "new", "--json").json()["added"]
    refused = files.run("key", "rotate")
    assert refused.status == 2
    assert f"{slot_id[:8]} (passphrase)" in refused.err
    assert "--yes" in refused.err
    rotated = files.good("key", "rotate", "--yes")
    assert "mlsync key add --recovery" in rotated.err
    done = rotated.out
    assert done.startswith("rotated  the key is of epoch 1 now\nadded    ")
    assert f"removed  {slot_id[:8]}  passphrase\n" in done
    assert as_other(files, "versions").status == 21
    (slot,) = files.good("key", "list", "--json").json()["slots"]
    assert (slot["epoch"], slot["is_used"], slot["trouble"]) == (1, True, None)
    (files.training / "more.txt").write_text("after the rotation")
    files.good("backup")
    files.good("check", "--read-data")
    files.good("key", "add", "--new-passphrase-file", "new")
    assert as_other(files, "versions").out.count("\n") > 2
    again = files.good("key", "rotate", "--yes", "--json").json()
    assert (again["epoch"], sorted(one["epoch"] for one in again["removed"])) == (2, [1, 1])


def test_an_interrupted_rotation_is_told_and_ended(files):
    """Between its announcement and its end, versions are listed and none is made; the command again ends it."""
    from mlsync.repository.keys import epochs
    from mlsync.repository.keys.keyslot import KeyFile
    from mlsync.repository.repository import Repository
    from mlsync.store.directory.store import DirectoryStore

    repository = Repository.open(DirectoryStore(files.repository), KeyFile(KEY))
    repository.store.put(epochs.announcement(repository.keys, 0), b"")
    listed = files.good("versions")
    assert "warning: the repository's key was rotated, or is being rotated" in " ".join(listed.err.split())
    stopped = files.run("backup")
    assert stopped.status == 29
    assert "mlsync key rotate" in stopped.err
    files.good("key", "rotate")
    files.good("backup")


def test_old_packs_are_resealed_after_a_rotation(files):
    """The cost is told and asked for, the packs move, and a prune deletes the old ones; all versions are whole."""
    nothing = files.good("key", "reseal").out
    assert nothing == "nothing to move: what versions need lies in packs of epoch 0\n"
    files.good("key", "rotate")
    before = sorted((files.repository / "packs").rglob("*"))
    shown = files.good("key", "reseal", "--dry-run").out
    assert "under older keys to move: about" in shown
    assert "the store holds both until old packs are deleted" in shown
    refused = files.run("key", "reseal")
    assert (refused.status, "--yes moves them" in refused.err, "nothing was moved" in refused.err) == (98, True, True)
    assert sorted((files.repository / "packs").rglob("*")) == before
    refused = files.run("key", "reseal", "--yes", "--max-move", "0.0001MiB")
    assert (refused.status, "--max-move" in refused.err) == (98, True)
    assert sorted((files.repository / "packs").rglob("*")) == before
    done = " ".join(files.good("key", "reseal", "--yes").out.split())
    assert "mlsync prune deletes them once its grace period is over" in done
    assert "stay under the old key" in done
    again = files.good("key", "reseal", "--json").json()
    assert (again["to_move"]["packs"], again["moved_packs"], again["left"]) == (0, 0, [])
    assert again["waiting"]["packs"] > 0
    assert "moved before" in files.good("key", "reseal").out
    files.good("prune", "--yes", "--grace", "0s")
    assert files.good("key", "reseal", "--json").json()["waiting"] == {"packs": 0, "bytes": 0}
    files.good("check", "--read-data")


def test_a_rotation_reseals_at_once(files):
    """With --reseal the cost is known before the key is rotated; without --yes nothing is changed."""
    refused = files.run("key", "rotate", "--reseal")
    assert (refused.status, "under older keys to move" in refused.err) == (2, True)
    assert files.good("key", "reseal", "--json").json()["epoch"] == 0
    done = files.good("key", "rotate", "--reseal", "--yes").out
    assert done.startswith("rotated  the key is of epoch 1 now\n")
    assert "mlsync prune deletes them" in done
    again = files.good("key", "rotate", "--reseal", "--yes", "--json").json()
    assert (again["epoch"], again["resealed"]["left"]) == (2, [])
    assert again["resealed"]["moved_packs"] > 0
    files.good("check", "--read-data")


def test_a_damaged_pack_stays_and_is_named(files):
    """What cannot be read is left as it is, and the command ends with 33."""
    files.good("key", "rotate")
    for pack in (files.repository / "packs").rglob("*"):
        if pack.is_file():
            pack.chmod(0o600)
            pack.write_bytes(pack.read_bytes()[:-20])
    done = files.run("key", "reseal", "--yes")
    assert (done.status, "stays: " in done.out, "stay under an older key" in done.err) == (33, True, True)
    assert files.run("key", "reseal", "--yes", "--json").json()["left"]
