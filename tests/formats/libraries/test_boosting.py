"""Models of boosted trees that XGBoost and LightGBM wrote; ``made/make_boosting.py`` says which versions."""

from __future__ import annotations

import contextlib
import random
import re
from pathlib import Path

import pytest

from checkpoint_files import MemorySource, flipped
from doubles.verdict_status import status
from mlsync.formats.containers import read_content, read_layout
from mlsync.formats.faults import MeaningBroken, NotChecked
from mlsync.formats.layout import ContainerBroken, Content
from mlsync.formats.sniff import identify
from mlsync.proof.options import ProofOptions
from mlsync.proof.prover import Prover
from mlsync.values import Severity

FILES = {path.name: path.read_bytes() for path in sorted((Path(__file__).parents[1] / "made").glob("boosting/*"))}
TEXT = FILES["plain.txt"]


def content_of(data: bytes, name: bytes = b"x") -> Content:
    source = MemorySource(data)
    container = identify(source, name)
    assert container is not None
    content = read_content(source, read_layout(source, container))
    assert content is not None
    return content


def test_a_model_is_proved_to_its_meaning():
    """Trees of one number and of several, dropped ones, categories, linear: known whatever it is called, level 2."""
    with Prover(ProofOptions(device="cpu")) as prover:
        for name, data in FILES.items():
            verdict = prover.prove(MemorySource(data), b"x")
            wanted = "lightgbm" if name.endswith("txt") else "xgboost"
            assert (status(verdict), verdict.proof.level, verdict.proof.facts["framework"]) == ("proved", 2, wanted), (
                name
            )
            assert verdict.proof.findings[0].severity == Severity.NOTE


def test_what_a_model_says_of_itself():
    """Both forms of XGBoost alike: version, trees, features, rounds, objective."""
    for ending in ("json", "ubj"):
        facts = content_of(FILES[f"dart.{ending}"]).facts
        told = {"framework_version": "3.2.0", "tree_count": 6, "feature_count": 6, "step": 2}
        assert told | {"objective": "multi:softprob"} == {key: facts[key] for key in (*told, "objective")}
    facts = content_of(FILES["linear.txt"]).facts
    assert [facts[key] for key in ("tree_count", "feature_count", "step")] == [6, 6, 2]


def test_a_model_cut_short_is_refused():
    """Anywhere in XGBoost's; in LightGBM's up to the end of its trees, and inside of its parameters."""
    for name in ("plain.json", "vector.ubj", "linear.ubj"):
        for size in range(60, len(FILES[name]), 31):
            with pytest.raises(ContainerBroken):
                content_of(FILES[name][:size])
    for size in [*range(60, TEXT.index(b"end of trees") + 12, 31), TEXT.index(b"[alpha")]:
        with pytest.raises(ContainerBroken):
            content_of(TEXT[:size])


XGBOOST_CHANGES = [
    ("plain.json", b'"num_trees":"2"', b'"num_trees":"3"', "2 trees, and 3"),
    ("plain.json", b'"tree_info":[0,0]', b'"tree_info":[0]', "groups"),
    ("plain.json", b'"iteration_indptr":[0,1,2]', b'"iteration_indptr":[0,1,3]', "last round"),
    ("plain.json", b'"left_children":[1,', b'"left_children":[99,', "child that there is not"),
    ("plain.json", b'"left_children":[1,', b'"left_children":[1.5,', "whole numbers"),
    ("plain.json", b'"parents":[2147483647,', b'"parents":[', "parents has"),
    ("plain.json", b'"version"', b"version", "parse"),
    ("dart.json", b'"weight_drop":[1E0,', b'"weight_drop":[', "weights of trees"),
    ("linear.json", b'"weights":[', b'"weights":[1,', "weights of 6 features"),
    ("plain.ubj", b"num_treesSL\0\0\0\0\0\0\0\x012", b"num_treesSL\0\0\0\0\0\0\0\x013", "2 trees, and 3"),
    ("plain.ubj", b"left_children[$l#L\0\0\0\0\0\0\0\x0f\0", b"left_children[$l#L\0\0\0\0\0\0\0\x0f\x01", "child"),
    ("plain.ubj", b"parents[$l", b"parents[$L", "kind|ends|length"),
]


def test_counts_of_xgboost_that_do_not_agree_are_refused():
    """Trees, their groups, rounds, children, weights: told in several places of the file."""
    for name, old, new, reason in XGBOOST_CHANGES:
        assert old in FILES[name], (name, old)
        with pytest.raises(ContainerBroken, match=reason):
            content_of(FILES[name].replace(old, new, 1))


TEXT_CHANGES = [
    (rb"tree_sizes=\d", b"tree_sizes=9", "ends inside|does not begin|no end"),
    (rb"\nnum_leaves=7", b"\nnum_leaves=8", "needs"),
    (rb"\nleft_child=\d", b"\nleft_child=7", "there is not"),
    (rb"\nleft_child=\d", b"\nleft_child=x", "whole numbers"),
    (rb"\nsplit_feature=\d", b"\nsplit_feature=6", "there is not"),
    (rb"\nthreshold=(\S+) ", rb"\nthreshold=\1,", "needs"),
    (rb"end of trees", b"end of tree", "no end"),
    (rb"max_feature_idx=5", b"max_feature_idx=?", "no number"),
]


def test_trees_of_lightgbm_that_do_not_fit_are_refused():
    """Sizes of trees, numbers of leaves, children, features."""
    for pattern, new, reason in TEXT_CHANGES:
        changed = re.sub(pattern, new, TEXT, count=1)
        assert changed != TEXT
        with pytest.raises(ContainerBroken, match=reason):
            content_of(changed)


def test_infinities_and_what_is_not_known_are_no_damage():
    """XGBoost writes words that JSON does not have; a booster that is not known is not looked into."""
    data = re.sub(rb'"split_conditions":\[[^,]+,', b'"split_conditions":[-Infinity,', FILES["plain.json"], count=1)
    assert content_of(data).facts["tree_count"] == 2
    for old in (b'"gradient_booster"', b'"num_feature"', b'"num_nodes"'):
        with pytest.raises(NotChecked):
            content_of(FILES["plain.json"].replace(old, b'"another"'))
    with pytest.raises(NotChecked):
        content_of(TEXT.replace(b"tree_sizes", b"tree_lengths"))


def test_a_changed_model_never_surprises():
    """Bits turned over, bytes left out: an answer or ``ContainerBroken``."""
    chance = random.Random(1)
    for data in FILES.values():
        for _ in range(150):
            changed = flipped(data, chance.randrange(20, len(data)), chance.randrange(8))
            at = chance.randrange(20, len(changed))
            changed = changed[:at] + changed[at + chance.choice((0, 0, 1, 7)) :]
            with contextlib.suppress(ContainerBroken):
                content_of(changed)


def test_meaning_is_told_from_structure():
    """Counts are level 2, the end of the file is level 1."""
    with pytest.raises(MeaningBroken):
        content_of(FILES["plain.json"].replace(b'"num_trees":"2"', b'"num_trees":"1"'))
