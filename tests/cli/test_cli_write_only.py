"""A node with a write-only key makes versions, and reads none; what it made is read where the repository opens."""

from __future__ import annotations

import json
import shutil
import sqlite3
import stat

import pytest
from machine import Machine, content, write_training

NODE = '[proof]\ndevice = "none"\n[key]\nwrite_only_key_file = "{}"\n'


@pytest.fixture
def node(tmp_path, server, machine):
    """A machine with a write-only key, and a training directory of its own."""
    result = Machine(tmp_path / "node", server)
    machine.good("key", "add", "--write-only", result.base / "node.key")
    become_node(result, machine)
    write_training(result.training)
    return result


def become_node(node, machine):
    """Configure a machine that has no other secret than its write-only key."""
    node.secret = {}
    node.repository = machine.repository
    node.configure(NODE.format(node.base / "node.key"))


def numbers(machine):
    """The versions as whoever can read sees them."""
    return [one["version"] for one in machine.good("versions", "--json").json()["versions"]]


def made(done):
    """What a backup says of its one run."""
    (run,) = done.json()["runs"]
    return run


def test_what_a_node_makes_is_restored_elsewhere_bit_by_bit(node, machine):
    """Three versions, each stored once, proved as it was committed; the node needs no key slot for any of it."""
    first = made(node.good("backup", "--json"))
    assert (first["version"], first["checkpoint_count"]) == (1, 1)
    assert first["lowest_level"] >= 2
    (node.training / "results.csv").write_text("epoch,loss\n1,0.5\n2,0.25\n")
    second = made(node.good("backup", "--json"))
    assert (second["version"], second["new_bytes"]) == (2, len("epoch,loss\n1,0.5\n2,0.25\n"))
    (node.training / "copy.pt").write_bytes((node.training / "weights" / "last.pt").read_bytes())
    third = made(node.good("backup", "--json"))
    assert (third["version"], third["new_bytes"]) == (3, 0)
    assert made(node.good("backup", "--json"))["version"] is None
    assert numbers(machine) == [1, 2, 3]
    machine.good("check", "--read-data")
    machine.good("verify")
    machine.good("restore", "--to", machine.base / "back")
    assert content(machine.base / "back") == content(node.training)
    kinds = {path.read_bytes()[10] for path in machine.repository.glob("packs/*/*")}
    assert kinds == {2}


@pytest.mark.parametrize(
    "words",
    [
        ("versions",),
        ("show",),
        ("restore", "--to", "back"),
        ("verify",),
        ("check",),
        ("prove", "--pending"),
        ("diff", "1", "2"),
        ("repair", "--dry-run"),
        ("key", "list"),
        ("key", "add", "--recovery"),
        ("key", "remove", "00000000"),
        ("key", "add", "--write-only", "another.key"),
    ],
    ids=" ".join,
)
def test_whatever_would_read_says_that_this_machine_cannot(node, words):
    """One clear error with a status of its own, nothing written, and no question for a passphrase."""
    node.good("backup")
    done = node.run(*words)
    assert done.status == 86, done
    assert "this machine has a write-only key: it makes versions, and can read none" in done.err
    assert not (node.base / "back").exists()
    assert not (node.base / "another.key").exists()


def test_a_key_that_reads_can_be_named_on_a_node(node, machine):
    """The option counts before the configuration: whoever stands there with a key can restore."""
    node.good("backup")
    key = node.base / "key"
    key.write_bytes((machine._server.credentials / "mlsync-key").read_bytes())
    key.chmod(0o600)
    node.good("restore", "--key-file", key, "--to", node.base / "back")
    assert content(node.base / "back") == content(node.training)


def test_a_version_without_a_proof_is_proved_elsewhere(node, machine):
    """What the node leaves pending, a machine that reads proves with the repository alone."""
    text = node.configuration.read_text().replace("[proof]\n", '[proof]\nread_back = "none"\n')
    node.configuration.write_text(text)
    assert made(node.good("backup", "--json"))["pending"] == ["weights/last.pt"]
    machine.good("prove", "--pending", "--device", "cpu")
    (one,) = machine.good("versions", "--json").json()["versions"]
    assert one["lowest_level"] >= 2


