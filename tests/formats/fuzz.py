"""Throws changed files at the parsers: ``python tests/formats/fuzz.py [--seconds N] [--seed N] [TARGET ...]``.

Run by hand, for minutes or hours. An input that makes anything but ``ContainerBroken`` escape, that breaks a promise of
the answer, or that takes longer than ``SECONDS_MAX`` is written to ``corpus/`` under its target's name; from then on
``test_corpus.py`` replays it with all others. ``--atheris TARGET`` lets atheris choose the changes, if it is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import pickle
import random
import resource
import sys
import time
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import safetensors.torch
import torch
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from checkpoint_files import MemorySource, parts_of, rezipped, torch_bytes, with_pickle
from gguf_file import gguf_bytes, gguf_tensors
from mlsync.formats.containers import read_content, read_layout
from mlsync.formats.dcp.metadata import check_against_files, read_dcp_metadata
from mlsync.formats.dcp.shard import read_dcp_shard
from mlsync.formats.groups.find import find_units
from mlsync.formats.layout import ContainerBroken, Content, Layout
from mlsync.formats.libraries.onnx import read_external
from mlsync.formats.logs.json_logs import read_json_lines, read_state
from mlsync.formats.logs.mlflow_files import read_mlflow
from mlsync.formats.logs.tables import read_table
from mlsync.formats.logs.tensorboard import read_events
from mlsync.formats.section import BytesSource
from mlsync.formats.sniff import identify
from mlsync.proof.spans import ExtentChecksums

CORPUS = Path(__file__).with_name("corpus")
SECONDS_MAX = 5.0
MEMORY_BYTES_MAX = 6 << 30  # of address space, torch's own among it
BYTES_MAX = 64 << 10


class Target(NamedTuple):
    """What is fuzzed: sound inputs to begin with, and what must hold for any input."""

    seeds: Callable[[], list[bytes]]
    check: Callable[[bytes], None]


MADE = Path(__file__).with_name("made")


def pickle_files() -> list[bytes]:
    """Bare pickles, of pickle itself and of joblib."""
    return [path.read_bytes() for pattern in ("*.pkl", "*.joblib") for path in sorted(MADE.glob(pattern))]


# ---------------------------------------------------------------- what must hold


def check_answer(source: MemorySource, layout: Layout, content: Content | None) -> None:
    """Extents are disjoint and inside of the file; storages too, and every tensor lies on one, or on a packed one."""
    reached = 0
    for extent in layout.extents:
        assert reached <= extent.offset
        reached = extent.offset + extent.length
    assert reached <= source.size_bytes
    if content is None:
        return
    lengths = {storage.name: storage.length for storage in content.storages}
    for storage in content.storages:
        assert 0 <= storage.offset <= storage.offset + storage.length <= source.size_bytes
    for tensor in content.tensors:
        assert tensor.storage in lengths or content.packed_count or content.aside_count
        assert all(size >= 0 for size in tensor.shape)
    with contextlib.suppress(UnicodeEncodeError):
        str(content.facts).encode()


def container(name: str) -> Callable[[bytes], None]:
    """A check of files that are known to be of a container."""

    def check(data: bytes) -> None:
        source = MemorySource(data)
        with contextlib.suppress(ContainerBroken):
            layout = read_layout(source, name)
            checksums = ExtentChecksums(layout)
            checksums.feed(0, memoryview(data))
            check_answer(source, layout, read_content(source, layout))

    return check


def check_pickle(data: bytes) -> None:
    """A pickle in a zip whose checksums are right."""
    container("torch-zip")(with_pickle(data, bytes(24), bytes(4)))


def check_onnx(data: bytes) -> None:
    """A graph by itself, and for where its tensors lie."""
    container("onnx")(data)
    with contextlib.suppress(ContainerBroken):
        read_external(data)


def program_table() -> bytes:
    """The table of weights of an exported program."""
    parts = parts_of(made("shared.pt2")[0])
    return next(part for name, part in parts.items() if name.endswith("weights_config.json"))


def check_table(data: bytes) -> None:
    """A table of weights in an exported program whose checksums are right."""
    parts = parts_of(made("shared.pt2")[0])
    container("pt2")(
        rezipped({name: data if name.endswith("weights_config.json") else part for name, part in parts.items()})
    )


def check_shard(data: bytes) -> None:
    """A shard beside sound metadata."""
    source = MemorySource(data)
    with contextlib.suppress(ContainerBroken):
        check_answer(source, *read_dcp_shard(source, read_dcp_metadata(shard_files()[1]), "s"))


def check_metadata(data: bytes) -> None:
    """Metadata beside a sound shard, and beside nothing."""
    container("dcp-metadata")(data)
    source = MemorySource(shard_files()[0])
    with contextlib.suppress(ContainerBroken):
        metadata = read_dcp_metadata(data)
        with contextlib.suppress(ContainerBroken):
            check_against_files(metadata, {"s": source.size_bytes})
        check_answer(source, *read_dcp_shard(source, metadata, "s"))


def check_name(data: bytes) -> None:
    """Any bytes under each kind of name."""
    source = MemorySource(data)
    for path in (b"a", b"a.pt", b"a.npz", b"a.safetensors", b".metadata", b"a.gguf"):
        name = identify(source, path)
        if name is not None:
            container(name)(data)


def check_small_files(data: bytes) -> None:
    """The same bytes as every small file of a tree that has one checkpoint of each kind."""
    files = dict.fromkeys(
        [
            b"d/.metadata", b"d/__0_0.distcp", b"h/model.safetensors.index.json", b"h/model-00001-of-00002.safetensors",
            b"checkpoint-7/trainer_state.json", b"checkpoint-7/model.safetensors", b"s/latest",
            b"s/global_step4/mp_rank_00_model_states.pt", b"m/latest_checkpointed_iteration.txt",
            b"m/iter_0000004/metadata.json", b"m/iter_0000004/.metadata", b"m/iter_0000004/__0_0.distcp",
            b"p/adapter_config.json", b"p/adapter_model.safetensors", b"a/random_states_0.pkl", b"a/model.safetensors",
            b"n/context/io.json", b"n/weights/.metadata", b"t/x.index", b"u/.metadata", b"u/__3.metadata",
        ],
        len(data),
    )  # fmt: skip
    units = find_units(files, lambda _path, _limit: data)
    assert {unit.kind for unit in units} >= {
        "dcp",
        "huggingface-weights",
        "huggingface-trainer",
        "deepspeed",
        "megatron",
        "peft",
        "accelerate",
        "nemo",
    }


# ---------------------------------------------------------------- sound inputs


def torch_values() -> list[object]:
    base = torch.arange(6.0).reshape(2, 3)
    plain = {"a": base, "n": {"b": torch.ones(2).half()}, "epoch": 3, "best_fitness": np.float64(0.5)}
    odd = [
        base[:, 1],
        torch.zeros(0, 3),
        torch.eye(3).to_sparse(),
        torch.nn.Linear(2, 1),
        torch.ones(2).to(torch.float8_e5m2),
    ]
    return [plain, odd]


@dataclass
class _Info:
    """What torch puts the place of an item into."""

    relative_path: str
    offset: int
    length: int


@cache
def shard_files() -> tuple[bytes, bytes]:
    """A shard of two chunks and an object, and its metadata."""
    half = torch_bytes(torch.ones(2, 3))
    parts = [torch_bytes(7), half, half]
    chunks = [ChunkStorageMetadata(torch.Size([at, 0]), torch.Size([2, 3])) for at in (0, 2)]
    about = TensorStorageMetadata(TensorProperties(), torch.Size([4, 3]), chunks)
    keys = [MetadataIndex("step"), *(MetadataIndex("w", chunk.offsets) for chunk in chunks)]
    offsets = [0, len(parts[0]), len(parts[0]) + len(half)]
    stored = {key: _Info("s", at, len(part)) for key, at, part in zip(keys, offsets, parts, strict=True)}
    metadata = Metadata({"step": BytesStorageMetadata(), "w": about}, storage_data=stored)
    return b"".join(parts), pickle.dumps(metadata)


def npz_files() -> list[bytes]:
    """An npz, plain and compressed."""
    files = []
    for save in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        save(file, a=np.ones((2, 3)), b=np.arange(4))
        files.append(file.getvalue())
    return files


def legacy_files() -> list[bytes]:
    """Files of before 1.6."""
    return [torch_bytes(value, _use_new_zipfile_serialization=False) for value in torch_values()]


def zip_files() -> list[bytes]:
    """Torch zips, plain and compressed."""
    plain = [torch_bytes(value) for value in torch_values()]
    return [*plain, rezipped(parts_of(plain[0]), zipfile.ZIP_DEFLATED)]


def check_logs(data: bytes) -> None:
    """The same bytes as each kind of log: there is a log with numbers, or none."""
    found = [
        read_table(data),
        read_json_lines(data),
        read_state(data),
        read_mlflow([("x", data)]),
        read_events([BytesSource(data)]),
        read_events([BytesSource(data)], len(data) // 2 + 1),
    ]
    for log in found:
        assert log is None or (log.names and all(row.values.keys() <= {*log.names} for row in log.rows))


def made(*names: str) -> list[bytes]:
    """Files of ``made/``, which other libraries wrote."""
    return [(Path(__file__).with_name("made") / name).read_bytes() for name in names]


def small_files() -> list[bytes]:
    """What a tree's small files may hold."""
    index = b'{"metadata": {"total_size": 5}, "weight_map": {"w": "model-00001-of-00002.safetensors"}}'
    return [index, b'{"global_step": 7}', b"global_step4", b"4", shard_files()[1]]


