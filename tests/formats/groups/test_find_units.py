from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mlsync.formats.groups import tree as listing
from mlsync.formats.groups.find import find_units
from mlsync.formats.groups.tree import Unit


class Tree:
    """A listing, with what stands in its small files; sizes are those of the texts, or given."""

    def __init__(self) -> None:
        self.sizes: dict[bytes, int] = {}
        self.texts: dict[bytes, bytes] = {}
        self.reads: list[bytes] = []

    def add(self, path: str, content: object = 1000) -> Tree:
        """A file of a size, of a text, or of JSON."""
        name = os.fsencode(path)
        if isinstance(content, int):
            self.sizes[name] = content
        else:
            self.texts[name] = content.encode() if isinstance(content, str) else json.dumps(content).encode()
            self.sizes[name] = len(self.texts[name])
        return self

    def without(self, path: str) -> Tree:
        """The same without one file."""
        del self.sizes[os.fsencode(path)]
        return self

    def read(self, path: bytes, limit_bytes: int) -> bytes | None:
        """What the callback gives."""
        assert self.sizes[path] <= limit_bytes
        self.reads.append(path)
        return self.texts.get(path)

    def units(self) -> list[Unit]:
        """What is found."""
        return find_units(self.sizes, self.read)

    def only(self) -> Unit:
        """The one unit that is found."""
        (unit,) = self.units()
        return unit


