"""What a finished file's name alone says about a save."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mlsync.formats.groups.names import Saved, saved_by


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (b"checkpoint-10/trainer_state.json", b"checkpoint-10"),
        (b"out/checkpoint-10/trainer_state.json", b"out/checkpoint-10"),
        (b"latest", b""),
        (b"out/latest_checkpointed_iteration.txt", b"out"),
        (b"step-5/.metadata", b"step-5"),
        (b"step-5/_CHECKPOINT_METADATA", b"step-5"),
        (b"step-5/commit_success.txt", b"step-5"),
        (b"snap/.snapshot_metadata", b"snap"),
        (b"weights/model.safetensors.index.json", b"weights"),
        (b"_BACKUP_REQUESTED", b""),
    ],
)
def test_the_last_file_of_a_save_says_that_it_ended(path, place):
    """Each framework has a file that it writes after all others of a save."""
    assert saved_by(path) == Saved(place, has_ended=True, is_alone=False)


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (b"checkpoint-10/model.safetensors.index.json", b"checkpoint-10"),
        (b"checkpoint-10/rng_state_3.pth", b"checkpoint-10"),
        (b"checkpoint-10/global_step10/mp_rank_00_model_states.pt", b"checkpoint-10"),
        (b"global_step10/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt", b"global_step10"),
        (b"iter_0000123/mp_rank_00/model_optim_rng.pt", b"iter_0000123"),
        (b"state/optimizer.bin", b"state"),
        (b"state/random_states_1.pkl", b"state"),
        (b"dcp/__3_0.distcp", b"dcp"),
        (b"model-00001-of-00002.safetensors", b""),
    ],
)
def test_of_a_save_in_several_files_more_is_to_come(path, place):
    """A file of a save that is not the last one waits for the others, whatever its name would say elsewhere."""
    assert saved_by(path) == Saved(place, has_ended=False, is_alone=False)


@pytest.mark.parametrize("path", [b"weights/last.pt", b"weights/epoch=3-step=9.ckpt", b"weights/big.gguf"])
def test_a_checkpoint_in_one_file_is_a_save_of_its_own(path):
    """Nothing needs to follow it."""
    assert saved_by(path) == Saved(b"weights", has_ended=False, is_alone=True)


@pytest.mark.parametrize("path", [b"results.csv", b"train.log", b"runs/events.out.tfevents.1.host", b"args.yaml", b"a"])
def test_a_log_says_nothing_about_a_save(path):
    """Files that are not part of a checkpoint by their name are none of a save's."""
    assert saved_by(path) is None


def test_the_names_take_no_parser():
    """The idle agent knows the names, and loads neither numpy nor any parser of a container for that."""
    code = "import sys, mlsync.formats.groups.names\nprint([m for m in sys.modules if 'torch' in m or 'numpy' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
