"""Checkpoints of several files: in a version all together, or as the last version had them."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch.distributed import checkpoint as dcp

from flow_parts import RUN, World, contents
from mlsync.backup.backup import look
from mlsync.backup.checkpoints.one_save import SILENT_NS
from mlsync.backup.files_cache import decode_row
from mlsync.backup.request import Source
from mlsync.proof.options import ProofOptions
from mlsync.proof.prover import Prover
from mlsync.proving.prove_later import LaterProver
from mlsync.repository.encoding.tokens import TroubleKind
from mlsync.values import Severity

pytestmark = pytest.mark.slow

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"
LONG_AGO_NS = 10**18
LATER_NS = 2 * 3600 * 10**9


@pytest.fixture
def world(tmp_path):
    """A run without versions."""
    world = World(tmp_path)
    yield world
    world.close()


def weights(world, value, *, directory="", without=()):
    """Write weights in two numbered files and the index that says so, as Hugging Face does."""
    from safetensors.torch import save

    for number, name in enumerate(SHARDS):
        if name not in without:
            world.write(directory + name, save({f"layer{number}": torch.full((100,), float(value))}))
    if INDEX not in without:
        index = {"metadata": {"total_size": 800}, "weight_map": {f"layer{n}": name for n, name in enumerate(SHARDS)}}
        world.write(directory + INDEX, json.dumps(index).encode())


def distributed(world, value, directory="step"):
    """Write a distributed checkpoint with torch's own writer, in place, as one rank."""
    place = os.fsdecode(world.path(directory))
    tensor = torch.full((1000,), float(value))
    with warnings.catch_warnings(action="ignore"):  # that it is one rank only
        dcp.save({"weight": tensor, "step": value}, checkpoint_id=place, no_dist=True)


def age(world, mtime_ns=LONG_AGO_NS):
    """So that nobody has written to any file or directory for long."""
    for folder, _, names in os.walk(world.path(""), topdown=False):
        for name in [*names, b"."]:
            os.utime(os.path.join(folder, name), ns=(mtime_ns, mtime_ns))


def paths(world, number=None):
    """The files of a version."""
    return {entry.path.decode() for entry in world.manifest(number).entries if entry.size_bytes}


def saved(world, **options):
    """What a backup made of it: the files of the version, and what is told of the others."""
    result = world.backup(**options)
    return result, {trouble.path.decode(): trouble for trouble in result.troubles}


def test_a_shard_that_is_missing_keeps_all_out(world):
    """Of weights without one of their files nothing is in the version, and the first backup that finds all has all."""
    world.write("log.txt", b"a line")
    weights(world, 1, without=SHARDS[1:])
    result, troubles = saved(world)
    assert paths(world) == {"log.txt"}
    (trouble,) = troubles.values()
    assert trouble.kind is TroubleKind.TORN
    assert SHARDS[1] in trouble.text
    weights(world, 1)
    result, troubles = saved(world)
    assert (result.version, troubles) == (2, {})
    assert paths(world) == {"log.txt", *SHARDS, INDEX}
    assert world.restored(2) == world.tree()


def test_what_was_held_back_is_not_read_again(world):
    """The files that were there already are neither read nor stored a second time when the last one comes."""
    weights(world, 1, without=SHARDS[1:])
    age(world)
    os.utime(world.path(INDEX))
    world.backup(now_ns=lambda: os.stat(world.path(INDEX)).st_mtime_ns)
    weights(world, 2, without=(SHARDS[0], INDEX))
    result, _ = saved(world, now_ns=lambda: time.time_ns() + SILENT_NS)
    assert result.version == 1
    assert result.changed_count <= 2  # the new one, and the index if its time is too near to be trusted
    assert all(entry.proof.level == 2 for entry in world.manifest().entries if entry.path.endswith(b"safetensors"))