def on_disk(folder: Path) -> tuple[dict[bytes, int], object]:
    """A real directory's listing, and how its files are read."""
    files = {os.fsencode(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    return files, lambda path, _limit: (folder / os.fsdecode(path)).read_bytes()


# ---------------------------------------------------------------- distributed checkpoints of torch


def test_distributed_checkpoints_that_torch_wrote_are_whole(two_ranks):
    """Each directory with metadata is a unit of its own that lacks nothing, and what is beside it is none of it."""
    units = find_units(*on_disk(two_ranks))
    assert [(unit.kind, unit.directory, unit.lacking) for unit in units] == [
        ("dcp", b"checkpoint", None),
        ("dcp", b"fsdp", None),
        ("huggingface-shards", b"hf", None),
    ]
    assert units[0].members == tuple(b"checkpoint/" + name for name in (b".metadata", b"__0_0.distcp", b"__1_0.distcp"))


@pytest.mark.parametrize(
    ("change", "lacking"),
    [
        (lambda files: files.pop(b"checkpoint/.metadata"), "'.metadata' is missing"),
        (lambda files: files.pop(b"checkpoint/__1_0.distcp"), "file '__1_0.distcp' is missing"),
        (lambda files: files.update({b"checkpoint/__0_0.distcp": 5000}), "'__0_0.distcp' has 5000 bytes"),
        (lambda files: files.update({b"checkpoint/.metadata": 1 << 40}), "could not be read"),
    ],
    ids=["no metadata", "no shard", "short shard", "large metadata"],
)
def test_a_distributed_checkpoint_lacks_what_its_metadata_name(two_ranks, change, lacking):
    """Metadata that are not there, a shard that is not, and one that is too short are named."""
    files, read = on_disk(two_ranks)
    change(files)
    unit = find_units(files, read)[0]
    assert (unit.kind, unit.directory) == ("dcp", b"checkpoint")
    assert lacking in unit.lacking
    assert set(unit.members) == {path for path in files if path.startswith(b"checkpoint/")}


def test_metadata_of_each_rank_are_looked_at(two_ranks):
    """Ranks that save without talking to each other write metadata of their own, all of which must fit."""
    files, read = on_disk(two_ranks)
    files[b"checkpoint/__0.metadata"] = files.pop(b"checkpoint/.metadata")
    from_old = {b"checkpoint/__0.metadata": b"checkpoint/.metadata"}
    assert find_units(files, lambda path, limit: read(from_old.get(path, path), limit))[0].lacking is None
    assert "__0.metadata" in find_units(files, lambda path, limit: b"nonsense")[0].lacking


def test_a_file_called_metadata_makes_no_checkpoint():
    """Other programs use the name as well."""
    assert Tree().add("data/.metadata", "hello").add("data/x.csv").units() == []


# ---------------------------------------------------------------- Hugging Face's weights


def weights(suffix: str = "safetensors", stem: str = "model", **about: object) -> Tree:
    names = [f"{stem}-0000{n}-of-00003.{suffix}" for n in (1, 2, 3)]
    index = {"metadata": {"total_size": 2900}, "weight_map": {f"w{n}": names[n % 3] for n in range(7)}} | about
    tree = Tree().add(f"m/{stem}.{suffix}.index.json", index).add("m/config.json", {})
    for name in names:
        tree.add(f"m/{name}")
    return tree


@pytest.mark.parametrize(("suffix", "stem"), [("safetensors", "model"), ("bin", "pytorch_model")])
def test_weights_with_their_index_are_whole(suffix, stem):
    """Index and shards are one unit; what else lies there is none of it."""
    unit = weights(suffix, stem).only()
    assert (unit.kind, unit.directory, len(unit.members), unit.lacking) == ("huggingface-weights", b"m", 4, None)


def test_weights_lack_what_the_index_names():
    """A shard that is missing, an index that is, one that does not parse, and too few bytes are named."""
    assert weights().without("m/model-00002-of-00003.safetensors").only().lacking == (
        "'model-00002-of-00003.safetensors' is missing"
    )
    assert weights().without("m/model.safetensors.index.json").only().lacking == (
        "'model.safetensors.index.json' is missing"
    )
    assert "does not parse" in weights().add("m/model.safetensors.index.json", "{").only().lacking
    for none in ([], {}, "model", ["model"]):
        assert "does not parse" in weights(weight_map=none).only().lacking
    assert "3000 bytes, 3001 are needed" in weights(metadata={"total_size": 3001}).only().lacking


@pytest.mark.parametrize("name", ["../x", "a/b", 3, None, "\ud800"])
def test_an_index_that_leads_elsewhere_is_not_followed(name):
    """Shards lie beside their index."""
    assert "not beside it" in weights(weight_map={"w": name}).only().lacking


def test_an_index_without_a_total_is_taken_at_its_word():
    """Older ones have none, and some have a number with a fraction."""
    assert weights(metadata={}).only().lacking is None
    assert weights(metadata={"total_size": 2.9e3}).only().lacking is None


def test_numbered_files_without_index():
    """One file of one is whole as it is; two of two lack their index."""
    assert Tree().add("x-00001-of-00001.bin").units() == []
    assert Tree().add("a-00001-of-00002.bin").only().lacking == "'a.bin.index.json' is missing"


def test_what_each_rank_wrote_of_weights_is_one_unit():
    """The parts that torch's writer leaves have no index, and belong together by their names."""
    tree = Tree()
    for rank in (1, 2):
        for part in (1, 2):
            tree.add(f"m/shard-0000{rank}-model-0000{part}-of-00002.safetensors")
    unit = tree.only()
    assert (unit.kind, unit.directory, len(unit.members), unit.lacking) == ("huggingface-shards", b"m", 4, None)


# ---------------------------------------------------------------- Hugging Face's trainer


def trainer(step: object = 500) -> Tree:
    return (
        Tree()
        .add("run/checkpoint-500/model.safetensors")
        .add("run/checkpoint-500/optimizer.pt")
        .add("run/checkpoint-500/rng_state_0.pth")
        .add("run/checkpoint-500/rng_state_1.pth")
        .add("run/checkpoint-500/trainer_state.json", {"global_step": step, "log_history": []})
        .add("run/trainer_state.json", {"global_step": 900})
    )


def test_a_trainers_checkpoint_is_whole():
    """All that is below the directory is one unit."""
    unit = trainer().only()
    assert (unit.kind, unit.directory, len(unit.members)) == ("huggingface-trainer", b"run/checkpoint-500", 5)
    assert unit.lacking is None


@pytest.mark.parametrize(
    ("tree", "lacking"),
    [
        (trainer().add("run/checkpoint-500/checkpoint-is-incomplete.txt"), "not finished"),
        (trainer().without("run/checkpoint-500/trainer_state.json"), "'trainer_state.json' is missing"),
        (trainer().add("run/checkpoint-500/trainer_state.json", '{"global_step": 5'), "does not parse"),
        (trainer(499), "another step than 500"),
        (trainer().without("run/checkpoint-500/model.safetensors"), "no weights"),
        (trainer().add("run/checkpoint-500/model.safetensors", 0), "'model.safetensors' is empty"),
        (trainer().without("run/checkpoint-500/rng_state_0.pth"), "'rng_state_0.pth' is missing"),
    ],
    ids=["sentinel", "no state", "torn state", "other step", "no weights", "empty weights", "no rank"],
)
def test_a_trainers_checkpoint_lacks_what_is_not_done(tree, lacking):
    """The state comes last and tells its step; weights and each rank's random state are there."""
    assert lacking in tree.only().lacking


def test_what_lies_inside_of_a_trainers_checkpoint_is_a_part_of_it():
    """Sharded weights and tags of DeepSpeed in it are no units of their own, and it lacks what they lack."""
    tree = trainer().without("run/checkpoint-500/model.safetensors")
    tree.add("run/checkpoint-500/global_step500/mp_rank_00_model_states.pt").add(
        "run/checkpoint-500/latest", "global_step500"
    )
    assert tree.only().lacking is None
    assert "'latest' is missing" in tree.without("run/checkpoint-500/latest").only().lacking
    tree.add("run/checkpoint-500/trainer_state.json", "")
    assert "does not parse" in tree.only().lacking, "its own lack comes first"
    assert Tree().add("checkpoint-7/notes.txt").units() == []


# ---------------------------------------------------------------- DeepSpeed


def deepspeed(ranks: int = 3, models: int = 2, prefix: str = "bf16_", latest: str = "global_step40\n") -> Tree:
    tree = Tree().add("out/latest", latest).add(f"out/{latest.strip()}/another").add("out/zero_to_fp32.py")
    for model in range(models):
        tree.add(f"out/global_step40/mp_rank_{model:02}_model_states.pt")
        for rank in range(ranks):
            tree.add(f"out/global_step40/{prefix}zero_pp_rank_{rank}_mp_rank_{model:02}_optim_states.pt")
    return tree


def test_a_pointer_to_what_is_not_there_says_so():
    """A tracker that names a directory of which no file is there is told of; other words than numbers name none."""
    for tracker, word, named in (
        ("latest", "global_step40\n", "global_step40"),
        ("latest_checkpointed_iteration.txt", "120", "iter_0000120"),
    ):
        tree = Tree().add(f"out/{tracker}", word).add("out/global_step20/mp_rank_00_model_states.pt")
        (pointer,) = (unit for unit in tree.units() if unit.kind == "pointer")
        assert (pointer.directory, pointer.members) == (f"out/{named}".encode(), (f"out/{tracker}".encode(),))
        assert pointer.lacking == f"'{tracker}' names '{named}', which is not there"
        tree.add(f"out/{named}/notes.txt")
        assert not any(unit.kind == "pointer" for unit in tree.units())
    for words in ("release", "epoch-3", "global_step1/../x", "a\nb", "", "9" * 2000):
        assert Tree().add("latest", words).add("latest_checkpointed_iteration.txt", words).units() == []


def test_a_pointer_is_known_to_the_save_that_it_names():
    """Who leaves that save out leaves out what names it."""
    assert deepspeed().only().pointer == b"out/latest"
    assert deepspeed(latest="global_step80").only().pointer is None
    assert megatron().only().pointer == b"ckpt/latest_checkpointed_iteration.txt"
    assert megatron("456").only().pointer is None


def test_experts_and_layers_of_deepspeed():
    """Experts are counted from zero, with the same ranks each; a layer in parts has as many as the others."""
    tree = deepspeed()
    for name in (
        *(f"layer_{layer}_expert_{n}_mp_rank_0{m}_model_states.pt" for layer in (3, 5) for n in (0, 1) for m in (0, 1)),
        *(f"expp_rank_{n}_mp_rank_0{m}_optim_states.pt" for n in (0, 1) for m in (0, 1)),
        *(f"layer_0{layer}-model_0{m}-model_states.pt" for layer in (0, 2) for m in (0, 1)),
    ):
        tree.add(f"out/global_step40/{name}")
    assert tree.only().lacking is None
    for gone, lacking in (
        ("layer_3_expert_0_mp_rank_01_model_states.pt", "'layer_3_expert_0_mp_rank_01' is missing"),
        ("expp_rank_1_mp_rank_00_optim_states.pt", "'expp_rank_1_mp_rank_00' is missing"),
        ("layer_02-model_01-model_states.pt", "'layer_02-model_01' is missing"),
    ):
        assert tree.without(f"out/global_step40/{gone}").only().lacking == lacking
        tree.add(f"out/global_step40/{gone}")
    assert "is empty" in tree.add("out/global_step40/layer_02-model_01-model_states.pt", 0).only().lacking


def zero3() -> Tree:
    tree = Tree().add("out/latest", "global_step40")
    for rank in range(12):
        tree.add(f"out/global_step40/zero_pp_rank_{rank}_mp_rank_00_model_states.pt")
        tree.add(f"out/global_step40/zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    return tree


@pytest.mark.parametrize(
    "tree",
    [
        deepspeed(),
        deepspeed(1, 1),
        deepspeed(prefix=""),
        zero3(),
        deepspeed(latest="global_step80"),
        deepspeed(0, 2),
    ],
    ids=["bf16", "one", "plain", "zero-3", "an older one", "no optimizer"],
)
def test_a_tag_of_deepspeed_is_whole(tree):
    """All ranks are there, and ``latest`` names it or a newer one."""
    unit = tree.only()
    assert (unit.kind, unit.directory, unit.lacking) == ("deepspeed", b"out/global_step40", None)


@pytest.mark.parametrize(
    ("tree", "lacking"),
    [
        (deepspeed().without("out/global_step40/mp_rank_01_model_states.pt"), "model states: 'mp_rank_01'"),
        (deepspeed().without("out/global_step40/mp_rank_00_model_states.pt"), "model states: 'mp_rank_00'"),
        (
            deepspeed().without("out/global_step40/bf16_zero_pp_rank_2_mp_rank_01_optim_states.pt"),
            "optim states: 'zero_pp_rank_2 of mp_rank_01'",
        ),
        (
            deepspeed(models=1).without("out/global_step40/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"),
            "'zero_pp_rank_1'",
        ),
        (zero3().without("out/global_step40/zero_pp_rank_11_mp_rank_00_model_states.pt"), "'zero_pp_rank_11 of"),
        (zero3().add("out/global_step40/zero_pp_rank_7_mp_rank_00_model_states.pt", 0), "is empty"),
        (deepspeed().without("out/latest"), "'latest' is missing"),
        (deepspeed(latest="global_step20"), "still names global_step20"),
        (Tree().add("global_step40/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"), "no model states"),
    ],
)
def test_a_tag_of_deepspeed_lacks_the_rank_that_is_not_there(tree, lacking):
    """Ranks are counted from zero without a gap, alike for models and optimizers; ``latest`` comes last."""
    assert lacking in tree.only().lacking


def test_the_directory_itself_may_be_a_tag():
    """Where the run's own directory holds the ranks' files, all of it is the unit."""
    tree = Tree().add("mp_rank_00_model_states.pt").add("zero_to_fp32.py").add("a/b").add("latest", "best")
    assert tree.only() == Unit(
        "deepspeed", b"", (b"a/b", b"latest", b"mp_rank_00_model_states.pt", b"zero_to_fp32.py"), None
    )
    assert Tree().add("global_step5/notes.txt").units() == []


# ---------------------------------------------------------------- Megatron


def megatron(tracker: str = "123") -> Tree:
    tree = Tree().add("ckpt/latest_checkpointed_iteration.txt", tracker)
    if tracker not in ("123", "release"):
        tree.add(f"ckpt/iter_{tracker:0>7}/another")
    for tensor in range(2):
        for pipeline in range(3):
            tree.add(f"ckpt/iter_0000123/mp_rank_{tensor:02}_{pipeline:03}/model_optim_rng.pt")
            tree.add(f"ckpt/iter_0000123/mp_rank_{tensor:02}_{pipeline:03}/distrib_optim.pt")
    return tree


def test_a_checkpoint_of_megatron_is_whole():
    """Every rank of the grid has its directory with the same files, and the tracker names it or a newer one."""
    for tracker in ("123", "456", "release"):
        unit = megatron(tracker).only()
        assert (unit.kind, unit.directory, len(unit.members)) == ("megatron", b"ckpt/iter_0000123", 12)
        assert unit.lacking is None
    assert Tree().add("ckpt/iter_0000123/notes.txt").units() == []
    one = Tree().add("latest_checkpointed_iteration.txt", "1").add("iter_0000001/mp_rank_00/model_optim_rng.pt")
    assert one.only().lacking is None


def without_rank(tree: Tree, rank: str) -> Tree:
    tree.sizes = {path: size for path, size in tree.sizes.items() if rank.encode() not in path}
    return tree


@pytest.mark.parametrize(
    ("tree", "lacking"),
    [
        (megatron("100"), "still names 100"),
        (megatron().without("ckpt/latest_checkpointed_iteration.txt"), "iteration.txt' is missing"),
        (without_rank(megatron(), "mp_rank_01_002"), "5 directories of ranks are there, of 2 x 3 x 1"),
        (without_rank(megatron(), "mp_rank_00_"), "a rank's directory is missing"),
        (
            megatron().without("ckpt/iter_0000123/mp_rank_01_001/distrib_optim.pt"),
            "'mp_rank_01_001/distrib_optim.pt' is missing",
        ),
        (megatron().add("ckpt/iter_0000123/mp_rank_01_001/distrib_optim.pt", 0), "is empty"),
        (without_rank(megatron(), "model_optim_rng"), "'model_optim_rng.pt' is missing"),
    ],
)
def test_a_checkpoint_of_megatron_lacks_what_one_rank_has_not(tree, lacking):
    """The tracker comes last; a missing directory or file of a rank, and an empty one, are named."""
    assert lacking in tree.only().lacking


def test_a_distributed_checkpoint_of_megatron(two_ranks):
    """Its directory holds one of torch's, which is a part of it and is held to the same."""
    files, read = on_disk(two_ranks)
    moved = {path.replace(b"fsdp/", b"iter_0000007/"): size for path, size in files.items() if b"fsdp/" in path}
    texts = {
        b"iter_0000007/metadata.json": b'{"sharded_backend": "torch_dist"}',
        b"latest_checkpointed_iteration.txt": b"7",
    }
    moved |= {path: len(text) for path, text in texts.items()}

    def read_moved(path: bytes, limit: int) -> bytes | None:
        return texts.get(path) or read(path.replace(b"iter_0000007/", b"fsdp/"), limit)

    (unit,) = find_units(moved, read_moved)
    assert (unit.kind, unit.lacking, len(unit.members)) == ("megatron", None, 4)
    (short,) = find_units(moved | {b"iter_0000007/__1_0.distcp": 100}, read_moved)
    assert "'__1_0.distcp' has 100 bytes" in short.lacking
    (bare,) = find_units({path: size for path, size in moved.items() if b"metadata.json" not in path}, read_moved)
    assert bare.lacking == "'metadata.json' is missing"
    texts[b"iter_0000007/metadata.json"] = b"{"
    (torn,) = find_units(moved, read_moved)
    assert torn.lacking == "'metadata.json' does not parse"


# ---------------------------------------------------------------- all of them


def test_single_files_are_no_units():
    """What is whole by itself is not spoken of here."""
    assert Tree().add("last.pt").add("model.safetensors").add("logs/a.csv").units() == []
    assert find_units({}, Tree().read) == []


def test_a_large_listing_is_gone_through_once():
    """A hundred thousand files in thousands of checkpoints: each small file is read once, and no other."""
    tree = Tree()
    for step in range(2000):
        folder = f"run/checkpoint-{step}"
        tree.add(f"{folder}/trainer_state.json", {"global_step": step})
        for name in ["model.safetensors", "optimizer.pt", *(f"extra/{n}" for n in range(47))]:
            tree.add(f"{folder}/{name}")
    assert len(tree.sizes) == 100_000
    units = tree.units()
    assert (len(units), {unit.lacking for unit in units}) == (2000, {None})
    assert len(tree.reads) == len(set(tree.reads)) == 2000


def test_no_more_is_read_in_all_than_the_bound(monkeypatch):
    """What lies behind the bound is not read, and its unit says so by what could not be looked at."""
    monkeypatch.setattr(listing, "READ_BYTES_MAX", 80)
    tree = Tree()
    for step in range(5):
        tree.add(f"checkpoint-{step}/trainer_state.json", {"global_step": step}).add(
            f"checkpoint-{step}/model.safetensors"
        )
    assert [unit.lacking for unit in tree.units()] == [None] * 4 + ["'trainer_state.json' does not parse"]
    assert len(tree.reads) == 4


def test_hostile_json_does_no_harm():
    """Nesting, numbers and words that no index has say that it does not parse."""
    for text in ("[" * 100_000, '{"weight_map":' + "9" * 10_000 + "}", "nul", "\x00", '{"weight_map": {"a": []}}'):
        assert weights().add("m/model.safetensors.index.json", text).only().lacking is not None