TARGETS = {
    "torch-zip": Target(zip_files, container("torch-zip")),
    "torch-legacy": Target(legacy_files, container("torch-legacy")),
    "safetensors": Target(
        lambda: [safetensors.torch.save({"a": torch.ones(2, 3), "b": torch.zeros(4).half()}, {"k": "v"})],
        container("safetensors"),
    ),
    "npz": Target(npz_files, container("npz")),
    "gguf": Target(
        lambda: [gguf_bytes({"general.name": "n", "tokens": ["a", "b"], "nested": [[1]]}, gguf_tensors()[1:])],
        container("gguf"),
    ),
    "hdf5": Target(
        lambda: made("kinds.h5", "latest.h5", "newer.h5", "filters.h5", "small.weights.h5"), container("hdf5")
    ),
    "onnx": Target(lambda: made("model.onnx", "kinds.onnx", "outside.onnx"), check_onnx),
    "pt2": Target(lambda: made("model.pt2", "shared.pt2"), container("pt2")),
    "packed-pickle": Target(lambda: made("zlib.joblib", "xz.joblib", "lz4.joblib"), container("packed-pickle")),
    "xgboost-json": Target(lambda: made("boosting/plain.json", "boosting/dart.json"), container("xgboost-json")),
    "xgboost-ubj": Target(lambda: made("boosting/plain.ubj", "boosting/linear.ubj"), container("xgboost-ubj")),
    "lightgbm": Target(lambda: made("boosting/plain.txt", "boosting/linear.txt"), container("lightgbm")),
    "nemo": Target(lambda: made("groups/small.nemo"), container("nemo")),
    "zip": Target(lambda: made("model.keras", "a2c.zip", "package.zip"), container("zip")),
    "pt2-table": Target(lambda: [program_table()], check_table),
    "pickle": Target(lambda: [parts_of(data)["archive/data.pkl"] for data in zip_files()[:2]], check_pickle),
    "bare-pickle": Target(pickle_files, container("pickle")),
    "dcp-shard": Target(lambda: [shard_files()[0]], check_shard),
    "dcp-metadata": Target(lambda: [shard_files()[1]], check_metadata),
    "name": Target(lambda: [*zip_files(), *legacy_files()[:1], *npz_files(), shard_files()[1]], check_name),
    "small-files": Target(small_files, check_small_files),
    "training-logs": Target(
        lambda: made(
            "logs/ultralytics.csv",
            "logs/lightning.csv",
            "logs/lightning.tfevents",
            "huggingface-trainer/checkpoint-3/trainer_state.json",
        ),
        check_logs,
    ),
}


