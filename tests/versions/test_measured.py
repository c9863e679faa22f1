"""The numbers that are known of a version, from its proofs and from trainers' logs."""

import json

import pytest

from flow_parts import RUN, World
from mlsync.formats.logs.trainer_logs import last_fitness, last_in_column, last_logged
from mlsync.versions.best import BestSearch
from mlsync.versions.logged import logged_facts
from mlsync.versions.logs.metrics import logged_metrics
from mlsync.versions.measured import measured
from safetensors_parts import saved


@pytest.fixture
def world(tmp_path):
    """A run without versions."""
    world = World(tmp_path)
    yield world
    world.close()


def known(world, *asked):
    """What is known of the newest version of a world in which everything was backed up."""
    world.backup()
    return measured(world.repository, world.manifest().entries, asked)


RESULTS = b"epoch,  metrics/mAP50(B), metrics/mAP50-95(B),val/box_loss\n1,0.5,0.3,1.5\n2,0.7,0.4,1.2\n3,0.6,0.2,1.3\n"


def test_facts_of_proofs_are_numbers(world):
    """Each checkpoint gives its numbers; the names are those that show prints."""
    world.write("a.safetensors", saved(epoch=3, best_fitness=0.5))
    world.write("b.safetensors", saved(epoch=7, best_fitness=0.25))
    found = known(world)
    assert found.numbers["best_fitness"] == (0.25, 0.5)
    assert (found.epoch, found.step, found.is_resumable) == (7, None, False)


def test_the_newest_training_says_how_far_it_was(world):
    """What training would go on from counts, and not a file of an earlier training beside it."""
    world.write("old/best.safetensors", saved(epoch=90))
    world.write("new/last.safetensors", saved(epoch=2, step=40, optimizer=True))
    found = known(world)
    assert (found.epoch, found.step, found.is_resumable) == (2, 40, True)


def test_files_of_tables_and_states_are_asked_by_name(world):
    """FILE:NAME is the last value in a column, or in what a trainer logged; of several files each gives its own."""
    world.write("args.yaml", b"task: detect\nmodel: yolo\nepochs: 3\n")
    world.write("results.csv", RESULTS)
    for step, loss in ((10, 2.5), (20, 1.5)):
        state = {"global_step": step, "log_history": [{"eval_loss": 9.0}, {"eval_loss": loss}, {"loss": 1}]}
        world.write(f"run-{step}/trainer_state.json", json.dumps(state).encode())
    names = ("results.csv:val/box_loss", "trainer_state.json:eval_loss", "run-20/trainer_state.json:eval_loss")
    found = known(world, *names, "fitness", "other.csv:x", "results.csv:nothing")
    assert [found.numbers[name] for name in names] == [(1.3,), (1.5, 2.5), (1.5,)]
    assert found.numbers["fitness"] == (pytest.approx(0.24),)
    assert not {"other.csv:x", "results.csv:nothing"} & found.numbers.keys()
    assert (found.epoch, found.step) == (3, 20)


def test_logs_are_not_read_unless_a_rule_asks(world):
    """Without a rule that compares numbers, no log is fetched from the store."""
    world.write("results.csv", RESULTS)
    world.backup()
    entries = world.manifest().entries
    before = dict(world.counted.calls)
    assert measured(world.repository, entries, None).numbers == {}
    assert dict(world.counted.calls) == before


def test_the_last_whole_row_counts():
    """A row that is still being written does not count, nor does a cell that is no number."""
    assert last_in_column(RESULTS + b"4,0.9,0.9", "metrics/mAP50(B)") == 0.6
    assert last_in_column(RESULTS + b"4,,nan,x\n", "val/box_loss") == 1.3
    assert last_in_column(RESULTS + b"4\n", "val/box_loss") == 1.3
    assert last_in_column(RESULTS, "x") is None
    assert last_in_column(b"", "x") is None
    assert last_in_column(b'"\0', "x") is None
    assert last_fitness(RESULTS) == pytest.approx(0.6 * 0.1 + 0.2 * 0.9)
    assert last_fitness(b"epoch\n1\n") is None


@pytest.mark.parametrize(
    ("state", "value"),
    [
        ({"log_history": [{"m": 1}, {"m": 2}, {"x": 3}]}, 2),
        ({"m": 5, "log_history": [{"x": 1}]}, 5),
        ({"m": 5, "log_history": "none"}, 5),
        ({"log_history": [3, None, {"m": "high"}]}, None),
        ({"m": True}, None),
        ({"m": 1e300}, None),
        ([1], None),
    ],
)
def test_states_in_json_are_read_within_bounds(state, value):
    """The last entry that has the number counts, then the top; what is no number is none."""
    assert last_logged(json.dumps(state).encode(), "m") == value
    assert last_logged(b"[" * 100_000, "m") is None


def test_a_log_is_fetched_once_for_all_that_ask(world):
    """Facts, the numbers of rules, and the search for the best read the same file; the store is asked for it once."""
    world.write("args.yaml", b"task: detect\nmodel: yolo\nepochs: 3\n")
    world.write("results.csv", RESULTS)
    world.backup()
    stored = world.repository.stored(RUN, 1)
    entries = list(world.repository.entries(stored))
    assert logged_facts(world.repository, entries).keys() == {b"args.yaml", b"results.csv"}
    before = dict(world.counted.calls)
    known = measured(world.repository, entries, {"fitness", "results.csv:val/box_loss"})
    assert known.numbers["results.csv:val/box_loss"] == (1.3,)
    search = BestSearch(world.repository, RUN)
    search.look(stored, entries)
    assert search.number() == 1
    assert logged_metrics(world.repository, entries)["val/box_loss"] == 1.3
    assert dict(world.counted.calls) == before
