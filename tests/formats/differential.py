"""Small files of each format, all small damage to them, and what mlsync and the format's own library say of each.

``python tests/formats/differential.py [--trusted] [--python PATH] [SAMPLE ...]`` tries every single damage and prints
the table that ``docs/checkpoints.md`` shows; ``test_differential.py`` tries a part of it in the suite's time. What must
not be: that mlsync proves a file which the library then refuses, dies of, or reads as another checkpoint.
"""

from __future__ import annotations

import argparse
import io
import itertools
import pickle
import re
import struct
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import safetensors.torch
import torch
from real_loader import LENGTHS

from checkpoint_files import MemorySource, flipped, records, torch_bytes
from doubles.verdict_status import status
from mlsync.formats.containers import read_layout
from mlsync.formats.layout import Extent
from mlsync.formats.libraries.gguf import read_gguf_layout
from mlsync.formats.libraries.ocdbt import is_ocdbt
from mlsync.formats.libraries.safetensors import read_safetensors_layout
from mlsync.formats.libraries.tensorflow_bundle import parse_index, read_shard
from mlsync.formats.pickles.machine import read_pickle
from mlsync.formats.sniff import identify
from mlsync.formats.torch.legacy import read_legacy_layout
from mlsync.proof.options import ProofOptions
from mlsync.proof.prover import Prover

PROGRAM = Path(__file__).with_name("real_loader.py")
MADE = Path(__file__).with_name("made")
CRASHED = "crashed"

Place = tuple[int, int]  # where it begins and ends


@dataclass(frozen=True)
class Sample:
    """A sound file and where its records are.

    *beside* are the other files of its checkpoint, which the loader is given too, in a zip with it; *metadata* is what
    mlsync judges it with. *open* are the bytes that another checkpoint may have as well: its format has no checksum,
    and what is there is anybody's. *strange* are those that make it a file of a kind that mlsync does not know, and
    says so.
    """

    data: bytes
    path: bytes
    loader: str
    records: tuple[Place, ...]
    edges: tuple[int, ...] = ()
    open: dict[str, tuple[Place, ...]] = field(default_factory=dict)
    strange: dict[str, tuple[Place, ...]] = field(default_factory=dict)
    beside: dict[str, bytes] = field(default_factory=dict)
    metadata: bytes | None = None
    status: Callable[[Prover, bytes], str] | None = None

    def given(self, data: bytes) -> bytes:
        """What the loader is given: the file, or all files of the checkpoint with it among them."""
        if not self.beside:
            return data
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in {**self.beside, self.path.decode(): data}.items():
                archive.writestr(name, content)
        return file.getvalue()

    def judged(self, prover: Prover, data: bytes) -> str:
        """What mlsync says of the file."""
        if self.status is not None:
            return self.status(prover, data)
        return status(prover.prove(MemorySource(data), self.path, self.metadata))


class Change(NamedTuple):
    """One damage: of which kind, what exactly, which bytes were touched, and the file with it."""

    kind: str
    what: str
    touched: tuple[Place, ...]
    data: bytes


# ---------------------------------------------------------------- the files


def value() -> dict[str, object]:
    generator = torch.Generator().manual_seed(5)
    base = torch.randn(3, 4, generator=generator)
    return {
        "a.weight": base,
        "b": {"w": torch.randn(5, generator=generator).half(), "turned": base.T},
        "steps": torch.arange(3),
        "epoch": 3,
        "lr": 0.125,
        "done": False,
        "name": "run",
    }


def arrays() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(5)
    return {
        "a": generator.standard_normal((3, 4)),
        "b": generator.standard_normal(5).astype(np.float16),
        "n": np.arange(3),
    }