def test_an_incomplete_save_over_a_whole_one_keeps_the_whole_one(world):
    """While a later save is half written over an earlier one, the version has all of the earlier one and none of it."""
    weights(world, 1)
    world.backup()
    before = contents(world.tree())
    weights(world, 2, without=(SHARDS[1], INDEX))
    os.unlink(world.path(SHARDS[1]))
    world.write("log.txt", b"a line")
    result, troubles = saved(world)
    assert [trouble.kept for trouble in troubles.values()] == [1]
    assert result.version == 2
    assert contents(world.restored(2)) == before | {b"log.txt": b"a line"}
    weights(world, 2)
    assert saved(world)[1] == {}
    assert world.restored(3) == world.tree()


def test_a_directory_that_is_deleted_meanwhile_is_kept_until_it_is_gone(world):
    """Rotation that has taken half of a checkpoint changes nothing; what is gone as a whole is in no later version."""
    weights(world, 1, directory="checkpoint-1/")
    world.write("checkpoint-1/trainer_state.json", b'{"global_step": 1}')
    world.backup()
    whole = contents(world.tree())
    os.unlink(world.path("checkpoint-1/trainer_state.json"))
    os.unlink(world.path("checkpoint-1/" + SHARDS[0]))
    world.write("log.txt", b"a line")
    world.backup()
    assert contents(world.restored(2)) == whole | {b"log.txt": b"a line"}
    for name in (SHARDS[1], INDEX):
        os.unlink(world.path("checkpoint-1/" + name))
    os.rmdir(world.path("checkpoint-1"))
    world.backup(accept_loss=True)
    assert paths(world) == {"log.txt"}


def test_a_trainers_directory_waits_for_its_last_file(world):
    """Hugging Face's trainer writes trainer_state.json last: before it is there nothing of the step is in a version."""
    weights(world, 1, directory="checkpoint-7/")
    world.write("checkpoint-7/optimizer.pt", b"")
    _, troubles = saved(world)
    assert [name for name in troubles if name == "checkpoint-7"]
    world.write("checkpoint-7/optimizer.pt", small())
    world.write("checkpoint-7/trainer_state.json", b'{"global_step": 7}')
    assert saved(world)[1] == {}
    assert len(paths(world)) == 5


def small():
    """The bytes of a small torch file."""
    import io

    file = io.BytesIO()
    torch.save({"state": {}, "param_groups": [{"lr": 0.1}]}, file)
    return file.getvalue()


def test_what_stays_incomplete_is_kept_as_it_is(world):
    """Files whose brothers have not come for an hour are in the version, with a word in the proof of each."""
    weights(world, 1, without=SHARDS[1:])
    age(world)
    result, troubles = saved(world)
    assert (result.version, troubles) == (1, {})
    assert paths(world) == {SHARDS[0], INDEX}
    (finding,) = world.entry(SHARDS[0].encode()).proof.findings
    assert finding.severity is Severity.WARN
    assert SHARDS[1] in finding.what
    world.monitor.notices.clear()
    world.restore()
    ((severity, text),) = world.monitor.notices
    assert severity == "warning"
    assert "of a checkpoint that is not whole" in text
    assert SHARDS[1] in text


def test_what_was_held_back_is_let_in_when_nothing_came(world):
    """An hour after the last write an untouched directory is looked at again, and what was held back is kept."""
    world.write("log.txt", b"a line")
    weights(world, 1, without=SHARDS[1:])
    for _ in range(3):
        world.backup()  # until no time is too near to be trusted
        time.sleep(0.02)
    assert paths(world) == {"log.txt"}
    assert look(world.state, Source(RUN, os.fsencode(world.directory))) is not None
    world.backup(now_ns=lambda: time.time_ns() + LATER_NS)
    assert paths(world) == {"log.txt", SHARDS[0], INDEX}
    assert not any(decode_row(row.entry).is_held for row in world.state.cached_files(RUN).values())


