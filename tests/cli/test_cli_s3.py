"""The commands against a real S3 server."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
from machine import NO_DEVICE, Machine, content, write_training

from fault_proxy import Fault
from limited_s3 import LimitedS3, error_body
from mlsync.cli.arguments.options import Common

pytestmark = pytest.mark.slow


@pytest.fixture
def remote(fresh, s3_server):
    """A machine, a bucket's URL, the options that lead there, and the keys in the environment."""
    write_training(fresh.training)
    url = f"s3://{s3_server.make_bucket()}/some/prefix"
    return fresh, url, ("--endpoint-url", s3_server.endpoint_url), s3_server.environment()


def test_all_commands(remote):
    """init, backup, versions, show, verify, check and restore work on S3; another machine needs URL and passphrase."""
    machine, url, options, keys = remote
    done = machine.good("init", url, *options, "--watch", machine.training, **keys)
    assert url in done.out
    assert f'endpoint_url = "{options[1]}"' in machine.configuration.read_text()
    keys["STATE_DIRECTORY"] = str(machine.state)
    assert "version 1" in machine.good("backup", **keys).out
    (machine.training / "results.csv").write_text("epoch,loss\n1,0.5\n2,0.25\n")
    machine.good("backup", **keys)
    assert [one["version"] for one in machine.good("versions", "--json", **keys).json()["versions"]] == [1, 2]
    machine.good("show", **keys)
    machine.good("check", "--read-data", **keys)
    machine.good("restore", "--repo", url, *options, "--to", "back", MLSYNC_CONFIG="", **keys)
    assert content(machine.base / "back") == content(machine.training)
    done = machine.run("init", url, *options, "--config", "other.toml", **keys)
    assert done.status == 11


def test_a_lock_is_set_and_extended(remote, s3_server):
    """New objects are locked by the setting, and the command locks what was made without it."""
    machine, _, options, keys = remote
    url = f"s3://{s3_server.make_bucket(ObjectLockEnabledForBucket=True)}/runs"
    machine.good("init", url, *options, "--watch", machine.training, **keys)
    keys |= {"STATE_DIRECTORY": str(machine.state), "MLSYNC_S3_OBJECT_LOCK": "governance 30d"}
    machine.good("backup", **keys)
    lock = machine.good("check", "--extend-lock", "--json", **keys).json()["lock"]
    # The header and the key slot are older than the setting.
    assert (lock["extended_count"], lock["request_count"]) == (2, lock["asked_count"] + 2)
    assert (lock["denied"], lock["lost"], lock["unread"]) == ([], [], [])


def test_prune_and_compaction(remote):
    """On a real server a prune leaves fences, moves what is left of a mostly dead pack, and deletes the old one."""
    machine, url, options, keys = remote
    machine.good("init", url, *options, "--watch", machine.training, **keys)
    keys["STATE_DIRECTORY"] = str(machine.state)
    (machine.training / "frozen.bin").write_bytes(os.urandom(20_000))
    (machine.training / "last.bin").write_bytes(os.urandom(90_000))
    machine.good("backup", **keys)
    (machine.training / "last.bin").write_bytes(b"short by now")
    machine.good("backup", **keys)
    machine.good("forget", "1", "--yes", **keys)
    prune = ("prune", "--yes", "--grace", "0s", "--json")
    assert len(machine.good(*prune, **keys).json()["versions"]) == 1
    assert machine.good(*prune, "--compact", **keys).json()["to_move"]["packs"] == 1
    assert machine.good(*prune, **keys).json()["deleted"]["packs"] == 1
    machine.good("check", "--read-data", **keys)
    machine.good("restore", "--repo", url, *options, "--to", "back", MLSYNC_CONFIG="", **keys)
    assert content(machine.base / "back") == content(machine.training)


