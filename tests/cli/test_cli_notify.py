"""``mlsync notify test``: what each service answered, and how the command ends."""

from __future__ import annotations

import json

import pytest
from machine import NO_DEVICE

from bot_server import bot_server


@pytest.fixture
def bots(machine):
    """A machine with two channels, and the server that plays both."""
    with bot_server() as server:
        for name in ("team", "ops"):
            place = machine.base / name
            place.write_text(f"{server.url}/{name}?key=secret-key\n")
            place.chmod(0o600)
        machine.configure(
            f'[[notify]]\nchannel = "wecom"\nname = "team"\nurl_file = "{machine.base}/team"\n'
            f'[[notify]]\nchannel = "webhook"\nurl_file = "{machine.base}/ops"\n{NO_DEVICE}'
        )
        yield machine, server


def test_each_channel_is_tried(bots):
    """Both are told, or the one that is named, and no line has anything of the address."""
    machine, server = bots
    assert machine.good("notify", "test").out == "team: taken: errcode 0: ok\nwebhook: taken: status 200\n"
    assert machine.good("notify", "test", "webhook", "--quiet").out == ""
    paths = [path for path, _, _ in server.posts]
    assert paths == ["/team?key=secret-key", "/ops?key=secret-key", "/ops?key=secret-key"]


def test_a_refusal_and_a_service_that_is_away_have_their_own_status(bots):
    """An error in an answer with status 200 ends with 106, nobody there with 107; a wrong name is a wrong argument."""
    machine, server = bots
    server.answer = 200, {}, b'{"errcode":93000,"errmsg":"invalid key secret-key"}'
    done = machine.run("notify", "test", "team")
    assert (done.status, done.out) == (106, "team: NOT TAKEN: errcode 93000: invalid key …\n")
    assert "secret-key" not in done.out + done.err
    (machine.base / "team").write_text("http://127.0.0.1:1/secret-key\n")
    done = machine.run("notify", "test", "team", "--json")
    assert done.status == 107
    assert done.json()["channels"][0]["said"] == "not reached: Connection refused"
    done = machine.run("notify", "test", "tea")
    assert done.status == 2
    assert "there are: team, webhook" in done.err


def test_without_channels_there_is_nothing_to_try(machine):
    """The message says where a channel is described."""
    done = machine.run("notify", "test")
    assert done.status == 2
    assert "docs/notifications.md" in done.err


def told(server):
    """The kinds of events that the webhook got, and whether each is over."""
    events = [json.loads(body) for path, _, body in server.posts if path.startswith("/ops")]
    return [(one["data"]["kind"], one["data"]["is_over"]) for event in events for one in as_list(event)]


def as_list(value):
    return value if isinstance(value, list) else [value]


def test_damage_that_a_check_finds_is_told_once(bots):
    """Two checks that find the same tell it once; one that reads all and finds nothing tells that it is over."""
    machine, server = bots
    machine.good("backup")
    assert machine.run("check", "--read-data").status == 0
    pack = machine.object("packs/*/*")
    whole = pack.read_bytes()
    pack.unlink()
    assert [machine.run("check").status for _ in range(2)] == [33, 33]
    assert told(server) == [("damage", False)]
    pack.write_bytes(whole)
    assert machine.run("check").status == 0
    assert told(server) == [("damage", False)]
    assert machine.run("check", "--read-data").status == 0
    assert told(server) == [("damage", False), ("damage", True)]


def test_what_a_prune_deletes_is_told(bots):
    """A prune that deletes nothing says nothing, and one that deletes says how much."""
    machine, server = bots
    machine.good("backup")
    machine.good("prune", "--yes")
    assert told(server) == []
    (machine.training / "notes.txt").write_bytes(b"x" * 5000)
    machine.good("backup")
    machine.good("forget", "1", "--yes")
    machine.good("prune", "--yes", "--grace", "0s")
    assert told(server) == [("pruned", False)]
