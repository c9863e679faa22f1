"""Several processes prove one repository: the ranks of torchrun, the tasks of srun, or who is told its share."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from machine import MLSYNC, NO_DEVICE, copy_of

from command_client import KEY
from mlsync.cli.arguments.share import ShareChoice
from mlsync.proving.shares import Share
from mlsync.repository.keys.keyslot import KeyFile
from mlsync.repository.repository import Repository
from mlsync.store.directory.store import DirectoryStore

pytestmark = pytest.mark.slow

TORCHRUN = Path(sys.executable).with_name("torchrun")
NOT_READ_BACK = '[proof]\nread_back = "none"\n'
# Sizes of shards, as uneven as those of no training.
SHARDS = (400_000, 250_000, 150_000, 100_000, 50_000)

FILES = ["step-3/.metadata", *(f"step-3/__0_{place}.distcp" for place in range(len(SHARDS)))]


def write_shards(directory):
    """A distributed checkpoint as torch writes it, of five shards and their metadata."""
    import torch
    import torch.distributed.checkpoint as dcp

    state = {f"layer{place}": torch.randn(size) for place, size in enumerate(SHARDS)}
    writer = dcp.FileSystemWriter(directory, single_file_per_rank=False, thread_count=1)
    with warnings.catch_warnings(action="ignore"):  # of torch, that there is one process only
        dcp.save(state, storage_writer=writer, no_dist=True)


@pytest.fixture(scope="session")
def sharded(tmp_path_factory, server, initial):
    """The template of machines with a version that holds a distributed checkpoint, of which nothing was read back."""
    machine = copy_of(initial, tmp_path_factory.mktemp("sharded"), server)
    machine.configure(NOT_READ_BACK)
    write_shards(machine.training / "step-3")
    machine.good("backup")
    return machine


@pytest.fixture
def pending(tmp_path, server, sharded):
    """A machine with that version, which can be proved without a device."""
    machine = copy_of(sharded, tmp_path / "pending", server)
    machine.configure(NO_DEVICE)
    return machine


def later_proofs(machine):
    """What was proved later of version 1: the files that each object tells of."""
    repository = Repository.open(DirectoryStore(machine.repository), KeyFile(KEY))
    return [
        sorted(file.path.decode() for file in proof.files)
        for proof in repository.later_proofs(repository.stored("yolo", 1)).proofs
    ]


def listed(machine):
    """How the version is listed."""
    (version,) = machine.good("versions", "--json").json()["versions"]
    return version["lowest_level"], version["pending"]


# ---------------------------------------------------------------- real processes


def torchrun(machine, ranks, *arguments, **environment):
    """What a real torchrun ended with, and what each of its ranks printed."""
    logs = machine.base / "logs"
    command = [TORCHRUN, "--no-python", "--nproc-per-node", str(ranks), "--log-dir", logs, "--redirects", "3"]
    done = subprocess.run(
        [*command, MLSYNC, "prove", *arguments],
        env=machine.environment(OMP_NUM_THREADS="1", **environment),
        capture_output=True,
        timeout=120,
        check=False,
    )
    return done.returncode, [next(logs.glob(f"*/attempt_0/{rank}/stdout.log")).read_text() for rank in range(ranks)]


def test_the_ranks_of_torchrun_prove_all_shards(pending):
    """Each shard is read and proved on the device by one rank, all have about as much, and the version is proved."""
    pending.configure()
    assert listed(pending) == (0, True)
    # Nothing of this machine's GPUs: each rank would take one, and does without.
    status, outputs = torchrun(pending, 3, "--pending", "--device", "auto", "--json", CUDA_VISIBLE_DEVICES="none")
    assert status == 0
    told = [json.loads(output) for output in outputs]
    assert [one["share"] for one in told] == [{"number": number, "count": 3} for number in (1, 2, 3)]
    (read_bytes,) = zip(*([version["read_bytes"] for version in one["versions"]] for one in told), strict=True)
    # The largest shard alone, and twice two of the others, each rank's with the metadata.
    stored_bytes = sum(path.stat().st_size for path in pending.repository.glob("packs/*/*"))
    assert sum(read_bytes) < stored_bytes * 1.02
    assert max(read_bytes) < stored_bytes * 0.45
    parts = [files for files in later_proofs(pending) if files]
    assert sorted(path for files in parts for path in files) == FILES
    assert [len(files) for files in parts if "step-3/__0_0.distcp" in files] == [1]
    assert listed(pending) == (4, False)


def test_a_rank_that_is_killed_leaves_its_share_pending(pending):
    """What the other one proved is kept; started again, only what the killed one had not recorded is proved."""
    started = pending.base / "started"
    python = pending.base / "python"
    python.write_text(f'#!/bin/sh\necho $$ > "{started}.new"; mv "{started}.new" "{started}"\nexec sleep 600\n')
    python.chmod(0o755)
    pending.configure(f'[proof]\npython = "{python}"\n')
    arguments = [MLSYNC, "prove", "--pending", "--device", "cpu", "--share", "2/2"]
    with subprocess.Popen(arguments, env=pending.environment()) as rank:
        while not started.exists():
            assert rank.poll() is None
            time.sleep(0.01)
        rank.kill()
    os.kill(int(started.read_text()), signal.SIGKILL)
    pending.configure()
    pending.good("prove", "--pending", "--device", "cpu", "--share", "1/2")
    assert listed(pending) == (0, True)
    (first,) = later_proofs(pending)
    counts = []
    for share in ("1/2", "2/2"):
        told = pending.good("prove", "--pending", "--device", "cpu", "--share", share, "--json").json()
        counts.append(sum(version["checkpoint_count"] for version in told["versions"]))
    assert counts == [0, len(FILES) - len(first)]
    assert listed(pending) == (4, False)


def test_what_a_rank_starts_is_not_taken_for_a_rank(pending):
    """A process that a rank of a training starts inherits all of torchrun's environment, and proves nothing by it."""
    command = f'"{MLSYNC}" prove --pending; exit $?'
    environment = pending.environment(**TORCHRUN_S)
    done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, "--share rank" in done.stderr, "--share 1/1" in done.stderr) == (2, True, True)
    assert later_proofs(pending) == []


