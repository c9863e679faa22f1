"""What gpu_proof.py, price.py and proof_memory.py measure, each in a process: ``gpu_steps.py STEP ARGUMENTS``.

ARGUMENTS is a JSON object; the last line of the output is one, too.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from mlsync.proof.programs import gpus
from mlsync.values import Level

WINDOWS_TIMED = 200
TRAINING_WIDTH = {"cpu": 512}
TRAINING_WIDTH_GPU = 4096
TRAINING_BATCH = 64
PAGE_BYTES = 4096
TAG_BYTES = 16


def make(path: str, tensors_path: str, dtype: str, gib: float):
    """The same numbers as torch saves them and as safetensors does."""
    import safetensors.torch
    import torch

    torch.manual_seed(0)
    layer = torch.empty(0, dtype=getattr(torch, dtype))
    numbers = (16 << 20) // layer.element_size()
    count = max(1, round(gib * 64))
    model = {f"layers.{n}.weight": (torch.randn(numbers) * 0.02).to(layer.dtype) for n in range(count)}
    torch.save({"epoch": 1, "model": model}, path)
    safetensors.torch.save_file(model, tensors_path)
    return {"size_bytes": os.stat(path).st_size}


def make_repeated(path: str, gib: int):
    """A safetensors file of *gib* tensors of a GiB, all of the same numbers: it takes no memory to be made."""
    import torch

    torch.manual_seed(0)
    size = 1 << 30
    header = {
        f"layers.{n}.weight": {"dtype": "BF16", "shape": [size // 2], "data_offsets": [n * size, (n + 1) * size]}
        for n in range(gib)
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    block = (torch.randn(size // 2, dtype=torch.float32) * 0.02).bfloat16().view(torch.uint8).numpy()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.writelines(block for _ in range(gib))
    return {"size_bytes": os.stat(path).st_size}


def prove(config: str, passphrase: str, device: str, rounds: int, until: str | None = None):
    """From the repository to proved, and the reading alone; with *until*, over and over while that file is there."""
    from mlsync.app.flow_options import prover_of
    from mlsync.app.session import Session
    from mlsync.config.load import load
    from mlsync.monitor import SilentMonitor
    from mlsync.repository.keys.keyslot import Passphrase

    with Session.open(load(config), lambda: Passphrase(passphrase.encode()), SilentMonitor()) as session:
        entry, reader = last_checkpoint(session)
        with reader, prover_of(session.config, device) as prover:
            start_s, info = timed(prover.open)
            whole = lambda: proved(prover, reader, entry)  # noqa: E731 - one name for both ways to time it
            if until is not None:
                return {"proofs": repeated(whole, until)}
            runs = []
            for _ in range(rounds):
                evict(config)
                read_s, _ = timed(lambda: read(reader, entry))
                evict(config)
                prove_s, _ = timed(whole)
                runs.append({"read_s": read_s, "prove_s": prove_s, "cached_prove_s": timed(whole)[0]})
            about = {"device": info.device, "torch": info.torch, "start_s": start_s, "runs": runs}
            child = prover._engine.pid  # noqa: SLF001 - nobody but this benchmark wants to know it
            return about | {"host_peak_mib": peak_mib(os.getpid()), "child_peak_mib": peak_mib(child)}


def warm_and_cold(config: str, passphrase: str, device: str, rounds: int):
    """The last checkpoint proved by a child that starts for it, and by one that waited for it; the same in turns."""
    from mlsync.app.flow_options import prover_of
    from mlsync.app.session import Session
    from mlsync.config.load import load
    from mlsync.monitor import SilentMonitor
    from mlsync.proof.warm import WarmEngine
    from mlsync.repository.keys.keyslot import Passphrase

    warm = WarmEngine()
    warm.stay_s = 60.0
    with Session.open(load(config), lambda: Passphrase(passphrase.encode()), SilentMonitor()) as session:
        entry, reader = last_checkpoint(session)

        def version():
            with prover_of(session.config, device, warm=warm) as prover:
                proved(prover, reader, entry)
                child = prover._engine.pid  # noqa: SLF001 - nobody but this benchmark wants to know it
                version.child_cpu_s = cpu_s(child)

        runs = []
        with reader:
            for _ in range(rounds):
                cold_s, _ = timed(version)
                cold_cpu_s = version.child_cpu_s
                waits = warm.left_s > 0  # else both started one: on the CPU, or with little of the GPU's memory free
                warm_s, _ = timed(version)
                warm_cpu_s = version.child_cpu_s - (cold_cpu_s if waits else 0.0)
                free = sum(gpus.free_bytes().values())
                warm.close()
                # What a child takes that waits: its context, of which nothing but the driver knows.
                waiting_mib = round((sum(gpus.free_bytes().values()) - free) / (1 << 20), 1) if waits else None
                runs.append(
                    {
                        "waited": waits,
                        "cold_s": round(cold_s, 3),
                        "warm_s": round(warm_s, 3),
                        "cold_child_cpu_s": round(cold_cpu_s, 2),
                        "warm_child_cpu_s": round(warm_cpu_s, 2),
                        "waiting_mib": waiting_mib,
                    }
                )
    return {"runs": runs}


def price(config: str, passphrase: str):
    """Seconds and processor seconds of the child's start and of each checkpoint of the last version, on the CPU."""
    from mlsync.app.flow_options import prover_of
    from mlsync.app.session import Session
    from mlsync.config.load import load
    from mlsync.monitor import SilentMonitor
    from mlsync.repository.keys.keyslot import Passphrase

    with Session.open(load(config), lambda: Passphrase(passphrase.encode()), SilentMonitor()) as session:
        entries, reader = checkpoints(session)
        with reader, prover_of(session.config, "cpu") as prover:
            start_s, _ = timed(prover.open)
            child = prover._engine.pid  # noqa: SLF001 - nobody but this benchmark wants to know it
            start_cpu_s = cpu_s(child)
            files = {entry.path.decode(): priced(prover, reader, entry, child, config) for entry in entries}
    return {"start_s": start_s, "start_cpu_s": start_cpu_s, "import_cpu_s": importing(), "files": files}


