from __future__ import annotations

import warnings

import pytest
from fuzz import CORPUS, TARGETS

FILES = sorted(CORPUS.iterdir())


@pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])
def test_what_found_something_once_finds_nothing(path):
    """Inputs that a parser did not stand once are answered, or refused as they should be."""
    TARGETS[path.name.partition(".")[0]].check(path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_stands_its_sound_inputs(name):
    """What the fuzzer begins with is sound: what it finds is found by its changes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, where the inputs are made
        seeds = TARGETS[name].seeds()
    assert seeds
    for data in seeds:
        TARGETS[name].check(data)