@pytest.mark.parametrize(("share", "has_bars"), [("1/1", True), ("1/2", False)])
def test_processes_that_share_a_terminal_draw_no_bars(pending, share, has_bars):
    """At a terminal the progress of one that proves all is drawn, and of one that has brothers there it is not."""
    # What is done within a tenth of a second is not drawn.
    python = pending.base / "slow-python"
    python.write_text(f'#!/bin/sh\nsleep 1\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    pending.configure(f'[proof]\npython = "{python}"\n')
    command = f"'{MLSYNC}' prove --pending --device cpu --share {share}"
    environment = pending.environment(TERM="xterm")
    done = subprocess.run(
        ["script", "-qec", command, "/dev/null"], env=environment, capture_output=True, text=True, check=True
    )
    assert ("version 1: L" in done.stdout, "version 1: proving" in done.stdout) == (True, has_bars)


# ---------------------------------------------------------------- what says which share it is


TO_LEVEL_2 = ("prove", "--pending", "--level", "2")
TORCHRUN_S = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "TORCHELASTIC_RUN_ID": "none"}
LIKE_TORCHRUN_S = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
SRUN_S = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "1", "SLURM_NTASKS": "2"}


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (("--share", "2/2"), {}),
        ((), TORCHRUN_S),
        (("--share", "rank"), LIKE_TORCHRUN_S),
        (("--share", "rank"), {"RANK": "1", "WORLD_SIZE": "2"}),
        (("--share", "rank"), SRUN_S),
        (("--share", "rank"), {**SRUN_S, **LIKE_TORCHRUN_S, "SLURM_PROCID": "0"}),
        (("--share", "2/2"), {**TORCHRUN_S, "RANK": "0"}),
    ],
    ids=["told", "torchrun", "as torchrun", "no local rank", "srun", "torchrun in srun", "told otherwise"],
)
def test_a_share_is_proved_and_said(pending, arguments, environment):
    """However it is told: the second of two shares is proved, each line says so, and the first is left."""
    done = pending.good(*TO_LEVEL_2, *arguments, **environment)
    assert done.out.startswith("share 2 of 2: yolo: version 1: L0 (pending L2), ")
    (second,) = later_proofs(pending)
    assert 0 < len(second) < len(FILES)
    again = pending.good(*TO_LEVEL_2, *arguments, **environment)
    assert again.out.startswith("share 2 of 2: yolo: version 1: L0 (pending L2), 0 checkpoints read back")
    rest = pending.good(*TO_LEVEL_2, "--json").json()
    assert rest["share"] is None
    assert rest["versions"][0]["checkpoint_count"] == len(FILES) - len(second)
    assert pending.good(*TO_LEVEL_2, *arguments, **environment).out == "share 2 of 2: nothing was pending\n"


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        ((), {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"}),
        ((), {**SRUN_S, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}),
        ((), {"RANK": "0", "WORLD_SIZE": "4"}),
        ((), {**TORCHRUN_S, "RANK": "0", "WORLD_SIZE": "1"}),
        (("--share", "1/1"), TORCHRUN_S),
    ],
    ids=["batch script", "shell of srun", "pod", "torchrun of one", "told all"],
)
def test_all_is_proved_where_there_is_one_process(pending, arguments, environment):
    """An environment that a person's shell may have, or a word that all is meant, makes no share of it."""
    done = pending.good(*TO_LEVEL_2, *arguments, **environment)
    assert done.out.startswith(f"yolo: version 1: L2, {len(FILES)} checkpoints read back")


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (("--share", "0/2"), {}, "'0/2'"),
        (("--share", "3/2"), {}, "'3/2'"),
        (("--share", "1/0"), {}, "'1/0'"),
        (("--share", "2"), {}, "'2'"),
        (("--share", "-1/2"), {}, "'-1/2'"),
        (("--share", "all"), {}, "'all'"),
        (("--share", "rank"), {}, "RANK and WORLD_SIZE"),
        (("--share", "rank"), {"RANK": "0"}, "RANK and WORLD_SIZE"),
        (("--share", "rank"), {"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2"),
        (("--share", "rank"), {"RANK": "first", "WORLD_SIZE": "2"}, "RANK='first'"),
        (("--share", "rank"), {**LIKE_TORCHRUN_S, "LOCAL_RANK": "-1"}, "LOCAL_RANK='-1'"),
        ((), LIKE_TORCHRUN_S, "RANK and WORLD_SIZE"),
        ((), SRUN_S, "SLURM_PROCID and SLURM_STEP_NUM_TASKS"),
        ((), {**TORCHRUN_S, "WORLD_SIZE": "1"}, "RANK=1"),
    ],
)
def test_what_is_no_share(pending, arguments, environment, said):
    """Bad values, and an environment that may or may not be meant for this process, end with 2 and prove nothing."""
    done = pending.run(*TO_LEVEL_2, *arguments, **environment)
    assert (done.status, said in done.err) == (2, True)
    assert later_proofs(pending) == []


