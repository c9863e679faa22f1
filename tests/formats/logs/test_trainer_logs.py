"""What trainers write beside their checkpoints, whole and torn."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from mlsync.formats.logs.trainer_logs import (
    STATE_BYTES_MAX,
    TrainerState,
    argument_facts,
    read_fitness,
    read_trainer_state,
    results_facts,
    state_facts,
)

MADE = Path(__file__).parents[1] / "made"
STATE = (MADE / "huggingface-trainer/checkpoint-3/trainer_state.json").read_bytes()
RESULTS = b"""epoch,time,metrics/precision(B),metrics/mAP50(B),metrics/mAP50-95(B),val/box_loss
1,1.5,0.5,0.4,0.2,1.0
2,2.5,0.5,0.6,0.5,0.9
3,3.5,0.9,0.5,0.3,0.8
"""


def test_the_state_names_its_step_and_the_best_checkpoint():
    """The real trainer's state of step 3 says that the checkpoint of step 2 was the best."""
    assert read_trainer_state(STATE) == TrainerState(3, 2)


def test_a_state_without_a_best_checkpoint_names_none():
    """Without an evaluation there is no best one; an older trainer names its directory alone."""
    assert read_trainer_state(b'{"global_step": 3, "best_model_checkpoint": null}') == TrainerState(3, None)
    assert read_trainer_state(b'{"global_step": 9, "best_model_checkpoint": "out/checkpoint-7"}') == TrainerState(9, 7)


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"7", b"{}", b'{"global_step": "3"}', b'{"global_step": -1}', b'{"global_step": true}', b"\xff\xfe"],
)
def test_what_is_no_state_says_nothing(data):
    """Other JSON, and what is none, is no state; nor is what is too long to be looked at, or too deep."""
    assert read_trainer_state(data) is None
    assert read_trainer_state(b"[" * 100_000) is None
    assert read_trainer_state(STATE + b" " * STATE_BYTES_MAX) is None


def test_fitness_is_the_highest_of_all_epochs():
    """Precisions are weighed up as Ultralytics does; those of masks come to those of boxes."""
    assert read_fitness(RESULTS) == pytest.approx(0.1 * 0.6 + 0.9 * 0.5)
    both = b" metrics/mAP50(B), metrics/mAP50-95(B), metrics/mAP50(M), metrics/mAP50-95(M)\n1,1,1,1\n"
    assert read_fitness(both) == pytest.approx(2.0)
    assert read_fitness(b"epoch,metrics/accuracy_top1,metrics/accuracy_top5\n1,0.5,0.9\n") == pytest.approx(0.7)


@pytest.mark.parametrize(
    "data", [b"", b"epoch,loss\n1,2\n", b"\0\0\n", b"a\n" * 9, b"metrics/mAP50-95(B)\nnan\ninf\nx\n"]
)
def test_other_tables_have_no_fitness(data):
    """A table of something else, or of no numbers, says nothing."""
    assert read_fitness(data) is None


def test_a_torn_row_is_left_out():
    """A row that is still being written counts for nothing, however good it looks."""
    assert read_fitness(RESULTS + b"4,4.5,0.9,1.0,1.0,0") == read_fitness(RESULTS)
    assert read_fitness(RESULTS + b"4,4.5,0.9,1.0,1\n") == read_fitness(RESULTS)


@pytest.mark.parametrize(("read", "whole"), [(read_trainer_state, STATE), (read_fitness, RESULTS)])
def test_damage_is_no_error(read, whole):
    """Cut anywhere, or with any bytes changed, both are read or not, and never raise."""
    chance = random.Random(7)
    for end in range(len(whole)):
        read(whole[:end])
    for _ in range(3000):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        read(bytes(damaged))


def test_the_state_is_still_json_as_the_trainer_writes_it():
    """What the tests read is what the real trainer wrote, with a direction that its state does not tell."""
    state = json.loads(STATE)
    assert (state["best_metric"], [one["eval_score"] for one in state["log_history"]]) == (0.25, [0.5, 0.25, 0.75])


def test_what_logs_tell_of_a_training():
    """The state of the real trainer, and a table and settings of Ultralytics, say how far it was and what was best."""
    best = json.loads(STATE)["best_metric"]
    state = {"framework": "huggingface-trainer", "epoch": json.loads(STATE)["epoch"], "step": 3}
    assert state_facts(STATE) == state | {"best_metric": best, "best_step": 2}
    assert results_facts(RESULTS) == {
        "framework": "ultralytics",
        "epoch": 3,
        "best_epoch": 2,
        "best_fitness": pytest.approx(0.51),
    }
    settings = b"task: detect\nmode: train\nmodel: 'yolo11n.pt'\nepochs: 100\nproject: null\n"
    told = {"framework": "ultralytics", "task": "detect", "model": "yolo11n.pt", "epochs": 100}
    assert argument_facts(settings) == told


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff\0", b"task: a\nmodel: b\n", b"epoch,loss\n1,2\n", b'{"epoch": 1}'])
def test_other_files_of_these_names_tell_nothing(data):
    """What is no such log has no facts, and numbers that are none are left out of those of one that is."""
    assert (state_facts(data), results_facts(data), argument_facts(data)) == ({}, {}, {})
    odd = b'{"global_step": 1, "epoch": NaN, "best_metric": true}'
    assert state_facts(odd) == {"framework": "huggingface-trainer", "step": 1}
