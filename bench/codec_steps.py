"""Each step that a byte takes on its way into a pack and back, alone, on pieces of 2 MiB.

    python bench/codec_steps.py [--rounds 5] [--quick]

Numbers are ``randn * 0.02`` in float32 and bfloat16, and lines of a log. Per step: GB/s of plain bytes in one thread
and in two (medians over the rounds; two threads are worth having where the GIL is free), and what one call allocates:
the most that Python's allocators, and numpy's, held during it (tracemalloc), how many blocks its result holds, and how
often the kernel had to give a page. Memory that a C library takes for itself shows in the pages only. Writes
results/codec_steps.json.
"""

from __future__ import annotations

import os
import resource
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import report
import xxhash
from isal import isal_zlib

from mlsync.codec import compression, differences, frames, planes
from mlsync.codec.compression import Coding
from mlsync.codec.digest import chunk_name
from mlsync.codec.sealing import TAG_BYTES, Seal

PIECE_BYTES = 2 << 20
PIECES = 16
KEY = bytes(range(32))
NONCE = bytes(12)
PLAN_SAMPLE_BYTES = 24 << 10
CALLS_COUNTED = 8


@dataclass(frozen=True)
class Step:
    """*make* gives a thread its own function from the number of a piece to a result: buffers are not shared."""

    name: str
    make: Callable[[], Callable[[int], object]]


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    seconds = 0.05 if arguments.quick else 0.4
    with tempfile.TemporaryFile(dir=arguments.directory) as file:
        steps = all_steps(file)
        rows = {step.name: one_step(step, arguments.rounds, seconds) for step in steps}
    result = {"what": "GB/s of plain bytes of each step on pieces of 2 MiB", "piece_bytes": PIECE_BYTES, "steps": rows}
    show(result)
    report.write("codec_steps", result, arguments)


def all_steps(file) -> list[Step]:
    floats, halves, log = float_pieces(), half_pieces(), log_pieces()
    file.write(b"".join(floats))
    file.flush()
    numbers = (("float32", floats, 4), ("bfloat16", halves, 2))
    contents = (*numbers, ("log", log, 0))
    pairs = (
        ("float32", trained(floats, halves=False), floats, 4),
        ("bfloat16", trained(halves, halves=True), halves, 2),
    )
    return [
        Step("preadv into a reused buffer", lambda: preadv(file.fileno())),
        Step("XXH3-128", lambda: lambda number: xxhash.xxh3_128_digest(floats[number])),
        Step("CRC-32 (isal)", lambda: lambda number: isal_zlib.crc32(floats[number])),
        Step("BLAKE3 keyed: a chunk's name", lambda: lambda number: chunk_name(KEY, floats[number])),
        Step("AES-256-GCM seal into a reused buffer", lambda: seal_into(floats)),
        Step("AES-256-GCM seal into fresh bytes", lambda: seal_fresh(floats)),
        Step("AES-256-GCM open into a reused buffer", lambda: open_into(floats)),
        Step("zstd-1, float32", lambda: lambda number: frames.frame(frames.Method.MATCHED, floats[number])),
        Step("zstd, entropy only, float32", lambda: lambda number: frames.frame(frames.Method.ENTROPY, floats[number])),
        *(
            Step(f"planes chosen, {name}", lambda a=(pieces, width): choose_planes(*a))
            for name, pieces, width in numbers
        ),
        *(Step(f"planes taken apart, {name}", lambda a=(pieces, width): apart(*a)) for name, pieces, width in numbers),
        *(
            Step(f"planes put together, {name}", lambda a=(pieces, width): together(*a))
            for name, pieces, width in numbers
        ),
        *(
            Step(f"distances from a base, {name}", lambda a=(pieces, base, width): distances(*a))
            for name, pieces, base, width in pairs
        ),
        *(
            Step(f"base added to distances, {name}", lambda a=(pieces, base, width): base_added(*a))
            for name, pieces, base, width in pairs
        ),
        *(Step(f"encode {name}", lambda a=(pieces, width): encode(*a)) for name, pieces, width in contents),
        *(
            Step(f"encode {name} as a difference", lambda a=(pieces, width, base): encode(*a))
            for name, pieces, base, width in pairs
        ),
        *(
            Step(f"decode {name}, a difference", lambda a=(pieces, width, base): decode(*a))
            for name, pieces, base, width in pairs
        ),
        *(Step(f"decode {name}", lambda a=(pieces, width): decode(*a)) for name, pieces, width in contents),
    ]


