"""The proof on a real GPU: what it digests and counts there is what the CPU does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from checkpoint_files import MemorySource, torch_bytes, weights_bytes, yolo_bytes
from doubles.verdict_status import status
from mlsync.errors import DeviceMissing
from mlsync.proof.options import ProofOptions
from mlsync.proof.programs import gpus
from mlsync.proof.prover import Prover
from mlsync.proof.warm import WarmEngine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device that torch can see"),
]


@pytest.fixture(scope="module")
def prover():
    with Prover(ProofOptions(device="cuda")) as prover:
        yield prover


def test_the_device_is_named(prover):
    """Device, runtime and room are told by the child."""
    info = prover.open()
    assert info.device == f"cuda:0 {torch.cuda.get_device_name(0)}"
    assert info.cuda == torch.version.cuda


@pytest.mark.parametrize("data", [yolo_bytes(), weights_bytes()], ids=["yolo", "weights"])
def test_a_sound_checkpoint_is_proved_on_the_gpu(prover, data):
    """Real files are proved to level 4 on the GPU."""
    verdict = prover.prove(MemorySource(data), b"last.pt")
    assert (status(verdict), verdict.proof.level) == ("proved", 4)
    assert verdict.proof.device.startswith("cuda:")


@pytest.mark.parametrize(
    "dtype", ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "complex64", "complex128"]
)
def test_counts_are_those_of_the_cpu(prover, dtype):
    """Every type's numbers are counted on the GPU as on the CPU, over several windows."""
    values = torch.randn(5 << 20).to(getattr(torch, dtype))
    values[:3] = 0
    values[-2:] = float("nan")
    whole = torch.linspace(-2, 3, 5 << 20).to(getattr(torch, dtype))
    source = MemorySource(torch_bytes({"x": values, "y": values[:100].clone(), "z": whole}))
    on_gpu = prover.prove(source, b"x.pt")
    with Prover(ProofOptions(device="cpu")) as other:
        on_cpu = other.prove(source, b"x.pt")
    assert status(on_gpu) == status(on_cpu) == "proved"
    assert on_gpu.proof.facts | {"norm": 0} == on_cpu.proof.facts | {"norm": 0}
    assert on_gpu.proof.facts.get("norm") == pytest.approx(on_cpu.proof.facts.get("norm"), rel=1e-5)
    assert on_gpu.proof.findings == on_cpu.proof.findings


def test_memory_on_the_device_is_bounded(prover):
    """A checkpoint larger than the child's share of the device is proved with the memory of a small one."""
    prover.prove(MemorySource(weights_bytes()), b"w.pt")
    before = used_mib(prover)
    data = torch_bytes({"x": torch.randn(160 << 20)})
    assert status(prover.prove(MemorySource(data, 16 << 20), b"x.pt")) == "proved"
    assert used_mib(prover) - before <= 512


def used_mib(prover: Prover) -> int:
    free, total = torch.cuda.mem_get_info()
    return (total - free) >> 20


def test_a_full_gpu_is_not_a_broken_checkpoint():
    """With no room on the GPU ``auto`` proves on the CPU and says so."""
    with Prover(ProofOptions(memory_bytes=1 << 50)) as crowded:
        verdict = crowded.prove(MemorySource(yolo_bytes()), b"last.pt")
    assert (status(verdict), verdict.proof.device) == ("proved", "cpu")
    assert any("MiB are not free" in finding.what for finding in verdict.proof.findings)


def test_the_norm_is_that_of_the_cpu(prover):
    """Numbers that are all finite have the same norm on both, to the digits that are recorded."""
    source = MemorySource(torch_bytes({"x": torch.linspace(-2, 3, 5 << 20), "y": torch.linspace(0, 1, 999).bfloat16()}))
    with Prover(ProofOptions(device="cpu")) as other:
        expected = other.prove(source, b"x.pt").proof.facts["norm"]
    assert prover.prove(source, b"x.pt").proof.facts["norm"] == pytest.approx(expected, rel=1e-5)


def test_the_child_is_confined_and_goes_on_proving(prover):
    """With the filter in all threads, the driver's own too, file after file is proved."""
    info = prover.open()
    for data in (yolo_bytes(), weights_bytes(), yolo_bytes()):
        assert status(prover.prove(MemorySource(data), b"last.pt")) == "proved"
    if info.unconfined:
        pytest.skip(info.unconfined)
    for task in Path(f"/proc/{prover._engine.pid}/task").iterdir():
        assert "Seccomp:\t2" in (task / "status").read_text()


