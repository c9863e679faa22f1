"""Level 5 by transformers itself, of a real model that it saved in several files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from doubles.memory_store import MemoryStore
from doubles.recording_monitor import RecordingMonitor
from mlsync.backup.backup import backup
from mlsync.backup.request import BackupOptions, Source
from mlsync.errors import CommandUnavailable
from mlsync.proof.framework import DESCRIBED, HUGGING_FACE, Framework, Loaded, load, transformers_command
from mlsync.proof.options import ProofOptions
from mlsync.proof.prover import Prover
from mlsync.proving.load import LoadingOptions
from mlsync.proving.policy import Policy
from mlsync.repository.encoding.tokens import TroubleKind
from mlsync.repository.keys.keyslot import Passphrase, Stretching
from mlsync.repository.repository import Repository
from mlsync.source.state import State

pytestmark = pytest.mark.slow
SAVE = """
import sys, torch
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration
torch.manual_seed(1)
llama = LlamaConfig(vocab_size=128, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
LlamaForCausalLM(llama).save_pretrained(sys.argv[1] + "/sharded", max_shard_size="40KB")
LlamaForCausalLM(llama).save_pretrained(sys.argv[1] + "/alone")
t5 = T5Config(vocab_size=99, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
T5ForConditionalGeneration(t5).save_pretrained(sys.argv[1] + "/t5")
"""


@pytest.fixture(scope="module")
def models(frameworks_python, tmp_path_factory):
    """Directories as ``save_pretrained`` leaves them: of a language model in several files and in one, and more."""
    place = tmp_path_factory.mktemp("models")
    python, environment = frameworks_python
    subprocess.run([python, "-c", SAVE, place], env=environment, check=True, capture_output=True)
    assert len(list((place / "sharded").glob("*.safetensors"))) > 2
    return place


@pytest.fixture
def transformers(frameworks_python):
    """The built-in framework, as the configuration gives it."""
    python, environment = frameworks_python
    kinds = HUGGING_FACE | {DESCRIBED}
    more = {"PYTHONPATH": environment["PYTHONPATH"]}
    command = transformers_command(python, "cpu")
    return Framework("transformers", command, kinds=kinds, takes_files=False, environment=more, device="cpu")


@pytest.fixture
def loaded(models, transformers, tmp_path):
    """What becomes of loading a copy of one of the models that something was done to."""
    (tmp_path / "home").mkdir()

    def loaded(name, change=lambda place: None):
        place = tmp_path / name
        shutil.copytree(models / name, place)
        change(place)
        return load(transformers, place, tmp_path / "home", lambda: None)

    return loaded


def rewrite(path: Path, change) -> None:
    """Change the tensors of a safetensors file."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def rename_layer(place: Path) -> None:
    """Save all files anew, a tensor under another name in shard and index: all are whole, and no model has it."""
    index = place / "model.safetensors.index.json"
    about = json.loads(index.read_text())
    name = "model.layers.1.mlp.up_proj.weight"
    shard = about["weight_map"].pop(name)
    about["weight_map"]["renamed"] = shard
    rewrite(place / shard, lambda tensors: tensors.update({"renamed": tensors.pop(name)}))
    for other in {*about["weight_map"].values()} - {shard}:
        (place / other).touch()
    index.write_text(json.dumps(about))


@pytest.mark.parametrize("name", ["alone", "t5"])
def test_what_transformers_saved_loads_and_runs(loaded, name):
    """A model in one file with its config.json beside it is loaded and run, decoders as well as encoders with them."""
    assert loaded(name) == Loaded()


def test_a_shape_that_does_not_fit_is_told_by_its_name(loaded):
    """Where config.json tells of another size than the weights have, the message names the weights."""

    def narrow(place):
        config = place / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"intermediate_size": 32}))

    said = loaded("alone", narrow).refused
    assert "transformers ended with 1: " in said
    assert "mismatched keys: " in said
    assert "mlp" in said


def test_a_directory_that_describes_no_model_is_skipped(loaded):
    """One without config.json, without an architecture in it, or without weights is not what this is for."""
    assert loaded("alone", lambda place: (place / "config.json").unlink()) == Loaded(skipped=True)
    assert loaded("sharded", lambda place: (place / "config.json").write_text("{}")) == Loaded(skipped=True)
    assert loaded("t5", lambda place: (place / "model.safetensors").unlink()) == Loaded(skipped=True)


def test_a_model_that_transformers_does_not_have_says_nothing(loaded):
    """Code that comes with a model is not run, and that it is needed is not held against the weights."""
    own = {"architectures": ["MyModel"], "auto_map": {"AutoModel": "my.MyModel"}}
    with pytest.raises(CommandUnavailable, match=r"has no MyModel, and no code beside weights is run"):
        loaded("alone", lambda place: (place / "config.json").write_text(json.dumps(own)))


def test_a_renamed_layer_keeps_the_last_good_model(models, transformers, tmp_path):
    """A version holds the model in its shards at level 5; the next save does not load, and all of the first stays."""
    run = tmp_path / "run"
    shutil.copytree(models / "sharded", run / "final")
    repository = Repository.create(MemoryStore(), Passphrase(b"x"), stretching=Stretching(64, 1, 1))
    options = BackupOptions(
        loading=LoadingOptions(transformers, tmp_path / "loading"), policy=Policy(loading="transformers")
    )

    def back_up():
        with State.open(tmp_path / "state.db") as state:
            source = Source("run", os.fsencode(run))
            prover = Prover(ProofOptions(device="cpu"))
            result = backup(repository, state, source, lambda: prover, options, RecordingMonitor())
        return result, repository.manifest(repository.stored("run", repository.numbers("run")[-1])).entries

    result, good = back_up()
    assert result.troubles == ()
    shards = [entry.proof for entry in good if entry.path.endswith(b".safetensors")]
    assert {(proof.level, proof.facts["loaded_by"]) for proof in shards} == {(5, "transformers")}
    rename_layer(run / "final")
    (run / "log.txt").write_text("a line")
    result, entries = back_up()
    (trouble,) = result.troubles
    assert (trouble.path, trouble.kind, trouble.kept) == (b"final", TroubleKind.BROKEN, 1)
    assert "missing keys: model.layers.1.mlp.up_proj.weight; unexpected keys: renamed" in trouble.text
    kept = {entry.path: entry.digest for entry in entries if entry.path.startswith(b"final/")}
    assert kept == {entry.path: entry.digest for entry in good if entry.path.startswith(b"final/")}
