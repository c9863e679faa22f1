"""What is said of resuming from a file, and from a directory whose files are one checkpoint."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mlsync.versions.resume_status import file_says, group_of, groups_say

WEIGHTS = {"parameter_count": 5}
OPTIMIZER = {"framework": "huggingface-optimizer", "has_optimizer": True, "resumable": True, "parameter_count": 0}
SCHEDULE = {"has_optimizer": False, "resumable": False, "parameter_count": 0}
WHOLE = {"has_optimizer": True, "resumable": True, "parameter_count": 5}
STRIPPED = {"has_optimizer": False, "resumable": False, "parameter_count": 5}
ONLY = "weights only, no optimizer: not for resuming"


def entries(**files):
    """Entries of one directory, with the facts of their proofs; ``None`` for a file without one."""
    return {
        name: SimpleNamespace(path=name, proof=None if facts is None else SimpleNamespace(facts=facts))
        for name, facts in ((name.encode(), facts) for name, facts in files.items())
    }.values()


def trainers(**more):
    """A directory as Hugging Face's trainer writes it."""
    files = {"model.safetensors": WEIGHTS, "optimizer.pt": OPTIMIZER, "scheduler.pt": SCHEDULE} | more
    return entries(**{f"out/checkpoint-5/{name}": facts for name, facts in files.items()})


def test_a_directory_of_the_trainer_is_resumable_as_a_whole():
    """The parts are not judged each: the directory is."""
    assert groups_say(trainers(**{"trainer_state.json": None})) == {b"out/checkpoint-5": "resumable as a whole"}


def test_what_a_directory_lacks_is_said():
    """Without the trainer's state it cannot resume; with weights alone it is not meant to."""
    assert groups_say(trainers()) == {b"out/checkpoint-5": "not for resuming: trainer_state.json is missing"}
    assert groups_say(entries(**{"checkpoint-5/model.safetensors": WEIGHTS})) == {b"checkpoint-5": ONLY}


def test_files_that_are_whole_are_no_group():
    """In a directory of checkpoints that are files, each file speaks for itself."""
    assert groups_say(entries(**{"weights/last.pt": WHOLE, "weights/best.pt": STRIPPED})) == {}
    ultralytics = {"framework": "ultralytics"}
    assert groups_say(entries(**{"weights/last.pt": WHOLE | ultralytics, "weights/b.pt": STRIPPED | ultralytics})) == {}


def test_a_stripped_file_gets_no_optimizer_from_its_neighbours():
    """Ultralytics' files are whole or stripped; nothing beside them makes them a group."""
    ultralytics = {"framework": "ultralytics"}
    assert groups_say(entries(**{"best.pt": STRIPPED | ultralytics, "optimizer.bin": OPTIMIZER})) == {}
    others = {"model.safetensors": WEIGHTS, "optimizer.bin": OPTIMIZER}
    assert groups_say(entries(**{"last.pt": WHOLE | ultralytics}, **others)) == {}


def test_weights_and_optimizer_in_two_files_are_a_group():
    """As accelerate writes them, in any directory, also the run's own."""
    files = {"model.safetensors": WEIGHTS, "optimizer.bin": OPTIMIZER}
    assert groups_say(entries(**files)) == {b"": "resumable as a whole"}


def test_a_distributed_checkpoint_is_a_group():
    """Each file's facts are those of all: the directory says once whether training can resume from it."""
    shard = WHOLE | {"framework": "dcp"}
    assert groups_say(entries(**{"step-5/__0_0.distcp": shard, "step-5/__1_0.distcp": shard})) == {
        b"step-5": "resumable as a whole"
    }
    bare = STRIPPED | {"framework": "dcp"}
    assert groups_say(entries(**{"step-5/__0_0.distcp": bare, "step-5/__1_0.distcp": bare})) == {b"step-5": ONLY}


def test_a_part_in_a_directory_below_belongs_to_the_whole():
    """A group is the outermost directory that is one checkpoint by its name."""
    assert group_of(b"out/checkpoint-5/global_step5/x.pt") == b"out/checkpoint-5"
    assert group_of(b"weights/last.pt") == b"weights"


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (WHOLE, "resumable"),
        (STRIPPED, ONLY),
        (STRIPPED | {"has_optimizer": True}, "not for resuming: training has ended"),
        (OPTIMIZER, "optimizer's state"),
        (SCHEDULE, ""),
        (WEIGHTS, ""),
        ({}, ""),
    ],
)
def test_what_a_file_says_by_itself(facts, said):
    """Only of weights it means something that training cannot resume from them."""
    assert file_says(facts) == said