def test_a_write_only_node_makes_versions_in_a_bucket(remote, tmp_path, server):
    """A machine without a secret backs up, deduplicates and proves on S3; who has one restores bit by bit."""
    machine, url, options, keys = remote
    machine.good("init", url, *options, "--write-only", tmp_path / "node.key", **keys)
    node = Machine(tmp_path / "node", server)
    node.secret = {}
    write_training(node.training)
    node.configuration.write_text(
        f'repository = "{url}"\n{NO_DEVICE}[s3]\nendpoint_url = "{options[1]}"\n'
        f'[key]\nwrite_only_key_file = "{tmp_path / "node.key"}"\n[[watch]]\ndirectory = "{node.training}"\n'
    )
    assert node.good("backup", "--json", **keys).json()["runs"][0]["lowest_level"] == 2
    (node.training / "copy.pt").write_bytes((node.training / "weights" / "last.pt").read_bytes())
    second = node.good("backup", "--json", **keys).json()["runs"][0]
    assert (second["version"], second["new_bytes"]) == (2, 0)
    assert node.run("versions", **keys).status == 86
    machine.good("check", "--read-data", "--repo", url, *options, MLSYNC_CONFIG="", **keys)
    machine.good("restore", "--repo", url, *options, "--to", "back", MLSYNC_CONFIG="", **keys)
    assert content(machine.base / "back") == content(node.training)


def test_init_keeps_all_that_it_was_told_of_the_server(remote):
    """What init takes of S3 stands in the configuration, as the commands after it go by it; others take it too."""
    machine, url, options, keys = remote
    certificate = machine.base / "lab.pem"
    certificate.touch()
    more = ("--region", "lab-1", "--addressing", "path", "--ca-file", "lab.pem", "--payload-signing", "always")
    machine.good("init", f"{url}/my runs/100%", *options, *more, "--watch", machine.training, **keys)
    text = machine.configuration.read_text()
    for line in ('region = "lab-1"', 'addressing = "path"', f'ca_file = "{certificate}"', 'payload_signing = "always"'):
        assert line in text.splitlines()
    keys["STATE_DIRECTORY"] = str(machine.state)
    assert "version 1" in machine.good("backup", **keys).out
    found = ("versions", "--repo", f"{url}/my runs/100%", *options, *more, "--json")
    assert [one["version"] for one in machine.good(*found, **keys).json()["versions"]] == [1]
    done = machine.run("versions", "--addressing", "elsewhere", **keys)
    assert done.status == 2
    assert "'auto', 'path', 'virtual'" in done.err


def test_what_a_command_is_told_of_the_server_stands_above_the_configuration(tmp_path, monkeypatch):
    """Each setting of S3 that a command line gives replaces the file's, and the others stay."""
    monkeypatch.chdir(tmp_path)
    given = {"endpoint_url": "http://other:9", "region": "r", "profile": "p", "addressing": "virtual"}
    given |= {"ca_file": Path("lab.pem"), "payload_signing": "never"}
    (tmp_path / "mlsync.toml").write_text(
        'repository = "s3://bucket/x"\n[s3]\nendpoint_url = "http://one:9"\nregion = "a"\nprofile = "b"\n'
        'addressing = "path"\nca_file = "/a.pem"\npayload_signing = "always"\n'
    )
    nothing = dict.fromkeys(field.name for field in dataclasses.fields(Common))
    before = Common(**nothing | {"config": tmp_path / "mlsync.toml"}).configuration().s3
    assert set(dataclasses.asdict(before)) >= set(given)
    for name, value in given.items():
        after = Common(**nothing | {"config": tmp_path / "mlsync.toml", name: value}).configuration().s3
        expected = tmp_path / "lab.pem" if name == "ca_file" else value
        assert after == dataclasses.replace(before, **{name: expected})


def test_cold_packs(remote, s3_server, proxy):
    """A check names cold packs and ends with 0, with 77 if they were to be read; a restore names all that it needs."""
    machine, url, _, keys = remote
    keys["STATE_DIRECTORY"] = str(machine.state)
    proxy.reset()
    machine.good("init", url, "--endpoint-url", proxy.url, "--watch", machine.training, **keys)
    machine.good("backup", **keys)
    (machine.training / "more.bin").write_bytes(bytes(range(256)) * 40)
    machine.good("backup", **keys)
    bucket = url.split("/")[2]
    client = s3_server.client()
    listed = client.list_objects_v2(Bucket=bucket, Prefix="some/prefix/packs/")["Contents"]
    for one in listed:
        place = {"Bucket": bucket, "Key": one["Key"]}
        client.copy_object(**place, CopySource=place, StorageClass="DEEP_ARCHIVE", MetadataDirective="REPLACE")
    client.close()
    packs = [one["Key"].removeprefix("some/prefix/") for one in listed]
    proxy.reset(Fault("403 cold", "GetObject", times=10**6, paths=("/packs/",)))
    done = machine.good("check", **keys)
    assert [line.partition(": in cold storage")[0] for line in done.out.splitlines()[:-1]] == packs
    done = machine.run("check", "--read-data", **keys)
    assert done.status == 77, done
    done = machine.run("restore", "--to", "back", **keys)
    assert done.status == 77, done
    assert all(pack in done.err for pack in packs)
    assert "mlsync restore --thaw" in done.err


