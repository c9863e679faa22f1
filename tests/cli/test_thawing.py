"""What a restore tells of cold packs and does with them, by a store whose clock stands still unless somebody sleeps."""

from __future__ import annotations

import pytest

from doubles.cold_store import ColdStore
from flow_parts import RUN, World, noise
from mlsync.cli.arguments.invocation import Invocation
from mlsync.cli.arguments.thawing import Thawing, thaw_request
from mlsync.cold.find import packs_of, packs_of_list
from mlsync.cold.thaw import ThawOptions
from mlsync.errors import ConfigInvalid, ObjectArchived, ThawRefused, ThawUnderWay


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A version whose list of files lies in packs too, all of them cold."""
    monkeypatch.setattr("mlsync.repository.encoding.segments.INLINE_BYTES_MAX", 0)
    world = World(tmp_path, ColdStore())
    for number in range(40):
        world.write(f"data{number}.bin", noise(1000, number))
    world.backup()
    world.write("more.bin", noise(2000, 99))
    world.backup()
    world.store.freeze()
    yield world
    world.close()


def thawing(world, tier="standard", **more):
    """What a command uses, with or without a request."""
    request = None if tier is None else ThawOptions(tier, 7, sleep=world.store.sleep, **more)
    return Thawing(world.repository, Invocation("mlsync", ()), world.monitor, request)


def test_a_list_of_files_in_cold_packs_is_thawed_before_the_rest(world):
    """Two rounds, which are told: nobody can say what else must be thawed before the list can be read."""
    stored = world.repository.stored(RUN, 2)
    both = thawing(world)
    with pytest.raises(ObjectArchived):
        world.repository.manifest(stored)
    both.ready_list(packs_of_list(stored))
    assert "the version's own list of files is in cold storage" in world.monitor.notices[0][1]
    first = len(world.store.asked)
    manifest = world.repository.manifest(stored)
    assert both.ready(packs_of(manifest)) == (len(packs_of(manifest) - packs_of_list(stored)) > 0)
    assert len(world.store.asked) == len(packs_of(manifest) | packs_of_list(stored)) >= first
    world.restore(2, ready=both.ready)
    assert world.restored(2) == world.tree()


def test_prices_come_before_the_first_request(world):
    """Whoever reads along knows what it costs, before anything is asked for."""
    seen = []
    thaw = world.store.thaw

    def note(key, *, days, tier):
        seen.append(list(world.monitor.notices))
        return thaw(key, days=days, tier=tier)

    world.store.thaw = note
    thawing(world).ready(packs_of_list(world.repository.stored(RUN, 2)))
    assert any("list price of AWS in us-east-1" in text for _, text in seen[0])


def test_without_a_request_it_tells_and_asks_for_nothing(world):
    """The prices of all tiers are there for nothing."""
    telling = thawing(world, None)
    telling.ready_list(packs_of_list(world.repository.stored(RUN, 2)))
    assert world.store.asked == []
    assert {offer["tier"] for offer in telling.invocation.cold[0]["offers"]} == {"expedited", "standard", "bulk"}


def test_a_refused_tier_tells_no_price_and_asks_for_nothing(world):
    """What cannot be had is refused first."""
    world.store.freeze("DEEP_ARCHIVE")
    with pytest.raises(ThawRefused):
        thawing(world, "expedited").ready(packs_of_list(world.repository.stored(RUN, 2)))
    assert (world.store.asked, [text for _, text in world.monitor.notices if "USD" in text]) == ([], [])


def test_no_wait_goes_on_round_by_round(world):
    """The same command three times: the list, what it names, and the restore."""
    stored = world.repository.stored(RUN, 2)
    for _ in range(2):
        with pytest.raises(ThawUnderWay):
            thawing(world, waits=False).ready_list(packs_of_list(stored))
    world.store.sleep(world.store.takes_s)
    thawing(world, waits=False).ready_list(packs_of_list(stored))
    manifest = world.repository.manifest(stored)
    if packs_of(manifest) - packs_of_list(stored):
        with pytest.raises(ThawUnderWay):
            thawing(world, waits=False).ready(packs_of(manifest))
        world.store.sleep(world.store.takes_s)
    assert not thawing(world, waits=False).ready(packs_of(manifest))
    assert len(world.store.asked) == len({key for key, _, _ in world.store.asked})


def test_an_error_is_explained_once_and_never_replaced(world):
    """The packs that it names are told with their prices; a store that fails meanwhile changes nothing."""
    telling = thawing(world, None)
    error = ObjectArchived("cold", where=", ".join(world.store.classes))
    telling.explain(error)
    told = len(world.monitor.notices)
    telling.explain(error)
    assert len(world.monitor.notices) == told > 0
    world.store.is_away = True
    thawing(world, None).explain(error)
    thawing(world, None).explain(ObjectArchived("cold", where="s3://bucket/elsewhere"))
    assert len(world.monitor.notices) == told


def test_options_without_a_tier_are_refused():
    """They would do nothing."""
    assert thaw_request(None, None, no_wait=False, ask_again=False) is None
    with pytest.raises(ConfigInvalid):
        thaw_request(None, 3, no_wait=False, ask_again=False)
    request = thaw_request("bulk", None, no_wait=True, ask_again=True)
    assert (request.tier, request.days, request.waits, request.again) == ("bulk", 7, False, True)
