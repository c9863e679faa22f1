"""Every numbered rule of docs/format.md: values that break it are refused, and values that just keep it are read."""

from __future__ import annotations

import runpy
from pathlib import Path

import format_rules
import msgspec
import pytest
from forged import (
    EXAMPLES,
    packed,
    read_decision,
    read_epoch,
    read_evaluation,
    read_fence,
    read_move,
    read_omission,
    read_proof,
    read_registration,
    read_root,
    read_tombstone,
)
from reader_rules import (
    ALL_RULES,
    DECISION_RULES,
    EPOCH_RULES,
    MOVE_RULES,
    PROOF_RULES,
    RULES,
    decision_cases,
    epoch_cases,
    evaluation_cases,
    fence_cases,
    material_cases,
    move_cases,
    omission_cases,
    proof_cases,
    registration_cases,
    root_cases,
    table,
    tombstone_cases,
)

from mlsync.codec.digest import object_digest
from mlsync.errors import Damage, FormatUnsupported
from mlsync.repository import sealed_object

VECTORS = Path(__file__).parents[1] / "vectors"
ROOTS = [pytest.param(*case, id=f"{case[0].number}-{case[1]}") for case in root_cases()]
PROOFS = [pytest.param(*case, id=f"{case[0].number}-{case[1]}") for case in proof_cases()]
EVALUATIONS = [pytest.param(*case, id=f"{case[0].number}-{case[1]}") for case in evaluation_cases()]
EPOCHS = [pytest.param(*case, id=f"{case[0].number}-{case[1]}") for case in epoch_cases()]
DECISIONS = [pytest.param(*case, id=f"{case[0].number}-{case[1]}") for case in decision_cases()]
MOVES = [pytest.param(*case, id=f"{case[0].number}-{case[1]}") for case in move_cases()]
MANIFEST = object_digest(b"".join(part for part, _ in EXAMPLES.manifest()))


def outcome(read, *arguments):
    """What a reader says."""
    try:
        read(*arguments)
    except (Damage, format_rules.Broken):
        return "damage"
    except (FormatUnsupported, format_rules.Newer):
        return "newer"
    return "success"


@pytest.mark.parametrize(("rule", "expected", "value"), ROOTS)
def test_a_version_is_held_to_each_rule(rule, expected, value):
    """A version that breaks a rule is damage, one of a newer mlsync is called that, and one at a bound is read."""
    assert outcome(read_root, packed(value)) == expected, rule.text


@pytest.mark.parametrize(("rule", "expected", "value"), PROOFS)
def test_a_later_proof_is_held_to_each_rule(rule, expected, value):
    """A later proof that breaks a rule is damage, one of a newer mlsync is called that, and one at a bound is read."""
    assert outcome(read_proof, msgspec.msgpack.encode(value)) == expected, rule.text


@pytest.mark.parametrize(("rule", "expected", "value"), EVALUATIONS)
def test_an_evaluation_is_held_to_each_rule(rule, expected, value):
    """An evaluation that breaks a rule is damage, a newer mlsync's is called that, and one at a bound is read."""
    assert outcome(read_evaluation, msgspec.msgpack.encode(value)) == expected, rule.text


@pytest.mark.parametrize(("rule", "expected", "value"), EPOCHS)
def test_an_epoch_is_held_to_each_rule(rule, expected, value):
    """An epoch that breaks a rule is damage, one of a newer mlsync is called that, and one at a bound is read."""
    assert outcome(read_epoch, msgspec.msgpack.encode(value)) == expected, rule.text


@pytest.mark.parametrize(("rule", "expected", "value"), DECISIONS)
def test_a_decision_is_held_to_each_rule(rule, expected, value):
    """A decision that breaks a rule is damage, one of a newer mlsync is called that, and one at a bound is read."""
    assert outcome(read_decision, msgspec.msgpack.encode(value)) == expected, rule.text


@pytest.mark.parametrize(("rule", "expected", "value"), MOVES)
def test_a_move_record_is_held_to_each_rule(rule, expected, value):
    """A move record that breaks a rule is damage, one of a newer mlsync is called that, one at a bound is read."""
    assert outcome(read_move, msgspec.msgpack.encode(value)) == expected, rule.text


