"""Evaluations: what stands beside a version, of whom it is, and what counts."""

from __future__ import annotations

import os

import msgspec
import pytest
from forged import EXAMPLES

from doubles.memory_store import MemoryStore
from mlsync.codec.keys import Keys
from mlsync.errors import FormatUnsupported, ManifestDamaged
from mlsync.repository import names, sealed_object
from mlsync.repository.evaluation import Evaluations, Measure, newest_numbers
from mlsync.repository.repository import Repository
from mlsync.repository.sealed_object import EVALUATION, LATER_PROOF


@pytest.fixture
def repository():
    repository = Repository(MemoryStore(), EXAMPLES.keys)
    repository.store.put(EXAMPLES.version_key, b"".join(part for part, _ in EXAMPLES.manifest()))
    return repository


@pytest.fixture
def stored(repository):
    return repository.stored(EXAMPLES.run, 2)


def evaluation(**changes):
    """The document's evaluation, with changes."""
    return msgspec.structs.replace(EXAMPLES.evaluation(), **changes)


def test_a_version_has_its_evaluations_oldest_first(repository, stored):
    """Evaluations come in the order in which they were made, whatever their names."""
    made = [evaluation(made_ns=moment) for moment in (3, 1, 2)]
    for one in made:
        repository.add_evaluation(one)
    assert [one.made_ns for one in repository.evaluations(stored)] == [1, 2, 3]
    assert {number: len(keys) for number, keys in repository.evaluation_keys(EXAMPLES.run).items()} == {2: 3}


def test_the_newest_number_of_a_name_counts():
    """Of a number that several evaluations have, the one that was made last counts; other names stay."""
    older = evaluation(made_ns=1, numbers=[Measure("accuracy", 0.5), Measure("loss", 2.0)])
    newer = evaluation(made_ns=2, numbers=[Measure("loss", 1.0)])
    assert newest_numbers([newer, older]) == {"accuracy": 0.5, "loss": 1.0}


def test_an_evaluation_of_another_manifest_is_none_of_the_version(repository, stored):
    """An evaluation whose manifest is another is skipped, by name and with a reason."""
    key = repository.add_evaluation(evaluation(manifest=bytes(32))).key
    assert repository.evaluations(stored) == []
    assert "another version" in repository.skipped[key].what


def test_a_planted_object_costs_nothing_but_its_name(repository, stored):
    """Objects that do not open leave those that do."""
    repository.add_evaluation(evaluation())
    run_id, number = names.parse_evaluation(EXAMPLES.evaluation_key)
    for body in (b"", b"x" * 5000):
        repository.store.put(names.evaluation(run_id, number, os.urandom(16)), body)
    assert [one.by_name for one in repository.evaluations(stored)] == [{"accuracy": 0.75, "loss": 0.5}]
    assert len(repository.skipped) == 2


def test_a_later_proof_does_not_pass_for_an_evaluation(repository, stored):
    """Another kind of object under the name of an evaluation does not open."""
    body = sealed_object.seal(EXAMPLES.keys, LATER_PROOF, EXAMPLES.evaluation_key, b"x")
    repository.store.put(EXAMPLES.evaluation_key, body)
    with pytest.raises(ManifestDamaged, match="this is no evaluation"):
        repository.open_evaluation(EXAMPLES.evaluation_key, stored)


def test_an_evaluation_by_a_retired_key_counts_for_nothing(repository, stored):
    """What was sealed with a key before it was rotated does not count, and nobody is told of damage."""
    repository.add_evaluation(evaluation())
    repository.store.put(names.epoch(1), b"".join(part for part, _ in EXAMPLES.all()["epoch"]))
    rotated = Repository(repository.store, EXAMPLES.later_keys)
    assert rotated.evaluations(stored) == []
    assert rotated.skipped == {}
    Evaluations(repository.store, EXAMPLES.later_keys, lambda _key, _body: None).add(
        names.parse_version(stored.key)[0], evaluation(made_ns=7)
    )
    assert [one.made_ns for one in rotated.evaluations(stored)] == [7]


def test_an_evaluation_of_a_later_epoch_is_a_claim(repository, stored):
    """A process with an older key skips what a newer one sealed, and does not call it damage."""
    body = sealed_object.seal(EXAMPLES.later_keys, EVALUATION, EXAMPLES.evaluation_key, b"x")
    repository.store.put(EXAMPLES.evaluation_key, body)
    assert repository.evaluations(stored) == []
    assert isinstance(repository.skipped[EXAMPLES.evaluation_key], FormatUnsupported)


def test_no_writer_stores_what_no_reader_takes(repository):
    """Numbers out of bounds are refused before anything is stored."""
    before = dict(repository.store.objects) if hasattr(repository.store, "objects") else None
    for numbers in ([], [Measure("a", float("nan"))], [Measure("b", 1.0), Measure("a", 1.0)], [Measure("a\nb", 1.0)]):
        with pytest.raises(ManifestDamaged):
            repository.add_evaluation(evaluation(numbers=numbers))
    assert before is None or dict(repository.store.objects) == before


def test_a_key_of_another_repository_opens_no_evaluation(repository, stored):
    """An evaluation of one repository is none of another."""
    other = Keys(os.urandom(32), EXAMPLES.keys.repository_id)
    key = repository.add_evaluation(evaluation()).key
    with pytest.raises(ManifestDamaged, match="does not authenticate"):
        Repository(repository.store, other).open_evaluation(key, msgspec.structs.replace(stored))
