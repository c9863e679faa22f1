"""The commands on a repository whose packs lie in cold storage, against a server that plays it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from machine import NO_DEVICE, Machine, content, write_training

from mlsync.cli.reports.cold_report import cold_lines
from mlsync.cold.find import ColdPack
from mlsync.store.prices import AWS_LIST

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
        ("prune", "--dry-run", "--compact", "--quickly"),
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


def test_what_is_cold_is_told_with_times_and_list_prices():
    """A line for each class, and the sum; what is being thawed is not paid for again; without a list no price."""
    packs = [
        *(ColdPack(bytes([number]) * 16, 10**8, "GLACIER", is_thawing=number > 7) for number in range(10)),
        ColdPack(b"d" * 16, 10**9, "DEEP_ARCHIVE", is_thawing=False),
    ]
    first, deep, flexible, total = cold_lines(packs, AWS_LIST, 7)
    assert first == "11 packs in cold storage (1.9 GiB) must be thawed before this can be read"
    assert (
        deep
        == "DEEP_ARCHIVE: 1 pack, 953.7 MiB: standard up to 12 hours, USD 0.03; bulk up to 48 hours, less than a cent"
    )
    assert flexible.startswith(
        "GLACIER: 10 packs, 953.7 MiB, 2 of them being thawed: expedited 1 to 5 minutes, USD 0.11;"
    )
    assert total.startswith(
        "in all standard up to 12 hours, USD 0.04; bulk up to 48 hours, USD 0.01 (list price of AWS in"
    )
    assert "readable copies for 7 days" in total
    assert list(cold_lines(packs, None, 7))[1:] == [
        "DEEP_ARCHIVE: 1 pack, 953.7 MiB",
        "GLACIER: 10 packs, 953.7 MiB, 2 of them being thawed",
    ]


def test_prune_says_what_goes_before_its_minimum(cold):
    """In words and in JSON; told to wait, it leaves the pack."""
    extra = cold.machine.training / "extra.bin"
    extra.write_bytes(bytes(range(256)) * 100)
    assert cold.run("backup").status == 0
    extra.unlink()
    assert cold.run("backup").status == 0
    assert cold.run("forget", "3", "--yes").status == 0
    prune = ("prune", "--yes", "--grace", "0s", "--quickly")
    assert cold.run(*prune).status == 0
    cold.freeze("GLACIER")
    for options, count in (((), 1), (("--wait-for-minimum",), 0)):
        done = cold.run(*prune[:1], "--dry-run", *prune[2:], *options, "--json")
        assert done.json()["to_delete"]["packs"] == count, done
        early, held = (done.json()[name] for name in ("early", "held_for_minimum"))
        assert (early["packs"], held["packs"]) == (count, 1 - count)
        assert (early if count else held)["seconds_left"] == pytest.approx(90 * 86400, abs=3600)
    done = cold.run(*prune)
    assert "1 pack (" in done.out
    assert "in GLACIER, up to 90 days before the minimum of the class; waiting until then costs the same" in done.out
    assert "1 pack (" in done.out.splitlines()[-1]