def priced(prover, reader, entry, child: int, config: str):
    """One file: from the disk, then twice read back and proved from the page cache, of which the better counts."""
    evict(config)
    found = {"size_bytes": entry.size_bytes, "cold_prove_s": timed(lambda: proved(prover, reader, entry))[0]}
    runs = []
    for _ in range(2):
        began_s = time.process_time()
        read_s, _ = timed(lambda: read(reader, entry))
        read_cpu_s = time.process_time() - began_s
        began_s, child_began_s = time.process_time(), cpu_s(child)
        prove_s, _ = timed(lambda: proved(prover, reader, entry))
        child_cpu_s = cpu_s(child) - child_began_s
        prove_cpu_s = time.process_time() - began_s + child_cpu_s
        times = {"read_s": read_s, "read_cpu_s": read_cpu_s, "prove_s": prove_s, "prove_cpu_s": prove_cpu_s}
        runs.append(times | {"child_cpu_s": child_cpu_s})
    return found | {key: min(run[key] for run in runs) for key in runs[0]} | {"steps_cpu_s": apart(reader, entry)}


def apart(reader, entry) -> dict[str, float]:
    """Processor seconds of each step of reading a file back, one chunk after the other in one thread."""
    from mlsync.buffers import aligned_memory
    from mlsync.codec.compression import Coding, decode_into
    from mlsync.codec.digest import FileDigester, is_named
    from mlsync.proof.inspection import inspect
    from mlsync.proof.spans import ExtentChecksums
    from mlsync.repository import names
    from mlsync.versions.stored_file import RestoredFile, parts_of

    spent_s: dict[str, float] = {}

    def clocked(step, work, *arguments):
        began_s = time.process_time()
        result = work(*arguments)
        spent_s[step] = spent_s.get(step, 0.0) + time.process_time() - began_s
        return result

    opener = reader._opener  # noqa: SLF001 - its steps are what is measured
    inspection = clocked("parsing", inspect, RestoredFile(reader, entry, lambda _: None), entry.path, Level.MEANING)
    checksums, digester = ExtentChecksums(inspection.layout), FileDigester(entry.digest[0], entry.holes)
    memory = {use: memoryview(aligned_memory(20 << 20)) for use in ("sealed", "coded", "plain")}
    for part in parts_of(entry):
        ref = part.ref
        if ref is None:
            continue
        sealed, plain = memory["sealed"][: ref.stored_bytes], memory["plain"][: ref.plain_bytes]
        seal = opener._seal_of(ref)  # noqa: SLF001 - as above
        coded = memory["coded"][: ref.stored_bytes - TAG_BYTES]
        about = (ref.ordinal, ref.name, ref.coding, ref.plain_bytes)
        clocked("reading", opener._store.read, names.pack(ref.pack), ref.offset, sealed)  # noqa: SLF001 - as above
        clocked("opening", seal.open_chunk, *about, sealed, coded)
        if ref.coding is Coding.RAW:
            plain = coded
        else:
            clocked("decoding", decode_into, ref.coding, coded, plain)
        assert clocked("name", is_named, opener._name_key, plain, ref.name)  # noqa: SLF001 - as above
        clocked("digest", digester.update, plain)
        clocked("checksums", checksums.feed, part.offset, plain)
    assert digester.digest() == entry.digest
    return spent_s