def test_a_lost_local_state_needs_a_word_of_the_user(node, machine):
    """Nobody can tell whose the version there is: 90, and --take-over goes on with the next number."""
    node.good("backup")
    shutil.rmtree(node.state)
    refused = node.run("backup")
    assert refused.status == 90
    assert "a write-only key opens no version, to see who made it" in refused.err
    assert "mlsync backup --take-over yolo" in refused.err
    assert numbers(machine) == [1]
    assert made(node.good("backup", "--take-over", "--json"))["version"] == 2
    (node.training / "new").write_text("1")
    assert made(node.good("backup", "--json"))["version"] == 3
    machine.good("check")
    machine.good("restore", "--to", machine.base / "back")
    assert content(machine.base / "back") == content(node.training)


def test_a_node_that_died_right_after_its_commit_knows_its_version(node, machine):
    """The version that it was about to commit is its own if the store has it, digest and all."""
    node.good("backup")
    (node.training / "new").write_text("1")
    node.good("backup")
    (state,) = node.state.glob("*/state.sqlite")
    with sqlite3.connect(state) as connection:
        connection.execute("DELETE FROM heads")
    connection.close()
    (node.training / "newer").write_text("1")
    assert made(node.good("backup", "--json"))["version"] == 3
    machine.good("check")


def test_versions_of_others_are_not_continued(node, machine):
    """A machine that reads took the run over: the node does not mix its directory into that history."""
    node.good("backup")
    (machine.training / "own").write_text("1")
    assert made(machine.good("backup", "--take-over", "--json"))["version"] == 2
    (node.training / "new").write_text("1")
    refused = node.run("backup")
    assert refused.status == 90
    assert "version 2 of run 'yolo' was not made from" in refused.err
    assert numbers(machine) == [1, 2]


def test_a_second_node_has_a_key_and_a_run_of_its_own(node, machine, tmp_path, server):
    """Two nodes store a common chunk once each, and neither opens what the other wrote."""
    other = Machine(tmp_path / "other", server)
    machine.good("key", "add", "--write-only", other.base / "node.key")
    become_node(other, machine)
    other.configuration.write_text(other.configuration.read_text().replace('"yolo"', '"yolo-2"'))
    write_training(other.training, epoch=2)
    keys = [json.loads((one.base / "node.key").read_text()) for one in (node, other)]
    assert keys[0]["recipient"] != keys[1]["recipient"]
    assert keys[0]["chunk_names"] == keys[1]["chunk_names"]
    for one in (node, other):
        one.good("backup")
    assert machine.good("versions", "--json").json()["versions"][0]["run"] in ("yolo", "yolo-2")
    machine.good("check", "--read-data")


def test_garbage_above_the_last_version_takes_a_number_and_no_more(node, machine):
    """What is no manifest is passed over; what looks like one stops the node, and --take-over goes on above it."""
    node.good("backup")
    run = machine.object("versions/*")
    (run / "0000000002").write_bytes(bytes(96))
    (node.training / "new").write_text("1")
    assert made(node.good("backup", "--json"))["version"] == 3
    (run / "0000000007").write_bytes(b"mlsyncM\0" + bytes(200))
    (node.training / "newer").write_text("1")
    assert node.run("backup").status == 90
    assert made(node.good("backup", "--take-over", "--json"))["version"] == 8
    assert numbers(machine) == [1, 3, 8]


def test_a_store_that_was_rolled_back_is_noticed(node, machine):
    """The version that the node made last is gone, or is another: nothing is written."""
    node.good("backup")
    manifest = machine.object("versions/*/*")
    body = manifest.read_bytes()
    (node.training / "new").write_text("1")
    manifest.chmod(0o600)
    manifest.write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
    assert node.run("backup").status == 16
    manifest.unlink()
    assert node.run("backup").status == 16


def test_a_header_that_the_store_swapped_is_refused(node, machine):
    """The key file has the header's digest: the node writes into no other repository, and under no other promise."""
    header = machine.repository / "repository"
    sound = header.read_text()
    header.chmod(0o600)
    header.write_text(sound.replace('"conditional_create": true', '"conditional_create": false'))
    refused = node.run("backup")
    assert (refused.status, "not the one that it was when the write-only key was made" in refused.err) == (31, True)
    fields = json.loads(sound)
    header.write_text(sound.replace(fields["id"], "00" * 16))
    assert node.run("backup").status == 85
    header.write_text(sound)
    node.good("backup")