def test_two_saves_are_not_mixed(world):
    """Where a file is written again while the others are read, none of them is in the version."""
    weights(world, 1)
    world.backup()
    before = contents(world.tree())
    weights(world, 2)
    options = {"stop": OnceAfter(lambda: weights(world, 3), after=len(SHARDS) + 1)}
    _, troubles = saved(world, **options)
    assert contents(world.restored()) == before
    assert "written while it was read" in next(iter(troubles.values())).text
    assert saved(world)[1] == {}
    assert world.restored() == world.tree()


class OnceAfter:
    """Is asked whether to stop; at the n-th time does something else, and never stops."""

    def __init__(self, act, *, after) -> None:
        self._act = act
        self._left = after

    def __call__(self) -> bool:
        """Act once."""
        self._left -= 1
        if self._left == 0:
            self._act()
        return False


def test_a_distributed_checkpoint_is_proved_by_its_metadata(world):
    """Shards are proved with the metadata beside them: their records, their tensors, and where each belongs."""
    distributed(world, 1)
    assert saved(world)[1] == {}
    shard = world.entry(b"step/__0_0.distcp").proof
    assert (shard.level, shard.container, shard.findings) == (2, "dcp", [])
    assert shard.facts["framework"] == "dcp"
    assert shard.tensor_count == 1
    assert world.entry(b"step/.metadata").proof.level == 2
    assert world.restored() == world.tree()


def test_a_directory_in_a_directory_comes_back_with_what_is_in_it(world):
    """Where rotation took a directory of shards out of a step's directory, the step stays whole and can be restored."""
    weights(world, 1, directory="checkpoint-1/")
    world.write("checkpoint-1/trainer_state.json", b'{"global_step": 1}')
    distributed(world, 1, "checkpoint-1/optimizer_0")
    world.backup()
    whole = contents(world.tree())
    shutil.rmtree(world.path("checkpoint-1/optimizer_0"))
    os.unlink(world.path("checkpoint-1/trainer_state.json"))
    world.write("log.txt", b"a line")
    world.backup(accept_loss=True)
    assert contents(world.restored(2)) == whole | {b"log.txt": b"a line"}


def test_one_shard_under_two_metadata_is_proved_by_each(world):
    """The same bytes are judged once for each metadata that they lie beside, and once for two copies of these."""
    distributed(world, 1, "a")
    for copy in ("b", "c"):
        shutil.copytree(world.path("a"), world.path(copy))
    with open(world.path("c/.metadata"), "rb") as file:
        body = file.read()
    world.write("c/.metadata", body.replace(b"weight", b"height"))
    prover = Named()
    assert saved(world, prover=prover)[1] == {}
    assert [name for name in prover.names if name.endswith("distcp")] == ["a/__0_0.distcp", "c/__0_0.distcp"]


class Named(Prover):
    """Notes which files it is given."""

    def __init__(self) -> None:
        super().__init__(ProofOptions(device="none"))
        self.names = []

    def prove(self, source, path, metadata=None):
        """Note the name and prove."""
        self.names.append(path.decode())
        return super().prove(source, path, metadata)


def test_a_distributed_checkpoint_can_be_proved_later(world):
    """Whoever proves it later finds the metadata in the version."""
    distributed(world, 1)
    world.backup(read_back="none", required_level=3)
    with Prover(ProofOptions(device="cpu")) as prover, LaterProver(world.repository, prover, world.monitor) as later:
        result = later.pending(world.repository.stored(RUN, 1))
    assert (result.lowest_level, len(result.verdicts)) == (4, 2)
    assert result.verdicts[b"step/__0_0.distcp"].proof.level == 4


def test_metadata_that_are_missing_keep_the_shards_out(world):
    """Torch removes the metadata of the last save before it renames those of the next: in between nothing is new."""
    distributed(world, 1)
    world.backup()
    before = contents(world.tree())
    distributed(world, 2)
    os.rename(world.path("step/.metadata"), world.path(".elsewhere"))
    world.backup(exclude=(".elsewhere",))
    assert contents(world.restored()) == before
    os.rename(world.path(".elsewhere"), world.path("step/.metadata"))
    assert saved(world)[1] == {}
    assert world.restored() == world.tree()