def zip_sample(data: bytes, path: bytes, loader: str) -> Sample:
    """A zip: its records with their heads and what lies behind their bytes, its directory entries, its end records."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        heads = sorted(info.header_offset for info in archive.infolist())
        directory = archive.start_dir
    found = records(data)
    whole = tuple(itertools.pairwise([*heads, directory]))
    bodies = tuple((at, at + length) for at, length in found.values())
    entries = []
    at = directory
    while data[at : at + 4] == b"PK\x01\x02":
        entries.append((at, at + 46 + sum(struct.unpack_from("<3H", data, at + 28))))
        at = entries[-1][1]
    return Sample(data, path, loader, (*whole, *bodies, *entries), (at, len(data) - 22))


def torch_sample() -> Sample:
    return zip_sample(torch_bytes(value()), b"last.pt", "torch")


def old_torch_sample() -> Sample:
    return zip_sample((MADE / "torch-2.1.pt").read_bytes(), b"last.pt", "torch")


def legacy_sample() -> Sample:
    data = torch_bytes(value(), _use_new_zipfile_serialization=False)
    pickles = [0]
    for _ in range(5):
        pickles.append(read_pickle(data, pickles[-1])[1])
    extents = read_legacy_layout(MemorySource(data)).extents
    tensors = places(extents)
    spans = tuple(itertools.pairwise(pickles))
    lengths = tuple((begin - 8, begin) for begin, _ in tensors)
    known = {"tensor bytes": tensors, "pickles": spans}
    strange = {"pickles": spans, "first pickle": (*spans, *tensors, *lengths)}
    return Sample(data, b"last.pt", "torch", (*spans, *tensors), open=known, strange=strange)


def safetensors_sample() -> Sample:
    tensors = {"a.weight": value()["a.weight"], "b": torch.arange(5).half(), "é": torch.arange(3.0)}
    data = safetensors.torch.save(tensors, {"format": "pt"})
    extents = places(read_safetensors_layout(MemorySource(data)).extents)
    header = 8 + int.from_bytes(data[:8], "little")
    names = tuple(found(data[:header], rb'"[^"]*":\{"dtype'))
    types = tuple(found(data[:header], rb'(?<="dtype":)"[^"]*"'))
    return Sample(
        data,
        b"model.safetensors",
        "safetensors",
        ((0, 8), (8, header), *extents),
        open={"tensor bytes": extents, "names": names},
        strange={"types": types},
    )


def npz_sample(save: Callable[..., None] = np.savez) -> Sample:
    file = io.BytesIO()
    save(file, **arrays())
    return zip_sample(file.getvalue(), b"a.npz", "npz")


def packed_npz_sample() -> Sample:
    return npz_sample(np.savez_compressed)


def gguf_sample() -> Sample:
    """Written by the ``gguf`` package; its tensors lie at offsets that its header tells."""
    data = (MADE / "small.gguf").read_bytes()
    extents = places(read_gguf_layout(MemorySource(data)).extents)
    header = data.index(b"tok_embd.weight") - 8
    first = min(begin for begin, _ in extents)
    names = tuple(found(data[:first], rb"tok_embd.weight|blk.0.attn_q.weight|norm"))
    # Behind a name of so many dimensions
    types = tuple((end + 4 + 8 * data[end], end + 8 + 8 * data[end]) for _, end in names)
    # Where a size or a type is another one, padding may take up the difference
    described = tuple((begin - 8, end) for (begin, _), (_, end) in zip(names, types, strict=True))
    return Sample(
        data,
        b"small.gguf",
        "gguf",
        ((0, 24), (24, header), (header, first), *extents),
        open={"tensor bytes": extents, "names, sizes and types": described, "keys and values": ((24, header),)},
        strange={"types": types, "version": ((4, 8),)},
    )


def made(name: str, loader: str, reason: str) -> Sample:
    """A file of ``made/``, without checksums: all that is in it may be otherwise, where the library takes it."""
    data = (MADE / name).read_bytes()
    source = MemorySource(data)
    container = identify(source, name.encode())
    assert container is not None
    extents = places(read_layout(source, container).extents)
    known = {"tensor bytes": extents, reason: ((0, len(data)),)}
    between = tuple((end, begin) for (_, end), (begin, _) in itertools.pairwise(((0, 0), *extents)) if end < begin)
    strange = {"kinds that are not known": ((0, len(data)),)}
    return Sample(data, name.encode(), loader, (*extents, *between), open=known, strange=strange)


def hdf5_sample() -> Sample:
    """Its attribute, and the heap that it lies in, are not looked at."""
    sample = made("small.h5", "hdf5", "names, types")
    at, heap = sample.data.index(b"note\0") - 16, sample.data.index(b"GCOL")
    return replace(sample, open=sample.open | {"attributes": ((at, at + 80), (heap, heap + 4096))})


def new_hdf5_sample() -> Sample:
    return made("small-latest.h5", "hdf5", "names, types, attributes")


def onnx_sample() -> Sample:
    return made("model.onnx", "onnx", "names, graph")


def flax_sample() -> Sample:
    return made("small.msgpack", "flax", "names, numbers")


def joblib_sample() -> Sample:
    return made("small.joblib", "joblib", "pickles")


def pickle_sample() -> Sample:
    """Written here by Python and numpy."""
    values = {"epoch": 3, "weight": arrays()["a"], "labels": np.arange(150), "name": "run", "rate": 0.125}
    data = pickle.dumps(values, 4)
    extents = places(read_layout(MemorySource(data), "pickle").extents)
    known = {"tensor bytes": extents, "pickles": ((0, len(data)),)}
    strange = {"kinds that are not known": ((0, len(data)),)}
    return Sample(data, b"small.pkl", "pickle", extents, open=known, strange=strange)


def whole(path: bytes) -> Callable[[Prover, bytes], str]:
    """What mlsync says of a file of a kind that ends at level 1: whole is as good as proved there."""

    def judged(prover: Prover, data: bytes) -> str:
        verdict = prover.prove(MemorySource(data), path)
        return "proved" if status(verdict) == "unknown" and verdict.proof.level == 1 else status(verdict)

    return judged


def pt2_sample() -> Sample:
    return zip_sample((MADE / "model.pt2").read_bytes(), b"model.pt2", "pt2")


def keras_sample() -> Sample:
    sample = zip_sample((MADE / "model.keras").read_bytes(), b"model.keras", "keras")
    return replace(sample, status=whole(sample.path))


def package_sample() -> Sample:
    sample = zip_sample((MADE / "package.zip").read_bytes(), b"package.zip", "package")
    return replace(sample, status=whole(sample.path), strange={"kinds that are not known": ((0, len(sample.data)),)})


def tensorflow_shard_sample() -> Sample:
    folder = MADE / "tensorflow"
    data = (folder / "model.ckpt-7.data-00000-of-00001").read_bytes()
    index = (folder / "model.ckpt-7.index").read_bytes()
    extents = places(read_shard(MemorySource(data), parse_index(index), 0)[0].extents)
    return Sample(data, b"c.data-00000-of-00001", "tensorflow", extents, beside={"c.index": index}, metadata=index)


def tensorflow_index_sample() -> Sample:
    """The index is judged by itself, and by its shard, whose tensors it tells."""
    folder = MADE / "tensorflow"
    shard = (folder / "model.ckpt-7.data-00000-of-00001").read_bytes()
    data = (folder / "model.ckpt-7.index").read_bytes()
    name = "c.data-00000-of-00001"

    def judged(prover: Prover, index: bytes) -> str:
        own = status(prover.prove(MemorySource(index), b"c.index"))
        return own if own == "broken" else status(prover.prove(MemorySource(shard), name.encode(), index))

    return Sample(data, b"c.index", "tensorflow", ((0, len(data) - 48),), beside={name: shard}, status=judged)


def ocdbt_sample(which: str) -> Sample:
    """A file of an OCDBT store: its manifest, or a node of its tree."""
    folder = MADE / "orbax" / "default"
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    files = {
        name: data
        for name, data in files.items()
        if name == "manifest.ocdbt" or "ocdbt.process" in name or name[:2] == "d/"
    }
    name = next(name for name, data in sorted(files.items()) if name.startswith(which) and is_ocdbt(data))
    data = files.pop(name)
    strange = (
        {"kinds that are not known": ((0, 14), (0, len(data)))} if which != "manifest" else {"versions": ((12, 14),)}
    )
    return Sample(
        data,
        name.encode(),
        "ocdbt",
        strange=strange,
        records=((0, 14), (14, len(data) - 4), (len(data) - 4, len(data))),
        beside=files,
        status=whole(name.encode()),
    )


def found(data: bytes, pattern: bytes) -> Iterator[Place]:
    """Where the pattern is."""
    return (match.span() for match in re.finditer(pattern, data))


def places(extents: Iterable[Extent]) -> tuple[Place, ...]:
    return tuple((extent.offset, extent.offset + extent.length) for extent in extents if extent.length)


SAMPLES: dict[str, Callable[[], Sample]] = {
    "torch zip": torch_sample,
    "torch zip of 2.1": old_torch_sample,
    "torch before 1.6": legacy_sample,
    "safetensors": safetensors_sample,
    "npz": npz_sample,
    "compressed npz": packed_npz_sample,
    "GGUF": gguf_sample,
    "HDF5": hdf5_sample,
    "HDF5, newest form": new_hdf5_sample,
    "ONNX": onnx_sample,
    "flax msgpack": flax_sample,
    "pickle": pickle_sample,
    "joblib": joblib_sample,
    "`.pt2`": pt2_sample,
    "`.keras`": keras_sample,
    "`torch.package`": package_sample,
    "TensorFlow, index": tensorflow_index_sample,
    "TensorFlow, shard": tensorflow_shard_sample,
    "OCDBT, manifest": lambda: ocdbt_sample("manifest"),
    "OCDBT, node": lambda: ocdbt_sample("d/"),
}


# ---------------------------------------------------------------- the damage


def flips(sample: Sample, step: int = 1) -> Iterator[Change]:
    """Every single bit turned over, or every so manieth."""
    for number in range(0, 8 * len(sample.data), step):
        at, bit = divmod(number, 8)
        yield Change("flip", f"bit {bit} of byte {at}", ((at, at + 1),), flipped(sample.data, at, bit))


def truncations(sample: Sample, step: int = 1) -> Iterator[Change]:
    """The file cut at every length, or at each edge and every so manieth."""
    size = len(sample.data)
    edges = {edge for place in sample.records for edge in place} | set(sample.edges)
    near = {edge + step for edge in edges for step in (-1, 0, 1)}
    for length in sorted((near | set(range(0, size, step))) & set(range(size))):
        yield Change("truncation", f"to {length} bytes", ((length, size),), sample.data[:length])


def swaps(sample: Sample) -> Iterator[Change]:
    """Every two records that do not overlap, in each other's place."""
    for (begin, end), (second, last) in itertools.combinations(sorted(sample.records), 2):
        if end <= second:
            data = sample.data
            moved = data[:begin] + data[second:last] + data[end:second] + data[begin:end] + data[last:]
            if moved != data:
                what = f"{begin}-{end} with {second}-{last}"
                yield Change("swap", what, ((begin, end), (second, last)), moved)