def float_pieces() -> list[memoryview]:
    values = np.random.default_rng(0).standard_normal(PIECES * PIECE_BYTES // 4, np.float32) * np.float32(0.02)
    return cut(values.tobytes())


def half_pieces() -> list[memoryview]:
    """bfloat16 is the upper half of float32."""
    values = np.random.default_rng(1).standard_normal(PIECES * PIECE_BYTES // 2, np.float32) * np.float32(0.02)
    return cut((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())


def trained(pieces: list[memoryview], *, halves: bool) -> list[memoryview]:
    """The same numbers some steps of training later: each a thousandth of itself away."""
    raw = b"".join(pieces)
    values = np.frombuffer(raw, np.float32)
    if halves:
        values = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
    later = (values * (1 + np.random.default_rng(2).standard_normal(len(values), np.float32) * 1e-3)).astype(np.float32)
    return cut((later.view(np.uint32) >> 16).astype(np.uint16).tobytes() if halves else later.tobytes())


def log_pieces() -> list[memoryview]:
    lines = (f"step {n:09d} loss {2.5 / (1 + n) ** 0.1 + n % 97 * 1e-4:.6f} lr 1e-3\n" for n in range(PIECES * 60_000))
    return cut("".join(lines).encode())


def cut(content: bytes) -> list[memoryview]:
    return [memoryview(content)[number * PIECE_BYTES : (number + 1) * PIECE_BYTES] for number in range(PIECES)]


def preadv(descriptor: int) -> Callable[[int], object]:
    buffer = bytearray(PIECE_BYTES)
    return lambda number: os.preadv(descriptor, [buffer], number * PIECE_BYTES)


def seal_into(pieces: list[memoryview]) -> Callable[[int], object]:
    seal, buffer = Seal(KEY), memoryview(bytearray(PIECE_BYTES + TAG_BYTES))
    return lambda number: seal.seal_into(NONCE, pieces[number], b"bound", buffer)


def seal_fresh(pieces: list[memoryview]) -> Callable[[int], object]:
    seal = Seal(KEY)
    return lambda number: seal.seal(NONCE, pieces[number], b"bound")


def open_into(pieces: list[memoryview]) -> Callable[[int], object]:
    seal, buffer = Seal(KEY), memoryview(bytearray(PIECE_BYTES))
    sealed = [seal.seal(NONCE, piece, b"bound") for piece in pieces]
    return lambda number: seal.open_into(NONCE, sealed[number], b"bound", buffer)


def distances(pieces: list[memoryview], bases: list[memoryview], item_bytes: int) -> Callable[[int], object]:
    return lambda number: differences.distances(pieces[number], bases[number], item_bytes)


def base_added(pieces: list[memoryview], bases: list[memoryview], item_bytes: int) -> Callable[[int], object]:
    buffer = memoryview(bytearray(pieces[0]))
    return lambda number: differences.add_base(buffer, bases[number], item_bytes)


def encode(pieces: list[memoryview], item_bytes: int, bases: list[memoryview] | None = None) -> Callable[[int], object]:
    return lambda number: compression.encode(pieces[number], item_bytes, bases[number] if bases else None)


def decode(pieces: list[memoryview], item_bytes: int, bases: list[memoryview] | None = None) -> Callable[[int], object]:
    buffer = memoryview(bytearray(PIECE_BYTES))
    code = encode(pieces, item_bytes, bases)
    coded = [kept(code(number)) for number in range(PIECES)]
    return lambda number: compression.decode_into(*coded[number], buffer, bases[number] if bases else None)


def kept(coded: tuple[Coding, memoryview]) -> tuple[Coding, memoryview]:
    return coded[0], memoryview(bytes(coded[1]))  # what encode gives is valid until its next call


def choose_planes(pieces: list[memoryview], item_bytes: int) -> Callable[[int], object]:
    return lambda number: planes.choose_planes(pieces[number][:PLAN_SAMPLE_BYTES], item_bytes)


def apart(pieces: list[memoryview], item_bytes: int) -> Callable[[int], object]:
    coder = planes.PlaneCoder()
    chosen = planes.choose_planes(pieces[0][:PLAN_SAMPLE_BYTES], item_bytes).planes
    return lambda number: coder.encode(pieces[number], item_bytes, chosen)


def together(pieces: list[memoryview], item_bytes: int) -> Callable[[int], object]:
    coder, buffer = planes.PlaneCoder(), memoryview(bytearray(PIECE_BYTES))
    code = apart(pieces, item_bytes)
    coded = [memoryview(bytes(code(number))) for number in range(PIECES)]
    return lambda number: coder.decode_into(coded[number], buffer)


def one_step(step: Step, rounds: int, seconds: float) -> dict[str, object]:
    one = [rate([step.make()], seconds) for _ in range(rounds)]
    two = [rate([step.make(), step.make()], seconds) for _ in range(rounds)]
    rates = {"gb_per_s": report.spread(one), "gb_per_s_two_threads": report.spread(two)}
    return rates | allocations(step.make())


def rate(functions: list[Callable[[int], object]], seconds: float) -> float:
    """GB/s of all threads together, each with its own function, until the time is over."""
    counts = [0] * len(functions)
    start = threading.Barrier(len(functions) + 1)

    def work(index: int) -> None:
        function = functions[index]
        function(0)
        start.wait()
        deadline_s = time.perf_counter() + seconds
        while time.perf_counter() < deadline_s:
            function(counts[index] % PIECES)
            counts[index] += 1

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(functions))]
    for thread in threads:
        thread.start()
    start.wait()
    began_s = time.perf_counter()
    for thread in threads:
        thread.join()
    return sum(counts) * PIECE_BYTES / (time.perf_counter() - began_s) / 1e9


def allocations(function: Callable[[int], object]) -> dict[str, int]:
    function(0)
    faults = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    for number in range(CALLS_COUNTED):
        function(number)
    faults = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - faults
    tracemalloc.start()
    try:
        function(0)
        for _ in range(3):
            blocks()  # for what it keeps itself the first times
        before = blocks()
        held_bytes, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        result = function(1)
        peak_bytes = tracemalloc.get_traced_memory()[1] - held_bytes
        held_blocks = blocks() - before
        del result
    finally:
        tracemalloc.stop()
    return {
        "peak_bytes_per_call": peak_bytes,
        "blocks_per_result": held_blocks,
        "page_faults_per_call": round(faults / CALLS_COUNTED),
    }


def blocks() -> int:
    """How many blocks of memory are held that this file or what it calls has allocated, but for this count's own."""
    mine = tracemalloc.Filter(inclusive=False, filename_pattern=tracemalloc.__file__)
    return sum(one.count for one in tracemalloc.take_snapshot().filter_traces([mine]).statistics("filename"))


def show(result: dict[str, object]) -> None:
    rows = [
        (
            name,
            report.ratio(one["gb_per_s_two_threads"]["median"], one["gb_per_s"]["median"]),
            one["gb_per_s"]["median"],
            one["gb_per_s_two_threads"]["median"],
            one["peak_bytes_per_call"],
            one["blocks_per_result"],
            one["page_faults_per_call"],
        )
        for name, one in result["steps"].items()
    ]
    columns = ["step", "two/one", "GB/s", "two threads", "peak bytes", "blocks", "page faults"]
    report.show("Steps on pieces of 2 MiB; memory per call", columns, rows)


if __name__ == "__main__":
    main()