# ---------------------------------------------------------------- changes

_NUMBERS = [0, 1, 2, 7, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, 1 << 63]
_WORDS = [
    b"PK\x01\x02",
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"PK\x06\x06",
    b"PK\x06\x07",
    b"\x80\x02",
    b"}",
    b")",
    b"R",
    b"Q",
    b"(",
    b".",
]


def changed(data: bytes, seeds: list[bytes], chance: random.Random) -> bytes:
    """The bytes with a few changes of the kinds that have found something in other parsers."""
    result = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 3, 8))):
        at = chance.randrange(len(result) + 1)
        length = min(chance.choice((1, 2, 4, 8, 30, 300)), len(result) - at)
        match chance.randrange(8):
            case 0 if length:
                result[at] ^= 1 << chance.randrange(8)
            case 1:
                width = chance.choice((1, 2, 4, 8))
                number = chance.choice(_NUMBERS) % (1 << 8 * width)
                result[at : at + width] = number.to_bytes(width, chance.choice(("little", "big")))
            case 2:
                del result[at : at + length]
            case 3:
                result[at:at] = result[at : at + length]
            case 4:
                other = chance.choice(seeds)
                begin = chance.randrange(len(other))
                result[at : at + length] = other[begin : begin + length]
            case 5:
                result[at:at] = chance.choice(_WORDS)
            case 6:
                result[at : at + length] = bytes(length)
            case _:
                result[at : at + length] = chance.randbytes(length)
    return bytes(result[:BYTES_MAX])


