"""Backup, restore and check over a network that breaks: they end right, or with the right error, and lose nothing."""

from __future__ import annotations

import itertools
import random
import shutil
import uuid

import pytest

from fault_proxy import Fault
from flow_parts import World, noise, small_checkpoint
from mlsync import errors
from mlsync.store.location import StoreOptions, open_store
from mlsync.store.retry import RetryingStore
from mlsync.store.s3 import client
from mlsync.store.s3 import store as s3

pytestmark = pytest.mark.slow

PART_BYTES = 5 << 20
PASSING = (
    *("reset", "stall", "delay", "500", "503", "429", "502 page"),
    *("cut-request", "stall-request", "flip-request", "throttle-request"),
    *("lost-answer", "cut-answer", "stall-answer", "flip-answer", "throttle-answer"),
)
FLOWS = ("backup", "restore", "check")


@pytest.fixture
def world(tmp_path, proxy, s3_process, s3_server, monkeypatch):
    """A run with a version in S3, and a second one to be made, of more than a part; all of it through the proxy."""
    monkeypatch.setattr(s3, "PART_BYTES", PART_BYTES)
    monkeypatch.setattr(client, "_READ_TIMEOUT_S", 1)
    proxy.reset()
    url = f"s3://{s3_process.make_bucket()}/{uuid.uuid4().hex}"
    bare = open_store(url, StoreOptions(endpoint_url=proxy.url, region=s3_server.region))
    world = World(tmp_path, RetryingStore(bare, sleep=lambda _: None, tries_max=6))
    world.write("last.pt", small_checkpoint(1))
    world.backup()
    world.write("last.pt", small_checkpoint(2))
    world.write("data.bin", noise(PART_BYTES + (1 << 18)))
    yield world
    world.close()
    bare.close()


def do(world, flow):
    """Do the flow, and what it says of itself is true."""
    if flow == "backup":
        assert world.backup().version == 2
    elif flow == "restore":
        assert world.restored(2) == world.tree()
    else:
        assert world.check(read_data=True).problems == []


def all_is_well(world):
    """Versions and files are what they should be, as a new process sees it."""
    world.reopen()
    assert world.numbers() == [1, 2]
    assert world.restored(2) == world.tree()
    assert world.check(read_data=True).problems == []


@pytest.mark.parametrize("kind", PASSING)
def test_a_fault_that_passes_changes_nothing(world, proxy, kind):
    """Whatever breaks once, at a request drawn by chance of each flow: it ends as if nothing had been."""
    chance = random.Random(kind)
    for flow in FLOWS:
        proxy.reset(Fault(kind, nth=chance.randint(1, 8)))
        do(world, flow)
    proxy.reset()
    all_is_well(world)


GOES_AWAY = [("backup", 1), ("backup", 4), ("backup", 7), ("restore", 1), ("restore", 2), ("check", 1), ("check", 7)]


@pytest.mark.parametrize(("flow", "nth"), GOES_AWAY)
def test_a_network_that_goes_away_is_an_error_and_loses_nothing(world, proxy, flow, nth):
    """From some request on nothing passes: the flow says that the store is away, and the next try does it all."""
    if flow != "backup":
        do(world, "backup")
    shutil.rmtree(world.base / "out", ignore_errors=True)
    proxy.reset(Fault("reset", nth=nth, times=1000))
    with pytest.raises(errors.StoreUnavailable):
        do(world, flow)
    proxy.reset()
    do(world, flow)
    all_is_well(world)
    assert world.store.remove_stale_uploads(-3600.0) == 0


def test_parts_that_no_server_sums_are_read_back_and_stored_again(world, proxy, monkeypatch):
    """Where the server looks at no sum, a pack that arrived damaged is found by the proof and is not relied on."""
    monkeypatch.setattr(world.store._store, "_sums_parts", False)
    proxy.reset(Fault("flip-request", "UploadPart"))
    do(world, "backup")
    proxy.reset()
    world.reopen()
    assert world.restored(2) == world.tree()
    (problem,) = world.check(read_data=True).problems
    assert problem.versions == ()


@pytest.mark.parametrize("operation", ["UploadPart", "PutObject"])
def test_bytes_that_are_damaged_on_their_way_in_never_make_a_version(world, proxy, operation):
    """Each third body arrives damaged: the server refuses it, and it is sent again."""
    proxy.reset(*(Fault("flip-request", operation, nth=nth) for nth in range(1, 30, 3)))
    do(world, "backup")
    proxy.reset()
    all_is_well(world)


def test_bytes_that_are_damaged_on_their_way_out_are_read_again(world, proxy):
    """Answers that arrive damaged, one in three, cost a second reading and no restore, and no second upload."""
    do(world, "backup")
    for flow in ("restore", "check"):
        proxy.reset(*(Fault("flip-answer", "GetObject", nth=nth) for nth in range(1, 40, 3)))
        do(world, flow)
    proxy.reset()
    all_is_well(world)


def test_expired_credentials_end_a_backup_at_once(world, proxy):
    """What only a person can mend is not tried again, and the next backup goes on from there."""
    proxy.reset(Fault("400 expired", "UploadPart", times=1000), Fault("400 expired", "PutObject", times=1000))
    with pytest.raises(errors.StoreDenied, match="ExpiredToken"):
        do(world, "backup")
    assert proxy.count("UploadPart") + proxy.count("PutObject") <= 4
    proxy.reset()
    do(world, "backup")
    all_is_well(world)


def test_a_listing_that_is_cut_is_no_short_answer(world, proxy):
    """A listing of which the rest does not come is asked for again, and at the end is an error: never fewer objects."""
    do(world, "backup")
    proxy.reset(Fault("cut-answer", "ListObjectsV2"))
    assert world.numbers() == [1, 2]
    proxy.reset(Fault("cut-answer", "ListObjectsV2", times=1000))
    with pytest.raises(errors.StoreUnavailable):
        world.numbers()


def test_every_request_of_a_backup_may_be_the_last_one_answered(world, proxy):
    """The answer to each request in turn is lost: the version is made, once, or is made by the next backup."""
    for nth in itertools.count(1):
        fault = Fault("lost-answer", nth=nth)
        proxy.reset(fault)
        world.append("log.txt", b"one more line\n")
        assert world.backup().version == 1 + nth
        if fault.matched_count < nth:
            break
    proxy.reset()
    assert world.numbers() == list(range(1, 2 + nth))
    assert world.restored() == world.tree()
    assert nth > 5