def test_a_version_that_shares_might_not_agree_on(pending):
    """A share is of a version by its number: "latest" may be another one by the time that the next process looks."""
    pending.configure(NO_DEVICE)
    done = pending.run("prove", "latest", "--level", "2", "--share", "1/2")
    assert (done.status, "number" in done.err) == (2, True)
    counts = [
        pending.good("prove", "1", "--level", "2", "--share", share, "--json").json()["versions"][0]["checkpoint_count"]
        for share in ("1/2", "2/2")
    ]
    assert (sum(counts), min(counts) > 0) == (len(FILES), True)


@pytest.mark.parametrize(
    ("local_rank", "wanted", "device"),
    [
        (None, "cuda", "cuda"),
        (3, "cuda", "cuda%3"),
        (0, "auto", "auto%0"),
        (3, "cuda:1", "cuda:1"),
        (3, "cpu", "cpu"),
        (3, "none", "none"),
    ],
)
def test_the_device_of_a_rank(local_rank, wanted, device):
    """A rank has a GPU of its own where any would do, and what was asked for where not."""
    assert ShareChoice(Share(4, 8), local_rank).device(wanted) == device


@pytest.mark.parametrize(
    ("configured", "arguments", "device"),
    [
        ("auto", ("--device", "cuda", "--share", "rank"), "cuda%1"),
        ("cuda", ("--share", "rank"), "cuda%1"),
        ("auto", ("--share", "rank"), "auto%1"),
        ("auto", ("--device", "cuda:0", "--share", "rank"), "cuda:0"),
        ("auto", ("--device", "cuda", "--share", "2/2"), "cuda"),
    ],
)
def test_the_device_that_the_proof_s_process_is_asked_for(pending, configured, arguments, device):
    """It is told the rank on this machine where any GPU would do: only that process sees how many there are."""
    heard = pending.base / "heard"
    python = pending.base / "python"
    python.write_text(f'#!/bin/sh\nhead -c 60 > "{heard}"\n')
    python.chmod(0o755)
    pending.configure(f'[proof]\npython = "{python}"\ndevice = "{configured}"\n')
    environment = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}
    done = pending.run("prove", "--pending", *arguments, **environment)
    assert done.status in range(51, 60)
    assert re.search(rb'"device": ?"([^"]*)"', heard.read_bytes())[1].decode() == device