def importing() -> float:
    """Processor seconds that it takes to import what proves, parsers included, on top of Python itself."""

    def spent_s(code: str) -> float:
        before = os.times()
        subprocess.run([sys.executable, "-c", code], check=True)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    return min(spent_s("import mlsync.proof.prover") for _ in range(3)) - min(spent_s("") for _ in range(3))


def cpu_s(pid: int) -> float:
    """Processor seconds that a process has taken, of its own and of the kernel for it."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def peak_mib(pid: int) -> float:
    """The most memory that a process has taken (VmHWM); what processes share counts for each of them."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return round(int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024, 1)


def last_checkpoint(session):
    entries, reader = checkpoints(session)
    return entries[0], reader


def checkpoints(session):
    from mlsync.versions.select import find_run, find_version

    run = find_run(session.repository, None)
    manifest = session.repository.manifest(find_version(session.repository, run, "latest"))
    return [entry for entry in manifest.entries if entry.proof is not None], session.repository.reader()


def proved(prover, reader, entry):
    from mlsync.versions.stored_file import RestoredFile

    verdict = prover.prove(RestoredFile(reader, entry, lambda _: None), entry.path)
    assert verdict.proof.level == Level.NUMBERS, verdict


def read(reader, entry):
    from mlsync.versions.stored_file import RestoredFile

    for _ in RestoredFile(reader, entry, lambda _: None).stream():
        pass


def repeated(work, until: str) -> int:
    count = 0
    while Path(until).exists():
        work()
        count += 1
    return count


def evict(config: str) -> None:
    """Take the repository beside the configuration out of the page cache."""
    for path in (Path(config).parent / "store").rglob("*"):
        if path.is_file():
            drop(path)