def test_a_damaged_shard_keeps_its_brothers_out(world):
    """A shard whose bytes are not what its checksums were made of takes the checkpoint back to the last version's."""
    distributed(world, 1)
    world.backup()
    before = contents(world.tree())
    distributed(world, 2)
    path = world.path("step/__0_0.distcp")
    with open(path, "rb") as file:
        body = file.read()
    place = body.index(torch.full((1000,), 2.0).numpy().tobytes()) + 100
    world.write("step/__0_0.distcp", body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :])
    _, troubles = saved(world)
    assert TroubleKind.BROKEN in {trouble.kind for trouble in troubles.values()}
    if world.numbers() != [1]:
        assert contents(world.restored()) == before


def test_a_shard_that_the_proof_refuses_keeps_its_brothers_out(world):
    """Where one file's numbers are refused, the whole checkpoint stays as the last version has it."""
    from safetensors.torch import save

    weights(world, 1)
    world.backup()
    before = contents(world.tree())
    weights(world, 2)
    world.write(SHARDS[1], save({"layer1": torch.full((100,), float("nan"))}))
    prover = Prover(ProofOptions(device="cpu", refuse=("nan",)))
    _, troubles = saved(world, prover=prover)
    assert troubles[SHARDS[1]].kind is TroubleKind.BROKEN
    assert contents(world.restored()) == before
    weights(world, 3)
    assert saved(world)[1] == {}
    assert world.restored() == world.tree()


def test_an_unchanged_unit_costs_no_read(world):
    """Where nothing of a checkpoint changed, its index is not read for a change elsewhere."""
    weights(world, 1, directory="a/")
    distributed(world, 1)
    world.backup()
    world.write("log.txt", b"a line")
    reads = world.counted.calls["read"]
    result, _ = saved(world)
    assert result.read_back_bytes > 0
    assert world.counted.calls["read"] - reads <= 1


CASES = Path(__file__).parent / "cases"
LOAD_AS_RANKS = """
import os, sys, torch, warnings
import torch.distributed as dist
from torch.distributed import checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
warnings.simplefilter("ignore")
place, store = sys.argv[1:]
other = os.fork()  # to import torch takes seconds
rank = int(other == 0)
dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))
sizes = {tensor.size for tensor in dcp.FileSystemReader(place).read_metadata(rank=rank).state_dict_metadata.values()}
(size,) = sizes
state = {"w": distribute_tensor(torch.zeros(size), mesh, [Shard(0)])}
dcp.load(state, checkpoint_id=place)
assert state["w"].to_local().abs().sum() > 0
os._exit(0 if rank else os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]))
"""


def ranks_apart(world, directory="step"):
    """Put what two ranks of torch 2.13 wrote with ``dcp.save(use_collectives=False)``: metadata of each rank."""
    for path in (CASES / "dcp-use_collectives-false").iterdir():
        world.write(f"{directory}/{path.name}", path.read_bytes())


def test_metadata_of_each_rank_are_judged_together(world, tmp_path):
    """What ranks saved without talking to each other is whole, proved, and loads from a restored directory."""
    ranks_apart(world)
    assert saved(world)[1] == {}
    proofs = {entry.path: entry.proof for entry in world.manifest().entries if entry.proof is not None}
    assert {(proof.level, proof.container) for proof in proofs.values()} == {(2, "dcp"), (2, "dcp-rank-metadata")}
    assert len(proofs) == 4
    assert not any(finding.severity > Severity.NOTE for proof in proofs.values() for finding in proof.findings)
    assert world.restored() == world.tree()
    place = os.fsdecode(world.base / "out" / "step")
    words = [sys.executable, "-c", LOAD_AS_RANKS, place, str(tmp_path / "store")]
    subprocess.run(words, stderr=subprocess.DEVNULL, check=True, timeout=120)


