"""The version that is best by a number: measured, or else what checkpoints and logs say."""

from __future__ import annotations

import msgspec
import pytest

from flow_parts import RUN, World, small_checkpoint
from mlsync.errors import VersionMissing
from mlsync.proof.options import ProofOptions
from mlsync.proof.prover import Prover
from mlsync.repository.evaluation import Evaluation, Measure
from mlsync.retention.direction import is_more_better, named_number
from mlsync.values import Finding, Severity
from mlsync.versions.evaluated import RunEvaluations, best_among, sound_numbers
from mlsync.versions.select import find_version, is_version


@pytest.fixture
def world(tmp_path):
    """A run with three versions, of which the first two were measured."""
    world = World(tmp_path)
    for number in (1, 2, 3):
        world.write("last.pt", small_checkpoint(number))
        world.write("results.csv", b"epoch,loss\n1,%d\n" % number)
        world.backup(prover=Prover(ProofOptions(device="cpu")))
    add(world, 1, accuracy=0.9, loss=7.0)
    add(world, 2, accuracy=0.8)
    yield world
    world.close()


def add(world, number, made_ns=1, path=b"last.pt", **numbers):
    """Add an evaluation to a version."""
    stored = world.repository.stored(RUN, number)
    measures = [Measure(name, value) for name, value in sorted(numbers.items())]
    made = Evaluation(RUN, number, stored.digest, made_ns, "w", "h", "x", bytes(32), path, "cpu", 0.0, measures)
    world.repository.add_evaluation(made)


def best(world, text):
    """The version that is best by a number."""
    return find_version(world.repository, RUN, f"best by {text}").root.number


def test_what_was_measured_counts_before_what_was_logged(world):
    """The loss that was measured of version 1 is above what its trainer logged, and the others have a log alone."""
    assert [best(world, text) for text in ("accuracy", "accuracy min", "loss", "loss max")] == [1, 2, 2, 1]


def test_of_equals_the_newest_is_best(world):
    """A value that two versions have means the newer one, whichever way is better."""
    add(world, 3, accuracy=0.9)
    assert best(world, "accuracy") == 3
    assert best_among({1: {"a": (1.0,)}, 2: {"a": (1.0, 2.0)}}, "a", is_max=False) == 2
    assert best_among({1: {"a": (float("nan"),)}, 2: {}}, "a", is_max=True) is None


def test_a_later_evaluation_replaces_a_number(world):
    """Of a name that was measured again the newest value counts."""
    add(world, 1, made_ns=2, accuracy=0.1)
    assert best(world, "accuracy") == 2


@pytest.mark.parametrize(("path", "counts"), [(b"last.pt", False), (b"", False), (b"best.pt", True)])
def test_a_broken_checkpoint_has_no_number(world, path, counts):
    """What was measured of a checkpoint that turned out to be broken, or of a directory with it, counts for nothing."""
    (entry,) = [one for one in world.manifest(1).entries if one.path == b"last.pt"]
    fault = Finding(4, Severity.REFUSE, "NaN")
    broken = msgspec.structs.replace(entry, proof=msgspec.structs.replace(entry.proof, findings=[fault]))
    (made,) = world.repository.evaluations(world.repository.stored(RUN, 1))
    assert bool(sound_numbers([msgspec.structs.replace(made, path=path)], [broken])) is counts


def test_a_name_that_is_nowhere_is_told_with_what_is_near(world):
    """The error says so, and names what is near or known."""
    with pytest.raises(VersionMissing, match=r"a number called 'acuracy'.*did you mean accuracy"):
        best(world, "acuracy")


def test_best_is_the_number_that_the_session_says(world):
    """With a number for "best" that word means it, and without one what the trainer says."""
    world.repository.best_by = lambda run: "accuracy" if run == RUN else None
    assert find_version(world.repository, RUN, "best").root.number == 1


def test_evaluations_are_found_with_one_listing(world):
    """A list of versions costs one listing and one read for each evaluation."""
    found = RunEvaluations(world.repository, RUN)
    assert {number: len(keys) for number, keys in found.keys.items()} == {1: 1, 2: 1}
    of_all = found.of_all(world.repository.stored(RUN, number) for number in (1, 2, 3))
    assert {number: len(some) for number, some in of_all.items()} == {1: 1, 2: 1}


@pytest.mark.parametrize(
    ("name", "is_more"),
    [
        ("accuracy", True),
        ("metrics/mAP50-95(B)", True),
        ("val/box_loss", False),
        ("perplexity", False),
        ("eval_wer", False),
        ("RMSE", False),
        ("flower", True),
        ("terror_recall", False),
    ],
)
def test_less_is_better_for_losses_and_errors(name, is_more):
    """A name says which way is better, as whole words for short ones; max and min say it otherwise."""
    assert is_more_better(name) is is_more
    assert (named_number(f"{name} max"), named_number(f" {name}  min")) == ((name, True), (name, False))


def test_no_name_is_no_version():
    """The words without a name, or with the direction alone, mean no version."""
    assert is_version("best by accuracy")
    assert not any(map(is_version, ("best by", "best by ", "best by max", "best by a\nb")))