def test_what_a_prune_leaves_is_held_to_each_rule():
    """Fences, tombstones and registrations that break a rule are damage, newer ones are called that."""
    for rule, expected, value in fence_cases():
        assert outcome(read_fence, value) == expected, rule.text
    for rule, expected, value in tombstone_cases():
        assert outcome(read_tombstone, msgspec.msgpack.encode(value)) == expected, rule.text
    for rule, expected, value in registration_cases():
        assert outcome(read_registration, msgspec.msgpack.encode(value)) == expected, rule.text


def test_an_omission_is_held_to_each_rule():
    """An omission that breaks a rule is damage, one of a newer mlsync is called that, one at a bound is read."""
    for rule, expected, value in omission_cases():
        assert outcome(read_omission, msgspec.msgpack.encode(value)) == expected, rule.text


def test_a_reader_that_was_written_from_the_page_says_the_same():
    """The rules that were written a second time, from the page, agree on every case."""
    for rule, expected, value in root_cases():
        assert outcome(format_rules.root, value, EXAMPLES.run, 2) == expected, rule.text
    for rule, expected, value in proof_cases():
        assert outcome(format_rules.later_proof, value, EXAMPLES.run, 2, MANIFEST, EXAMPLES.proof_id) == expected, (
            rule.text
        )
    for rule, expected, value in evaluation_cases():
        assert outcome(format_rules.evaluation, value, EXAMPLES.run, 2, MANIFEST) == expected, rule.text
    for rule, expected, value in decision_cases():
        assert outcome(format_rules.decision, value, EXAMPLES.run, 2) == expected, rule.text
    for rule, expected, value in epoch_cases():
        assert outcome(format_rules.epoch, value, 1) == expected, rule.text


def test_that_reader_agrees_on_what_prunes_and_copiers_leave():
    """It does on move records, fences, tombstones, registrations and omissions."""
    for rule, expected, value in move_cases():
        assert outcome(format_rules.move, value, EXAMPLES.moved_id) == expected, rule.text
    for rule, expected, value in fence_cases():
        assert outcome(format_rules.fence, value) == expected, rule.text
    for rule, expected, value in tombstone_cases():
        assert outcome(format_rules.tombstone, value) == expected, rule.text
    for rule, expected, value in registration_cases():
        assert outcome(format_rules.registration, value, EXAMPLES.run) == expected, rule.text
    for rule, expected, value in omission_cases():
        assert outcome(format_rules.omission, value, EXAMPLES.run) == expected, rule.text


def test_key_material_is_held_to_each_rule_by_both_readers():
    """Material that breaks a rule is damage to both, and a suite of a newer mlsync is called that by both."""
    make = runpy.run_path(str(VECTORS / "make.py"))
    keys, name, sound = make["KEYS"], make["VERSION_NAME"], make["sealed_manifest"]()
    assert format_rules.sealed_manifest(sound, name, keys.master, keys.repository_id) == make["ROOT"]
    for rule, expected, body in material_cases(sound):
        assert outcome(sealed_object.open_, keys, sealed_object.MANIFEST, name, body) == expected, rule.text
        assert outcome(format_rules.sealed_manifest, body, name, keys.master, keys.repository_id) == expected, rule.text


def test_every_rule_has_a_number_of_its_own_and_a_case_that_breaks_it():
    """Numbers rise in each list, and no rule is without a value that a reader refuses."""
    numbers = [rule.number for rule in ALL_RULES]
    assert len(numbers) == len(set(numbers))
    for some in (RULES, PROOF_RULES, DECISION_RULES, MOVE_RULES, EPOCH_RULES):
        assert [rule.number for rule in some] == sorted(rule.number for rule in some)
    assert [one.number for one in ALL_RULES if not one.broken and not one.newer and not one.is_free] == []


def test_the_document_has_the_rules():
    """The table of docs/format.md is the list of rules, in words and in order."""
    from format_examples import DOCUMENT

    assert table() in DOCUMENT.read_text()