@pytest.mark.parametrize("gone", ["__1.metadata", "__1_0.distcp", "__0.metadata"])
def test_what_one_of_two_ranks_wrote_is_not_whole(world, gone):
    """Where a rank's metadata or shard is not there the checkpoint waits, and after an hour what is there is kept."""
    ranks_apart(world)
    os.unlink(world.path(f"step/{gone}"))
    result, troubles = saved(world)
    assert (result.version, list(troubles)) == (0, ["step"])
    assert saved(world, now_ns=lambda: time.time_ns() + LATER_NS)[1] == {}
    assert world.restored() == world.tree()
    findings = {finding.what for entry in world.manifest().entries if entry.proof for finding in entry.proof.findings}
    assert any("not whole" in what for what in findings)


def test_what_both_files_of_a_rank_are_gone_of_is_not_whole(world):
    """Of a tensor that two ranks share a part is lacking when all that the last rank wrote is gone."""
    ranks_apart(world)
    for gone in ("__1.metadata", "__1_0.distcp"):
        os.unlink(world.path(f"step/{gone}"))
    assert "do not make up their tensor" in saved(world)[1]["step"].text


def test_metadata_that_parse_are_never_left_out(world):
    """Metadata whose chunks do not make up their tensors keep their shards back, and an hour later are kept too."""
    distributed(world, 1)
    body = contents(world.tree())[b"step/.metadata"]
    # Of the two thousands in it (as two bytes behind an M), one is the chunk's and one is the tensor's.
    world.write("step/.metadata", body.replace(b"M\xe8\x03", b"M\xe7\x03", 1))
    assert saved(world)[0].version == 0
    assert saved(world, now_ns=lambda: time.time_ns() + LATER_NS)[1] == {}
    assert world.restored() == world.tree()
    findings = world.entry(b"step/.metadata").proof.findings
    assert {finding.severity for finding in findings} == {Severity.WARN}


def split(world, *, without=()):
    """Put what two ranks wrote with torch's writer for Hugging Face: halves of one tensor, the second with another."""
    halves = {
        "shard-00001-model-00001-of-00001.safetensors": ([0, 0], {}),
        "shard-00002-model-00001-of-00001.safetensors": ([32, 0], {"whole": torch.arange(5)}),
        "shard-00003-model-00001-of-00001.safetensors": ([64, 0], {}),
    }
    for name, (at, others) in halves.items():
        if name not in without:
            offsets = {"sharded": {"saved_offsets": at}} | {other: {"saved_offsets": [0]} for other in others}
            about = {"format": "pt", "DCP_VERSION": "1.0", "DCP_SHARDING_INFO": json.dumps(offsets)}
            world.write("hf/" + name, safetensors.torch.save({"sharded": torch.ones(32, 16), **others}, about))


def unit_warnings(world):
    """What the proofs of a version's files say of the checkpoint that they are of."""
    found = {}
    for entry in world.manifest().entries:
        for finding in entry.proof.findings if entry.proof is not None else ():
            if finding.severity is Severity.WARN:
                assert entry.path.decode() not in found
                found[entry.path.decode()] = finding.what
    return found


def test_what_each_rank_wrote_of_weights_is_whole_by_its_parts(world):
    """Where the file between two others is not there, a part of a tensor is in none: each file says so."""
    split(world)
    assert saved(world)[1] == {}
    assert unit_warnings(world) == {}
    for name in os.listdir(world.path("hf")):
        os.unlink(world.path(b"hf/" + name))
    split(world, without=["shard-00002-model-00001-of-00001.safetensors"])
    saved(world, accept_loss=True)
    assert len(unit_warnings(world)) == 2
    assert "a part of tensor 'sharded' is in none of the files" in next(iter(unit_warnings(world).values()))