def test_wrong_keys(remote):
    """Keys that the server refuses end the command with 72, which says where keys come from, and shows none."""
    machine, url, options, keys = remote
    done = machine.run("versions", "--repo", url, *options, **keys | {"AWS_SECRET_ACCESS_KEY": "wrong-secret"})
    assert done.status == 72, done
    assert "wrong-secret" not in done.err
    assert "Traceback" not in done.err


def test_no_keys(remote):
    """Without keys the command ends with 72 and says so."""
    machine, url, options, _ = remote
    done = machine.run("versions", "--repo", url, *options, AWS_EC2_METADATA_DISABLED="true")
    assert done.status == 72, done
    assert "Traceback" not in done.err


def test_no_bucket(remote):
    """A bucket that is not there is named."""
    machine, _, options, keys = remote
    done = machine.run("versions", "--repo", "s3://no-such-bucket-here/x", *options, **keys)
    assert done.status == 75, done
    assert "no-such-bucket-here" in done.err


def test_missing_object(remote, s3_server):
    """An object that is gone from the bucket is named by check and restore."""
    machine, url, options, keys = remote
    keys["STATE_DIRECTORY"] = str(machine.state)
    machine.good("init", url, *options, "--watch", machine.training, **keys)
    machine.good("backup", **keys)
    client = s3_server.client()
    bucket = url.split("/")[2]
    packs = client.list_objects_v2(Bucket=bucket, Prefix="some/prefix/packs/")["Contents"]
    key = max(packs, key=lambda one: one["Size"])["Key"]
    client.delete_object(Bucket=bucket, Key=key)
    client.close()
    name = key.removeprefix("some/prefix/")
    done = machine.run("check", **keys)
    assert done.status == 33
    assert name in done.out
    done = machine.run("restore", "--to", "back", **keys)
    assert done.status == 30, done
    assert name in done.err


def test_a_store_that_overwrites_is_told_at_init(fresh):
    """A server that ignores conditions is found out by init, which says what that means; the repository is made."""
    server = LimitedS3(condition="ignored")
    server.start()
    try:
        keys = {"AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "geheim"}
        done = fresh.good("init", "s3://bucket/x", "--endpoint-url", server.endpoint_url, **keys)
    finally:
        server.stop()
    assert "overwrites" in done.err
    assert "a run of its own" in done.err


def test_init_asks_a_store_again_that_fails_at_its_first_write(fresh):
    """A fault of the store at the first write to a bucket, which passes, ends no init; and what init tried is gone."""
    faults = [(500, {}, error_body("InternalError")), (503, {}, error_body("SlowDown"))]
    server = LimitedS3(answer=lambda method, _path: faults.pop() if method == "PUT" and faults else None)
    server.start()
    try:
        keys = {"AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "geheim"}
        fresh.good("init", "s3://bucket/x", "--endpoint-url", server.endpoint_url, **keys)
    finally:
        server.stop()
    assert faults == []
    assert {key.removeprefix("x/").partition("/")[0] for key in server.objects} == {"repository", "keys"}


def test_what_opens_a_repository_is_changed_in_a_bucket(remote):
    """A key slot is added, used and removed in a bucket as in a directory, also where another one opened it."""
    machine, url, options, keys = remote
    machine.good("init", url, *options, **keys)
    (machine.base / "new").write_text("another passphrase\n")
    (machine.base / "new").chmod(0o600)
    added = machine.good("key", "add", "--new-passphrase-file", "new", "--json", **keys).json()["added"]
    listed = machine.good("key", "list", "--passphrase-file", "new", "--json", **keys).json()["slots"]
    assert {(one["kind"], one["is_used"]) for one in listed} == {("key-file", False), ("passphrase", True)}
    machine.good("key", "remove", added[:8], **keys)
    assert machine.run("versions", "--passphrase-file", "new", **keys).status == 21
    assert machine.good("versions", **keys).status == 0