def drop(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def stages(device: str, memory_bytes: int, dtype: str):
    """GB/s of each step of the child alone: into pinned memory, onto the device, digest and counts."""
    import torch

    from mlsync.proof.child import PROGRAM, WINDOW_STRIDE_BYTES

    spec = importlib.util.spec_from_file_location("device", PROGRAM)
    child = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(child)
    torch.set_num_threads(1)
    memory = os.memfd_create("bench")
    os.ftruncate(memory, WINDOW_STRIDE_BYTES)
    windows = child.Windows({"descriptor": memory, "count": 1, "stride_bytes": WINDOW_STRIDE_BYTES})
    is_cuda = device.startswith("cuda")
    size = child.CUDA_WINDOW_BYTES if is_cuda else child.CPU.WINDOW_BYTES
    window = torch.frombuffer(windows.at(0, size), dtype=torch.uint8)
    numbers = window.view(getattr(torch, dtype))
    numbers.copy_((torch.randn(numbers.numel()) * 0.02).to(numbers.dtype))
    if not is_cuda:
        return {"digest and counts": rate_on_cpu(child.CPU, windows, size, dtype)}
    chosen = child.Device(torch, device, memory_bytes)
    with torch.no_grad():
        return stage_rates(torch, child.GpuProver(torch, chosen, bytes(32), Silence(), windows), window, dtype)


def rate_on_cpu(cpu, windows, size: int, dtype: str) -> float:
    import numpy as np
    from xxhash import xxh3_64_intdigest

    prover = cpu.CpuProver(np, cpu.WindowXxh3(xxh3_64_intdigest, bytes(32)), windows, lambda _: None)
    header = {"window": 0, "place": 0, "length": size, "segments": [[0, dtype, 0, size]]}
    return rate(lambda: prover.take(header), size, lambda: None)


class Silence:
    """A channel to nobody."""

    def write(self, message):
        pass


def stage_rates(torch, prover, window, dtype: str):
    size = window.numel()
    slot = prover.slots[0]
    synchronize = torch.cuda.synchronize
    header = {"window": 0, "place": 0, "length": size, "segments": [[0, dtype, 0, size]]}

    def digest():
        prover._launch(slot, header, size)  # noqa: SLF001 - a step of what take() does is what is timed
        synchronize()
        slot.event, event = None, slot.event
        prover.finish(slot)
        slot.event = event

    rates = {"into pinned memory": rate(lambda: slot.host.copy_(window), size, synchronize)}
    onto = lambda: slot.there.copy_(slot.host, non_blocking=True)  # noqa: E731 - as above
    rates["onto the device"] = rate(onto, size, synchronize)
    rates["digest and counts"] = rate(digest, size, synchronize)
    return rates


def rate(work, size_bytes: int, synchronize) -> float:
    work()
    synchronize()
    began_s = time.perf_counter()
    for _ in range(WINDOWS_TIMED):
        work()
    synchronize()
    return WINDOWS_TIMED * size_bytes / (time.perf_counter() - began_s) / 1e9


def load_torch(path: str, device: str, rounds: int):
    """``torch.load`` of the file onto the device, which is what a trainer does."""
    import torch

    return loads(lambda: torch.load(path, map_location=device, weights_only=True)["model"], path, device, rounds)


def load_safetensors(path: str, device: str, rounds: int):
    """The same numbers by safetensors' own loader."""
    import safetensors.torch

    return loads(lambda: safetensors.torch.load_file(path, device=device), path, device, rounds)


def loads(work, path: str, device: str, rounds: int):
    import torch

    is_cuda = device.startswith("cuda")
    synchronize = torch.cuda.synchronize if is_cuda else lambda: None
    torch.zeros(1, device=device)  # the context is not theirs to pay for, nor is it the proof's, whose child is ready
    runs = []
    for _ in range(rounds):
        drop(Path(path))
        runs.append({"load_s": loaded(torch, work, synchronize), "cached_load_s": loaded(torch, work, synchronize)})
    peak = torch.cuda.max_memory_allocated() / (1 << 20) if is_cuda else None
    return {"runs": runs, "allocated_peak_mib": peak}


def loaded(torch, work, synchronize) -> float:
    """Seconds of one load; what it gives is gone when the next begins."""
    began_s = time.perf_counter()
    for tensor in work().values():
        if tensor.device.type == "cpu":
            tensor.flatten().view(torch.uint8)[::PAGE_BYTES].sum()  # what is only mapped has not been read yet
    synchronize()
    return time.perf_counter() - began_s


def train(device: str, seconds: float):
    """Steps a second of a small network that keeps the device busy."""
    import torch

    torch.manual_seed(0)
    width = TRAINING_WIDTH.get(device, TRAINING_WIDTH_GPU)
    layers = [torch.nn.Linear(width, width) for _ in range(4)]
    model = torch.nn.Sequential(*layers).to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    batch = torch.randn(TRAINING_BATCH, width, device=device)
    steps, is_warm, began_s = 0, False, time.perf_counter()
    while (elapsed_s := time.perf_counter() - began_s) < seconds:
        if not is_warm and elapsed_s > seconds / 4:
            steps, is_warm, began_s = 0, True, time.perf_counter()
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        steps += 1
    return {"steps_per_s": steps / elapsed_s}


def timed(work):
    began_s = time.perf_counter()
    result = work()
    return time.perf_counter() - began_s, result


STEPS = {
    "make": make,
    "make_repeated": make_repeated,
    "prove": prove,
    "price": price,
    "warm_and_cold": warm_and_cold,
    "stages": stages,
    "torch.load": load_torch,
    "safetensors": load_safetensors,
    "train": train,
}

if __name__ == "__main__":
    print(json.dumps(STEPS[sys.argv[1]](**json.loads(sys.argv[2]))))