def test_a_gpu_is_taken_by_its_number():
    """The last GPU is used if it is asked for; one that is not there is an error, not a proof on another."""
    last = torch.cuda.device_count() - 1
    with Prover(ProofOptions(device=f"cuda:{last}")) as prover:
        assert prover.open().device.startswith(f"cuda:{last} ")
    with Prover(ProofOptions(device=f"cuda:{last + 1}")) as prover, pytest.raises(DeviceMissing):
        prover.open()


def test_a_rank_takes_the_gpu_of_its_number():
    """Of as many ranks as GPUs each has its own; the one after them has the first again."""
    count = torch.cuda.device_count()
    for rank, number in ((count - 1, count - 1), (count, 0)):
        for kind in ("cuda", "auto"):
            with Prover(ProofOptions(device=f"{kind}%{rank}")) as prover:
                assert prover.open().device.startswith(f"cuda:{number} ")


def test_the_gpu_with_most_free_memory_is_taken():
    """Where one GPU is fuller than another the child goes to the other."""
    if torch.cuda.device_count() < 2:
        pytest.skip("there is only one GPU")
    held = torch.empty(4 << 30, dtype=torch.uint8, device="cuda:0")
    free = {number: torch.cuda.mem_get_info(number)[0] for number in range(torch.cuda.device_count())}
    with Prover(ProofOptions()) as prover:
        assert prover.open().device.startswith(f"cuda:{gpus.by_free_memory(free)[0]} ")
    del held


def test_free_memory_is_told_without_a_context():
    """What the driver's libraries say is free is what torch says, and whoever asks does not appear on the GPU."""
    code = f"""
import importlib.util, os, sys
spec = importlib.util.spec_from_file_location("gpus", {gpus.__file__!r})
gpus = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gpus)
print(os.getpid(), *gpus.free_bytes().values(), flush=True)
sys.stdin.read()
"""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True) as asking:
        pid, *free = asking.stdout.readline().split()
        assert pid not in compute_processes()
        asking.stdin.close()
    expected = [torch.cuda.mem_get_info(number)[0] for number in range(torch.cuda.device_count())]
    assert [int(number) for number in free] == pytest.approx(expected, abs=256 << 20)


def test_the_bound_on_memory_is_enough_where_it_is_least():
    """With the least that the configuration allows a checkpoint of slow types over many windows is proved."""
    values = torch.linspace(-2, 3, 80 << 20)
    data = torch_bytes({"a": values.to(torch.float8_e5m2), "b": values.half(), "c": values})
    with Prover(ProofOptions(device="cuda", memory_bytes=384 << 20)) as prover:
        assert status(prover.prove(MemorySource(data, 16 << 20), b"x.pt")) == "proved"


def compute_processes() -> list[str]:
    listing = subprocess.run(
        ["nvidia-smi", "--query-compute-apps=pid", "--format=csv,noheader"], capture_output=True, text=True, check=False
    )
    return listing.stdout.split()


def test_the_gpu_is_given_back():
    """After the prover is closed its process holds nothing on the device."""
    with Prover(ProofOptions(device="cuda")) as short:
        short.prove(MemorySource(yolo_bytes()), b"last.pt")
        pid = short._engine.pid
    assert str(pid) not in compute_processes()


def test_a_child_waits_and_proves_the_next_version():
    """Between versions a child keeps the context alone; confined, it takes memory again, and proves as before."""
    warm = WarmEngine()
    warm.stay_s = 60.0
    source = MemorySource(torch_bytes({"x": torch.randn(16 << 20)}))
    free = torch.cuda.mem_get_info()[0]
    pids = []
    for _ in range(3):
        with Prover(ProofOptions(device="cuda"), warm) as prover:
            verdict = prover.prove(source, b"x.pt")
            assert (status(verdict), verdict.proof.level) == ("proved", 4)
            pids.append(prover._engine.pid)
        if not warm.left_s:
            pytest.skip("less of the GPU is free than a child leaves others")
        assert (free - torch.cuda.mem_get_info()[0]) >> 20 < 1024
    assert len(set(pids)) == 1
    warm.close()
    assert (free - torch.cuda.mem_get_info()[0]) >> 20 < 64
