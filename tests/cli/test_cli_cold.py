"""The commands on a repository whose packs lie in cold storage, against a server that plays it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from machine import NO_DEVICE, Machine, content, write_training

pytestmark = pytest.mark.slow


@pytest.fixture
def cold(fresh, aws_server):
    """A machine with two versions in a bucket, and *freeze*, which moves packs to a class as a lifecycle would."""
    yield from _cold(fresh, aws_server)


@pytest.fixture(scope="module")
def frozen(tmp_path_factory, server, aws_process):
    """The same with all packs in GLACIER, for what only reads."""
    for one in _cold(Machine(tmp_path_factory.mktemp("frozen"), server), aws_process):
        one.freeze("GLACIER")
        yield one


def _cold(fresh, aws_server):
    write_training(fresh.training)
    bucket = aws_server.make_bucket()
    fresh.configure(f'{NO_DEVICE}[s3]\nendpoint_url = "{aws_server.endpoint_url}"\n')
    text = fresh.configuration.read_text().replace(fresh.url, f"s3://{bucket}/runs")
    fresh.configuration.write_text(text)
    keys = aws_server.environment()
    client = aws_server.client()

    def freeze(storage_class, *, least=0, most=None, under="runs/packs/"):
        listed = client.list_objects_v2(Bucket=bucket, Prefix=under).get("Contents", [])
        found = [entry["Key"] for entry in sorted(listed, key=lambda entry: entry["LastModified"])][least:most]
        for key in found:
            place = {"Bucket": bucket, "Key": key}
            client.copy_object(**place, CopySource=place, StorageClass=storage_class, MetadataDirective="REPLACE")
        return [key.removeprefix("runs/") for key in found]

    def run(*arguments, **more):
        return fresh.run(*arguments, **keys, **more)

    assert run("init").status == 0
    assert run("backup").status == 0
    (fresh.training / "results.csv").write_text("epoch,loss\n1,0.5\n2,0.25\n")
    assert run("backup").status == 0
    yield SimpleNamespace(machine=fresh, run=run, freeze=freeze, bucket=bucket, client=client)
    client.close()


def test_a_restore_asks_waits_and_goes_on(cold):
    """Cold packs are told first; a tier that is not to be had asks for nothing; the asked one is waited for."""
    frozen = cold.freeze("DEEP_ARCHIVE")
    done = cold.run("restore", "--to", "back", "--json")
    assert (done.status, len(done.json()["failures"])) == (77, done.json()["file_count"])
    (share,) = done.json()["cold"]
    assert share["storage_class"] == "DEEP_ARCHIVE"
    assert sorted(one["object"] for one in share["packs"]) == sorted(frozen)
    assert "must be thawed before this can be read" in done.err
    assert "USD" not in done.err, "nobody knows the prices of this server"
    assert (cold.run("restore", "--to", "back", "--thaw", "expedited")).status == 120
    assert not any(_is_asked(cold, pack) for pack in frozen)
    done = cold.run("restore", "--to", "back", "--thaw", "standard", "--thaw-days", "2")
    assert done.status == 0, done.err
    assert content(cold.machine.base / "back") == content(cold.machine.training)


def test_it_asks_and_ends_and_the_same_command_goes_on(cold):
    """119 until all is thawed, with nothing written and the JSON list of what is awaited; then the restore."""
    cold.freeze("GLACIER")
    command = ("restore", "--to", "back", "--thaw", "bulk", "--no-wait", "--json")
    done = cold.run(*command)
    assert (done.status, done.json()["error"]["kind"]) == (119, "ThawUnderWay")
    assert not any(pack["thawing"] for share in done.json()["cold"] for pack in share["packs"])
    assert list(content(cold.machine.base / "back")) == []
    done = cold.run("restore", "--to", "back", "--thaw", "bulk", "--json")
    assert done.status == 0, done.err
    assert all(pack["thawing"] for share in done.json()["cold"] for pack in share["packs"])
    assert content(cold.machine.base / "back") == content(cold.machine.training)


def test_options_that_belong_to_a_thaw_are_refused_without_it(cold):
    """Nobody waits for what was not asked for."""
    for option in (("--no-wait",), ("--ask-again",), ("--thaw-days", "3")):
        done = cold.run("restore", "--to", "back", *option)
        assert (done.status, "only apply to --thaw" in done.err) == (2, True)


@pytest.mark.parametrize(
    "command",
    [
        ("verify", "--quickly"),
        ("check", "--read-data", "--quickly"),
        ("metrics",),
        ("export", "2", "results.csv", "--to", "copies"),
        ("prove", "2", "--device", "cpu", "--quickly"),
    ],
    ids=lambda command: command[0],
)
def test_every_command_that_reads_tells_what_is_cold(frozen, command):
    """77 with the list of what must be thawed, in words and in JSON, and the server's own code as no message."""
    done = frozen.run(*command, "--json")
    assert done.status == 77, done
    assert "must be thawed before this can be read" in done.err
    assert "InvalidObjectState:" not in done.err
    assert "mlsync restore --thaw" in done.err
    if command[0] != "check":
        assert [share["storage_class"] for share in done.json()["cold"]] == ["GLACIER"]
        assert done.json()["error"]["kind"] == "ObjectArchived"


@pytest.mark.parametrize(
    "command",
    [
        ("show", "2"),
        ("versions",),
        ("check", "--quickly"),
        ("repair", "--dry-run", "--quickly"),
        ("prune", "--dry-run", "--compact"),
    ],
    ids=lambda command: command[0],
)
def test_commands_that_read_no_content_do_not_mind(frozen, command):
    """What needs only manifests works however cold the packs are."""
    done = frozen.run(*command)
    assert done.status == 0, done
    assert "InvalidObjectState" not in done.err


def _is_asked(cold, pack):
    return "Restore" in cold.client.head_object(Bucket=cold.bucket, Key=f"runs/{pack}")