def changes(sample: Sample, step: int = 1) -> Iterator[Change]:
    """All damage, or each of its kinds in steps."""
    return itertools.chain(flips(sample, step), truncations(sample, step), swaps(sample))


# ---------------------------------------------------------------- the two sides


class Loader:
    """The program that loads files with the real libraries; it is started anew whenever a file killed it."""

    def __init__(self, python: str = sys.executable) -> None:
        self._python = python
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def answer(self, loader: str, data: bytes) -> str:
        """A digest of all that the library made of the file, ``refused`` with its reason, or ``crashed``."""
        if self._process is None:
            self._process = subprocess.Popen(
                [self._python, PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(LENGTHS.pack(len(loader), len(data)) + loader.encode() + data)
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            self._end()
            return f"{CRASHED} with status {process.returncode}"
        return line.decode().strip()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.communicate()


class Outcome(NamedTuple):
    """What both sides said of one damaged file; *case* is what that comes to."""

    change: Change
    status: str
    answer: str
    case: str


def is_sound(answer: str) -> bool:
    """Whether the library loaded the file."""
    return not answer.startswith(("refused", CRASHED))


def compare(sample: Sample, damage: Iterable[Change], loader: Loader, prover: Prover) -> Iterator[Outcome]:
    """Judge each damaged file; the library is asked about those that mlsync does not refuse."""
    sound = loader.answer(sample.loader, sample.given(sample.data))
    assert is_sound(sound), sound
    for change in damage:
        status = sample.judged(prover, change.data)
        if status == "broken":
            yield Outcome(change, status, "", "caught")
            continue
        answer = loader.answer(sample.loader, sample.given(change.data))
        yield Outcome(change, status, answer, _harm(sample, change, status, answer, sound))


def _harm(sample: Sample, change: Change, status: str, answer: str, sound: str) -> str:
    return "harmless" if answer == sound else _case(sample, change, status, answer)


def _case(sample: Sample, change: Change, status: str, answer: str) -> str:
    """Of damage that mlsync passed and that has a consequence: why that is so, or ``wrong``."""
    reasons = sample.open if status == "proved" else sample.strange
    for reason, known in reasons.items():
        is_there = all(any(begin <= at and end <= until for begin, until in known) for at, end in change.touched)
        # A letter of a class's name may make it one that torch does not know; of all else that is proved it takes any
        if is_there and (is_sound(answer) or status != "proved" or reason in ("pickles", "attributes")):
            return reason if status == "proved" else f"not proved: {reason}"
    return "wrong"


def tally(name: str, options: argparse.Namespace) -> Counter[tuple[str, str]]:
    """How many cases of each kind there were of one sample; the wrong ones are printed."""
    sample = SAMPLES[name]()
    if options.trusted:
        sample = replace(sample, loader=sample.loader.replace("torch", "trusted-torch"))
    table: Counter[tuple[str, str]] = Counter()
    with Loader(options.python) as loader, Prover(ProofOptions(device="none")) as prover:
        for change, status, answer, case in compare(sample, changes(sample, options.step), loader, prover):
            table[change.kind, case] += 1
            if case == "wrong":
                print(f"  {name}: {change.kind} {change.what}: {status}: {answer[:150]}")  # noqa: T201 - a script that prints
    return table


def main() -> None:
    """Try all of it and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("samples", nargs="*", choices=[[], *SAMPLES], default=[])
    parser.add_argument("--python", default=sys.executable, help="a Python with the libraries to load with")
    parser.add_argument("--trusted", action="store_true", help="load torch's files with weights_only=False")
    parser.add_argument("--step", type=int, default=1, help="try every so manieth flip and length")
    options = parser.parse_args()
    print("| file | damage | tried | caught | harmless | as listed | wrong |\n|---|---|---|---|---|---|---|")  # noqa: T201
    for name in options.samples or SAMPLES:
        table = tally(name, options)
        for kind in ("flip", "truncation", "swap"):
            row = {case: count for (of, case), count in sorted(table.items()) if of == kind}
            listed = [f"{count} {case}" for case, count in row.items() if case not in ("caught", "harmless", "wrong")]
            cells = [name, kind, sum(row.values()), row.get("caught", 0), row.get("harmless", 0)]
            cells += ["; ".join(listed) or 0, row.get("wrong", 0)]
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
