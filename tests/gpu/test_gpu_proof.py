"""The proof on a real GPU: what it digests and counts there is what the CPU does."""

from __future__ import annotations

import subprocess

import pytest
import torch

from checkpoint_files import MemorySource, torch_bytes, weights_bytes, yolo_bytes
from mlsync.proof.prove import ProofOptions, Prover

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
    assert (verdict.status, verdict.level) == ("proved", 4)
    assert verdict.device.startswith("cuda:")


@pytest.mark.parametrize(
    "dtype", ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "complex64", "complex128"]
)
def test_counts_are_those_of_the_cpu(prover, dtype):
    """Every type's numbers are counted on the GPU as on the CPU, over several windows."""
    values = torch.randn(5 << 20).to(getattr(torch, dtype))
    values[:3] = 0
    values[-2:] = float("nan")
    source = MemorySource(torch_bytes({"x": values, "y": values[:100].clone()}))
    on_gpu = prover.prove(source, b"x.pt")
    with Prover(ProofOptions(device="cpu")) as other:
        on_cpu = other.prove(source, b"x.pt")
    assert on_gpu.status == on_cpu.status == "proved"
    assert on_gpu.facts == on_cpu.facts
    assert on_gpu.findings == on_cpu.findings


def test_memory_on_the_device_is_bounded(prover):
    """A checkpoint larger than the child's share of the device is proved with the memory of a small one."""
    prover.prove(MemorySource(weights_bytes()), b"w.pt")
    before = used_mib(prover)
    data = torch_bytes({"x": torch.randn(160 << 20)})
    assert prover.prove(MemorySource(data, 16 << 20), b"x.pt").status == "proved"
    assert used_mib(prover) - before <= 512


def used_mib(prover: Prover) -> int:
    free, total = torch.cuda.mem_get_info()
    return (total - free) >> 20


def test_a_full_gpu_is_not_a_broken_checkpoint():
    """With no room on the GPU ``auto`` proves on the CPU and says so."""
    with Prover(ProofOptions(memory_bytes=1 << 50)) as crowded:
        verdict = crowded.prove(MemorySource(yolo_bytes()), b"last.pt")
    assert (verdict.status, verdict.device) == ("proved", "cpu")
    assert any("MiB free" in finding.what for finding in verdict.findings)


def test_the_gpu_is_given_back():
    """After the prover is closed its process holds nothing on the device."""
    with Prover(ProofOptions(device="cuda")) as short:
        short.prove(MemorySource(yolo_bytes()), b"last.pt")
        pid = short._engine.pid
    listing = subprocess.run(
        ["nvidia-smi", "--query-compute-apps=pid", "--format=csv,noheader"], capture_output=True, text=True, check=False
    )
    assert str(pid) not in listing.stdout.split()