def test_a_key_file_that_is_not_sound_is_named(node, machine):
    """Cut, changed, of a newer mlsync, readable by others, or given as another kind of secret."""
    place = node.base / "node.key"
    sound = place.read_text()
    for body, status in (
        (sound[:200], 85),
        (sound.replace('"epoch": 0', '"epoch": 1'), 85),
        (sound.replace('"token": "', '"token": "A'), 85),
        (sound.replace('"format": 1', '"format": 2'), 12),
        ("{}", 85),
        ("", 85),
    ):
        place.write_text(body)
        done = node.run("backup")
        assert done.status == status, (body, done)
        assert str(place) in done.err
    place.write_text(sound)
    place.chmod(0o644)
    assert node.run("backup").status == 20
    place.chmod(0o600)
    refused = node.run("versions", "--key-file", place)
    assert (refused.status, "write_only_key_file" in refused.err) == (2, True)


def test_the_key_file_is_made_once_and_for_its_user_alone(machine):
    """Mode 0600, no file is replaced, and JSON has the place."""
    place = machine.base / "node.key"
    assert machine.good("key", "add", "--write-only", "node.key", "--json").json() == {
        "added": None,
        "recovery_key": None,
        "write_only_key": str(place),
        "removed": None,
        "added_by_others": [],
    }
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    before = place.read_bytes()
    assert machine.run("key", "add", "--write-only", "node.key").status == 2
    assert place.read_bytes() == before
    assert machine.run("key", "add", "--write-only", "absent/node.key").status == 2
    assert machine.run("key", "add", "--write-only", "other.key", "--recovery").status == 2
    assert len(machine.good("key", "list", "--json").json()["slots"]) == 1


def test_init_makes_the_first_key_file_too(fresh, node):
    """A repository, its first key slot, a configuration, and the key for the node; none of it if the file is there."""
    (fresh.base / "taken.key").write_text("something")
    refused = fresh.run("init", fresh.url, "--write-only", "taken.key")
    assert (refused.status, fresh.repository.exists(), fresh.configuration.exists()) == (2, False, False)
    done = fresh.good("init", fresh.url, "--write-only", node.base / "first.key")
    assert f"made     {node.base / 'first.key'}  write-only key" in done.out
    (node.base / "node.key").unlink()
    (node.base / "first.key").rename(node.base / "node.key")
    become_node(node, fresh)
    node.good("backup")
    assert numbers(fresh) == [1]


def test_a_checkpoint_of_several_files_is_proved_when_one_of_them_changes(node, machine):
    """The node cannot read the index that did not change: it takes it from the source, and stores nothing twice."""
    import numpy as np
    from safetensors.numpy import save_file

    def shard(number, value):
        save_file(
            {f"w{number}": np.full(100, value, np.float32)}, node.training / f"model-0000{number}-of-00002.safetensors"
        )

    shard(1, 1.0)
    shard(2, 1.0)
    index = {
        "metadata": {"total_size": 800},
        "weight_map": {f"w{n}": f"model-0000{n}-of-00002.safetensors" for n in (1, 2)},
    }
    (node.training / "model.safetensors.index.json").write_text(json.dumps(index))
    node.good("backup")
    # As a trainer does: all of it is written anew, and one shard alone says something else.
    shard(1, 1.0)
    shard(2, 2.0)
    (node.training / "model.safetensors.index.json").write_text(json.dumps(index))
    second = made(node.good("backup", "--json"))
    assert (second["version"], second["new_bytes"], second["changed_count"]) == (2, 472, 3)
    machine.good("restore", "--to", machine.base / "back")
    assert content(machine.base / "back") == content(node.training)


def test_a_configuration_names_one_key(node):
    """A write-only key beside one that reads would leave open which counts."""
    text = node.configuration.read_text()
    node.configuration.write_text(text.replace("[key]\n", '[key]\nkey_file = "key"\n'))
    refused = node.run("backup")
    assert (refused.status, "write_only_key_file in [key] beside a key that also reads" in refused.err) == (2, True)


def test_a_rotated_key_stops_the_node_until_it_has_another(node, machine):
    """What it would write no longer counts, and it says so; with a new key file it goes on where it was."""
    node.good("backup")
    machine.good("key", "rotate", "--yes")
    (node.training / "new").write_text("1")
    refused = node.run("backup")
    assert refused.status == 29
    assert "mlsync key add --write-only FILE" in refused.err
    assert numbers(machine) == [1]
    (node.base / "node.key").unlink()
    machine.good("key", "add", "--write-only", node.base / "node.key")
    assert made(node.good("backup", "--json"))["version"] == 2
    machine.good("check", "--read-data")
    machine.good("restore", "--to", machine.base / "back")
    assert content(machine.base / "back") == content(node.training)