def test_a_shard_that_was_deleted_is_missed(world):
    """Of shards that no index names, one that the last version has and that is gone keeps its place for an hour."""
    split(world)
    world.backup()
    before = contents(world.tree())
    os.unlink(world.path("hf/shard-00003-model-00001-of-00001.safetensors"))
    world.write("log.csv", b"1\n")
    _, troubles = saved(world)
    assert "shard-00003-model-00001-of-00001.safetensors, which the last version has, is gone" in troubles["hf"].text
    assert contents(world.restored()) == before | {b"log.csv": b"1\n"}
    assert saved(world, now_ns=lambda: time.time_ns() + LATER_NS)[1] == {}
    assert len(unit_warnings(world)) == 2
    assert world.restored() == world.tree()
    split(world)
    assert saved(world)[1] == {}
    assert unit_warnings(world) == {}


def test_a_tensor_that_the_index_names_otherwise_is_told_of(world):
    """An index that names a tensor which its file does not hold is a warning on each file, until it fits."""
    weights(world, 1)
    index = json.loads(contents(world.tree())[INDEX.encode()])
    index["weight_map"]["renamed"] = index["weight_map"].pop("layer1")
    world.write(INDEX, json.dumps(index).encode())
    assert saved(world)[0].version == 1
    assert set(unit_warnings(world)) == set(SHARDS)
    assert "'renamed'" in unit_warnings(world)[SHARDS[0]]
    weights(world, 1)
    world.write("log.csv", b"1\n")
    assert saved(world)[1] == {}
    assert unit_warnings(world) == {}


def test_shards_that_say_two_steps_are_of_two_saves(world):
    """Where trainers put the step down in each file, files of two of them are held back, whatever their times are."""
    index = {"metadata": {"total_size": 800}, "weight_map": {f"layer{n}": name for n, name in enumerate(SHARDS)}}
    for number, name in enumerate(SHARDS):
        tensors = {f"layer{number}": torch.ones(100)}
        world.write(name, safetensors.torch.save(tensors, {"step": str(100 + number)}))
    world.write(INDEX, json.dumps(index).encode())
    result, troubles = saved(world)
    assert result.version == 0
    assert "of two saves" in next(iter(troubles.values())).text
    world.write(SHARDS[0], safetensors.torch.save({"layer0": torch.ones(100)}, {"step": "101"}))
    world.write(INDEX, json.dumps(index).encode())
    assert saved(world)[1] == {}


def test_real_shards_of_torchs_writer_are_whole(world):
    """What torch's own writer for Hugging Face wrote as one rank is one checkpoint, and nothing is said against it."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

    place = os.fsdecode(world.path("hf"))
    with warnings.catch_warnings(action="ignore"):
        writer = HuggingFaceStorageWriter(place, save_distributed=True, thread_count=1)
        dcp.save({"a": torch.ones(64, 16), "b": torch.arange(5)}, storage_writer=writer, no_dist=True)
    assert any(name.startswith("shard-") for name in os.listdir(place))
    assert saved(world)[1] == {}
    assert unit_warnings(world) == {}


def test_ranks_whose_files_say_two_steps_are_of_two_saves(world):
    """Files of DeepSpeed's ranks that tell of different steps are held back, and warned of in the end."""
    for rank, step in enumerate((100, 200)):
        content = io.BytesIO()
        torch.save({"module": {"w": torch.ones(9)}, "global_steps": step}, content)
        world.write(f"global_step200/mp_rank_0{rank}_model_states.pt", content.getvalue())
    world.write("latest", b"global_step200")
    world.write("log.csv", b"1\n")
    result, troubles = saved(world)
    assert "files of step 100 and of step 200" in troubles["global_step200"].text
    assert paths(world) == {"log.csv"}, "what names the save to go on from is left out with it"
    assert saved(world, now_ns=lambda: time.time_ns() + LATER_NS)[1] == {}
    assert len(unit_warnings(world)) == 2
    assert result.version == 1