def fuzz(name: str, seconds: float, seed: int) -> tuple[int, int]:
    """Change inputs for some seconds; gives how many there were and how many found something."""
    target, chance = TARGETS[name], random.Random(seed)
    seeds = target.seeds() + [path.read_bytes() for path in CORPUS.glob(f"{name}.*")]
    for data in seeds:
        target.check(data)
    count = found = 0
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        data = changed(chance.choice(seeds), seeds, chance)
        began = time.monotonic()
        try:
            target.check(data)
            is_finding = time.monotonic() - began > SECONDS_MAX
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
            print(f"{name}: {type(error).__name__}: {error}")  # noqa: T201 - a script that prints
            is_finding = True
        if is_finding:
            keep(name, data)
            found += 1
        count += 1
    return count, found


def keep(name: str, data: bytes) -> None:
    """Write an input to the corpus."""
    path = CORPUS / f"{name}.{hashlib.sha256(data).hexdigest()[:12]}"
    path.write_bytes(data)
    print(f"{name}: {path}")  # noqa: T201 - a script that prints


def fuzz_by_atheris(name: str, seconds: float) -> None:
    """Let atheris choose the changes, led by the code that they reach; ends with the first finding."""
    import tempfile

    import atheris

    for module in [module for name, module in sys.modules.items() if name.startswith("mlsync.formats")]:
        for owner in [module, *(value for value in vars(module).values() if isinstance(value, type))]:
            for value in vars(owner).values():
                if isinstance(value, FunctionType) and value.__module__ == module.__name__:
                    atheris.instrument_func(value)
    folder = Path(tempfile.mkdtemp())
    for place, data in enumerate(TARGETS[name].seeds()):
        (folder / str(place)).write_bytes(data)

    def one(data: bytes) -> None:
        try:
            TARGETS[name].check(data)
        except Exception:
            keep(name, data)
            raise

    atheris.Setup([sys.argv[0], f"-max_total_time={int(seconds)}", f"-max_len={BYTES_MAX}", str(folder)], one)
    atheris.Fuzz()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("targets", nargs="*", choices=[[], *TARGETS], default=[])
    parser.add_argument("--seconds", type=float, default=60, help="for each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--atheris", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of torch, where the seeds are made
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    for name in options.targets or TARGETS:
        if options.atheris:
            fuzz_by_atheris(name, options.seconds)
            continue
        count, found = fuzz(name, options.seconds, options.seed)
        print(f"{name}: {count} inputs, {found} findings")  # noqa: T201 - a script that prints


if __name__ == "__main__":
    main()
