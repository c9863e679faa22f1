"""Many runs are gone through beside each other, in their order, and each costs few requests."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from doubles.meeting_store import MeetingStore
from flow_parts import RUN, World, noise
from mlsync.cli.forget_by_policy import Applied, PolicyChoice, _applied, _carried_out
from mlsync.cli.reports.fleet_report import fleet_of
from mlsync.config.load import load
from mlsync.errors import VersionKept
from mlsync.repository import names
from mlsync.repository.commit import commit
from mlsync.repository.history.decision import Pin
from mlsync.repository.history.decisions import By, decide, find_decided
from mlsync.repository.history.seen_decision import half
from mlsync.repository.listing import run_names, runs
from mlsync.repository.manifest import Manifest, Previous
from mlsync.repository.repository import Repository
from mlsync.retention.grammar import parse_rules
from mlsync.store.counting import CountingStore

RUNS = [f"run-{number:02}" for number in range(8)]
VERSIONS = 4
NOW = By("host", 4 * 10**18)


@pytest.fixture
def world(tmp_path):
    """A repository of eight runs with four versions each, none of which any proof protects."""
    world = World(tmp_path)
    world.write("a.bin", noise(300, 1))
    world.backup()
    first = world.manifest(1)
    for run in RUNS:
        previous = None
        for number in range(1, VERSIONS + 1):
            root = msgspec.structs.replace(first.root, run=run, number=number, previous=previous, created_ns=number)
            commit(world.repository, Manifest(root, first.entries), lambda _: None)
            previous = Previous(number, world.repository.stored(run, number).digest)
    yield world
    world.close()


@pytest.fixture
def config(tmp_path):
    """A configuration with a policy for all runs."""
    path = tmp_path / "mlsync.toml"
    path.write_text(f'repository = "{tmp_path}/repository"\n[retention]\nmax_remove = "100%"\ngrace = "0s"\n')
    path.chmod(0o600)
    return load(path)


def meeting(world, prefix=names.VERSIONS, method="get"):
    """The repository through a store where calls wait until as many are there as there are runs."""
    store = MeetingStore(world.store, prefix, len(RUNS), method)
    return Repository(store, world.repository.keys), store


def policy(config, repository):
    """What "last 2" says of all runs."""
    return _applied(config, repository, None, PolicyChoice(parse_rules(("last 2",)), yes=True), NOW)


def test_names_of_runs_cost_one_page_and_a_manifest_each(world):
    """Neighbours in a listing come from one page; their names are read several at once."""
    repository, store = meeting(world)
    counted = CountingStore(store)
    assert sorted(run_names(Repository(counted, repository.keys))) == [*RUNS, RUN]
    assert (store.most, counted.calls["list"], counted.calls["get"]) == (len(RUNS), 1, len(RUNS) + 1)
    assert [run.name for run in runs(repository)] == [*RUNS, RUN]


def test_a_long_run_is_passed_over_by_name(world, monkeypatch):
    """Of a run with more than a page of versions the rest is not listed."""
    monkeypatch.setattr("mlsync.repository.listing.PAGE_COUNT", 2)
    counted = CountingStore(world.store)
    assert sorted(run_names(Repository(counted, world.repository.keys))) == [*RUNS, RUN]
    assert counted.calls["list"] == len(RUNS) + 1


def test_the_fleet_is_read_beside_each_other_and_shown_in_order(world):
    """Runs are listed at once, and told by name."""
    repository, store = meeting(world, names.LATER_PROOFS, "list")
    assert [one.run for one in fleet_of(repository)] == [*RUNS, RUN]
    assert store.most == len(RUNS)


def test_a_policy_costs_a_run_few_requests(world, config):
    """Judged and forgotten: each manifest is read once, and each kind of object listed once for either."""
    counted = CountingStore(world.store)
    repository = Repository(counted, world.repository.keys)
    applied = policy(config, repository)
    judged = Counter(counted.calls)
    assert (judged["list"], judged["get"]) == (1 + 3 * (len(RUNS) + 1), (len(RUNS) + 1) + len(RUNS) * VERSIONS + 1)
    _carried_out(repository, applied, NOW)
    done = Counter(counted.calls) - judged
    # Versions, decisions and proofs once more, since others may have changed them; then the decision itself.
    assert (done["list"], done["put"], done["get"]) == (3 * len(RUNS), len(RUNS), 2 * len(RUNS))


def test_runs_are_judged_and_forgotten_beside_each_other(world, config):
    """Decisions of several runs are under way at once, and what was done is in the runs' order."""
    repository, store = meeting(world, names.DECISIONS, "put")
    done = _carried_out(repository, policy(config, repository), NOW)
    assert [one.evaluation.run for one, _ in done.found if one.evaluation.removed] == RUNS
    assert store.most == len(RUNS)
    assert all(sorted(find_decided(repository, run).forgotten) == [1, 2] for run in RUNS)


def test_a_run_that_fails_stops_no_other(world, config):
    """What was pinned meanwhile is refused of its run alone, and that is told."""
    applied = policy(config, world.repository)
    run = RUNS[3]
    digest = half(world.repository.stored(run, 1).digest)
    decide(world.repository, run, None, lambda _, draft: draft.pins.update({1: Pin(1, digest, "", "", 1)}), NOW)
    done: Applied = _carried_out(world.repository, applied, NOW)
    assert [(name, type(error)) for name, error in done.refused] == [(run, VersionKept)]
    assert run not in [one.evaluation.run for one, _ in done.found]
    assert not find_decided(world.repository, run).forgotten
    assert all(find_decided(world.repository, one).forgotten for one in RUNS if one != run)
